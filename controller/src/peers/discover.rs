//! Finds the other controllers: every address behind the names, and those that call us before a name tells of them.
//!
//! What must always hold: a look-up that fails changes nothing; an address that is not found any more is left when its stream has ended, not before
//! (names tell late, the stream tells at once); as many addresses are called as are allowed.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};

use tokio::task::JoinHandle;
use tokio::time::{MissedTickBehavior, interval};

use super::place::{Place, Settings};
use super::session::Context;
use crate::metrics;
use crate::observe::Share;
use crate::publish::Hub;

#[derive(Debug)]
struct Task {
    handle: JoinHandle<()>,
    followed: Arc<AtomicBool>,
}

impl Drop for Task {
    fn drop(&mut self) {
        self.handle.abort();
    }
}

/// Follows all other controllers, for as long as the process runs.
pub async fn run(settings: Settings, hub: Arc<Hub>, share: Arc<Share>, metrics: metrics::Peers) {
    if settings.places.is_empty() {
        return std::future::pending().await;
    }
    let mut callers = hub.callers();
    let mut ticks = interval(settings.lookup);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let context = Arc::new(Context {
        settings,
        hub,
        share,
        metrics,
    });
    let mut named = BTreeMap::new();
    let mut said = BTreeMap::new();
    let mut tasks = BTreeMap::new();
    loop {
        tokio::select! {
            _ = ticks.tick() => look_up(&context.settings, &mut named, &mut said).await,
            _ = callers.changed() => {}
        }
        follow(&context, &named, &mut tasks);
    }
}

/// Brings the addresses of each name up to date; what a look-up that fails gave last stays.
async fn look_up(
    settings: &Settings,
    named: &mut BTreeMap<usize, Vec<SocketAddr>>,
    said: &mut BTreeMap<usize, String>,
) {
    for (at, place) in settings.places.iter().enumerate() {
        match place.look_up(settings.timeout).await {
            Ok(found) => {
                named.insert(at, found);
                said.remove(&at);
            }
            Err(error) => {
                let reason = error.to_string();
                if said.get(&at) != Some(&reason) {
                    tracing::warn!(
                        host = place.host,
                        reason,
                        "other controllers cannot be looked up (--peers)"
                    );
                    said.insert(at, reason);
                }
            }
        }
    }
}

/// Has one task at each address that is known.
fn follow(context: &Arc<Context>, named: &BTreeMap<usize, Vec<SocketAddr>>, tasks: &mut BTreeMap<SocketAddr, Task>) {
    let settings = &context.settings;
    let mut wanted: BTreeMap<SocketAddr, &Place> = BTreeMap::new();
    let places = settings.places.iter().enumerate();
    for (place, address) in places.flat_map(|(at, place)| named.get(&at).into_iter().flatten().map(move |a| (place, a)))
    {
        wanted.entry(*address).or_insert(place);
    }
    if let Some(place) = settings.places.first() {
        for caller in context.hub.callers_addresses() {
            wanted.entry(caller).or_insert(place);
        }
    }
    tasks.retain(|address, task| wanted.contains_key(address) || task.followed.load(Relaxed));
    let mut refused = 0;
    for (address, place) in wanted {
        if tasks.contains_key(&address) {
            continue;
        }
        // One more than the others: our own address is among them.
        if tasks.len() > settings.max {
            refused += 1;
            continue;
        }
        let followed = Arc::new(AtomicBool::new(false));
        let keep = Arc::clone(context).keep(place.clone(), address, Arc::clone(&followed));
        let handle = tokio::spawn(keep);
        tasks.insert(address, Task { handle, followed });
    }
    if refused > 0 && context.metrics.refused.get() == 0 {
        tracing::warn!(refused, "more controllers than --max-peers: the rest are not followed");
    }
    context.metrics.known.set(tasks.len() as i64);
    context.metrics.refused.set(refused);
}
