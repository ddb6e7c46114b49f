//! One controller, followed for as long as its address is known: called, listened to, and called again.
//!
//! What must always hold: tries grow apart up to a bound and are spread by jitter; the reason of a failure is said once.

use std::collections::BTreeSet;
use std::hash::{BuildHasher, RandomState};
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::time::Duration;

use kthena_scheduler::state::PROTOCOL_MINOR;
use tokio::time::{sleep, timeout};
use tonic::{Request, Streaming};

use super::place::{Failure, Place, Settings};
use super::proto::peers_client::PeersClient;
use super::proto::{FollowRequest, News, news};
use crate::metrics::{self, kind};
use crate::observe::Share;
use crate::publish::{Hub, MAX_MESSAGE, Peer};

const FIRST_WAIT: Duration = Duration::from_millis(50);
const LONGEST_WAIT: Duration = Duration::from_secs(1);
/// Behind an address that was our own, or another one of a controller that is followed already, there may be another one day.
const OTHER_WAIT: Duration = Duration::from_secs(30);

/// Reasons that are remembered as said.
const MAX_SAID: usize = 16;

/// What following needs.
#[derive(Debug)]
pub(super) struct Context {
    pub(super) settings: Settings,
    pub(super) hub: Arc<Hub>,
    pub(super) share: Arc<Share>,
    pub(super) metrics: metrics::Peers,
}

/// A controller that shares the observing, until this is dropped.
struct Sharing<'a> {
    share: &'a Share,
    instance: &'a str,
}

impl Drop for Sharing<'_> {
    fn drop(&mut self) {
        self.share.leave(self.instance);
    }
}

impl Context {
    /// Follows the controller at an address until this is dropped. `followed` is true while it is.
    pub(super) async fn keep(self: Arc<Self>, place: Place, address: SocketAddr, followed: Arc<AtomicBool>) {
        let mut wait = FIRST_WAIT;
        let mut said = BTreeSet::new();
        loop {
            match self.call(&place, address).await {
                Ok((instance, _)) if instance == self.hub.instance() => wait = OTHER_WAIT,
                Ok((instance, stream)) => match Peer::begin(&self.hub, &instance, &address.to_string()) {
                    None => wait = OTHER_WAIT,
                    Some(peer) => {
                        wait = FIRST_WAIT;
                        said.clear();
                        followed.store(true, Relaxed);
                        let failure = self.listen(&peer, &instance, address, stream).await;
                        followed.store(false, Relaxed);
                        self.metrics.failures.get_or_create(&kind(failure.label())).inc();
                        tracing::warn!(%address, %instance, %failure, "lost another controller");
                    }
                },
                Err(failure) => {
                    self.metrics.failures.get_or_create(&kind(failure.label())).inc();
                    let reason = failure.to_string();
                    if !said.contains(&reason) {
                        tracing::info!(%address, reason, "another controller cannot be followed yet");
                        // There are few; so that they never are many:
                        if said.len() >= MAX_SAID {
                            said.clear();
                        }
                        said.insert(reason);
                    }
                }
            }
            sleep(jittered(wait)).await;
            wait = (wait * 2).min(LONGEST_WAIT);
        }
    }

    /// Calls a controller. Returns how it names itself, and what it tells.
    async fn call(&self, place: &Place, address: SocketAddr) -> Result<(String, Streaming<News>), Failure> {
        let within = self.settings.timeout;
        let channel = timeout(within, self.settings.connect(place, address));
        let channel = channel.await.map_err(|_| Failure::Silent)??;
        let mut request = Request::new(FollowRequest {
            protocol_minor: PROTOCOL_MINOR,
            instance: self.hub.instance().to_owned(),
            port: self.settings.own_port.into(),
        });
        if let Some(token) = self.settings.token(address).await? {
            request.metadata_mut().insert("authorization", token);
        }
        // Twice what it may send: it counts the frame of a message as well.
        let mut client = PeersClient::new(channel).max_decoding_message_size(2 * MAX_MESSAGE);
        let begin = async {
            let mut stream = client.follow(request).await?.into_inner();
            let first = stream.message().await?;
            Ok::<_, Failure>((first.ok_or(Failure::Closed)?.message, stream))
        };
        let begun = timeout(within, begin).await.map_err(|_| Failure::Silent)?;
        match begun.map_err(Failure::before_its_answer)? {
            (Some(news::Message::Welcome(welcome)), stream) => Ok((welcome.instance, stream)),
            _ => Err(Failure::NoWelcome),
        }
    }

    async fn listen(&self, peer: &Peer, instance: &str, address: SocketAddr, mut stream: Streaming<News>) -> Failure {
        tracing::info!(%address, instance, "following another controller");
        self.share.join(instance);
        let _sharing = Sharing {
            share: &self.share,
            instance,
        };
        loop {
            match stream.message().await {
                Ok(Some(news)) => peer.hear(news),
                Ok(None) => return Failure::Closed,
                Err(status) => return status.into(),
            }
        }
    }
}

/// Between half of it and one and a half.
fn jittered(wait: Duration) -> Duration {
    let random = RandomState::new().hash_one(0) % 1_000;
    wait / 2 + wait * u32::try_from(random).unwrap_or(0) / 1_000
}
