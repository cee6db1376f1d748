//! Ordinary commands, one connection, with every failure told apart.

use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use redis::aio::MultiplexedConnection;
use redis::{
    AsyncConnectionConfig, Cmd, ErrorKind, FromRedisValue, Pipeline, RedisConnectionInfo,
    RedisError, ServerErrorKind, Value, cmd,
};
use tokio::io::AsyncReadExt as _;
use tokio::task::JoinHandle;
use tokio::time::timeout;

use super::list::refused;
use crate::collect::SERVER_TIMEOUT;
use crate::collect::connect::{self, Stream};
use crate::config::url::{RedisServer, Secret};
use crate::evidence::{Reason, Why};

/// What a login consists of.
const LOGIN: [&str; 2] = ["AUTH", "SELECT"];

/// So long a server may take to say why it turns a client away.
const TURNED_AWAY: Duration = Duration::from_millis(500);

/// A connection for ordinary commands. It is closed when dropped.
pub(crate) struct Client {
    connection: MultiplexedConnection,
    driver: JoinHandle<()>,
    patience: Duration,
    server: Option<RedisServer>,
    /// Whether anything was ever answered on it.
    answered: AtomicBool,
}

impl Drop for Client {
    fn drop(&mut self) {
        self.driver.abort();
    }
}

impl Client {
    /// Connects to a database of a server and logs in.
    pub(crate) async fn connect(server: &RedisServer, database: u32) -> Result<Self, Why> {
        Self::connect_within(server, database, SERVER_TIMEOUT).await
    }

    /// As [`Client::connect`], and waits no longer than this for any answer.
    pub(crate) async fn connect_within(
        server: &RedisServer,
        database: u32,
        patience: Duration,
    ) -> Result<Self, Why> {
        let stream = connect::open(server, patience).await?;
        Self::over(stream, Some(server), database, patience).await
    }

    /// Logs in over a stream that is connected to this server already; with none there is nothing to log in with.
    pub(crate) async fn over(
        stream: Stream,
        server: Option<&RedisServer>,
        database: u32,
        patience: Duration,
    ) -> Result<Self, Why> {
        // redis-rs's own default of 500 ms takes a busy broker for a dead one.
        let config = AsyncConnectionConfig::new()
            .set_connection_timeout(Some(patience))
            .set_response_timeout(Some(patience));
        // Left to redis-rs, a login that fails does not say why, and CLIENT SETINFO is no read, and refused by strict
        // ACLs.
        let no_login = RedisConnectionInfo::default().set_skip_set_lib_name();
        let (connection, driver) =
            MultiplexedConnection::new_with_config(&no_login, stream, config)
                .await
                .map_err(|error| why(&error, LOGIN[0], patience))?;
        let client = Self {
            connection,
            driver: tokio::spawn(driver),
            patience,
            server: server.cloned(),
            answered: AtomicBool::new(false),
        };
        // A user without a password logs in with an empty one, as redis-py has it.
        if let Some(server) = server
            && (server.username.is_some() || server.password.is_some())
        {
            let password = server.password.as_ref().map_or("", Secret::expose);
            client.log_in(server.username.as_deref(), password).await?;
        }
        if database != 0 {
            let selected = client.ask(cmd("SELECT").arg(database)).await?;
            done(&selected)?;
        }
        Ok(client)
    }

    /// Before Redis 6 there were no users. There the password alone is sent, as redis-py does.
    async fn log_in(&self, username: Option<&str>, password: &str) -> Result<(), Why> {
        let mut auth = cmd("AUTH");
        if let Some(username) = username {
            auth.arg(username);
        }
        auth.arg(password);
        let mut connection = self.connection.clone();
        let answer = match auth.query_async(&mut connection).await {
            Err(error) if username.is_some() && knows_no_users(&error) => {
                self.ask(cmd("AUTH").arg(password)).await?
            }
            Err(error) => return Err(self.why(&error, LOGIN[0]).await),
            Ok(answer) => answer,
        };
        done(&answer)
    }

    /// Sends a command and decodes its reply.
    pub(crate) async fn ask<T: FromRedisValue>(&self, command: &Cmd) -> Result<T, Why> {
        let name = command_name(command);
        let mut connection = self.connection.clone();
        match command.query_async(&mut connection).await {
            Ok(answer) => {
                self.answered.store(true, Ordering::Relaxed);
                Ok(answer)
            }
            Err(error) => Err(self.why(&error, &name).await),
        }
    }

