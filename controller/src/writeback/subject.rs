//! An object that has a status in the API server: what it is called, and what its status says now.

use std::sync::Arc;

use imbl::OrdMap;
use k8s_openapi::api::core::v1::ObjectReference;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Condition;
use k8s_openapi::jiff::Timestamp;
use kthena_gateway_api::{
    ExternalModelProvider, ExternalModelProviderStatus, ModelRoute, ModelRouteStatus, ModelServer, ModelServerStatus,
};
use kube::Resource;
use kube::core::{ApiResource, ObjectMeta};
use serde_json::{Value, json};

use crate::index::Entry;
use crate::picture::Picture;
use crate::source::{Kind, ObjectKey};
use crate::status::{Judged, Programmed, Status, conditions};

/// An object whose status is written.
#[derive(Clone, Debug)]
pub(super) enum Subject {
    /// Which backend serves which model name.
    Route(Arc<ModelRoute>),
    /// A group of pods that serve one model.
    Server(Arc<ModelServer>),
    /// A model API outside the cluster.
    Provider(Arc<ExternalModelProvider>),
}

/// A status that differs from the one that an object has.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Difference {
    /// The status as it should be.
    pub(super) status: Value,
    /// The conditions in it that say something else than before.
    pub(super) turned: Vec<Condition>,
}

impl Subject {
    /// The object of this name, if it has a status and was read.
    pub(super) fn find(picture: &Picture, key: &ObjectKey) -> Option<Self> {
        match key.kind {
            Kind::ModelRoute => found(&picture.routes, key).map(Self::Route),
            Kind::ModelServer => found(&picture.servers, key).map(Self::Server),
            Kind::ExternalModelProvider => found(&picture.providers, key).map(Self::Provider),
            Kind::InferencePool | Kind::Pod => None,
        }
    }

    /// Its kind.
    pub(super) fn kind(&self) -> Kind {
        match self {
            Self::Route(_) => Kind::ModelRoute,
            Self::Server(_) => Kind::ModelServer,
            Self::Provider(_) => Kind::ExternalModelProvider,
        }
    }

    /// Its metadata.
    pub(super) fn metadata(&self) -> &ObjectMeta {
        match self {
            Self::Route(object) => object.meta(),
            Self::Server(object) => object.meta(),
            Self::Provider(object) => object.meta(),
        }
    }

    /// Where the API server has it.
    pub(super) fn resource(&self) -> ApiResource {
        match self {
            Self::Route(_) => ApiResource::erase::<ModelRoute>(&()),
            Self::Server(_) => ApiResource::erase::<ModelServer>(&()),
            Self::Provider(_) => ApiResource::erase::<ExternalModelProvider>(&()),
        }
    }

    /// What an event names it by.
    pub(super) fn reference(&self) -> ObjectReference {
        match self {
            Self::Route(object) => object.object_ref(&()),
            Self::Server(object) => object.object_ref(&()),
            Self::Provider(object) => object.object_ref(&()),
        }
    }

    /// The object that a status is written with: the API server refuses it for another one of the same name.
    pub(super) fn with_status(&self, status: &Value) -> Value {
        let resource = self.resource();
        json!({
            "apiVersion": resource.api_version, "kind": resource.kind,
            "metadata": {"name": self.metadata().name, "uid": self.metadata().uid},
            "status": status,
        })
    }

    /// The status that it should have, if it has another; `None` = it has it.
    pub(super) fn difference(
        &self,
        found: &Status,
        programmed: Option<&Programmed>,
        now: Timestamp,
    ) -> Option<Difference> {
        let before = self.conditions();
        let generation = self.metadata().generation;
        let judged = Judged {
            kind: self.kind(),
            generation,
            status: found,
            programmed,
        };
        let after = conditions(judged, before, now);
        let turned = |condition: &&Condition| {
            let old = before.iter().find(|old| old.type_ == condition.type_);
            old.is_none_or(|old| (&old.status, &old.reason) != (&condition.status, &condition.reason))
        };
        let turned = after.iter().filter(turned).cloned().collect();
        let status = self.new_status(generation, after, found)?;
        Some(Difference { status, turned })
    }

    fn conditions(&self) -> &[Condition] {
        let conditions = match self {
            Self::Route(object) => object.status.as_ref().map(|status| &status.conditions),
            Self::Server(object) => object.status.as_ref().map(|status| &status.conditions),
            Self::Provider(object) => object.status.as_ref().map(|status| &status.conditions),
        };
        conditions.map(Vec::as_slice).unwrap_or_default()
    }

    /// The whole status, if it differs from the one that is there.
    fn new_status(
        &self,
        observed_generation: Option<i64>,
        conditions: Vec<Condition>,
        found: &Status,
    ) -> Option<Value> {
        match self {
            Self::Route(object) => differing(
                object.status.as_ref(),
                &ModelRouteStatus {
                    observed_generation,
                    conditions,
                },
            ),
            Self::Server(object) => differing(
                object.status.as_ref(),
                &ModelServerStatus {
                    observed_generation,
                    conditions,
                    endpoints: found.endpoints,
                },
            ),
            Self::Provider(object) => differing(
                object.status.as_ref(),
                &ExternalModelProviderStatus {
                    observed_generation,
                    conditions,
                },
            ),
        }
    }
}

fn found<T>(objects: &OrdMap<ObjectKey, Entry<T>>, key: &ObjectKey) -> Option<Arc<T>> {
    Some(Arc::clone(&objects.get(key)?.object))
}

fn differing<S: PartialEq + serde::Serialize>(before: Option<&S>, after: &S) -> Option<Value> {
    if before == Some(after) {
        return None;
    }
    serde_json::to_value(after).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn route(status: Value) -> Subject {
        let object = json!({
            "apiVersion": "networking.serving.volcano.sh/v1alpha1", "kind": "ModelRoute",
            "metadata": {"name": "r", "namespace": "n", "uid": "u", "generation": 2},
            "spec": {"modelName": "m", "rules": []}, "status": status,
        });
        Subject::Route(Arc::new(serde_json::from_value(object).unwrap()))
    }

    fn good() -> Status {
        Status {
            accepted: true,
            serving: true,
            ..Status::default()
        }
    }

    #[test]
    fn what_an_object_says_already_is_no_difference() {
        let filters = Programmed {
            connected: 1,
            acknowledged: 1,
            refused: Vec::new(),
        };
        let first = route(json!({}));
        let difference = first
            .difference(&good(), Some(&filters), Timestamp::UNIX_EPOCH)
            .unwrap();
        assert_eq!(difference.turned.len(), 3);
        let second = route(difference.status);
        assert_eq!(second.difference(&good(), Some(&filters), Timestamp::now()), None);
        // One condition turns: it alone is worth an event.
        let difference = second
            .difference(&good(), Some(&Programmed::default()), Timestamp::now())
            .unwrap();
        let turned: Vec<_> = difference
            .turned
            .iter()
            .map(|condition| condition.type_.as_str())
            .collect();
        assert_eq!(turned, ["Programmed"]);
    }

    #[test]
    fn a_status_is_for_this_very_object() {
        let object = route(json!({})).with_status(&json!({"observedGeneration": 2}));
        assert_eq!(object["metadata"], json!({"name": "r", "uid": "u"}));
        assert_eq!(object["kind"], "ModelRoute");
    }
}
