//! What the server says of itself.

use std::collections::HashMap;
use std::time::{SystemTime, UNIX_EPOCH};

use jiff::Timestamp;
use redis::cmd;

use super::client::Client;
use crate::evidence::{
    ClientFacts, ClientIdentity, Health, Observed, Reason, Replica, ServerFacts, Why,
};

/// Reads INFO, CONFIG GET save and CLIENT LIST. Fails only where INFO can't be had for want of a connection; all
/// else may be refused on its own.
pub(crate) async fn facts(client: &Client) -> Result<ServerFacts, Why> {
    let info = match client.ask::<String>(&cmd("INFO")).await {
        Ok(text) => Ok(fields(&text)),
        Err(why) if why.reason == Reason::Refused || why.reason == Reason::Unsupported => Err(why),
        Err(why) => return Err(why),
    };
    let text = |field: &str| match &info {
        Ok(fields) => fields
            .get(field)
            .cloned()
            .map_or_else(|| missing(field), Observed::Seen),
        Err(why) => Observed::Unseen(why.clone()),
    };
    let number = |field: &str| match text(field) {
        Observed::Seen(value) => value
            .parse()
            .map_or_else(|_| missing(field), Observed::Seen),
        Observed::Unseen(why) => Observed::Unseen(why),
    };
    if let Observed::Seen(loading) = text("loading")
        && loading != "0"
    {
        return Err(Why::new(
            Reason::Unreachable,
            "the server is still loading its data",
        ));
    }
    Ok(ServerFacts {
        version: text("redis_version"),
        uptime_seconds: number("uptime_in_seconds"),
        role: text("role"),
        connected_replicas: number("connected_slaves"),
        append_only: text("aof_enabled").map(|on| on == "1"),
        rdb_saves: rdb_saves(client).await,
        maxmemory: number("maxmemory"),
        maxmemory_policy: text("maxmemory_policy"),
        used_memory: number("used_memory"),
        evicted_keys: number("evicted_keys"),
        clock_ahead_seconds: clock(client)
            .await
            .map_or_else(Observed::Unseen, Observed::Seen),
        clients: clients(client).await,
        health: Health {
            connections: number("connected_clients"),
            max_connections: number("maxclients"),
            rejected_connections: number("rejected_connections"),
            last_rdb_save_ok: text("rdb_last_bgsave_status").map(|status| status == "ok"),
            last_aof_write_ok: text("aof_last_write_status").map(|status| status == "ok"),
            not_counted: number("mem_not_counted_for_evict"),
            stops_writes: stops_writes(client).await,
            master_link_up: text("master_link_status").map(|status| status == "up"),
            promoted: text("second_repl_offset").map(|offset| offset != "-1"),
            replicas: match &info {
                Ok(fields) => Observed::Seen(replicas(fields)),
                Err(why) => Observed::Unseen(why.clone()),
            },
        },
    })
}

/// The replicas of a master: `slave0:ip=10.0.0.2,port=6379,state=online,offset=42,lag=0`.
fn replicas(fields: &HashMap<String, String>) -> Vec<Replica> {
    let replica = |line: &String| {
        let of = |name: &str| {
            let mut pairs = line.split(',').filter_map(|pair| pair.split_once('='));
            pairs.find(|(key, _)| *key == name).map(|(_, value)| value)
        };
        Replica {
            online: of("state") == Some("online"),
            lag_seconds: of("lag").and_then(|lag| lag.parse().ok()),
        }
    };
    (0_u32..)
        .map_while(|n| fields.get(&format!("slave{n}")))
        .map(replica)
        .collect()
}

fn missing<T>(field: &str) -> Observed<T> {
    Observed::Unseen(Why::new(
        Reason::Unsupported,
        format!("INFO has no {field}"),
    ))
}

fn fields(info: &str) -> HashMap<String, String> {
    info.lines()
        .filter_map(|line| line.split_once(':'))
        .map(|(name, value)| (name.to_owned(), value.trim().to_owned()))
        .collect()
}

async fn rdb_saves(client: &Client) -> Observed<bool> {
    match client
        .ask::<Vec<String>>(cmd("CONFIG").arg("GET").arg("save"))
        .await
    {
        Ok(answer) => match answer.get(1) {
            Some(points) => Observed::Seen(!points.trim().is_empty()),
            None => missing("save"),
        },
        Err(why) => Observed::Unseen(why),
    }
}

/// Whether it takes no writes while its snapshots fail.
async fn stops_writes(client: &Client) -> Observed<bool> {
    let name = "stop-writes-on-bgsave-error";
    let answer = client
        .ask::<Vec<String>>(cmd("CONFIG").arg("GET").arg(name))
        .await;
    match answer {
        Ok(answer) => answer
            .get(1)
            .map_or_else(|| missing(name), |set| Observed::Seen(set == "yes")),
        Err(why) => Observed::Unseen(why),
    }
}

