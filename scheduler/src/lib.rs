//! The pure core of Kthena for Envoy: what every shell (the ext_proc server, the wasm filter) decides with.
//!
//! What must always hold: no clock, no I/O, no async, no threads and no randomness of its own: time and seeds are
//! arguments, so that a decision can be replayed. Inputs are validated once, at the edge, into domain types; the request
//! path cannot meet a malformed snapshot. It fails by value: every refusal is a typed error that a shell can turn into
//! an answer for the client.

mod draws;
pub mod exchange;
pub mod explain;
mod float;
mod json;
pub mod lease;
pub mod load;
pub mod pick;
pub mod prefix;
pub mod profile;
pub mod request;
pub mod response;
pub mod routing;
pub mod snapshot;
pub mod state;
pub mod tally;
pub mod time;
