//! Pages for machines (/metrics, /healthz, /readyz) and, on loopback only, for people (/debug).
//!
//! What must always hold: nothing here changes anything, and no page waits for anything: each shows the last picture.

use std::net::SocketAddr;
use std::sync::Arc;

use axum::Router;
use axum::extract::{Path, State};
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Json, Response};
use axum::routing::get;
use kthena_gateway_api::ModelServer;
use prometheus_client::registry::Registry;
use serde_json::{Value, json};
use tokio::net::TcpListener;
use tokio::sync::watch;

use crate::compile::{EndpointKey, ScrapeTarget};
use crate::index::Entry;
use crate::observe::Table;
use crate::picture::Picture;
use crate::publish::{Acceptance, Hub};
use crate::source::ObjectKey;

/// What the pages show.
#[derive(Clone, Debug)]
pub struct Admin {
    /// The metrics.
    pub registry: Arc<Registry>,
    /// The state service.
    pub hub: Arc<Hub>,
    /// What is observed.
    pub table: Arc<Table>,
    /// The last compilation.
    pub picture: watch::Receiver<Arc<Picture>>,
    /// Whether the first state is published.
    pub ready: watch::Receiver<bool>,
}

// === impl Admin ===

impl Admin {
    /// The pages for machines.
    pub fn machine_pages(self) -> Router {
        Router::new()
            .route("/metrics", get(metrics))
            .route("/healthz", get(|| async { "ok\n" }))
            .route("/readyz", get(ready))
            .with_state(self)
    }

    /// The pages for people.
    pub fn debug_pages(self) -> Router {
        Router::new()
            .route("/debug/config_dump/{kind}", get(dump))
            .route("/debug/config_dump/namespaces/{namespace}/{kind}/{name}", get(dump_one))
            .route("/debug/status", get(status))
            .route("/debug/subscribers", get(subscribers))
            .route("/debug/peers", get(peers))
            .with_state(self)
    }

    fn objects(&self, kind: &str) -> Option<Vec<Value>> {
        let picture = self.picture.borrow().clone();
        match kind {
            "modelroutes" => Some(
                picture
                    .routes
                    .iter()
                    .map(|(key, entry)| named(key, json!({"spec": entry.object.spec})))
                    .collect(),
            ),
            "modelservers" => {
                let server = |(key, entry): (&ObjectKey, &Entry<ModelServer>)| {
                    let name = key.full_name();
                    let of_server = |target: &&Arc<ScrapeTarget>| target.servers.contains(&name);
                    let pods: Vec<_> = picture
                        .targets
                        .values()
                        .filter(of_server)
                        .map(|target| &target.pod)
                        .collect();
                    named(key, json!({"spec": entry.object.spec, "associatedPods": pods}))
                };
                Some(picture.servers.iter().map(server).collect())
            }
            "pods" => Some(picture.targets.values().map(|target| self.pod(target)).collect()),
            _ => None,
        }
    }

    fn pod(&self, target: &ScrapeTarget) -> Value {
        let key = EndpointKey {
            uid: target.uid.clone(),
            port: target.port,
        };
        let (namespace, name) = target.pod.split_once('/').unwrap_or_default();
        let seen = self.table.get(&key).unwrap_or_default();
        let now = self.hub.now();
        json!({
            "name": name,
            "namespace": namespace,
            "engine": target.engine,
            "address": target.address.to_string(),
            "models": seen.fact.models,
            "modelServers": target.servers,
            "incarnation": seen.fact.incarnation,
            "kvCapacityTokens": seen.fact.kv_capacity_tokens,
            "down": seen.down,
            "metrics": {
                "gpuCacheUsage": seen.sample.kv_usage,
                "requestWaitingNum": seen.sample.waiting,
                "requestRunningNum": seen.sample.running,
                "ttft": seen.latency.ttft,
                "tpot": seen.latency.tpot,
                "ageMs": seen.sampled_at.map(|at| now.since(at)),
            },
        })
    }
}

