//! Envoy's access-log service: one message when a request is over, at whichever replica.
//!
//! It tells what the stream did not see: status, served endpoint, usage, the end of the answer. What must always hold: a
//! lease is settled once, and by its owner: an entry of another replica's request is passed on through the controller.
//! When no access log is connected any more, nobody would tell of an end: after a grace, leases that wait for one are
//! settled. A stream has no end of its own: a stopping process ends it when the last request is over, and Envoy opens another
//! elsewhere. It fails by forgetting one entry, never the stream: an entry without our facts is not ours.

use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use tokio::sync::watch;
use tokio_stream::Stream;
use tonic::Status;

use crate::metrics::Request as Counted;
use crate::stream::Shared;
use crate::wire::log::{Finished, Logs, Noted};
use crate::wire::{Messages, StreamAccessLogs, Streams};

/// Bytes of one message: twice what Envoy keeps before it sends (`buffer_size_bytes` of envoy.yaml).
const LARGEST_MESSAGE: usize = 4 << 20;

/// The gRPC service, until `closing` is true. Leases outlive the last stream by `grace`.
pub fn service(
    shared: Arc<Shared>,
    grace: Duration,
    closing: watch::Receiver<bool>,
) -> Streams<StreamAccessLogs, impl Fn(Messages<Logs>) -> Reading + Clone + Send + Sync + 'static> {
    let start = move |messages| {
        shared.metrics.readings().log_streams.fetch_add(1, Relaxed);
        let mut closing = closing.clone();
        Reading {
            messages,
            // An error means that the sender is gone, and with it the process.
            closed: Box::pin(async move { drop(closing.wait_for(|closing| *closing).await) }),
            ended: false,
            connected: Connected {
                shared: Arc::clone(&shared),
                grace,
            },
        }
    };
    Streams::new(start, LARGEST_MESSAGE)
}

/// One stream of entries, whose only reply says that it is over.
pub struct Reading {
    messages: Messages<Logs>,
    closed: Pin<Box<dyn Future<Output = ()> + Send>>,
    ended: bool,
    connected: Connected,
}

impl Stream for Reading {
    type Item = Result<Noted, Status>;

    fn poll_next(mut self: Pin<&mut Self>, poller: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        while !self.ended && self.closed.as_mut().poll(poller).is_pending() {
            match ready!(Pin::new(&mut self.messages).poll_next(poller)) {
                None => break,
                Some(Err(status)) => {
                    self.ended = true;
                    return Poll::Ready(Some(Err(status)));
                }
                Some(Ok(logs)) => {
                    for entry in logs.finished() {
                        finish(&self.connected.shared, &entry);
                    }
                }
            }
        }
        let is_last = !std::mem::replace(&mut self.ended, true);
        Poll::Ready(is_last.then_some(Ok(Noted {})))
    }
}

/// Counts an open stream, and cleans up some time after the last has gone.
struct Connected {
    shared: Arc<Shared>,
    grace: Duration,
}

impl Drop for Connected {
    fn drop(&mut self) {
        if self.shared.metrics.readings().log_streams.fetch_sub(1, Relaxed) > 1 {
            return;
        }
        let (shared, grace) = (Arc::clone(&self.shared), self.grace);
        tokio::spawn(async move {
            tokio::time::sleep(grace).await;
            if shared.metrics.readings().log_streams.load(Relaxed) == 0 {
                let abandoned = shared.leases.abandon();
                if abandoned > 0 {
                    tracing::warn!(abandoned, "settled leases whose end no access log can tell any more");
                }
            }
        });
    }
}

fn finish(shared: &Shared, entry: &Finished) {
    if let Some((owner, number)) = entry.facts.get("lease").and_then(|lease| lease.rsplit_once('/'))
        && let Ok(number) = number.parse()
    {
        let served = entry.served.as_deref().unwrap_or_default();
        if owner == shared.state.origin() {
            shared.settle(number, served);
        } else {
            shared.state.settle_elsewhere(owner, number, served);
        }
    }
    // What passed through a stream was counted there.
    if entry.facts.get("counted").is_none() && entry.path.starts_with("/v1/") {
        shared.metrics.request_ended(&counted(entry));
    }
}

fn counted(entry: &Finished) -> Counted<'_> {
    let failed = entry.status >= 400 || entry.status == 0;
    Counted {
        model: entry.facts.get("model_name"),
        path: &entry.path,
        status: Some(entry.status),
        error_type: entry.facts.get("error_type").or(failed.then_some("request_failed")),
        route: entry.facts.get("model_route"),
        server: entry.facts.get("model_server"),
        upstream_model: entry.facts.get("upstream_model"),
        duration_s: entry.duration_s,
        first_byte_s: entry.first_byte_s,
        input_tokens: entry.usage.input_tokens,
        output_tokens: entry.usage.output_tokens,
    }
}
