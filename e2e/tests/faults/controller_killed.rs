//! The controller is killed: requests go on with what is known, and changes are taken up again when it is back.

use kthena_e2e::process::wait_until;
use kthena_e2e::scratch::Scratch;
use kthena_e2e::system::manifests::model_route;
use kthena_e2e::system::{Options, Part};

use crate::{SOON, llama, new_question, send, start, wait_idle, wait_status};
use kthena_e2e::system::load::Load;

#[tokio::test(flavor = "multi_thread")]
async fn a_killed_controller_costs_nothing_and_a_restarted_one_takes_up_changes_again() {
    let mut system = start(llama(3)).await;
    let load = Load::start(&system);
    load.goes_on(50).await;
    system.kill(Part::Controller).unwrap();
    for replica in 0..2 {
        let program = system.ext_proc(replica).unwrap();
        wait_until("the loss to be told", SOON, async || {
            let page = program.page("/readyz").await;
            page.is_ok_and(|page| page.contains("the controller was last heard"))
        })
        .await
        .unwrap();
    }
    load.goes_on(200).await;
    system.restart(Part::Controller).await.unwrap();
    system
        .manifests()
        .write("more.yaml", &[model_route("second", "llama-2", "llama")])
        .unwrap();
    wait_status(&system, "llama-2", 200).await;
    load.goes_on(100).await;
    load.stop_without_loss().await;
    wait_idle(&system, 0, 3).await;
    wait_idle(&system, 1, 3).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_ext_proc_that_starts_while_the_controller_is_away_serves_what_it_kept() {
    let kept = Scratch::new("state").unwrap();
    let file = kept.path().join("state");
    let mut system = start(Options {
        ext_procs: 1,
        ext_proc_flags: vec![format!("--state-cache={}", file.display())],
        ..llama(2)
    })
    .await;
    wait_until("routes and endpoints in the file", SOON, async || {
        let text = String::from_utf8_lossy(&std::fs::read(&file).unwrap_or_default()).into_owned();
        ["default/llama", "meta/llama", "127.0.1.1", "127.0.1.2"]
            .iter()
            .all(|part| text.contains(part))
    })
    .await
    .unwrap();
    system.kill(Part::Controller).unwrap();
    system.restart(Part::ExtProc(0)).await.unwrap();
    wait_until("200", SOON, async || {
        send(&system, new_question("llama")).await.status == 200
    })
    .await
    .unwrap();
    let page = system.ext_proc(0).unwrap().page("/readyz").await.unwrap();
    assert!(page.contains("that an earlier process kept"), "{page}");

    system.restart(Part::Controller).await.unwrap();
    let program = system.ext_proc(0).unwrap();
    wait_until("the controller's own word", SOON, async || {
        let page = program.page("/readyz").await;
        page.is_ok_and(|page| !page.contains("kept") && !page.contains("last heard"))
    })
    .await
    .unwrap();
    let answer = send(&system, new_question("llama")).await;
    assert_eq!(answer.status, 200, "{}", answer.text());
}
