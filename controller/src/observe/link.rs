//! One kept-alive HTTP/1.1 connection to one endpoint, driven by the task that uses it.
//!
//! The connection has no task of its own: it is polled while a request is under way, which costs no hand-over between
//! tasks. What must always hold: after any failure the connection is dropped, so that no answer can be taken for that of
//! another request; what is read is bounded. A connection that the server closed while it was idle is replaced once per
//! request, silently. Over TLS the server's certificate is not verified, as pods have no names to verify: the same holds
//! for the requests that Envoy sends them.

use std::net::SocketAddr;
use std::pin::{Pin, pin};
use std::sync::Arc;

use bytes::Bytes;
use http::{Request, StatusCode, header};
use http_body_util::{BodyExt, Empty};
use hyper::client::conn::http1;
use hyper_util::rt::TokioIo;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tokio_rustls::rustls::pki_types::ServerName;

/// Largest read buffer of a connection, bytes.
const READ_BUFFER: usize = 64 * 1024;

/// Why a request failed.
#[derive(Debug, thiserror::Error)]
pub(super) enum Failure {
    /// No connection.
    #[error("cannot connect: {0}")]
    Connect(std::io::Error),
    /// The connection broke, or what came over it is not HTTP.
    #[error("the connection failed: {0}")]
    Broken(#[from] hyper::Error),
    /// The answer is not 200.
    #[error("answered {0}")]
    Status(StatusCode),
    /// The answer is larger than allowed.
    #[error("the answer is larger than --scrape-max-bytes")]
    TooLarge,
    /// The deadline passed.
    #[error("no answer in time")]
    Timeout,
}

trait Stream: AsyncRead + AsyncWrite + Send + Unpin {}
impl<T: AsyncRead + AsyncWrite + Send + Unpin> Stream for T {}

type Driver = http1::Connection<TokioIo<Box<dyn Stream>>, Empty<Bytes>>;

struct Connection {
    sender: http1::SendRequest<Empty<Bytes>>,
    /// `None` = it has ended. It must be dropped then: whoever waits for it would not be told otherwise.
    driver: Option<Pin<Box<Driver>>>,
}

/// The connection to one endpoint, open or not.
pub(super) struct Link {
    address: SocketAddr,
    host: String,
    tls: Option<TlsConnector>,
    max_bytes: usize,
    connection: Option<Connection>,
}

// === impl Failure ===

impl Failure {
    /// The reason as a metric's label.
    pub(super) fn label(&self) -> &'static str {
        match self {
            Self::Connect(_) => "connect",
            Self::Broken(_) => "broken",
            Self::Status(_) => "status",
            Self::TooLarge => "too_large",
            Self::Timeout => "timeout",
        }
    }
}

// === impl Link ===

impl Link {
    pub(super) fn new(address: SocketAddr, tls: Option<TlsConnector>, max_bytes: usize) -> Self {
        Self {
            address,
            host: address.to_string(),
            tls,
            max_bytes,
            connection: None,
        }
    }

    /// Closes the connection.
    pub(super) fn close(&mut self) {
        self.connection = None;
    }

    /// Asks for `path` and hands the body to `sink` as it comes. Dropping the future leaves the connection in an unknown
    /// state: [`Link::close`] must follow.
    pub(super) async fn get(&mut self, path: &'static str, mut sink: impl FnMut(&[u8])) -> Result<(), Failure> {
        if let Some(connection) = self.connection.as_mut().filter(|open| open.driver.is_some()) {
            let mut begun = false;
            let note = |chunk: &[u8]| {
                begun = true;
                sink(chunk);
            };
            match exchange(connection, request(path, &self.host), self.max_bytes, note).await {
                Err(Failure::Broken(_)) if !begun => self.close(),
                result => return self.conclude(result),
            }
        }
        let connection = self.connection.insert(connect(self.address, self.tls.as_ref()).await?);
        let result = exchange(connection, request(path, &self.host), self.max_bytes, sink).await;
        self.conclude(result)
    }

    fn conclude(&mut self, result: Result<(), Failure>) -> Result<(), Failure> {
        // An error status comes with a whole answer: the connection is good.
        if !matches!(result, Ok(()) | Err(Failure::Status(_))) {
            self.close();
        }
        result
    }
}

