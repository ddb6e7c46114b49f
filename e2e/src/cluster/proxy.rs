//! A TCP proxy in front of the API server, which can be cut: connections go dead without a word, as when a network is split.

use std::net::SocketAddr;
use std::sync::Arc;

use anyhow::{Context as _, Result};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio::task::JoinHandle;

/// A proxy; it ends when this is dropped.
#[derive(Debug)]
pub struct Proxy {
    address: SocketAddr,
    cut: Arc<watch::Sender<bool>>,
    task: JoinHandle<()>,
}

impl Proxy {
    /// A proxy in front of `to`, on a port of its own.
    ///
    /// # Errors
    /// When there is no free port.
    pub async fn start(to: SocketAddr) -> Result<Self> {
        let listener = TcpListener::bind("127.0.0.1:0").await.context("no free port")?;
        let address = listener.local_addr()?;
        let cut = Arc::new(watch::Sender::new(false));
        let task = tokio::spawn(serve(listener, to, Arc::clone(&cut)));
        Ok(Self { address, cut, task })
    }

    /// Where it listens.
    #[must_use]
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Nothing passes any more, and nothing is said about it.
    pub fn cut(&self) {
        self.cut.send_replace(true);
    }

    /// Everything passes again, also what was held back.
    pub fn mend(&self) {
        self.cut.send_replace(false);
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        self.task.abort();
    }
}

async fn serve(listener: TcpListener, to: SocketAddr, cut: Arc<watch::Sender<bool>>) {
    while let Ok((near, _)) = listener.accept().await {
        let cut = Arc::clone(&cut);
        tokio::spawn(async move {
            if passes(&cut).await.is_err() {
                return;
            }
            let Ok(far) = TcpStream::connect(to).await else { return };
            let (near_read, near_write) = near.into_split();
            let (far_read, far_write) = far.into_split();
            tokio::join!(
                relay(near_read, far_write, Arc::clone(&cut)),
                relay(far_read, near_write, cut)
            );
        });
    }
}

async fn relay(mut from: OwnedReadHalf, mut to: OwnedWriteHalf, cut: Arc<watch::Sender<bool>>) {
    let mut buffer = vec![0; 16 * 1024];
    while let Ok(count) = from.read(&mut buffer).await {
        if passes(&cut).await.is_err() || count == 0 || to.write_all(&buffer[..count]).await.is_err() {
            return;
        }
    }
}

/// Returns once the line is whole.
async fn passes(cut: &watch::Sender<bool>) -> Result<(), watch::error::RecvError> {
    cut.subscribe().wait_for(|cut| !*cut).await.map(drop)
}
