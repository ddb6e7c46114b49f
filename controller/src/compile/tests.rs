//! Stories of a compilation, from events to bytes.

use proptest::prelude::*;
use proptest::sample::{Index as Pick, select};
use prost::Message;
use serde_json::json;

use super::*;
use crate::index::Index;
use crate::source::fixtures::{apply, pod, pod_with, route, server, server_with};
use crate::source::{Event, Kind, Object, ObjectKey, Problem};
use kthena_scheduler::state::proto::{self, ResourceType};

fn index(objects: impl IntoIterator<Item = Object>) -> Index {
    let mut index = Index::default();
    for object in objects {
        index.apply(apply(object));
    }
    index
}

fn compile(index: &Index) -> Output {
    Compiler::new(Settings::default()).compile(index, &Facts::default(), &Touched::default())
}

fn body<M: Message + Default>(output: &Output, kind: ResourceType, name: &str) -> Option<M> {
    let resource = output.resources.get(&Key::new(kind, name))?;
    Some(M::decode(&*resource.body).unwrap())
}

fn status<'o>(output: &'o Output, kind: Kind, name: &str) -> &'o crate::status::Status {
    let key = ObjectKey::new(kind, "default", name);
    &output.statuses[&key]
}

fn first<K: Ord, V>(map: &imbl::OrdMap<K, V>) -> &V {
    map.values().next().unwrap()
}

fn to(target: &str) -> serde_json::Value {
    json!([{"targetModels": [{"modelServerName": target}]}])
}

#[test]
fn a_route_a_server_and_its_pods_become_resources_a_cluster_and_targets() {
    let mut index = index([
        route(
            "r",
            json!({"modelName": "llama", "rules": [{
                "modelMatch": {"headers": {"X-User": {"prefix": "a"}}, "body": {"model": "llama"}},
                "targetModels": [{"modelServerName": "m", "weight": 3}, {"externalModelProviderName": "p"}]}]}),
        ),
        server_with("m", "m", |spec| {
            spec["model"] = json!("meta/llama");
            spec["workloadPort"] = json!({"port": 9000, "protocol": "https"});
            spec["trafficPolicy"] = json!({"timeout": "30s", "retry": {"attempts": 1, "retryInterval": "25ms"}});
        }),
        pod("a", "m", "10.0.0.2"),
        pod("b", "m", "fd00::1"),
        pod("other", "n", "10.0.0.9"),
    ]);
    index.apply(apply(pod_with("unready", json!({"app": "m"}), "")));
    let mut facts = Facts::default();
    let key = EndpointKey {
        uid: "default/a".into(),
        port: 9000,
    };
    let fact = Fact {
        incarnation: 7,
        models: vec!["meta/llama".into(), "adapter".into()],
        kv_capacity_tokens: Some(1000),
    };
    facts.endpoints.insert(key.clone(), fact.into());
    let output = Compiler::new(Settings::default()).compile(&index, &facts, &Touched::default());

    let kinds: Vec<_> = output.resources.keys().map(|key| (key.kind, &*key.name)).collect();
    assert_eq!(
        kinds,
        [
            (ResourceType::Route, "default/r"),
            (ResourceType::Server, "default/m"),
            (ResourceType::Profile, "default"),
            (ResourceType::Endpoints, "default/m"),
        ]
    );
    let route: proto::ModelRoute = body(&output, ResourceType::Route, "default/r").unwrap();
    assert_eq!(route.rules[0].headers[0].name, "x-user");
    assert_eq!(route.rules[0].body_model.as_deref(), Some("llama"));
    assert_eq!(
        route.rules[0].targets,
        [
            proto::Target {
                backend: Some(proto::target::Backend::ModelServer("default/m".into())),
                weight: 3
            },
            proto::Target {
                backend: Some(proto::target::Backend::ExternalProvider("default/p".into())),
                weight: 100
            },
        ]
    );
    let server: proto::ModelServer = body(&output, ResourceType::Server, "default/m").unwrap();
    assert_eq!(server.cluster, "model-server/default/m/9000");
    assert_eq!(
        (server.model.as_deref(), server.timeout_ms),
        (Some("meta/llama"), Some(30_000))
    );
    assert_eq!(
        server.retry,
        Some(proto::Retry {
            attempts: 1,
            interval_ms: 25
        })
    );
    let endpoints: proto::Endpoints = body(&output, ResourceType::Endpoints, "default/m").unwrap();
    assert!(endpoints.endpoints.is_sorted_by_key(|endpoint| endpoint.id));
    let a = endpoints.endpoints.iter().find(|e| e.pod == "default/a").unwrap();
    assert_eq!((a.id, a.incarnation), (key.endpoint_id(7), 7));
    assert_eq!(
        (a.address.as_str(), a.models.len(), a.kv_capacity_tokens),
        ("10.0.0.2:9000", 2, 1000)
    );
    assert!(endpoints.endpoints.iter().any(|e| e.address == "[fd00::1]:9000"));

    let cluster = first(&output.clusters);
    assert_eq!(
        (cluster.name.as_str(), cluster.https, cluster.endpoints.len()),
        ("model-server/default/m/9000", true, 2)
    );
    let servers: Vec<_> = output.targets.values().map(|target| target.servers.clone()).collect();
    assert_eq!(servers, [["default/m"], ["default/m"]]);
    assert_eq!(first(&output.targets).endpoint, a.id);
    assert_eq!(
        status(&output, Kind::ModelServer, "m")
            .endpoints
            .map(|counts| counts.ready),
        Some(2)
    );
    assert_eq!(
        status(&output, Kind::ModelRoute, "r").unresolved[0].to_string(),
        "spec.rules[0].targetModels[1].externalModelProviderName: there is no ExternalModelProvider default/p"
    );
}

