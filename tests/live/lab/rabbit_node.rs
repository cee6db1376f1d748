//! RabbitMQ nodes with the management plugin. Starting one takes many seconds, so that the tests of a run share one, with
//! a virtual host each; a test that sets an alarm or stops the node takes a private one (`Lab::rabbitmq_node`).
//!
//! The shared node lives as long as a test holds a lock on a file, or the test runner runs: a small shell, its keeper,
//! watches both, and stops it some seconds after.

use std::collections::hash_map::DefaultHasher;
use std::fs::{self, File};
use std::hash::{Hash as _, Hasher as _};
use std::io::{Read as _, Write as _};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, OnceLock};
use std::thread;
use std::time::{Duration, Instant};

use serde_json::{Value, json};

/// How long a node may take to start on a busy machine.
const START: Duration = Duration::from_secs(90);

/// Debian's own program on the path drops to another user, this one doesn't.
const PROGRAMS: [(&str, &str); 2] = [
    ("/usr/lib/rabbitmq/bin/rabbitmq-server", "rabbitmq-server"),
    ("/usr/lib/rabbitmq/bin/rabbitmqctl", "rabbitmqctl"),
];

/// Runs the node and the port mapper that Erlang needs in one process group; a port mapper of Erlang's own would outlive it.
const RUN: &str = r#"
epmd -address 127.0.0.1 -port "$ERL_EPMD_PORT" &
until epmd -port "$ERL_EPMD_PORT" -names >/dev/null 2>&1; do sleep 0.05; done
exec "$0"
"#;

/// Runs the node in a process group of its own until nobody has held the lock for eight seconds and the test runner
/// (`$3`, 0 for none) is gone. `$0`: the folder; `$1`: the program; `$2`: RUN.
const KEEP: &str = r#"
exec 9<>"$0/users"
setsid sh -c "$2" "$1" >>"$0/out.log" 2>&1 9>&- &
node=$!
idle=0
while [ $idle -lt 8 ] && kill -0 $node 2>/dev/null; do
    sleep 1
    if [ "$3" != 0 ] && kill -0 "$3" 2>/dev/null; then
        idle=0
    elif flock -x -n 9; then
        idle=$((idle + 1))
        # The last time it keeps the lock: who comes now waits until all is gone.
        [ $idle -ge 8 ] || flock -u 9
    else
        idle=0
    fi
done
rm -f "$0/ready"
kill -s KILL -- "-$node" 2>/dev/null
wait
rm -rf "$0/home"
"#;

/// A node that answers. Dropping it leaves a shared node to others, and a private one to its lab.
pub struct RabbitNode {
    pub port: u16,
    pub http_port: u16,
    /// Its name, such as `lab1234@localhost`.
    pub name: String,
    home: PathBuf,
    epmd_port: u16,
    /// Of the shared node alone: while it is open, the keeper keeps the node.
    _lock: Option<File>,
}

/// A virtual host of one test's own, in which guest may do all. Goes away with the test.
pub struct Vhost {
    pub node: Arc<RabbitNode>,
    pub name: String,
}

/// A user of one test's own. Goes away with the test.
pub struct RabbitUser {
    node: Arc<RabbitNode>,
    pub name: String,
    pub password: String,
}

/// What a new node is made of.
pub(super) struct Recipe {
    pub home: PathBuf,
    port: u16,
    http_port: u16,
    dist_port: u16,
    epmd_port: u16,
    name: String,
}

impl Recipe {
    /// Writes the node's settings; `settings` are further lines of its `rabbitmq.conf`.
    pub fn new(home: PathBuf, settings: &str) -> Self {
        let [port, http_port, dist_port, epmd_port] = free_ports();
        let name = format!("lab{}x{port}@localhost", std::process::id());
        fs::create_dir_all(&home).expect("the node's folder can be made");
        let write = |file: &str, text: &str| {
            fs::write(home.join(file), text).expect("the node's folder can be written");
        };
        write("enabled_plugins", "[rabbitmq_management].\n");
        write("rabbitmq-env.conf", "");
        write(
            "rabbitmq.conf",
            &format!(
                "listeners.tcp.1 = 127.0.0.1:{port}\n\
                 management.tcp.ip = 127.0.0.1\n\
                 management.tcp.port = {http_port}\n\
                 loopback_users = none\n\
                 collect_statistics_interval = 1000\n{settings}\n"
            ),
        );
        Self {
            home,
            port,
            http_port,
            dist_port,
            epmd_port,
            name,
        }
    }

