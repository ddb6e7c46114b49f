//! Story: what the chart installs works together: the real programs with the chart's own flags and certificates, two replicas of the controller under
//! the chart's own ServiceAccount with no rights but those that the chart gives it. They follow each other, and use every one of these rights.

use std::collections::BTreeSet;
use std::path::Path;

use base64::Engine as _;
use serde_json::json;

use super::objects::examples;
use super::*;
use kthena_e2e::client::{Ask, Client};
use kthena_e2e::cluster::parts::Part;
use kthena_e2e::ports::Reserved;
use kthena_e2e::process::{Launch, Process, wait_until};
use kthena_e2e::system::binaries::binary;

/// Writes a Secret's files into a folder, as a volume would.
async fn mount(cluster: &Cluster, secret: &str, folder: &Path) {
    std::fs::create_dir_all(folder).unwrap();
    let secret = cluster.get(&format!("secret/{secret}"), NAMESPACE).await.unwrap();
    for (name, data) in secret["data"].as_object().unwrap() {
        let bytes = base64::engine::general_purpose::STANDARD
            .decode(data.as_str().unwrap())
            .unwrap();
        std::fs::write(folder.join(name), bytes).unwrap();
    }
}

/// A kubeconfig of a ServiceAccount, with a token as a pod has one.
async fn kubeconfig(cluster: &Cluster, account: &str, folder: &Path) -> String {
    let token = cluster
        .kubectl(&["create", "token", account, "-n", NAMESPACE], "")
        .await
        .unwrap();
    let text = std::fs::read_to_string(cluster.kubeconfig()).unwrap();
    let mut config: Value = serde_json::from_str(&text).unwrap();
    config["users"][0]["user"] = json!({"token": token.trim()});
    let file = folder.join("kubeconfig");
    std::fs::write(&file, config.to_string()).unwrap();
    file.display().to_string()
}

struct Started {
    process: Process,
    admin: Reserved,
}

impl Started {
    async fn wait_ready(&self) {
        let client = Client::http1(self.admin.address());
        wait_until("it to be ready", PATIENCE, async || {
            client
                .send(Ask::get("/readyz"))
                .await
                .is_ok_and(|answer| answer.status == 200)
        })
        .await
        .unwrap_or_else(|error| panic!("{error:#}: {}", self.process.last_lines(30)));
    }

    async fn wait_metric(&self, name: &str, value: f64) {
        let client = Client::http1(self.admin.address());
        let mut seen = None;
        wait_until(&format!("{name} {value}"), PATIENCE, async || {
            let page = client.send(Ask::get("/metrics")).await;
            seen = page
                .ok()
                .and_then(|page| kthena_e2e::exposition::sum(&page.text(), name));
            seen == Some(value)
        })
        .await
        .unwrap_or_else(|error| panic!("{error:#}: {seen:?}: {}", self.process.last_lines(30)));
    }
}

