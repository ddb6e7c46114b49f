//! How far filters have got with what is published, as their answers and other controllers tell it.
//!
//! What must always hold: whoever does not see a resource has no say in it; what is asked again and again is answered at a cost that does not grow with
//! resources that nothing happened to.

use std::collections::BTreeSet;

use kthena_scheduler::state::proto::ResourceType;
use kthena_scheduler::time::Time;
use tokio::sync::watch;

use super::hub::{Hub, Inner};
use super::view::{Acceptance, Answered};
use crate::compile::Key;
use crate::source::Kind;

// === impl Hub ===

impl Hub {
    /// Filters connected to this controller and to those that it follows.
    pub fn filters(&self) -> usize {
        let inner = self.inner.lock();
        let others = inner.followed.values().map(|followed| followed.progress.connected());
        inner.subscribers.len() + others.sum::<usize>()
    }

    /// How far a resource's newest version has got, with the filters of all controllers; `None` = there is no such resource here.
    pub fn acceptance(&self, key: &Key) -> Option<Acceptance> {
        let inner = self.inner.lock();
        let version = inner.resources.get(key)?.version;
        let mut acceptance = Acceptance {
            kind: key.kind,
            version,
            ..Acceptance::default()
        };
        // Those that do not see it have no say.
        for subscriber in inner.subscribers.values().filter(|one| one.scope.admits(key)) {
            acceptance.subscribers += 1;
            acceptance.acknowledged += usize::from(subscriber.holds(key, version));
            if let Some(reason) = subscriber.refusal(key, version) {
                let origin = subscriber.hello.origin.clone();
                acceptance.refused.push((origin, reason.to_owned()));
            }
        }
        for followed in inner.followed.values() {
            followed.progress.add_to(&mut acceptance, key);
        }
        Some(acceptance)
    }

    /// How far each of the resources has got that an object becomes; empty = it has become none.
    pub fn acceptances(&self, kind: Kind, name: &str) -> Vec<Acceptance> {
        let types: &[ResourceType] = match kind {
            Kind::ModelRoute => &[ResourceType::Route],
            Kind::ModelServer => &[ResourceType::Server, ResourceType::Endpoints, ResourceType::Profile],
            Kind::ExternalModelProvider | Kind::InferencePool | Kind::Pod => &[],
        };
        let keys = types.iter().map(|kind| Key::new(*kind, name));
        keys.filter_map(|key| self.acceptance(&key)).collect()
    }

    /// Of what [`Hub::acceptance`] may tell something else since the last call. One reader may ask.
    pub fn take_answered(&self) -> Answered {
        std::mem::replace(&mut self.inner.lock().answered, Answered::Some(BTreeSet::new()))
    }

    /// Whether every subscriber has answered this configuration or a later one, and the filters of other controllers have its endpoints. True
    /// without filters.
    pub fn acknowledged(&self, generation: u64) -> bool {
        let inner = self.inner.lock();
        let mut own = inner.subscribers.values();
        let mut others = inner.followed.values();
        own.all(|subscriber| subscriber.acknowledged_generation >= Some(generation))
            && others.all(|followed| followed.progress.has_all_endpoints())
    }

    /// Changes whenever [`Hub::acknowledged`] may have become true.
    pub fn answers(&self) -> watch::Receiver<u64> {
        self.answers.subscribe()
    }

    pub(super) fn answered(&self) {
        self.answers.send_modify(|count| *count += 1);
    }

    /// Notes how long a filter took that had acknowledged one configuration, and now a later one.
    pub(super) fn show_lag(&self, made: Option<Time>) {
        if let Some(made) = made {
            let lag = self.clock.now().since(made);
            self.metrics.lag.observe(lag as f64 / 1000.0);
        }
    }
}

// === impl Inner ===

impl Inner {
    /// When the first configuration after this one was set, as far as it is remembered.
    pub(super) fn made_after(&self, generation: Option<u64>) -> Option<Time> {
        let generation = generation?;
        let later = self.made.iter().find(|(made, _)| *made > generation);
        later.map(|(_, at)| *at)
    }
}
