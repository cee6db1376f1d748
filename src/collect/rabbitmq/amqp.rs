//! The AMQP connection: opening it, asking for queues by name, leaving it in good order.

use std::collections::BTreeMap;
use std::fmt::Display;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use lapin::options::QueueDeclareOptions;
use lapin::types::parsing::parse_field_table;
use lapin::types::{AMQPValue, FieldTable, ShortString};
use lapin::uri::{AMQPAuthority, AMQPQueryString, AMQPScheme, AMQPUri, AMQPUserInfo};
use lapin::{AsyncTcpStream, Channel, Connection, ConnectionProperties, ErrorKind};
use tokio::task::{JoinError, JoinSet};
use tokio::time::timeout;

use super::super::SERVER_TIMEOUT;
use super::super::cleanup::Cleanup;
use super::super::connect;
use super::wire::{Valve, Wire, runtime};
use crate::config::url::amqp::AmqpServer;
use crate::evidence::{Observed, Reason, Why};

/// Seconds between heartbeats, at most; a server may ask for less.
const HEARTBEAT: u16 = 30;

/// Channels that ask for queues side by side. A question that fails closes its channel, so each has one at a time.
const SIDE_BY_SIDE: usize = 8;

/// Reply codes of AMQP 0-9-1.
const ACCESS_REFUSED: u16 = 403;
const NOT_FOUND: u16 = 404;
const RESOURCE_LOCKED: u16 = 405;
const NOT_ALLOWED: u16 = 530;

/// How long the server may take to answer a good-bye.
const GOOD_BYE: Duration = Duration::from_secs(1);

/// A connection to the broker.
pub(crate) struct AmqpClient {
    link: Arc<Link>,
    server: AmqpServer,
    /// What the server calls itself: `RabbitMQ`, `LavinMQ`.
    pub(crate) product: Observed<String>,
    /// Its version.
    pub(crate) version: Observed<String>,
}

/// What must be closed at the end.
pub(crate) struct Link {
    connection: Connection,
    pub(super) valve: Arc<Valve>,
    address: String,
}

/// What a passive declaration tells of a queue.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Depth {
    /// There is no such queue.
    Missing,
    /// It is there, and another connection has it for itself.
    Locked,
    /// The server does not say, and why: the user may not ask, or the queue's node is down. Other queues have nothing
    /// to do with that.
    Untold(Why),
    /// It is there.
    There {
        /// Messages that wait.
        ready: u64,
        /// Consumers.
        consumers: u64,
    },
}

impl AmqpClient {
    /// Connects to the first server that lets us in. The connection is closed by `cleanup`.
    ///
    /// # Errors
    /// What the last one said.
    pub(crate) async fn connect(servers: &[AmqpServer], cleanup: &Cleanup) -> Result<Self, Why> {
        let mut last = Why::new(Reason::Unreachable, "the URL names no server");
        for server in servers {
            match Self::to(server, cleanup).await {
                Ok(client) => return Ok(client),
                Err(why) => last = why,
            }
        }
        Err(last)
    }

    /// A second connection to the same server, for what might block or break the first.
    pub(super) async fn another(&self, cleanup: &Cleanup) -> Result<Self, Why> {
        Self::to(&self.server, cleanup).await
    }

    async fn to(server: &AmqpServer, cleanup: &Cleanup) -> Result<Self, Why> {
        let address = format!("{}:{}", server.host, server.port);
        let silent = || {
            let seconds = SERVER_TIMEOUT.as_secs();
            let text = format!("{address} did not answer within {seconds} s");
            Why::new(Reason::TimedOut, text)
        };
        let stream = connect::tcp(&server.host, server.port, server.tls.as_ref());
        let stream = timeout(SERVER_TIMEOUT, stream)
            .await
            .map_err(|_| silent())??;
        let (wire, valve) = Wire::new(stream);
        let connected = timeout(SERVER_TIMEOUT, log_in(server, wire)).await;
        let connection = match connected {
            Ok(Ok(connection)) => connection,
            Ok(Err(error)) => {
                valve.cut();
                return Err(not_let_in(server, &address, &error));
            }
            Err(_) => {
                valve.cut();
                return Err(silent());
            }
        };
        let (product, version) = introduction(&valve.greeting());
        let link = Arc::new(Link {
            connection,
            valve,
            address,
        });
        cleanup.hold(&link);
        Ok(Self {
            link,
            server: server.clone(),
            product,
            version,
        })
    }

