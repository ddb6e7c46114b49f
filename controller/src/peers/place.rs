//! Where other controllers are, and how one is called: address, TLS, token.
//!
//! What must always hold: a token never crosses a network in the clear. Files are read anew for each connection, so that rotated certificates and
//! tokens are taken up.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::str::FromStr;
use std::time::Duration;

use tonic::metadata::{Ascii, MetadataValue};
use tonic::transport::{Certificate, Channel, ClientTlsConfig, Endpoint, Identity};

/// A name, and the port that all controllers behind it listen on.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Place {
    /// A name of which every address is one of a controller, or an address.
    pub host: String,
    /// The port.
    pub port: u16,
}

/// What a controller shows another, and by what it knows it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Credentials {
    /// PEM file of the authorities that sign the controllers' certificates.
    pub ca: PathBuf,
    /// PEM file of this controller's certificate chain.
    pub cert: PathBuf,
    /// PEM file of its key.
    pub key: PathBuf,
    /// The name in their certificates, where it is not the one of the place.
    pub server_name: Option<String>,
}

/// How other controllers are found and followed.
#[derive(Clone, Debug)]
pub struct Settings {
    /// Where they are; none = this controller is alone.
    pub places: Vec<Place>,
    /// TLS; `None` = without.
    pub tls: Option<Credentials>,
    /// A file with the bearer token.
    pub token_file: Option<PathBuf>,
    /// The port that this controller listens on.
    pub own_port: u16,
    /// Time from one look-up of the names to the next.
    pub lookup: Duration,
    /// How long one may take to answer, or be silent.
    pub timeout: Duration,
    /// Addresses called at one time.
    pub max: usize,
}

/// Why there is no stream, or no more.
#[derive(Debug, thiserror::Error)]
pub(super) enum Failure {
    #[error("cannot read {path}: {error}")]
    File { path: PathBuf, error: std::io::Error },
    #[error("{0} does not hold a token that can be sent")]
    Token(PathBuf),
    #[error("the token may not travel in the clear: give --state-tls-cert and --state-tls-key")]
    ClearToken,
    #[error("cannot connect: {}", causes(.0))]
    Connect(#[from] tonic::transport::Error),
    #[error("it ended the stream: {}: {}", .0.code(), .0.message())]
    Status(tonic::Status),
    /// With TLS 1.3 one that refuses our certificate says so when we are connected already.
    #[error("the connection ended before it answered, as it does where our certificate is refused: {}", behind(.0))]
    Unanswered(tonic::Status),
    #[error("the connection broke: {}", behind(.0))]
    Broken(tonic::Status),
    #[error("it closed the stream")]
    Closed,
    #[error("it did not begin with a welcome")]
    NoWelcome,
    #[error("it did not answer in time")]
    Silent,
}

fn causes(error: &dyn std::error::Error) -> String {
    let all = std::iter::successors(Some(error), |error| error.source());
    all.map(ToString::to_string).collect::<Vec<_>>().join(": ")
}

/// What made a status here that no other one sent.
fn behind(status: &tonic::Status) -> String {
    std::error::Error::source(status).map_or_else(String::new, causes)
}

// === impl Failure ===

impl Failure {
    /// The reason as a metric's label.
    pub(super) fn label(&self) -> &'static str {
        match self {
            Self::File { .. } | Self::Token(_) | Self::ClearToken => "credentials",
            Self::Connect(_) | Self::Unanswered(_) => "connect",
            Self::Status(_) => "status",
            Self::Broken(_) => "broken",
            Self::Closed => "closed",
            Self::NoWelcome => "no_welcome",
            Self::Silent => "silent",
        }
    }

    /// The same, of one that has not answered yet.
    pub(super) fn before_its_answer(self) -> Self {
        match self {
            Self::Broken(status) => Self::Unanswered(status),
            other => other,
        }
    }
}

