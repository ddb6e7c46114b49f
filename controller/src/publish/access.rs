//! Who may subscribe: where the service listens, and how a subscriber proves itself.
//!
//! What must always hold: off loopback nobody gets in without a client certificate or a token; this is decided before the
//! port is bound. A token is compared in constant time and read anew for every subscription, so that it can be rotated in
//! place. Where there are scopes, a client sees what those of the names in its certificate allow. It fails closed: a token file that cannot be read
//! lets nobody in, and neither does a certificate without such a name.
//!
//! Other controllers prove themselves as filters do, and with mutual TLS by the name in their certificate as well; scopes are not for them.

use std::fmt;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::str::FromStr;

use rustls::client::verify_server_name;
use rustls::pki_types::{CertificateDer, ServerName};
use rustls::server::ParsedCertificate;
use subtle::ConstantTimeEq;
use tonic::Extensions;
use tonic::metadata::MetadataMap;
use tonic::transport::server::{TcpConnectInfo, TlsConnectInfo, UdsConnectInfo};

use super::certificates::{CertificateError, Certificates, Tls};
use super::scope::{Namespaces, Rule};

/// Longest token, bytes.
const MAX_TOKEN: u64 = 16 * 1024;

/// Where the state service listens.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Address {
    /// A TCP address.
    Tcp(SocketAddr),
    /// A Unix socket.
    Unix(PathBuf),
}

/// How subscribers prove themselves.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Access {
    /// TLS, mutual when it names client authorities.
    pub tls: Option<Tls>,
    /// A file with the bearer token that subscribers must send.
    pub token_file: Option<PathBuf>,
    /// Names of which the certificate of another controller must have one; empty = no other controller is told anything.
    pub peer_names: Vec<String>,
    /// What clients may see, by the names in their certificates; empty = everyone who gets in sees everything.
    pub scopes: Vec<Rule>,
}

/// Why a subscriber does not get in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Stranger {
    /// It has not the token.
    Token,
    /// Its certificate has no name that a scope is for.
    Name,
}

/// Why the service cannot be offered like this.
#[derive(Debug, thiserror::Error)]
pub enum AccessError {
    /// The address is neither `ip:port` nor `unix:/path`.
    #[error("{0:?} is not an address: write ip:port, or unix:/path for a Unix socket")]
    Address(String),
    /// Off loopback without authentication.
    #[error(
        "--state-listen {0} can be reached from other machines: give --state-tls-cert, --state-tls-key and \
         --state-client-ca (mutual TLS) or --state-token-file (bearer token), or listen on loopback or a Unix socket"
    )]
    Open(SocketAddr),
    /// The file of the token cannot be read.
    #[error("cannot read {path}: {error}")]
    File {
        /// The file.
        path: PathBuf,
        /// What happened.
        error: std::io::Error,
    },
    /// There is no TLS with these files.
    #[error(transparent)]
    Certificates(#[from] CertificateError),
    /// Scopes of clients that have no names.
    #[error("--state-scope goes by the names in the clients' certificates: give --state-client-ca")]
    ScopeWithoutNames,
    /// The token file holds nothing.
    #[error("{0} holds no token")]
    EmptyToken(PathBuf),
}

// === impl Address ===

impl FromStr for Address {
    type Err = AccessError;

    fn from_str(text: &str) -> Result<Self, AccessError> {
        match text.strip_prefix("unix:") {
            Some(path) if path.starts_with('/') => Ok(Self::Unix(path.into())),
            Some(_) => Err(AccessError::Address(text.into())),
            None => text
                .parse()
                .map(Self::Tcp)
                .map_err(|_| AccessError::Address(text.into())),
        }
    }
}

impl fmt::Display for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Tcp(address) => address.fmt(f),
            Self::Unix(path) => write!(f, "unix:{}", path.display()),
        }
    }
}

// === impl Access ===

impl Access {
    /// Checks that an address may be listened on like this, and that the files can be read.
    pub fn check(&self, address: &Address) -> Result<(), AccessError> {
        let mutual = self.tls.as_ref().is_some_and(|tls| tls.client_ca.is_some());
        if let Address::Tcp(address) = address
            && !address.ip().to_canonical().is_loopback()
            && !mutual
            && self.token_file.is_none()
        {
            return Err(AccessError::Open(*address));
        }
        if !mutual && !self.scopes.is_empty() {
            return Err(AccessError::ScopeWithoutNames);
        }
        if let Some(path) = &self.token_file {
            token(path)?;
        }
        self.certificates().map(drop)
    }

    /// Whether tokens travel readable by others on the way.
    pub fn exposes_token(&self, address: &Address) -> bool {
        let remote = matches!(address, Address::Tcp(address) if !address.ip().to_canonical().is_loopback());
        remote && self.token_file.is_some() && self.tls.is_none()
    }

    /// The certificates, if there is TLS.
    pub(super) fn certificates(&self) -> Result<Option<Certificates>, AccessError> {
        let opened = self.tls.as_ref().map(Certificates::open).transpose();
        Ok(opened?)
    }

