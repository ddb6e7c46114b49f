//! A controller goes: its filters move on to the other, take up changes there, and no request is lost.

use kthena_e2e::process::wait_until;
use kthena_e2e::system::load::Load;
use kthena_e2e::system::manifests::model_route;
use kthena_e2e::system::{Filter, Options, Part, System};
use serde_json::json;

use crate::{SOON, llama, metric, start, wait_idle, wait_metric, wait_served};

const SUBSCRIBERS: &str = "kthena_controller_subscribers";

fn filters_that_know_both() -> Options {
    Options {
        ext_procs_know_all: true,
        ..llama(3)
    }
}

/// Kills one controller after the other, and back: each time the one that is left has all filters, and tells them what is new.
async fn they_move_on(system: &mut System, filters: f64) {
    let load = Load::start(system);
    load.goes_on(50).await;
    for (dead, left) in [(1, 0), (0, 1)] {
        system.kill(Part::OneController(dead)).unwrap();
        wait_metric(system, left, SUBSCRIBERS, |connected| connected == filters).await;
        let name = format!("after-{dead}");
        let route = model_route(&name, &name, "llama");
        system.manifests().write(&format!("{name}.yaml"), &[route]).unwrap();
        wait_served(system, &name).await;
        load.goes_on(50).await;
        system.restart(Part::OneController(dead)).await.unwrap();
        for one in [dead, left] {
            wait_metric(system, one, "kthena_controller_peers", |peers| peers == 1.0).await;
        }
    }
    load.stop_without_loss().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn ext_proc_servers_of_a_dead_controller_move_on_to_the_other() {
    let mut system = start(filters_that_know_both()).await;
    they_move_on(&mut system, 2.0).await;
    wait_idle(&system, 0, 3).await;
    wait_idle(&system, 1, 3).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn workers_with_the_wasm_filter_move_on_to_the_other_as_well() {
    let mut system = start(Options {
        filter: Filter::Wasm(json!({"explain": true})),
        ext_procs: 1,
        ..filters_that_know_both()
    })
    .await;
    let mut filters = 0.0;
    wait_until("both workers and the ext_proc server", SOON, async || {
        // A worker subscribes when its first request comes.
        wait_served(&system, "llama").await;
        filters = metric(&mut system, 0, SUBSCRIBERS).await + metric(&mut system, 1, SUBSCRIBERS).await;
        filters == 3.0
    })
    .await
    .unwrap_or_else(|error| panic!("{error:#}: {filters}"));
    they_move_on(&mut system, filters).await;
    wait_idle(&system, 0, 3).await;
}
