//! The ext_proc server: Envoy asks it where each request goes.
//!
//! What must always hold: decisions are the core's (`kthena_scheduler`); here is only what touches the world: sockets,
//! the clock, the controller's stream, metrics and traces. `envoy-types` is known to `wire` alone. Every wait has a
//! deadline, and everything that grows has a bound that is a setting.

pub mod access_log;
pub mod admin;
mod certificates;
pub mod config;
mod connections;
pub mod decisions;
pub mod envoy_check;
pub mod metrics;
pub mod server;
pub mod state;
pub mod stream;
pub mod telemetry;
pub mod wire;
pub mod workers;
