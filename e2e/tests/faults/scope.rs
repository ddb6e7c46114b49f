//! A filter sees what the name in its certificate may see, and nothing else.

use kthena_e2e::process::wait_until;
use kthena_e2e::system::Part;
use kthena_e2e::system::manifests::{model_route, model_server};
use serde_json::{Value, json};

use crate::tls::{CONTROLLER, Files, off_loopback};
use crate::{SOON, new_question, send, wait_status};

#[tokio::test(flavor = "multi_thread")]
async fn a_filter_serves_only_what_the_name_in_its_certificate_may_see() {
    let files = Files::new();
    files.sign("filter", "filter", &files.authority);
    let mut filter = files.filter_flags();
    let scopes = [
        "--state-scope=filter=default".to_owned(),
        "--state-scope=other=*".to_owned(),
    ];
    let mut controller = vec![files.flag("state-client-ca", "ca.pem")];
    controller.extend(scopes);
    let (mut system, port) = off_loopback(&files, controller, filter.clone()).await;
    let of_team = |mut object: Value| {
        object["metadata"]["namespace"] = json!("team");
        object
    };
    let server = of_team(model_server("theirs", "meta/llama", system.fleet().port()));
    let route = of_team(model_route("theirs", "theirs", "theirs"));
    system.manifests().write("team.yaml", &[server, route]).unwrap();
    system
        .manifests()
        .write("late.yaml", &[model_route("late", "late", "llama")])
        .unwrap();
    wait_status(&system, "late", 200).await;
    wait_until("the team's route to be known to the controller", SOON, async || {
        let page = system.debug(Part::Controller, "/debug/status").await.unwrap();
        page.contains("team/theirs")
    })
    .await
    .unwrap();
    wait_until("both filters to have all that they see", SOON, async || {
        let page = system.debug(Part::Controller, "/debug/subscribers").await.unwrap();
        let page: Value = serde_json::from_str(&page).unwrap();
        let subscribers = page["subscribers"].as_array().unwrap();
        subscribers.len() == 2
            && subscribers
                .iter()
                .all(|one| one["namespaces"] == "default" && one["up_to_date"] == true)
    })
    .await
    .unwrap();
    assert_eq!(send(&system, new_question("theirs")).await.status, 404);

    // One that asks for more than its name allows is told so, and gets nothing.
    filter.extend([
        format!("--state=https://127.0.0.1:{}", port.port()),
        files.flag("state-ca", "ca.pem"),
        format!("--state-server-name={CONTROLLER}"),
        "--namespaces=default,team".to_owned(),
    ]);
    let mut greedy = system.another_ext_proc(filter).unwrap();
    wait_until("the greedy filter to be refused", SOON, async || {
        let page = system.controller().page("/metrics").await.unwrap();
        page.lines()
            .any(|line| line.starts_with("kthena_controller_subscriptions_rejected_total{kind=\"scope\"}"))
    })
    .await
    .unwrap();
    assert!(!greedy.program().is_ready().await);
}