    /// Lets it join the cluster of a node that runs.
    pub fn joining(mut self, first: &RabbitNode) -> Self {
        self.epmd_port = first.epmd_port;
        let cookie = ".erlang.cookie";
        fs::copy(first.home.join(cookie), self.home.join(cookie)).expect("the first node runs");
        let mut settings = File::options()
            .append(true)
            .open(self.home.join("rabbitmq.conf"))
            .expect("the node has settings");
        for (number, name) in [(1, &first.name), (2, &self.name)] {
            let line = format!("cluster_formation.classic_config.nodes.{number} = {name}\n");
            settings.write_all(line.as_bytes()).expect("a disk");
        }
        self
    }

    /// The shell that runs the node until it is killed.
    pub fn command(&self) -> Command {
        let mut command = Command::new("sh");
        command.args(["-c", RUN]).arg(program(0));
        self.environment(&mut command);
        command
    }

    fn environment(&self, command: &mut Command) {
        environment(command, &self.home, &self.name, self.epmd_port);
        command.env("RABBITMQ_DIST_PORT", self.dist_port.to_string());
    }

    /// Waits until the node answers on both ports.
    pub fn started(self, lock: Option<File>) -> RabbitNode {
        let log = self.home.join("../out.log");
        let node = RabbitNode {
            port: self.port,
            http_port: self.http_port,
            name: self.name,
            home: self.home,
            epmd_port: self.epmd_port,
            _lock: lock,
        };
        let start = Instant::now();
        while !node.answers() {
            assert!(
                start.elapsed() < START,
                "rabbitmq-server does not answer (install it with: .ci/setup):\n{}",
                fs::read_to_string(&log).unwrap_or_default()
            );
            thread::sleep(Duration::from_millis(100));
        }
        node
    }
}

impl RabbitNode {
    /// The node that all tests share, started where it does not run yet.
    pub fn shared() -> Arc<Self> {
        static SHARED: OnceLock<Arc<RabbitNode>> = OnceLock::new();
        Arc::clone(SHARED.get_or_init(|| Arc::new(Self::join_or_start())))
    }

    #[allow(clippy::zombie_processes, reason = "the keeper outlives this process")]
    fn join_or_start() -> Self {
        let folder = shared_folder();
        fs::create_dir_all(&folder).expect("the temporary folder can be written");
        let open = |name: &str| {
            File::options()
                .create(true)
                .truncate(false)
                .write(true)
                .open(folder.join(name))
                .expect("the temporary folder can be written")
        };
        // One at a time looks whether it has to start the node.
        let starting = open("starting");
        starting.lock().expect("a file can be locked");
        let users = open("users");
        users.lock_shared().expect("a file can be locked");
        let ready = folder.join("ready");
        if let Some(node) = joined(&ready, &folder, &users) {
            return node;
        }
        let _ = fs::remove_file(&ready);
        let recipe = Recipe::new(folder.join("home"), "");
        let runner = if std::env::var_os("NEXTEST").is_some() {
            std::os::unix::process::parent_id()
        } else {
            // One process runs all tests, and holds the lock to its end.
            0
        };
        let mut keeper = Command::new("sh");
        keeper.args(["-c", KEEP]).arg(&folder).arg(program(0));
        keeper.args([RUN, &runner.to_string()]);
        recipe.environment(&mut keeper);
        keeper
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .current_dir("/")
            .process_group(0)
            .spawn()
            .expect("sh can be started");
        let node = recipe.started(Some(users));
        let facts = json!({
            "port": node.port, "http_port": node.http_port, "name": node.name, "epmd_port": node.epmd_port,
        });
        fs::write(&ready, facts.to_string()).expect("the temporary folder can be written");
        node
    }

