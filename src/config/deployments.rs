//! Several deployments in one settings file: which of them are read, and by which settings.

use super::file::{self, File, shown_key};
use super::flags::ConnectionArgs;
use super::settings::{Settings, SettingsError, resolve};

/// The settings of one of several deployments.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Deployment {
    /// Its name in the settings file; none where it has none.
    pub name: Option<String>,
    pub settings: Settings,
}

/// The settings of every deployment: the one that was chosen, or all of the file in its order. Where there are none in
/// it, and where a flag names the broker, it is one without a name.
pub(crate) fn resolve_all(
    flags: &ConnectionArgs,
    env: &dyn Fn(&str) -> Option<String>,
    file: Option<File>,
) -> Result<Vec<Deployment>, SettingsError> {
    let named = file.as_ref().map_or(&[][..], |file| &file.deployments);
    let files: Vec<Option<File>> = if named.is_empty() || flags.broker.is_some() {
        vec![file]
    } else {
        named.iter().map(|(_, file)| Some(file.clone())).collect()
    };
    files
        .into_iter()
        .map(|file| {
            let chosen = file.as_ref().and_then(|file| file.chosen.as_ref());
            Ok(Deployment {
                name: chosen.map(|deployment| deployment.name.clone()),
                settings: resolve(flags, env, file)?,
            })
        })
        .collect()
}

/// The file with the keys of one of its deployments.
pub(super) fn chosen(file: Option<File>, wanted: &str) -> Result<File, SettingsError> {
    let wanted = wanted.trim();
    let file = file.ok_or_else(|| SettingsError::NoFile(shown_key(wanted)))?;
    let path = file.path.clone();
    let names = names(&file);
    let mut deployments = file.deployments.into_iter();
    match deployments.find(|(deployment, _)| deployment.name == wanted) {
        Some((_, file)) => Ok(file),
        None => Err(SettingsError::UnknownDeployment {
            path,
            wanted: shown_key(wanted),
            hint: if names.is_empty() {
                ": it has no [deployment.NAME]".to_owned()
            } else {
                format!(". It has {names}")
            },
        }),
    }
}

fn names(file: &File) -> String {
    let names = file.deployments.iter().map(|(one, _)| one.name.as_str());
    names.collect::<Vec<_>>().join(", ")
}

/// The environment, without what the table of a deployment says in its place.
pub(super) fn environment<'e>(
    env: &'e dyn Fn(&str) -> Option<String>,
    chosen: Option<&'e file::Deployment>,
) -> impl Fn(&str) -> Option<String> + use<'e> {
    move |name| {
        let overridden = chosen.is_some_and(|deployment| deployment.overrides(name));
        if overridden { None } else { env(name) }
    }
}

/// That no broker is given, and what can be done about it.
pub(super) fn no_broker(file: &File) -> SettingsError {
    if file.deployments.is_empty() {
        return SettingsError::NoBroker;
    }
    SettingsError::NoDeployment {
        path: file.path.clone(),
        names: names(file).replace(", ", ", or --deployment "),
    }
}

#[cfg(test)]
mod tests {
    use std::path::Path;
    use std::time::Duration;

    use super::super::settings::find_file;
    use super::super::settings::tests::{host, no_env};
    use super::*;

    const TWO: &str = "timeout = '9s'\n[deployment.us]\nbroker = 'redis://us'\n\
                       [deployment.eu]\nbroker = 'redis://eu'\ntimeout = '1s'\n";

    /// The deployments in a file on disk, by what the flags say.
    fn all_of(text: &str, flags: &ConnectionArgs) -> Result<Vec<Deployment>, String> {
        let dir = tempfile::tempdir().expect("a temporary directory");
        std::fs::write(dir.path().join(file::FILE_NAME), text).expect("writable");
        let env = |name: &str| match name {
            "CELERY_BROKER_URL" => Some("redis://env".to_owned()),
            "CELERY_DOCTOR_TIMEOUT" => Some("3s".to_owned()),
            _ => None,
        };
        find_file(flags, &env, dir.path())
            .and_then(|file| resolve_all(flags, &env, file))
            .map_err(|error| error.to_string())
    }

    #[test]
    fn each_deployment_has_its_own_settings() {
        let read = |text, flags: &ConnectionArgs| -> Vec<(Option<String>, String, u64)> {
            let all = all_of(text, flags).expect("valid");
            let settings = all.into_iter();
            settings
                .map(|one| {
                    let seconds = one.settings.timeout.as_secs();
                    (one.name, host(&one.settings).0, seconds)
                })
                .collect()
        };
        let is = |name: Option<&str>, host: &str, timeout| {
            (name.map(str::to_owned), host.to_owned(), timeout)
        };
        let flags = ConnectionArgs::default();
        // Its own table wins over the environment, and that over the top of the file.
        assert_eq!(
            read(TWO, &flags),
            [is(Some("us"), "us", 3), is(Some("eu"), "eu", 1)]
        );
        let eu = ConnectionArgs {
            deployment: Some("eu".to_owned()),
            ..ConnectionArgs::default()
        };
        assert_eq!(read(TWO, &eu), [is(Some("eu"), "eu", 1)]);
        let broker = ConnectionArgs {
            broker: Some("redis://flag".into()),
            timeout: Some(Duration::from_secs(4)),
            ..ConnectionArgs::default()
        };
        assert_eq!(read(TWO, &broker), [is(None, "flag", 4)]);
        assert_eq!(read("", &flags), [is(None, "env", 3)]);
    }

    #[test]
    fn a_deployment_that_is_not_there_is_an_error() {
        let wanted = |name: &str| ConnectionArgs {
            deployment: Some(name.to_owned()),
            ..ConnectionArgs::default()
        };
        let error = all_of(TWO, &wanted("asia")).expect_err("not there");
        assert_eq!(
            error,
            "no deployment asia in celery-doctor.toml. It has us, eu"
        );
        let error = all_of("", &wanted("redis://:hunter2@h")).expect_err("not there");
        assert!(error.contains("it has no [deployment.NAME]"), "{error}");
        assert!(!error.contains("hunter2"), "{error}");
        let dir = tempfile::tempdir().expect("a temporary directory");
        let error = find_file(&wanted("eu"), &no_env, dir.path()).expect_err("no file");
        assert!(error.to_string().contains("--config FILE"), "{error}");
    }

    #[test]
    fn one_of_several_deployments_must_be_chosen() {
        let file = file::parse(TWO, Path::new(file::FILE_NAME)).ok();
        let error = resolve(&ConnectionArgs::default(), &no_env, file).expect_err("which?");
        assert!(
            error
                .to_string()
                .ends_with("Choose one: --deployment us, or --deployment eu"),
            "{error}"
        );
    }
}
