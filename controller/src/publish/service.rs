//! The gRPC side of the state service: streams in, streams out, and the tick that makes the loads.
//!
//! One task a subscriber. What must always hold: reading never waits for writing, so a subscriber that takes nothing can
//! still acknowledge and report; every wait for a subscriber has a deadline; a dead peer is noticed by HTTP/2 pings.

use std::future::Future;
use std::path::Path;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use kthena_scheduler::state::proto::{FromFilter, ToFilter, from_filter, to_filter};
use prost::Message;
use tokio::net::{TcpListener, UnixListener};
use tokio::sync::mpsc;
use tokio::time::{MissedTickBehavior, interval, timeout};
use tokio_stream::StreamExt;
use tokio_stream::wrappers::{ReceiverStream, TcpListenerStream, UnixListenerStream};
use tonic::{Request, Response, Status, Streaming};

use super::access::{Access, Address, Stranger};
use super::certificates::Certificates;
use super::hub::Hub;
use super::scope::Namespaces;
use super::stub::state_server::{State, StateServer};
use super::subscription::{Refusal, Subscription};
use crate::metrics::{self, kind};
use crate::peers::proto::peers_server::PeersServer;

/// Largest message a filter may send, bytes. A complete report may be longer than what we send.
const MAX_MESSAGE_UP: usize = 4 * 1024 * 1024;

/// Messages ready for a subscriber beside those in HTTP/2's window: the rest is not made before it takes these.
const READY: usize = 2;

/// How often dead peers are looked for, and how long they have to answer.
const PING_INTERVAL: Duration = Duration::from_secs(10);
const PING_TIMEOUT: Duration = Duration::from_secs(5);

/// Times of the service.
#[derive(Clone, Copy, Debug)]
pub struct Timeouts {
    /// How long a stream may take to begin with a hello.
    pub hello: Duration,
    /// How long a subscriber may take to accept a message.
    pub send: Duration,
    /// How often loads are made.
    pub tick: Duration,
}

/// The state service, listening.
#[derive(Debug)]
pub struct Server {
    listener: Listener,
    hub: Arc<Hub>,
    access: Access,
    certificates: Option<Certificates>,
    timeouts: Timeouts,
    metrics: metrics::Publish,
}

#[derive(Debug)]
enum Listener {
    Tcp(TcpListener),
    Unix(UnixListener),
}

#[derive(Debug)]
pub(super) struct Service {
    pub(super) hub: Arc<Hub>,
    pub(super) access: Access,
    pub(super) timeouts: Timeouts,
    pub(super) metrics: metrics::Publish,
}

// === impl Server ===

impl Server {
    /// Listens.
    ///
    /// # Errors
    /// The access does not fit the address ([`Access::check`]), or the address cannot be bound.
    pub async fn bind(
        address: &Address,
        access: Access,
        hub: Arc<Hub>,
        timeouts: Timeouts,
        metrics: metrics::Publish,
    ) -> anyhow::Result<Self> {
        access.check(address)?;
        let certificates = access.certificates()?;
        if access.exposes_token(address) {
            tracing::warn!("the state token travels unencrypted: give --state-tls-cert and --state-tls-key");
        }
        let bound = match address {
            Address::Tcp(address) => TcpListener::bind(address).await.map(Listener::Tcp),
            Address::Unix(path) => bind_unix(path).await.map(Listener::Unix),
        };
        let listener = bound.map_err(|error| anyhow::anyhow!("cannot listen on {address} for filters: {error}"))?;
        Ok(Self {
            listener,
            hub,
            access,
            certificates,
            timeouts,
            metrics,
        })
    }

    /// The TCP address that was bound.
    pub fn local_addr(&self) -> Option<std::net::SocketAddr> {
        match &self.listener {
            Listener::Tcp(listener) => listener.local_addr().ok(),
            Listener::Unix(_) => None,
        }
    }

