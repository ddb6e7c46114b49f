//! The control API: what the endpoints are doing, faults on and off, and what they have received.
//!
//! | request | does |
//! |---|---|
//! | `GET /endpoints` | every endpoint: address, model, profile, incarnation, reach, load, counters |
//! | `PUT /faults` `{"addresses": "127.0.1.1-127.0.1.3", "fault": {"kind": "hang"}}` | switches a fault on |
//! | `DELETE /faults?addresses=127.0.1.1` | switches all faults off; what was dead starts again, empty |
//! | `GET /requests?address=127.0.1.1&after=NUMBER&limit=N` | the newest requests received, oldest first |
//! | `GET /requests/NUMBER/body` | the exact bytes of one body, while they are kept |
//!
//! Faults ([`crate::Fault`]): `hang`; `slow` with `factor` and `delay_ms`; `refuse`; `die`; `error` with `status` and
//! `share`; `frozen_metrics`. Different kinds add up. An answer means that the change has taken effect. Leaving out
//! `addresses` means all endpoints. Mistakes are answered by 400 with a sentence, and change nothing.

use std::net::Ipv4Addr;
use std::sync::Arc;

use axum::extract::rejection::{JsonRejection, QueryRejection};
use axum::extract::{Path, Query, State};
use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use axum::routing::{get, put};
use axum::{Json, Router};
use parking_lot::Mutex;
use serde::Deserialize;
use serde_json::{Value, json};

use crate::endpoint::{Endpoint, Fault, Listener, Reach};
use crate::http::Context;
use crate::journal::Entry;
use crate::metrics;
use crate::settings::AddressRange;

/// An endpoint as the control API handles it.
#[derive(Debug)]
pub(crate) struct Controlled {
    /// The endpoint.
    pub(crate) endpoint: Arc<Endpoint>,
    /// Its socket.
    pub(crate) listener: Listener,
    /// What was last ordered of the socket.
    pub(crate) reach: Mutex<Reach>,
}

/// What the control API works on.
#[derive(Debug)]
pub(crate) struct Control {
    /// All endpoints, in the order of the command line.
    pub(crate) endpoints: Vec<Controlled>,
    /// The journal is in here.
    pub(crate) context: Arc<Context>,
}

/// A request of the control API that cannot be carried out.
struct Refusal(StatusCode, String);

impl IntoResponse for Refusal {
    fn into_response(self) -> Response {
        (self.0, Json(json!({"error": self.1}))).into_response()
    }
}

impl From<JsonRejection> for Refusal {
    fn from(rejection: JsonRejection) -> Self {
        Self(StatusCode::BAD_REQUEST, rejection.body_text())
    }
}

impl From<QueryRejection> for Refusal {
    fn from(rejection: QueryRejection) -> Self {
        Self(StatusCode::BAD_REQUEST, rejection.body_text())
    }
}

/// The routes.
pub(crate) fn router(control: Arc<Control>) -> Router {
    Router::new()
        .route("/endpoints", get(endpoints))
        .route("/faults", put(inflict).delete(heal))
        .route("/requests", get(requests))
        .route("/requests/{number}/body", get(request_body))
        .with_state(control)
}

impl Control {
    fn select(&self, addresses: Option<&str>) -> Result<Vec<&Controlled>, Refusal> {
        let refuse = |message| Refusal(StatusCode::BAD_REQUEST, message);
        let Some(text) = addresses else {
            return Ok(self.endpoints.iter().collect());
        };
        let ranges = AddressRange::parse_all(text).map_err(refuse)?;
        let find = |address: Ipv4Addr| {
            let found = self
                .endpoints
                .iter()
                .find(|controlled| controlled.endpoint.address.ip() == address);
            found.ok_or_else(|| refuse(format!("{address} is not in the fleet; see GET /endpoints")))
        };
        ranges.iter().flat_map(AddressRange::iter).map(find).collect()
    }
}

impl Controlled {
    async fn set_reach(&self, reach: Reach) -> Result<(), Refusal> {
        let failed = |error| {
            let message = format!("cannot listen on {} again: {error}", self.endpoint.address);
            Refusal(StatusCode::INTERNAL_SERVER_ERROR, message)
        };
        self.listener.set_reach(reach).await.map_err(failed)?;
        *self.reach.lock() = reach;
        Ok(())
    }

    async fn inflict(&self, fault: &Fault) -> Result<(), Refusal> {
        match fault {
            Fault::Refuse => self.set_reach(Reach::Refusing).await,
            Fault::Die => {
                self.set_reach(Reach::Dead).await?;
                self.endpoint.die();
                Ok(())
            }
            other => {
                self.endpoint.inflict(other, || metrics::render(&self.endpoint));
                Ok(())
            }
        }
    }

