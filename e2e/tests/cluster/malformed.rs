//! Story: an object from before a schema was tightened, or of a version that is newer than the controller, cannot be read. It is named, and nothing
//! else is the worse for it.

use kthena_e2e::system::manifests::model_route;
use serde_json::json;

use super::*;

#[tokio::test(flavor = "multi_thread")]
async fn an_object_that_cannot_be_read_is_named_and_disturbs_no_other() {
    let mut system = start(on_a_cluster(1)).await;
    let cluster = system.kubernetes().unwrap();
    // As before the schema: anything goes.
    let loose = json!([{
        "op": "replace", "path": "/spec/versions/0/schema/openAPIV3Schema",
        "value": {"type": "object", "x-kubernetes-preserve-unknown-fields": true},
    }]);
    let crd = "modelroutes.networking.serving.volcano.sh";
    cluster
        .kubectl(&["patch", "crd", crd, "--type=json", "-p", &loose.to_string()], "")
        .await
        .unwrap();
    let mut odd = model_route("odd", "odd", "llama");
    odd["spec"]["rules"] = json!("not a list");
    wait_until("the schema to be loose", PATIENCE, async || {
        system
            .kubernetes()
            .unwrap()
            .apply(std::slice::from_ref(&odd))
            .await
            .is_ok()
    })
    .await
    .unwrap();
    wait_until("the object to be named", PATIENCE, async || {
        let page = system.debug(Part::Controller, "/debug/status").await.unwrap();
        let page: Value = serde_json::from_str(&page).unwrap();
        let objects = page["objects"].as_array().cloned().unwrap_or_default();
        let odd = objects.iter().find(|object| object["name"] == "default/odd");
        odd.is_some_and(|odd| {
            odd["status"]["accepted"] == false && odd["status"]["errors"].to_string().contains("cannot be read")
        })
    })
    .await
    .unwrap();
    // Others go on, also those that come later.
    let cluster = system.kubernetes().unwrap();
    cluster.apply(&[model_route("late", "late", "llama")]).await.unwrap();
    wait_until("a later route to be served", PATIENCE, async || {
        send(&system, question("late")).await.status == 200
    })
    .await
    .unwrap();
    assert_eq!(send(&system, question("llama")).await.status, 200);
    // And it is taken in when it is mended.
    system
        .kubernetes()
        .unwrap()
        .apply(&[model_route("odd", "odd", "llama")])
        .await
        .unwrap();
    wait_until("the mended route to be served", PATIENCE, async || {
        send(&system, question("odd")).await.status == 200
    })
    .await
    .unwrap();
}
