//! A proxy between the program under test and a server, which can break off, fall silent, or be slow.

use std::io::{Read as _, Write as _};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::atomic::{AtomicI64, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::Duration;

/// What the proxy does from some byte on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fault {
    /// Every connection ends, and no other is let through.
    Cut,
    /// Connections stay open, and not a byte comes through.
    Stall,
}

/// A proxy to one port of this machine.
pub struct Proxy {
    pub port: u16,
    state: Arc<State>,
}

struct State {
    /// Bytes of the server that are still passed on.
    left: AtomicI64,
    passed: AtomicU64,
    delay_ms: AtomicU64,
    fault: Fault,
    open: Mutex<Vec<TcpStream>>,
}

impl Proxy {
    /// Passes everything on.
    pub fn to(port: u16) -> Self {
        Self::failing(port, i64::MAX, Fault::Cut)
    }

    /// Passes on so many bytes of what the server sends, over all connections; then the fault begins.
    pub fn failing(port: u16, bytes: i64, fault: Fault) -> Self {
        let listener = TcpListener::bind(SocketAddr::from(([127, 0, 0, 1], 0)))
            .expect("loopback has free ports");
        let own = listener.local_addr().expect("a bound socket").port();
        let state = Arc::new(State {
            left: AtomicI64::new(bytes),
            passed: AtomicU64::new(0),
            delay_ms: AtomicU64::new(0),
            fault,
            open: Mutex::default(),
        });
        let of_thread = Arc::clone(&state);
        thread::spawn(move || {
            for client in listener.incoming().flatten() {
                of_thread.serve(client, port);
            }
        });
        Self { port: own, state }
    }

    /// The fault begins now.
    pub fn fail(&self) {
        self.state.left.store(0, Ordering::SeqCst);
        self.state.begin_fault();
    }

    /// Whatever the server sends comes so much later.
    pub fn delay(&self, by: Duration) {
        let ms = u64::try_from(by.as_millis()).expect("a short time");
        self.state.delay_ms.store(ms, Ordering::SeqCst);
    }

    /// How many bytes of the server were passed on.
    pub fn passed(&self) -> u64 {
        self.state.passed.load(Ordering::SeqCst)
    }

    /// A URL that names the server's port, by way of the proxy.
    pub fn instead_of(&self, port: u16, url: &str) -> String {
        url.replace(&format!(":{port}"), &format!(":{}", self.port))
    }
}

impl State {
    fn failed(&self) -> bool {
        self.left.load(Ordering::SeqCst) <= 0
    }

    fn begin_fault(&self) {
        if self.fault == Fault::Cut {
            let open = self.open.lock().expect("no thread panics with it");
            for stream in open.iter() {
                let _ = stream.shutdown(Shutdown::Both);
            }
        }
    }

    fn serve(self: &Arc<Self>, client: TcpStream, port: u16) {
        if self.failed() && self.fault == Fault::Cut {
            return;
        }
        let Ok(server) = TcpStream::connect(("127.0.0.1", port)) else {
            return;
        };
        let twin = |stream: &TcpStream| stream.try_clone().expect("a socket can be held twice");
        let mut open = self.open.lock().expect("no thread panics with it");
        open.extend([twin(&client), twin(&server)]);
        drop(open);
        let (to_server, to_client) = (twin(&server), twin(&client));
        let state = Arc::clone(self);
        thread::spawn(move || state.copy(client, to_server, false));
        let state = Arc::clone(self);
        thread::spawn(move || state.copy(server, to_client, true));
    }

    fn copy(&self, mut from: TcpStream, mut to: TcpStream, of_server: bool) {
        let mut bytes = [0; 4096];
        while let Ok(read @ 1..) = from.read(&mut bytes) {
            let mut passed = read;
            if of_server {
                thread::sleep(Duration::from_millis(self.delay_ms.load(Ordering::SeqCst)));
                let size = i64::try_from(read).expect("a buffer is small");
                let left = self.left.fetch_sub(size, Ordering::SeqCst);
                passed = usize::try_from(left.clamp(0, size)).expect("it is not negative");
                self.passed.fetch_add(passed as u64, Ordering::SeqCst);
            }
            let silent = self.failed() && self.fault == Fault::Stall && !of_server;
            if !silent && to.write_all(&bytes[..passed]).is_err() {
                break;
            }
            if of_server && self.failed() {
                self.begin_fault();
            }
        }
        let _ = to.shutdown(Shutdown::Write);
    }
}
