//! Stories of two controllers, each with filters of its own: filters decide on one picture, whichever controller they are connected to, and move on
//! when one goes.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "a test helper fails by panicking"
)]

/// What two ext_proc servers of one controller agree on, those of two controllers do.
#[path = "../faults/agree.rs"]
mod agree;
mod mixed;
mod moved;
mod observed;

use kthena_e2e::process::wait_until;
pub(crate) use kthena_e2e::system::story::{CHAT, SOON, gauge, llama, new_question, pods, wait_idle};
use kthena_e2e::system::{Options, System};

/// Starts a system of two controllers, which follow each other; each has one of the ext_proc servers.
async fn start(options: Options) -> System {
    let mut system = kthena_e2e::system::story::start(Options {
        controllers: 2,
        ..options
    })
    .await;
    for number in 0..2 {
        wait_metric(&mut system, number, "kthena_controller_peers", |peers| peers == 1.0).await;
    }
    system
}

/// A metric of a controller, summed over its labels.
async fn metric(system: &mut System, controller: usize, name: &str) -> f64 {
    let page = system.one_controller(controller).unwrap().page("/metrics").await;
    kthena_e2e::exposition::sum(&page.unwrap_or_default(), name).unwrap_or_default()
}

async fn wait_metric(system: &mut System, controller: usize, name: &str, is_right: impl Fn(f64) -> bool) {
    let mut seen = 0.0;
    wait_until(&format!("{name} of controller {controller}"), SOON, async || {
        seen = metric(system, controller, name).await;
        is_right(seen)
    })
    .await
    .unwrap_or_else(|error| panic!("{error:#}: {seen}"));
}

/// Waits until a question to the model is answered by 200 many times in a row, hence by every decider.
async fn wait_served(system: &System, model: &str) {
    let mut in_a_row = 0;
    wait_until(&format!("{model} to be served"), SOON, async || {
        let client = kthena_e2e::client::Client::http1(system.address());
        let served = client.send(new_question(model)).await;
        let served = served.is_ok_and(|answer| answer.status == 200);
        in_a_row = if served { in_a_row + 1 } else { 0 };
        in_a_row >= 8
    })
    .await
    .unwrap();
}
