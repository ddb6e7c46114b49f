//! Writes what is said of objects to the API server: conditions and counts, and events where a condition turns.
//!
//! What must always hold: only the leader writes; nothing is written that is there already; a burst of changes is one write an object;
//! as many writes are in flight as are allowed. Only what may have changed since the last pass is looked at. It fails by trying again later: what
//! is said is always the newest.

mod news;
mod subject;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use futures::StreamExt;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Condition;
use k8s_openapi::jiff::Timestamp;
use kthena_gateway_api::PROGRAMMED;
use kube::Client;
use kube::api::{Api, Patch, PatchParams};
use kube::core::DynamicObject;
use kube::runtime::events::{Event, EventType, Recorder, Reporter};
use tokio::sync::watch;
use tokio::time::{sleep, timeout};

use crate::metrics::{self, kind};
use crate::picture::Picture;
use crate::publish::{Answered, Hub, Key};
use crate::source::ObjectKey;
use crate::status::Programmed;
use subject::{Difference, Subject};

/// Who owns the fields of the status.
const MANAGER: &str = "kthena-controller";

/// Changes that come this close together are one write: endpoints come and go together, and filters acknowledge within it.
const SETTLE: Duration = Duration::from_secs(1);

/// How long a new leader waits for its first filter before it says that there is none.
const FIRST_FILTER: Duration = Duration::from_secs(5);

/// Time until what could not be written is tried again.
const RETRY: Duration = Duration::from_secs(5);

/// Writes in flight at one time.
const IN_FLIGHT: usize = 8;

/// How long a write may take.
const WITHIN: Duration = Duration::from_secs(10);

/// The API server takes notes of events up to 1,024 bytes.
const LONGEST_NOTE: usize = 1000;

/// What the writer works with.
pub struct Writer {
    client: Client,
    hub: Arc<Hub>,
    picture: watch::Receiver<Arc<Picture>>,
    leading: watch::Receiver<bool>,
    metrics: metrics::Status,
    recorder: Recorder,
    /// What was written last: the watch tells of it a moment later.
    written: BTreeMap<ObjectKey, (Option<String>, serde_json::Value)>,
    /// What the last pass has looked at; `None` = this process did not lead then.
    seen: Option<Arc<Picture>>,
    /// What could not be written then.
    failed: BTreeSet<ObjectKey>,
    said: Option<String>,
}

/// One status to be written.
struct Write {
    key: ObjectKey,
    subject: Subject,
    difference: Difference,
}

impl std::fmt::Debug for Writer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Writer").finish_non_exhaustive()
    }
}

// === impl Writer ===

impl Writer {
    /// A writer of what `picture` shows, while `leading`. `instance` names this process in events.
    pub fn new(
        client: Client,
        instance: String,
        hub: Arc<Hub>,
        picture: watch::Receiver<Arc<Picture>>,
        leading: watch::Receiver<bool>,
        metrics: metrics::Status,
    ) -> Self {
        let reporter = Reporter {
            controller: MANAGER.to_owned(),
            instance: Some(instance),
        };
        Self {
            recorder: Recorder::new(client.clone(), reporter),
            client,
            hub,
            picture,
            leading,
            metrics,
            written: BTreeMap::new(),
            seen: None,
            failed: BTreeSet::new(),
            said: None,
        }
    }

    /// Writes until the process ends.
    pub async fn run(mut self) {
        let mut answers = self.hub.answers();
        let mut led = false;
        loop {
            let leads = *self.leading.borrow_and_update();
            if leads && !led && self.hub.filters() == 0 {
                let _ = timeout(FIRST_FILTER, answers.changed()).await;
            }
            led = leads;
            let mut again = false;
            if leads {
                self.picture.borrow_and_update();
                answers.borrow_and_update();
                // What is under way when the lead is lost is another's to write.
                let mut leading = self.leading.clone();
                again = tokio::select! {
                    well = self.pass() => !well,
                    _ = leading.wait_for(|leads| !*leads) => false,
                };
            } else {
                // Another may write in the meantime.
                self.written.clear();
                self.failed.clear();
                self.seen = None;
            }
            let ended = tokio::select! {
                changed = self.leading.changed() => changed.is_err(),
                changed = self.picture.changed(), if leads => changed.is_err(),
                changed = answers.changed(), if leads => changed.is_err(),
                () = sleep(RETRY), if again => false,
            };
            if ended {
                return;
            }
            sleep(SETTLE).await;
        }
    }

    /// Brings every object's status to what is to be said now. Returns whether all could be written.
    async fn pass(&mut self) -> bool {
        let picture = Arc::clone(&self.picture.borrow());
        let keys = match (&self.seen, self.hub.take_answered()) {
            (Some(seen), Answered::Some(answered)) => {
                let mut keys = news::between(seen, &picture);
                keys.extend(answered.iter().filter_map(news::object_of));
                keys.append(&mut self.failed);
                keys
            }
            _ => picture.statuses.keys().cloned().collect(),
        };
        let writes = self.writes(&picture, &keys);
        self.metrics.waiting.set(writes.len() as i64);
        let this = &*self;
        let results: Vec<_> = futures::stream::iter(writes)
            .map(|write| async move {
                // Leadership may have been lost since.
                let leads = *this.leading.borrow();
                let result = match leads {
                    true => Some(this.write(&write).await),
                    false => None,
                };
                (write, result)
            })
            .buffer_unordered(IN_FLIGHT)
            .collect()
            .await;
        self.metrics.waiting.set(0);
        let mut failed = None;
        for (write, result) in results {
            match result {
                Some(Ok(())) => {
                    let uid = write.subject.metadata().uid.clone();
                    self.written.insert(write.key, (uid, write.difference.status));
                }
                Some(Err(reason)) => {
                    self.failed.insert(write.key);
                    failed = Some(reason);
                }
                None => {}
            }
        }
        self.seen = Some(picture);
        let well = failed.is_none();
        self.say(failed);
        well
    }