impl From<tonic::Status> for Failure {
    fn from(status: tonic::Status) -> Self {
        // What another one sends has no cause here.
        match std::error::Error::source(&status) {
            Some(_) => Self::Broken(status),
            None => Self::Status(status),
        }
    }
}

// === impl Place ===

impl FromStr for Place {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let refused = || format!("{text:?} is no place: write host:port, such as kthena-controller-peers:9911");
        let (host, port) = text.rsplit_once(':').ok_or_else(refused)?;
        let port = port.parse().ok().filter(|port| *port > 0).ok_or_else(refused)?;
        let host = match host.strip_prefix('[').and_then(|host| host.strip_suffix(']')) {
            Some(v6) => v6,
            None if host.contains(':') => return Err(refused()),
            None => host,
        };
        if host.is_empty() || host.contains(['/', '@', ' ']) {
            return Err(refused());
        }
        Ok(Self {
            host: host.to_owned(),
            port,
        })
    }
}

impl Place {
    /// The addresses behind the name.
    pub(super) async fn look_up(&self, within: Duration) -> std::io::Result<Vec<SocketAddr>> {
        let found = tokio::time::timeout(within, tokio::net::lookup_host((&*self.host, self.port)));
        Ok(found.await??.collect())
    }
}

// === impl Settings ===

impl Settings {
    /// The name that is expected in the certificate of a controller at `place`.
    fn server_name<'a>(&'a self, tls: &'a Credentials, place: &'a Place) -> &'a str {
        tls.server_name.as_deref().unwrap_or(&place.host)
    }

    /// Connects to a controller.
    pub(super) async fn connect(&self, place: &Place, address: SocketAddr) -> Result<Channel, Failure> {
        let scheme = if self.tls.is_some() { "https" } else { "http" };
        let mut endpoint = Endpoint::from_shared(format!("{scheme}://{address}"))?
            .connect_timeout(self.timeout)
            .tcp_nodelay(true)
            .http2_keep_alive_interval(self.timeout / 2)
            .keep_alive_timeout(self.timeout / 2)
            .keep_alive_while_idle(true);
        if let Some(tls) = &self.tls {
            let config = ClientTlsConfig::new()
                .ca_certificate(Certificate::from_pem(read(&tls.ca).await?))
                .identity(Identity::from_pem(read(&tls.cert).await?, read(&tls.key).await?))
                .domain_name(self.server_name(tls, place));
            endpoint = endpoint.tls_config(config)?;
        }
        Ok(endpoint.connect().await?)
    }

    /// The token, as it is sent to this address.
    pub(super) async fn token(&self, address: SocketAddr) -> Result<Option<MetadataValue<Ascii>>, Failure> {
        let Some(path) = &self.token_file else {
            return Ok(None);
        };
        if self.tls.is_none() && !address.ip().to_canonical().is_loopback() {
            return Err(Failure::ClearToken);
        }
        let token = String::from_utf8(read(path).await?).unwrap_or_default();
        let value = format!("Bearer {}", token.trim()).parse();
        value.map(Some).map_err(|_| Failure::Token(path.clone()))
    }
}

async fn read(path: &Path) -> Result<Vec<u8>, Failure> {
    tokio::fs::read(path).await.map_err(|error| Failure::File {
        path: path.to_owned(),
        error,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_place_is_a_host_and_a_port() {
        let place = |text: &str| text.parse::<Place>().map(|place| (place.host, place.port));
        assert_eq!(place("a.b.svc:9911"), Ok(("a.b.svc".into(), 9911)));
        assert_eq!(place("127.0.0.1:1"), Ok(("127.0.0.1".into(), 1)));
        assert_eq!(place("[::1]:1"), Ok(("::1".into(), 1)));
        for wrong in ["", "a", ":1", "a:", "a:0", "a:70000", "::1:1", "http://a:1", "[]:1"] {
            assert!(place(wrong).unwrap_err().contains("host:port"), "{wrong}");
        }
    }
}
