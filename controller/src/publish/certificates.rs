//! The certificate of the state service and the authorities of its clients: files that may be replaced while it runs, as Kubernetes replaces
//! those of a Secret.
//!
//! What must always hold: a connection is made with the newest files that were found good; connections that stand go on. Files are judged as a set,
//! once two looks in a row have found the same: those that are replaced one after another are never mixed. It fails by going on with the set before:
//! files that cannot be used are said once and counted.

use std::hash::{DefaultHasher, Hash as _, Hasher as _};
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use parking_lot::RwLock;
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::server::WebPkiClientVerifier;
use rustls::{RootCertStore, ServerConfig};
use tls_listener::{AsyncAccept, AsyncTls};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::time::interval;
use tokio_rustls::TlsAcceptor;
use tokio_rustls::server::TlsStream;
use tokio_stream::{Stream, StreamExt as _};

use crate::metrics::{self, kind};

/// From one look at the files to the next.
const LOOK: Duration = Duration::from_secs(1);

/// How long a client may take to prove who it is.
const HANDSHAKE: Duration = Duration::from_secs(5);

/// Certificates as files.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Tls {
    /// PEM certificate chain of the server.
    pub cert: PathBuf,
    /// PEM private key of the server.
    pub key: PathBuf,
    /// PEM certificates of the authorities that sign clients; `None` = clients need no certificate.
    pub client_ca: Option<PathBuf>,
}

/// Files that make no certificate.
#[derive(Debug, thiserror::Error)]
pub enum CertificateError {
    /// One cannot be read.
    #[error("cannot read {path}: {error}")]
    File {
        /// The file.
        path: PathBuf,
        /// What happened.
        error: io::Error,
    },
    /// One holds something else.
    #[error("{path} cannot be used: {reason}")]
    Content {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        reason: String,
    },
}

/// The certificates, as they are now.
#[derive(Clone, Debug)]
pub(super) struct Certificates {
    files: Arc<Tls>,
    current: Arc<RwLock<Arc<ServerConfig>>>,
    /// What the files held that were judged last.
    judged: u64,
}

/// What the files hold.
struct Found(Result<Contents, CertificateError>);

#[derive(Hash)]
struct Contents {
    cert: Vec<u8>,
    key: Vec<u8>,
    client_ca: Option<Vec<u8>>,
}

// === impl Certificates ===

impl Certificates {
    /// Reads the files for the first time.
    ///
    /// # Errors
    /// They cannot be read, or make no certificate.
    pub(super) fn open(files: &Tls) -> Result<Self, CertificateError> {
        let found = Found::in_files(files);
        let judged = found.digest();
        Ok(Self {
            current: Arc::new(RwLock::new(Arc::new(found.build(files)?))),
            files: Arc::new(files.clone()),
            judged,
        })
    }

    /// Connections over TLS, made with the certificates as they are when each begins.
    pub(super) fn secure<L>(
        &self,
        listener: L,
        metrics: &metrics::Publish,
    ) -> impl Stream<Item = io::Result<TlsStream<L::Connection>>> + use<L>
    where
        L: AsyncAccept<Error = io::Error>,
        L::Connection: AsyncRead + AsyncWrite + Unpin,
    {
        let failed = metrics.rejected.get_or_create(&kind("tls")).clone();
        let connections = tls_listener::builder(self.clone())
            .handshake_timeout(HANDSHAKE)
            .listen(listener);
        connections.filter_map(move |accepted| match accepted {
            Ok((stream, _)) => Some(Ok(stream)),
            Err(tls_listener::Error::ListenerError(error)) => Some(Err(error)),
            Err(error) => {
                let address = match &error {
                    tls_listener::Error::TlsAcceptError { peer_addr, .. }
                    | tls_listener::Error::HandshakeTimeout { peer_addr, .. } => Some(peer_addr),
                    _ => None,
                };
                let address = address.map(tracing::field::debug);
                tracing::info!(address, %error, "a client could not prove who it is");
                failed.inc();
                None
            }
        })
    }