    fn answers(&self) -> bool {
        let listens = |port: u16| TcpStream::connect(("127.0.0.1", port)).is_ok();
        listens(self.port)
            && listens(self.http_port)
            && self
                .try_api("GET", "/api/overview", None)
                .is_some_and(|(status, _)| status == 200)
    }

    /// Where the node's own port mapper listens.
    pub fn epmd_port(&self) -> u16 {
        self.epmd_port
    }

    /// The URL of the management API, as the tool takes it.
    pub fn management_url(&self) -> String {
        format!("http://guest:guest@127.0.0.1:{}", self.http_port)
    }

    /// A new virtual host.
    pub fn vhost(self: &Arc<Self>) -> Vhost {
        self.vhost_named(&unique("v"))
    }

    /// A virtual host of this name.
    pub fn vhost_named(self: &Arc<Self>, name: &str) -> Vhost {
        let all = json!({"configure": ".*", "write": ".*", "read": ".*"});
        self.api("PUT", &format!("/api/vhosts/{}", encoded(name)), &json!({}));
        self.api(
            "PUT",
            &format!("/api/permissions/{}/guest", encoded(name)),
            &all,
        );
        Vhost {
            node: Arc::clone(self),
            name: name.to_owned(),
        }
    }

    /// A new user with these tags (separated by commas), and no permission in any virtual host.
    pub fn user(self: &Arc<Self>, tags: &str) -> RabbitUser {
        let (name, password) = (unique("u"), "hunter2 & co".to_owned());
        let user = json!({"password": password, "tags": tags});
        self.api("PUT", &format!("/api/users/{name}"), &user);
        RabbitUser {
            node: Arc::clone(self),
            name,
            password,
        }
    }

    /// Asks the management API as guest. The node must do what it is asked.
    pub fn api(&self, method: &str, path: &str, body: &Value) -> Value {
        let body = (!body.is_null()).then(|| body.to_string());
        let (status, text) = self
            .try_api(method, path, body.as_deref())
            .expect("the node answers");
        assert!(status < 300, "{method} {path}: {status} {text}");
        serde_json::from_str(&text).unwrap_or(Value::Null)
    }

    /// Asks the management API as guest; the status and the body.
    pub fn try_api(&self, method: &str, path: &str, body: Option<&str>) -> Option<(u16, String)> {
        let mut stream = TcpStream::connect(("127.0.0.1", self.http_port)).ok()?;
        stream
            .set_read_timeout(Some(Duration::from_secs(30)))
            .ok()?;
        let body = body.unwrap_or_default();
        // "guest:guest" in base64.
        let request = format!(
            "{method} {path} HTTP/1.1\r\nhost: localhost\r\nauthorization: Basic Z3Vlc3Q6Z3Vlc3Q=\r\n\
             content-type: application/json\r\ncontent-length: {}\r\nconnection: close\r\n\r\n{body}",
            body.len()
        );
        stream.write_all(request.as_bytes()).ok()?;
        let mut answer = Vec::new();
        stream.read_to_end(&mut answer).ok()?;
        let answer = String::from_utf8_lossy(&answer).into_owned();
        let (head, body) = answer.split_once("\r\n\r\n")?;
        let status = head.split(' ').nth(1)?.parse().ok()?;
        let chunked = head
            .to_ascii_lowercase()
            .contains("transfer-encoding: chunked");
        let body = if chunked {
            joined_chunks(body)
        } else {
            body.to_owned()
        };
        Some((status, body))
    }

