//! A client that sets a control header chooses nothing.

use kthena_e2e::client::Ask;
use kthena_e2e::system::fleet::Group;
use kthena_e2e::system::manifests::model_route;
use kthena_e2e::system::{Options, System};
use kthena_simulator::Fault;

use crate::{llama, new_question, send, start, who};

pub(crate) fn llama_and_qwen() -> Options {
    let mut options = llama(2);
    options.groups.push(Group::instant("qwen", "Qwen/Qwen2-7B", 1));
    options.routes.push(model_route("qwen", "qwen", "qwen"));
    options
}

/// A question to `llama` that would rather go to `qwen`, and be tried for ever.
pub(crate) fn with_control_headers(system: &System) -> Ask {
    let qwen = format!("{}:{}", system.fleet().addresses("qwen")[0], system.fleet().port());
    new_question("llama")
        .header("x-kthena-cluster", &system.cluster("qwen"))
        .header("x-gateway-destination-endpoint", &qwen)
        .header("X-Gateway-Destination-Endpoint-Subset", &qwen)
        .header("x-envoy-max-retries", "50")
        .header("x-envoy-retry-on", "5xx")
        .header("x-envoy-upstream-rq-per-try-timeout-ms", "1")
}

#[tokio::test(flavor = "multi_thread")]
async fn the_decision_alone_chooses_model_servers_tries_and_times() {
    let system = start(llama_and_qwen()).await;
    let pods = system.fleet().addresses("llama");
    for _ in 0..10 {
        let answer = send(&system, with_control_headers(&system)).await;
        assert!(pods.contains(&who(&answer)), "{}", who(&answer));
    }
    let received = system.fleet().received(0).await.unwrap();
    assert_eq!(received.len(), 10, "one try each, none of which took too long");
    let ours = [
        "x-kthena-cluster",
        "x-gateway-",
        "x-envoy-max",
        "x-envoy-retry",
        "x-envoy-upstream",
    ];
    for (name, _) in received.iter().flat_map(|one| &one.headers) {
        let name = name.to_lowercase();
        assert!(!ours.iter().any(|prefix| name.starts_with(prefix)), "{name}");
    }

    let broken = Fault::Error {
        status: 500,
        share: 1.0,
    };
    system.fleet().inflict(&broken, &[]).await.unwrap();
    assert_eq!(send(&system, with_control_headers(&system)).await.status, 500);
    assert_eq!(
        system.fleet().received(0).await.unwrap().len(),
        11,
        "a 500 is not tried again"
    );
}
