//! Stories of controllers that tell each other what they know.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)] // a story's helpers may fail it

mod acceptance;
mod admitted;
#[path = "../certificates/mod.rs"]
mod certificates;
#[path = "../engine/mod.rs"]
mod engine;
#[path = "../filter/mod.rs"]
mod filter;
mod in_flight;
#[path = "../log/mod.rs"]
mod log;
mod observed;
mod pair;
mod passed_on;
mod rotated;
#[path = "../service/mod.rs"]
mod service;
