//! Private Redis servers: plain, with TLS, on a socket, replicas, sentinels.

use std::ffi::OsStr;
use std::fs;
use std::io::{self, BufRead as _, BufReader, Read as _, Write as _};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command};
use std::thread;
use std::time::Duration;

use redis::Commands as _;
use rustix::process::{Pid, Signal, kill_process};

use super::{Lab, START, must_run, read_lossy, wait_until};

/// What to run where redis-server is missing.
const INSTALL: &str = "apt-get install redis-server";

/// A running server. It lives until it is killed, or its lab ends.
pub struct RedisServer {
    pub port: u16,
    /// The Unix socket, which every server has besides its port.
    pub socket: PathBuf,
    process: Child,
}

impl RedisServer {
    /// The URL without a database.
    pub fn url(&self) -> String {
        format!("redis://127.0.0.1:{}", self.port)
    }

    /// The URL of a database, as both Celery and the tool take it.
    pub fn db(&self, number: u8) -> String {
        format!("redis://127.0.0.1:{}/{number}", self.port)
    }

    /// The URL by which kombu reaches a database through the Unix socket.
    pub fn socket_url(&self, number: u8) -> String {
        format!(
            "redis+socket://{}?virtual_host={number}",
            self.socket.display()
        )
    }

    /// A connection of the test's own, through the Unix socket, to database 0.
    pub fn connect(&self) -> redis::Connection {
        self.connect_to(0)
    }

    pub fn connect_to(&self, number: u8) -> redis::Connection {
        let url = format!("redis+unix://{}?db={number}", self.socket.display());
        let client = redis::Client::open(url).expect("a path makes a valid URL");
        client
            .get_connection()
            .expect("the private server takes connections")
    }

    /// Waits until `count` workers listen to remote control: one says that it is ready a moment before it does.
    pub fn wait_for_workers(&self, channel: &str, count: usize) {
        let mut connection = self.connect();
        let body = r#"{"method": "ping", "arguments": {}, "destination": null, "pattern": null, "matcher": null}"#;
        let envelope = serde_json::json!({
            "body": body, "content-encoding": "utf-8", "content-type": "application/json", "headers": {},
            "properties": {"delivery_tag": "x", "delivery_info": {"exchange": "celery.pidbox", "routing_key": ""}}
        });
        wait_until("the workers listen", SOON, || {
            let heard: usize = connection
                .publish(channel, envelope.to_string())
                .expect("the server is alive");
            (heard >= count).then_some(())
        });
    }

    pub fn freeze(&self) {
        kill_process(Pid::from_child(&self.process), Signal::STOP).expect("the server is alive");
    }

    pub fn thaw(&self) {
        kill_process(Pid::from_child(&self.process), Signal::CONT).expect("the server is alive");
    }

    pub fn kill(&mut self) {
        self.process.kill().expect("the server is alive");
        self.process
            .wait()
            .expect("a killed child can be waited for");
    }
}

impl Lab {
    /// A server with nothing changed but that it keeps nothing.
    pub fn redis(&self) -> RedisServer {
        self.redis_with(&[])
    }

    /// A server with options such as `["--requirepass", "hunter2"]`.
    pub fn redis_with(&self, options: &[&str]) -> RedisServer {
        self.redis_listening("--port", options)
    }

    /// A server that takes TLS only, and asks for no client certificate unless `options` say so.
    pub fn redis_tls(&self, certificates: &Certificates, options: &[&str]) -> RedisServer {
        let (ca, cert, key) = (&certificates.ca, &certificates.cert, &certificates.key);
        let files = [
            "--port",
            "0",
            "--tls-auth-clients",
            "no",
            "--tls-ca-cert-file",
            text(ca),
        ];
        let pair = ["--tls-cert-file", text(cert), "--tls-key-file", text(key)];
        self.redis_listening("--tls-port", &[&files[..], &pair[..], options].concat())
    }

    /// A sentinel that watches `master` under the name `name`, alone in its quorum.
    pub fn sentinel(&self, name: &str, master: &RedisServer, options: &str) -> RedisServer {
        let config = self.fresh_path("sentinel.conf");
        let watch = format!(
            "sentinel monitor {name} 127.0.0.1 {} 1\n{options}\n",
            master.port
        );
        fs::write(&config, watch).expect("the lab's folder can be written");
        self.launch("--port", &[text(&config), "--sentinel"], &[], "+monitor")
    }

    fn redis_listening(&self, port_option: &str, options: &[&str]) -> RedisServer {
        let quiet = ["--save", "", "--enable-debug-command", "local"];
        self.launch(
            port_option,
            &[],
            &[&quiet[..], options].concat(),
            "Ready to accept connections",
        )
    }

    /// Starts a server on a free port. Another process may take the port first, so this tries again.
    fn launch(
        &self,
        port_option: &str,
        first: &[&str],
        options: &[&str],
        ready: &str,
    ) -> RedisServer {
        for _ in 0..5 {
            let port = free_port();
            let socket = self.fresh_path("redis.sock");
            let log = self.fresh_path("redis.log");
            let mut command = Command::new("redis-server");
            command
                .args(first)
                .args([port_option, &port.to_string(), "--bind", "127.0.0.1"]);
            command
                .args(["--unixsocket", text(&socket), "--dir", text(self.folder())])
                .args(options);
            let mut process = self.start(&mut command, &log, &log, INSTALL);
            let alive = wait_until("redis-server is ready", START, || {
                let ended = process.try_wait().expect("a child can be asked").is_some();
                let answers = !ended && read_lossy(&log).contains(ready);
                (ended || answers).then_some(answers)
            });
            if alive {
                return RedisServer {
                    port,
                    socket,
                    process,
                };
            }
            let said = read_lossy(&log);
            assert!(
                said.contains("Address already in use"),
                "redis-server ended at once:\n{said}"
            );
        }
        panic!("no free port in five tries");
    }
}

