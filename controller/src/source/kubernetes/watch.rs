//! One watch: lists a kind, page by page, follows its changes, and comes back by itself from whatever ends it.
//!
//! What must always hold: a failure is told to people once when it begins and once when it has passed, however often it
//! is met between; a failure alone never says that an object is gone.

use std::fmt::{Debug, Display};
use std::sync::Arc;
use std::time::Duration;

use futures::{StreamExt, TryStreamExt};
use kube::Client;
use kube::api::Api;
use kube::core::{DeserializeGuard, NamespaceResourceScope, ObjectMeta, Resource};
use kube::runtime::watcher::{self, Event, watcher};
use serde::de::DeserializeOwned;
use tokio::sync::mpsc;
use tokio::time::sleep;

use super::definition::{self, Definition};
use super::report::{Ended, Report, Signal, WatchId};
use crate::metrics::{self, kind};
use crate::source::{Object, ObjectKey, OrderKey, Origin};

/// Time between two tries where a definition cannot be watched.
const BLIND: Duration = Duration::from_secs(30);

/// A watch, and where it tells.
pub(super) struct Watch {
    pub(super) client: Client,
    pub(super) id: WatchId,
    pub(super) epoch: u64,
    pub(super) page: u32,
    /// First and longest time between two tries.
    pub(super) retry: (Duration, Duration),
    pub(super) metrics: metrics::Watch,
    pub(super) report: mpsc::Sender<Report>,
}

/// Growing times between tries.
struct Pauses {
    next: Duration,
    bounds: (Duration, Duration),
}

/// What is said about a watch that fails.
struct Trouble {
    what: String,
    said: Option<String>,
}

// === impl Watch ===

impl Watch {
    /// Watches until the state has gone.
    pub(super) async fn run<K>(self, wrap: fn(Arc<K>) -> Object)
    where
        K: Resource<DynamicType = (), Scope = NamespaceResourceScope>,
        K: Clone + Debug + DeserializeOwned + Send + Sync + 'static,
    {
        let api: Api<DeserializeGuard<K>> = match self.id.namespace() {
            Some(namespace) => Api::namespaced(self.client.clone(), namespace),
            None => Api::all(self.client.clone()),
        };
        let mut trouble = Trouble::of(&self.id);
        let mut pauses = Pauses::new(self.retry);
        // Each round begins with a list.
        while self.round(&api, wrap, &mut trouble, &mut pauses).await.is_ok() {
            trouble.notice(&format!(
                "the API server does not know it: the CustomResourceDefinition {} is not installed, and is awaited",
                definition::name::<K>()
            ));
            if self.await_definition::<K>().await.is_err() {
                return;
            }
            sleep(pauses.next()).await;
        }
    }

    /// Returns when it is worth asking for the kind again.
    async fn await_definition<K: Resource<DynamicType = ()>>(&self) -> Result<(), Ended> {
        // A kind of Kubernetes itself has none.
        if K::group(&()).is_empty() {
            sleep(BLIND).await;
            return Ok(());
        }
        let mut seen = definition::seen::<K>(self.client.clone());
        while let Some(seen) = seen.next().await {
            match seen {
                Definition::There => break,
                Definition::Absent => self.tell(Signal::KindAbsent).await?,
                Definition::Hidden => {
                    sleep(BLIND).await;
                    break;
                }
            }
        }
        Ok(())
    }

    /// Watches until the server does not know the kind.
    async fn round<K>(
        &self,
        api: &Api<DeserializeGuard<K>>,
        wrap: fn(Arc<K>) -> Object,
        trouble: &mut Trouble,
        pauses: &mut Pauses,
    ) -> Result<(), Ended>
    where
        K: Resource<DynamicType = (), Scope = NamespaceResourceScope>,
        K: Clone + Debug + DeserializeOwned + Send + Sync + 'static,
    {
        let config = watcher::Config::default().page_size(self.page);
        let mut events = std::pin::pin!(watcher(api.clone(), config).into_stream());
        while let Some(event) = events.next().await {
            let error = match event {
                Ok(event) => {
                    // The beginning of a list is no success yet.
                    if !matches!(event, Event::Init) {
                        trouble.ends();
                        pauses.reset();
                    }
                    self.tell(self.signal(event, wrap)).await?;
                    continue;
                }
                Err(error) => error,
            };
            self.metrics
                .failures
                .get_or_create(&kind(self.id.kind().as_str()))
                .inc();
            if is_unknown_kind(&error) {
                self.tell(Signal::KindUnknown).await?;
                return Ok(());
            }
            // An expired watch is followed by a list at once: there is nothing to tell.
            if !is_expired(&error) {
                trouble.begins(&reason(&error));
            }
            sleep(pauses.next()).await;
        }
        Ok(())
    }

