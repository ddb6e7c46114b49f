//! The kinds of objects that matter, as one type.

use std::fmt;
use std::sync::Arc;

use k8s_openapi::api::core::v1::Pod;
use kthena_gateway_api::{ExternalModelProvider, InferencePool, ModelRoute, ModelServer};
use kube::core::ObjectMeta;
use serde::Serialize;

/// A kind of object.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
pub enum Kind {
    /// Which backend serves which model name.
    ModelRoute,
    /// A group of pods that serve one model.
    ModelServer,
    /// A model API outside the cluster.
    ExternalModelProvider,
    /// A set of pods behind a gateway that asks a picker.
    InferencePool,
    /// One copy of an engine.
    Pod,
}

/// Names one object.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
pub struct ObjectKey {
    /// Its kind.
    pub kind: Kind,
    /// Its namespace.
    pub namespace: String,
    /// Its name in the namespace.
    pub name: String,
}

/// An object of one of the kinds; cheap to clone.
#[derive(Clone, Debug, PartialEq)]
pub enum Object {
    /// Which backend serves which model name.
    ModelRoute(Arc<ModelRoute>),
    /// A group of pods that serve one model.
    ModelServer(Arc<ModelServer>),
    /// A model API outside the cluster.
    ExternalModelProvider(Arc<ExternalModelProvider>),
    /// A set of pods behind a gateway that asks a picker.
    InferencePool(Arc<InferencePool>),
    /// One copy of an engine.
    Pod(Arc<Pod>),
}

// === impl Kind ===

impl Kind {
    /// As manifests write it.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::ModelRoute => "ModelRoute",
            Self::ModelServer => "ModelServer",
            Self::ExternalModelProvider => "ExternalModelProvider",
            Self::InferencePool => "InferencePool",
            Self::Pod => "Pod",
        }
    }
}

impl fmt::Display for Kind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

// === impl ObjectKey ===

impl ObjectKey {
    /// The key of `namespace/name` of a kind.
    pub fn new(kind: Kind, namespace: impl Into<String>, name: impl Into<String>) -> Self {
        Self {
            kind,
            namespace: namespace.into(),
            name: name.into(),
        }
    }

    /// `namespace/name`: how resources are named towards filters.
    pub fn full_name(&self) -> String {
        format!("{}/{}", self.namespace, self.name)
    }
}

impl fmt::Display for ObjectKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {}/{}", self.kind, self.namespace, self.name)
    }
}

// === impl Object ===

impl Object {
    /// Its kind.
    pub fn kind(&self) -> Kind {
        match self {
            Self::ModelRoute(_) => Kind::ModelRoute,
            Self::ModelServer(_) => Kind::ModelServer,
            Self::ExternalModelProvider(_) => Kind::ExternalModelProvider,
            Self::InferencePool(_) => Kind::InferencePool,
            Self::Pod(_) => Kind::Pod,
        }
    }

    /// Its metadata.
    pub fn metadata(&self) -> &ObjectMeta {
        match self {
            Self::ModelRoute(o) => &o.metadata,
            Self::ModelServer(o) => &o.metadata,
            Self::ExternalModelProvider(o) => &o.metadata,
            Self::InferencePool(o) => &o.metadata,
            Self::Pod(o) => &o.metadata,
        }
    }

    /// What names it; an absent namespace is "default", as for kubectl.
    pub fn key(&self) -> ObjectKey {
        let metadata = self.metadata();
        ObjectKey::new(
            self.kind(),
            metadata
                .namespace
                .as_deref()
                .filter(|n| !n.is_empty())
                .unwrap_or("default"),
            metadata.name.as_deref().unwrap_or_default(),
        )
    }
}