    /// What a failure means. A server that has no room for a client says so unasked and closes the connection, and
    /// whoever asks first may find it closed: then another one is opened, to hear what is said.
    async fn why(&self, error: &RedisError, command: &str) -> Why {
        let lost = error.is_io_error() || error.is_connection_dropped();
        if let Some(server) = &self.server
            && lost
            && !self.answered.load(Ordering::Relaxed)
        {
            // Boxed, because connecting by way of sentinels asks them by such a client.
            let heard = timeout(TURNED_AWAY, Box::pin(turned_away(server))).await;
            if let Ok(Some(why)) = heard {
                return why;
            }
        }
        why(error, command, self.patience)
    }

    /// Sends commands in one go; each has its own outcome.
    pub(crate) async fn ask_all(&self, commands: &[Cmd]) -> Result<Vec<Result<Value, Why>>, Why> {
        let Some(first) = commands.first() else {
            return Ok(Vec::new());
        };
        let mut pipeline = Pipeline::with_capacity(commands.len());
        pipeline.ignore_errors();
        for command in commands {
            pipeline.add_command(command.clone());
        }
        let mut connection = self.connection.clone();
        let answers: Vec<Value> = match pipeline.query_async(&mut connection).await {
            Ok(answers) => answers,
            Err(error) => return Err(self.why(&error, &command_name(first)).await),
        };
        self.answered.store(true, Ordering::Relaxed);
        let outcome = |(command, answer): (&Cmd, Value)| match answer {
            Value::ServerError(error) => {
                Err(why(&error.into(), &command_name(command), self.patience))
            }
            answer => Ok(answer),
        };
        Ok(commands.iter().zip(answers).map(outcome).collect())
    }
}

/// What a server says to whom it turns away.
async fn turned_away(server: &RedisServer) -> Option<Why> {
    let mut stream = connect::open(server, TURNED_AWAY).await.ok()?;
    let mut said = [0; 256];
    let length = stream.read(&mut said).await.ok()?;
    let line = std::str::from_utf8(said.get(..length)?).ok()?;
    Some(refused(line.strip_prefix('-')?, LOGIN[0]))
}

fn done(answer: &Value) -> Result<(), Why> {
    match answer {
        Value::Okay => Ok(()),
        _ => Err(no_redis()),
    }
}

fn no_redis() -> Why {
    Why::new(
        Reason::Unreachable,
        "what answers there is no Redis server".to_owned(),
    )
}

/// What is said of a command that the server does not know.
pub(super) fn no_such(command: &str) -> String {
    format!("the server has no command {command}: it was renamed or taken away")
}

fn knows_no_users(error: &RedisError) -> bool {
    says(error, "wrong number of arguments")
}

/// Whether these words are in what the server says. They are compared and go nowhere.
fn says(error: &RedisError, words: &str) -> bool {
    error.detail().is_some_and(|detail| detail.contains(words))
}

/// Decodes one reply of [`Client::ask_all`].
pub(crate) fn decode<T: FromRedisValue>(value: Value, command: &str) -> Result<T, Why> {
    redis::from_redis_value(value).map_err(|_| {
        Why::new(
            Reason::Malformed,
            format!("{command} answered something unexpected"),
        )
    })
}

fn command_name(command: &Cmd) -> String {
    match command.args_iter().next() {
        Some(redis::Arg::Simple(name)) => String::from_utf8_lossy(name).into_owned(),
        _ => "a command".to_owned(),
    }
}