    /// What is to be written of these objects. One that is gone is forgotten.
    fn writes(&mut self, picture: &Picture, keys: &BTreeSet<ObjectKey>) -> Vec<Write> {
        let now = Timestamp::now();
        let mut writes = Vec::new();
        for key in keys {
            let found = picture.statuses.get(key).zip(Subject::find(picture, key));
            let difference = found.and_then(|(status, subject)| {
                let programmed = self.programmed(picture, key);
                let difference = subject.difference(status, programmed.as_ref(), now)?;
                Some((subject, difference))
            });
            let Some((subject, difference)) = difference else {
                self.written.remove(key);
                continue;
            };
            let last = self.written.get(key);
            let is_written = last.is_some_and(|(uid, written)| {
                *uid == subject.metadata().uid && without_times(written) == without_times(&difference.status)
            });
            if !is_written {
                writes.push(Write {
                    key: key.clone(),
                    subject,
                    difference,
                });
            }
        }
        writes
    }

    fn programmed(&self, picture: &Picture, key: &ObjectKey) -> Option<Programmed> {
        let name = key.full_name();
        let parts = self.hub.acceptances(key.kind, &name);
        let connected = parts.first()?.subscribers;
        // What is published may be older than what was judged: it waits for Envoy.
        let acknowledged = parts.iter().map(|part| {
            let wanted = picture.resources.get(&Key::new(part.kind, name.as_str()));
            match wanted.is_some_and(|wanted| wanted.version == part.version) {
                true => part.acknowledged,
                false => 0,
            }
        });
        Some(Programmed {
            connected,
            acknowledged: acknowledged.min().unwrap_or_default(),
            refused: parts.into_iter().flat_map(|part| part.refused).collect(),
        })
    }

    async fn write(&self, write: &Write) -> Result<(), String> {
        let Write {
            key,
            subject,
            difference,
        } = write;
        let api: Api<DynamicObject> = Api::namespaced_with(self.client.clone(), &key.namespace, &subject.resource());
        let object = subject.with_status(&difference.status);
        let parameters = PatchParams::apply(MANAGER).force();
        let patch = Patch::Apply(&object);
        let patched = timeout(WITHIN, api.patch_status(&key.name, &parameters, &patch)).await;
        let counted = |what| self.metrics.writes.get_or_create(&kind(what)).inc();
        match patched {
            Ok(Ok(_)) => {
                counted("written");
                for condition in &difference.turned {
                    self.tell(subject, condition).await;
                }
                Ok(())
            }
            // Gone, or another of the same name: there is nobody to tell.
            Ok(Err(kube::Error::Api(status))) if matches!(status.code, 404 | 409) => {
                counted("outdated");
                Ok(())
            }
            Ok(Err(error)) => {
                counted("failed");
                Err(format!("{key}: {error}"))
            }
            Err(_) => {
                counted("failed");
                Err(format!("{key}: the API server does not answer within {WITHIN:?}"))
            }
        }
    }

    /// An event, where a person should notice.
    async fn tell(&self, subject: &Subject, condition: &Condition) {
        let is_well = condition.status == "True";
        // On its way, or not connected: the condition says it, and it passes.
        let passes = matches!(condition.reason.as_str(), "Pending" | "NotAccepted" | "NoFilters");
        if condition.type_ == PROGRAMMED && (is_well || passes) {
            return;
        }
        let mut note = condition.message.clone();
        note.truncate(note.floor_char_boundary(LONGEST_NOTE));
        let event = Event {
            type_: if is_well { EventType::Normal } else { EventType::Warning },
            reason: condition.reason.clone(),
            note: Some(note),
            action: "Reconcile".to_owned(),
            secondary: None,
        };
        let published = timeout(WITHIN, self.recorder.publish(&event, &subject.reference())).await;
        let outcome = match published {
            Ok(Ok(())) => "published",
            Ok(Err(_)) | Err(_) => "failed",
        };
        self.metrics.events.get_or_create(&kind(outcome)).inc();
    }

    fn say(&mut self, failed: Option<String>) {
        match (&failed, &self.said) {
            (Some(reason), None) => tracing::warn!("a status cannot be written, it is tried again: {reason}"),
            (None, Some(_)) => tracing::info!("statuses can be written again"),
            _ => {}
        }
        self.said = failed;
    }
}

/// A status but for the times of its transitions, which are made anew as long as the watch has not told of the last ones.
fn without_times(status: &serde_json::Value) -> serde_json::Value {
    let mut status = status.clone();
    for condition in status["conditions"].as_array_mut().into_iter().flatten() {
        if let Some(fields) = condition.as_object_mut() {
            fields.remove("lastTransitionTime");
        }
    }
    status
}
