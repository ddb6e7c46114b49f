//! A ModelServer with its pods: the resources that filters receive, and its cluster.

use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

use kthena_gateway_api::{EndpointCounts, FieldIssue, InferenceEngine, ModelServer, PdGroup, PortProtocol};
use kthena_scheduler::state::proto::{self, ResourceType};

use super::cluster::{Cluster, cluster_name};
use super::facts::{EndpointKey, Facts, incarnation};
use super::output::{Key, Resource};
use super::settings::Settings;
use crate::index::{Eligibility, Index, PodView};
use crate::source::ObjectKey;

// Kthena's default of retryInterval.
const DEFAULT_RETRY_INTERVAL_MS: u64 = 100;

/// All that a ModelServer's compilation reads.
pub(super) struct ServerInput<'a> {
    pub(super) key: &'a ObjectKey,
    pub(super) object: &'a Arc<ModelServer>,
    pub(super) index: &'a Index,
    pub(super) facts: &'a Facts,
    pub(super) settings: &'a Settings,
}

/// What follows from one ModelServer.
#[derive(Debug)]
pub(super) struct CompiledServer {
    pub(super) engine: InferenceEngine,
    pub(super) resources: Vec<Resource>,
    pub(super) cluster: Arc<Cluster>,
    pub(super) endpoints: Vec<EndpointOf>,
    pub(super) counts: EndpointCounts,
    pub(super) unresolved: Vec<FieldIssue>,
    pub(super) warnings: Vec<FieldIssue>,
}

/// One endpoint.
#[derive(Debug)]
pub(super) struct EndpointOf {
    pub(super) id: u64,
    pub(super) key: EndpointKey,
    pub(super) start: u64,
    pub(super) incarnation: u64,
    pub(super) address: SocketAddr,
    pub(super) pod: String,
}

/// Compiles a ModelServer that has been judged good.
pub(super) fn compile(input: &ServerInput<'_>) -> CompiledServer {
    let spec = &input.object.spec;
    let name = input.key.full_name();
    // Judged good, so in range; 0 could not be reached and would serve nothing.
    let port = u16::try_from(spec.workload_port.port).unwrap_or(0);
    let mut pods = Pods::select(input, port);
    let (server, cluster) = configuration(input, &name, port, &pods.endpoints);
    let mut resources = vec![
        resource(&name, ResourceType::Server, &server),
        resource(&name, ResourceType::Endpoints, &message(&pods.endpoints, input.facts)),
    ];
    if let Some(block) = &spec.scheduling
        && let Ok((profile, _)) = input.settings.profiles.of_server(&name, block)
    {
        resources.push(resource(&name, ResourceType::Profile, &profile));
    }
    CompiledServer {
        engine: spec.inference_engine,
        resources,
        cluster: Arc::new(cluster),
        unresolved: pods.unresolved(input),
        counts: pods.counts,
        warnings: std::mem::take(&mut pods.warnings),
        endpoints: pods.endpoints,
    }
}

fn resource(name: &str, kind: ResourceType, message: &impl prost::Message) -> Resource {
    Resource::encode(Key::new(kind, name), message)
}

fn configuration(
    input: &ServerInput<'_>,
    name: &str,
    port: u16,
    endpoints: &[EndpointOf],
) -> (proto::ModelServer, Cluster) {
    let spec = &input.object.spec;
    let policy = spec.traffic_policy.as_ref();
    let timeout_ms = policy
        .and_then(|policy| policy.timeout)
        .filter(|timeout| !timeout.is_zero())
        .map(|timeout| timeout.as_millis());
    let retry = policy.and_then(|policy| policy.retry.as_ref());
    let attempts = retry.map_or(input.settings.default_retry_attempts, |retry| {
        u32::try_from(retry.attempts).unwrap_or(0)
    });
    let interval_ms = retry.map_or(DEFAULT_RETRY_INTERVAL_MS, |retry| retry.retry_interval.as_millis());
    let cluster = cluster_name(&input.key.namespace, &input.key.name, port);
    let message = proto::ModelServer {
        name: name.to_owned(),
        model: spec.model.clone().filter(|model| !model.is_empty()),
        engine: match spec.inference_engine {
            InferenceEngine::Vllm => proto::Engine::Vllm,
            InferenceEngine::Sglang => proto::Engine::Sglang,
        } as i32,
        cluster: cluster.clone(),
        timeout_ms,
        retry: Some(proto::Retry { attempts, interval_ms }),
        profile: if spec.scheduling.is_some() {
            name.to_owned()
        } else {
            String::new()
        },
    };
    let cluster = Cluster {
        name: cluster,
        server: name.to_owned(),
        endpoints: Arc::new(endpoints.iter().map(|endpoint| endpoint.address).collect()),
        https: spec.workload_port.protocol == PortProtocol::Https,
        retry_attempts: attempts,
        retry_interval_ms: interval_ms,
        timeout_ms,
    };
    (message, cluster)
}