#[test]
fn the_identity_of_an_endpoint_is_the_hash_that_the_protocol_names() {
    let key = EndpointKey {
        uid: "u".into(),
        port: 1,
    };
    assert_eq!(key.endpoint_id(2), twox_hash::XxHash3_64::oneshot(b"u/1/2"));
}

#[test]
fn a_bad_version_leaves_the_last_good_one_in_force() {
    let mut compiler = Compiler::new(Settings::default());
    let mut index = index([server("m", "m"), pod("a", "m", "10.0.0.1")]);
    let before = compiler.compile(&index, &Facts::default(), &Touched::default());
    index.apply(apply(server_with("m", "m", |spec| {
        spec["workloadPort"]["port"] = json!(0)
    })));
    index.apply(apply(server_with("new", "m", |spec| {
        spec["workloadPort"]["port"] = json!(0)
    })));
    // Pods still come and go under the old version.
    index.apply(apply(pod("b", "m", "10.0.0.2")));
    let after = compiler.compile(&index, &Facts::default(), &Touched::default());
    assert_eq!(
        body::<proto::ModelServer>(&before, ResourceType::Server, "default/m"),
        body::<proto::ModelServer>(&after, ResourceType::Server, "default/m"),
    );
    assert_eq!(first(&after.clusters).endpoints.len(), 2);
    let old = status(&after, Kind::ModelServer, "m");
    assert!(!old.accepted && old.serving && old.errors[0].path == "spec.workloadPort.port");
    let new = status(&after, Kind::ModelServer, "new");
    assert!(!new.accepted && !new.serving);
    assert!(!after.resources.keys().any(|key| &*key.name == "default/new"));

    index.apply(Event::Delete(ObjectKey::new(Kind::ModelServer, "default", "m")));
    let gone = compiler.compile(&index, &Facts::default(), &Touched::default());
    assert!(gone.clusters.is_empty());
}

#[test]
fn a_document_that_cannot_be_read_is_told_to_its_object() {
    let mut index = index([server("m", "m"), pod("a", "m", "10.0.0.1")]);
    let problem = |name: &str, kind| Problem {
        key: Some(ObjectKey::new(kind, "default", name)),
        place: "m.yaml:3".into(),
        field: "spec.workloadPort".into(),
        message: "is missing".into(),
        harmless: false,
    };
    index.apply(Event::Problems(vec![
        problem("m", Kind::ModelServer),
        problem("never", Kind::ModelServer),
        problem("p", Kind::Pod),
    ]));
    let output = compile(&index);
    let status_m = status(&output, Kind::ModelServer, "m");
    assert!(!status_m.accepted && status_m.serving);
    assert_eq!(
        status_m.errors[0].to_string(),
        "spec.workloadPort: is missing (m.yaml:3)"
    );
    assert!(!status(&output, Kind::ModelServer, "never").serving);
    assert_eq!(output.statuses.len(), 2);
}

