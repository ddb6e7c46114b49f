//! The controller: watches, compiles, observes and publishes scheduling state.
//!
//! Objects come in through `source`, as the same apply and delete events whether a folder or an API server gives them; `index` keeps
//! the newest of each; `compile` turns them, with what was observed of the pods, into the resources that filters receive
//! and the clusters that Envoy needs. What must always hold: the same objects and facts give the same bytes, whatever the
//! order in which they came; a bad object is told so and harms no other.

pub mod admin;
pub mod clock;
pub mod compile;
pub mod config;
pub mod envoy;
pub mod index;
pub mod leader;
pub mod metrics;
pub mod observe;
pub mod peers;
pub mod picture;
pub mod publish;
pub mod requests;
pub mod run;
pub mod serve;
pub mod source;
pub mod status;
pub mod writeback;
