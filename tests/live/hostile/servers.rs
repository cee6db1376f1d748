//! Servers that refuse, break off, or say nothing.

use std::time::{Duration, Instant};

use redis::Commands as _;
use serde_json::json;

use super::{LIMIT, assert_found, assert_incomplete, assert_read, findings, trace};
use crate::lab::{Certificates, DeafServer, Lab, Monitor, Outcome, SOON, free_port, wait_until};

const ABSENT: &str = "0a0a0a0a-0000-4000-8000-000000000000";

#[test]
fn nobody_listens() {
    let lab = Lab::new();
    let url = format!("redis://:hunter2@127.0.0.1:{}/0", free_port());
    let done = trace(&lab, ABSENT, &["--broker", &url]);
    assert_incomplete(&done);
    assert_found(&done, "broker-unavailable");
    assert_eq!(done.json()["traces"][0]["verdict"], "undetermined");
}

#[test]
fn a_server_that_closes_or_is_silent_or_talks_nonsense() {
    let lab = Lab::new();
    for server in [
        DeafServer::closing(),
        DeafServer::silent(),
        DeafServer::answering(b"-LOADING Redis is loading the dataset in memory\r\n"),
        DeafServer::answering(b"-NOAUTH Authentication required.\r\n"),
        DeafServer::answering(b"HTTP/1.1 400 Bad Request\r\n\r\n"),
        DeafServer::answering(b"$99999999999\r\n"),
        DeafServer::answering(b"*2147483647\r\n"),
        DeafServer::answering(b"*-7\r\n$-9\r\n"),
        DeafServer::answering(b"+OK\r\n"),
        DeafServer::answering(b":1\r\n"),
        DeafServer::answering(b"*0\r\n"),
    ] {
        let done = trace(
            &lab,
            ABSENT,
            &["--broker", &server.url(), "--timeout", "1s"],
        );
        assert_incomplete(&done);
    }
}

#[test]
fn a_password_is_asked_for() {
    let lab = Lab::new();
    let server = lab.redis_with(&["--requirepass", "open sesame"]);
    for credentials in ["", ":hunter2@", "someone:hunter2@"] {
        let url = format!("redis://{credentials}127.0.0.1:{}/0", server.port);
        let done = trace(&lab, ABSENT, &["--broker", &url]);
        assert_incomplete(&done);
        assert_found(&done, "broker-unavailable");
    }
    for credentials in [":open%20sesame@", "default:open%20sesame@"] {
        let url = format!("redis://{credentials}127.0.0.1:{}/0", server.port);
        let done = trace(&lab, ABSENT, &["--broker", &url]);
        done.assert_decent(&["open sesame", "open%20sesame"]);
        assert_read(&done);
    }
}

#[test]
fn a_login_that_fails_for_another_reason_does_not_blame_the_password() {
    let lab = Lab::new();
    let full = b"-ERR max number of clients reached\r\n";
    let guarded = b"-DENIED Redis is running in protected mode because it is enabled.\r\n";
    let loading = b"-LOADING Redis is loading the dataset in memory\r\n";
    let open = b"-ERR AUTH <password> called without any password configured for the default user. Are you sure?\r\n";
    let wrong = b"-WRONGPASS invalid username-password pair or user is disabled.\r\n";
    let old = b"-ERR invalid password\r\n";
    for (answer, credentials, told) in [
        (full.as_slice(), "", "as many clients as it takes"),
        (full.as_slice(), ":hunter2@", "as many clients as it takes"),
        (guarded.as_slice(), ":hunter2@", "protected mode"),
        (loading.as_slice(), ":hunter2@", "still loading"),
        (open.as_slice(), ":hunter2@", "asks for none"),
        (
            wrong.as_slice(),
            ":hunter2@",
            "refused the user or the password",
        ),
        (
            old.as_slice(),
            ":hunter2@",
            "refused the user or the password",
        ),
    ] {
        let server = DeafServer::answering(answer);
        let url = server
            .url()
            .replace("redis://", &format!("redis://{credentials}"));
        let done = trace(&lab, ABSENT, &["--broker", &url, "--timeout", "1s"]);
        assert_incomplete(&done);
        assert!(done.stdout.contains(told), "{told}: {}", done.stdout);
    }
}

