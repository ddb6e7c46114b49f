//! What an ext_proc server says of its health is what gRPC health checks of Envoy ask for, by name: alive as soon as it runs, ready when
//! there is state to decide on.

use kthena_e2e::envoy::place;
use kthena_e2e::system::{Change, Options, Part};
use serde_json::{Value, json};

use crate::{llama, start};

const CLUSTER: &str = "/static_resources/clusters/0";

/// Clusters of the same ext_proc servers, each checked under another name.
const READY: [(&str, &str); 3] = [
    ("probe-server", ""),
    ("probe-readiness", "readiness"),
    ("probe-service", "envoy.service.ext_proc.v3.ExternalProcessor"),
];
const ALIVE: (&str, &str) = ("probe-liveness", "liveness");
const UNKNOWN: (&str, &str) = ("probe-unknown", "somebody-else");

fn probe(configuration: &mut Value, (name, service): (&str, &str)) {
    let mut cluster = place(configuration, CLUSTER).unwrap().clone();
    cluster["name"] = json!(name);
    cluster["load_assignment"]["cluster_name"] = json!(name);
    cluster["health_checks"][0]["grpc_health_check"] = match service {
        "" => json!({}),
        service => json!({"service_name": service}),
    };
    let clusters = place(configuration, "/static_resources/clusters").unwrap();
    clusters.as_array_mut().unwrap().push(cluster);
}

#[tokio::test(flavor = "multi_thread")]
async fn envoy_finds_it_alive_before_and_ready_once_there_is_state() {
    let mut system = start(Options {
        change_envoy: Change::new(|configuration| {
            for one in READY.into_iter().chain([ALIVE, UNKNOWN]) {
                probe(configuration, one);
            }
        }),
        ..llama(1)
    })
    .await;
    for (cluster, _) in READY.into_iter().chain([ALIVE]) {
        system.wait_for_cluster(cluster, "membership_healthy", 2).await.unwrap();
    }
    system
        .wait_for_cluster(UNKNOWN.0, "membership_healthy", 0)
        .await
        .unwrap();

    system.kill(Part::Controller).unwrap();
    system.ext_proc(0).unwrap().launch().unwrap();
    for (cluster, _) in READY {
        system.wait_for_cluster(cluster, "membership_healthy", 1).await.unwrap();
    }
    system.wait_for_cluster(ALIVE.0, "membership_healthy", 2).await.unwrap();

    system.restart(Part::Controller).await.unwrap();
    for (cluster, _) in READY {
        system.wait_for_cluster(cluster, "membership_healthy", 2).await.unwrap();
    }
}