/// What a failure means, without a word that the server could have put a secret into.
fn why(error: &RedisError, command: &str, patience: Duration) -> Why {
    let code = error.code().unwrap_or_default();
    let (reason, detail) = match (error.kind(), code) {
        (_, "NOPERM") => (
            Reason::Refused,
            format!("this user may not run {command} here"),
        ),
        // Nothing at all can be read then, as when nobody is there.
        (_, "NOAUTH") => (
            Reason::Unreachable,
            "the server asks for a password, and the URL has none".to_owned(),
        ),
        (_, "DENIED") => (
            Reason::Unreachable,
            "the server is in protected mode, and takes clients from its own host only".to_owned(),
        ),
        (_, "ERR") if says(error, "max number of clients") => (
            Reason::Unreachable,
            "the server has as many clients as it takes (maxclients)".to_owned(),
        ),
        (_, "ERR") if says(error, "without any password") || says(error, "no password is set") => (
            Reason::Refused,
            "the URL has a password, and the server asks for none".to_owned(),
        ),
        (_, "WRONGPASS") => (
            Reason::Refused,
            "the server refused the user or the password".to_owned(),
        ),
        (ErrorKind::Server(ServerErrorKind::BusyLoading), _) => (
            Reason::Unreachable,
            "the server is still loading its data".to_owned(),
        ),
        (ErrorKind::Server(ServerErrorKind::MasterDown), _) => (
            Reason::Unreachable,
            "the server is a replica that has lost its master".to_owned(),
        ),
        (ErrorKind::Server(ServerErrorKind::ReadOnly), _) => (
            Reason::TakesNoWrites,
            format!("the server is a read-only replica, and {command} writes"),
        ),
        (_, "OOM") => (
            Reason::TakesNoWrites,
            format!("the server is out of memory and refuses {command}"),
        ),
        (_, "MISCONF") => (
            Reason::TakesNoWrites,
            format!("the server can't save its data and refuses {command}"),
        ),
        (_, "WRONGTYPE") => (
            Reason::Malformed,
            format!("{command} met a key of another type"),
        ),
        (_, "MOVED" | "ASK" | "CROSSSLOT") => (
            Reason::Unsupported,
            "the server is part of a Redis Cluster, which kombu can't use".to_owned(),
        ),
        (_, "BUSY") => (
            Reason::TimedOut,
            "the server is busy with a script".to_owned(),
        ),
        _ if error.is_timeout() => (
            Reason::TimedOut,
            format!(
                "no answer to {command} within {} s",
                patience.as_secs_f64()
            ),
        ),
        _ if error.is_io_error() || error.is_connection_dropped() => (
            Reason::Unreachable,
            format!("the connection was lost at {command}"),
        ),
        (ErrorKind::Server(_), _) if command == "AUTH" => (
            Reason::Refused,
            "the server refused the user or the password".to_owned(),
        ),
        (ErrorKind::Server(_), _) if command == "SELECT" => (
            Reason::Refused,
            "the server refused to select the database: it has none of this number, or this user may not run SELECT"
                .to_owned(),
        ),
        // Managed services take commands away by renaming them.
        (_, "ERR") if says(error, "unknown command") => (Reason::Refused, no_such(command)),
        (ErrorKind::Server(_) | ErrorKind::Extension, _) => (
            Reason::Unsupported,
            format!("the server does not take {command} as it is sent"),
        ),
        // Nothing at all can be read then either.
        _ if LOGIN.contains(&command) => return no_redis(),
        _ => (
            Reason::Malformed,
            format!("{command} answered something unexpected"),
        ),
    };
    Why::new(reason, detail)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_answers_a_login_with_something_else_is_no_redis_server() {
        let error = RedisError::from((ErrorKind::UnexpectedReturnType, "not a reply"));
        assert_eq!(
            why(&error, LOGIN[0], SERVER_TIMEOUT).reason,
            Reason::Unreachable
        );
        assert_eq!(why(&error, "GET", SERVER_TIMEOUT).reason, Reason::Malformed);
    }

    #[test]
    fn a_command_that_was_taken_away_was_refused_and_one_that_is_too_new_was_not() {
        let said = |line: &[u8]| match redis::parse_redis_value(line) {
            Ok(Value::ServerError(error)) => error.into(),
            Ok(_) => panic!("no error"),
            Err(error) => error,
        };
        let gone = said(b"-ERR unknown command 'CONFIG', with args beginning with: 'GET' \r\n");
        let why_gone = why(&gone, "CONFIG", SERVER_TIMEOUT);
        assert_eq!(why_gone.reason, Reason::Refused);
        assert!(
            why_gone.detail.contains("no command CONFIG"),
            "{}",
            why_gone.detail
        );
        let new = said(b"-ERR syntax error\r\n");
        assert_eq!(
            why(&new, "SCAN", SERVER_TIMEOUT).reason,
            Reason::Unsupported
        );
    }
}
