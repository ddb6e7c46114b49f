//! The socket of one endpoint: open, refusing or dead, as commanded.
//!
//! A command is acknowledged when it has taken effect, so a test needs no waiting. Dying resets connections: their
//! sockets are told to drop what they have not sent, which a client sees as a reset and not as an end.

use std::future::Future;
use std::io;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Context, Poll};
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{mpsc, oneshot};
use tokio::task::JoinSet;

/// Whether an endpoint can be connected to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Reach {
    /// Connections are accepted.
    Open,
    /// New connections are refused.
    Refusing,
    /// So are new connections, and all others were reset.
    Dead,
}

type Order = (Reach, oneshot::Sender<io::Result<()>>);

/// The handle of a running listener.
#[derive(Debug, Clone)]
pub(crate) struct Listener {
    orders: mpsc::Sender<Order>,
}

impl Listener {
    /// Binds `address` and serves every connection by `serve`, at most `max_connections` at once (others wait in the
    /// system's queue).
    pub(crate) async fn start<F>(
        address: SocketAddr,
        max_connections: usize,
        serve: impl Fn(PeerStream) -> F + Send + 'static,
    ) -> io::Result<Self>
    where
        F: Future<Output = ()> + Send + 'static,
    {
        let socket = TcpListener::bind(address).await?;
        let (orders, receiver) = mpsc::channel(8);
        let acceptor = Acceptor {
            address,
            max_connections,
            socket: Some(socket),
            connections: JoinSet::new(),
            killed: Arc::default(),
        };
        tokio::spawn(acceptor.run(receiver, serve));
        Ok(Self { orders })
    }

    /// Changes the reach; returns when it has taken effect.
    ///
    /// # Errors
    /// The address cannot be bound again, or the simulator is shutting down.
    pub(crate) async fn set_reach(&self, reach: Reach) -> io::Result<()> {
        let (done, acknowledged) = oneshot::channel();
        let gone = || io::Error::other("the listener has stopped");
        self.orders.send((reach, done)).await.map_err(|_| gone())?;
        acknowledged.await.map_err(|_| gone())?
    }
}

struct Acceptor {
    address: SocketAddr,
    max_connections: usize,
    socket: Option<TcpListener>,
    connections: JoinSet<()>,
    killed: Arc<AtomicBool>,
}

impl Acceptor {
    async fn run<F>(mut self, mut orders: mpsc::Receiver<Order>, serve: impl Fn(PeerStream) -> F)
    where
        F: Future<Output = ()> + Send + 'static,
    {
        loop {
            let has_room = self.connections.len() < self.max_connections;
            tokio::select! {
                order = orders.recv() => {
                    let Some((reach, done)) = order else { return };
                    let outcome = self.obey(reach).await;
                    // Whoever ordered it may have gone away.
                    let _ = done.send(outcome);
                }
                accepted = accept(self.socket.as_ref()), if has_room => {
                    let Ok(stream) = accepted else {
                        // The connection was reset before it was accepted, or descriptors ran out. Either way the next
                        // one may succeed; a pause keeps the second case from turning into a busy loop.
                        tokio::time::sleep(Duration::from_millis(10)).await;
                        continue;
                    };
                    let _ = stream.set_nodelay(true);
                    let stream = PeerStream { inner: stream, killed: self.killed.clone() };
                    self.connections.spawn(serve(stream));
                }
                Some(_) = self.connections.join_next() => {}
            }
        }
    }

    async fn obey(&mut self, reach: Reach) -> io::Result<()> {
        match reach {
            Reach::Open => {
                if self.socket.is_none() {
                    self.socket = Some(TcpListener::bind(self.address).await?);
                }
            }
            Reach::Refusing => self.socket = None,
            Reach::Dead => {
                self.socket = None;
                self.killed.store(true, Ordering::Relaxed);
                self.connections.shutdown().await;
                self.killed = Arc::default();
            }
        }
        Ok(())
    }
}

async fn accept(socket: Option<&TcpListener>) -> io::Result<TcpStream> {
    match socket {
        Some(socket) => socket.accept().await.map(|(stream, _)| stream),
        None => std::future::pending().await,
    }
}

/// A connection that is reset, not closed, when its endpoint dies.
pub(crate) struct PeerStream {
    inner: TcpStream,
    killed: Arc<AtomicBool>,
}

impl Drop for PeerStream {
    fn drop(&mut self) {
        if self.killed.load(Ordering::Relaxed) {
            // If this fails the client sees an end instead of a reset, which for it is an error just the same.
            let _ = self.inner.set_zero_linger();
        }
    }
}

impl AsyncRead for PeerStream {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buffer: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.inner).poll_read(cx, buffer)
    }
}

impl AsyncWrite for PeerStream {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.inner).poll_write(cx, bytes)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.inner).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.inner).poll_shutdown(cx)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        slices: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.inner).poll_write_vectored(cx, slices)
    }

    fn is_write_vectored(&self) -> bool {
        self.inner.is_write_vectored()
    }
}
