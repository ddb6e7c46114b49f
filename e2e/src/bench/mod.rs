//! The benchmark: what the way through Envoy and `kthena-ext-proc` costs, beside the same way without them.
//!
//! ```text
//! client (closed loop) -> Envoy, bare                       -> fleet of 100 model servers that take no time
//!                      -> Envoy -> kthena-noop              ->
//!                      -> Envoy -> kthena-ext-proc <- state -> (kthena-controller observes the fleet)
//! ```
//!
//! Two are different: [`engines`] measures what decisions are worth on engines that run already, and [`control`] how fast a change of the
//! cluster reaches the filters, on a real API server.
//!
//! What must always hold: everything that is compared runs in the same minutes on the same machine, in turn; CPU is what the kernel
//! charged to a process, never a share of wall time; an answer that is not the one expected is an error and the run fails.
//! Absolute figures belong to the machine they were measured on: ratios are what carries over.

pub mod control;
pub mod engines;
pub mod idle;
pub mod load;
pub mod memory;
pub mod meter;
pub mod path;
pub mod report;
pub mod scrape;
pub mod sink;
pub mod stand;
pub mod traffic;
