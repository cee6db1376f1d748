//! Our own byte stream under the AMQP client: opened by our own TLS rules, read no faster than messages are looked at,
//! and cut off when the server does not let itself be left in good order.

use std::io;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll, Waker};
use std::time::{Duration, Instant};

use async_rs::traits::Reactor;
use async_rs::util::RuntimeParts;
use async_rs::{Runtime, Tokio};
use futures_core::Stream as Items;
use futures_io::{AsyncRead, AsyncWrite};
use tokio::io::{AsyncRead as _, AsyncWrite as _, ReadBuf};

use super::super::connect::Stream;
use super::frames::Frames;

/// What the client may have read and not yet looked at. It puts messages into memory as fast as they come.
const UNSEEN_MAX: u64 = 8 << 20;

/// The first frame that a server sends is kept up to this size, for what it says of the server.
const GREETING_MAX: usize = 16 << 10;

/// What is read at once.
const PIECE: usize = 64 << 10;

/// The runtime that runs the client: tokio, with [`Wire`] for its connections.
pub(super) type Kit = RuntimeParts<Tokio, Wires>;

/// A runtime for one connection, on the runtime that runs this.
pub(super) fn runtime() -> Runtime<Kit> {
    Runtime::new(RuntimeParts::new(Tokio::current(), Wires(Tokio::current())))
}

/// A byte stream that can be slowed down and cut from outside.
pub(super) struct Wire {
    stream: Stream,
    valve: Arc<Valve>,
    frames: Frames,
    piece: Box<[u8]>,
}

/// The outside of a [`Wire`].
#[derive(Debug, Default)]
pub(super) struct Valve {
    read: AtomicU64,
    seen: AtomicU64,
    /// Set where reading must not run ahead of looking.
    metered: AtomicBool,
    cut: AtomicBool,
    waiting: Mutex<Option<Waker>>,
    greeting: Mutex<Vec<u8>>,
}

impl Wire {
    pub(super) fn new(stream: Stream) -> (Self, Arc<Valve>) {
        let valve = Arc::new(Valve::default());
        let wire = Self {
            stream,
            valve: Arc::clone(&valve),
            frames: Frames::default(),
            piece: vec![0; PIECE].into(),
        };
        (wire, valve)
    }
}

impl Valve {
    /// From now on no more than [`UNSEEN_MAX`] is read ahead, until [`Valve::open`].
    pub(super) fn meter(&self) {
        self.all_seen();
        self.metered.store(true, Ordering::SeqCst);
    }

    /// Everything that was read has been looked at, as far as it made whole messages.
    pub(super) fn all_seen(&self) {
        let read = self.read.load(Ordering::SeqCst);
        if self.seen.swap(read, Ordering::SeqCst) != read {
            self.wake();
        }
    }

    /// Reading goes on as fast as it can.
    pub(super) fn open(&self) {
        self.metered.store(false, Ordering::SeqCst);
        self.wake();
    }

    /// Ends the connection at once.
    pub(super) fn cut(&self) {
        self.cut.store(true, Ordering::SeqCst);
        self.wake();
    }

    /// The beginning of what the server sent.
    pub(super) fn greeting(&self) -> Vec<u8> {
        lock(&self.greeting).clone()
    }

    fn closed(&self) -> bool {
        let unseen = || {
            let read = self.read.load(Ordering::SeqCst);
            read.saturating_sub(self.seen.load(Ordering::SeqCst))
        };
        self.metered.load(Ordering::SeqCst) && unseen() > UNSEEN_MAX
    }

    fn note(&self, bytes: &[u8]) {
        self.read.fetch_add(bytes.len() as u64, Ordering::SeqCst);
        let mut greeting = lock(&self.greeting);
        let room = GREETING_MAX.saturating_sub(greeting.len());
        greeting.extend_from_slice(&bytes[..bytes.len().min(room)]);
    }

    fn wake(&self) {
        let waiting = lock(&self.waiting).take();
        if let Some(waker) = waiting {
            waker.wake();
        }
    }

    fn cut_off(&self) -> Option<io::Error> {
        let cut = self.cut.load(Ordering::SeqCst);
        cut.then(|| io::Error::from(io::ErrorKind::ConnectionAborted))
    }
}

fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl AsyncRead for Wire {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut [u8],
    ) -> Poll<io::Result<usize>> {
        // Noted before the checks, so that no call from outside can fall between.
        *lock(&self.valve.waiting) = Some(cx.waker().clone());
        if let Some(error) = self.valve.cut_off() {
            return Poll::Ready(Err(error));
        }
        if self.valve.closed() {
            return Poll::Pending;
        }
        let wire = &mut *self;
        loop {
            let given = wire.frames.give(buffer);
            if given > 0 {
                wire.valve.note(&buffer[..given]);
                return Poll::Ready(Ok(given));
            }
            let mut read = ReadBuf::new(&mut wire.piece);
            match Pin::new(&mut wire.stream).poll_read(cx, &mut read) {
                Poll::Pending => return Poll::Pending,
                Poll::Ready(Err(error)) => return Poll::Ready(Err(error)),
                Poll::Ready(Ok(())) if read.filled().is_empty() => return Poll::Ready(Ok(0)),
                Poll::Ready(Ok(())) => wire.frames.take(read.filled())?,
            }
        }
    }
}

impl AsyncWrite for Wire {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        if let Some(error) = self.valve.cut_off() {
            return Poll::Ready(Err(error));
        }
        Pin::new(&mut self.stream).poll_write(cx, bytes)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_close(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }
}

/// Tokio's timers, and connections that were opened elsewhere.
#[derive(Debug, Clone)]
pub(super) struct Wires(Tokio);

impl Reactor for Wires {
    type TcpStream = Wire;
    type Sleep = tokio::time::Sleep;

    #[allow(refining_impl_trait, reason = "there is no such stream to hide")]
    fn register<H: Send + 'static>(&self, _: H) -> io::Result<Wire> {
        Err(io::ErrorKind::Unsupported.into())
    }

    fn sleep(&self, duration: Duration) -> Self::Sleep {
        self.0.sleep(duration)
    }

    fn interval(&self, every: Duration) -> impl Items<Item = Instant> + Send + 'static {
        self.0.interval(every)
    }

    fn tcp_connect_addr(
        &self,
        _: SocketAddr,
    ) -> impl Future<Output = io::Result<Wire>> + Send + 'static {
        std::future::ready(Err(io::ErrorKind::Unsupported.into()))
    }
}
