//! RabbitMQ's management API, read and never written.
//!
//! What a user is shown depends on tags and permissions, and what is not shown looks like what is not there: an empty
//! list. So the tags are read first, and a list that a user sees only in part is unseen.

mod settling;

use std::collections::BTreeSet;
use std::fmt;
use std::time::Instant;

use hyper::StatusCode;
use serde::Deserializer as _;
use serde::de::{SeqAccess, Visitor};
use serde_json::Value;

use super::decode::{self, Decoded, ServerSays, malformed};
use super::http::{Answer, Http, segment};
use super::policies;
use crate::config::url::ManagementServer;
use crate::evidence::rabbitmq::{
    Alarm, AmqpBinding, Channel, Connection, Consumer, Exchange, Node, Queue, RabbitMq, Shovel,
};
use crate::evidence::{Observed, Reason, Why};

/// The most that `page_size` may be (RabbitMQ 3.10 and 4.0 alike).
const PAGE: usize = 500;

/// More entries of a kind are not kept.
const MAX_ENTRIES: usize = 100_000;

/// A list of more pages is read in one answer. For each page the server lists and sorts all there is: of 10,000 queues a
/// page took RabbitMQ 3.10 some 0.4 s, and all in one answer 3.6 s.
const MOST_PAGES: u64 = 8;

/// How often a list is read in pages before it is read in one: what comes or goes in between shifts the pages.
const TRIES: usize = 2;

/// The management API of one server, which took user and password.
pub(crate) struct ManagementReader {
    http: Http,
    tags: Vec<String>,
    server: Result<ServerSays, Why>,
}

impl ManagementReader {
    /// Connects, logs in, and asks what this user may see and what the server is. From `end` on nothing more is waited
    /// for.
    pub(crate) async fn connect(
        server: &ManagementServer,
        end: Option<Instant>,
    ) -> Result<Self, Why> {
        let http = Http::new(server, end)?;
        let answer = http.get("/api/whoami").await?;
        let tags = decode::tags(&whole(&http, &answer, None)?)?;
        let server = overview(&http, &tags).await;
        Ok(Self { http, tags, server })
    }

    /// The nodes of the cluster.
    pub(crate) async fn nodes(&self) -> Observed<Vec<Node>> {
        // Without `columns`: a node that is down has few, and their names differ between versions.
        self.list("/api/nodes", None, decode::node).await
    }

    /// Alarms in effect anywhere in the cluster.
    pub(crate) async fn alarms(&self) -> Observed<Vec<Alarm>> {
        observed(self.try_alarms().await)
    }

    async fn try_alarms(&self) -> Result<Vec<Alarm>, Why> {
        let answer = self.http.get("/api/health/checks/alarms").await?;
        if answer.status == StatusCode::SERVICE_UNAVAILABLE {
            // A proxy without a server behind it answers so too.
            return parsed(&self.http, &answer).and_then(|value| decode::alarms(&value));
        }
        whole(&self.http, &answer, None).map(|_| Vec::new())
    }

    /// The queues of a virtual host.
    pub(crate) async fn queues(&self, vhost: &str) -> Observed<Vec<Queue>> {
        observed(self.try_queues(vhost).await)
    }

    /// One queue of a virtual host, as it is now: its state and who leads it are looked up when they are asked for.
    ///
    /// # Errors
    /// Where there is no such queue, or no word of it.
    pub(super) async fn queue(&self, vhost: &str, name: &str) -> Result<Queue, Why> {
        let path = format!(
            "/api/queues/{}/{}?columns={}",
            segment(vhost),
            segment(name),
            decode::QUEUE_COLUMNS
        );
        let answer = self.http.get(&path).await?;
        decode::queue(&whole(&self.http, &answer, Some(vhost))?)
    }

    async fn try_queues(&self, vhost: &str) -> Result<Vec<Queue>, Why> {
        let path = format!("/api/queues/{}", segment(vhost));
        let read = self.paged(&path, decode::QUEUE_COLUMNS, vhost, decode::queue);
        let mut queues = read.await?;
        if queues.iter().any(|queue| queue.policy.seen().is_none()) {
            let of_users = self.policies("policies", vhost).await;
            let of_operators = self.policies("operator-policies", vhost).await;
            // A user who may not see them is told nothing more.
            if let (Ok(of_users), Ok(of_operators)) = (of_users, of_operators) {
                policies::complete(&mut queues, &of_users, &of_operators);
            }
        }
        Ok(queues)
    }

