//! Story: two controllers on the API server, each with a filter. The filters decide on one picture; what is said of an object speaks of both; when
//! the leader dies its filter moves on, and the other says how far all have got.

use kthena_e2e::system::manifests::model_route;
use kthena_e2e::system::story::{agree, decided_by};

use super::status::{wait_condition, wait_programmed};
use super::*;

fn with_two_controllers(endpoints: u8) -> Options {
    Options {
        controllers: 2,
        ..on_a_cluster(endpoints)
    }
}

async fn of_controller(system: &mut System, number: usize, name: &str) -> f64 {
    let page = system.one_controller(number).unwrap().page("/metrics").await;
    kthena_e2e::exposition::sum(&page.unwrap_or_default(), name).unwrap_or_default()
}

/// Starts the system, and tells which controller leads.
async fn started(options: Options) -> (System, usize) {
    let mut system = start(options).await;
    let mut leader = None;
    wait_until(
        "the controllers to follow each other, and one to lead",
        PATIENCE,
        async || {
            let mut followed = true;
            for number in 0..2 {
                followed &= of_controller(&mut system, number, "kthena_controller_peers").await == 1.0;
                if of_controller(&mut system, number, "kthena_controller_leading").await == 1.0 {
                    leader = Some(number);
                }
            }
            followed && leader.is_some()
        },
    )
    .await
    .unwrap();
    (system, leader.unwrap())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_filter_on_one_and_a_filter_on_the_other_make_the_same_pick_within_200_ms() {
    let (mut system, _) = started(with_two_controllers(4)).await;
    for number in 0..2 {
        let filters = of_controller(&mut system, number, "kthena_controller_subscribers").await;
        assert_eq!(filters, 1.0, "each has one");
    }
    agree(&system, 1, async |question| decided_by(&system, 0, &question).await).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn programmed_speaks_of_the_filters_of_both() {
    let (mut system, leader) = started(with_two_controllers(1)).await;
    wait_condition(&mut system, "modelroute/llama", "Programmed", "True Programmed").await;
    // The filter of the one that does not lead answers nothing.
    let silent = 1 - leader;
    let process = system.ext_proc(silent).unwrap().process().unwrap();
    process.pause().await.unwrap();
    let cluster = system.kubernetes().unwrap();
    cluster.apply(&[model_route("late", "late", "llama")]).await.unwrap();
    wait_programmed(&mut system, "modelroute/late", "1 of 2 filters have acknowledged it").await;
    let process = system.ext_proc(silent).unwrap().process().unwrap();
    process.signal("CONT").unwrap();
    wait_programmed(&mut system, "modelroute/late", "every connected filter has it").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn when_the_leader_dies_its_filter_moves_on_and_the_other_speaks_of_all() {
    let options = Options {
        ext_procs_know_all: true,
        ..with_two_controllers(2)
    };
    let (mut system, leader) = started(options).await;
    system.kill(Part::OneController(leader)).unwrap();
    let left = 1 - leader;
    let mut answers = 0;
    wait_until("all filters at the other, which leads", PATIENCE, async || {
        assert_eq!(send(&system, new_question("llama")).await.status, 200);
        answers += 1;
        of_controller(&mut system, left, "kthena_controller_subscribers").await == 2.0
            && of_controller(&mut system, left, "kthena_controller_leading").await == 1.0
    })
    .await
    .unwrap();
    assert!(answers > 0);
    let cluster = system.kubernetes().unwrap();
    cluster.apply(&[model_route("late", "late", "llama")]).await.unwrap();
    wait_programmed(&mut system, "modelroute/late", "every connected filter has it").await;
    for _ in 0..8 {
        assert_eq!(send(&system, new_question("late")).await.status, 200);
    }
}