/// The pods of a ModelServer, sorted out.
struct Pods {
    endpoints: Vec<EndpointOf>,
    // Reason -> how many pods.
    left_out: BTreeMap<&'static str, usize>,
    counts: EndpointCounts,
    warnings: Vec<FieldIssue>,
}

impl Pods {
    fn select(input: &ServerInput<'_>, port: u16) -> Self {
        let selector = &input.object.spec.workload_selector;
        let mut pods = Self {
            endpoints: Vec::new(),
            left_out: BTreeMap::new(),
            counts: EndpointCounts {
                prefill: selector.pd_group.as_ref().map(|_| 0),
                decode: selector.pd_group.as_ref().map(|_| 0),
                ..EndpointCounts::default()
            },
            warnings: Vec::new(),
        };
        let mut by_address: BTreeMap<IpAddr, &PodView> = BTreeMap::new();
        for pod in input.index.pods(&input.key.namespace, &selector.match_labels) {
            pods.counts.selected += 1;
            let prefills = selector.pd_group.as_ref().is_some_and(|group| prefills(pod, group));
            if let (true, Eligibility::Ready(_), Some(count)) = (prefills, pod.eligibility, &mut pods.counts.prefill) {
                *count += 1;
                pods.counts.ready += 1;
            }
            if selector.pd_group.as_ref().is_some_and(|group| !decodes(pod, group)) {
                *pods.left_out.entry("not of a decode group").or_default() += 1;
                continue;
            }
            let Eligibility::Ready(ip) = pod.eligibility else {
                *pods.left_out.entry(pod.eligibility.as_str()).or_default() += 1;
                continue;
            };
            // Two pods at one address could not be told apart by what they served.
            if let Some(first) = by_address.get(&ip) {
                pods.warnings.push(FieldIssue::new(
                    "spec.workloadSelector",
                    format!(
                        "pods {} and {} have the same address {ip}: the first alone serves",
                        first.name, pod.name
                    ),
                ));
                continue;
            }
            by_address.insert(ip, pod);
            pods.counts.ready += i32::from(!prefills);
            if let Some(count) = &mut pods.counts.decode {
                *count += 1;
            }
            pods.endpoints.push(endpoint(pod, ip, port, input.facts));
        }
        pods.endpoints.sort_by_key(|endpoint| endpoint.id);
        pods
    }

    /// Why there is no endpoint, if there is none.
    fn unresolved(&self, input: &ServerInput<'_>) -> Vec<FieldIssue> {
        if !self.endpoints.is_empty() {
            return Vec::new();
        }
        let path = "spec.workloadSelector";
        if self.left_out.is_empty() {
            let labels: Vec<_> = input
                .object
                .spec
                .workload_selector
                .match_labels
                .iter()
                .map(|(key, value)| format!("{key}={value}"))
                .collect();
            let message = format!(
                "no pod of namespace {} has the labels {}",
                input.key.namespace,
                labels.join(", ")
            );
            return vec![FieldIssue::new(path, message)];
        }
        let reasons: Vec<_> = self
            .left_out
            .iter()
            .map(|(reason, count)| format!("{count} {reason}"))
            .collect();
        vec![FieldIssue::new(
            path,
            format!("no selected pod can serve: {}", reasons.join(", ")),
        )]
    }
}

// As Kthena does: the group label has a value, and the decode labels are there.
fn decodes(pod: &PodView, group: &PdGroup) -> bool {
    pod.labels.get(&group.group_key).is_some_and(|value| !value.is_empty()) && pod.has_labels(&group.decode_labels)
}

fn prefills(pod: &PodView, group: &PdGroup) -> bool {
    pod.labels.get(&group.group_key).is_some_and(|value| !value.is_empty()) && pod.has_labels(&group.prefill_labels)
}

/// Endpoints as filters receive them: those that are being asked for the first time are kept back.
pub(super) fn message(endpoints: &[EndpointOf], facts: &Facts) -> proto::Endpoints {
    let endpoints = endpoints
        .iter()
        .filter(|endpoint| !facts.pending.contains(&endpoint.key))
        .map(|endpoint| {
            let fact = facts.endpoints.get(&endpoint.key);
            proto::Endpoint {
                id: endpoint.id,
                uid: endpoint.key.uid.clone(),
                port: u32::from(endpoint.key.port),
                incarnation: endpoint.incarnation,
                address: endpoint.address.to_string(),
                pod: endpoint.pod.clone(),
                models: fact.map(|fact| fact.models.clone()).unwrap_or_default(),
                kv_capacity_tokens: fact.and_then(|fact| fact.kv_capacity_tokens).unwrap_or(0),
            }
        })
        .collect();
    proto::Endpoints { endpoints }
}

pub(super) fn endpoint(pod: &PodView, ip: IpAddr, port: u16, facts: &Facts) -> EndpointOf {
    let key = EndpointKey {
        uid: pod.uid.clone(),
        port,
    };
    let start = pod.start_of(port);
    let incarnation = incarnation(start, facts.endpoints.get(&key));
    EndpointOf {
        id: key.endpoint_id(incarnation),
        key,
        start,
        incarnation,
        address: SocketAddr::new(ip, port),
        pod: pod.full_name(),
    }
}
