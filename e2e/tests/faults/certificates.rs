//! Certificates are replaced while requests are served, those between controller and filters with the authority that signed them, and those that
//! Envoy sees: new connections are made with the new ones, nothing is lost, and whoever still comes with an old one is refused.

use kthena_e2e::authority::Authority;
use kthena_e2e::envoy::place;
use kthena_e2e::process::wait_until;
use kthena_e2e::system::load::Load;
use kthena_e2e::system::{Change, Filter, Options, Part, System};
use serde_json::{Value, json};
use tonic_health::pb::health_check_response::ServingStatus;

use crate::tls::{
    CONTROLLER, EXT_PROC, Files, health, off_loopback, off_loopback_and, transport_socket,
    without_proof_there_is_no_state,
};
use crate::{SOON, gauge, llama, new_question, send, start, wait_status};

/// How often new certificates became this (`taken`, `refused`), at the controller and at both ext_proc servers towards it.
async fn became(system: &mut System, outcome: &str) -> [u32; 3] {
    let count = |page: &str, labels: &[&str]| {
        let series = page.lines().filter(|line| line.contains("_certificates_total{"));
        let found = series.filter(|line| labels.iter().all(|label| line.contains(label)));
        found
            .filter_map(|line| line.rsplit(' ').next()?.parse::<u32>().ok())
            .sum()
    };
    let controller = system.controller().page("/metrics").await.unwrap();
    let mut counts = [count(&controller, &[&format!("kind=\"{outcome}\"")]), 0, 0];
    for replica in 0..2 {
        let page = system.ext_proc(replica).unwrap().page("/metrics").await.unwrap();
        counts[replica + 1] = count(&page, &[&format!("outcome=\"{outcome}\""), "to=\"controller\""]);
    }
    counts
}

async fn wait_became(system: &mut System, outcome: &str, wanted: [u32; 3]) {
    let mut seen = [0; 3];
    wait_until(&format!("the certificates to be {outcome}"), SOON, async || {
        seen = became(system, outcome).await;
        seen == wanted
    })
    .await
    .unwrap_or_else(|error| panic!("{error:#}: {seen:?} of {wanted:?}"));
}