/// The connections to the server, where CLIENT LIST may be read.
pub(crate) async fn clients(client: &Client) -> Observed<Vec<ClientFacts>> {
    match client.ask::<String>(cmd("CLIENT").arg("LIST")).await {
        Ok(text) => Observed::Seen(text.lines().map(client_facts).collect()),
        Err(why) => Observed::Unseen(why),
    }
}

fn client_facts(line: &str) -> ClientFacts {
    let field = |name: &str| {
        let mut pairs = line.split(' ').filter_map(|pair| pair.split_once('='));
        pairs
            .find(|(key, _)| *key == name)
            .map_or("", |(_, value)| value)
    };
    let told = |name: &str| Some(field(name).to_owned()).filter(|value| !value.is_empty());
    let address = field("addr");
    ClientFacts {
        host: address
            .rsplit_once(':')
            .map_or(address, |(host, _)| host)
            .to_owned(),
        database: field("db").parse().ok(),
        command: field("cmd").to_owned(),
        blocked: field("flags").contains('b'),
        pattern_subscriptions: field("psub").parse().unwrap_or_default(),
        age_seconds: field("age").parse().ok(),
        idle_seconds: field("idle").parse().ok(),
        id: field("id").parse().ok(),
        blocked_throughout: false,
        identity: ClientIdentity {
            address: told("addr"),
            name: told("name"),
            user: told("user"),
            library: told("lib-name").map(|library| format!("{library} {}", field("lib-ver"))),
        },
    }
}

/// By how many seconds the server's clock is ahead of this machine's.
pub(crate) async fn clock(client: &Client) -> Result<f64, Why> {
    let (seconds, micros): (i64, i64) = client.ask(&cmd("TIME")).await?;
    let moment = seconds
        .checked_mul(1_000_000)
        .and_then(|whole| whole.checked_add(micros))
        .and_then(|all| Timestamp::from_microsecond(all).ok())
        .ok_or_else(|| Why::new(Reason::Malformed, "TIME answered no time of this era"))?;
    let ours = SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .unwrap_or_default()
        .as_secs_f64();
    #[expect(
        clippy::cast_precision_loss,
        reason = "microseconds of this century fit"
    )]
    let theirs = moment.as_microsecond() as f64 / 1e6;
    Ok(theirs - ours)
}

/// The numbers of the databases that hold anything, from INFO keyspace.
pub(crate) async fn databases(client: &Client) -> Result<Vec<u32>, Why> {
    let all = databases_with_keys(client).await?;
    Ok(all.into_iter().map(|(database, _)| database).collect())
}

/// The same, each with how many keys it has: `db0:keys=12,expires=0,avg_ttl=0`.
pub(crate) async fn databases_with_keys(client: &Client) -> Result<Vec<(u32, u64)>, Why> {
    let text: String = client.ask(cmd("INFO").arg("keyspace")).await?;
    let database = |line: &str| {
        let (number, facts) = line.strip_prefix("db")?.split_once(':')?;
        let keys = facts.split(',').find_map(|fact| fact.strip_prefix("keys="));
        Some((number.parse().ok()?, keys?.trim().parse().ok()?))
    };
    Ok(text.lines().filter_map(database).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn replicas_are_read_as_their_master_sees_them() {
        let info = "# Replication\r\nrole:master\r\nslave0:ip=10.0.0.2,port=6379,state=online,offset=42,lag=1\r\n\
                    slave1:ip=10.0.0.3,port=6379,state=wait_bgsave,offset=0,lag=0\r\nslave2:\r\n";
        let replica = |online, lag_seconds| Replica {
            online,
            lag_seconds,
        };
        assert_eq!(
            replicas(&fields(info)),
            [
                replica(true, Some(1)),
                replica(false, Some(0)),
                replica(false, None)
            ]
        );
        assert!(replicas(&fields("")).is_empty());
    }

    #[test]
    fn a_line_of_client_list_tells_of_a_worker() {
        let line = "id=7 addr=[::1]:5123 laddr=[::1]:6379 fd=9 name= age=30 idle=4 flags=b db=3 sub=0 psub=1 cmd=brpop user=default lib-name=redis-py lib-ver=5.2.1";
        assert_eq!(
            client_facts(line),
            ClientFacts {
                host: "[::1]".to_owned(),
                database: Some(3),
                command: "brpop".to_owned(),
                blocked: true,
                pattern_subscriptions: 1,
                age_seconds: Some(30),
                idle_seconds: Some(4),
                id: Some(7),
                blocked_throughout: false,
                identity: ClientIdentity {
                    address: Some("[::1]:5123".to_owned()),
                    name: None,
                    user: Some("default".to_owned()),
                    library: Some("redis-py 5.2.1".to_owned()),
                },
            }
        );
        assert_eq!(client_facts("garbage").database, None);
        assert_eq!(client_facts("garbage").idle_seconds, None);
    }
}