    async fn policies(&self, kind: &str, vhost: &str) -> Result<Vec<policies::Policy>, Why> {
        let path = format!("/api/{kind}/{}", segment(vhost));
        self.try_list(&path, Some(vhost), policies::policy).await
    }

    /// The exchanges of a virtual host.
    pub(crate) async fn exchanges(&self, vhost: &str) -> Observed<Vec<Exchange>> {
        observed(self.try_exchanges(vhost).await)
    }

    async fn try_exchanges(&self, vhost: &str) -> Result<Vec<Exchange>, Why> {
        let path = format!("/api/exchanges/{}", segment(vhost));
        let decode = |value: &Value| Ok((decode::exchange(value)?, decode::exchange_policy(value)));
        let read = self.paged(&path, decode::EXCHANGE_COLUMNS, vhost, decode);
        let mut exchanges = read.await?;
        let needs_policies = exchanges
            .iter()
            .any(|(exchange, policy)| exchange.alternate.is_none() && policy.is_some());
        if needs_policies {
            let path = format!("/api/policies/{}", segment(vhost));
            let policies = self.try_list(&path, Some(vhost), |value| Ok(value.clone()));
            let alternates = decode::alternates(&policies.await?);
            for (exchange, policy) in &mut exchanges {
                let by_policy = policy.as_ref().and_then(|policy| alternates.get(policy));
                exchange.alternate = exchange.alternate.take().or_else(|| by_policy.cloned());
            }
        }
        Ok(exchanges
            .into_iter()
            .map(|(exchange, _)| exchange)
            .collect())
    }

    /// The bindings of a virtual host, those of the default exchange left out.
    pub(crate) async fn bindings(&self, vhost: &str) -> Observed<Vec<AmqpBinding>> {
        let path = format!(
            "/api/bindings/{}?columns={}",
            segment(vhost),
            decode::BINDING_COLUMNS
        );
        let all = self.list(&path, Some(vhost), decode::binding).await;
        all.map(|bindings| bindings.into_iter().flatten().collect())
    }

    /// The consumers of a virtual host.
    pub(crate) async fn consumers(&self, vhost: &str) -> Observed<Vec<Consumer>> {
        let path = format!(
            "/api/consumers/{}?columns={}",
            segment(vhost),
            decode::CONSUMER_COLUMNS
        );
        self.monitored(&path, vhost, decode::consumer).await
    }

    /// The channels of a virtual host.
    pub(crate) async fn channels(&self, vhost: &str) -> Observed<Vec<Channel>> {
        // Of one virtual host there are no pages.
        let path = format!(
            "/api/vhosts/{}/channels?columns={}",
            segment(vhost),
            decode::CHANNEL_COLUMNS
        );
        self.monitored(&path, vhost, decode::channel).await
    }

    /// The connections of a virtual host, this program's own among them.
    pub(crate) async fn connections(&self, vhost: &str) -> Observed<Vec<Connection>> {
        let path = format!(
            "/api/vhosts/{}/connections?columns={}",
            segment(vhost),
            decode::CONNECTION_COLUMNS
        );
        self.monitored(&path, vhost, decode::connection).await
    }

    /// The shovels that are set up as parameters of a virtual host. Parameters are shown to users with the tag
    /// `policymaker` and to administrators.
    async fn shovels(&self, vhost: &str) -> Observed<Vec<Shovel>> {
        let decode = |value: &Value| decode::shovel(value, vhost);
        let all = self.list("/api/parameters", None, decode).await;
        all.map(|parameters| parameters.into_iter().flatten().collect())
    }