fn request(path: &'static str, host: &str) -> Request<Empty<Bytes>> {
    let mut request = Request::new(Empty::new());
    *request.uri_mut() = http::Uri::from_static(path);
    if let Ok(host) = host.parse() {
        request.headers_mut().insert(header::HOST, host);
    }
    request
}

async fn connect(address: SocketAddr, tls: Option<&TlsConnector>) -> Result<Connection, Failure> {
    let tcp = TcpStream::connect(address).await.map_err(Failure::Connect)?;
    tcp.set_nodelay(true).map_err(Failure::Connect)?;
    let stream: Box<dyn Stream> = match tls {
        None => Box::new(tcp),
        Some(tls) => {
            let name = ServerName::IpAddress(address.ip().into());
            Box::new(tls.connect(name, tcp).await.map_err(Failure::Connect)?)
        }
    };
    let (sender, driver) = http1::Builder::new()
        .max_buf_size(READ_BUFFER)
        .handshake(TokioIo::new(stream))
        .await?;
    Ok(Connection {
        sender,
        driver: Some(Box::pin(driver)),
    })
}

async fn exchange(
    connection: &mut Connection,
    request: Request<Empty<Bytes>>,
    max_bytes: usize,
    sink: impl FnMut(&[u8]),
) -> Result<(), Failure> {
    let Connection { sender, driver } = connection;
    let mut answer = pin!(answer(sender, request, max_bytes, sink));
    if let Some(open) = driver {
        tokio::select! {
            biased;
            _ = open => {}
            done = &mut answer => return done,
        }
    }
    // The connection has ended: what had arrived before is still handed out.
    *driver = None;
    answer.await
}

async fn answer(
    sender: &mut http1::SendRequest<Empty<Bytes>>,
    request: Request<Empty<Bytes>>,
    max_bytes: usize,
    mut sink: impl FnMut(&[u8]),
) -> Result<(), Failure> {
    sender.ready().await?;
    let response = sender.send_request(request).await?;
    let status = response.status();
    let mut body = response.into_body();
    let mut read = 0;
    while let Some(frame) = body.frame().await {
        let Ok(data) = frame?.into_data() else { continue };
        read += data.len();
        if read > max_bytes {
            return Err(Failure::TooLarge);
        }
        if status == StatusCode::OK {
            sink(&data);
        }
    }
    if status == StatusCode::OK {
        Ok(())
    } else {
        Err(Failure::Status(status))
    }
}

/// A TLS client that takes any certificate.
pub(super) fn tls_connector() -> Result<TlsConnector, rustls::Error> {
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let config = rustls::ClientConfig::builder_with_provider(Arc::clone(&provider))
        .with_safe_default_protocol_versions()?
        .dangerous()
        .with_custom_certificate_verifier(Arc::new(AnyCertificate(provider)))
        .with_no_client_auth();
    Ok(TlsConnector::from(Arc::new(config)))
}

/// Takes any certificate, but checks that the server holds its key.
#[derive(Debug)]
struct AnyCertificate(Arc<rustls::crypto::CryptoProvider>);

impl rustls::client::danger::ServerCertVerifier for AnyCertificate {
    fn verify_server_cert(
        &self,
        _: &rustls::pki_types::CertificateDer<'_>,
        _: &[rustls::pki_types::CertificateDer<'_>],
        _: &ServerName<'_>,
        _: &[u8],
        _: rustls::pki_types::UnixTime,
    ) -> Result<rustls::client::danger::ServerCertVerified, rustls::Error> {
        Ok(rustls::client::danger::ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        cert: &rustls::pki_types::CertificateDer<'_>,
        dss: &rustls::DigitallySignedStruct,
    ) -> Result<rustls::client::danger::HandshakeSignatureValid, rustls::Error> {
        rustls::crypto::verify_tls12_signature(message, cert, dss, &self.0.signature_verification_algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &rustls::pki_types::CertificateDer<'_>,
        dss: &rustls::DigitallySignedStruct,
    ) -> Result<rustls::client::danger::HandshakeSignatureValid, rustls::Error> {
        rustls::crypto::verify_tls13_signature(message, cert, dss, &self.0.signature_verification_algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<rustls::SignatureScheme> {
        self.0.signature_verification_algorithms.supported_schemes()
    }
}
