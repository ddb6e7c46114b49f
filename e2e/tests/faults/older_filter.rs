//! A controller that is newer than the ext_proc servers names a plugin that they do not know. They refuse what names it, say so, and go on
//! with what they had and with the rest. The controller's side is the real state service, told what to send by the test.

use std::sync::Arc;

use kthena_controller::publish::{Access, Hub, Key, Resource, by_key};
use kthena_e2e::process::wait_until;
use kthena_e2e::publisher::publish;
use kthena_e2e::system::{Part, System};
use kthena_scheduler::state::proto::{self, ResourceType};
use serde_json::{Value, json};

use crate::{SOON, gauge, llama, new_question, send, start};
use kthena_e2e::system::load::Load;

const LLAMA: &str = "default/llama";

/// A state service in the place of the system's controller, which has gone.
async fn newer_controller(system: &System) -> Arc<Hub> {
    let (hub, _) = publish(system.state_address(), Access::default()).await.unwrap();
    hub
}

fn key(kind: ResourceType) -> Key {
    Key::new(kind, LLAMA)
}

/// The ModelServer of the fleet, scheduled by this plugin, and a ModelRoute for each of these models.
fn resources(system: &System, plugin: &str, models: &[&str]) -> Vec<Resource> {
    let port = system.fleet().port();
    let endpoint = |(number, ip): (usize, std::net::Ipv4Addr)| proto::Endpoint {
        id: number as u64 + 1,
        uid: format!("uid-{number}"),
        port: u32::from(port),
        address: format!("{ip}:{port}"),
        pod: format!("{LLAMA}-{number}"),
        ..proto::Endpoint::default()
    };
    let addresses = system.fleet().addresses("llama").into_iter().enumerate();
    let endpoints = proto::Endpoints {
        endpoints: addresses.map(endpoint).collect(),
    };
    let server = proto::ModelServer {
        name: LLAMA.to_owned(),
        model: Some("meta/llama".to_owned()),
        cluster: system.cluster("llama"),
        profile: LLAMA.to_owned(),
        ..proto::ModelServer::default()
    };
    let profile = proto::Profile {
        name: LLAMA.to_owned(),
        scores: vec![proto::Plugin {
            name: plugin.to_owned(),
            weight: 1,
            args: String::new(),
        }],
        ..proto::Profile::default()
    };
    let mut all = vec![
        Resource::encode(key(ResourceType::Profile), &profile),
        Resource::encode(key(ResourceType::Server), &server),
        Resource::encode(key(ResourceType::Endpoints), &endpoints),
    ];
    all.extend(models.iter().map(|model| route(model)));
    all
}

fn route(model: &str) -> Resource {
    let name = format!("default/{model}");
    let target = proto::Target {
        backend: Some(proto::target::Backend::ModelServer(LLAMA.to_owned())),
        weight: 1,
    };
    let route = proto::ModelRoute {
        name: name.clone(),
        model_name: model.to_owned(),
        rules: vec![proto::Rule {
            targets: vec![target],
            ..proto::Rule::default()
        }],
        ..proto::ModelRoute::default()
    };
    Resource::encode(Key::new(ResourceType::Route, name), &route)
}

/// The scores that an ext_proc server has for the model.
async fn scores(system: &System, replica: usize) -> Value {
    let path = "/debug/config_dump/namespaces/default/modelservers/llama";
    let page = system.debug(Part::ExtProc(replica), path).await.unwrap();
    serde_json::from_str::<Value>(&page).unwrap()["spec"]["scores"].clone()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_plugin_that_it_does_not_know_is_refused_by_name_and_everything_else_taken() {
    let mut system = start(llama(2)).await;
    let load = Load::start(&system);
    load.goes_on(20).await;
    system.kill(Part::Controller).unwrap();
    let hub = newer_controller(&system).await;
    hub.set_config(by_key(resources(&system, "random", &["llama"])));
    wait_until("the profile to be in force", SOON, async || {
        let acceptance = hub.acceptance(&key(ResourceType::Profile)).unwrap();
        acceptance.subscribers == 2 && acceptance.is_programmed()
    })
    .await
    .unwrap();

    // The same update brings a plugin of tomorrow and a new model.
    let generation = hub.set_config(by_key(resources(&system, "crystal-ball", &["llama", "llama-2"])));
    wait_until("both answers", SOON, async || hub.acknowledged(generation))
        .await
        .unwrap();
    let acceptance = hub.acceptance(&key(ResourceType::Profile)).unwrap();
    assert_eq!((acceptance.refused.len(), acceptance.is_programmed()), (2, false));
    for (_, reason) in &acceptance.refused {
        assert!(reason.contains("crystal-ball"), "{reason}");
    }
    let random = json!([{"name": "random", "weight": 1}]);
    for replica in 0..2 {
        assert_eq!(scores(&system, replica).await, random, "the last good one stays");
        let refused = gauge(&mut system, replica, "kthena_ext_proc_resources_refused_total").await;
        assert_eq!(refused, Some(1.0));
    }
    for _ in 0..4 {
        let answer = send(&system, new_question("llama-2")).await;
        assert_eq!(answer.status, 200, "what came beside it is in force: {}", answer.text());
    }

    let generation = hub.set_config(by_key(resources(&system, "least-request", &["llama"])));
    wait_until("both answers", SOON, async || hub.acknowledged(generation))
        .await
        .unwrap();
    assert!(hub.acceptance(&key(ResourceType::Profile)).unwrap().is_programmed());
    for replica in 0..2 {
        assert_eq!(scores(&system, replica).await[0]["name"], "least-request");
    }
    load.goes_on(50).await;
    load.stop_without_loss().await;
}
