//! One change after the other, each followed by a filter before the next is made.
//!
//! Time is counted twice: from before the API server is asked to change something, and from when a watch of our own is told of it, which is
//! when the controller is told. The second is the controller's own time, with the way to the filter and what that does.

use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail};
use futures::{StreamExt as _, TryStreamExt as _};
use k8s_openapi::api::core::v1::Pod;
use kthena_gateway_api::{ModelRoute, ModelServer};
use kthena_scheduler::snapshot::Snapshot;
use kube::api::{Api, ApiResource, DynamicObject, Patch, PatchParams, WatchEvent, WatchParams};
use serde_json::{Value, json};
use tokio::sync::mpsc;
use tokio::time::{sleep, timeout};

use super::fill::{NAMESPACES, PODS, Served};
use super::filter::Filter;
use super::spread::Spread;
use crate::cluster::Cluster;

/// A change that has not been followed by then is lost.
const WITHIN: Duration = Duration::from_secs(10);

/// From a change that was followed to the next one.
const PAUSE: Duration = Duration::from_millis(20);

/// ModelServers that take turns; all of one namespace.
const TURNS: usize = 5;

/// What is changed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    /// A pod loses its readiness.
    PodLeaves,
    /// A pod becomes ready: Envoy learns of it first, and is given time to.
    PodComes,
    /// A ModelRoute serves another adapter.
    Route,
    /// A ModelServer has other retries.
    Server,
}

/// What was measured of one kind.
#[derive(Clone, Debug)]
pub(super) struct Changes {
    pub(super) kind: Kind,
    /// From when the API server told of it.
    pub(super) from_told: Spread,
    /// From the call to the API server.
    pub(super) from_call: Spread,
    /// CPU time of the controller for one change, microseconds; of kinds that take turns, on average.
    pub(super) cpu_us: f64,
}

impl Kind {
    /// What is changed in turn: a pod that has left comes back.
    pub(super) const TURNS: [&[Self]; 3] = [&[Self::PodLeaves, Self::PodComes], &[Self::Route], &[Self::Server]];

    pub(super) fn name(self) -> &'static str {
        match self {
            Self::PodLeaves => "pod leaves",
            Self::PodComes => "pod comes",
            Self::Route => "route",
            Self::Server => "server",
        }
    }

    /// Whether nothing has to be waited for.
    pub(super) fn leaves_at_once(self) -> bool {
        self != Self::PodComes
    }

    fn resource(self) -> ApiResource {
        match self {
            Self::PodLeaves | Self::PodComes => ApiResource::erase::<Pod>(&()),
            Self::Route => ApiResource::erase::<ModelRoute>(&()),
            Self::Server => ApiResource::erase::<ModelServer>(&()),
        }
    }
}

/// The change of this number.
struct Change {
    kind: Kind,
    served: Served,
    number: usize,
}

impl Change {
    fn object(&self) -> String {
        match self.kind {
            Kind::PodLeaves | Kind::PodComes => format!("{}-{}", self.served.name(), self.pod()),
            Kind::Route | Kind::Server => self.served.name(),
        }
    }

    /// Pods of a ModelServer take turns as well.
    fn pod(&self) -> usize {
        self.number / TURNS % PODS
    }

    fn patch(&self) -> Value {
        match self.kind {
            Kind::PodLeaves => json!({"status": {"conditions": [{"type": "Ready", "status": "False"}]}}),
            Kind::PodComes => json!({"status": {"conditions": [{"type": "Ready", "status": "True"}]}}),
            Kind::Route => json!({"spec": {"loraAdapters": [self.adapter()]}}),
            Kind::Server => json!({"spec": {"trafficPolicy": {"retry": {"attempts": self.attempts()}}}}),
        }
    }

    fn adapter(&self) -> String {
        format!("{}-adapter-{}", self.served.name(), self.number)
    }

    fn attempts(&self) -> u32 {
        3 + u32::try_from(self.number / TURNS % 2).unwrap_or_default()
    }