#[test]
fn a_user_who_needs_no_password_logs_in_by_name() {
    let lab = Lab::new();
    let server = lab.redis();
    let mut connection = server.connect();
    let mut acl = |words: &str| {
        let mut command = redis::cmd("ACL");
        words.split(' ').for_each(|word| {
            command.arg(word);
        });
        let _: () = command.query(&mut connection).unwrap();
    };
    acl("SETUSER open on nopass ~* &* +@all");
    acl("SETUSER default off");
    let _: () = redis::cmd("LPUSH")
        .arg("celery")
        .arg("no message")
        .query(&mut connection)
        .unwrap();
    let url = format!("redis://open@127.0.0.1:{}/0", server.port);
    let done = trace(&lab, ABSENT, &["--broker", &url, "--result-backend", &url]);
    assert_eq!(done.code, Some(1), "{done:#?}");
    assert_eq!(done.json()["traces"][0]["verdict"], "unknown", "{done:#?}");
}

#[test]
fn a_command_that_was_renamed_away_is_told_as_refused() {
    let lab = Lab::new();
    let server = lab.redis_with(&["--rename-command", "CONFIG", ""]);
    let done = trace(&lab, ABSENT, &["--broker", &server.db(0)]);
    let told = findings(&done.json());
    assert!(told.contains(&"permission-denied".to_owned()), "{done:#?}");
    assert!(!told.contains(&"unsupported".to_owned()), "{done:#?}");
}

#[test]
fn a_server_with_no_room_for_another_client_is_told_from_one_that_refuses() {
    let lab = Lab::new();
    for (options, credentials) in [(&[][..], ""), (&["--requirepass", "hunter2"], ":hunter2@")] {
        let server = lab.redis_with(&[&["--maxclients", "2"], options].concat());
        let url = format!("redis://{credentials}127.0.0.1:{}/0", server.port);
        let client = redis::Client::open(url.as_str()).unwrap();
        let _all: Vec<redis::Connection> =
            (0..2).map(|_| client.get_connection().unwrap()).collect();
        // Whether the answer or the end is noticed first is a matter of luck.
        for _ in 0..10 {
            let done = trace(&lab, ABSENT, &["--broker", &url]);
            assert_incomplete(&done);
            let told = done.stdout.contains("as many clients as it takes");
            assert!(told, "{}", done.stdout);
        }
    }
}

#[test]
fn a_user_who_may_not_do_something_is_told_what() {
    let lab = Lab::new();
    let server = lab.redis();
    let config = json!({"broker_url": server.db(0), "result_backend": server.db(0)});
    let id = lab.send(&config, "labapp.add", &json!([1, 2]), &json!({}));
    let mut untold = Vec::new();
    for denied in [
        "-scan",
        "-info",
        "-client",
        "-publish",
        "-sadd",
        "-lrange",
        "-hscan",
        "-zrange",
        "-get",
        "-llen",
        "-sscan",
        "-@all +ping",
    ] {
        let mut command = redis::cmd("ACL");
        command
            .arg("SETUSER")
            .arg("looker")
            .arg("reset")
            .arg("on")
            .arg(">hunter2")
            .arg("~*")
            .arg("&*")
            .arg("+@all");
        for rule in denied.split(' ') {
            command.arg(rule);
        }
        let _: () = command.query(&mut server.connect()).unwrap();
        let url = format!("redis://looker:hunter2@127.0.0.1:{}/0", server.port);
        let done = trace(&lab, &id, &["--broker", &url, "--result-backend", &url]);
        assert!(matches!(done.code, Some(0 | 1 | 3)), "{denied}: {done:#?}");
        if ["-lrange", "-@all +ping"].contains(&denied) {
            assert_incomplete(&done);
        }
        let told = findings(&done.json())
            .iter()
            .any(|name| name == "permission-denied");
        eprintln!("{denied}: told: {told}");
        if !told {
            untold.push(denied);
        }
    }
    assert!(untold.is_empty(), "refused without a word: {untold:?}");
}

#[test]
fn the_rights_that_remote_control_needs_at_the_least_are_enough() {
    let lab = Lab::new();
    let server = lab.redis();
    let config = json!({"broker_url": server.db(0), "result_backend": server.db(0)});
    let _worker = lab.worker("w1", &config, &["-c", "1"]);
    let acl = "SETUSER looker on >hunter2 ~* &* +@read +info +time +ping +select +config|get +client|list +publish \
               +sadd +srem +brpop +del";
    let mut command = redis::cmd("ACL");
    acl.split_whitespace().for_each(|word| {
        command.arg(word);
    });
    let _: () = command.query(&mut server.connect()).unwrap();
    let url = format!("redis://looker:hunter2@127.0.0.1:{}/0", server.port);
    let done = trace(&lab, ABSENT, &["--broker", &url, "--result-backend", &url]);
    assert_eq!(done.code, Some(1), "{done:#?}");
    let report = done.json();
    let reads = report["evidence"].as_array().unwrap();
    let workers = reads.iter().find(|read| read["source"] == "workers");
    assert_eq!(workers.unwrap()["status"], "complete", "{done:#?}");
}