    /// The server's address.
    pub(crate) fn address(&self) -> &str {
        &self.link.address
    }

    /// The virtual host of the server that let us in.
    pub(super) fn vhost(&self) -> &str {
        &self.server.vhost
    }

    /// The server blocks this connection, because it published under a memory or disk alarm.
    pub(super) fn blocked(&self) -> bool {
        self.link.connection.status().blocked()
    }

    pub(super) fn valve(&self) -> &Valve {
        &self.link.valve
    }

    /// Opens a channel.
    pub(super) async fn channel(&self) -> Result<Channel, Why> {
        self.ask("a new channel", self.link.connection.create_channel())
            .await
    }

    /// Waits for an answer, and says in words why there is none.
    pub(super) async fn ask<T>(
        &self,
        what: &str,
        question: impl Future<Output = lapin::Result<T>>,
    ) -> Result<T, Why> {
        let answer = self.wait(what, question).await?;
        answer.map_err(|error| self.why(what, &error))
    }

    /// As [`AmqpClient::ask`], and leaves the server's refusals to the caller.
    pub(super) async fn wait<T>(
        &self,
        what: &str,
        question: impl Future<Output = lapin::Result<T>>,
    ) -> Result<lapin::Result<T>, Why> {
        let answer = timeout(SERVER_TIMEOUT, question).await;
        answer.map_err(|_| {
            let (address, seconds) = (self.address(), SERVER_TIMEOUT.as_secs());
            Why::new(
                Reason::TimedOut,
                format!("{address} did not answer within {seconds} s when asked for {what}"),
            )
        })
    }

    pub(super) fn why(&self, what: &str, error: &lapin::Error) -> Why {
        why(self.address(), what, error)
    }

    /// Whether the server still answers on this connection, whatever it does not answer.
    pub(super) async fn still_answers(&self) -> bool {
        match self.channel().await {
            Ok(channel) => {
                self.leave(channel).await;
                true
            }
            Err(_) => false,
        }
    }

    /// How many messages wait in a queue, and how many consume it, by a passive declaration. It needs no permission.
    /// It starts the clock of `x-expires` anew.
    pub(crate) async fn depth(&self, queue: &str) -> Result<Depth, Why> {
        let Ok(name) = ShortString::try_new(queue) else {
            // No queue can have a name of more than 255 bytes.
            return Ok(Depth::Missing);
        };
        let channel = self.channel().await?;
        let (depth, _) = self.depth_over(channel, name).await?;
        Ok(depth)
    }

    /// As [`AmqpClient::depth`], for many queues at once.
    ///
    /// # Errors
    /// Where the connection is lost. What concerns one queue is [`Depth::Untold`].
    pub(crate) async fn depths(
        self: &Arc<Self>,
        queues: impl IntoIterator<Item = String>,
    ) -> Result<BTreeMap<String, Depth>, Why> {
        let queues = Arc::new(Mutex::new(queues.into_iter().collect::<Vec<_>>()));
        let mut tasks = JoinSet::new();
        for _ in 0..SIDE_BY_SIDE {
            let (client, queues) = (Arc::clone(self), Arc::clone(&queues));
            tasks.spawn(async move { client.some_depths(&queues).await });
        }
        let mut depths = BTreeMap::new();
        while let Some(done) = tasks.join_next().await {
            depths.extend(not_panicked(done)??);
        }
        Ok(depths)
    }

    /// Takes one queue after the other off the list.
    async fn some_depths(&self, queues: &Mutex<Vec<String>>) -> Result<Vec<(String, Depth)>, Why> {
        let mut depths = Vec::new();
        let mut open = None;
        let next = || queues.lock().unwrap_or_else(PoisonError::into_inner).pop();
        while let Some(queue) = next() {
            let Ok(name) = ShortString::try_new(queue.as_str()) else {
                depths.push((queue, Depth::Missing));
                continue;
            };
            let channel = match open.take() {
                Some(channel) => channel,
                None => self.channel().await?,
            };
            let depth;
            (depth, open) = self.depth_over(channel, name).await?;
            depths.push((queue, depth));
        }
        if let Some(channel) = open {
            self.leave(channel).await;
        }
        Ok(depths)
    }