/// A certificate authority, a server's certificate for `localhost` and 127.0.0.1, and a client's.
pub struct Certificates {
    pub ca: PathBuf,
    pub cert: PathBuf,
    pub key: PathBuf,
    pub client_cert: PathBuf,
    pub client_key: PathBuf,
}

impl Certificates {
    pub fn new(lab: &Lab) -> Self {
        let folder = lab.folder();
        let openssl = |arguments: &[&str]| {
            let arguments: Vec<&OsStr> = arguments.iter().map(OsStr::new).collect();
            must_run("openssl", &arguments, folder, "apt-get install openssl");
        };
        let new_key = [
            "-newkey",
            "ec",
            "-pkeyopt",
            "ec_paramgen_curve:prime256v1",
            "-nodes",
        ];
        let authority = [
            "req",
            "-x509",
            "-subj",
            "/CN=lab authority",
            "-keyout",
            "ca.key",
            "-out",
            "ca.pem",
        ];
        openssl(&[&authority[..], &new_key[..]].concat());
        for (name, extension) in [
            (
                "server",
                "subjectAltName=DNS:localhost,IP:127.0.0.1\nbasicConstraints=CA:FALSE\n",
            ),
            (
                "client",
                "basicConstraints=CA:FALSE\nextendedKeyUsage=clientAuth\n",
            ),
        ] {
            let [key, request, cert, extensions] =
                ["key", "csr", "pem", "ext"].map(|ending| format!("{name}.{ending}"));
            fs::write(folder.join(&extensions), extension)
                .expect("the lab's folder can be written");
            let subject = format!("/CN=lab {name}");
            openssl(
                &[
                    &["req", "-subj", &subject, "-keyout", &key, "-out", &request],
                    &new_key[..],
                ]
                .concat(),
            );
            let sign = [
                "x509",
                "-req",
                "-in",
                &request,
                "-CA",
                "ca.pem",
                "-CAkey",
                "ca.key",
                "-CAcreateserial",
            ];
            openssl(
                &[
                    &sign[..],
                    &["-extfile", &extensions, "-out", &cert, "-days", "2"],
                ]
                .concat(),
            );
        }
        let path = |name: &str| folder.join(name);
        Self {
            ca: path("ca.pem"),
            cert: path("server.pem"),
            key: path("server.key"),
            client_cert: path("client.pem"),
            client_key: path("client.key"),
        }
    }
}

/// A server that accepts one connection after another and never answers, or closes each at once.
pub struct DeafServer {
    pub port: u16,
}

impl DeafServer {
    /// Takes what is sent, and says nothing.
    pub fn silent() -> Self {
        Self::with(|mut stream| {
            let mut bytes = [0; 4096];
            while stream.read(&mut bytes).is_ok_and(|n| n > 0) {}
        })
    }

    /// Closes every connection as soon as something was sent.
    pub fn closing() -> Self {
        Self::with(|mut stream| {
            let _ = stream.read(&mut [0; 1]);
        })
    }

    /// Answers every command with these bytes, for example `-LOADING Redis is loading the dataset in memory\r\n`.
    pub fn answering(answer: &'static [u8]) -> Self {
        Self::with(move |stream| {
            let mut requests = BufReader::new(stream);
            while skip_command(&mut requests).is_some() {
                if requests.get_mut().write_all(answer).is_err() {
                    return;
                }
            }
        })
    }

    fn with(serve: impl Fn(TcpStream) + Send + Copy + 'static) -> Self {
        let listener = TcpListener::bind(SocketAddr::from(([127, 0, 0, 1], 0)))
            .expect("loopback has free ports");
        let port = listener
            .local_addr()
            .expect("a bound socket has an address")
            .port();
        thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                thread::spawn(move || serve(stream));
            }
        });
        Self { port }
    }

    pub fn url(&self) -> String {
        format!("redis://127.0.0.1:{}/0", self.port)
    }
}

/// Reads one command, an array of strings; None at the end, or for anything else.
fn skip_command(from: &mut BufReader<TcpStream>) -> Option<()> {
    let words = read_number(from, '*')?;
    for _ in 0..words {
        let length = read_number(from, '$')?;
        io::copy(&mut from.take(length + 2), &mut io::sink()).ok()?;
    }
    Some(())
}

fn read_number(from: &mut BufReader<TcpStream>, kind: char) -> Option<u64> {
    let mut line = String::new();
    from.read_line(&mut line).ok()?;
    line.trim_end().strip_prefix(kind)?.parse().ok()
}

/// A port that nothing listens on just now.
pub fn free_port() -> u16 {
    let listener =
        TcpListener::bind(SocketAddr::from(([127, 0, 0, 1], 0))).expect("loopback has free ports");
    listener
        .local_addr()
        .expect("a bound socket has an address")
        .port()
}

/// How long something that should happen soon may take.
pub const SOON: Duration = Duration::from_secs(20);

fn text(path: &Path) -> &str {
    path.to_str().expect("the lab's folder has a plain name")
}
