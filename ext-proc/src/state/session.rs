//! One stream to the controller: hello and welcome, then updates down and acks, reports, placements and settlements up.
//!
//! What must always hold: every update is answered by an ack with its nonce; the peer that does not take our messages
//! for a while is given up, so that a stalled controller cannot stall us. It fails by ending: the subscription goes on
//! with another session.

use std::sync::atomic::Ordering::Relaxed;
use std::time::Duration;

use kthena_scheduler::profile::Profile;
use kthena_scheduler::state::proto::{FromFilter, ToFilter, from_filter, to_filter};
use kthena_scheduler::state::{PROTOCOL_MINOR, proto, residency};
use tokio::sync::mpsc;
use tokio::time::{Interval, MissedTickBehavior, interval, timeout};
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Request, Status, Streaming};

use super::connect::ConnectError;
use super::stub::state_client::StateClient;
use super::subscription::Subscription;

/// Time for a controller to answer the hello, and to take a message.
const PATIENCE: Duration = Duration::from_secs(5);
/// The protocol's messages have at most 256 KiB.
const MAX_MESSAGE_BYTES: usize = 1 << 20;
/// Messages on their way to the controller.
const SEND_QUEUE: usize = 64;

/// Why a stream ended.
#[derive(Debug, thiserror::Error)]
pub(super) enum Ended {
    #[error(transparent)]
    Connect(#[from] ConnectError),
    #[error("the controller ended the stream: {}: {}", .0.code(), .0.message())]
    Status(#[from] Status),
    #[error("the controller closed the stream")]
    Closed,
    #[error("the controller took longer than {} s", PATIENCE.as_secs())]
    Stalled,
    #[error("the controller did not begin with a welcome")]
    NoWelcome,
}

/// An open stream.
pub(super) struct Session {
    up: mpsc::Sender<FromFilter>,
    down: Streaming<ToFilter>,
    report: Interval,
    placements: Interval,
    save: Interval,
}

impl Session {
    /// Connects, says what is held already, and waits for the welcome.
    pub(super) async fn open(of: &mut Subscription) -> Result<Self, Ended> {
        let (channel, token) = of.controller.connect().await?;
        let (up, queue) = mpsc::channel(SEND_QUEUE);
        let hello = from_filter::Message::Hello(proto::Hello {
            protocol_minor: PROTOCOL_MINOR,
            origin: of.store.origin().to_owned(),
            gateway: String::new(),
            pools: Vec::new(),
            plugins: Profile::plugin_names().iter().map(|name| (*name).to_owned()).collect(),
            have: of.store.have(),
            namespaces: of.namespaces.clone(),
        });
        up.send(FromFilter { message: Some(hello) })
            .await
            .map_err(|_| Ended::Closed)?;
        let mut request = Request::new(ReceiverStream::new(queue));
        if let Some(token) = token {
            request.metadata_mut().insert("authorization", token);
        }
        let mut client = StateClient::new(channel).max_decoding_message_size(MAX_MESSAGE_BYTES);
        let answer = timeout(PATIENCE, client.subscribe(request)).await;
        let mut down = answer.map_err(|_| Ended::Stalled)??.into_inner();
        let first = timeout(PATIENCE, down.message()).await.map_err(|_| Ended::Stalled)??;
        let first = first.ok_or(Ended::Closed)?.message;
        if !matches!(first, Some(to_filter::Message::Welcome(_))) {
            return Err(Ended::NoWelcome);
        }
        of.store.connected();
        Ok(Self {
            up,
            down,
            report: ticks(of.timing.report),
            placements: ticks(of.timing.placements),
            save: ticks(of.timing.save),
        })
    }

    /// Runs until the stream ends.
    pub(super) async fn run(&mut self, of: &mut Subscription) -> Ended {
        loop {
            if let Err(ended) = self.turn(of).await {
                return ended;
            }
        }
    }

    async fn turn(&mut self, of: &mut Subscription) -> Result<(), Ended> {
        let state = std::sync::Arc::clone(&of.state);
        tokio::select! {
            message = self.down.message() => {
                let message = message?.ok_or(Ended::Closed)?;
                self.take(of, message).await?;
            }
            () = state.outbox.settled() => {
                while let Some(settlements) = state.outbox.settlements() {
                    self.send(from_filter::Message::Settlements(settlements)).await?;
                }
            }
            _ = self.placements.tick() => {
                while let Some(placements) = state.outbox.placements() {
                    self.send(from_filter::Message::Placements(placements)).await?;
                }
            }
            _ = self.report.tick() => {
                if let Some(report) = of.store.report() {
                    self.send(from_filter::Message::Report(report)).await?;
                }
            }
            _ = self.save.tick() => save(of).await,
        }
        Ok(())
    }

    async fn take(&mut self, of: &mut Subscription, message: ToFilter) -> Result<(), Ended> {
        let health = &of.state.health;
        health.heard.store(of.state.now().as_millis(), Relaxed);
        health.messages.fetch_add(1, Relaxed);
        match message.message {
            Some(to_filter::Message::Update(update)) => {
                let ack = update_store(of, &update, &message.echoes);
                self.send(from_filter::Message::Ack(ack)).await?;
            }
            Some(to_filter::Message::Placements(placements)) => {
                let outcome = residency::learn(&placements, &of.store, &of.state.index);
                health.unknown_placements.fetch_add(outcome.unknown, Relaxed);
            }
            Some(to_filter::Message::Settlements(settlements)) => {
                let ours = settlements.settlements.into_iter();
                for settlement in ours.filter(|settlement| settlement.owner == of.state.origin) {
                    // Whoever settles only takes a ticket out of a table: a full queue empties at once.
                    let sent = timeout(PATIENCE, of.settlements.send(settlement)).await;
                    sent.map_err(|_| Ended::Stalled)?.map_err(|_| Ended::Closed)?;
                }
            }
            // A second welcome, or a message that a newer controller added.
            // Counts are for filters without a page of metrics: this one tells none.
            Some(to_filter::Message::Welcome(_) | to_filter::Message::Counted(_)) | None => {}
        }
        Ok(())
    }

    async fn send(&self, message: from_filter::Message) -> Result<(), Ended> {
        let message = FromFilter { message: Some(message) };
        match timeout(PATIENCE, self.up.send(message)).await {
            Ok(Ok(())) => Ok(()),
            Ok(Err(_)) => Err(Ended::Closed),
            Err(_) => Err(Ended::Stalled),
        }
    }
}

fn update_store(of: &mut Subscription, update: &proto::Update, echoes: &[proto::Echo]) -> proto::Ack {
    let applied = of.store.apply(update, echoes, of.state.now());
    for refused in &applied.ack.refused {
        let (name, reason) = (&refused.name, &refused.reason);
        tracing::warn!(
            resource = name,
            reason,
            "refused a resource; its last good version stays"
        );
    }
    of.state.count(of.store.counters());
    of.state.forget(&applied.claimed);
    if let Some(snapshot) = applied.snapshot {
        of.state.publish(snapshot);
        of.unsaved = true;
    }
    if update.synced {
        of.state.health.from_cache.store(false, Relaxed);
    }
    applied.ack
}

/// Writes the state file when the state changed, on a thread that may block.
async fn save(of: &mut Subscription) {
    let Some(cache) = of.cache.clone().filter(|_| of.unsaved) else {
        return;
    };
    let Some(saved) = of.store.saved() else { return };
    of.unsaved = false;
    let written = tokio::task::spawn_blocking(move || cache.save(&saved).map_err(|error| (cache, error))).await;
    if let Ok(Err((cache, error))) = written {
        tracing::warn!(file = %cache.path().display(), %error, "could not keep the state in its file");
    }
}

fn ticks(every: Duration) -> Interval {
    let mut ticks = interval(every.max(Duration::from_millis(1)));
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    ticks
}