    /// Takes new files up, for as long as it is awaited.
    pub(super) async fn follow(mut self, metrics: &metrics::Publish) {
        let mut looks = interval(LOOK);
        let mut before = self.judged;
        loop {
            looks.tick().await;
            let files = Arc::clone(&self.files);
            let Ok(found) = tokio::task::spawn_blocking(move || Found::in_files(&files)).await else {
                continue;
            };
            let digest = found.digest();
            if digest != self.judged && digest == before {
                self.judged = digest;
                self.take(found, metrics);
            }
            before = digest;
        }
    }

    fn take(&self, found: Found, metrics: &metrics::Publish) {
        let outcome = match found.build(&self.files) {
            Ok(config) => {
                *self.current.write() = Arc::new(config);
                tracing::info!(file = %self.files.cert.display(), "new certificates are in force for new connections");
                "taken"
            }
            Err(error) => {
                tracing::error!(%error, "new certificates cannot be used: those before stay in force");
                "refused"
            }
        };
        metrics.certificates.get_or_create(&kind(outcome)).inc();
    }
}

impl<C: AsyncRead + AsyncWrite + Unpin> AsyncTls<C> for Certificates {
    type Stream = TlsStream<C>;
    type Error = io::Error;
    type AcceptFuture = tokio_rustls::Accept<C>;

    fn accept(&self, stream: C) -> Self::AcceptFuture {
        TlsAcceptor::from(Arc::clone(&self.current.read())).accept(stream)
    }
}

// === impl Found ===

impl Found {
    fn in_files(files: &Tls) -> Self {
        let read = |path: &Path| {
            std::fs::read(path).map_err(|error| CertificateError::File {
                path: path.into(),
                error,
            })
        };
        let contents = || {
            Ok(Contents {
                cert: read(&files.cert)?,
                key: read(&files.key)?,
                client_ca: files.client_ca.as_deref().map(read).transpose()?,
            })
        };
        Self(contents())
    }

    /// Tells what was found from everything else, without keeping a key.
    fn digest(&self) -> u64 {
        let mut hasher = DefaultHasher::new();
        match &self.0 {
            Ok(contents) => contents.hash(&mut hasher),
            Err(error) => error.to_string().hash(&mut hasher),
        }
        hasher.finish()
    }

    fn build(self, files: &Tls) -> Result<ServerConfig, CertificateError> {
        let contents = self.0?;
        let chain = certificates(&files.cert, &contents.cert)?;
        let key = PrivateKeyDer::from_pem_slice(&contents.key)
            .map_err(|error| refused(&files.key, format!("it holds no private key: {error:?}")))?;
        let builder = ServerConfig::builder();
        let builder = match (&files.client_ca, &contents.client_ca) {
            (Some(path), Some(pem)) => {
                let mut roots = RootCertStore::empty();
                for certificate in certificates(path, pem)? {
                    roots.add(certificate).map_err(|error| refused(path, error))?;
                }
                let verifier = WebPkiClientVerifier::builder(roots.into()).build();
                builder.with_client_cert_verifier(verifier.map_err(|error| refused(path, error))?)
            }
            _ => builder.with_no_client_auth(),
        };
        let mut config = builder
            .with_single_cert(chain, key)
            .map_err(|error| refused(&files.cert, format!("with {}: {error}", files.key.display())))?;
        config.alpn_protocols = vec![b"h2".to_vec()];
        Ok(config)
    }
}

fn certificates(path: &Path, pem: &[u8]) -> Result<Vec<CertificateDer<'static>>, CertificateError> {
    let read: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(pem).collect();
    let read = read.map_err(|error| refused(path, format!("it holds no PEM: {error:?}")))?;
    match read.is_empty() {
        true => Err(refused(path, "it holds no certificate")),
        false => Ok(read),
    }
}

fn refused(path: &Path, reason: impl ToString) -> CertificateError {
    CertificateError::Content {
        path: path.into(),
        reason: reason.to_string(),
    }
}
