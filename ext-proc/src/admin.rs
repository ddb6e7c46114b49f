//! Pages for operators: metrics and health for everybody, the configuration as it is held on loopback alone.
//!
//! What must always hold: nothing here changes anything, and no page waits for the request path: each reads the newest
//! snapshot. `/readyz` says in words why a process is not ready, or serves with something less than fresh state.

use std::fmt::Write as _;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};

use axum::extract::{Path, State as Extract};
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use axum::{Json, Router};
use kthena_scheduler::routing::{Backend, ModelRoute};
use kthena_scheduler::snapshot::{Endpoint, ModelServer, Snapshot};
use serde_json::{Value, json};

use crate::decisions::Decisions;
use crate::metrics::Metrics;
use crate::state::State;

/// Content type of the metrics page.
const OPENMETRICS: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";

/// What the pages read.
#[derive(Debug)]
pub struct Pages {
    state: Arc<State>,
    metrics: Arc<Metrics>,
    decisions: Arc<Decisions>,
    draining: AtomicBool,
}

// === impl Pages ===

impl Pages {
    /// Pages about this state and these metrics.
    pub fn new(state: Arc<State>, metrics: Arc<Metrics>, decisions: Arc<Decisions>) -> Arc<Self> {
        Arc::new(Self {
            state,
            metrics,
            decisions,
            draining: AtomicBool::new(false),
        })
    }

    /// From now on the process is not ready: it is stopping.
    pub fn drain(&self) {
        self.draining.store(true, Relaxed);
    }

    /// Whether requests should be sent here.
    pub fn is_ready(&self) -> bool {
        !self.draining.load(Relaxed) && self.state.status().synced
    }

    /// `/metrics`, `/healthz` and `/readyz`.
    pub fn admin(self: &Arc<Self>) -> Router {
        Router::new()
            .route("/metrics", get(metrics))
            .route("/healthz", get(|| async { Json(json!({"message": "ok"})) }))
            .route("/readyz", get(readyz))
            .with_state(Arc::clone(self))
    }

    /// The debug pages.
    pub fn debug(self: &Arc<Self>) -> Router {
        Router::new()
            .route("/debug/config_dump/{kind}", get(dump))
            .route("/debug/config_dump/namespaces/{namespace}/{kind}/{name}", get(dump_one))
            .route("/debug/decisions", get(decisions))
            .route("/debug/state", get(state))
            .with_state(Arc::clone(self))
    }
}

async fn metrics(Extract(pages): Extract<Arc<Pages>>) -> Response {
    match pages.metrics.page() {
        Ok(page) => ([(header::CONTENT_TYPE, OPENMETRICS)], page).into_response(),
        Err(error) => (StatusCode::INTERNAL_SERVER_ERROR, error.to_string()).into_response(),
    }
}

async fn readyz(Extract(pages): Extract<Arc<Pages>>) -> Response {
    let status = pages.state.status();
    let mut why = String::new();
    if pages.draining.load(Relaxed) {
        why.push_str("; the process is stopping");
    }
    if !status.synced {
        why.push_str("; no state from the controller yet");
    } else if status.from_cache {
        why.push_str("; serving the state that an earlier process kept, no controller has confirmed it yet");
    } else if !status.connected {
        let age = status.age_ms.unwrap_or_default() / 1_000;
        // Writing to a string does not fail.
        let _ = write!(why, "; the controller was last heard {age} s ago");
    }
    let body = |message: &str| Json(json!({"message": format!("{message}{why}"), "state_age_ms": status.age_ms}));
    match pages.is_ready() {
        true => body("router is ready").into_response(),
        false => (StatusCode::SERVICE_UNAVAILABLE, body("router is not ready")).into_response(),
    }
}

async fn state(Extract(pages): Extract<Arc<Pages>>) -> Json<Value> {
    let status = pages.state.status();
    let index = pages.state.index().stats();
    Json(json!({
        "origin": pages.state.origin(),
        "synced": status.synced,
        "connected": status.connected,
        "fromCache": status.from_cache,
        "ageMs": status.age_ms,
        "messages": status.messages,
        "connections": status.connections,
        "resourcesRefused": status.counters.refused,
        "endpointsWithoutRoom": status.counters.unplaced_endpoints,
        "prefixIndex": {"entries": index.entries, "bytes": index.bytes, "evictions": index.evictions},
    }))
}