#[test]
fn a_server_that_takes_no_writes_can_still_be_read() {
    let lab = Lab::new();
    let master = lab.redis();
    let config = json!({"broker_url": master.db(0)});
    let id = lab.send(&config, "labapp.add", &json!([1, 2]), &json!({}));
    let replica = lab.redis_with(&["--replicaof", "127.0.0.1", &master.port.to_string()]);
    wait_until("the replica is in step", SOON, || {
        replica
            .connect()
            .exists::<_, bool>("celery")
            .unwrap()
            .then_some(())
    });
    let copies = |done: &Outcome| done.json()["traces"][0]["copies"].as_array().map(Vec::len);
    let done = trace(&lab, &id, &["--broker", &replica.db(0)]);
    assert_eq!(copies(&done), Some(1), "{done:#?}");

    let _: () = redis::cmd("CONFIG")
        .arg("SET")
        .arg("maxmemory")
        .arg("1")
        .query(&mut master.connect())
        .unwrap();
    let done = trace(&lab, &id, &["--broker", &master.db(0)]);
    assert_eq!(copies(&done), Some(1), "{done:#?}");
    let left: Vec<String> = master.connect().keys("*reply.celery.pidbox").unwrap();
    assert!(left.is_empty(), "{left:?}");
    for broker in [&master, &replica] {
        let done = trace(&lab, &id, &["--broker", &broker.db(0)]);
        assert_found(&done, "workers-not-asked");
        // No right of any user would help.
        let names = findings(&done.json());
        assert!(
            !names.contains(&"permission-denied".to_owned()),
            "{done:#?}"
        );
    }
}

#[test]
fn a_result_that_may_stand_under_another_prefix_is_not_called_absent() {
    let lab = Lab::new();
    let server = lab.redis();
    let acl = "SETUSER looker on >hunter2 ~* &* +@all -scan";
    let mut command = redis::cmd("ACL");
    acl.split(' ').for_each(|word| {
        command.arg(word);
    });
    let _: () = command.query(&mut server.connect()).unwrap();
    let backend = format!("redis://looker:hunter2@127.0.0.1:{}/1", server.port);
    let given = ["--broker", &server.db(0), "--result-backend", &backend];
    let done = trace(&lab, ABSENT, &given);
    assert_incomplete(&done);
    assert_eq!(
        done.json()["traces"][0]["stages"][4]["status"],
        "not_read",
        "{done:#?}"
    );
    let told = [&given[..], &["--result-key-prefix", ""]].concat();
    let done = trace(&lab, ABSENT, &told);
    assert_eq!(
        done.json()["traces"][0]["stages"][4]["status"],
        "absent",
        "{done:#?}"
    );
}

#[test]
fn a_connection_that_breaks_leaves_no_reply_address() {
    let lab = Lab::new();
    let server = lab.redis();
    // Somebody listens as workers do, and never answers.
    let mut listener = server.connect();
    let mut channel = listener.as_pubsub();
    channel.psubscribe("/0.celery.pidbox").unwrap();
    let broker = server.db(0);
    let arguments = ["trace", ABSENT, "--format", "json", "--broker", &broker];
    let monitor = Monitor::new(&server);
    let running = lab.spawn(&mut lab.doctor(&arguments));
    monitor.wait_for("BRPOP");
    let _: () = redis::cmd("CLIENT")
        .arg("KILL")
        .arg("TYPE")
        .arg("normal")
        .query(&mut server.connect())
        .unwrap();
    let done = running.wait(LIMIT);
    done.assert_decent(&[]);
    assert_incomplete(&done);
    let left: Vec<String> = server.connect().keys("*reply.celery.pidbox").unwrap();
    assert!(left.is_empty(), "{left:?}: {done:#?}");
}