    /// Runs `rabbitmqctl`, which must succeed; what it printed. Takes seconds.
    pub fn ctl(&self, arguments: &[&str]) -> String {
        let mut command = Command::new(program(1));
        command.args(["--quiet", "-n", &self.name]).args(arguments);
        environment(&mut command, &self.home, &self.name, self.epmd_port);
        let done = command
            .stdin(Stdio::null())
            .output()
            .expect("rabbitmqctl can be started");
        assert!(
            done.status.success(),
            "rabbitmqctl {arguments:?}: {}{}",
            String::from_utf8_lossy(&done.stdout),
            String::from_utf8_lossy(&done.stderr)
        );
        String::from_utf8_lossy(&done.stdout).into_owned()
    }

    /// Sets or clears the memory alarm, and waits until it is seen. Only for a private node: it stops every publisher.
    pub fn set_memory_alarm(&self, alarm: bool) {
        let watermark = if alarm { "0.00000001" } else { "0.9" };
        self.ctl(&["set_vm_memory_high_watermark", watermark]);
        let wanted = if alarm { 503 } else { 200 };
        let start = Instant::now();
        while self
            .try_api("GET", "/api/health/checks/alarms", None)
            .is_none_or(|(status, _)| status != wanted)
        {
            assert!(start.elapsed() < START, "the alarm stays as it was");
            thread::sleep(Duration::from_millis(50));
        }
    }
}

/// The running node, where the file says that there is one and it answers.
fn joined(ready: &Path, folder: &Path, users: &File) -> Option<RabbitNode> {
    let facts: Value = serde_json::from_str(&fs::read_to_string(ready).ok()?).ok()?;
    let port = |name: &str| u16::try_from(facts[name].as_u64()?).ok();
    let node = RabbitNode {
        port: port("port")?,
        http_port: port("http_port")?,
        name: facts["name"].as_str()?.to_owned(),
        home: folder.join("home"),
        epmd_port: port("epmd_port")?,
        _lock: Some(users.try_clone().expect("a file can be held twice")),
    };
    node.answers().then_some(node)
}

impl Vhost {
    /// The broker's URL for guest, as both Celery and the tool take it.
    pub fn url(&self) -> String {
        self.url_for("guest", "guest")
    }

    /// The broker's URL for a user.
    pub fn url_for(&self, user: &str, password: &str) -> String {
        let (user, password) = (encoded(user), encoded(password));
        let (port, vhost) = (self.node.port, encoded(&self.name));
        format!("amqp://{user}:{password}@127.0.0.1:{port}/{vhost}")
    }

    /// A path of the management API in this virtual host, such as `/api/queues/NAME/` and then `rest`.
    pub fn path(&self, kind: &str, rest: &str) -> String {
        let slash = if rest.is_empty() { "" } else { "/" };
        format!("/api/{kind}/{}{slash}{rest}", encoded(&self.name))
    }

    /// Declares a queue.
    pub fn declare(&self, queue: &str, options: &Value) {
        let path = self.path("queues", &encoded(queue));
        self.node.api("PUT", &path, options);
    }

    /// Sets a policy on all queues whose name matches the pattern.
    pub fn policy(&self, pattern: &str, definition: &Value) {
        let policy = json!({"pattern": pattern, "definition": definition, "apply-to": "all"});
        let path = self.path("policies", &unique("p"));
        self.node.api("PUT", &path, &policy);
    }

    /// Publishes a message through the management API.
    pub fn publish(&self, exchange: &str, routing_key: &str, payload: &str) {
        let exchange = if exchange.is_empty() {
            "amq.default"
        } else {
            exchange
        };
        let message = json!({
            "properties": {"delivery_mode": 2}, "routing_key": routing_key,
            "payload": payload, "payload_encoding": "string",
        });
        let path = self.path("exchanges", &format!("{}/publish", encoded(exchange)));
        self.node.api("POST", &path, &message);
    }
}

impl Drop for Vhost {
    fn drop(&mut self) {
        // A private node may be gone already, and a panic in a drop would hide the test's own.
        let path = format!("/api/vhosts/{}", encoded(&self.name));
        let _ = self.node.try_api("DELETE", &path, None);
    }
}

