//! The real state service without the rest of the controller: it publishes what a story sets, for as long as the story runs.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context as _, Result};
use kthena_controller::clock::Clock;
use kthena_controller::metrics::Metrics;
use kthena_controller::observe::Table;
use kthena_controller::publish::{Access, Address, Bounds, Hub, PeerBounds, Server, Settings, Timeouts};
use kthena_controller::requests;

/// Serves at an address, of which the port may be 0, to whom `access` lets in. Returns what is published, and where.
///
/// # Errors
/// When it cannot be served there like this.
pub async fn publish(at: SocketAddr, access: Access) -> Result<(Arc<Hub>, SocketAddr)> {
    let settings = Settings {
        max_subscribers: 10,
        reports: Bounds {
            max_origins: 8,
            max_peer_origins: 8,
            max_entries: 1_000,
            lost_after_ms: 200,
        },
        placements_bytes: 1 << 20,
        max_settlements: 100,
        sample_wait_ms: 20,
        ack_timeout_ms: 5_000,
        requests: requests::Bounds {
            max_series: 100,
            max_origins: 100,
        },
        peers: PeerBounds {
            max_followers: 4,
            max_endpoints: 1_000,
            max_resources: 1_000,
        },
    };
    let timeouts = Timeouts {
        hello: Duration::from_secs(5),
        send: Duration::from_secs(5),
        tick: Duration::from_millis(10),
    };
    let metrics = Metrics::default().publish;
    let hub = Hub::new(settings, Table::new(), Clock::start(), metrics.clone());
    let server = Server::bind(&Address::Tcp(at), access, Arc::clone(&hub), timeouts, metrics).await?;
    let bound = server.local_addr().context("a TCP address was bound")?;
    tokio::spawn(server.run(std::future::pending()));
    Ok((hub, bound))
}
