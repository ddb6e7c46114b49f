//! Two ext_proc servers are one: what one of them learns the other knows in moments. They are asked directly, as Envoy asks, because
//! Envoy itself chooses which of them to ask.

use std::net::SocketAddr;

use envoy_types::pb::envoy::config::core::v3::Metadata;
use envoy_types::pb::envoy::data::accesslog::v3::{AccessLogCommon, HttpAccessLogEntry, HttpRequestProperties};
use envoy_types::pb::envoy::extensions::filters::http::ext_proc::v3::processing_mode::BodySendMode;
use envoy_types::pb::envoy::service::accesslog::v3::StreamAccessLogsMessage;
use envoy_types::pb::envoy::service::accesslog::v3::access_log_service_client::AccessLogServiceClient;
use envoy_types::pb::envoy::service::accesslog::v3::stream_access_logs_message::{HttpAccessLogEntries, LogEntries};
use envoy_types::pb::google::protobuf::{Struct, Value, value::Kind};
use kthena_e2e::process::wait_until;
use kthena_e2e::processor::ask;
use kthena_e2e::system::System;
use kthena_e2e::system::story::{agree, decided_by};
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;

use crate::{CHAT, SOON, gauge, llama, new_question, pods, start, wait_idle};

#[tokio::test(flavor = "multi_thread")]
async fn where_a_prompt_went_through_one_is_known_to_the_other_within_200_ms() {
    let system = start(llama(4)).await;
    agree(&system, 1, async |question| decided_by(&system, 0, &question).await).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_lease_of_one_is_settled_by_the_access_log_that_arrives_at_the_other() {
    let mut system = start(llama(2)).await;
    let servers = system.envoy().unwrap().settings().processors.clone();
    let logs = [open_log(servers[0]).await, open_log(servers[1]).await];
    wait_gauge(&mut system, "kthena_ext_proc_access_log_streams", |streams| {
        streams > 0.0
    })
    .await;
    let body = new_question("llama").body;
    // In this mode the stream ends when the request was sent on: only the access log tells of the end of the answer.
    let decided = ask(servers[0], BodySendMode::FullDuplexStreamed, &body).await;
    let (endpoint, lease) = (decided.endpoint.clone(), decided.lease.clone());
    drop(decided);
    wait_gauge(&mut system, "kthena_ext_proc_streams", |streams| streams == 0.0).await;
    for replica in 0..2 {
        wait_until("one request in flight", SOON, async || {
            let pods = pods(&system, replica).await;
            pods.iter().filter_map(|pod| pod["inFlight"].as_f64()).sum::<f64>() == 1.0
        })
        .await
        .unwrap();
    }
    logs[1].send(finished(&endpoint, &lease)).await.unwrap();
    wait_idle(&system, 0, 2).await;
    wait_idle(&system, 1, 2).await;
}

/// Waits for the value of a gauge of the first ext_proc server.
async fn wait_gauge(system: &mut System, name: &str, is_right: fn(f64) -> bool) {
    wait_until(name, SOON, async || gauge(system, 0, name).await.is_some_and(is_right))
        .await
        .unwrap();
}

/// Opens an access-log stream, as a worker of Envoy does.
async fn open_log(at: SocketAddr) -> mpsc::Sender<StreamAccessLogsMessage> {
    let mut client = AccessLogServiceClient::connect(format!("http://{at}")).await.unwrap();
    let (send, messages) = mpsc::channel(1);
    tokio::spawn(async move { client.stream_access_logs(ReceiverStream::new(messages)).await });
    // The first message opens the stream for certain.
    send.send(StreamAccessLogsMessage::default()).await.unwrap();
    send
}

/// The access log's message about a request that was served.
fn finished(endpoint: &str, lease: &str) -> StreamAccessLogsMessage {
    let fields = |key: &str, value: &str| Struct {
        fields: [(
            key.to_owned(),
            Value {
                kind: Some(Kind::StringValue(value.to_owned())),
            },
        )]
        .into(),
    };
    let metadata = Metadata {
        filter_metadata: [
            ("kthena".to_owned(), fields("lease", lease)),
            (
                "envoy.lb".to_owned(),
                fields("x-gateway-destination-endpoint-served", endpoint),
            ),
        ]
        .into(),
        ..Metadata::default()
    };
    let entry = HttpAccessLogEntry {
        common_properties: Some(AccessLogCommon {
            metadata: Some(metadata),
            ..AccessLogCommon::default()
        }),
        request: Some(HttpRequestProperties {
            path: CHAT.to_owned(),
            ..HttpRequestProperties::default()
        }),
        ..HttpAccessLogEntry::default()
    };
    StreamAccessLogsMessage {
        log_entries: Some(LogEntries::HttpLogs(HttpAccessLogEntries { log_entry: vec![entry] })),
        ..StreamAccessLogsMessage::default()
    }
}