    /// What a client may see that asks for a subscription like this.
    pub(super) fn allowed(&self, metadata: &MetadataMap, extensions: &Extensions) -> Result<Namespaces, Stranger> {
        if !self.admits(metadata) {
            return Err(Stranger::Token);
        }
        if self.scopes.is_empty() {
            return Ok(Namespaces::All);
        }
        let tcp = extensions.get::<TlsConnectInfo<TcpConnectInfo>>();
        let unix = extensions.get::<TlsConnectInfo<UdsConnectInfo>>();
        let chain = tcp
            .and_then(TlsConnectInfo::peer_certs)
            .or_else(|| unix.and_then(TlsConnectInfo::peer_certs))
            .unwrap_or_default();
        // The first is the client's own, and was verified when it connected.
        let certificate = chain.first().map(webpki::EndEntityCert::try_from);
        let Some(Ok(certificate)) = certificate else {
            return Err(Stranger::Name);
        };
        let names = certificate.valid_dns_names().chain(certificate.valid_uri_names());
        Rule::allowed(&self.scopes, names).ok_or(Stranger::Name)
    }

    /// Whether another controller may follow that has shown these certificates, its own first.
    pub(super) fn admits_peer(&self, certificates: Option<&[CertificateDer<'_>]>) -> bool {
        if self.tls.as_ref().is_none_or(|tls| tls.client_ca.is_none()) {
            return !self.peer_names.is_empty();
        }
        let shown = certificates.and_then(<[_]>::first);
        let Some(shown) = shown.and_then(|shown| ParsedCertificate::try_from(shown).ok()) else {
            return false;
        };
        let names = self
            .peer_names
            .iter()
            .filter_map(|name| ServerName::try_from(&**name).ok());
        names.into_iter().any(|name| verify_server_name(&shown, &name).is_ok())
    }

    /// Whether the token is there, where one is needed.
    pub(super) fn admits(&self, metadata: &MetadataMap) -> bool {
        let Some(path) = &self.token_file else { return true };
        let expected = match token(path) {
            Ok(expected) => expected,
            Err(error) => {
                tracing::error!(%error, "no subscriber is let in");
                return false;
            }
        };
        let given = metadata
            .get("authorization")
            .and_then(|value| value.as_bytes().strip_prefix(b"Bearer "));
        given.is_some_and(|given| given.ct_eq(&expected).into())
    }
}

/// The token of a file, without white space around it.
fn token(path: &Path) -> Result<Vec<u8>, AccessError> {
    use std::io::Read;
    let file_error = |error| AccessError::File {
        path: path.into(),
        error,
    };
    let mut bytes = Vec::new();
    std::fs::File::open(path)
        .and_then(|file| file.take(MAX_TOKEN).read_to_end(&mut bytes))
        .map_err(file_error)?;
    match bytes.trim_ascii() {
        b"" => Err(AccessError::EmptyToken(path.into())),
        token => Ok(token.to_vec()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn address(text: &str) -> Address {
        text.parse().unwrap()
    }

    #[test]
    fn loopback_and_unix_sockets_need_no_proof_and_everything_else_does() {
        let none = Access::default();
        for local in ["127.0.0.1:1", "[::1]:1", "127.9.9.9:1", "unix:/run/state.sock"] {
            assert!(none.check(&address(local)).is_ok(), "{local}");
        }
        for remote in ["0.0.0.0:1", "[::]:1", "10.0.0.1:1"] {
            let error = none.check(&address(remote)).unwrap_err().to_string();
            assert!(error.contains("--state-token-file"), "{error}");
        }
        let one_way = Access {
            tls: Some(Tls {
                cert: "a".into(),
                key: "b".into(),
                client_ca: None,
            }),
            ..Access::default()
        };
        assert!(
            matches!(one_way.check(&address("0.0.0.0:1")), Err(AccessError::Open(_))),
            "TLS alone proves nothing about the client"
        );
    }

    #[test]
    fn an_address_that_is_none_is_told_how_to_be_one() {
        for text in ["", "localhost:80", "unix:relative", "1.2.3.4"] {
            let error = Address::from_str(text).unwrap_err().to_string();
            assert!(error.contains("ip:port"), "{error}");
        }
    }

    #[test]
    fn a_token_is_read_anew_for_every_subscription() {
        let path = std::env::temp_dir().join(format!("kthena-token-{}", std::process::id()));
        std::fs::write(&path, "first\n").unwrap();
        let access = Access {
            token_file: Some(path.clone()),
            ..Access::default()
        };
        let with = |token: &str| {
            let mut metadata = MetadataMap::new();
            metadata.insert("authorization", format!("Bearer {token}").parse().unwrap());
            access.admits(&metadata)
        };
        assert!(with("first"));
        assert!(!with("firs"), "a part is not enough");
        assert!(!access.admits(&MetadataMap::new()));
        std::fs::write(&path, "second").unwrap();
        assert!(!with("first"));
        assert!(with("second"));
        std::fs::write(&path, "").unwrap();
        assert!(!with(""), "an empty file lets nobody in");
        std::fs::remove_file(&path).unwrap();
        assert!(!with("second"), "nor does a lost one");
    }
}