    /// Serves until `stop` resolves, then ends all streams.
    pub async fn run(self, stop: impl Future<Output = ()>) -> anyhow::Result<()> {
        let mut builder = tonic::transport::Server::builder()
            .tcp_nodelay(true)
            .http2_keepalive_interval(Some(PING_INTERVAL))
            .http2_keepalive_timeout(Some(PING_TIMEOUT));
        let hub = Arc::clone(&self.hub);
        let (tick, metrics) = (self.timeouts.tick, self.metrics.clone());
        let service = Arc::new(Service {
            hub: self.hub,
            access: self.access,
            timeouts: self.timeouts,
            metrics: self.metrics,
        });
        let peers = PeersServer::from_arc(Arc::clone(&service));
        let filters = StateServer::from_arc(service).max_decoding_message_size(MAX_MESSAGE_UP);
        let router = builder.add_service(filters).add_service(peers);
        type Serving = Pin<Box<dyn Future<Output = Result<(), tonic::transport::Error>> + Send>>;
        let serve: Serving = match (self.listener, &self.certificates) {
            (Listener::Tcp(listener), None) => Box::pin(router.serve_with_incoming(no_delay(listener))),
            (Listener::Unix(listener), None) => Box::pin(router.serve_with_incoming(UnixListenerStream::new(listener))),
            (Listener::Tcp(listener), Some(certificates)) => {
                let secured = certificates.secure(listener, &metrics).map(|stream| {
                    stream.inspect(|stream| {
                        let _ = stream.get_ref().0.set_nodelay(true);
                    })
                });
                Box::pin(router.serve_with_incoming(secured))
            }
            (Listener::Unix(listener), Some(certificates)) => {
                Box::pin(router.serve_with_incoming(certificates.secure(listener, &metrics)))
            }
        };
        let follow = async {
            match self.certificates {
                Some(certificates) => certificates.follow(&metrics).await,
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            served = serve => Ok(served?),
            () = run_ticks(&hub, tick) => Ok(()),
            () = follow => Ok(()),
            () = stop => Ok(()),
        }
    }
}

fn no_delay(listener: TcpListener) -> impl tokio_stream::Stream<Item = std::io::Result<tokio::net::TcpStream>> {
    TcpListenerStream::new(listener).map(|stream| {
        stream.inspect(|stream| {
            // Small messages must not wait for each other; without it they are only slower.
            let _ = stream.set_nodelay(true);
        })
    })
}

/// A socket that a killed predecessor left behind is replaced; one that somebody listens on is not.
async fn bind_unix(path: &Path) -> std::io::Result<UnixListener> {
    if path.exists() && tokio::net::UnixStream::connect(path).await.is_err() {
        std::fs::remove_file(path)?;
    }
    UnixListener::bind(path)
}

async fn run_ticks(hub: &Hub, every: Duration) {
    let mut ticks = interval(every);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        ticks.tick().await;
        hub.step();
    }
}

// === impl Service ===

#[tonic::async_trait]
impl State for Service {
    type SubscribeStream = ReceiverStream<Result<ToFilter, Status>>;

    async fn subscribe(
        &self,
        request: Request<Streaming<FromFilter>>,
    ) -> Result<Response<Self::SubscribeStream>, Status> {
        let allowed = match self.access.allowed(request.metadata(), request.extensions()) {
            Ok(allowed) => allowed,
            Err(stranger) => {
                let (reason, status) = stranger.told();
                self.metrics.rejected.get_or_create(&kind(reason)).inc();
                return Err(status);
            }
        };
        let (send, receive) = mpsc::channel(READY);
        let session = Session {
            hub: Arc::clone(&self.hub),
            allowed,
            inbound: request.into_inner(),
            outbound: send,
            timeouts: self.timeouts,
            metrics: self.metrics.clone(),
        };
        tokio::spawn(session.run());
        Ok(Response::new(ReceiverStream::new(receive)))
    }
}

// === one subscriber ===

#[derive(Debug)]
struct Session {
    hub: Arc<Hub>,
    allowed: Namespaces,
    inbound: Streaming<FromFilter>,
    outbound: mpsc::Sender<Result<ToFilter, Status>>,
    timeouts: Timeouts,
    metrics: metrics::Publish,
}

impl Session {
    async fn run(mut self) {
        let subscription = match self.hello().await {
            Ok(subscription) => subscription,
            Err(refusal) => {
                self.metrics.rejected.get_or_create(&kind(refusal.label())).inc();
                let _ = timeout(self.timeouts.send, self.outbound.send(Err(refusal.status()))).await;
                return;
            }
        };
        let ended = tokio::select! {
            ended = read(&mut self.inbound, &subscription) => ended,
            ended = write(&self.outbound, &subscription, &self.hub, &self.metrics, self.timeouts.send) => ended,
        };
        if let Err(refusal) = ended {
            tracing::warn!(reason = %refusal, "a subscription was ended");
            self.metrics.ended.get_or_create(&kind(refusal.label())).inc();
            // Beside what is ready already: a subscriber that takes nothing just sees the stream end.
            let _ = self.outbound.try_send(Err(refusal.status()));
        }
    }