    /// Fills in what the management API tells of a virtual host. Asks three things at a time. Product and version stay
    /// as they are where AMQP has told them.
    pub(crate) async fn read_all(&self, vhost: &str, rabbit: &mut RabbitMq) {
        let cluster = async {
            let nodes = self.nodes().await;
            (nodes, self.alarms().await, self.shovels(vhost).await)
        };
        let topology = async {
            let queues = self.queues(vhost).await;
            (
                queues,
                self.exchanges(vhost).await,
                self.bindings(vhost).await,
            )
        };
        let clients = async {
            let consumers = self.consumers(vhost).await;
            (
                consumers,
                self.channels(vhost).await,
                self.connections(vhost).await,
            )
        };
        let (cluster, topology, clients) = tokio::join!(cluster, topology, clients);
        let (nodes, alarms, shovels) = cluster;
        rabbit.shovels = shovels;
        rabbit.management_url = Some(self.http.server().to_string());
        rabbit.overview = observed(self.server.clone().map(|server| {
            if rabbit.product.seen().is_none() {
                rabbit.product = server.product;
            }
            if rabbit.version.seen().is_none() {
                rabbit.version = server.version;
            }
            server.overview
        }));
        rabbit.alarms = match alarms {
            // Servers without health checks tell of alarms with their nodes.
            Observed::Unseen(why) if why.reason == Reason::Unsupported => {
                alarms_of(&nodes).map_or(Observed::Unseen(why), Observed::Seen)
            }
            alarms => alarms,
        };
        rabbit.nodes = nodes;
        (rabbit.queues, rabbit.exchanges, rabbit.bindings) = topology;
        (rabbit.consumers, rabbit.channels, rabbit.connections) = clients;
        self.settle(vhost, rabbit).await;
    }

    /// A list of which a user without the tag `monitoring` is shown no more than what its own connections have, and which
    /// may be empty where nothing is counted.
    async fn monitored<T>(
        &self,
        path: &str,
        vhost: &str,
        decode: impl Fn(&Value) -> Decoded<T>,
    ) -> Observed<Vec<T>> {
        let sees_all = ["monitoring", "administrator"];
        if !self.tags.iter().any(|tag| sees_all.contains(&tag.as_str())) {
            return Observed::Unseen(needs_monitoring());
        }
        if self
            .server
            .as_ref()
            .is_ok_and(|server| server.statistics_off)
        {
            return Observed::Unseen(statistics_off());
        }
        self.list(path, Some(vhost), decode).await
    }

    async fn list<T>(
        &self,
        path: &str,
        vhost: Option<&str>,
        decode: impl Fn(&Value) -> Decoded<T>,
    ) -> Observed<Vec<T>> {
        observed(self.try_list(path, vhost, decode).await)
    }

    /// A list that comes in one answer.
    async fn try_list<T>(
        &self,
        path: &str,
        vhost: Option<&str>,
        decode: impl Fn(&Value) -> Decoded<T>,
    ) -> Result<Vec<T>, Why> {
        let answer = self.http.get_long(path).await?;
        refused(&self.http, &answer, vhost)?;
        entries(&self.http, &answer, &decode)
    }

    /// A list that is read in pages, which come in the order of the names, while it is short. Where it changes meanwhile,
    /// an entry may have moved to a page that is read already: then it is read again, and at last in one answer.
    async fn paged<T>(
        &self,
        path: &str,
        columns: &str,
        vhost: &str,
        decode: impl Fn(&Value) -> Decoded<T>,
    ) -> Result<Vec<T>, Why> {
        for _ in 0..TRIES {
            match self.pages(path, columns, vhost, &decode).await? {
                Pages::All(all) => return Ok(all),
                Pages::Shifted => {}
                Pages::InOne => break,
            }
        }
        let path = format!("{path}?columns={columns}");
        self.try_list(&path, Some(vhost), decode).await
    }

    async fn pages<T>(
        &self,
        path: &str,
        columns: &str,
        vhost: &str,
        decode: &impl Fn(&Value) -> Decoded<T>,
    ) -> Result<Pages<T>, Why> {
        let mut all = Vec::new();
        let mut names = BTreeSet::new();
        let mut total = None;
        for page in 1..=MOST_PAGES {
            // Pages are in order of names without being told; where they are told so (`sort=name`), RabbitMQ 3.10
            // gathers the statistics of all queues for each.
            let query = format!("page={page}&page_size={PAGE}&columns={columns}");
            let answer = self.http.get(&format!("{path}?{query}")).await?;
            // Some servers know no pages.
            if first_byte(&answer) == Some(b'[') {
                return Ok(Pages::InOne);
            }
            // The last one may be gone by now.
            if answer.status == StatusCode::BAD_REQUEST {
                return Ok(Pages::Shifted);
            }
            refused(&self.http, &answer, Some(vhost))?;
            let value = parsed(&self.http, &answer)?;
            let Some(items) = value.get("items").and_then(Value::as_array) else {
                return Err(malformed("a page has no items"));
            };
            let of = |key: &str| value.get(key).and_then(Value::as_u64);
            let (Some(page_count), Some(total_now)) = (of("page_count"), of("total_count")) else {
                return Err(malformed("a page does not say how many there are"));
            };
            if page_count > MOST_PAGES {
                return Ok(Pages::InOne);
            }
            if *total.get_or_insert(total_now) != total_now {
                return Ok(Pages::Shifted);
            }
            for item in items {
                all.push(decode(item)?);
                let name = item.get("name").and_then(Value::as_str).unwrap_or_default();
                if !names.insert(name.to_owned()) {
                    return Ok(Pages::Shifted);
                }
            }
            if page >= page_count {
                let complete = u64::try_from(all.len()).is_ok_and(|read| read == total_now);
                return Ok(if complete {
                    Pages::All(all)
                } else {
                    Pages::Shifted
                });
            }
        }
        Ok(Pages::InOne)
    }
}

