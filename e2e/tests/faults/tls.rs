//! What travels between the parts can be closed to others: Envoy's gRPC to the ext_proc servers by TLS, the controller's state service,
//! once it can be reached from other machines, by mutual TLS or by TLS and a token.

use std::net::Ipv4Addr;
use std::path::{Path, PathBuf};

use kthena_e2e::authority::Authority;
use kthena_e2e::envoy::place;
use kthena_e2e::ports::Reserved;
use kthena_e2e::process::wait_until;
use kthena_e2e::scratch::Scratch;
use kthena_e2e::system::{Change, Options, System};
use serde_json::{Value, json};
use tonic::transport::{Certificate, Channel, ClientTlsConfig};
use tonic_health::pb::HealthCheckRequest;
use tonic_health::pb::health_check_response::ServingStatus;
use tonic_health::pb::health_client::HealthClient;

use crate::{SOON, llama, log_line, new_question, send, start, wait_idle};
use kthena_e2e::system::load::Load;

/// The names in the certificates.
pub(super) const EXT_PROC: &str = "kthena-ext-proc";
pub(super) const CONTROLLER: &str = "kthena-controller";

/// Certificates as files.
pub(super) struct Files {
    pub(super) folder: Scratch,
    pub(super) authority: Authority,
}

impl Files {
    pub(super) fn new() -> Self {
        let files = Self {
            folder: Scratch::new("tls").unwrap(),
            authority: Authority::new().unwrap(),
        };
        files.write("ca.pem", files.authority.pem());
        files
    }

    pub(super) fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    /// Puts a file in the place of another at once, as a volume does.
    pub(super) fn write(&self, name: &str, text: &str) {
        let new = self.path("new");
        std::fs::write(&new, text).unwrap();
        std::fs::rename(new, self.path(name)).unwrap();
    }

    /// Writes `<file>.pem` and `<file>.key`, for a name, signed by an authority.
    pub(super) fn sign(&self, file: &str, name: &str, by: &Authority) {
        let (certificate, key) = by.sign(name).unwrap();
        self.write(&format!("{file}.pem"), &certificate);
        self.write(&format!("{file}.key"), &key);
    }

    /// The flags by which an ext_proc server shows the certificate `filter` to the controller.
    pub(super) fn filter_flags(&self) -> Vec<String> {
        vec![
            self.flag("state-cert", "filter.pem"),
            self.flag("state-key", "filter.key"),
        ]
    }

    /// A flag that names a file.
    pub(super) fn flag(&self, flag: &str, file: &str) -> String {
        format!("--{flag}={}", self.path(file).display())
    }
}

/// What `docs/envoy.yaml` shows for the cluster of the ext_proc servers.
pub(super) fn transport_socket(authority: &Path) -> Value {
    json!({
        "name": "envoy.transport_sockets.tls",
        "typed_config": {
            "@type": "type.googleapis.com/envoy.extensions.transport_sockets.tls.v3.UpstreamTlsContext",
            "sni": EXT_PROC,
            "common_tls_context": {
                "alpn_protocols": ["h2"],
                "validation_context": {
                    "trusted_ca": {"filename": authority},
                    "match_typed_subject_alt_names": [{"san_type": "DNS", "matcher": {"exact": EXT_PROC}}],
                },
            },
        },
    })
}

