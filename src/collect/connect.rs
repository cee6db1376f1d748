//! Byte streams to servers: TCP and TLS, and for Redis Unix sockets and sentinels.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use rustls::client::WebPkiServerVerifier;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName, UnixTime};
use rustls::{
    CertificateError, ClientConfig, DigitallySignedStruct, RootCertStore, SignatureScheme,
};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpStream, UnixStream};
use tokio::time::timeout;
use tokio_rustls::TlsConnector;

use super::SERVER_TIMEOUT;
use super::redis::client::Client;
use crate::config::url::{Endpoint, RedisServer, Tls, Verify, is_name};
use crate::evidence::{Reason, RedisAddress, RedisEndpoint, RedisTls, Why};

/// A byte stream of any kind.
pub(crate) trait Bytes: AsyncRead + AsyncWrite + Send + Unpin {}
impl<S: AsyncRead + AsyncWrite + Send + Unpin> Bytes for S {}

/// A byte stream to a server.
pub(crate) type Stream = Box<dyn Bytes>;

/// Connects to the server, by way of its sentinels where it has some. No longer than `patience` is waited.
pub(crate) async fn open(server: &RedisServer, patience: Duration) -> Result<Stream, Why> {
    let connected = timeout(patience, connect(server)).await;
    connected.unwrap_or_else(|_| {
        Err(Why::new(
            Reason::TimedOut,
            format!(
                "{} did not answer within {} s",
                name(&server.endpoint),
                patience.as_secs_f64()
            ),
        ))
    })
}

/// Connects to a host and port, over TLS where that is given.
pub(crate) async fn open_tcp(host: &str, port: u16, tls: Option<&Tls>) -> Result<Stream, Why> {
    let connected = timeout(SERVER_TIMEOUT, tcp(host, port, tls)).await;
    connected.unwrap_or_else(|_| {
        Err(Why::new(
            Reason::TimedOut,
            format!(
                "{host}:{port} did not answer within {} s",
                SERVER_TIMEOUT.as_secs()
            ),
        ))
    })
}

/// The server's address, as a person writes it.
pub(crate) fn name(endpoint: &Endpoint) -> String {
    match endpoint {
        Endpoint::Tcp { host, port } => format!("{host}:{port}"),
        Endpoint::Socket { path } => path.display().to_string(),
        Endpoint::Sentinel { master, .. } => format!("sentinel master {master}"),
    }
}

/// How the server was reached, for commands that a person runs. Sentinels are asked once more for the master.
pub(crate) async fn reached(server: &RedisServer) -> Option<RedisEndpoint> {
    let tcp = |host: &str, port| RedisAddress::Tcp {
        host: host.to_owned(),
        port,
    };
    let address = match &server.endpoint {
        Endpoint::Tcp { host, port } => tcp(host, *port),
        Endpoint::Socket { path } => RedisAddress::Socket(path.to_str()?.to_owned()),
        Endpoint::Sentinel { nodes, master } => {
            let asked = timeout(SERVER_TIMEOUT, master_address(nodes, master)).await;
            let (host, port) = asked.ok()?.ok()?;
            tcp(&host, port)
        }
    };
    let shown = |path: &Option<PathBuf>| Some(path.as_ref()?.to_str()?.to_owned());
    Some(RedisEndpoint {
        address,
        database: server.db,
        // Alone, or unlike a name, it is more often a password in the wrong place.
        username: server
            .username
            .clone()
            .filter(|name| server.password.is_some() && is_name(name)),
        password: server.password.is_some(),
        tls: server.tls.as_ref().map(|tls| RedisTls {
            checked: tls.verify == Verify::Full,
            ca: shown(&tls.ca),
            cert: shown(&tls.cert),
            key: shown(&tls.key),
        }),
    })
}

async fn connect(server: &RedisServer) -> Result<Stream, Why> {
    match &server.endpoint {
        Endpoint::Tcp { host, port } => tcp(host, *port, server.tls.as_ref()).await,
        Endpoint::Socket { path } => {
            let stream = UnixStream::connect(path).await;
            Ok(Box::new(
                stream.map_err(|error| unreachable(&path.display(), &error))?,
            ))
        }
        Endpoint::Sentinel { nodes, master } => {
            let (host, port) = master_address(nodes, master).await?;
            tcp(&host, port, server.tls.as_ref()).await
        }
    }
}

/// Connects over TCP, with TLS where that is asked for.
pub(crate) async fn tcp(host: &str, port: u16, tls: Option<&Tls>) -> Result<Stream, Why> {
    let address = format!("{host}:{port}");
    let stream = TcpStream::connect((host, port))
        .await
        .map_err(|error| unreachable(&address, &error))?;
    // Requests are small and wait for their replies.
    stream
        .set_nodelay(true)
        .map_err(|error| unreachable(&address, &error))?;
    let Some(tls) = tls else {
        return Ok(Box::new(stream));
    };
    let config = tls_config(tls)?;
    let name = ServerName::try_from(host.to_owned()).map_err(|_| {
        Why::new(
            Reason::Unreachable,
            format!("{host} is no name that a certificate can be for"),
        )
    })?;
    let stream = TlsConnector::from(Arc::new(config))
        .connect(name, stream)
        .await
        .map_err(|error| {
            let hint = if is_not_tls(&error) {
                "the server does not speak TLS on this port"
            } else {
                "give its authority with --tls-ca, a client certificate with --tls-cert and --tls-key"
            };
            Why::new(Reason::Unreachable, format!("TLS with {address} failed: {error}; {hint}"))
        })?;
    Ok(Box::new(stream))
}

