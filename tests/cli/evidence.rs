//! A small snapshot: three ids, of which one is stuck, one has ended, and one is known nowhere.

use celery_doctor::evidence::{Evidence, file};
use serde_json::{Value, json};

fn envelope(id: &str) -> Value {
    json!({
        "protocol": "two",
        "id": id,
        "task": "shop.send_mail",
        "origin": "gen1@host",
        "redelivered": false,
        "body_bytes": 2,
        "args": "('private',)",
    })
}

fn task(copies: &Value, result: &Value) -> Value {
    json!({
        "copies": copies,
        "claims": [],
        "revoked_by": [],
        "first_result": {"seen": result},
        "result": {"seen": result},
        "chord": {"seen": null},
        "children": [],
    })
}

fn read(source: &str) -> Value {
    json!({"source": source, "status": "complete", "detail": "read whole", "elapsed_ms": 1})
}

fn server() -> Value {
    json!({
        "version": {"seen": "7.0.15"},
        "uptime_seconds": {"seen": 864_000},
        "role": {"seen": "master"},
        "connected_replicas": {"seen": 0},
        "append_only": {"seen": true},
        "rdb_saves": {"seen": true},
        "maxmemory": {"seen": 0},
        "maxmemory_policy": {"seen": "noeviction"},
        "used_memory": {"seen": 1_000_000},
        "evicted_keys": {"seen": 0},
        "clock_ahead_seconds": 0.0,
        "clients": {"unseen": {"reason": "refused", "detail": "CLIENT LIST is not allowed"}},
    })
}

/// The evidence. It is written out here, in the form of the file, so that a change of the form does not go unseen.
pub fn evidence() -> Evidence {
    let stuck = json!([{
        "place": {"place": "queue", "key": "emials", "position": 1, "of": 1},
        "envelope": envelope("stuck"),
    }]);
    let ended = json!({
        "doc": {"state": "SUCCESS", "children": [], "ready": true},
        "ttl_seconds": 86_400.0,
    });
    let worker = json!({
        "node": "celery@w1",
        "prefix": "",
        "twins": false,
        "queues": {"seen": [{
            "name": "celery", "exchange": "celery", "exchange_type": "direct", "routing_key": "celery",
        }]},
        "registered": {"seen": {"shop.send_mail": {}}},
        "stats": {"seen": {"concurrency": 1, "transport": {}, "total": {}}},
        "conf": {"seen": {}},
        "active": {"seen": []},
        "reserved": {"seen": 0},
        "scheduled": {"seen": 0},
    });
    let document = json!({
        "taken_at": "2026-11-22T12:00:00.123456Z",
        "scope": {"ids": ["stuck", "ended", "nowhere"]},
        "broker": {
            "url": "redis://:***@localhost:6379/0",
            "kind": "redis",
            "database": 0,
            "server": {"seen": server()},
        },
        "result_backend": {"url": null, "kind": "redis", "readable": {"seen": null}},
        "bindings": {"seen": [{
            "prefix": "",
            "exchange": "celery",
            "bindings": [{"routing_key": "celery", "pattern": "", "queue": "celery"}],
        }]},
        "lists": {"seen": [{
            "key": "emials", "prefix": "", "queue": "emials", "priority": null, "named": true, "length": 1,
            "malformed": 0, "read": {"seen": null},
        }]},
        "reservations": {"seen": [{"prefix": "", "unacked": 0, "indexed": 0, "malformed": 0}]},
        "other_databases": {"seen": []},
        "workers": {"seen": {
            "answered": [worker], "silent": 0, "unanswered_names": [], "timeout_seconds": 2.0,
        }},
        "tasks": {
            "stuck": task(&stuck, &Value::Null),
            "ended": task(&json!([]), &ended),
            "nowhere": task(&json!([]), &Value::Null),
        },
        "reads": [
            read("bindings"), read("queues"), read("unacked"), read("workers"), read("results"),
            read("other_databases"),
        ],
    });
    serde_json::from_value(document).unwrap()
}

/// The snapshot, as the file has it.
pub fn snapshot() -> Vec<u8> {
    packed(&evidence())
}

pub fn packed(evidence: &Evidence) -> Vec<u8> {
    let mut packed = Vec::new();
    file::write(evidence, false, &mut packed).unwrap();
    packed
}