    async fn heal(&self) -> Result<(), Refusal> {
        self.endpoint.heal();
        let reach = *self.reach.lock();
        if reach == Reach::Open {
            Ok(())
        } else {
            self.set_reach(Reach::Open).await
        }
    }

    fn describe(&self) -> Value {
        let (endpoint, snapshot) = (&self.endpoint, self.endpoint.snapshot());
        let reach = match *self.reach.lock() {
            Reach::Open => "open",
            Reach::Refusing => "refusing",
            Reach::Dead => "dead",
        };
        json!({
            "address": endpoint.address.to_string(), "model": endpoint.server.model,
            "adapters": endpoint.server.adapters, "profile": endpoint.server.profile,
            "incarnation": endpoint.incarnation(), "reach": reach, "running": snapshot.load.running,
            "waiting": snapshot.load.waiting, "kv_usage": snapshot.load.kv_usage,
            "prompt_tokens": snapshot.stats.prompt_tokens, "cached_tokens": snapshot.stats.cached_tokens,
            "generation_tokens": snapshot.stats.generation_tokens,
            "finished": snapshot.stats.stopped + snapshot.stats.reached_length, "aborted": snapshot.stats.aborted,
        })
    }
}

async fn endpoints(State(control): State<Arc<Control>>) -> Json<Value> {
    Json(control.endpoints.iter().map(Controlled::describe).collect())
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Infliction {
    addresses: Option<String>,
    fault: Fault,
}

async fn inflict(
    State(control): State<Arc<Control>>,
    order: Result<Json<Infliction>, JsonRejection>,
) -> Result<Json<Value>, Refusal> {
    let Json(order) = order?;
    if let Some(refusal) = order.fault.refusal() {
        return Err(Refusal(StatusCode::BAD_REQUEST, refusal));
    }
    let selected = control.select(order.addresses.as_deref())?;
    for controlled in &selected {
        controlled.inflict(&order.fault).await?;
    }
    Ok(Json(json!({"endpoints": selected.len()})))
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Healing {
    addresses: Option<String>,
}

async fn heal(
    State(control): State<Arc<Control>>,
    order: Result<Query<Healing>, QueryRejection>,
) -> Result<Json<Value>, Refusal> {
    let Query(order) = order?;
    let selected = control.select(order.addresses.as_deref())?;
    for controlled in &selected {
        controlled.heal().await?;
    }
    Ok(Json(json!({"endpoints": selected.len()})))
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Search {
    address: Option<Ipv4Addr>,
    #[serde(default)]
    after: u64,
    #[serde(default = "search_limit")]
    limit: usize,
}

fn search_limit() -> usize {
    100
}

async fn requests(
    State(control): State<Arc<Control>>,
    search: Result<Query<Search>, QueryRejection>,
) -> Result<Json<Value>, Refusal> {
    let Query(search) = search?;
    let wanted = |entry: &Entry| {
        entry.number > search.after && search.address.is_none_or(|address| entry.endpoint.ip() == address)
    };
    let (last, entries) = control.context.journal.newest(search.limit, wanted);
    Ok(Json(
        json!({"last": last, "requests": entries.iter().map(describe).collect::<Vec<_>>()}),
    ))
}

fn describe(entry: &Entry) -> Value {
    let header = |(name, value): (&axum::http::HeaderName, &axum::http::HeaderValue)| {
        json!([name.as_str(), String::from_utf8_lossy(value.as_bytes())])
    };
    let at = entry
        .at
        .duration_since(std::time::UNIX_EPOCH)
        .map_or(0, |since| since.as_millis() as u64);
    json!({
        "number": entry.number, "unix_ms": at, "endpoint": entry.endpoint.to_string(),
        "method": entry.head.method.as_str(), "path": entry.head.uri.to_string(),
        "headers": entry.head.headers.iter().map(header).collect::<Vec<_>>(), "body_bytes": entry.body_bytes,
        "body_hash": format!("{:016x}", entry.body_hash), "body_kept": entry.body.is_some(),
    })
}

async fn request_body(State(control): State<Arc<Control>>, Path(number): Path<u64>) -> Result<Response, Refusal> {
    let (_, entries) = control.context.journal.newest(1, |entry| entry.number == number);
    match entries.into_iter().next().and_then(|entry| entry.body) {
        Some(body) => Ok(body.into_response()),
        None => Err(Refusal(
            StatusCode::NOT_FOUND,
            format!("the body of request {number} is not kept"),
        )),
    }
}