/// What came of reading a list in pages.
enum Pages<T> {
    /// All of it.
    All(Vec<T>),
    /// It has changed meanwhile.
    Shifted,
    /// It is to be read in one answer: it is long, or the server knows no pages.
    InOne,
}

async fn overview(http: &Http, tags: &[String]) -> Result<ServerSays, Why> {
    let answer = http.get("/api/overview").await?;
    decode::about(&whole(http, &answer, None)?, tags)
}

/// Leaves everything that the management API tells unseen, for one reason.
pub(crate) fn leave_unseen(rabbit: &mut RabbitMq, why: &Why) {
    fn unseen<T>(why: &Why) -> Observed<T> {
        Observed::Unseen(why.clone())
    }
    rabbit.overview = unseen(why);
    rabbit.nodes = unseen(why);
    rabbit.alarms = unseen(why);
    rabbit.queues = unseen(why);
    rabbit.exchanges = unseen(why);
    rabbit.bindings = unseen(why);
    rabbit.consumers = unseen(why);
    rabbit.channels = unseen(why);
    rabbit.connections = unseen(why);
    rabbit.shovels = unseen(why);
}

/// The alarms that the nodes tell of; none where one that runs does not tell.
fn alarms_of(nodes: &Observed<Vec<Node>>) -> Option<Vec<Alarm>> {
    let mut alarms = Vec::new();
    for node in nodes.seen()?.iter().filter(|node| node.running) {
        for (alarm, resource) in [(&node.memory_alarm, "memory"), (&node.disk_alarm, "disk")] {
            if *alarm.seen()? {
                alarms.push(Alarm {
                    node: node.name.clone(),
                    resource: resource.to_owned(),
                });
            }
        }
    }
    Some(alarms)
}

fn observed<T>(read: Result<T, Why>) -> Observed<T> {
    match read {
        Ok(fact) => Observed::Seen(fact),
        Err(why) => Observed::Unseen(why),
    }
}

fn whole(http: &Http, answer: &Answer, vhost: Option<&str>) -> Result<Value, Why> {
    refused(http, answer, vhost)?;
    parsed(http, answer)
}

/// Fails unless the server gave what was asked for. Says what is to be done.
fn refused(http: &Http, answer: &Answer, vhost: Option<&str>) -> Result<(), Why> {
    if answer.status.is_success() {
        return Ok(());
    }
    let server = http.server();
    let said = reason(answer);
    let says = |words: &str| said.contains(words);
    let status = answer.status.as_u16();
    let (reason, detail) = match (answer.status, vhost) {
        (StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN, _) if says("management user") => (
            Reason::Refused,
            "this user may not use the management API; it needs the tag monitoring \
             (rabbitmqctl set_user_tags USER monitoring)"
                .to_owned(),
        ),
        (StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN, _) if says("monitor user") => {
            return Err(needs_monitoring());
        }
        (StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN, Some(vhost))
            if says("virtual host") || says("vhost") =>
        {
            (
                Reason::Refused,
                format!(
                    "this user of the management API has no permission in the virtual host {vhost:?}; an empty one is \
                     enough (rabbitmqctl set_permissions -p VHOST USER '' '' '')"
                ),
            )
        }
        (StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN, _) => (
            Reason::Refused,
            format!(
                "{server} refused the user or the password ({status}); give others with \
                 --management http://USER:PASSWORD@HOST:PORT"
            ),
        ),
        (StatusCode::NOT_FOUND, Some(vhost)) if !said.is_empty() => (
            Reason::Unsupported,
            format!("{server} knows no virtual host {vhost:?} (404)"),
        ),
        // RabbitMQ 3.10 takes what is no path of its API for a page that it can't give as JSON.
        (StatusCode::NOT_FOUND | StatusCode::NOT_ACCEPTABLE, _) => (
            Reason::Unsupported,
            format!("{server} has no management API that can be asked this ({status})"),
        ),
        (StatusCode::BAD_REQUEST, _) if says("Stats in management UI are disabled") => {
            return Err(statistics_off());
        }
        (status, _) if status.is_redirection() => (
            Reason::Unsupported,
            format!(
                "{server} sends elsewhere ({}); give the URL it ends at with --management",
                status.as_u16()
            ),
        ),
        (StatusCode::TOO_MANY_REQUESTS, _) => (
            Reason::Refused,
            format!("{server} takes no more requests now ({status})"),
        ),
        (status, _) if status.is_server_error() => (
            Reason::Unreachable,
            format!("{server} failed to answer ({})", status.as_u16()),
        ),
        _ => (
            Reason::Unsupported,
            format!("{server} does not take the request ({status})"),
        ),
    };
    Err(Why::new(reason, detail))
}