    async fn hello(&mut self) -> Result<Subscription, Refusal> {
        let first = timeout(self.timeouts.hello, self.inbound.message()).await;
        match first {
            Ok(Ok(Some(FromFilter {
                message: Some(from_filter::Message::Hello(hello)),
            }))) => Subscription::begin(&self.hub, hello, &self.allowed),
            _ => Err(Refusal::NoHello),
        }
    }
}

/// Takes what the filter says until it ends the stream.
async fn read(inbound: &mut Streaming<FromFilter>, subscription: &Subscription) -> Result<(), Refusal> {
    while let Ok(Some(message)) = inbound.message().await {
        subscription.receive(message)?;
    }
    Ok(())
}

/// Tells the filter what it misses, whenever it can take more.
async fn write(
    outbound: &mpsc::Sender<Result<ToFilter, Status>>,
    subscription: &Subscription,
    hub: &Hub,
    metrics: &metrics::Publish,
    deadline: Duration,
) -> Result<(), Refusal> {
    send(outbound, hub.welcome(), metrics, deadline).await?;
    loop {
        subscription.woken().await;
        for message in subscription.next()? {
            send(outbound, message, metrics, deadline).await?;
        }
    }
}

async fn send(
    outbound: &mpsc::Sender<Result<ToFilter, Status>>,
    message: ToFilter,
    metrics: &metrics::Publish,
    deadline: Duration,
) -> Result<(), Refusal> {
    metrics.messages.get_or_create(&kind(label(&message))).inc();
    metrics.bytes.inc_by(message.encoded_len() as u64);
    match timeout(deadline, outbound.send(Ok(message))).await {
        Ok(Ok(())) => Ok(()),
        // The stream is gone: reading ends as well, or has ended.
        Ok(Err(_)) => std::future::pending().await,
        Err(_) => Err(Refusal::Stalled),
    }
}

fn label(message: &ToFilter) -> &'static str {
    match &message.message {
        Some(to_filter::Message::Welcome(_)) | None => "welcome",
        Some(to_filter::Message::Update(_)) => "update",
        Some(to_filter::Message::Placements(_)) => "placements",
        Some(to_filter::Message::Settlements(_)) => "settlements",
        Some(to_filter::Message::Counted(_)) => "counted",
    }
}

// === impl Stranger ===

impl Stranger {
    /// What is counted, and what the client is told.
    fn told(self) -> (&'static str, Status) {
        match self {
            Self::Token => (
                "unauthenticated",
                Status::unauthenticated("send the token of --state-token-file as `authorization: Bearer <token>`"),
            ),
            Self::Name => (
                "no_scope",
                Status::permission_denied("no name in the client's certificate has a --state-scope"),
            ),
        }
    }
}

// === impl Refusal ===

impl Refusal {
    fn label(&self) -> &'static str {
        match self {
            Self::NoHello => "no_hello",
            Self::SecondHello => "second_hello",
            Self::Version => "version",
            Self::Origin => "origin",
            Self::Scope(..) => "scope",
            Self::Full => "full",
            Self::Silent => "silent",
            Self::Stalled => "stalled",
        }
    }

    fn status(&self) -> Status {
        let text = self.to_string();
        match self {
            Self::NoHello | Self::SecondHello | Self::Origin => Status::invalid_argument(text),
            Self::Version => Status::failed_precondition(text),
            Self::Scope(..) => Status::permission_denied(text),
            Self::Full => Status::resource_exhausted(text),
            Self::Silent | Self::Stalled => Status::deadline_exceeded(text),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_socket_left_behind_is_replaced_and_one_in_use_is_not() {
        let path = std::env::temp_dir().join(format!("kthena-state-{}.sock", std::process::id()));
        let killed = bind_unix(&path).await.unwrap();
        assert!(bind_unix(&path).await.is_err(), "somebody listens on it");
        drop(killed);
        assert!(path.exists());
        let listener = bind_unix(&path).await.unwrap();
        drop(listener);
        std::fs::remove_file(path).unwrap();
    }
}
