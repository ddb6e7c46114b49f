//! The proxy-wasm filter: Kthena's decisions inside the workers of Envoy, without a hop.
//!
//! A thin shell around the core's exchange, as `ext-proc` is: [`stream`] turns what Envoy tells of one request into
//! inputs and carries out the effects; [`root`] holds all requests of a VM, the stream to the controller and the ticks;
//! [`host`] is the narrow interface to Envoy, with a fake of it. What must always hold: not one routing rule lives here;
//! nothing panics on what Envoy, a client or the controller says, since a panic takes the worker's filter down; a
//! request that is held is let go by a decision, an answer or a deadline. It fails by answering the client with the
//! core's error table.

pub mod config;
pub mod host;
mod keep;
pub mod link;
pub mod metrics;
mod over;
pub mod root;
pub mod state;
#[cfg(test)]
mod stories;
pub mod stream;
#[cfg(target_family = "wasm")]
mod vm;