/// Whether what came back was no TLS at all.
fn is_not_tls(error: &io::Error) -> bool {
    let inner = error.get_ref().and_then(|inner| inner.downcast_ref());
    matches!(
        inner,
        Some(rustls::Error::InvalidMessage(
            rustls::InvalidMessage::InvalidContentType
        ))
    )
}

fn unreachable(address: &dyn std::fmt::Display, error: &io::Error) -> Why {
    Why::new(
        Reason::Unreachable,
        format!("no connection to {address}: {error}"),
    )
}

/// Asks one sentinel after the other for the master's address.
async fn master_address(nodes: &[(String, u16)], master: &str) -> Result<(String, u16), Why> {
    let mut last = Why::new(Reason::Unreachable, "the URL names no sentinel");
    for (host, port) in nodes {
        match ask_sentinel(host, *port, master).await {
            Ok(Some(address)) => return Ok(address),
            Ok(None) => {
                last = Why::new(
                    Reason::Unreachable,
                    format!("sentinel {host}:{port} watches no master named {master}"),
                );
            }
            Err(why) => last = why,
        }
    }
    Err(last)
}

async fn ask_sentinel(host: &str, port: u16, master: &str) -> Result<Option<(String, u16)>, Why> {
    let stream = tcp(host, port, None).await?;
    let client = Client::over(stream, None, 0, SERVER_TIMEOUT).await?;
    let mut command = ::redis::cmd("SENTINEL");
    command.arg("get-master-addr-by-name").arg(master);
    let answer: Option<(String, u16)> = client.ask(&command).await?;
    Ok(answer)
}

fn tls_config(tls: &Tls) -> Result<ClientConfig, Why> {
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let builder = ClientConfig::builder_with_provider(Arc::clone(&provider))
        .with_safe_default_protocol_versions()
        .map_err(|error| bad_tls(&error))?;
    let verified = match tls.verify {
        Verify::Full => builder.with_root_certificates(roots(tls.ca.as_deref())?),
        Verify::NoHostname => {
            let roots = Arc::new(roots(tls.ca.as_deref())?);
            let chain = WebPkiServerVerifier::builder_with_provider(roots, Arc::clone(&provider))
                .build()
                .map_err(|error| bad_tls(&error))?;
            builder
                .dangerous()
                .with_custom_certificate_verifier(Arc::new(Lenient {
                    chain: Some(chain),
                    provider,
                }))
        }
        Verify::None => builder
            .dangerous()
            .with_custom_certificate_verifier(Arc::new(Lenient {
                chain: None,
                provider,
            })),
    };
    match (&tls.cert, &tls.key) {
        (Some(cert), Some(key)) => {
            let key = PrivateKeyDer::from_pem_file(key).map_err(|error| bad_file(key, &error))?;
            verified
                .with_client_auth_cert(certificates(cert)?, key)
                .map_err(|error| bad_tls(&error))
        }
        _ => Ok(verified.with_no_client_auth()),
    }
}

fn roots(file: Option<&Path>) -> Result<RootCertStore, Why> {
    let mut roots = RootCertStore::empty();
    if let Some(file) = file {
        for certificate in certificates(file)? {
            roots.add(certificate).map_err(|error| bad_tls(&error))?;
        }
    } else {
        let found = rustls_native_certs::load_native_certs();
        roots.add_parsable_certificates(found.certs);
    }
    if roots.is_empty() {
        return Err(Why::new(
            Reason::Unreachable,
            "no certificate authority is trusted: the system has none; give one with --tls-ca",
        ));
    }
    Ok(roots)
}

fn certificates(file: &Path) -> Result<Vec<CertificateDer<'static>>, Why> {
    CertificateDer::pem_file_iter(file)
        .and_then(Iterator::collect)
        .map_err(|error| bad_file(file, &error))
}

fn bad_file(file: &Path, error: &rustls::pki_types::pem::Error) -> Why {
    let file = file.display();
    Why::new(
        Reason::Unreachable,
        format!("{file} is not a PEM file that can be used: {error}"),
    )
}

fn bad_tls(error: &dyn std::fmt::Display) -> Why {
    Why::new(Reason::Unreachable, format!("TLS can't be set up: {error}"))
}

/// Checks as little of a certificate as the URL asks for: `ssl_check_hostname=false` or `ssl_cert_reqs=none`.
#[derive(Debug)]
struct Lenient {
    /// Checks the chain, where that is asked for.
    chain: Option<Arc<WebPkiServerVerifier>>,
    provider: Arc<rustls::crypto::CryptoProvider>,
}

impl ServerCertVerifier for Lenient {
    fn verify_server_cert(
        &self,
        certificate: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        name: &ServerName<'_>,
        ocsp: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        let Some(chain) = &self.chain else {
            return Ok(ServerCertVerified::assertion());
        };
        match chain.verify_server_cert(certificate, intermediates, name, ocsp, now) {
            Err(rustls::Error::InvalidCertificate(
                CertificateError::NotValidForName | CertificateError::NotValidForNameContext { .. },
            )) => Ok(ServerCertVerified::assertion()),
            other => other,
        }
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        let algorithms = &self.provider.signature_verification_algorithms;
        rustls::crypto::verify_tls12_signature(message, certificate, signature, algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        let algorithms = &self.provider.signature_verification_algorithms;
        rustls::crypto::verify_tls13_signature(message, certificate, signature, algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.provider
            .signature_verification_algorithms
            .supported_schemes()
    }
}