/// What a server answers to a health check; an error when it takes no such connection.
pub(super) async fn health(url: String, authority: Option<&str>) -> Result<ServingStatus, String> {
    let mut endpoint = Channel::from_shared(url).unwrap();
    if let Some(pem) = authority {
        let tls = ClientTlsConfig::new()
            .ca_certificate(Certificate::from_pem(pem))
            .domain_name(EXT_PROC);
        endpoint = endpoint.tls_config(tls).unwrap();
    }
    let asking = async {
        let channel = endpoint.connect().await.map_err(|error| error.to_string())?;
        let answer = HealthClient::new(channel).check(HealthCheckRequest::default()).await;
        answer
            .map(|answer| answer.into_inner().status())
            .map_err(|status| status.to_string())
    };
    tokio::time::timeout(SOON, asking).await.unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn envoy_asks_checks_and_logs_over_tls_and_nobody_else_gets_in_without() {
    let files = Files::new();
    files.sign("ext-proc", EXT_PROC, &files.authority);
    let authority = files.path("ca.pem");
    let system = start(Options {
        ext_proc_flags: vec![
            files.flag("tls-cert", "ext-proc.pem"),
            files.flag("tls-key", "ext-proc.key"),
        ],
        // Health checks, which must succeed before the start is over, take the same way.
        change_envoy: Change::new(move |configuration| {
            let cluster = place(configuration, "/static_resources/clusters/0").unwrap();
            cluster["transport_socket"] = transport_socket(&authority);
        }),
        ..llama(2)
    })
    .await;
    for _ in 0..4 {
        let answer = send(&system, new_question("llama")).await;
        assert_eq!(answer.status, 200, "{}", answer.text());
        assert_eq!(
            log_line(&system, &answer.header("x-request-id")).await["model_server"],
            "default/llama"
        );
    }
    for replica in 0..2 {
        wait_idle(&system, replica, 2).await;
    }
    let stats = system
        .envoy()
        .unwrap()
        .stats("cluster.kthena-ext-proc.ssl.handshake")
        .await
        .unwrap();
    assert!(stats.values().sum::<u64>() > 0, "{stats:?}");

    let at = system.envoy().unwrap().settings().processors[0];
    let known = health(format!("https://{at}"), Some(files.authority.pem())).await;
    assert_eq!(known, Ok(ServingStatus::Serving));
    let stranger = Authority::new().unwrap();
    assert!(
        health(format!("https://{at}"), Some(stranger.pem())).await.is_err(),
        "a client knows whom it talks to"
    );
    assert!(
        health(format!("http://{at}"), None).await.is_err(),
        "nothing is served in the clear"
    );
}

/// A system whose state service can be reached from other machines; its port stays reserved.
pub(super) async fn off_loopback(files: &Files, controller: Vec<String>, filter: Vec<String>) -> (System, Reserved) {
    off_loopback_and(files, controller, filter, |_| llama(2)).await
}

/// The same, of what else is asked for when the port is known.
pub(super) async fn off_loopback_and(
    files: &Files,
    controller: Vec<String>,
    filter: Vec<String>,
    options: impl FnOnce(u16) -> Options,
) -> (System, Reserved) {
    files.sign("controller", CONTROLLER, &files.authority);
    let port = Reserved::on(Ipv4Addr::UNSPECIFIED.into()).unwrap();
    let mut controller_flags = vec![
        format!("--state-listen={}", port.address()),
        files.flag("state-tls-cert", "controller.pem"),
        files.flag("state-tls-key", "controller.key"),
    ];
    controller_flags.extend(controller);
    let mut ext_proc_flags = vec![
        format!("--state=https://127.0.0.1:{}", port.port()),
        files.flag("state-ca", "ca.pem"),
        format!("--state-server-name={CONTROLLER}"),
    ];
    ext_proc_flags.extend(filter);
    let system = start(Options {
        controller_flags,
        ext_proc_flags,
        ..options(port.port())
    })
    .await;
    (system, port)
}

/// One ext_proc server starts anew with a proof that does not hold, and gets in once it holds: `spoil` and `mend` change its files.
pub(super) async fn without_proof_there_is_no_state(mut system: System, spoil: impl Fn(), mend: impl Fn()) {
    let load = Load::start(&system);
    load.goes_on(20).await;
    spoil();
    let program = system.ext_proc(0).unwrap();
    program.launch().unwrap();
    wait_until("a process without state", SOON, async || {
        let page = program.page("/readyz").await;
        page.is_err_and(|error| error.to_string().contains("no state from the controller yet"))
    })
    .await
    .unwrap();
    system
        .wait_for_cluster(EXT_PROC, "membership_healthy", 1)
        .await
        .unwrap();
    load.stop().await;
    let load = Load::start(&system);
    load.goes_on(50).await;
    assert!(!system.ext_proc(0).unwrap().is_ready().await);

    mend();
    system.ext_proc(0).unwrap().wait_ready().await.unwrap();
    system
        .wait_for_cluster(EXT_PROC, "membership_healthy", 2)
        .await
        .unwrap();
    load.goes_on(50).await;
    load.stop_without_loss().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn off_loopback_a_filter_with_a_certificate_gets_state_and_one_with_a_strangers_does_not() {
    let files = Files::new();
    let filter = || files.sign("filter", "filter", &files.authority);
    filter();
    let (system, _port) = off_loopback(
        &files,
        vec![files.flag("state-client-ca", "ca.pem")],
        files.filter_flags(),
    )
    .await;
    let stranger = Authority::new().unwrap();
    without_proof_there_is_no_state(system, || files.sign("filter", "filter", &stranger), filter).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn off_loopback_a_filter_with_the_token_gets_state_and_one_with_another_does_not() {
    let files = Files::new();
    files.write("expected", "open sesame\n");
    files.write("token", "open sesame");
    let (mut system, _port) = off_loopback(
        &files,
        vec![files.flag("state-token-file", "expected")],
        vec![files.flag("state-token-file", "token")],
    )
    .await;
    let page = system.controller().page("/metrics").await.unwrap();
    assert!(!page.contains("unauthenticated"), "{page}");
    without_proof_there_is_no_state(
        system,
        || files.write("token", "open barley"),
        || files.write("token", "open sesame"),
    )
    .await;
}
