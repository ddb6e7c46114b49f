//! Envoy's access-log service: one message when a request is over, at whichever replica.
//!
//! It tells what the stream did not see: status, served endpoint, usage, the end of the answer. What must always hold: a
//! lease is settled once, and by its owner: an entry of another replica's request is passed on through the controller.
//! When no access log is connected any more, nobody would tell of an end: after a grace, leases that wait for one are
//! settled. A stream has no end of its own: a stopping process ends it when the last request is over, and Envoy opens another
//! elsewhere. It fails by forgetting one entry, never the stream: an entry without our facts is not ours.

use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use std::time::Duration;

use envoy_types::pb::envoy::service::accesslog::v3::access_log_service_server::{
    AccessLogService, AccessLogServiceServer,
};
use envoy_types::pb::envoy::service::accesslog::v3::{StreamAccessLogsMessage, StreamAccessLogsResponse};
use tokio::sync::watch;
use tonic::{Request, Response, Status, Streaming};

use crate::metrics::Request as Counted;
use crate::stream::Shared;
use crate::wire::log::{Finished, entries};

/// The gRPC service.
#[derive(Clone, Debug)]
pub struct AccessLog {
    shared: Arc<Shared>,
    /// How long leases outlive the last access-log stream.
    grace: Duration,
    /// True ends all streams.
    closing: watch::Receiver<bool>,
}

impl AccessLog {
    /// Serves with what is shared, until `closing` is true.
    pub fn service(
        shared: Arc<Shared>,
        grace: Duration,
        closing: watch::Receiver<bool>,
    ) -> AccessLogServiceServer<Self> {
        AccessLogServiceServer::new(Self { shared, grace, closing })
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

#[tonic::async_trait]
impl AccessLogService for AccessLog {
    async fn stream_access_logs(
        &self,
        request: Request<Streaming<StreamAccessLogsMessage>>,
    ) -> Result<Response<StreamAccessLogsResponse>, Status> {
        self.shared.metrics.readings().log_streams.fetch_add(1, Relaxed);
        let _connected = Connected {
            shared: Arc::clone(&self.shared),
            grace: self.grace,
        };
        let mut messages = request.into_inner();
        let mut closing = self.closing.clone();
        loop {
            let message = tokio::select! {
                message = messages.message() => message?,
                // An error means that the sender is gone, and with it the process.
                _ = closing.wait_for(|closing| *closing) => None,
            };
            let Some(message) = message else { break };
            for entry in entries(message) {
                finish(&self.shared, &entry);
            }
        }
        Ok(Response::new(StreamAccessLogsResponse {}))
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