/// What a refusal says in its body; for comparing, never for showing.
fn reason(answer: &Answer) -> String {
    let value: Option<Value> = serde_json::from_slice(&answer.body).ok();
    let text = |key: &str| Some(value.as_ref()?.get(key)?.as_str()?.to_owned());
    text("reason").or_else(|| text("error")).unwrap_or_default()
}

fn needs_monitoring() -> Why {
    Why::new(
        Reason::Refused,
        "the management API shows this user no nodes, and no connections but its own; it needs the tag monitoring \
         (rabbitmqctl set_user_tags USER monitoring)",
    )
}

fn statistics_off() -> Why {
    Why::new(
        Reason::Unsupported,
        "the server's statistics are switched off (management_agent.disable_metrics_collector or \
         management.disable_stats)",
    )
}

fn too_many() -> Why {
    let detail = format!("the management API lists more than {MAX_ENTRIES} of them");
    Why::new(Reason::Truncated, detail)
}

fn first_byte(answer: &Answer) -> Option<u8> {
    (answer.body.iter().copied()).find(|byte| !byte.is_ascii_whitespace())
}

/// Why an answer is no JSON. Shows nothing of it.
fn no_json(http: &Http, answer: &Answer, error: &serde_json::Error) -> Why {
    let server = http.server();
    let detail = if first_byte(answer) == Some(b'<') {
        format!("{server} answers with a web page and not with JSON; is this the management API?")
    } else if error.is_eof() {
        format!("an answer of {server} ends in the middle of its JSON")
    } else {
        format!("an answer of {server} is not JSON")
    };
    Why::new(Reason::Malformed, detail)
}

fn parsed(http: &Http, answer: &Answer) -> Result<Value, Why> {
    serde_json::from_slice(&answer.body).map_err(|error| no_json(http, answer, &error))
}

/// Decodes a list one entry after the other, so that no more than one of them is there twice.
fn entries<T>(
    http: &Http,
    answer: &Answer,
    decode: &impl Fn(&Value) -> Decoded<T>,
) -> Result<Vec<T>, Why> {
    let mut json = serde_json::Deserializer::from_slice(&answer.body);
    let read = json
        .deserialize_any(Entries { decode })
        .and_then(|read| json.end().map(|()| read));
    read.map_err(|error| {
        if error.is_data() {
            malformed("it is no list")
        } else {
            no_json(http, answer, &error)
        }
    })?
}

struct Entries<'a, F> {
    decode: &'a F,
}

impl<'de, T, F: Fn(&Value) -> Decoded<T>> Visitor<'de> for Entries<'_, F> {
    type Value = Result<Vec<T>, Why>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a list")
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut list: A) -> Result<Self::Value, A::Error> {
        let mut all = Ok(Vec::new());
        // What follows a failure is still gone through: half a JSON is half a JSON.
        while let Some(value) = list.next_element::<Value>()? {
            all = all.and_then(|mut entries: Vec<T>| {
                entries.push((self.decode)(&value)?);
                if entries.len() > MAX_ENTRIES {
                    return Err(too_many());
                }
                Ok(entries)
            });
        }
        Ok(all)
    }
}

#[cfg(test)]
mod tests;
