//! A controller that says one state and waits until it was taken, for the ext_proc server, which subscribes over gRPC.

use std::convert::Infallible;
use std::future::{Ready, ready};
use std::net::SocketAddr;
use std::pin::Pin;
use std::task::{Context, Poll};

use kthena_scheduler::state::proto::{self, FromFilter, ToFilter, from_filter, to_filter};
use tokio::sync::mpsc;
use tokio::task::JoinHandle;
use tokio_stream::wrappers::ReceiverStream;
use tonic::body::Body;
use tonic::codegen::Service;
use tonic::server::{Grpc, NamedService, StreamingService};
use tonic::transport::Server;
use tonic::transport::server::TcpIncoming;
use tonic::{Request, Response, Status, Streaming};

use crate::SOON;

/// One subscription: what the filter says, and a way to answer.
struct Subscriber {
    up: Streaming<FromFilter>,
    down: mpsc::Sender<Result<ToFilter, Status>>,
}

/// A listening controller.
pub(crate) struct Controller {
    pub(crate) address: SocketAddr,
    streams: mpsc::Receiver<Subscriber>,
    server: JoinHandle<()>,
}

/// A stream that stands until this is dropped.
pub(crate) struct Subscribed {
    _down: mpsc::Sender<Result<ToFilter, Status>>,
    listening: JoinHandle<()>,
}

#[derive(Clone)]
struct Accept(mpsc::Sender<Subscriber>);

impl NamedService for Accept {
    const NAME: &'static str = "kthena.state.v1.State";
}

impl StreamingService<FromFilter> for Accept {
    type Response = ToFilter;
    type ResponseStream = ReceiverStream<Result<ToFilter, Status>>;
    type Future = Ready<Result<Response<Self::ResponseStream>, Status>>;

    fn call(&mut self, request: Request<Streaming<FromFilter>>) -> Self::Future {
        let (down, queue) = mpsc::channel(4);
        let up = request.into_inner();
        self.0.try_send(Subscriber { up, down }).ok().unwrap();
        ready(Ok(Response::new(ReceiverStream::new(queue))))
    }
}

impl Service<http::Request<Body>> for Accept {
    type Response = http::Response<Body>;
    type Error = Infallible;
    type Future = Pin<Box<dyn Future<Output = Result<Self::Response, Infallible>> + Send>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: http::Request<Body>) -> Self::Future {
        let accept = self.clone();
        Box::pin(async move {
            let codec = tonic_prost::ProstCodec::default();
            Ok(Grpc::new(codec).streaming(accept, request).await)
        })
    }
}

impl Controller {
    pub(crate) fn start() -> Self {
        let incoming = TcpIncoming::bind("127.0.0.1:0".parse().unwrap()).unwrap();
        let address = incoming.local_addr().unwrap();
        let (sender, streams) = mpsc::channel(4);
        let serving = Server::builder()
            .add_service(Accept(sender))
            .serve_with_incoming(incoming);
        let server = tokio::spawn(async move { serving.await.unwrap() });
        Self {
            address,
            streams,
            server,
        }
    }

    /// Tells the next subscriber a state, and returns once it decides by it.
    pub(crate) async fn tell(&mut self, update: proto::Update) -> Subscribed {
        let tell = async {
            let mut subscriber = self.streams.recv().await.unwrap();
            let say = async |message| {
                let message = ToFilter {
                    message: Some(message),
                    echoes: Vec::new(),
                };
                subscriber.down.send(Ok(message)).await.unwrap();
            };
            say(to_filter::Message::Welcome(proto::Welcome::default())).await;
            say(to_filter::Message::Update(update)).await;
            loop {
                let message = subscriber.up.message().await.unwrap().expect("an answer");
                if let Some(from_filter::Message::Ack(ack)) = message.message {
                    assert!(ack.refused.is_empty(), "{:?}", ack.refused);
                    break;
                }
            }
            let Subscriber { mut up, down } = subscriber;
            // What it tells of its requests is not looked at.
            let listening = tokio::spawn(async move { while let Ok(Some(_)) = up.message().await {} });
            Subscribed { _down: down, listening }
        };
        tokio::time::timeout(SOON, tell).await.expect("a subscriber in time")
    }
}

impl Drop for Controller {
    fn drop(&mut self) {
        self.server.abort();
    }
}

impl Drop for Subscribed {
    fn drop(&mut self) {
        self.listening.abort();
    }
}