#[test]
fn a_scheduling_block_becomes_a_profile_of_the_server() {
    let scheduled = |name: &str, plugin: &str| {
        server_with(name, "m", |spec| {
            spec["scheduling"] = json!({"plugins": {"Score": {"enabled": [{"name": plugin}]}}});
        })
    };
    let output = compile(&index([scheduled("m", "gpu-usage"), scheduled("bad", "fastest")]));
    let server: proto::ModelServer = body(&output, ResourceType::Server, "default/m").unwrap();
    let profile: proto::Profile = body(&output, ResourceType::Profile, &server.profile).unwrap();
    assert_eq!(
        (profile.name.as_str(), profile.scores[0].name.as_str()),
        ("default/m", "gpu-usage")
    );
    let bad = status(&output, Kind::ModelServer, "bad");
    assert!(!bad.accepted && bad.errors[0].path == "spec.scheduling", "{bad:?}");
}

#[test]
fn retries_have_a_default_and_zero_means_none() {
    let retry = |change: serde_json::Value| {
        let object = server_with("m", "m", |spec| spec["trafficPolicy"] = change);
        let server: proto::ModelServer = body(&compile(&index([object])), ResourceType::Server, "default/m").unwrap();
        let retry = server.retry.unwrap();
        (retry.attempts, retry.interval_ms, server.timeout_ms)
    };
    assert_eq!(retry(json!({})), (2, 100, None));
    assert_eq!(
        retry(json!({"timeout": "0s", "retry": {"attempts": 0}})),
        (0, 100, None)
    );
}

#[test]
fn a_server_without_endpoints_says_why() {
    let with_pods = |pods: Vec<Object>| {
        let output = compile(&index(std::iter::once(server("m", "m")).chain(pods)));
        status(&output, Kind::ModelServer, "m").unresolved[0].message.clone()
    };
    assert_eq!(with_pods(vec![]), "no pod of namespace default has the labels app=m");
    assert_eq!(
        with_pods(vec![pod("a", "m", ""), pod("b", "m", "")]),
        "no selected pod can serve: 2 without an address"
    );
}

#[test]
fn of_two_pods_at_one_address_one_serves() {
    let output = compile(&index([
        server("m", "m"),
        pod("a", "m", "10.0.0.1"),
        pod("b", "m", "10.0.0.1"),
    ]));
    assert_eq!(first(&output.clusters).endpoints.len(), 1);
    let told = &status(&output, Kind::ModelServer, "m").warnings[0].message;
    assert!(told.contains("pods a and b"), "{told}");
}

#[test]
fn with_a_pd_group_the_decode_pods_serve() {
    let split = server_with("m", "m", |spec| {
        spec["workloadSelector"]["pdGroup"] =
            json!({"groupKey": "g", "prefillLabels": {"role": "p"}, "decodeLabels": {"role": "d"}});
    });
    let output = compile(&index([
        split,
        pod_with("p", json!({"app": "m", "g": "1", "role": "p"}), "10.0.0.1"),
        pod_with("d", json!({"app": "m", "g": "1", "role": "d"}), "10.0.0.2"),
        pod_with("loose", json!({"app": "m", "g": "", "role": "d"}), "10.0.0.3"),
    ]));
    assert_eq!(
        *first(&output.clusters).endpoints,
        ["10.0.0.2:8000".parse().unwrap()].into()
    );
}

#[test]
fn a_pod_of_two_servers_is_observed_once() {
    let output = compile(&index([server("m", "m"), server("n", "m"), pod("a", "m", "10.0.0.1")]));
    assert_eq!(output.targets.len(), 1);
    assert_eq!(first(&output.targets).servers, ["default/m", "default/n"]);
}

#[test]
fn a_pools_endpoints_are_its_ready_pods_at_each_of_its_ports() {
    let pool = crate::source::fixtures::pool("p", "m", &[8000, 8001]);
    let output = compile(&index([pool, pod("a", "m", "10.0.0.1"), pod("b", "other", "10.0.0.2")]));
    let of_pool = &output.resources[&Key::new(ResourceType::Endpoints, "inference-pool/default/p")];
    let endpoints = proto::Endpoints::decode(of_pool.body.clone()).unwrap().endpoints;
    let mut addresses: Vec<_> = endpoints.iter().map(|endpoint| endpoint.address.as_str()).collect();
    addresses.sort_unstable();
    assert_eq!(addresses, ["10.0.0.1:8000", "10.0.0.1:8001"]);
    assert!(output.clusters.is_empty() && output.targets.is_empty());
}

