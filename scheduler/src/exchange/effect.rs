//! What an exchange wants its shell to do.

use std::sync::Arc;

use crate::exchange::call::{CallId, CallKind};
use crate::explain::Explanation;
use crate::lease::Relocation;
use crate::prefix::Key;
use crate::request::Splice;
use crate::snapshot::Endpoint;
use crate::time::Time;

/// One thing to do. A shell carries effects out in the order given.
#[derive(Debug)]
pub enum Effect {
    /// Nothing of the request goes on until [`Effect::Dispatch`], [`Effect::Pass`] or [`Effect::Respond`].
    Hold,
    /// Ask; the answer comes back as [`super::Input::Reply`], at the latest a failure at `deadline`.
    Call {
        /// Which call the reply names.
        id: CallId,
        /// What is asked.
        kind: CallKind,
        /// When the exchange stops waiting.
        deadline: Time,
    },
    /// The answer to this call is no longer wanted.
    Cancel(CallId),
    /// Send [`super::Input::Wake`] at this moment; replaces an earlier one.
    WakeAt(Time),
    /// The request is not ours: it goes on untouched but for our control headers, which are removed.
    Pass,
    /// The request goes on, changed, to where the plan says.
    Dispatch(Box<Dispatch>),
    /// The request ends here with this answer.
    Respond(Box<LocalReply>),
    /// Headers to set on the answer.
    ResponseHeaders(Vec<Header>),
    /// In place of the answer bytes just shown, these go on; at the answer's end, these follow what went before.
    ReplaceChunk(Vec<u8>),
    /// Another endpoint served than the one picked: news for other replicas.
    Relocated(Box<Relocation>),
    /// The request has ended and its lease is settled; what is known of it is in [`super::Exchange::record`].
    Settle,
}

/// A header to set, replacing what was there.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Header {
    /// Lower-case name.
    pub name: &'static str,
    /// Value, valid header bytes.
    pub value: String,
}

/// One upstream request of a plan.
#[derive(Clone, Debug)]
pub struct Stage {
    /// The Envoy cluster.
    pub cluster: Box<str>,
    /// Endpoints in order of preference; retries walk down the list.
    pub endpoints: Vec<Arc<Endpoint>>,
    /// Retries after the first try.
    pub retries: u32,
    /// Base of the back-off between tries, milliseconds.
    pub retry_interval_ms: u64,
    /// Per try, until the answer's headers, milliseconds.
    pub try_timeout_ms: Option<u64>,
}

/// How a request goes on.
#[derive(Debug)]
pub struct Dispatch {
    /// Today one stage.
    pub stages: Vec<Stage>,
    /// Headers to set on the request; includes those that carry the plan.
    pub headers: Vec<Header>,
    /// Changes to the request body, sorted, not overlapping.
    pub splices: Vec<Splice>,
    /// Prefix keys that were new at the first endpoint: news for other replicas.
    pub placed: Vec<Key>,
    /// Why, where it was asked for.
    pub explanation: Option<Explanation>,
    /// Whether the explanation is for the client, too.
    pub asked_to_explain: bool,
}

impl Dispatch {
    /// The endpoints of the first stage as the destination list: `ip:port,ip:port`.
    pub fn destinations(&self) -> String {
        let mut list = String::new();
        for endpoint in self
            .stages
            .first()
            .map(|stage| stage.endpoints.as_slice())
            .unwrap_or_default()
        {
            if !list.is_empty() {
                list.push(',');
            }
            list.push_str(&endpoint.address);
        }
        list
    }
}

/// An answer of our own.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LocalReply {
    /// The status code.
    pub status: u16,
    /// Headers beside the content type, which is JSON.
    pub headers: Vec<Header>,
    /// A JSON document.
    pub body: Vec<u8>,
    /// A word for logs and response-code details.
    pub details: &'static str,
}
