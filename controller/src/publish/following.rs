//! The service for other controllers: one that follows is told what filters connected here say, and what is observed here.
//!
//! What must always hold: a follower can ask and change nothing, so there is nothing to be gained by passing oneself off as one; all the same,
//! with mutual TLS only a certificate that names a controller is let in. Every wait for a follower has a deadline.

use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use kthena_scheduler::state::PROTOCOL_MINOR;
use kthena_scheduler::state::proto::Settlements;
use kthena_scheduler::time::Time;
use prost::Message;
use tokio::sync::{Notify, mpsc};
use tokio::time::{MissedTickBehavior, interval, sleep, timeout};
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Request, Response, Status};

use super::follower::Follower;
use super::hub::Hub;
use super::load::observed;
use super::merge::{MAX_ORIGIN, Speaker, SubscriberId};
use super::progress;
use super::resource::split;
use super::service::Service;
use crate::metrics::kind;
use crate::observe::Look;
use crate::peers::proto::peers_server::Peers;
use crate::peers::proto::{self, FollowRequest, News, news};

/// Messages ready for a follower: the rest is not made before it takes these.
const READY: usize = 2;

/// What comes this close together is told as one.
const COALESCE: Duration = Duration::from_millis(10);

/// A follower that is told; dropping it ends that.
#[derive(Debug)]
struct Following {
    hub: Arc<Hub>,
    id: SubscriberId,
    wake: Arc<Notify>,
    /// Where it is in what was observed.
    looks: u64,
}

#[tonic::async_trait]
impl Peers for Service {
    type FollowStream = ReceiverStream<Result<News, Status>>;

    async fn follow(&self, request: Request<FollowRequest>) -> Result<Response<Self::FollowStream>, Status> {
        let rejected = |reason| {
            self.metrics.rejected.get_or_create(&kind(reason)).inc();
        };
        if !self.access.admits(request.metadata()) {
            rejected("unauthenticated");
            return Err(Status::unauthenticated("send the token of --state-token-file"));
        }
        if !self
            .access
            .admits_peer(request.peer_certs().as_deref().map(Vec::as_slice))
        {
            rejected("no_peer");
            return Err(Status::permission_denied(
                "only the controllers that --peers names may follow, with a certificate that names them as --peer-server-name does",
            ));
        }
        let ip = request.remote_addr().map(|address| address.ip());
        let following = Following::begin(&self.hub, request.into_inner(), ip).inspect_err(|_| rejected("follower"))?;
        let (send, receive) = mpsc::channel(READY);
        let (tick, deadline) = (self.timeouts.tick, self.timeouts.send);
        tokio::spawn(async move {
            tokio::select! {
                () = following.tell(&send, tick, deadline) => {}
                () = send.closed() => {}
            }
        });
        Ok(Response::new(ReceiverStream::new(receive)))
    }
}

// === impl Following ===

impl Following {
    fn begin(hub: &Arc<Hub>, request: FollowRequest, ip: Option<IpAddr>) -> Result<Self, Status> {
        if request.protocol_minor.abs_diff(PROTOCOL_MINOR) > 1 {
            return Err(Status::failed_precondition("versions are too far apart"));
        }
        if !(1..=MAX_ORIGIN).contains(&request.instance.len()) {
            return Err(Status::invalid_argument("instance must have 1 to 128 bytes"));
        }
        let mut inner = hub.inner.lock();
        if inner.followers.len() >= hub.settings.peers.max_followers {
            return Err(Status::resource_exhausted("too many followers: raise --max-peers"));
        }
        let id = inner.next_subscriber;
        inner.next_subscriber += 1;
        let progress = progress::Told::new(&inner.resources);
        let port = u16::try_from(request.port).ok().filter(|port| *port > 0);
        let address = ip.zip(port).map(SocketAddr::from);
        let follower = Follower::new(request.instance, address, &inner.merge, progress);
        let wake = Arc::clone(&follower.wake);
        inner.followers.insert(id, follower);
        hub.metrics.peers.followers.set(inner.followers.len() as i64);
        hub.callers.send_modify(|count| *count += 1);
        Ok(Self {
            hub: Arc::clone(hub),
            id,
            wake,
            looks: 0,
        })
    }

    /// Tells until the follower takes nothing any more.
    async fn tell(mut self, outbound: &mpsc::Sender<Result<News, Status>>, tick: Duration, deadline: Duration) {
        let mut urgent = self.hub.table.urgent();
        let mut ticks = interval(tick);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut messages = vec![news::Message::Welcome(proto::Welcome {
            protocol_minor: PROTOCOL_MINOR,
            instance: self.hub.instance().to_owned(),
        })];
        loop {
            for message in messages {
                let news = News { message: Some(message) };
                match timeout(deadline, outbound.send(Ok(news))).await {
                    Ok(Ok(())) => {}
                    Ok(Err(_)) => return,
                    Err(_) => {
                        tracing::warn!("a controller that follows does not take what it is told: it is given up");
                        return;
                    }
                }
            }
            tokio::select! {
                () = self.wake.notified() => {}
                _ = urgent.changed() => {}
                _ = ticks.tick() => {}
            }
            sleep(COALESCE).await;
            messages = self.next();
        }
    }

    /// What is to be told now, in order.
    fn next(&mut self) -> Vec<news::Message> {
        let mut messages = Vec::new();
        let now = self.hub.clock.now();
        let looks = self.hub.table.looks(&mut self.looks);
        let observations: Vec<_> = looks.into_iter().map(|look| observation(look, now)).collect();
        for observations in split(observations, Message::encoded_len) {
            messages.push(news::Message::Observations(proto::Observations { observations }));
        }
        let mut inner = self.hub.inner.lock();
        let inner = &mut *inner;
        let Some(follower) = inner.followers.get_mut(&self.id) else {
            return messages;
        };
        messages.extend(follower.reports(&inner.merge));
        let read = inner.ring.read(&mut follower.cursor, Speaker::is_filter, |_| true);
        self.hub
            .metrics
            .placements_dropped
            .get_or_create(&kind("slow"))
            .inc_by(read.missed);
        messages.extend(read.messages.into_iter().map(news::Message::Placements));
        let settlements = follower.settlements.drain(..).collect();
        for settlements in split(settlements, Message::encoded_len) {
            messages.push(news::Message::Settlements(Settlements { settlements }));
        }
        // Before the first configuration there is nothing that filters could have acknowledged.
        if inner.generation.is_some() {
            let filters = follower.progress.next(&inner.resources, &inner.subscribers);
            messages.extend(filters.into_iter().map(news::Message::Filters));
        }
        messages
    }
}

impl Drop for Following {
    fn drop(&mut self) {
        let mut inner = self.hub.inner.lock();
        inner.followers.remove(&self.id);
        self.hub.metrics.peers.followers.set(inner.followers.len() as i64);
    }
}

fn observation(look: Look, now: Time) -> proto::Observation {
    let seen = look.observation;
    let fact = look.is_new_fact.then(|| proto::Fact {
        incarnation: seen.fact.incarnation,
        models: seen.fact.models.clone(),
        kv_capacity_tokens: seen.fact.kv_capacity_tokens.unwrap_or_default(),
    });
    proto::Observation {
        uid: look.key.uid,
        port: look.key.port.into(),
        target: look.target,
        looked_age_ms: now.since(look.looked_at),
        load: Some(observed(&seen, now)),
        fact,
    }
}