async fn decisions(Extract(pages): Extract<Arc<Pages>>) -> Json<Value> {
    let newest = pages.decisions.newest_first();
    // An explanation is JSON where it could be written so; it is shown as text where not.
    let shown = newest
        .into_iter()
        .map(|text| serde_json::from_str(&text).unwrap_or(Value::String(text)));
    Json(json!({"decisions": shown.collect::<Vec<_>>()}))
}

async fn dump(Extract(pages): Extract<Arc<Pages>>, Path(kind): Path<String>) -> Response {
    let snapshot = pages.state.snapshot();
    match objects(&pages.state, snapshot.as_deref(), &kind) {
        // Kthena answers null for an empty list.
        Some(objects) if objects.is_empty() => Json(json!({kind: null})).into_response(),
        Some(objects) => Json(json!({kind: objects})).into_response(),
        None => not_found("there are modelroutes, modelservers and pods"),
    }
}

async fn dump_one(
    Extract(pages): Extract<Arc<Pages>>,
    Path((namespace, kind, name)): Path<(String, String, String)>,
) -> Response {
    let snapshot = pages.state.snapshot();
    let Some(objects) = objects(&pages.state, snapshot.as_deref(), &kind) else {
        return not_found("there are modelroutes, modelservers and pods");
    };
    let found = objects
        .into_iter()
        .find(|object| object["namespace"] == *namespace && object["name"] == *name);
    match found {
        Some(object) => Json(object).into_response(),
        None => not_found(match kind.as_str() {
            "modelroutes" => "ModelRoute not found",
            "modelservers" => "ModelServer not found",
            _ => "Pod not found",
        }),
    }
}

fn not_found(error: &str) -> Response {
    (StatusCode::NOT_FOUND, Json(json!({"error": error}))).into_response()
}

/// The objects of a kind; `None` = there is no such kind.
fn objects(state: &State, snapshot: Option<&Snapshot>, kind: &str) -> Option<Vec<Value>> {
    let routes = snapshot.map(|snapshot| snapshot.routes.routes()).unwrap_or_default();
    let servers = snapshot.map(|snapshot| &*snapshot.servers).unwrap_or_default();
    match kind {
        "modelroutes" => Some(routes.into_iter().map(|route| shown_route(route)).collect()),
        "modelservers" => Some(servers.iter().map(|server| shown_server(server)).collect()),
        "pods" => Some(shown_pods(state, servers)),
        _ => None,
    }
}

fn named(name: &str, mut rest: Value) -> Value {
    let (namespace, name) = name.split_once('/').unwrap_or(("", name));
    rest["namespace"] = namespace.into();
    rest["name"] = name.into();
    rest
}

fn shown_route(route: &ModelRoute) -> Value {
    let rules = route.rules.iter().map(|rule| {
        let targets = rule.targets.backends().map(|backend| match backend {
            Backend::ModelServer(name) => json!({"modelServer": name}),
            Backend::ExternalProvider(name) => json!({"externalProvider": name}),
        });
        json!({
            "name": rule.name,
            "headers": rule.headers.iter().map(|(name, _)| name).collect::<Vec<_>>(),
            "bodyModel": rule.body_model,
            "targets": targets.collect::<Vec<_>>(),
        })
    });
    let spec = json!({
        "modelName": route.model_name,
        "loraAdapters": route.lora_adapters,
        "rules": rules.collect::<Vec<_>>(),
    });
    named(&route.name, json!({"rank": route.rank, "spec": spec}))
}

fn shown_server(server: &ModelServer) -> Value {
    let scores = server.profile.scores().iter();
    let pods = server.endpoints.iter().map(|endpoint| &endpoint.pod);
    let spec = json!({
        "model": server.model,
        "inferenceEngine": format!("{:?}", server.engine),
        "cluster": server.cluster,
        "timeoutMs": server.timeout_ms,
        "retry": {"attempts": server.retry.attempts, "retryIntervalMs": server.retry.interval_ms},
        "profile": server.profile.name,
        "filters": server.profile.filters().iter().map(|filter| filter.name).collect::<Vec<_>>(),
        "scores": scores.map(|score| json!({"name": score.name, "weight": score.weight})).collect::<Vec<_>>(),
    });
    named(
        &server.name,
        json!({"spec": spec, "associatedPods": pods.collect::<Vec<_>>()}),
    )
}