    /// Tells the state.
    async fn tell(&self, signal: Signal) -> Result<(), Ended> {
        let report = Report {
            id: self.id.clone(),
            epoch: self.epoch,
            signal,
        };
        self.report.send(report).await.map_err(|_| Ended)
    }

    fn signal<K>(&self, event: Event<DeserializeGuard<K>>, wrap: fn(Arc<K>) -> Object) -> Signal
    where
        K: Resource<DynamicType = ()>,
    {
        match event {
            Event::Init => {
                self.metrics.lists.get_or_create(&kind(self.id.kind().as_str())).inc();
                Signal::ListBegins
            }
            Event::InitDone => Signal::ListEnds,
            Event::Delete(guard) => Signal::Gone(self.key(guard.meta())),
            Event::Apply(guard) | Event::InitApply(guard) => match guard.0 {
                Ok(mut object) => {
                    let metadata = object.meta_mut();
                    metadata.managed_fields = None;
                    let origin = origin(metadata);
                    Signal::Seen(wrap(Arc::new(object)), origin)
                }
                Err(invalid) => Signal::Unreadable(self.key(&invalid.metadata), invalid.error),
            },
        }
    }

    fn key(&self, metadata: &ObjectMeta) -> ObjectKey {
        ObjectKey::new(
            self.id.kind(),
            metadata.namespace.clone().unwrap_or_default(),
            metadata.name.clone().unwrap_or_default(),
        )
    }
}

/// The oldest of several objects comes first, as Kubernetes has it everywhere.
fn origin(metadata: &ObjectMeta) -> Origin {
    let created = metadata
        .creation_timestamp
        .as_ref()
        .map_or(0, |time| time.0.as_microsecond());
    Origin {
        place: String::new(),
        order: OrderKey::Created(
            created,
            metadata.namespace.clone().unwrap_or_default(),
            metadata.name.clone().unwrap_or_default(),
        ),
        warnings: Vec::new(),
    }
}

fn status(error: &watcher::Error) -> Option<&kube::core::Status> {
    use watcher::Error::{InitialListFailed, WatchError, WatchFailed, WatchStartFailed};
    match error {
        InitialListFailed(kube::Error::Api(status))
        | WatchStartFailed(kube::Error::Api(status))
        | WatchFailed(kube::Error::Api(status))
        | WatchError(status) => Some(status),
        _ => None,
    }
}

fn is_unknown_kind(error: &watcher::Error) -> bool {
    status(error).is_some_and(|status| status.code == 404)
}

fn is_expired(error: &watcher::Error) -> bool {
    status(error).is_some_and(|status| status.code == 410)
}

/// Why a watch fails, in words that stay the same while the reason does.
fn reason(error: &watcher::Error) -> String {
    use watcher::Error::{InitialListFailed, WatchFailed, WatchStartFailed};
    match (status(error), error) {
        (Some(status), _) => status.message.clone(),
        (None, InitialListFailed(inner) | WatchStartFailed(inner) | WatchFailed(inner)) => chain(inner),
        (None, other) => other.to_string(),
    }
}

/// An error with its causes, each said once.
fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(next) = cause {
        let said = next.to_string();
        if !text.contains(&said) {
            text = format!("{text}: {said}");
        }
        cause = next.source();
    }
    text
}

// === impl Pauses ===

impl Pauses {
    fn new(bounds: (Duration, Duration)) -> Self {
        Self { next: bounds.0, bounds }
    }

    fn next(&mut self) -> Duration {
        let now = self.next;
        self.next = (now * 2).min(self.bounds.1);
        now
    }

    fn reset(&mut self) {
        self.next = self.bounds.0;
    }
}

// === impl Trouble ===

impl Trouble {
    fn of(id: &WatchId) -> Self {
        Self {
            what: id.to_string(),
            said: None,
        }
    }

    /// Says it, unless this was said last.
    fn begins(&mut self, reason: &dyn Display) {
        let reason = reason.to_string();
        if self.said.as_ref() != Some(&reason) {
            tracing::warn!(
                watch = self.what,
                "cannot be watched, what is known stays in force: {reason}"
            );
            self.said = Some(reason);
        }
    }

    /// Says something that is no fault, unless it was said last.
    fn notice(&mut self, notice: &str) {
        if self.said.as_deref() != Some(notice) {
            tracing::info!(watch = self.what, "{notice}");
            self.said = Some(notice.to_owned());
        }
    }

    fn ends(&mut self) {
        if self.said.take().is_some() {
            tracing::info!(watch = self.what, "is watched again");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pauses_grow_up_to_a_bound_and_begin_anew() {
        let mut pauses = Pauses::new((Duration::from_millis(200), Duration::from_secs(1)));
        let taken: Vec<_> = (0..4).map(|_| pauses.next().as_millis()).collect();
        assert_eq!(taken, [200, 400, 800, 1000]);
        pauses.reset();
        assert_eq!(pauses.next().as_millis(), 200);
    }
}
