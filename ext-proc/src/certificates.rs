//! Certificates as files that may be replaced while the process runs, as Kubernetes replaces those of a Secret: ours towards Envoy, and what is shown
//! to the controller.
//!
//! What must always hold: a connection is made with the newest files that were found good; connections that stand go on. Files are judged as a set,
//! once two looks in a row have found the same: those that are replaced one after another are never mixed. It fails by going on with the set before:
//! files that cannot be used are said once and counted.

use std::fmt;
use std::hash::{DefaultHasher, Hash as _, Hasher as _};
use std::io;
use std::path::PathBuf;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use arc_swap::ArcSwap;
use rustls::ServerConfig;
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use tls_listener::{AsyncAccept, AsyncTls};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::time::interval;
use tokio_rustls::TlsAcceptor;
use tokio_rustls::server::TlsStream;
use tokio_stream::{Stream, StreamExt as _};

use crate::workers::{Connection, Connections};

/// From one look at the files to the next.
const LOOK: Duration = Duration::from_secs(1);

/// How long a client may take for its handshake.
const HANDSHAKE: Duration = Duration::from_secs(5);

type Build<T> = dyn Fn(&[Vec<u8>]) -> Result<T, String> + Send + Sync;

/// What is made from a set of files, as they are now.
pub(crate) struct Rotating<T> {
    files: Vec<PathBuf>,
    build: Box<Build<T>>,
    current: ArcSwap<T>,
    /// What the files held that were judged first.
    first: u64,
}

/// Accepts connections over TLS, each with the certificate as it is when it begins.
#[derive(Clone, Debug)]
pub(crate) struct Acceptor(Arc<Rotating<ServerConfig>>);

type Contents = Result<Vec<Vec<u8>>, String>;

// === impl Rotating ===

impl<T: Send + Sync + 'static> Rotating<T> {
    /// Reads the files for the first time. `build` gets their contents in this order.
    ///
    /// # Errors
    /// They cannot be read, or are refused by `build`.
    pub(crate) fn open(
        files: Vec<PathBuf>,
        build: impl Fn(&[Vec<u8>]) -> Result<T, String> + Send + Sync + 'static,
    ) -> Result<Self, String> {
        let contents = read(&files);
        Ok(Self {
            first: digest(&contents),
            current: ArcSwap::from_pointee(build(&contents?)?),
            build: Box::new(build),
            files,
        })
    }

    /// What is in force now.
    pub(crate) fn get(&self) -> Arc<T> {
        self.current.load_full()
    }

    /// Takes new files up, for as long as it is awaited; tells what became of them, `taken` or `refused`.
    pub(crate) async fn follow(&self, tell: impl Fn(&'static str)) {
        let mut looks = interval(LOOK);
        let (mut judged, mut before) = (self.first, self.first);
        loop {
            looks.tick().await;
            let files = self.files.clone();
            let Ok(contents) = tokio::task::spawn_blocking(move || read(&files)).await else {
                continue;
            };
            let found = digest(&contents);
            if found != judged && found == before {
                judged = found;
                tell(self.take(contents));
            }
            before = found;
        }
    }

    fn take(&self, contents: Contents) -> &'static str {
        let file = self.files.first().map(|file| file.display().to_string());
        match contents.and_then(|contents| (self.build)(&contents)) {
            Ok(built) => {
                self.current.store(Arc::new(built));
                tracing::info!(file, "new certificates are in force for new connections");
                "taken"
            }
            Err(error) => {
                tracing::error!(
                    file,
                    error,
                    "new certificates cannot be used: those before stay in force"
                );
                "refused"
            }
        }
    }
}

impl<T> fmt::Debug for Rotating<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Rotating")
            .field("files", &self.files)
            .finish_non_exhaustive()
    }
}

fn read(files: &[PathBuf]) -> Contents {
    let read = |file: &PathBuf| std::fs::read(file).map_err(|error| format!("cannot read {}: {error}", file.display()));
    files.iter().map(read).collect()
}

/// Tells what was found from everything else, without keeping a key.
fn digest(contents: &Contents) -> u64 {
    let mut hasher = DefaultHasher::new();
    contents.hash(&mut hasher);
    hasher.finish()
}

// === impl Acceptor ===

impl Acceptor {
    /// The server's side, from a certificate chain and its key as PEM.
    ///
    /// # Errors
    /// The files cannot be read, or do not go together.
    pub(crate) fn open(certificate: PathBuf, key: PathBuf) -> Result<Self, String> {
        let rotating = Rotating::open(vec![certificate, key], server)?;
        Ok(Self(Arc::new(rotating)))
    }

    /// The same connections over TLS; those whose client fails at that are left out.
    pub(crate) fn secure(
        &self,
        connections: Connections,
    ) -> impl Stream<Item = io::Result<TlsStream<Connection>>> + use<> {
        let secured = tls_listener::builder(self.clone())
            .handshake_timeout(HANDSHAKE)
            .listen(Share(connections));
        secured.filter_map(|accepted| match accepted {
            Ok((stream, ())) => Some(Ok(stream)),
            Err(tls_listener::Error::ListenerError(error)) => Some(Err(error)),
            Err(error) => {
                tracing::debug!(%error, "no TLS with a client");
                None
            }
        })
    }

    /// See [`Rotating::follow`].
    pub(crate) async fn follow(&self, tell: impl Fn(&'static str)) {
        self.0.follow(tell).await;
    }
}

/// The connections of one thread, as a listener.
struct Share(Connections);

impl AsyncAccept for Share {
    type Connection = Connection;
    type Error = io::Error;
    type Address = ();

    fn poll_accept(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<(Connection, ())>> {
        match ready!(self.0.as_mut().poll_next(cx)) {
            Some(connection) => Poll::Ready(connection.map(|connection| (connection, ()))),
            // There are no more: the process ends.
            None => Poll::Pending,
        }
    }
}

impl<C: AsyncRead + AsyncWrite + Unpin> AsyncTls<C> for Acceptor {
    type Stream = TlsStream<C>;
    type Error = io::Error;
    type AcceptFuture = tokio_rustls::Accept<C>;

    fn accept(&self, stream: C) -> Self::AcceptFuture {
        TlsAcceptor::from(self.0.get()).accept(stream)
    }
}

fn server(contents: &[Vec<u8>]) -> Result<ServerConfig, String> {
    let [chain, key] = contents else {
        return Err("a certificate and its key are needed".to_owned());
    };
    let key = PrivateKeyDer::from_pem_slice(key).map_err(|error| format!("there is no private key: {error:?}"))?;
    let mut config = ServerConfig::builder()
        .with_no_client_auth()
        .with_single_cert(certificates(chain)?, key)
        .map_err(|error| error.to_string())?;
    config.alpn_protocols = vec![b"h2".to_vec()];
    Ok(config)
}

/// The certificates of a PEM file: one at least.
///
/// # Errors
/// There is none.
pub(crate) fn certificates(pem: &[u8]) -> Result<Vec<CertificateDer<'static>>, String> {
    let read: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(pem).collect();
    match read {
        Ok(read) if !read.is_empty() => Ok(read),
        Ok(_) => Err("there is no certificate".to_owned()),
        Err(error) => Err(format!("there is no certificate: {error:?}")),
    }
}
