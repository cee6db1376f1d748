//! `[deployment.NAME]`: several deployments in one file. Each has the keys of connections, over those at the top.

use toml::Spanned;
use toml::de::DeValue;

use super::reader::{Reader, entries, is_plain, shown_key};
use super::{File, FileError, KEYS, set};

/// One of several deployments.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Deployment {
    /// What stands behind `deployment.`
    pub name: String,
    /// The keys of its own table. They win over the environment, which can't say for which deployment it is.
    pub own: Vec<&'static str>,
}

impl Reader<'_> {
    /// The deployments, each with the keys that it takes from the top of the file.
    pub(super) fn deployments(
        &self,
        top: &File,
        value: &Spanned<DeValue<'_>>,
    ) -> Result<Vec<(Deployment, File)>, FileError> {
        let example = "[deployment.shop]";
        let mut deployments = Vec::new();
        for (key, value) in entries(self.table("deployment", value, example)?) {
            let name = key.get_ref().as_ref();
            let shown = format!("deployment.{}", shown_key(name));
            if !is_plain(name) {
                let expected = "a name of letters, digits, - and _, at most 64";
                return Err(self.wrong(key.span(), shown, expected));
            }
            let mut file = top.clone();
            let mut own = Vec::new();
            for (key, value) in entries(self.table(&shown, value, example)?) {
                let key_name = self.known(key, &KEYS)?;
                set(&mut file, key_name, value).map_err(|expected| {
                    self.wrong(key.span(), format!("{shown}.{key_name}"), expected)
                })?;
                own.push(key_name);
            }
            if file.broker.is_none() {
                let expected = "a broker, here or at the top: broker = \"redis://host:6379/0\"";
                return Err(self.wrong(key.span(), shown, expected));
            }
            let name = name.to_owned();
            let deployment = Deployment { name, own };
            file.chosen = Some(deployment.clone());
            deployments.push((deployment, file));
        }
        Ok(deployments)
    }
}

impl Deployment {
    /// Whether its own table says what this variable of the environment says for all.
    pub(crate) fn overrides(&self, variable: &str) -> bool {
        self.own.iter().any(|key| match *key {
            "broker" => variable == "CELERY_BROKER_URL",
            "result-backend" => variable == "CELERY_RESULT_BACKEND",
            key => {
                let name = key.to_ascii_uppercase().replace('-', "_");
                variable.strip_prefix("CELERY_DOCTOR_") == Some(&name)
            }
        })
    }
}

#[cfg(test)]
mod tests {
    use std::path::Path;
    use std::time::Duration;

    use super::super::parse;
    use super::*;

    fn parsed(text: &str) -> Result<File, String> {
        parse(text, Path::new("f.toml")).map_err(|error| error.to_string())
    }

    #[test]
    fn a_deployment_has_its_own_keys_over_those_at_the_top() {
        let file = parsed(
            "broker = 'redis://top'\ntimeout = '5s'\n\
             [deployment.us]\ntimeout = '9s'\n\
             [deployment.eu]\nbroker = 'redis://eu'\n",
        )
        .expect("valid");
        let [(us, of_us), (eu, of_eu)] = file.deployments.as_slice() else {
            panic!("not two: {file:?}")
        };
        // In the order of the file.
        assert_eq!((us.name.as_str(), eu.name.as_str()), ("us", "eu"));
        assert_eq!(of_us.broker, file.broker);
        assert_eq!(of_us.timeout, Some(Duration::from_secs(9)));
        assert_eq!(of_eu.broker, Some("redis://eu".into()));
        assert_eq!(of_eu.timeout, Some(Duration::from_secs(5)));
        assert_eq!(of_eu.chosen.as_ref(), Some(eu));
        assert!(eu.overrides("CELERY_BROKER_URL") && !eu.overrides("CELERY_DOCTOR_TIMEOUT"));
        assert!(us.overrides("CELERY_DOCTOR_TIMEOUT") && !us.overrides("CELERY_BROKER_URL"));
    }

    #[test]
    fn an_error_names_the_deployment() {
        for (text, expected) in [
            (
                "[deployment.eu]\nbroker = 1",
                "f.toml:2: deployment.eu.broker: expected a text in quotes",
            ),
            (
                "[deployment.eu]\nqueues = []",
                "f.toml:2: unknown key queues. Did you mean queue?",
            ),
            (
                "[deployment.eu]\ntimeout = '1s'",
                "f.toml:1: deployment.eu: expected a broker, here or at the top",
            ),
            (
                "[deployment.'redis://:QZ@h']\nbroker = ''",
                "f.toml:1: deployment.***: expected a name of letters",
            ),
            (
                "deployment = 'eu'",
                "f.toml:1: deployment: expected a table, as in [deployment.shop]",
            ),
            (
                "[[deployment]]\nbroker = ''",
                "deployment: expected a table, as in [deployment.shop]",
            ),
            (
                "[deployment.eu]\nfail-on = 'info'",
                "f.toml:2: unknown key fail-on. Known keys: broker",
            ),
        ] {
            let error = parsed(text).expect_err(text);
            assert!(error.contains(expected), "{text}: {error}");
            assert!(!error.contains("QZ"), "{error}");
        }
    }
}
