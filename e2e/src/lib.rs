//! Whole-system tests, the demo and the benchmark, on real parts.
//!
//! This crate starts the real programs as child processes on free loopback ports, sends them traffic and reads what they say of themselves.
//! What must always hold: nothing that it starts outlives the process that started it, and no wait is without a deadline.

pub mod authority;
pub mod bench;
pub mod cache;
pub mod chart;
pub mod client;
pub mod cluster;
pub mod clusters;
pub mod demo;
pub mod envoy;
pub mod exposition;
pub mod noop;
pub mod openai;
pub mod ports;
pub mod process;
pub mod processor;
pub mod prose;
pub mod publisher;
pub mod scratch;
pub mod scripted;
pub mod system;