fn shown_pods(state: &State, servers: &[Arc<ModelServer>]) -> Vec<Value> {
    let mut pods: Vec<(&Endpoint, Vec<&str>)> = Vec::new();
    for server in servers {
        for endpoint in &server.endpoints {
            match pods.iter_mut().find(|(known, _)| known.id == endpoint.id) {
                Some((_, names)) => names.push(&server.name),
                None => pods.push((endpoint, vec![&*server.name])),
            }
        }
    }
    pods.into_iter()
        .map(|(endpoint, servers)| shown_pod(state, endpoint, &servers))
        .collect()
}

fn shown_pod(state: &State, endpoint: &Endpoint, servers: &[&str]) -> Value {
    let view = endpoint.slot.view(state.now());
    let (own, _) = endpoint.slot.own();
    let adapters = endpoint.slot.own_by_adapter().into_iter();
    let adapters = adapters.map(|(name, requests, _)| (name.into_string(), Value::from(requests)));
    let shown = json!({
        "address": endpoint.address,
        "endpoint": format!("{:016x}", endpoint.id.0),
        "models": endpoint.models,
        "modelServers": servers,
        "metrics": {
            "gpuCacheUsage": view.sample.kv_usage,
            "requestWaitingNum": view.sample.waiting,
            "requestRunningNum": view.sample.running,
            "ttft": view.latency.ttft,
            "tpot": view.latency.tpot,
            "sampleAgeMs": view.sample_age,
        },
        "inFlight": view.in_flight,
        "inFlightOwn": own,
        "inFlightOwnByAdapter": adapters.collect::<serde_json::Map<_, _>>(),
        "down": view.down,
    });
    named(&endpoint.pod, shown)
}

#[cfg(test)]
mod tests {
    use axum::body::{Body, to_bytes};
    use axum::http::Request;
    use tower::ServiceExt;

    use super::*;
    use crate::state::Sizes;
    use kthena_scheduler::lease::LeaseTable;

    fn pages() -> Arc<Pages> {
        let state = State::new(&Sizes {
            max_endpoints: 4,
            prefix_index_bytes: 1 << 16,
            outbox: 4,
        });
        let metrics = Arc::new(Metrics::new(Arc::clone(&state), Arc::new(LeaseTable::new(1, 1)), 10));
        Pages::new(state, metrics, Arc::new(Decisions::new(2, false)))
    }

    async fn get(router: Router, path: &str) -> (u16, String) {
        let request = Request::get(path).body(Body::empty()).unwrap();
        let answer = router.oneshot(request).await.unwrap();
        let status = answer.status().as_u16();
        let body = to_bytes(answer.into_body(), 1 << 20).await.unwrap();
        (status, String::from_utf8(body.to_vec()).unwrap())
    }

    #[tokio::test]
    async fn a_process_without_state_is_alive_but_not_ready() {
        let pages = pages();
        assert_eq!(
            get(pages.admin(), "/healthz").await,
            (200, r#"{"message":"ok"}"#.into())
        );
        let (status, body) = get(pages.admin(), "/readyz").await;
        assert!(
            status == 503 && body.contains("no state from the controller yet"),
            "{body}"
        );
        pages.drain();
        assert!(get(pages.admin(), "/readyz").await.1.contains("stopping"));
        let (status, body) = get(pages.admin(), "/metrics").await;
        assert!(status == 200 && body.ends_with("# EOF\n"), "{body}");
    }

    #[tokio::test]
    async fn the_configuration_is_not_on_the_open_pages() {
        let pages = pages();
        assert_eq!(get(pages.admin(), "/debug/config_dump/pods").await.0, 404);
        assert_eq!(
            get(pages.debug(), "/debug/config_dump/pods").await,
            (200, r#"{"pods":null}"#.into())
        );
        assert_eq!(get(pages.debug(), "/debug/config_dump/secrets").await.0, 404);
        let one = get(pages.debug(), "/debug/config_dump/namespaces/a/modelroutes/r").await;
        assert_eq!(one, (404, r#"{"error":"ModelRoute not found"}"#.into()));
    }

    #[tokio::test]
    async fn the_last_decisions_are_shown_newest_first() {
        let pages = pages();
        (1..=3).for_each(|n| pages.decisions.push(format!(r#"{{"pick":{n}}}"#)));
        let (_, body) = get(pages.debug(), "/debug/decisions").await;
        assert_eq!(body, r#"{"decisions":[{"pick":3},{"pick":2}]}"#);
    }
}
