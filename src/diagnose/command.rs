//! The commands that a report shows: built here and nowhere else, so that each goes to the server that was read, is one
//! line, and takes no name apart.
//!
//! A command that a report shows must end with 0 where it shows what the finding says. Whoever adds one runs it.

use std::fmt;

use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, utf8_percent_encode};
use serde::Serialize;

use super::plain;
use crate::evidence::{Evidence, RabbitMq, RedisAddress, RedisEndpoint};

/// Names in a path of the management API keep only these as they are.
const IN_PATH: &AsciiSet = &NON_ALPHANUMERIC
    .remove(b'-')
    .remove(b'_')
    .remove(b'.')
    .remove(b'~');

/// One line for a shell.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub(crate) struct Command(String);

impl Command {
    /// A command of fixed words, such as `redis-cli PING`. Names never stand in them.
    pub(crate) fn of(words: &str) -> Self {
        Self(words.to_owned())
    }

    /// More fixed words.
    pub(crate) fn words(mut self, words: &str) -> Self {
        self.0.push(' ');
        self.0.push_str(words);
        self
    }

    /// A name, which is one word whatever stands in it.
    pub(crate) fn name(self, name: &str) -> Self {
        self.words(&plain::key(name))
    }

    /// Only for this worker: `-d NODE`.
    pub(crate) fn on(self, node: &str) -> Self {
        self.words("-d").name(node)
    }

    /// Only the lines with this fixed text. Ends with 0 where there are none: that there are none may be what it shows.
    pub(crate) fn only(self, text: &str) -> Self {
        self.words(&format!("| sed -n /{text}/p"))
    }
}

impl fmt::Display for Command {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl From<Command> for String {
    fn from(command: Command) -> Self {
        command.0
    }
}

/// Any number of commands: what [`super::Finding::confirm`] takes.
pub(crate) struct Commands(Vec<Command>);

impl IntoIterator for Commands {
    type Item = Command;
    type IntoIter = std::vec::IntoIter<Command>;

    fn into_iter(self) -> Self::IntoIter {
        self.0.into_iter()
    }
}

impl From<Command> for Commands {
    fn from(command: Command) -> Self {
        Self(vec![command])
    }
}

impl From<Option<Command>> for Commands {
    fn from(command: Option<Command>) -> Self {
        Self(command.into_iter().collect())
    }
}

impl From<Vec<Command>> for Commands {
    fn from(commands: Vec<Command>) -> Self {
        Self(commands)
    }
}

/// `celery inspect`, of fixed words. A shorter time limit than the default keeps it from restoring messages: kombu sweeps
/// on the way, with the client's own settings.
pub(in crate::diagnose) fn inspect(question: &str) -> Command {
    Command::of("celery -A APP inspect --timeout 3").words(question)
}

/// `celery control`, of fixed words.
pub(in crate::diagnose) fn control(order: &str) -> Command {
    Command::of("celery -A APP control").words(order)
}

/// A worker that consumes this queue; none where its name can't be given so: commas separate names there.
pub(crate) fn worker(queue: &str) -> Option<Command> {
    let fits = !queue.is_empty() && !queue.contains(',');
    fits.then(|| Command::of("celery -A APP worker -Q").name(queue))
}

impl Evidence {
    /// As [`inspect`]; none where no worker answers, because it would only say that.
    pub(in crate::diagnose) fn inspect(&self, question: &str) -> Option<Command> {
        let somebody = !self.answered().is_empty();
        somebody.then(|| inspect(question))
    }

    /// What the workers know of a task.
    pub(in crate::diagnose) fn query_task(&self, id: &str) -> Option<Command> {
        Some(self.inspect("query_task")?.name(id))
    }

    /// `redis-cli` in the broker's database, with the first words of what is asked.
    pub(in crate::diagnose) fn redis_cli(&self, words: &str) -> Command {
        redis_cli(self.broker.endpoint.as_ref(), Some(self.broker.database)).words(words)
    }

    /// As [`Evidence::redis_cli`], in another database of the broker's server.
    pub(in crate::diagnose) fn redis_cli_in(&self, database: u32, words: &str) -> Command {
        redis_cli(self.broker.endpoint.as_ref(), Some(database)).words(words)
    }