fn named(key: &ObjectKey, mut object: Value) -> Value {
    object["name"] = key.name.clone().into();
    object["namespace"] = key.namespace.clone().into();
    object
}

async fn metrics(State(admin): State<Admin>) -> Response {
    let mut text = String::new();
    match prometheus_client::encoding::text::encode(&mut text, &admin.registry) {
        Ok(()) => {
            let form = "application/openmetrics-text; version=1.0.0; charset=utf-8";
            ([(header::CONTENT_TYPE, form)], text).into_response()
        }
        Err(error) => (StatusCode::INTERNAL_SERVER_ERROR, error.to_string()).into_response(),
    }
}

async fn ready(State(admin): State<Admin>) -> Response {
    if *admin.ready.borrow() {
        "ok\n".into_response()
    } else {
        (StatusCode::SERVICE_UNAVAILABLE, "no state is published yet\n").into_response()
    }
}

async fn dump(State(admin): State<Admin>, Path(kind): Path<String>) -> Response {
    match admin.objects(&kind) {
        Some(objects) => Json(json!({ kind: objects })).into_response(),
        None => missing("Kind"),
    }
}

async fn dump_one(
    State(admin): State<Admin>,
    Path((namespace, kind, name)): Path<(String, String, String)>,
) -> Response {
    let label = match kind.as_str() {
        "modelroutes" => "ModelRoute",
        "modelservers" => "ModelServer",
        "pods" => "Pod",
        _ => "Kind",
    };
    let mut objects = admin.objects(&kind).into_iter().flatten();
    match objects.find(|object| object["namespace"] == namespace && object["name"] == name) {
        Some(object) => Json(object).into_response(),
        None => missing(label),
    }
}

fn missing(kind: &str) -> Response {
    let body = json!({"error": format!("{kind} not found")});
    (StatusCode::NOT_FOUND, Json(body)).into_response()
}

/// Every object's status; `programmed` is true when all connected filters run its newest version.
async fn status(State(admin): State<Admin>) -> Json<Value> {
    let picture = admin.picture.borrow().clone();
    let objects: Vec<_> = picture
        .statuses
        .iter()
        .map(|(key, status)| {
            let mut object = json!({"kind": key.kind, "name": key.full_name(), "status": **status});
            let parts = admin.hub.acceptances(key.kind, &key.full_name());
            if let Some(first) = parts.first() {
                let refused: Vec<_> = parts.iter().flat_map(|part| &part.refused).collect();
                object["programmed"] = parts.iter().all(Acceptance::is_programmed).into();
                object["filters"] = json!({
                    "connected": first.subscribers,
                    "acknowledged": parts.iter().map(|part| part.acknowledged).min(),
                    "refused": refused,
                });
            }
            object
        })
        .collect();
    let problems: Vec<_> = picture
        .problems
        .iter()
        .map(|problem| json!({"place": problem.place, "field": problem.field, "message": problem.message}))
        .collect();
    Json(json!({"objects": objects, "problems": problems}))
}

async fn subscribers(State(admin): State<Admin>) -> Response {
    Json(json!({"subscribers": admin.hub.subscribers()})).into_response()
}

async fn peers(State(admin): State<Admin>) -> Response {
    Json(json!({"instance": admin.hub.instance(), "peers": admin.hub.peers()})).into_response()
}

/// Listens for pages.
///
/// # Errors
/// The address cannot be bound.
pub async fn bind(address: SocketAddr, flag: &str) -> anyhow::Result<TcpListener> {
    TcpListener::bind(address)
        .await
        .map_err(|error| anyhow::anyhow!("cannot listen on {address} ({flag}): {error}; give another address"))
}

/// Serves pages until the process ends.
///
/// # Errors
/// The listener failed.
pub async fn serve(listener: TcpListener, pages: Router) -> std::io::Result<()> {
    axum::serve(listener, pages).await
}
