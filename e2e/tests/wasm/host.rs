//! What the host may be or do wrong: no flag to hold heads, a configuration that cannot be, a body that comes slowly.

use std::path::PathBuf;

use kthena_e2e::client::{Ask, Client};
use kthena_e2e::envoy::{Wasm, place};
use kthena_e2e::process::wait_until;
use kthena_e2e::system::{Change, Filter, Options, System};
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;

use crate::{CHAT, SOON, llama, metric, new_question, send, start};

/// The listeners of a [`dynamic`] system, beside Envoy's other files.
const LISTENERS: &str = "lds.json";

/// A system whose listener, and with it the plugin, can be replaced while it runs.
pub(crate) fn dynamic(options: Options) -> Options {
    Options {
        change_envoy: Change::new(listeners_in_a_file),
        ..options
    }
}

fn listeners_in_a_file(configuration: &mut Value) {
    let clusters = configuration["dynamic_resources"]["cds_config"]["path_config_source"]["path"].clone();
    let file = PathBuf::from(clusters.as_str().unwrap()).with_file_name(LISTENERS);
    let mut listener = configuration["static_resources"]["listeners"][0].take();
    listener["@type"] = json!("type.googleapis.com/envoy.config.listener.v3.Listener");
    std::fs::write(&file, json!({"resources": [listener]}).to_string()).unwrap();
    configuration["static_resources"]["listeners"] = json!([]);
    configuration["dynamic_resources"]["lds_config"] = json!({
        "resource_api_version": "V3",
        "path_config_source": {"path": file, "watched_directory": {"path": file.parent()}},
    });
}

/// Replaces the plugin's configuration, and with `is_new_code` the module by another of the same behaviour. Envoy has taken it or refused
/// it when this returns; whether it has taken it.
pub(crate) async fn change_plugin(system: &System, configuration: &Value, is_new_code: bool) -> bool {
    let file = system.folder().join("envoy").join(LISTENERS);
    let mut listeners: Value = serde_json::from_slice(&std::fs::read(&file).unwrap()).unwrap();
    let plugin = Wasm::PLUGIN.replace("/static_resources/listeners", "/resources");
    let plugin = place(&mut listeners, &plugin).unwrap();
    plugin["configuration"]["value"] = json!(configuration.to_string());
    if is_new_code {
        let code = place(plugin, "/vm_config/code/local/filename").unwrap();
        let mut module = std::fs::read(code.as_str().unwrap()).unwrap();
        // A custom section, named x, with nothing in it.
        module.extend([0, 2, 1, b'x']);
        let other = system.folder().join("other.wasm");
        std::fs::write(&other, module).unwrap();
        *code = json!(other);
    }
    let outcomes = async |name: &str| {
        let name = format!("listener_manager.lds.update_{name}");
        let stats = system.envoy().unwrap().stats(&name).await.unwrap_or_default();
        stats.get(&name).copied().unwrap_or(0)
    };
    let (taken, refused) = (outcomes("success").await, outcomes("rejected").await);
    let unfinished = file.with_extension("unfinished");
    std::fs::write(&unfinished, listeners.to_string()).unwrap();
    std::fs::rename(&unfinished, &file).unwrap();
    wait_until("Envoy to look at the listener", SOON, async || {
        outcomes("success").await > taken || outcomes("rejected").await > refused
    })
    .await
    .unwrap();
    outcomes("success").await > taken
}

#[tokio::test(flavor = "multi_thread")]
async fn a_broken_configuration_is_refused_and_the_one_before_it_serves() {
    let system = start(dynamic(llama(1))).await;
    for broken in [
        json!({"controler": "typo"}),
        json!({"max_endpoints": 0}),
        json!("no object"),
    ] {
        assert!(!change_plugin(&system, &broken, false).await, "{broken}");
        let ask = new_question("llama").header("x-kthena-explain", "1");
        let answer = send(&system, ask).await;
        assert_eq!(answer.status, 200, "{}", answer.text());
        assert_ne!(answer.header("x-kthena-explanation"), "", "the configuration of before");
    }
    let log = std::fs::read_to_string(system.folder().join("envoy.log")).unwrap();
    assert!(log.contains("controler") && log.contains("max_endpoints"), "{log}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_host_that_does_not_hold_heads_is_told_with_the_first_request_and_nothing_hangs() {
    let system = start(Options {
        change_envoy: Change::new(|configuration| {
            let plugin = place(configuration, Wasm::PLUGIN).unwrap();
            plugin["allow_on_headers_stop_iteration"] = json!(false);
        }),
        ..llama(1)
    })
    .await;
    for _ in 0..3 {
        let answer = Client::http1(system.address())
            .send(new_question("llama"))
            .await
            .unwrap();
        assert_eq!(answer.status, 500, "{}", answer.text());
        let error = &answer.json().unwrap()["error"];
        assert_eq!(error["code"], "misconfigured");
        assert!(
            error["message"]
                .as_str()
                .unwrap()
                .contains("allow_on_headers_stop_iteration")
        );
    }
    assert_eq!(send(&system, Ask::get("/v1/models")).await.status, 200);
    wait_until("the metric", SOON, async || {
        metric(&system, "kthena_unheld_total").await > 0
    })
    .await
    .unwrap();
    let log = std::fs::read_to_string(system.folder().join("envoy.log")).unwrap();
    assert!(log.contains("does not show bodies while heads are held"), "{log}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_body_that_comes_slowly_or_in_small_pieces_is_waited_for() {
    let system = start(Options {
        filter: Filter::Wasm(json!({"state_wait_ms": 0})),
        workers: 1,
        ..llama(1)
    })
    .await;
    // The first request of all finds a host that was not seen to show a body yet.
    let body = new_question("llama").body;
    let mut connection = TcpStream::connect(system.address()).await.unwrap();
    let head = format!(
        "POST {CHAT} HTTP/1.1\r\nhost: a\r\nconnection: close\r\ncontent-length: {}\r\n\r\n",
        body.len()
    );
    connection.write_all(head.as_bytes()).await.unwrap();
    wait_until("many ticks of the filter", SOON, async || {
        metric(&system, "kthena_requests").await == 1
    })
    .await
    .unwrap();
    for piece in body.chunks(100) {
        connection.write_all(piece).await.unwrap();
        tokio::task::yield_now().await;
    }
    let mut answer = String::new();
    let read = connection.read_to_string(&mut answer);
    tokio::time::timeout(SOON, read).await.unwrap().unwrap();
    assert!(answer.starts_with("HTTP/1.1 200 OK"), "{answer}");
}