    /// As [`Evidence::redis_cli`], in the database with the results.
    pub(in crate::diagnose) fn results_cli(&self, words: &str) -> Command {
        let endpoint = self.result_backend.endpoint.as_ref();
        redis_cli(endpoint, endpoint.map(|server| server.database)).words(words)
    }

    /// As [`Evidence::results_cli`], about a key, under the prefix that the results have.
    pub(in crate::diagnose) fn results_cli_of(&self, words: &str, key: &str) -> Command {
        let prefix = &self.result_backend.key_prefix;
        self.results_cli(words).name(&format!("{prefix}{key}"))
    }

    /// The members of a binding table.
    pub(in crate::diagnose) fn binding_members(&self, prefix: &str, exchange: &str) -> Command {
        self.redis_cli("SMEMBERS")
            .name(&format!("{prefix}_kombu.binding.{exchange}"))
    }

    /// Who waits for messages.
    pub(in crate::diagnose) fn who_waits(&self) -> Vec<Command> {
        match &self.rabbitmq {
            None => vec![self.redis_cli("CLIENT LIST").only("cmd=brpop")],
            Some(rabbit) => rabbit.list_consumers(),
        }
    }
}

fn redis_cli(endpoint: Option<&RedisEndpoint>, database: Option<u32>) -> Command {
    let command = Command::of("redis-cli");
    let command = match endpoint.map(|server| &server.address) {
        Some(RedisAddress::Tcp { host, port }) => {
            command.words("-h").name(host).words(&format!("-p {port}"))
        }
        Some(RedisAddress::Socket(path)) => command.words("-s").name(path),
        // It was not noted in this evidence.
        None => command.words("-h HOST -p PORT"),
    };
    let command = endpoint.into_iter().fold(command, logging_in);
    command.words(&match database {
        Some(database) => format!("-n {database}"),
        None => "-n DATABASE".to_owned(),
    })
}

fn logging_in(command: Command, server: &RedisEndpoint) -> Command {
    let mut command = command;
    if let Some(tls) = &server.tls {
        command = command.words("--tls");
        if !tls.checked {
            command = command.words("--insecure");
        }
        let files = [
            ("--cacert", &tls.ca),
            ("--cert", &tls.cert),
            ("--key", &tls.key),
        ];
        for (option, file) in files {
            if let Some(file) = file {
                command = command.words(option).name(file);
            }
        }
    }
    match &server.username {
        Some(user) => command.words("--user").name(user),
        None => command,
    }
}

impl RabbitMq {
    /// `rabbitmqctl` for this virtual host, of fixed words.
    pub(in crate::diagnose) fn ctl(&self, words: &str) -> Command {
        Command::of("rabbitmqctl -p").name(&self.vhost).words(words)
    }

    /// The management API, for those without a shell on the node; none where it was not reached.
    fn api(&self, path: &[&str], columns: &str) -> Option<Command> {
        let _reached = self.overview.seen()?;
        let base = self.management_url.as_deref()?;
        let encoded: Vec<String> = path.iter().map(|name| segment(name)).collect();
        let columns = if columns.is_empty() {
            String::new()
        } else {
            format!("?columns={columns}")
        };
        let url = format!("{base}/api/{}{columns}", encoded.join("/"));
        Some(Command::of("curl -gsS --fail -u \"$RABBITMQ_LOGIN\"").name(&url))
    }

    fn both(&self, ctl: Command, path: &[&str], columns: &str) -> Vec<Command> {
        let api = self.api(path, columns);
        std::iter::once(ctl).chain(api).collect()
    }

    /// The virtual host's queues, what is in them and who consumes them.
    pub(in crate::diagnose) fn list_queues(&self) -> Vec<Command> {
        self.both(
            self.ctl("list_queues name messages_ready messages_unacknowledged consumers"),
            &["queues", &self.vhost],
            "name,messages_ready,messages_unacknowledged,consumers",
        )
    }