impl RabbitUser {
    /// Gives permissions in a virtual host: regular expressions, an empty one matches nothing.
    pub fn permit(&self, vhost: &Vhost, configure: &str, write: &str, read: &str) {
        let permission = json!({"configure": configure, "write": write, "read": read});
        let path = vhost.path("permissions", &self.name);
        self.node.api("PUT", &path, &permission);
    }

    /// The URL of the management API for this user.
    pub fn management_url(&self) -> String {
        let (user, password) = (&self.name, encoded(&self.password));
        format!("http://{user}:{password}@127.0.0.1:{}", self.node.http_port)
    }
}

impl Drop for RabbitUser {
    fn drop(&mut self) {
        let path = format!("/api/users/{}", self.name);
        let _ = self.node.try_api("DELETE", &path, None);
    }
}

fn environment(command: &mut Command, home: &Path, name: &str, epmd_port: u16) {
    for (variable, file) in [
        ("HOME", ""),
        ("RABBITMQ_MNESIA_BASE", "db"),
        ("RABBITMQ_LOG_BASE", "log"),
        ("RABBITMQ_ENABLED_PLUGINS_FILE", "enabled_plugins"),
        ("RABBITMQ_CONFIG_FILE", "rabbitmq.conf"),
        ("RABBITMQ_CONF_ENV_FILE", "rabbitmq-env.conf"),
        ("RABBITMQ_PID_FILE", "pid"),
    ] {
        command.env(variable, home.join(file));
    }
    command
        .env_remove("RABBITMQ_NODE_PORT")
        .env("RABBITMQ_NODENAME", name)
        .env("RABBITMQ_NODE_IP_ADDRESS", "127.0.0.1")
        .env("ERL_EPMD_PORT", epmd_port.to_string())
        .env("ERL_EPMD_ADDRESS", "127.0.0.1")
        // Threads that wait must not burn a small machine.
        .env(
            "RABBITMQ_SERVER_ADDITIONAL_ERL_ARGS",
            "+S 2:2 +sbwt none +sbwtdcpu none +sbwtdio none -start_epmd false",
        );
}

/// The server (0) or its control program (1).
fn program(which: usize) -> &'static str {
    let (debian, elsewhere) = PROGRAMS[which];
    if Path::new(debian).exists() {
        debian
    } else {
        elsewhere
    }
}

/// One folder for each checkout and user: two checkouts may be tested side by side.
fn shared_folder() -> PathBuf {
    let mut hash = DefaultHasher::new();
    env!("CARGO_MANIFEST_DIR").hash(&mut hash);
    std::env::var_os("USER").hash(&mut hash);
    std::env::temp_dir().join(format!("celery-doctor-rabbitmq-{:016x}", hash.finish()))
}

/// A name that no other test uses.
fn unique(prefix: &str) -> String {
    static COUNT: AtomicU32 = AtomicU32::new(0);
    let count = COUNT.fetch_add(1, Ordering::Relaxed);
    format!("{prefix}{}-{count}", std::process::id())
}

fn encoded(text: &str) -> String {
    percent_encoding::utf8_percent_encode(text, percent_encoding::NON_ALPHANUMERIC).to_string()
}

fn free_ports<const N: usize>() -> [u16; N] {
    // All are held at once, so that no two are the same.
    let listeners = [(); N].map(|()| {
        TcpListener::bind(SocketAddr::from(([127, 0, 0, 1], 0))).expect("loopback has free ports")
    });
    listeners.map(|listener| {
        listener
            .local_addr()
            .expect("a bound socket has an address")
            .port()
    })
}

fn joined_chunks(body: &str) -> String {
    let (mut rest, mut joined) = (body, String::new());
    while let Some((size, after)) = rest.split_once("\r\n") {
        let size = usize::from_str_radix(size.trim(), 16).unwrap_or(0);
        let Some(chunk) = after.get(..size).filter(|chunk| !chunk.is_empty()) else {
            break;
        };
        joined.push_str(chunk);
        rest = after.get(size + 2..).unwrap_or_default();
    }
    joined
}
