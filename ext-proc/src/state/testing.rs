//! A controller of a few lines, for the tests of this folder: it accepts streams and lets a test speak on them.

use std::convert::Infallible;
use std::future::{Ready, ready};
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use kthena_scheduler::state::proto::{self, FromFilter, ToFilter, from_filter, to_filter};
use tokio::sync::mpsc;
use tokio::time::timeout;
use tokio_stream::wrappers::ReceiverStream;
use tonic::body::Body;
use tonic::server::{Grpc, NamedService, StreamingService};
use tonic::transport::Server;
use tonic::transport::server::TcpIncoming;
use tonic::{Request, Response, Status, Streaming};

/// Long enough for a loaded machine; nothing waits so long when it works.
const PATIENCE: Duration = Duration::from_secs(20);

/// The other end of one subscription.
pub(super) struct Subscriber {
    pub(super) token: Option<String>,
    up: Streaming<FromFilter>,
    down: mpsc::Sender<Result<ToFilter, Status>>,
}

/// A listening controller.
pub(super) struct TestController {
    pub(super) url: String,
    streams: mpsc::Receiver<Subscriber>,
    server: tokio::task::JoinHandle<()>,
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
        let (down, queue) = mpsc::channel(16);
        let token = request.metadata().get("authorization");
        let subscriber = Subscriber {
            token: token.map(|value| value.to_str().unwrap().to_owned()),
            up: request.into_inner(),
            down,
        };
        self.0.try_send(subscriber).ok().unwrap();
        ready(Ok(Response::new(ReceiverStream::new(queue))))
    }
}

impl tower::Service<http::Request<Body>> for Accept {
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

impl TestController {
    pub(super) fn start() -> Self {
        let incoming = TcpIncoming::bind("127.0.0.1:0".parse().unwrap()).unwrap();
        let url = format!("http://{}", incoming.local_addr().unwrap());
        let (sender, streams) = mpsc::channel(16);
        let serving = Server::builder()
            .add_service(Accept(sender))
            .serve_with_incoming(incoming);
        let server = tokio::spawn(async move { serving.await.unwrap() });
        Self { url, streams, server }
    }

    /// The next subscription, welcomed, with its hello.
    pub(super) async fn welcome(&mut self) -> (Subscriber, proto::Hello) {
        let mut subscriber = timeout(PATIENCE, self.streams.recv()).await.unwrap().unwrap();
        let Some(from_filter::Message::Hello(hello)) = subscriber.hear().await else {
            panic!("the first message must be a hello");
        };
        let welcome = proto::Welcome {
            protocol_minor: 1,
            controller: "test".into(),
        };
        subscriber.say(to_filter::Message::Welcome(welcome)).await;
        (subscriber, hello)
    }
}

impl Drop for TestController {
    fn drop(&mut self) {
        self.server.abort();
    }
}

impl Subscriber {
    /// The next message; `None` = the filter closed the stream.
    async fn hear(&mut self) -> Option<from_filter::Message> {
        let next = timeout(PATIENCE, self.up.message()).await.expect("a message in time");
        next.ok().flatten().and_then(|message| message.message)
    }

    /// The next message that `wanted` takes; others are passed over.
    pub(super) async fn hear_of<T>(&mut self, wanted: impl Fn(from_filter::Message) -> Option<T>) -> T {
        loop {
            let message = self.hear().await.expect("the stream stands");
            if let Some(heard) = wanted(message) {
                return heard;
            }
        }
    }

    pub(super) async fn say(&self, message: to_filter::Message) {
        let message = ToFilter {
            echoes: Vec::new(),
            message: Some(message),
        };
        self.down.send(Ok(message)).await.unwrap();
    }
}

/// Waits until something holds.
pub(super) async fn eventually(holds: impl Fn() -> bool) {
    let wait = async {
        while !holds() {
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
    };
    timeout(PATIENCE, wait).await.expect("it holds in time");
}