    /// How its queues are declared. `rabbitmqctl` of RabbitMQ 3.10 refuses `effective_policy_definition`.
    pub(in crate::diagnose) fn list_declarations(&self) -> Vec<Command> {
        self.both(
            self.ctl("list_queues name type durable arguments policy"),
            &["queues", &self.vhost],
            "name,type,durable,arguments,effective_policy_definition",
        )
    }

    /// Its bindings.
    pub(in crate::diagnose) fn list_bindings(&self) -> Vec<Command> {
        self.both(
            self.ctl("list_bindings source_name routing_key destination_name"),
            &["bindings", &self.vhost],
            "source,routing_key,destination",
        )
    }

    /// Its consumers.
    pub(in crate::diagnose) fn list_consumers(&self) -> Vec<Command> {
        self.both(
            self.ctl("list_consumers"),
            &["consumers", &self.vhost],
            "queue.name,consumer_tag,channel_details.connection_name",
        )
    }

    /// Channels and whether they publish with confirms. `rabbitmqctl` lists those of all virtual hosts.
    pub(in crate::diagnose) fn list_channels(&self) -> Vec<Command> {
        self.both(
            Command::of("rabbitmqctl list_channels connection vhost confirm consumer_count messages_unacknowledged"),
            &["vhosts", &self.vhost, "channels"],
            "connection_details.name,confirm,consumer_count,messages_unacknowledged",
        )
    }

    /// Connections and their states.
    pub(in crate::diagnose) fn list_connections(&self) -> Vec<Command> {
        self.both(
            Command::of("rabbitmqctl list_connections name vhost state"),
            &["vhosts", &self.vhost, "connections"],
            "name,state",
        )
    }

    /// Connections and whose they are.
    pub(in crate::diagnose) fn list_peers(&self) -> Vec<Command> {
        self.both(
            Command::of(
                "rabbitmqctl list_connections name vhost user peer_host peer_port client_properties",
            ),
            &["vhosts", &self.vhost, "connections"],
            "name,user,peer_host,peer_port,client_properties",
        )
    }

    /// Alarms in effect.
    pub(in crate::diagnose) fn list_alarms(&self) -> Vec<Command> {
        self.both(
            Command::of("rabbitmq-diagnostics alarms"),
            &["nodes"],
            "name,mem_alarm,disk_free_alarm",
        )
    }
}

/// Percent-encodes a name for a path. A path of dots alone is a way upwards to whoever normalises it.
fn segment(name: &str) -> String {
    if name.bytes().all(|byte| byte == b'.') {
        return name.replace('.', "%2E");
    }
    utf8_percent_encode(name, IN_PATH).to_string()
}

/// What stands for something in these commands, or has to be there before they are run. A report says it once.
pub(crate) fn legend<'c>(
    evidence: &Evidence,
    commands: impl IntoIterator<Item = &'c str>,
) -> Vec<&'static str> {
    let commands: Vec<&str> = commands.into_iter().collect();
    let any = |part: &str| commands.iter().any(|command| command.contains(part));
    let endpoints = [&evidence.broker.endpoint, &evidence.result_backend.endpoint];
    let password = endpoints
        .into_iter()
        .flatten()
        .any(|server| server.password);
    let lines = [
        (
            any(" -A APP "),
            "APP stands for your Celery application, as in celery -A.",
        ),
        (
            any("-h HOST -p PORT"),
            "HOST and PORT stand for the Redis server: this evidence does not name it.",
        ),
        (
            any("redis-cli ") && password,
            "redis-cli takes the password from the environment variable REDISCLI_AUTH.",
        ),
        (
            any("rabbitmqctl ") || any("rabbitmq-diagnostics "),
            "rabbitmqctl and rabbitmq-diagnostics run on a node of the broker, as root or as its user.",
        ),
        (
            any("$RABBITMQ_LOGIN"),
            "RABBITMQ_LOGIN holds USER:PASSWORD of a user who may read the management API.",
        ),
    ];
    let said = lines.into_iter().filter(|(applies, _)| *applies);
    said.map(|(_, line)| line).collect()
}

#[cfg(test)]
mod tests {
    use std::process::Command as Process;

    use proptest::prelude::*;

    use super::*;
    use crate::diagnose::judge;
    use crate::diagnose::testkit::{Lab, Rabbit, endpoint};