#[tokio::test(flavor = "multi_thread")]
async fn certificates_and_their_authority_are_replaced_under_traffic_and_nothing_is_lost() {
    let files = Files::new();
    let (old, new) = (&files.authority, Authority::new().unwrap());
    files.sign("filter", "filter", old);
    let (mut system, _port) = off_loopback(
        &files,
        vec![files.flag("state-client-ca", "ca.pem")],
        files.filter_flags(),
    )
    .await;
    let load = Load::start(&system);
    load.goes_on(20).await;
    assert_eq!(became(&mut system, "taken").await, [0; 3]);

    // As it is done: both authorities are trusted, then certificates are of the new one, then the old one retires.
    files.write("ca.pem", &format!("{}{}", old.pem(), new.pem()));
    wait_became(&mut system, "taken", [1; 3]).await;
    files.sign("controller", CONTROLLER, &new);
    files.sign("filter", "filter", &new);
    wait_became(&mut system, "taken", [2; 3]).await;
    files.write("ca.pem", new.pem());
    wait_became(&mut system, "taken", [3; 3]).await;

    // What makes no certificate is left aside, also by those that connect anew.
    let good = std::fs::read_to_string(files.path("filter.pem")).unwrap();
    files.write("filter.pem", "-----BEGIN CERTIFICATE-----\n");
    wait_became(&mut system, "refused", [0, 1, 1]).await;
    let good_key = std::fs::read_to_string(files.path("controller.key")).unwrap();
    files.write("controller.key", "");
    wait_became(&mut system, "refused", [1; 3]).await;
    for replica in 0..2 {
        assert_eq!(
            gauge(&mut system, replica, "kthena_ext_proc_state_connections_total").await,
            Some(1.0)
        );
    }
    files.write("filter.pem", &good);
    files.write("controller.key", &good_key);
    wait_became(&mut system, "taken", [4; 3]).await;
    load.goes_on(20).await;
    load.stop_without_loss().await;

    // A filter that comes with a certificate of the authority that has retired gets nothing, until it has a new one.
    let (spoil, mend) = (
        || files.sign("filter", "filter", old),
        || files.sign("filter", "filter", &new),
    );
    without_proof_there_is_no_state(system, spoil, mend).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_certificate_that_envoy_sees_is_replaced_under_traffic_and_nothing_is_lost() {
    let files = Files::new();
    let (old, new) = (&files.authority, Authority::new().unwrap());
    files.sign("ext-proc", EXT_PROC, old);
    files.write("both.pem", &format!("{}{}", old.pem(), new.pem()));
    let both = files.path("both.pem");
    let mut system = start(Options {
        ext_proc_flags: vec![
            files.flag("tls-cert", "ext-proc.pem"),
            files.flag("tls-key", "ext-proc.key"),
        ],
        change_envoy: Change::new(move |configuration| {
            let cluster = place(configuration, "/static_resources/clusters/0").unwrap();
            cluster["transport_socket"] = transport_socket(&both);
        }),
        ..llama(2)
    })
    .await;
    let load = Load::start(&system);
    load.goes_on(20).await;
    let at = system.envoy().unwrap().settings().processors[0];
    assert_eq!(
        health(format!("https://{at}"), Some(old.pem())).await,
        Ok(ServingStatus::Serving)
    );
    files.sign("ext-proc", EXT_PROC, &new);
    wait_until("the new certificate to be shown", SOON, async || {
        health(format!("https://{at}"), Some(new.pem())).await == Ok(ServingStatus::Serving)
    })
    .await
    .unwrap();
    assert!(health(format!("https://{at}"), Some(old.pem())).await.is_err());
    let page = system.ext_proc(0).unwrap().page("/metrics").await.unwrap();
    assert!(page.contains("to=\"envoy\",outcome=\"taken\"} 1"), "{page}");
    load.goes_on(20).await;
    load.stop_without_loss().await;
}

/// What `docs/envoy-wasm.yaml` shows for the cluster of the controller, and the files that it names.
fn by_secrets(files: &Files) -> Value {
    let folder = json!({"path": files.folder.path()});
    let file = |name: &str| json!({"filename": files.path(name)});
    let of = |name: &str, kind: &str, content: Value| {
        let secret = "type.googleapis.com/envoy.extensions.transport_sockets.tls.v3.Secret";
        let secrets = json!({"resources": [{"@type": secret, "name": name, kind: content}]});
        let listed = format!("{name}.json");
        files.write(&listed, &secrets.to_string());
        json!({"name": name, "sds_config": {"path_config_source": {"path": files.path(&listed)}}})
    };
    let certificate = json!({
        "certificate_chain": file("filter.pem"), "private_key": file("filter.key"), "watched_directory": folder,
    });
    let certificate = of("certificate", "tls_certificate", certificate);
    let authorities = json!({
        "trusted_ca": file("ca.pem"), "watched_directory": folder,
        "match_typed_subject_alt_names": [{"san_type": "DNS", "matcher": {"exact": CONTROLLER}}],
    });
    let authorities = of("authorities", "validation_context", authorities);
    json!({"name": "envoy.transport_sockets.tls", "typed_config": {
        "@type": "type.googleapis.com/envoy.extensions.transport_sockets.tls.v3.UpstreamTlsContext",
        "sni": CONTROLLER,
        "common_tls_context": {
            "alpn_protocols": ["h2"],
            "tls_certificate_sds_secret_configs": [certificate],
            "validation_context_sds_secret_config": authorities,
        },
    }})
}

/// How many workers' streams to the controller stand.
async fn connected(system: &System) -> u64 {
    let stats = system
        .envoy()
        .unwrap()
        .stats("wasmcustom.kthena_connected")
        .await
        .unwrap();
    stats.values().sum()
}

#[tokio::test(flavor = "multi_thread")]
async fn the_wasm_filter_comes_with_the_certificates_that_envoy_has_then() {
    let files = Files::new();
    let (old, new) = (&files.authority, Authority::new().unwrap());
    files.sign("filter", "filter", old);
    let socket = by_secrets(&files);
    let controller_flags = vec![
        files.flag("state-client-ca", "ca.pem"),
        "--state-scope=filter=*".to_owned(),
    ];
    let (mut system, _port) = off_loopback_and(&files, controller_flags, files.filter_flags(), |port| Options {
        filter: Filter::Wasm(json!({})),
        change_envoy: Change::new(move |configuration| {
            let cluster = place(configuration, "/static_resources/clusters/0").unwrap();
            cluster["transport_socket"] = socket.clone();
            let at = "/load_assignment/endpoints/0/lb_endpoints/0/endpoint/address/socket_address";
            place(cluster, at).unwrap()["port_value"] = json!(port);
        }),
        ..llama(2)
    })
    .await;
    wait_until("a stream", SOON, async || {
        send(&system, new_question("llama")).await.status == 200 && connected(&system).await > 0
    })
    .await
    .unwrap();
    // Everything is of another authority, and the controller starts anew: all come with what is in the files now.
    files.write("ca.pem", new.pem());
    files.sign("controller", CONTROLLER, &new);
    files.sign("filter", "filter", &new);
    system.kill(Part::Controller).unwrap();
    wait_until("the loss to be told", SOON, async || connected(&system).await == 0)
        .await
        .unwrap();
    system.restart(Part::Controller).await.unwrap();
    wait_until("a stream with the new certificates", SOON, async || {
        connected(&system).await > 0
    })
    .await
    .unwrap();
    wait_status(&system, "llama", 200).await;
}
