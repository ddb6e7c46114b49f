//! A picture: all that a filter decides by. Manifests, what was observed of the pods, and the operator's settings, in one YAML file.
//!
//! It goes through the controller's own compiler, and becomes one update of the state protocol: both shells get the very same bytes.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use kthena_controller::compile::{Compiler, EndpointKey, Fact, Facts, Key, Profiles, Resource, Settings, Touched};
use kthena_controller::index::Index;
use kthena_controller::source::{Event, Object, OrderKey, Origin};
use kthena_scheduler::state::proto::{self, ResourceType};
use prost::Message as _;
use serde::Deserialize;
use serde::de::DeserializeOwned;
use serde_json::Value;

/// One picture.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Picture {
    #[serde(skip)]
    pub(crate) name: String,
    /// What it is for.
    #[allow(dead_code, reason = "it is for readers of the file")]
    about: String,
    pub(crate) settings: Operator,
    /// A router configuration file of Kthena, if there is one.
    #[serde(default)]
    router: Option<Value>,
    /// What was observed of pods, by their names.
    #[serde(default)]
    observed: BTreeMap<String, Observed>,
    /// Manifests. None at all: the filter has no state.
    #[serde(default)]
    pub(crate) objects: Vec<Value>,
}

/// What the operator sets, in both shells.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Operator {
    pub(crate) explain: bool,
    #[serde(default)]
    pub(crate) hosts: Vec<String>,
    #[serde(default)]
    pub(crate) reject_when_saturated: bool,
    #[serde(default = "sixteen_mebibytes")]
    pub(crate) max_body_bytes: u64,
    /// How long requests wait for the first state.
    #[serde(default)]
    pub(crate) state_wait_ms: u64,
}

fn sixteen_mebibytes() -> u64 {
    16 << 20
}

/// What was observed of a pod. Absent = the engine did not say.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
struct Observed {
    sample_age_ms: Option<u64>,
    waiting: Option<u32>,
    running: Option<u32>,
    kv_usage: Option<f32>,
    ttft_s: Option<f32>,
    tpot_s: Option<f32>,
    latency_age_ms: u64,
    down: bool,
    /// By other deciders.
    in_flight: u32,
    in_flight_tokens: u64,
    models: Vec<String>,
    kv_capacity_tokens: Option<u64>,
    incarnation: u64,
}

/// The folder of the corpus.
pub(crate) fn folder() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/parity/corpus")
}

// === impl Picture ===

impl Picture {
    /// Reads a picture of the corpus.
    pub(crate) fn read(name: &str) -> Self {
        let file = folder().join(format!("{name}.yaml"));
        let text = std::fs::read_to_string(&file).unwrap_or_else(|error| panic!("{}: {error}", file.display()));
        let picture: Self = serde_saphyr::from_str(&text).unwrap_or_else(|error| panic!("{}: {error}", file.display()));
        Self {
            name: name.to_owned(),
            ..picture
        }
    }

    /// Whether the filter has any state.
    pub(crate) fn has_state(&self) -> bool {
        !self.objects.is_empty()
    }

    /// The whole state, as one update.
    pub(crate) fn update(&self) -> proto::Update {
        let mut resources = self.compile();
        let of = |kind| move |resource: &&Resource| resource.key.kind == kind;
        let endpoints: Vec<_> = resources.iter().filter(of(ResourceType::Endpoints)).cloned().collect();
        resources.extend(endpoints.iter().map(|resource| self.load(resource)));
        resources.sort_by_key(|resource| match resource.key.kind {
            ResourceType::Profile => 0,
            ResourceType::Server => 1,
            ResourceType::Endpoints => 2,
            ResourceType::Load => 3,
            _ => 4,
        });
        let resource = |compiled: Resource| proto::Resource {
            r#type: compiled.key.kind.into(),
            name: compiled.key.name.to_string(),
            version: compiled.version,
            body: compiled.body,
            ..proto::Resource::default()
        };
        proto::Update {
            nonce: 1,
            resources: resources.into_iter().map(resource).collect(),
            removed: Vec::new(),
            synced: true,
        }
    }

    fn compile(&self) -> Vec<Resource> {
        let mut index = Index::default();
        for (number, value) in (0..).zip(&self.objects) {
            let object = object(value);
            let created = object.metadata().creation_timestamp.as_ref();
            let key = object.key();
            let origin = Origin {
                place: format!("{}.yaml, object {number}", self.name),
                order: match created {
                    Some(time) => OrderKey::Created(time.0.as_microsecond(), key.namespace, key.name),
                    None => OrderKey::Place(format!("{}.yaml", self.name), number),
                },
                warnings: Vec::new(),
            };
            index.apply(Event::Apply(object, origin));
        }
        let router = self
            .router
            .as_ref()
            .map(|router| serde_json::to_string(router).unwrap());
        let profiles = router.map(|text| Profiles::from_configuration(&text).unwrap().0);
        let settings = Settings {
            profiles: profiles.unwrap_or_default(),
            ..Settings::default()
        };
        let output = Compiler::new(settings).compile(&index, &self.facts(), &Touched::default());
        for (key, status) in &output.statuses {
            assert!(status.accepted, "{key}: {:?}", status.errors);
        }
        output.resources.values().cloned().collect()
    }

    fn facts(&self) -> Facts {
        let fact = |(pod, observed): (&String, &Observed)| {
            let uid = format!("default/{pod}");
            let fact = Fact {
                incarnation: observed.incarnation,
                models: observed.models.clone(),
                kv_capacity_tokens: observed.kv_capacity_tokens,
            };
            (EndpointKey { uid, port: 8000 }, Arc::new(fact))
        };
        Facts {
            endpoints: self.observed.iter().map(fact).collect(),
            ..Facts::default()
        }
    }

    /// The loads of the endpoints in this resource.
    fn load(&self, endpoints: &Resource) -> Resource {
        let listed = proto::Endpoints::decode(&*endpoints.body).unwrap().endpoints;
        let load = |endpoint: &proto::Endpoint| {
            let pod = endpoint.pod.trim_start_matches("default/");
            let observed = self.observed.get(pod).cloned().unwrap_or_default();
            proto::EndpointLoad {
                endpoint: endpoint.id,
                sample_age_ms: observed.sample_age_ms,
                waiting: observed.waiting,
                running: observed.running,
                kv_usage: observed.kv_usage,
                ttft_s: observed.ttft_s,
                tpot_s: observed.tpot_s,
                latency_age_ms: observed.latency_age_ms,
                down: observed.down,
                in_flight_requests: observed.in_flight,
                in_flight_tokens: observed.in_flight_tokens,
            }
        };
        let load = proto::Load {
            endpoints: listed.iter().map(load).collect(),
        };
        Resource::encode(Key::new(ResourceType::Load, Arc::clone(&endpoints.key.name)), &load)
    }
}

fn object(value: &Value) -> Object {
    fn typed<T: DeserializeOwned>(value: &Value) -> Arc<T> {
        Arc::new(serde_json::from_value(value.clone()).unwrap_or_else(|error| panic!("{error}: {value}")))
    }
    match value["kind"].as_str() {
        Some("ModelRoute") => Object::ModelRoute(typed(value)),
        Some("ModelServer") => Object::ModelServer(typed(value)),
        Some("ExternalModelProvider") => Object::ExternalModelProvider(typed(value)),
        Some("Pod") => Object::Pod(typed(value)),
        kind => panic!("{kind:?}"),
    }
}
