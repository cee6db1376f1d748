//! HTTP as far as reading needs it: GET over connections that are kept, and nothing else. That no other method can be
//! sent is a property of [`Http`], which has no function for one.

use std::error::Error as _;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use http_body_util::{BodyExt as _, Empty, LengthLimitError, Limited};
use hyper::body::Incoming;
use hyper::client::conn::http1::{SendRequest, handshake};
use hyper::header::{ACCEPT, AUTHORIZATION, HOST, HeaderValue, USER_AGENT};
use hyper::{Request, Response, StatusCode};
use hyper_util::rt::TokioIo;
use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, utf8_percent_encode};
use tokio::time::timeout_at;

use crate::collect::connect::open_tcp;
use crate::config::url::ManagementServer;
use crate::evidence::{Reason, Why};

/// How long one answer may take: a busy broker counts a thousand queues for a page of them.
pub(super) const REQUEST_TIMEOUT: Duration = Duration::from_secs(10);

/// How long one that lists thousands may take. After a minute RabbitMQ itself hangs up.
const LONG: u32 = 5;

/// No answer that is asked for comes near it, and memory is bounded by it.
const MAX_BODY: usize = 32 * 1024 * 1024;

/// Names in a path keep only these as they are.
const IN_PATH: &AsciiSet = &NON_ALPHANUMERIC
    .remove(b'-')
    .remove(b'_')
    .remove(b'.')
    .remove(b'~');

/// A client of one server that can only read.
pub(super) struct Http {
    server: ManagementServer,
    authorization: HeaderValue,
    host: HeaderValue,
    /// Connections that wait for their next request.
    idle: Mutex<Vec<SendRequest<Empty<Bytes>>>>,
    limit: usize,
    patience: Duration,
    /// From then on nothing is waited for.
    end: Option<Instant>,
}

/// What came back, whatever its status.
pub(super) struct Answer {
    pub(super) status: StatusCode,
    pub(super) body: Bytes,
}

/// Percent-encodes a name for a path.
pub(super) fn segment(name: &str) -> String {
    // A path of dots alone is a way upwards to whoever normalises it.
    if name.bytes().all(|byte| byte == b'.') {
        return name.replace('.', "%2E");
    }
    utf8_percent_encode(name, IN_PATH).to_string()
}

impl Http {
    pub(super) fn new(server: &ManagementServer, end: Option<Instant>) -> Result<Self, Why> {
        let login = format!("{}:{}", server.username, server.password.expose());
        let mut authorization = header(&format!("Basic {}", STANDARD.encode(login)), "a login")?;
        authorization.set_sensitive(true);
        let host = if server.host.contains(':') {
            format!("[{}]:{}", server.host, server.port)
        } else {
            format!("{}:{}", server.host, server.port)
        };
        Ok(Self {
            host: header(&host, "a host's name")?,
            server: server.clone(),
            authorization,
            idle: Mutex::default(),
            limit: MAX_BODY,
            patience: REQUEST_TIMEOUT,
            end,
        })
    }

    /// The same with other limits.
    #[cfg(test)]
    pub(super) fn with_limits(self, limit: usize, patience: Duration) -> Self {
        Self {
            limit,
            patience,
            ..self
        }
    }

    /// Gets `path`, which begins with `/api` and is percent-encoded, below the server's prefix.
    pub(super) async fn get(&self, path: &str) -> Result<Answer, Why> {
        self.get_within(path, self.patience).await
    }

    /// As [`Http::get`], for a list of thousands.
    pub(super) async fn get_long(&self, path: &str) -> Result<Answer, Why> {
        self.get_within(path, self.patience * LONG).await
    }

    async fn get_within(&self, path: &str, patience: Duration) -> Result<Answer, Why> {
        let until = Instant::now() + patience;
        let end = self.end.filter(|end| *end < until);
        timeout_at(end.unwrap_or(until).into(), self.get_patiently(path))
            .await
            .unwrap_or_else(|_| {
                Err(if end.is_some() {
                    let detail = format!("the deadline came before {} answered", self.server);
                    Why::new(Reason::Truncated, detail)
                } else {
                    let seconds = patience.as_secs_f32();
                    let detail = format!("{} did not answer within {seconds} s", self.server);
                    Why::new(Reason::TimedOut, detail)
                })
            })
    }