    /// Gives the channel back where it is still open.
    async fn depth_over(
        &self,
        channel: Channel,
        queue: ShortString,
    ) -> Result<(Depth, Option<Channel>), Why> {
        let options = QueueDeclareOptions {
            passive: true,
            ..QueueDeclareOptions::default()
        };
        let what = format!("queue {queue}");
        let declared = channel.queue_declare(queue, options, FieldTable::default());
        match self.wait(&what, declared).await? {
            Ok(found) => {
                let depth = Depth::There {
                    ready: found.message_count().into(),
                    consumers: found.consumer_count().into(),
                };
                Ok((depth, Some(channel)))
            }
            Err(error) => match reply_code(&error) {
                Some((RESOURCE_LOCKED, _)) => Ok((Depth::Locked, None)),
                Some((NOT_FOUND, text)) if text.contains("no queue") => Ok((Depth::Missing, None)),
                // It closed the channel alone. A durable queue whose node is down, or that has crashed, is "not found"
                // too, in other words (RabbitMQ 3.10 rabbit_amqqueue.erl, `absent/2`).
                Some(_) if error.is_amqp_soft_error() => {
                    Ok((Depth::Untold(self.why(&what, &error)), None))
                }
                _ => Err(self.why(&what, &error)),
            },
        }
    }

    /// Closes a channel; what it held goes back. A channel that is closed already needs nothing.
    pub(super) async fn leave(&self, channel: Channel) {
        if channel.status().connected() {
            let _ = timeout(SERVER_TIMEOUT, channel.close(200, "done".into())).await;
        }
    }
}

impl Link {
    /// Says good-bye to the server, or hangs up where it does not listen: it then takes back what we held, and drops
    /// our reply queue with the connection.
    pub(crate) async fn close(&self) {
        let status = self.connection.status();
        if status.connected() && !status.blocked() {
            self.valve.open();
            let _ = timeout(GOOD_BYE, self.connection.close(200, "done".into())).await;
        }
        self.valve.cut();
    }
}

async fn log_in(server: &AmqpServer, wire: Wire) -> lapin::Result<Connection> {
    let uri = AMQPUri {
        scheme: AMQPScheme::AMQP,
        authority: AMQPAuthority {
            userinfo: AMQPUserInfo {
                username: server.username.clone(),
                password: server.password.expose().to_owned(),
            },
            host: server.host.clone(),
            port: server.port,
        },
        vhost: server.vhost.clone(),
        query: AMQPQueryString {
            heartbeat: Some(HEARTBEAT),
            ..AMQPQueryString::default()
        },
    };
    let properties = ConnectionProperties::default()
        .with_connection_name("celery-doctor".into())
        .with_client_property("product".into(), "celery-doctor".into())
        .with_client_property("version".into(), env!("CARGO_PKG_VERSION").into());
    // The client asks for its stream once; it must not connect again by itself.
    let wire = Mutex::new(Some(wire));
    let hand_over = async move |_, _| {
        let wire = wire.lock().unwrap_or_else(PoisonError::into_inner).take();
        let gone = || std::io::Error::from(std::io::ErrorKind::ConnectionAborted);
        Ok(AsyncTcpStream::Plain(wire.ok_or_else(gone)?))
    };
    Connection::connector(uri, runtime(), hand_over, properties).await
}

/// Product and version, by the frame with which a server starts: `connection.start`.
fn introduction(greeting: &[u8]) -> (Observed<String>, Observed<String>) {
    // Type, channel and size of the frame, class and method, and the protocol's version come first.
    let properties = greeting
        .get(13..)
        .and_then(|table| parse_field_table(table).ok())
        .map(|(_, table)| table);
    let say = |key: &str| {
        let value = properties.as_ref().and_then(|table| table.inner().get(key));
        match value {
            Some(AMQPValue::LongString(text)) => {
                Observed::Seen(String::from_utf8_lossy(text.as_bytes()).into_owned())
            }
            _ => Observed::Unseen(Why::new(
                Reason::Unsupported,
                format!("the server does not tell its {key}"),
            )),
        }
    };
    (say("product"), say("version"))
}

/// The server's reply code and text, where it closed a channel or the connection.
fn reply_code(error: &lapin::Error) -> Option<(u16, &str)> {
    match error.kind() {
        ErrorKind::ProtocolError(error) => Some((error.get_id(), error.get_message().as_str())),
        _ => None,
    }
}

/// The server has no such thing.
pub(super) fn is_missing(error: &lapin::Error) -> bool {
    matches!(reply_code(error), Some((NOT_FOUND, _)))
}