/// A change of what is known of an endpoint: its pod's name, and what is known, or that it is being asked, or that nothing is.
fn fact() -> impl Strategy<Value = (String, Option<Option<u64>>)> {
    (
        select(vec!["a", "b", "c"]),
        proptest::option::of(proptest::option::of(1..3u64)),
    )
        .prop_map(|(pod, known)| (format!("default/{pod}"), known))
}

fn learn(facts: &mut Facts, touched: &mut Touched, (uid, known): (String, Option<Option<u64>>)) {
    for port in [8000, 9000] {
        let key = EndpointKey { uid: uid.clone(), port };
        facts.pending.remove(&key);
        facts.endpoints.remove(&key);
        match known {
            Some(Some(incarnation)) => {
                let fact = Fact {
                    incarnation,
                    ..Fact::default()
                };
                facts.endpoints.insert(key.clone(), fact.into());
            }
            Some(None) => {
                facts.pending.insert(key.clone());
            }
            None => {}
        }
        touched.endpoints.push(key);
    }
}

fn event() -> impl Strategy<Value = Event> {
    let name = select(vec!["a", "b", "c"]);
    let app = select(vec!["x", "y"]);
    let port = select(vec![0, 8000, 9000]);
    prop_oneof![
        (name.clone(), app.clone(), port).prop_map(|(name, app, port)| apply(server_with(
            name,
            app,
            |s| s["workloadPort"]["port"] = json!(port)
        ))),
        (name.clone(), app.clone(), 1..4u8).prop_map(|(name, app, ip)| apply(pod(name, app, &format!("10.0.0.{ip}")))),
        (name.clone(), app.clone(), name.clone())
            .prop_map(|(name, model, target)| apply(route(name, json!({"modelName": model, "rules": to(target)})))),
        (name.clone(), app.clone()).prop_map(|(name, app)| apply(crate::source::fixtures::pool(name, app, &[8000]))),
        (
            select(vec![
                Kind::ModelRoute,
                Kind::ModelServer,
                Kind::InferencePool,
                Kind::Pod
            ]),
            name
        )
            .prop_map(|(kind, name)| Event::Delete(ObjectKey::new(kind, "default", name))),
    ]
}

proptest! {
    #[test]
    fn what_is_remembered_makes_no_difference(
        steps in proptest::collection::vec((proptest::collection::vec(event(), 0..3), proptest::option::of(fact())), 1..30),
    ) {
        let mut index = Index::default();
        let mut facts = Facts::default();
        let mut remembers = Compiler::new(Settings::default());
        let mut forgets = Compiler::new(Settings::default());
        for (events, fact) in steps {
            let mut touched = Touched::default();
            for event in events {
                index.apply(event);
            }
            if let Some(fact) = fact {
                learn(&mut facts, &mut touched, fact);
            }
            touched.pods = index.take_touched();
            forgets.forget_all();
            prop_assert_eq!(
                remembers.compile(&index, &facts, &touched),
                forgets.compile(&index, &facts, &touched)
            );
        }
    }

    #[test]
    fn the_same_objects_give_the_same_bytes_whatever_the_order(
        events in proptest::collection::vec(event(), 0..30),
        order in proptest::collection::vec(any::<Pick>(), 30),
    ) {
        // The last event of each object decides: those events, in any order, lead to the same state.
        let key = |event: &Event| match event {
            Event::Apply(object, _) => object.key(),
            Event::Delete(key) => key.clone(),
            _ => unreachable!(),
        };
        let mut last: Vec<Event> = Vec::new();
        for event in &events {
            last.retain(|other| key(other) != key(event));
            last.push(event.clone());
        }
        let mut shuffled = Index::default();
        let mut rest = last.clone();
        for pick in &order {
            if !rest.is_empty() {
                let at = pick.index(rest.len());
                shuffled.apply(rest.remove(at));
            }
        }
        let mut straight = Index::default();
        for event in events {
            straight.apply(event);
        }
        prop_assert_eq!(compile(&straight), compile(&shuffled));
    }
}
