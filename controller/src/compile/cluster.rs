//! What Envoy needs to know of a ModelServer: one cluster per ModelServer and port, so that a request can never reach a
//! pod of another model, whatever list of endpoints it carries.

use std::collections::BTreeSet;
use std::net::SocketAddr;
use std::sync::Arc;

/// The Envoy cluster that holds the endpoints of a ModelServer. The one place where the name is made.
pub fn cluster_name(namespace: &str, name: &str, port: u16) -> String {
    format!("model-server/{namespace}/{name}/{port}")
}

/// An Envoy cluster, in neutral terms.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Cluster {
    /// See [`cluster_name`].
    pub name: String,
    /// `namespace/name` of the ModelServer.
    pub server: String,
    /// Where its pods listen.
    pub endpoints: Arc<BTreeSet<SocketAddr>>,
    /// The pods speak TLS.
    pub https: bool,
    /// Tries after the first.
    pub retry_attempts: u32,
    /// Base of the back-off between tries, milliseconds.
    pub retry_interval_ms: u64,
    /// Bound of each try until the answer's headers, milliseconds; `None` = unbounded.
    pub timeout_ms: Option<u64>,
}

#[cfg(test)]
impl Cluster {
    /// A cluster of plain HTTP at these addresses.
    pub(crate) fn of(name: &str, addresses: impl IntoIterator<Item = SocketAddr>) -> Self {
        Self {
            name: name.to_owned(),
            server: String::new(),
            endpoints: Arc::new(addresses.into_iter().collect()),
            https: false,
            retry_attempts: 0,
            retry_interval_ms: 0,
            timeout_ms: None,
        }
    }
}