    /// Whether a filter has followed.
    fn is_in(&self, snapshot: &Snapshot) -> bool {
        let server = snapshot.server(&self.served.full_name());
        match self.kind {
            Kind::PodLeaves | Kind::PodComes => server.is_some_and(|server| {
                let name = format!("{}/{}", self.served.namespace(), self.object());
                let is_there = server.endpoints.iter().any(|endpoint| *endpoint.pod == *name);
                is_there == (self.kind == Kind::PodComes)
            }),
            Kind::Route => snapshot.routes.knows(&self.adapter()),
            Kind::Server => server.is_some_and(|server| server.retry.attempts == self.attempts()),
        }
    }
}

/// Makes so many changes of each of these kinds in turn, at ModelServers from `first` on.
pub(super) async fn play(
    cluster: &Cluster,
    filter: &mut Filter,
    kinds: &[Kind],
    first: Served,
    count: usize,
) -> Result<Vec<Changes>> {
    let resource = kinds.first().context("nothing to change")?.resource();
    let api: Api<DynamicObject> = Api::namespaced_with(cluster.client(), &first.namespace(), &resource);
    let mut told = watch(&api).await?;
    let mut times = vec![(Vec::new(), Vec::new()); kinds.len()];
    for number in 0..count {
        for (kind, (from_told, from_call)) in kinds.iter().zip(&mut times) {
            let change = Change {
                kind: *kind,
                served: Served(first.0 + number % TURNS * NAMESPACES),
                number,
            };
            let begun = Instant::now();
            let patched = patch(&api, &change);
            let followed = filter.until(kind.name(), WITHIN, |snapshot| change.is_in(snapshot));
            let (patched, followed) = tokio::join!(patched, followed);
            let (version, followed) = (patched?, followed?);
            let heard = hear(&mut told, &version).await?;
            from_told.push(followed.saturating_duration_since(heard));
            from_call.push(followed.duration_since(begun));
            sleep(PAUSE).await;
        }
    }
    let spreads = kinds.iter().zip(times).map(|(kind, (from_told, from_call))| Changes {
        kind: *kind,
        from_told: Spread::of(from_told),
        from_call: Spread::of(from_call),
        cpu_us: 0.0,
    });
    Ok(spreads.collect())
}

/// Returns the version that it has become.
async fn patch(api: &Api<DynamicObject>, change: &Change) -> Result<String> {
    let (name, params) = (change.object(), PatchParams::default());
    let patched = match change.kind {
        Kind::PodLeaves | Kind::PodComes => {
            let patch = Patch::Strategic(change.patch());
            api.patch_status(&name, &params, &patch).await
        }
        Kind::Route | Kind::Server => api.patch(&name, &params, &Patch::Merge(change.patch())).await,
    };
    let patched = patched.with_context(|| format!("cannot change {name}"))?;
    patched.metadata.resource_version.context("an object without a version")
}

/// Tells when a watch was told of which version.
async fn watch(api: &Api<DynamicObject>) -> Result<mpsc::UnboundedReceiver<(String, Instant)>> {
    let list = api.list_metadata(&kube::api::ListParams::default().limit(1)).await?;
    let since = list.metadata.resource_version.unwrap_or_default();
    let events = api.watch(&WatchParams::default(), &since).await?;
    let (tell, told) = mpsc::unbounded_channel();
    tokio::spawn(async move {
        let mut events = std::pin::pin!(events.into_stream().fuse());
        while let Ok(Some(event)) = events.try_next().await {
            let now = Instant::now();
            if let WatchEvent::Added(object) | WatchEvent::Modified(object) = event
                && tell
                    .send((object.metadata.resource_version.unwrap_or_default(), now))
                    .is_err()
            {
                return;
            }
        }
    });
    Ok(told)
}

async fn hear(told: &mut mpsc::UnboundedReceiver<(String, Instant)>, version: &str) -> Result<Instant> {
    let mut others = Vec::new();
    let heard = timeout(WITHIN, async {
        while let Some((heard, at)) = told.recv().await {
            if heard == version {
                return Ok(at);
            }
            others.push(heard);
        }
        bail!("a watch of the bench has ended")
    });
    let heard = heard.await;
    heard.with_context(|| format!("the API server does not tell of version {version}, but of {others:?}"))?
}