/// What a task of ours brought. Where it panicked nothing is known, and that is this program's fault.
fn not_panicked<T>(done: Result<T, JoinError>) -> Result<T, Why> {
    let fault = "the question how deep the queues are ended in a fault of this program";
    done.map_err(|_| Why::new(Reason::Unsupported, fault))
}

fn not_let_in(server: &AmqpServer, address: &str, error: &lapin::Error) -> Why {
    let vhost = &server.vhost;
    let hint = match server.tls {
        None => "; a port for TLS wants amqps:// in the URL",
        Some(_) => "",
    };
    match reply_code(error) {
        Some((ACCESS_REFUSED, _)) => Why::new(
            Reason::Refused,
            format!(
                "{address} refused the login of user {}: the user, the password, or where it comes from is not allowed",
                server.username
            ),
        ),
        Some((NOT_ALLOWED | NOT_FOUND, text)) if text.contains("not found") => Why::new(
            Reason::Unreachable,
            format!(
                "{address} has no virtual host {vhost:?}; the part of the URL after the port names it"
            ),
        ),
        Some((NOT_ALLOWED, text)) if text.contains("refused") => Why::new(
            Reason::Refused,
            format!(
                "{address} refused user {} access to virtual host {vhost:?}",
                server.username
            ),
        ),
        _ => match error.kind() {
            ErrorKind::ParsingError(_) | ErrorKind::InvalidProtocolVersion(_) => Why::new(
                Reason::Unsupported,
                format!("{address} does not speak AMQP 0-9-1{hint}"),
            ),
            ErrorKind::IOError(_) | ErrorKind::InvalidConnectionState(_) => Why::new(
                Reason::Unreachable,
                format!("{address} hung up during the login: its log tells why{hint}"),
            ),
            _ => why(address, "a connection", error),
        },
    }
}

/// Why a question had no answer. The server's own words hold names, never secrets.
fn why(address: &str, what: &str, error: &lapin::Error) -> Why {
    match (reply_code(error), error.kind()) {
        (Some((ACCESS_REFUSED, text)), _) => {
            Why::new(Reason::Refused, format!("{address} refused {what}: {text}"))
        }
        (Some((_, text)), _) => Why::new(
            Reason::Unreachable,
            format!("{address} failed on {what}: {text}"),
        ),
        (None, ErrorKind::ParsingError(_)) => Why::new(
            Reason::Malformed,
            format!("{address} answered something else than AMQP 0-9-1 when asked for {what}"),
        ),
        (None, ErrorKind::MissingHeartbeatError) => Why::new(
            Reason::TimedOut,
            format!("{address} fell silent when asked for {what}"),
        ),
        (None, ErrorKind::IOError(error)) => {
            Why::new(Reason::Unreachable, lost(address, what, error))
        }
        (None, kind) => {
            let text = lapin::Error::from(kind.clone()).to_string();
            Why::new(Reason::Unreachable, lost(address, what, &text))
        }
    }
}

fn lost(address: &str, what: &str, error: &dyn Display) -> String {
    format!("the connection to {address} was lost when asked for {what}: {error}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_server_says_of_itself() {
        let mut frame = vec![1, 0, 0, 0, 0, 0, 99, 0, 10, 0, 10, 0, 9];
        let entry = |key: &str, value: &str| {
            let mut entry = vec![u8::try_from(key.len()).expect("short")];
            entry.extend(key.as_bytes());
            entry.push(b'S');
            entry.extend(u32::try_from(value.len()).expect("short").to_be_bytes());
            entry.extend(value.as_bytes());
            entry
        };
        let table = [entry("product", "RabbitMQ"), entry("version", "3.10.8")].concat();
        frame.extend(u32::try_from(table.len()).expect("short").to_be_bytes());
        frame.extend(&table);
        frame.extend(b"\0\0\0\x05PLAIN");
        let (product, version) = introduction(&frame);
        assert_eq!(product, Observed::Seen("RabbitMQ".to_owned()));
        assert_eq!(version, Observed::Seen("3.10.8".to_owned()));
        for end in 0..frame.len() - 10 {
            assert!(introduction(&frame[..end]).0.seen().is_none(), "{end}");
        }
    }

    #[tokio::test]
    async fn a_question_that_panicked_is_no_answer() {
        let done = tokio::spawn(async { assert!(std::hint::black_box(false), "on purpose") });
        let why = not_panicked(done.await).expect_err("it panicked");
        assert_eq!(why.reason, Reason::Unsupported);
        assert_eq!(not_panicked(tokio::spawn(async { 7 }).await), Ok(7));
    }
}
