//! Story: of two controllers one leads. It dies, or is cut off from the API server while it still holds filters; the other takes over, they never
//! lead both, and requests go on.

use std::time::Instant;

use kthena_e2e::system::Another;
use kthena_e2e::system::fleet::Fault;
use kthena_e2e::system::load::Load;
use kthena_e2e::system::manifests::model_route;

use super::*;

/// A leader that is gone is followed within this time.
pub(super) const FOLLOWED_WITHIN: Duration = Duration::from_secs(15);

pub(super) async fn leads(program: &mut kthena_e2e::system::Program) -> bool {
    let page = program.page("/metrics").await.unwrap_or_default();
    kthena_e2e::exposition::sum(&page, "kthena_controller_leading") == Some(1.0)
}

async fn wait_for_the_other(other: &mut Another, since: Instant) {
    wait_until("the other to lead", PATIENCE, async || leads(other.program()).await)
        .await
        .unwrap();
    assert!(since.elapsed() < FOLLOWED_WITHIN, "{:?}", since.elapsed());
}

/// Whoever leads writes the status of a new object.
pub(super) async fn is_written(system: &mut System, name: &str) {
    let cluster = system.kubernetes().unwrap();
    cluster.apply(&[model_route(name, name, "llama")]).await.unwrap();
    wait_until("the status to be written", PATIENCE, async || {
        let object = system
            .kubernetes()
            .unwrap()
            .get(&format!("modelroute/{name}"), "default")
            .await
            .unwrap();
        object["status"]["conditions"]
            .as_array()
            .is_some_and(|conditions| conditions.len() == 3)
    })
    .await
    .unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn another_controller_writes_when_the_leader_is_killed() {
    let mut system = start(on_a_cluster(1)).await;
    wait_until("the first to lead", PATIENCE, async || leads(system.controller()).await)
        .await
        .unwrap();
    let mut other = system.another_controller().await.unwrap();
    assert!(!leads(other.program()).await);
    system.kill(Part::Controller).unwrap();
    wait_for_the_other(&mut other, Instant::now()).await;
    is_written(&mut system, "late").await;
    assert_eq!(send(&system, new_question("llama")).await.status, 200);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_leader_that_ends_in_order_is_followed_at_once() {
    let mut system = start(on_a_cluster(1)).await;
    wait_until("the first to lead", PATIENCE, async || leads(system.controller()).await)
        .await
        .unwrap();
    let mut other = system.another_controller().await.unwrap();
    let begun = Instant::now();
    let process = system.controller().process().unwrap();
    process.terminate(Duration::from_secs(10)).await.unwrap();
    wait_until("the other to lead", PATIENCE, async || leads(other.program()).await)
        .await
        .unwrap();
    // Sooner than a Lease that was not given back.
    assert!(begun.elapsed() < Duration::from_secs(8), "{:?}", begun.elapsed());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_leader_that_is_cut_off_gives_up_before_another_leads_and_serves_on() {
    let mut options = on_a_cluster(2);
    options.cluster = Some(cluster::Options {
        proxied: true,
        ..cluster::Options::default()
    });
    let mut system = start(options).await;
    wait_until("the first to lead", PATIENCE, async || leads(system.controller()).await)
        .await
        .unwrap();
    let mut other = system.another_controller().await.unwrap();
    let load = Load::on(&system, "llama", 1);
    system.kubernetes().unwrap().proxy().unwrap().cut();
    let cut = Instant::now();
    let mut both = 0;
    wait_until("the other to lead", PATIENCE, async || {
        let (first, second) = (leads(system.controller()).await, leads(other.program()).await);
        both += u32::from(first && second);
        second
    })
    .await
    .unwrap();
    assert!(cut.elapsed() < FOLLOWED_WITHIN, "{:?}", cut.elapsed());
    assert_eq!(both, 0, "they never lead both");
    // It still holds the filters, and tells them what it observes: what dies is avoided.
    assert_eq!(metric(&mut system, "kthena_controller_subscribers").await, 2.0);
    let all = system.fleet().addresses("llama");
    system.fleet().inflict(&Fault::Die, &all[..1]).await.unwrap();
    wait_until("the filters to know that one is down", PATIENCE, async || {
        metric(&mut system, "kthena_controller_endpoints_down").await == 1.0
    })
    .await
    .unwrap();
    is_written(&mut system, "late").await;
    // The line is whole again: the first catches up, and does not lead.
    system.kubernetes().unwrap().proxy().unwrap().mend();
    wait_until("the first to catch up", PATIENCE, async || {
        send(&system, question("late")).await.status == 200
    })
    .await
    .unwrap();
    assert!(leads(other.program()).await && !leads(system.controller()).await);
    load.stop_without_loss().await;
}
