//! Threads that serve connections, each with a runtime of its own.
//!
//! A connection stays with the thread that it was given to, and so do its streams: no task is stolen, no memory is freed by another
//! thread than took it, and no thread wakes another. On the common runtime that was a fifth of what a short request costs. Envoy
//! holds a connection per worker thread, so the threads are evenly loaded; a new connection goes to the one that has fewest.
//! What must always hold: a connection that was accepted is served or closed, and a failure to accept one (too many open files, say)
//! ends nothing. Threads end with the [`Workers`], and their connections with them.

use std::io;
use std::path::PathBuf;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::thread;
use std::time::Duration;

use anyhow::{Context as _, Result};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::{TcpListener, TcpStream, UnixListener, UnixStream};
use tokio::runtime::{Builder, Handle};
use tokio::sync::{mpsc, oneshot};
use tokio_stream::StreamExt as _;
use tokio_stream::wrappers::ReceiverStream;

/// Connections that wait for their thread to take them up; the next stay with the kernel.
const WAITING: usize = 64;
/// Pause after a failure to accept that is not the fault of one connection.
const PAUSE: Duration = Duration::from_millis(100);

/// The threads.
#[derive(Debug)]
pub struct Workers {
    workers: Vec<Worker>,
}

#[derive(Debug)]
struct Worker {
    runtime: Handle,
    /// One for the thread itself and one for each of its connections.
    open: Arc<()>,
    /// Ends the thread when it is dropped.
    _end: oneshot::Sender<()>,
}

/// Where connections come from.
#[derive(Debug)]
pub enum Listener {
    /// Over TCP.
    Tcp(TcpListener),
    /// Over a socket in the file system, which is at the path.
    Unix(UnixListener, PathBuf),
}

/// A connection as it goes from the thread that accepts to the one that serves, and what counts it there.
type Given = (Accepted, Arc<()>);

/// A connection that no thread has yet.
#[derive(Debug)]
enum Accepted {
    Tcp(std::net::TcpStream),
    Unix(std::os::unix::net::UnixStream),
}

/// A connection that is served.
#[derive(Debug)]
pub struct Connection {
    io: Io,
    _open: Arc<()>,
}

#[derive(Debug)]
enum Io {
    Tcp(TcpStream),
    Unix(UnixStream),
}

// === impl Workers ===

impl Workers {
    /// Starts so many threads.
    ///
    /// # Errors
    /// When the system gives no more of them.
    pub fn start(threads: usize) -> Result<Self> {
        let workers = (0..threads).map(|number| Worker::start(number).context("cannot start a thread"));
        Ok(Self {
            workers: workers.collect::<Result<_>>()?,
        })
    }

    /// The connections of a listener, for each thread those that it is to serve, and the work of accepting them.
    pub fn share(&self, listener: Listener) -> (Vec<(Handle, Connections)>, impl Future<Output = ()> + Send + 'static) {
        let mut shares = Vec::new();
        let mut senders = Vec::new();
        for worker in &self.workers {
            let (sender, receiver) = mpsc::channel(WAITING);
            senders.push((Arc::clone(&worker.open), sender));
            shares.push((worker.runtime.clone(), connections(receiver)));
        }
        (shares, accept(listener, senders))
    }
}

impl Worker {
    fn start(number: usize) -> io::Result<Self> {
        let runtime = Builder::new_current_thread().enable_all().build()?;
        let handle = runtime.handle().clone();
        let (end, ended) = oneshot::channel::<()>();
        thread::Builder::new().name(format!("worker-{number}")).spawn(move || {
            // An error is the end: nothing is ever sent.
            let _ = runtime.block_on(ended);
        })?;
        Ok(Self {
            runtime: handle,
            open: Arc::new(()),
            _end: end,
        })
    }
}

/// The connections that one thread serves of one listener.
pub type Connections = Pin<Box<dyn tokio_stream::Stream<Item = io::Result<Connection>> + Send>>;

/// Registers each connection with the thread that asks for the next.
fn connections(receiver: mpsc::Receiver<Given>) -> Connections {
    let taken_up = |(accepted, open): Given| {
        let io = match accepted {
            Accepted::Tcp(stream) => Io::Tcp(TcpStream::from_std(stream)?),
            Accepted::Unix(stream) => Io::Unix(UnixStream::from_std(stream)?),
        };
        Ok(Connection { io, _open: open })
    };
    Box::pin(ReceiverStream::new(receiver).map(taken_up))
}

/// Gives each connection to the thread with fewest, until no thread takes any.
async fn accept(listener: Listener, threads: Vec<(Arc<()>, mpsc::Sender<Given>)>) {
    let closed = async {
        for (_, sender) in &threads {
            sender.closed().await;
        }
    };
    let accepting = async {
        loop {
            let accepted = match listener.accept().await {
                Ok(accepted) => accepted,
                Err(error) if of_one_connection(&error) => continue,
                Err(error) => {
                    tracing::warn!(%error, "cannot accept a connection");
                    tokio::time::sleep(PAUSE).await;
                    continue;
                }
            };
            let least = threads.iter().min_by_key(|(open, _)| Arc::strong_count(open));
            if let Some((open, sender)) = least {
                // It refuses only when everything ends.
                let _ = sender.send((accepted, Arc::clone(open))).await;
            }
        }
    };
    tokio::select! {
        () = closed => {}
        () = accepting => {}
    }
    if let Listener::Unix(_, path) = &listener {
        // It may be gone already, with its folder.
        let _ = tokio::fs::remove_file(path).await;
    }
}

fn of_one_connection(error: &io::Error) -> bool {
    use io::ErrorKind::{ConnectionAborted, ConnectionRefused, ConnectionReset, Interrupted};
    matches!(
        error.kind(),
        ConnectionAborted | ConnectionRefused | ConnectionReset | Interrupted
    )
}

impl Listener {
    /// The next connection, free of this thread.
    async fn accept(&self) -> io::Result<Accepted> {
        match self {
            Self::Tcp(listener) => {
                let (stream, _) = listener.accept().await?;
                stream.set_nodelay(true)?;
                Ok(Accepted::Tcp(stream.into_std()?))
            }
            Self::Unix(listener, _) => Ok(Accepted::Unix(listener.accept().await?.0.into_std()?)),
        }
    }
}

// === impl Connection ===

impl AsyncRead for Connection {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buffer: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        match &mut self.io {
            Io::Tcp(io) => Pin::new(io).poll_read(cx, buffer),
            Io::Unix(io) => Pin::new(io).poll_read(cx, buffer),
        }
    }
}

impl AsyncWrite for Connection {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        match &mut self.io {
            Io::Tcp(io) => Pin::new(io).poll_write(cx, bytes),
            Io::Unix(io) => Pin::new(io).poll_write(cx, bytes),
        }
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        parts: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        match &mut self.io {
            Io::Tcp(io) => Pin::new(io).poll_write_vectored(cx, parts),
            Io::Unix(io) => Pin::new(io).poll_write_vectored(cx, parts),
        }
    }

    fn is_write_vectored(&self) -> bool {
        true
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match &mut self.io {
            Io::Tcp(io) => Pin::new(io).poll_flush(cx),
            Io::Unix(io) => Pin::new(io).poll_flush(cx),
        }
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match &mut self.io {
            Io::Tcp(io) => Pin::new(io).poll_shutdown(cx),
            Io::Unix(io) => Pin::new(io).poll_shutdown(cx),
        }
    }
}