/// Starts a program with the chart's flags, but for what differs outside a pod: where files are mounted, and addresses.
fn start(cluster_args: &[String], changes: &[(&str, String)], program: &str, folder: &Path) -> Started {
    let admin = Reserved::loopback().unwrap();
    let mut args: Vec<String> = cluster_args.to_vec();
    for (from, to) in changes {
        args.iter_mut().for_each(|arg| *arg = arg.replace(from, to));
    }
    for arg in &mut args {
        if arg.starts_with("--admin-listen=") {
            *arg = format!("--admin-listen={}", admin.address());
        }
    }
    let process = Process::start(Launch {
        name: program.to_owned(),
        program: binary(program).unwrap(),
        args: args.into_iter().map(Into::into).collect(),
        env: Vec::new(),
        log: folder.join(format!("{program}.log")),
    });
    Started {
        process: process.unwrap(),
        admin,
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_installed_works_together() {
    let scratch = Scratch::new("together").unwrap();
    let folder = scratch.path();
    let cluster = bare(&scratch, &[]).await;
    helm(&cluster, "install", &["--create-namespace"]);
    mount(&cluster, "kthena-state-server", &folder.join("server")).await;
    mount(&cluster, "kthena-state-client", &folder.join("client")).await;
    let at = |name: &str| folder.join(name).display().to_string();

    let state = [(); 2].map(|()| Reserved::loopback().unwrap());
    let first = replica(&cluster, folder, &state, 0).await;
    first.wait_ready().await;
    first.wait_metric("kthena_controller_leading", 1.0).await;
    let second = replica(&cluster, folder, &state, 1).await;
    second.wait_ready().await;
    for replica in [&first, &second] {
        replica.wait_metric("kthena_controller_peers", 1.0).await;
    }

    let (grpc, debug) = (Reserved::loopback().unwrap(), Reserved::loopback().unwrap());
    let mut filter = args(&cluster.get("deployment/kthena-ext-proc", NAMESPACE).await.unwrap());
    let host = format!("kthena-controller.{NAMESPACE}.svc");
    filter.push(format!("--state-server-name={host}"));
    let changes = [
        ("/etc/kthena/state", at("client")),
        ("/var/cache/kthena", folder.display().to_string()),
        (
            &*format!("https://{host}:9911"),
            // Not the one that leads: what is said of objects speaks of the filters of both.
            format!("https://127.0.0.1:{}", state[1].port()),
        ),
        ("0.0.0.0:9002", grpc.address().to_string()),
        ("127.0.0.1:15000", debug.address().to_string()),
    ];
    let filter = start(&filter, &changes, "kthena-ext-proc", folder);
    filter.wait_ready().await;

    use_every_right(&cluster).await;
    beside_envoy(&cluster, folder).await;
    let mut unused = BTreeSet::new();
    wait_until("every right to be used", PATIENCE, async || {
        unused = unused_rights(&cluster).await;
        unused.is_empty()
    })
    .await
    .unwrap_or_else(|error| panic!("{error:#}: {unused:?}: take them out of charts/kthena/templates/rbac.yaml"));
    let calls = cluster.audit_of(&account()).unwrap();
    let refused: Vec<&Value> = calls
        .iter()
        .filter(|call| call["responseStatus"]["code"] == 403)
        .collect();
    assert!(refused.is_empty(), "{refused:#?}");
}

/// Starts a replica of the controller, of which each listens at one of these ports.
async fn replica(cluster: &Cluster, folder: &Path, state: &[Reserved; 2], number: usize) -> Started {
    let own = folder.join(format!("controller-{number}"));
    std::fs::create_dir_all(&own).unwrap();
    let debug = Reserved::loopback().unwrap();
    let mut args = args(&cluster.get("deployment/kthena-controller", NAMESPACE).await.unwrap());
    args.push(format!(
        "--kubeconfig={}",
        kubeconfig(cluster, "kthena-controller", &own).await
    ));
    args.push(format!("--leader-elect-resource-namespace={NAMESPACE}"));
    args.push(format!("--debug-listen={}", debug.address()));
    let changes = [
        ("/etc/kthena/state", folder.join("server").display().to_string()),
        // It listens on every address, as in a pod, so that it is held to the rule for such.
        ("0.0.0.0:9911", format!("0.0.0.0:{}", state[number].port())),
        // The addresses that the headless Service has in a cluster.
        (
            &*format!("kthena-controller-peers.{NAMESPACE}.svc:9911"),
            format!("127.0.0.1:{},127.0.0.1:{}", state[0].port(), state[1].port()),
        ),
    ];
    start(&args, &changes, "kthena-controller", &own)
}

fn account() -> String {
    format!("system:serviceaccount:{NAMESPACE}:kthena-controller")
}

/// A controller that writes Envoy's files, beside an Envoy in a namespace of its own, may watch and nothing else.
async fn beside_envoy(cluster: &Cluster, folder: &Path) {
    let account =
        json!({"apiVersion": "v1", "kind": "ServiceAccount", "metadata": {"name": "envoy", "namespace": NAMESPACE}});
    let binding = json!({
        "apiVersion": "rbac.authorization.k8s.io/v1", "kind": "ClusterRoleBinding", "metadata": {"name": "envoy"},
        "roleRef": {"apiGroup": "rbac.authorization.k8s.io", "kind": "ClusterRole", "name": "kthena-watch"},
        "subjects": [{"kind": "ServiceAccount", "name": "envoy", "namespace": NAMESPACE}],
    });
    cluster.apply(&[account, binding]).await.unwrap();
    let folder = folder.join("envoy");
    std::fs::create_dir_all(&folder).unwrap();
    let [state, debug] = [(); 2].map(|()| Reserved::loopback().unwrap());
    let args = [
        format!("--kubeconfig={}", kubeconfig(cluster, "envoy", &folder).await),
        format!("--envoy-dir={}", folder.display()),
        format!("--state-listen={}", state.address()),
        format!("--debug-listen={}", debug.address()),
        "--admin-listen=".to_owned(),
    ];
    let beside = start(&args, &[], "kthena-controller", &folder);
    beside.wait_ready().await;
    let clusters = std::fs::read_to_string(folder.join("cds.json")).unwrap();
    assert!(clusters.contains("server-plain"), "{clusters}");
    let calls = cluster
        .audit_of(&format!("system:serviceaccount:{NAMESPACE}:envoy"))
        .unwrap();
    let writes = calls
        .iter()
        .filter(|call| !["get", "list", "watch"].contains(&call["verb"].as_str().unwrap_or_default()));
    assert_eq!(writes.count(), 0, "it never leads: {}", beside.process.last_lines(30));
}

/// Does what the controller needs each of its rights for.
async fn use_every_right(cluster: &Cluster) {
    // Until now InferencePool is not defined, and is awaited.
    let pools = Part::InferencePoolDefinition.path().unwrap();
    cluster
        .kubectl(&["apply", "-f", pools.to_str().unwrap()], "")
        .await
        .unwrap();
    let example = |name: &str| {
        let found = examples("pass").into_iter().find(|example| example.name == name);
        [found.unwrap().object]
    };
    cluster.apply(&example("pass/provider-plain")).await.unwrap();
    cluster.apply(&example("pass/route-plain")).await.unwrap();
    // The target comes and goes: what was told once is counted up the second time.
    for _ in 0..2 {
        wait_condition(cluster, "modelroute/route-plain", "ResolvedRefs", "False").await;
        let mut server = example("pass/server-plain");
        server[0]["metadata"]["name"] = "m".into();
        cluster.apply(&server).await.unwrap();
        wait_condition(cluster, "modelroute/route-plain", "ResolvedRefs", "True").await;
        // The filter has acknowledged it.
        wait_condition(cluster, "modelroute/route-plain", "Programmed", "True").await;
        cluster.delete("modelserver/m", "default").await.unwrap();
    }
    cluster.apply(&example("pass/server-plain")).await.unwrap();
    wait_condition(cluster, "modelserver/server-plain", "Accepted", "True").await;
}

async fn wait_condition(cluster: &Cluster, what: &str, kind: &str, status: &str) {
    let mut seen = Value::Null;
    wait_until(&format!("{what} to be {kind}={status}"), PATIENCE, async || {
        seen = cluster.get(what, "default").await.unwrap()["status"].clone();
        let conditions = seen["conditions"].as_array().cloned().unwrap_or_default();
        conditions
            .iter()
            .any(|condition| condition["type"] == kind && condition["status"] == status)
    })
    .await
    .unwrap_or_else(|error| panic!("{error:#}: {seen:#}"));
}

/// What the chart lets the controller do and it has not done, as `verb group/resource`.
async fn unused_rights(cluster: &Cluster) -> BTreeSet<String> {
    let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    let list = |value: &Value| value.as_array().unwrap().iter().map(text).collect::<Vec<_>>();
    let mut rights = BTreeSet::new();
    for what in [
        "clusterrole/kthena-watch",
        "clusterrole/kthena-write",
        "role/kthena-lead",
    ] {
        let role = cluster.get(what, NAMESPACE).await.unwrap();
        for rule in role["rules"].as_array().unwrap() {
            for (group, resource) in list(&rule["apiGroups"]).iter().flat_map(|group| {
                let resources = list(&rule["resources"]);
                resources.into_iter().map(move |resource| (group.clone(), resource))
            }) {
                rights.extend(
                    list(&rule["verbs"])
                        .iter()
                        .map(|verb| format!("{verb} {group}/{resource}")),
                );
            }
        }
    }
    for call in cluster.audit_of(&account()).unwrap() {
        let of = &call["objectRef"];
        let (verb, group, resource) = (text(&call["verb"]), text(&of["apiGroup"]), text(&of["resource"]));
        let used = match of["subresource"].as_str() {
            Some(part) => format!("{verb} {group}/{resource}/{part}"),
            None => format!("{verb} {group}/{resource}"),
        };
        rights.remove(&used);
    }
    rights
}