    async fn get_patiently(&self, path: &str) -> Result<Answer, Why> {
        while let Some(mut kept) = self.take_idle() {
            // The server closes connections when it likes; one that it closed is no failure.
            if kept.ready().await.is_err() {
                continue;
            }
            match self.exchange(&mut kept, path).await {
                Ok(answer) => {
                    self.keep(kept);
                    return Ok(answer);
                }
                Err(Failure::Unanswered(_)) => {}
                Err(Failure::Other(why)) => return Err(why),
            }
        }
        let mut fresh = self.connect().await?;
        let answer = self.exchange(&mut fresh, path).await;
        let answer = answer.map_err(|failure| match failure {
            Failure::Unanswered(why) | Failure::Other(why) => why,
        })?;
        self.keep(fresh);
        Ok(answer)
    }

    async fn connect(&self) -> Result<SendRequest<Empty<Bytes>>, Why> {
        let server = &self.server;
        let stream = open_tcp(&server.host, server.port, server.tls.as_ref()).await?;
        let (sender, connection) = handshake(TokioIo::new(stream))
            .await
            .map_err(|error| self.failed(&error))?;
        // Ends with the sender; its errors come out of the requests too.
        tokio::spawn(async move {
            let _ = connection.await;
        });
        Ok(sender)
    }

    async fn exchange(
        &self,
        sender: &mut SendRequest<Empty<Bytes>>,
        path: &str,
    ) -> Result<Answer, Failure> {
        let request = self.request(path).map_err(Failure::Other)?;
        let response = sender.send_request(request).await.map_err(|error| {
            let why = self.failed(&error);
            if error.is_incomplete_message() || error.is_canceled() || error.is_closed() {
                Failure::Unanswered(why)
            } else {
                Failure::Other(why)
            }
        })?;
        self.whole(response).await.map_err(Failure::Other)
    }

    fn request(&self, path: &str) -> Result<Request<Empty<Bytes>>, Why> {
        Request::get(format!("{}{path}", self.server.path_prefix))
            .header(HOST, &self.host)
            .header(AUTHORIZATION, &self.authorization)
            .header(ACCEPT, "application/json")
            .header(
                USER_AGENT,
                concat!("celery-doctor/", env!("CARGO_PKG_VERSION")),
            )
            .body(Empty::new())
            .map_err(|_| {
                let detail = format!("{} has a path that no request can have", self.server);
                Why::new(Reason::Unsupported, detail)
            })
    }

    async fn whole(&self, response: Response<Incoming>) -> Result<Answer, Why> {
        let status = response.status();
        let body = Limited::new(response.into_body(), self.limit);
        let body = body.collect().await.map_err(|error| {
            if error.is::<LengthLimitError>() {
                let megabytes = self.limit / (1024 * 1024);
                let detail = format!(
                    "an answer of {} is larger than {megabytes} MiB",
                    self.server
                );
                return Why::new(Reason::Truncated, detail);
            }
            Why::new(
                Reason::Unreachable,
                format!("an answer of {} broke off", self.server),
            )
        })?;
        Ok(Answer {
            status,
            body: body.to_bytes(),
        })
    }

    /// Why no answer came. Holds nothing of what came in its place.
    fn failed(&self, error: &hyper::Error) -> Why {
        let server = &self.server;
        if error.is_parse() {
            let hint = if server.tls.is_none() {
                "; if it wants TLS, write https://"
            } else {
                ""
            };
            let detail = format!("{server} does not answer in HTTP{hint}");
            return Why::new(Reason::Malformed, detail);
        }
        let cause = error
            .source()
            .and_then(|source| source.downcast_ref::<std::io::Error>())
            .map_or_else(String::new, |cause| format!(": {}", cause.kind()));
        let detail = format!("{server} closed the connection without an answer{cause}");
        Why::new(Reason::Unreachable, detail)
    }

    fn take_idle(&self) -> Option<SendRequest<Empty<Bytes>>> {
        self.idle
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .pop()
    }

    fn keep(&self, sender: SendRequest<Empty<Bytes>>) {
        self.idle
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .push(sender);
    }

    pub(super) fn server(&self) -> &ManagementServer {
        &self.server
    }
}

/// Why an exchange failed.
enum Failure {
    /// The connection ended before a byte came back, as one does that was kept too long.
    Unanswered(Why),
    Other(Why),
}

fn header(text: &str, what: &str) -> Result<HeaderValue, Why> {
    HeaderValue::from_str(text).map_err(|_| {
        let detail = format!("the URL of the management API has {what} that no request can have");
        Why::new(Reason::Unsupported, detail)
    })
}