    /// The words of a command, as bash takes them apart.
    fn words(command: &str) -> Vec<String> {
        let script = format!("for word in {command}; do printf '%s\\0' \"$word\"; done");
        let done = Process::new("bash").args(["-c", &script]).output();
        let done = done.expect("bash is there");
        assert!(done.status.success() && done.stderr.is_empty(), "{command}");
        let text = String::from_utf8(done.stdout).expect("UTF-8");
        text.split_terminator('\0').map(str::to_owned).collect()
    }

    #[test]
    fn commands_go_to_the_server_that_was_read() {
        let mut lab = Lab::new();
        assert_eq!(
            lab.evidence.redis_cli("PING").to_string(),
            "redis-cli -h localhost -p 6379 -n 0 PING"
        );
        assert_eq!(
            lab.evidence.results_cli("PING").to_string(),
            "redis-cli -h localhost -p 6379 -n 1 PING"
        );
        let mut server = endpoint(3);
        server.address = RedisAddress::Socket("/run/my redis.sock".to_owned());
        server.username = Some("doctor".to_owned());
        lab.evidence.broker.endpoint = Some(server);
        assert_eq!(
            lab.evidence.redis_cli("PING").to_string(),
            "redis-cli -s '/run/my redis.sock' --user doctor -n 0 PING"
        );
        // A snapshot from before it was noted.
        lab.evidence.broker.endpoint = None;
        assert_eq!(
            lab.evidence.redis_cli("PING").to_string(),
            "redis-cli -h HOST -p PORT -n 0 PING"
        );
    }

    #[test]
    fn rabbitmq_is_asked_for_its_virtual_host_in_both_ways() {
        let lab = Rabbit::new().lab();
        let rabbit = lab.evidence.rabbitmq.as_ref().expect("it is RabbitMQ");
        let said: Vec<String> = (rabbit.list_consumers().iter().map(Command::to_string)).collect();
        assert_eq!(said[0], "rabbitmqctl -p / list_consumers");
        assert!(
            said[1].contains("'http://localhost:15672/api/consumers/%2F?columns="),
            "{}",
            said[1]
        );
    }

    #[test]
    fn no_worker_is_asked_where_none_answers() {
        assert!(Lab::new().evidence.inspect("ping").is_none());
        let lab = Lab::new().worker("w1", &["celery"]);
        assert_eq!(
            lab.evidence.query_task("a b").map(String::from).as_deref(),
            Some("celery -A APP inspect --timeout 3 query_task 'a b'")
        );
        assert!(worker("a,b").is_none());
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(64))]

        #[test]
        fn any_name_is_one_word(name in "[^\0]{1,40}") {
            let command = Command::of("redis-cli LLEN").name(&name).to_string();
            prop_assert!(!command.contains(['\n', '\r', '\x1b']));
            prop_assert_eq!(words(&command), ["redis-cli", "LLEN", name.as_str()]);
        }

        #[test]
        fn names_in_every_command_are_one_word(evil in "[a-z '\"`$;|&()<>\\\\\n\t*?~#!\u{6}\u{16}é]{1,12}") {
            let (id, queue) = (format!("id{evil}id"), format!("queue{evil}queue"));
            let lab = Lab::new()
                .worker("w1", &["celery"])
                .queued(&id, &queue)
                .queued("other", "celery")
                .unacked("held", 9_000.0);
            let ids = [id.clone(), "held".to_owned()];
            let diagnosis = judge(&lab.evidence, &ids);
            let findings = diagnosis.traces.iter().flat_map(|trace| &trace.findings);
            let mut seen = 0;
            for finding in findings.chain(&diagnosis.findings) {
                for command in finding.confirm.iter().chain(&finding.remedy_commands) {
                    prop_assert!(!command.contains('\n'));
                    if command.contains(" | ") {
                        continue;
                    }
                    for word in words(command) {
                        if word.contains("queue") && word.ends_with("queue") {
                            prop_assert_eq!(&word, &queue);
                            seen += 1;
                        }
                    }
                }
            }
            prop_assert!(seen > 0);
        }
    }
}
