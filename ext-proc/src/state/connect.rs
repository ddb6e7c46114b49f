//! How the controller is reached: address, TLS, token.
//!
//! What must always hold: a token never crosses a network in the clear: with `http` it is sent to loopback alone. Each connection is made with the
//! newest certificates that were found good, and with the token as it is then.

use std::hash::{BuildHasher, RandomState};
use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use http::Uri;
use tonic::metadata::{Ascii, MetadataValue};
use tonic::transport::{Certificate, Channel, ClientTlsConfig, Endpoint, Identity};

use crate::certificates::{Rotating, certificates};

const CONNECT_TIMEOUT: Duration = Duration::from_secs(3);
const KEEPALIVE_INTERVAL: Duration = Duration::from_secs(5);
const KEEPALIVE_TIMEOUT: Duration = Duration::from_secs(5);
const WINDOW_BYTES: u32 = 4 << 20;

/// Where controllers are, any of which serves, and how a filter shows who it is.
#[derive(Clone, Debug)]
pub struct Controller {
    urls: Vec<String>,
    /// The one that is tried.
    at: usize,
    token: Option<PathBuf>,
    tls: Option<Arc<Rotating<ClientTlsConfig>>>,
}

/// What a filter shows the controller, and by what it knows it.
#[derive(Clone, Debug, Default)]
pub struct Credentials {
    /// PEM file of the authorities that sign the controller's certificate.
    pub ca: Option<PathBuf>,
    /// PEM files of our certificate and its key.
    pub identity: Option<(PathBuf, PathBuf)>,
    /// File that holds a bearer token.
    pub token: Option<PathBuf>,
    /// The name in the controller's certificate, where it is not the host of the URL.
    pub server_name: Option<String>,
}

/// Why there is no connection.
#[derive(Debug, thiserror::Error)]
pub enum ConnectError {
    /// The URL cannot be used.
    #[error("state URL `{url}`: {reason}")]
    Url {
        /// As given.
        url: String,
        /// What is wrong and what would be right.
        reason: String,
    },
    /// The certificates make no TLS.
    #[error("the certificates towards the controller cannot be used: {0}")]
    Certificates(String),
    /// The file of the token cannot be read.
    #[error("cannot read {path}: {source}")]
    File {
        /// The file.
        path: String,
        /// Why.
        source: std::io::Error,
    },
    /// The token is not one.
    #[error("{0} does not hold a token: it must be one line of visible ASCII characters")]
    Token(String),
    /// The transport refused.
    #[error("cannot reach the controller: {}", causes(.0))]
    Transport(#[from] tonic::transport::Error),
}

fn causes(error: &dyn std::error::Error) -> String {
    let rest = std::iter::successors(error.source(), |error| error.source());
    let all: Vec<String> = std::iter::once(error.to_string())
        .chain(rest.map(ToString::to_string))
        .collect();
    all.join(": ")
}

impl Controller {
    /// Checks URLs, with commas between them, and credentials against each other. Which is tried first is left to chance, so that the filters of
    /// several controllers are spread over them.
    ///
    /// # Errors
    /// A scheme other than `http`, `https` and `unix`; `https` without authorities; a token over plain `http` to
    /// another host; certificates that cannot be used.
    pub fn new(urls: &str, credentials: Credentials) -> Result<Self, ConnectError> {
        let urls: Vec<String> = urls.split(',').map(|url| url.trim().to_owned()).collect();
        urls.iter().try_for_each(|url| check(url, &credentials))?;
        let random = RandomState::new().hash_one(urls.len());
        let token = credentials.token.clone();
        let tls = credentials.open().map_err(ConnectError::Certificates)?;
        Ok(Self {
            at: usize::try_from(random).unwrap_or(0) % urls.len(),
            urls,
            token,
            tls: tls.map(Arc::new),
        })
    }