#[test]
fn a_server_that_stops_or_dies_in_mid_scan() {
    for dies in [false, true] {
        let lab = Lab::new();
        let mut server = lab.redis();
        let items = vec!["x".repeat(900); 1000];
        for _ in 0..300 {
            let _: () = server.connect().lpush("celery", &items).unwrap();
        }
        for more in ["more", "mortal", "morsel"] {
            let _: () = server.connect().lpush(more, &items).unwrap();
        }
        let monitor = Monitor::new(&server);
        let broker = server.db(0);
        let mut command = lab.doctor(&[
            "trace",
            ABSENT,
            "--format",
            "json",
            "--broker",
            &broker,
            "--result-backend",
            &server.db(1),
            "--timeout",
            "1s",
        ]);
        let running = lab.spawn(&mut command);
        monitor.wait_for("LRANGE");
        if dies {
            server.kill();
        } else {
            server.freeze();
        }
        let stopped = Instant::now();
        let done = running.wait(LIMIT);
        // One wait for an answer, and one for the removal of the reply address.
        assert!(stopped.elapsed() < Duration::from_secs(11), "{done:#?}");
        done.assert_decent(&[]);
        assert_incomplete(&done);
    }
}

#[test]
fn tls_that_cannot_be_trusted_is_refused() {
    let lab = Lab::new();
    let certificates = Certificates::new(&lab);
    let server = lab.redis_tls(&certificates, &[]);
    let broker = format!("rediss://localhost:{}/0", server.port);
    let ca = certificates.ca.to_str().unwrap();
    assert_incomplete(&trace(&lab, ABSENT, &["--broker", &broker]));
    let done = trace(&lab, ABSENT, &["--broker", &broker, "--tls-ca", ca]);
    assert_read(&done);
    assert_incomplete(&trace(
        &lab,
        ABSENT,
        &["--broker", &format!("{broker}?ssl_cert_reqs=required")],
    ));
    let named = format!("?ssl_cert_reqs=CERT_REQUIRED&ssl_ca_certs={ca}");
    for parameters in ["?ssl_cert_reqs=none", "?ssl_cert_reqs=CERT_NONE", &named] {
        assert_read(&trace(
            &lab,
            ABSENT,
            &["--broker", &format!("{broker}{parameters}")],
        ));
    }
    let strict = lab.redis_tls(&certificates, &["--tls-auth-clients", "yes"]);
    let broker = format!(
        "rediss://localhost:{}/0?ssl_cert_reqs=required&ssl_ca_certs={ca}",
        strict.port
    );
    assert_incomplete(&trace(&lab, ABSENT, &["--broker", &broker]));
    let (cert, key) = (
        certificates.client_cert.display(),
        certificates.client_key.display(),
    );
    let broker = format!("{broker}&ssl_certfile={cert}&ssl_keyfile={key}");
    assert_read(&trace(&lab, ABSENT, &["--broker", &broker]));
}

#[test]
fn every_way_to_a_server_leads_to_it() {
    let lab = Lab::new();
    let server = lab.redis();
    let config = json!({"broker_url": server.db(0)});
    let id = lab.send(&config, "labapp.add", &json!([1, 2]), &json!({}));
    let sentinel = lab.sentinel("mymaster", &server, "");
    let dead = format!("sentinel://127.0.0.1:{}/0", free_port());
    let sentinels = format!("{dead};sentinel://127.0.0.1:{}/0", sentinel.port);
    for arguments in [
        &["--broker", &server.db(0)][..],
        &["--broker", &server.url()],
        &["--broker", &server.socket_url(0)],
        &["--broker", &sentinels, "--master-name", "mymaster"],
    ] {
        let done = trace(&lab, &id, arguments);
        assert_eq!(
            done.json()["traces"][0]["copies"].as_array().map(Vec::len),
            Some(1),
            "{arguments:?}: {done:#?}"
        );
    }
    let done = trace(
        &lab,
        &id,
        &["--broker", &sentinels, "--master-name", "another"],
    );
    assert_incomplete(&done);
}

#[test]
fn wrong_usage_is_told_before_anything_is_read() {
    let lab = Lab::new();
    for arguments in [
        &["trace", ABSENT][..],
        &["trace", ABSENT, "--broker", "kafka://127.0.0.1/0"],
        &["trace", ABSENT, "--broker", "redis://127.0.0.1:99999/0"],
        &[
            "trace",
            ABSENT,
            "--broker",
            "redis://:hunter2@127.0.0.1/zero",
        ],
        &["trace", "--broker", "redis://127.0.0.1/0"],
        &["trace", ABSENT, "--snapshot", "no-such-file"],
        &["no-such-command"],
    ] {
        let done = lab.run(&mut lab.doctor(arguments), LIMIT);
        done.assert_decent(&["hunter2"]);
        assert_eq!(done.code, Some(2), "{arguments:?}: {done:#?}");
        assert!(
            done.stdout.is_empty() && !done.stderr.is_empty(),
            "{arguments:?}: {done:#?}"
        );
    }
}
