//! A filter as the stories need one: a real gRPC client that applies and acknowledges what it is told.
#![allow(dead_code)] // each story uses some of it

use std::collections::BTreeMap;
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use http::uri::PathAndQuery;
use kthena_controller::publish::Key;
use kthena_scheduler::state::proto::{
    Ack, Counted, Echo, FromFilter, Hello, Load, Placement, Refusal, ResourceType, ResourceVersion, Settlement,
    ToFilter, from_filter, to_filter,
};
use prost::Message;
use tokio::sync::mpsc;
use tokio::time::{sleep, timeout};
use tokio_stream::wrappers::ReceiverStream;
use tonic::transport::Channel;
use tonic::{Request, Status, Streaming};

/// Nothing here takes this long unless it is broken.
pub(crate) const PATIENCE: Duration = Duration::from_secs(30);

/// Waits until something holds.
pub(crate) async fn eventually(what: &str, condition: impl Fn() -> bool) {
    let wait = async {
        while !condition() {
            sleep(Duration::from_millis(2)).await;
        }
    };
    timeout(PATIENCE, wait)
        .await
        .unwrap_or_else(|_| panic!("waited in vain: {what}"));
}

/// A filter that applies and acknowledges what it is told.
pub(crate) struct Filter {
    pub(crate) up: mpsc::Sender<FromFilter>,
    pub(crate) down: Streaming<ToFilter>,
    pub(crate) held: BTreeMap<Key, (u64, Bytes)>,
    pub(crate) parts: BytesMut,
    /// Names it refuses.
    pub(crate) refuses: Option<&'static str>,
    pub(crate) echoes: Vec<Echo>,
    pub(crate) placements: Vec<Placement>,
    pub(crate) settlements: Vec<Settlement>,
    pub(crate) counted: Vec<Counted>,
    /// Resources received whole, by type.
    pub(crate) received: Vec<Key>,
    pub(crate) largest: usize,
    pub(crate) synced: bool,
}

pub(crate) async fn open(
    channel: Channel,
    token: Option<&str>,
) -> Result<(mpsc::Sender<FromFilter>, Streaming<ToFilter>), Status> {
    let (up, messages) = mpsc::channel(16);
    let mut grpc = tonic::client::Grpc::new(channel);
    grpc.ready()
        .await
        .map_err(|error| Status::unavailable(error.to_string()))?;
    let mut request = Request::new(ReceiverStream::new(messages));
    if let Some(token) = token {
        let value = format!("Bearer {token}").parse().unwrap();
        request.metadata_mut().insert("authorization", value);
    }
    let path = PathAndQuery::from_static("/kthena.state.v1.State/Subscribe");
    let codec = tonic_prost::ProstCodec::<FromFilter, ToFilter>::default();
    Ok((up, grpc.streaming(request, path, codec).await?.into_inner()))
}

pub(crate) fn up(message: from_filter::Message) -> FromFilter {
    FromFilter { message: Some(message) }
}

impl Filter {
    pub(crate) async fn connect(address: &str, origin: &str, have: Vec<ResourceVersion>) -> Self {
        let url = format!("http://{address}");
        let channel = Channel::from_shared(url).unwrap().connect().await.unwrap();
        let hello = Hello {
            origin: origin.into(),
            have,
            ..Hello::default()
        };
        Self::over(channel, hello).await
    }

    /// A filter that says this hello.
    pub(crate) async fn over(channel: Channel, hello: Hello) -> Self {
        let (sender, down) = open(channel, None).await.unwrap();
        sender.send(up(from_filter::Message::Hello(hello))).await.unwrap();
        Self {
            up: sender,
            down,
            held: BTreeMap::new(),
            parts: BytesMut::new(),
            refuses: None,
            echoes: Vec::new(),
            placements: Vec::new(),
            settlements: Vec::new(),
            counted: Vec::new(),
            received: Vec::new(),
            largest: 0,
            synced: false,
        }
    }

    pub(crate) async fn send(&self, message: from_filter::Message) {
        self.up.send(up(message)).await.unwrap();
    }

    /// Takes messages until the condition holds.
    pub(crate) async fn until(&mut self, what: &str, condition: impl Fn(&Self) -> bool) {
        let wait = async {
            while !condition(self) {
                let message = self.down.message().await;
                self.take(message.unwrap().expect("the stream goes on")).await;
            }
        };
        timeout(PATIENCE, wait)
            .await
            .unwrap_or_else(|_| panic!("waited in vain: {what}"));
    }

    pub(crate) async fn take(&mut self, message: ToFilter) {
        self.largest = self.largest.max(message.encoded_len());
        if !message.echoes.is_empty() {
            self.echoes = message.echoes;
        }
        match message.message.unwrap() {
            to_filter::Message::Welcome(welcome) => assert!(!welcome.controller.is_empty()),
            to_filter::Message::Placements(placements) => self.placements.extend(placements.placements),
            to_filter::Message::Settlements(settlements) => self.settlements.extend(settlements.settlements),
            to_filter::Message::Counted(counted) => self.counted.push(counted),
            to_filter::Message::Update(update) => {
                let mut refused = Vec::new();
                for part in update.resources {
                    self.parts.extend_from_slice(&part.body);
                    if part.part + 1 < part.parts {
                        continue;
                    }
                    let body = self.parts.split().freeze();
                    let key = Key::new(part.r#type(), part.name.as_str());
                    assert_eq!(part.version, twox_hash::XxHash3_64::oneshot(&body));
                    self.received.push(key.clone());
                    if self.refuses == Some(&*key.name) {
                        refused.push(Refusal {
                            r#type: part.r#type,
                            name: part.name,
                            version: part.version,
                            reason: "no such plugin".into(),
                        });
                    } else {
                        self.held.insert(key, (part.version, body));
                    }
                }
                for gone in update.removed {
                    self.held.remove(&Key::new(gone.r#type(), gone.name.as_str()));
                }
                self.synced |= update.synced;
                let nonce = update.nonce;
                self.send(from_filter::Message::Ack(Ack { nonce, refused })).await;
            }
        }
    }

    pub(crate) fn have(&self) -> Vec<ResourceVersion> {
        let held = self.held.iter();
        held.map(|(key, (version, _))| ResourceVersion {
            r#type: key.kind.into(),
            name: key.name.to_string(),
            version: *version,
        })
        .collect()
    }

    /// Requests in flight at the first endpoint of a ModelServer.
    pub(crate) fn load_of(&self, server: &str) -> Option<u32> {
        let (_, body) = self.held.get(&Key::new(ResourceType::Load, server))?;
        let load = Load::decode(body.clone()).unwrap();
        load.endpoints.first().map(|load| load.in_flight_requests)
    }

    pub(crate) fn load(&self, endpoint: u64) -> Option<(u32, u64)> {
        let (_, body) = self.held.get(&Key::new(ResourceType::Load, "ns/llama"))?;
        let load = Load::decode(body.clone()).unwrap();
        let of = load.endpoints.iter().find(|load| load.endpoint == endpoint)?;
        Some((of.in_flight_requests, of.in_flight_tokens))
    }
}

/// Whether a message carries a resource of this type.
pub(crate) fn names(message: &ToFilter, kind: ResourceType) -> bool {
    match &message.message {
        Some(to_filter::Message::Update(update)) => update.resources.iter().any(|part| part.r#type() == kind),
        _ => false,
    }
}