    /// Takes new certificates up, for as long as it is awaited; tells what became of them, `taken` or `refused`.
    pub async fn follow_certificates(&self, tell: impl Fn(&'static str)) {
        match &self.tls {
            Some(tls) => tls.follow(tell).await,
            None => std::future::pending().await,
        }
    }

    /// The URL of the one that is tried, as given.
    pub fn url(&self) -> &str {
        self.urls.get(self.at).map_or("", String::as_str)
    }

    /// From now on the next one is tried.
    pub(super) fn move_on(&mut self) {
        self.at = (self.at + 1) % self.urls.len();
    }

    /// Connects.
    pub(super) async fn connect(&self) -> Result<(Channel, Option<MetadataValue<Ascii>>), ConnectError> {
        let mut endpoint = Endpoint::from_shared(self.url().to_owned())?
            .connect_timeout(CONNECT_TIMEOUT)
            .tcp_nodelay(true)
            .http2_keep_alive_interval(KEEPALIVE_INTERVAL)
            .keep_alive_timeout(KEEPALIVE_TIMEOUT)
            .keep_alive_while_idle(true)
            .initial_stream_window_size(WINDOW_BYTES)
            .initial_connection_window_size(WINDOW_BYTES);
        if let Some(tls) = &self.tls {
            endpoint = endpoint.tls_config(ClientTlsConfig::clone(&tls.get()))?;
        }
        let token = match &self.token {
            Some(path) => Some(token(path).await?),
            None => None,
        };
        Ok((endpoint.connect().await?, token))
    }
}

impl Credentials {
    /// The client's side of TLS, where there are authorities.
    fn open(self) -> Result<Option<Rotating<ClientTlsConfig>>, String> {
        let Some(ca) = self.ca else { return Ok(None) };
        let mut files = vec![ca];
        if let Some((certificate, key)) = self.identity {
            files.extend([certificate, key]);
        }
        let name = self.server_name;
        Rotating::open(files, move |contents| client(contents, name.as_deref())).map(Some)
    }
}

fn client(contents: &[Vec<u8>], server_name: Option<&str>) -> Result<ClientTlsConfig, String> {
    let (authorities, identity) = match contents {
        [authorities] => (authorities, None),
        [authorities, certificate, key] => (authorities, Some(Identity::from_pem(certificate, key))),
        _ => return Err("authorities, and a certificate with its key, are needed".to_owned()),
    };
    certificates(authorities)?;
    let mut tls = ClientTlsConfig::new().ca_certificate(Certificate::from_pem(authorities));
    if let Some(identity) = identity {
        tls = tls.identity(identity);
    }
    if let Some(name) = server_name {
        tls = tls.domain_name(name);
    }
    // The transport looks at it when it is given one.
    let tried = Endpoint::from_static("https://controller").tls_config(tls.clone());
    tried.map(|_| tls).map_err(|error| causes(&error))
}

fn check(url: &str, credentials: &Credentials) -> Result<(), ConnectError> {
    let refuse = |reason: &str| {
        Err(ConnectError::Url {
            url: url.to_owned(),
            reason: reason.to_owned(),
        })
    };
    let tls = credentials.ca.is_some() || credentials.identity.is_some() || credentials.server_name.is_some();
    if let Some(path) = url.strip_prefix("unix:") {
        if !path.starts_with('/') || tls {
            return refuse("give unix:/absolute/path, without TLS options");
        }
    } else {
        let uri: Uri = match url.parse() {
            Ok(uri) => uri,
            Err(_) => return refuse("give http://host:port, https://host:port or unix:/path"),
        };
        match (uri.scheme_str(), uri.host()) {
            (Some("https"), Some(_)) if credentials.ca.is_none() => {
                return refuse("https needs the controller's authorities: set --state-ca");
            }
            (Some("https"), Some(_)) => {}
            (Some("http"), Some(_)) if tls => return refuse("TLS options need https"),
            (Some("http"), Some(host)) if credentials.token.is_some() && !is_loopback(host) => {
                return refuse("a token may not travel in the clear: use https");
            }
            (Some("http"), Some(_)) => {}
            _ => return refuse("give http://host:port, https://host:port or unix:/path"),
        }
    }
    Ok(())
}

async fn token(path: &Path) -> Result<MetadataValue<Ascii>, ConnectError> {
    let text = String::from_utf8(read(path).await?).unwrap_or_default();
    let text = text.trim();
    if text.is_empty() {
        return Err(ConnectError::Token(path.display().to_string()));
    }
    format!("Bearer {text}")
        .parse()
        .map_err(|_| ConnectError::Token(path.display().to_string()))
}

async fn read(path: &Path) -> Result<Vec<u8>, ConnectError> {
    tokio::fs::read(path).await.map_err(|source| ConnectError::File {
        path: path.display().to_string(),
        source,
    })
}

fn is_loopback(host: &str) -> bool {
    let address = host.trim_start_matches('[').trim_end_matches(']');
    host == "localhost" || address.parse::<IpAddr>().is_ok_and(|ip| ip.is_loopback())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn checked(url: &str, credentials: Credentials) -> Result<(), String> {
        Controller::new(url, credentials).map(drop).map_err(|e| e.to_string())
    }

    fn token() -> Credentials {
        Credentials {
            token: Some("/token".into()),
            ..Credentials::default()
        }
    }

    #[test]
    fn a_token_stays_off_the_open_network() {
        assert!(checked("http://controller:9100", Credentials::default()).is_ok());
        assert!(checked("http://127.0.0.1:9100", token()).is_ok());
        assert!(checked("http://[::1]:9100", token()).is_ok());
        assert!(checked("unix:/run/kthena.sock", token()).is_ok());
        assert!(
            checked("http://controller:9100", token())
                .unwrap_err()
                .contains("https")
        );
    }

    #[test]
    fn a_url_that_cannot_work_says_what_would() {
        for url in ["controller:9100", "ftp://a:1", "", "unix:relative"] {
            assert!(
                checked(url, Credentials::default()).unwrap_err().contains("unix:/"),
                "{url}"
            );
        }
        let without_ca = checked("https://controller:9100", Credentials::default());
        assert!(without_ca.unwrap_err().contains("--state-ca"));
        let ca = Credentials {
            ca: Some("/ca.pem".into()),
            ..Credentials::default()
        };
        let missing = checked("https://controller:9100", ca.clone()).unwrap_err();
        assert!(missing.contains("/ca.pem"), "{missing}");
        assert!(checked("http://controller:9100", ca).is_err());
    }

    #[test]
    fn of_several_each_has_its_turn_and_none_may_be_wrong() {
        let mut controller = Controller::new("http://a:1, http://b:1,http://c:1", Credentials::default()).unwrap();
        let mut tried: Vec<String> = Vec::new();
        for _ in 0..3 {
            tried.push(controller.url().to_owned());
            controller.move_on();
        }
        assert_eq!(controller.url(), tried[0]);
        tried.sort();
        assert_eq!(tried, ["http://a:1", "http://b:1", "http://c:1"]);
        assert!(
            checked("http://a:1,b", Credentials::default())
                .unwrap_err()
                .contains("`b`")
        );
    }
}
