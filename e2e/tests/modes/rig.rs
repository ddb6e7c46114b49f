//! One system whose Envoy has a listener for each mode, and what can be seen of a request on its way through one.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::time::Duration;

use http::Request;
use http_body_util::{BodyExt as _, Full};
use hyper::body::{Bytes, Incoming};
use hyper_util::rt::TokioIo;
use kthena_e2e::client::{Answer, Ask, Client};
use kthena_e2e::envoy::place;
use kthena_e2e::process::wait_until;
use kthena_e2e::system::fleet::Group;
use kthena_e2e::system::manifests::model_route;
use kthena_e2e::system::{Change, Options, System};
use serde_json::{Value, json};

pub(crate) const CHAT: &str = "/v1/chat/completions";

/// Patience for what takes milliseconds, on a machine that does much else.
pub(crate) const SOON: Duration = Duration::from_secs(20);

const STREAMED: &str = "STREAMED";
const FULL_DUPLEX: &str = "FULL_DUPLEX_STREAMED";

/// How an ext_proc filter sends a request and its answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Mode {
    pub(crate) request_body: &'static str,
    pub(crate) response_headers: &'static str,
    pub(crate) response_body: &'static str,
}

const fn mode(request_body: &'static str, response_headers: &'static str, response_body: &'static str) -> Mode {
    Mode {
        request_body,
        response_headers,
        response_body,
    }
}

/// All that are served.
pub(crate) const MODES: [Mode; 8] = [
    mode("BUFFERED", "SKIP", "NONE"),
    mode("BUFFERED", "SEND", "NONE"),
    mode("BUFFERED", "SEND", STREAMED),
    mode("BUFFERED", "SEND", FULL_DUPLEX),
    mode(FULL_DUPLEX, "SKIP", "NONE"),
    mode(FULL_DUPLEX, "SEND", "NONE"),
    mode(FULL_DUPLEX, "SEND", STREAMED),
    mode(FULL_DUPLEX, "SEND", FULL_DUPLEX),
];

impl Mode {
    /// The name of its listener.
    pub(crate) fn name(self) -> String {
        format!("{} {} {}", self.request_body, self.response_headers, self.response_body)
    }

    pub(crate) fn sees_the_answer(self) -> bool {
        self.response_body != "NONE"
    }

    fn processing_mode(self) -> Value {
        let trailers = |body| if body == FULL_DUPLEX { "SEND" } else { "SKIP" };
        json!({
            "request_header_mode": "SEND",
            "request_body_mode": self.request_body,
            "request_trailer_mode": trailers(self.request_body),
            "response_header_mode": self.response_headers,
            "response_body_mode": self.response_body,
            "response_trailer_mode": trailers(self.response_body),
        })
    }
}

const MANAGER: &str = "/filter_chains/0/filters/0/typed_config";

/// A listener for each mode, at a port that the system chooses.
pub(crate) fn listeners(configuration: &mut Value) {
    let listeners = place(configuration, "/static_resources/listeners").unwrap();
    let reference = listeners[0].clone();
    for mode in MODES {
        let mut listener = reference.clone();
        listener["name"] = json!(mode.name());
        *place(&mut listener, "/address/socket_address/port_value").unwrap() = json!(0);
        let filter = format!("{MANAGER}/http_filters/0/typed_config/processing_mode");
        *place(&mut listener, &filter).unwrap() = mode.processing_mode();
        listeners.as_array_mut().unwrap().push(listener);
    }
}

/// The same, and nothing is logged to the ext_proc server.
pub(crate) fn listeners_without_access_log(configuration: &mut Value) {
    let loggers = format!("/static_resources/listeners/0{MANAGER}/access_log");
    let loggers = place(configuration, &loggers).unwrap().as_array_mut().unwrap();
    loggers.retain(|logger| logger["name"] != "envoy.access_loggers.http_grpc");
    listeners(configuration);
}

/// Two model servers that take 20 ms a token, one ext_proc server, and an Envoy of all modes.
pub(crate) struct Rig {
    pub(crate) system: System,
    /// Requests sent so far.
    pub(crate) sent: u64,
    listeners: BTreeMap<String, SocketAddr>,
}

impl Rig {
    pub(crate) async fn start(change_envoy: fn(&mut Value), flag: &str) -> Self {
        let options = Options {
            groups: vec![Group {
                figures: "profile=test-nodelay,step_ms=20".to_owned(),
                ..Group::instant("llama", "meta/llama", 2)
            }],
            routes: vec![model_route("llama", "llama", "llama")],
            ext_procs: 1,
            change_envoy: Change::new(change_envoy),
            ..Options::default()
        };
        let flags = [options.ext_proc_flags.clone(), vec![flag.to_owned()]].concat();
        let ext_proc_flags = flags.into_iter().filter(|flag| !flag.is_empty()).collect();
        let options = Options {
            ext_proc_flags,
            ..options
        };
        let system = System::start(options).await.unwrap_or_else(|error| panic!("{error:#}"));
        let page = system.envoy().unwrap().admin("/listeners?format=json").await.unwrap();
        let page: Value = serde_json::from_str(&page).unwrap();
        let listeners = page["listener_statuses"].as_array().unwrap().iter().map(|listener| {
            let port = &listener["local_address"]["socket_address"]["port_value"];
            let port = u16::try_from(port.as_u64().unwrap()).unwrap();
            let name = listener["name"].as_str().unwrap().to_owned();
            (name, SocketAddr::from(([127, 0, 0, 1], port)))
        });
        Self {
            listeners: listeners.collect(),
            sent: 0,
            system,
        }
    }

    pub(crate) fn address(&self, mode: Mode) -> SocketAddr {
        self.listeners[&mode.name()]
    }

    pub(crate) async fn send(&mut self, mode: Mode, body: &Value) -> Answer {
        self.sent += 1;
        let ask = Ask::post(CHAT, body.to_string()).header("x-kthena-explain", "1");
        let answer = Client::http1(self.address(mode)).send(ask).await;
        answer.unwrap_or_else(|error| panic!("{}: {error:#}", mode.name()))
    }

    /// Sends a request on a connection of its own, and returns the answer's body, to be read at leisure; dropped, the client hangs up.
    pub(crate) async fn open(&mut self, mode: Mode, body: &Value) -> Incoming {
        self.sent += 1;
        let connection = tokio::net::TcpStream::connect(self.address(mode)).await.unwrap();
        let (mut sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(connection))
            .await
            .unwrap();
        tokio::spawn(connection);
        let request = Request::post(CHAT)
            .header("host", "llm")
            .header("content-type", "application/json")
            .body(Full::new(Bytes::from(body.to_string())))
            .unwrap();
        let answer = sender.send_request(request).await.unwrap();
        assert_eq!(answer.status(), 200, "{}", mode.name());
        answer.into_body()
    }

    /// Sum over the series of a metric of the ext_proc server that have all these labels.
    pub(crate) async fn metric(&mut self, name: &str, labels: &[&str]) -> u64 {
        let page = self.system.ext_proc(0).unwrap().page("/metrics").await.unwrap();
        let lines = page.lines().filter(|line| {
            let rest = line.strip_prefix(name).unwrap_or_default();
            rest.starts_with(['{', ' ']) && labels.iter().all(|label| rest.contains(label))
        });
        lines
            .filter_map(|line| line.rsplit(' ').next()?.parse::<f64>().ok())
            .sum::<f64>() as u64
    }

    /// Requests in flight as the ext_proc server counts them.
    pub(crate) async fn in_flight(&mut self) -> u64 {
        self.metric("kthena_router_active_upstream_requests", &[]).await
    }

    /// Requests that the ext_proc server has counted as answered.
    pub(crate) async fn counted(&mut self) -> u64 {
        let labels = ["path=\"/v1/chat/completions\"", "status_code=\"200\""];
        self.metric("kthena_router_requests_total", &labels).await
    }

    /// Tokens that the ext_proc server has counted, input and output.
    pub(crate) async fn tokens(&mut self) -> [u64; 2] {
        let name = "kthena_router_tokens_total";
        [
            self.metric(name, &["token_type=\"input\""]).await,
            self.metric(name, &["token_type=\"output\""]).await,
        ]
    }

    /// Requests that model servers are busy with.
    pub(crate) async fn running(&self) -> u64 {
        let endpoints = self.system.fleet().endpoints().await.unwrap();
        endpoints.iter().map(|endpoint| endpoint.running).sum()
    }

    /// Waits until nothing is in flight any more and no ext_proc stream is open: what a stream tells has been told.
    pub(crate) async fn wait_quiet(&mut self, mode: Mode) {
        let what = format!("{}: nothing in flight", mode.name());
        wait_until(&what, SOON, async || {
            self.in_flight().await == 0
                && self.metric("kthena_ext_proc_streams", &[]).await == 0
                && self.running().await == 0
        })
        .await
        .unwrap();
    }

    /// Waits until stream or access log have told of all requests, each once.
    pub(crate) async fn wait_counted(&mut self, mode: Mode) {
        let sent = self.sent;
        let what = format!("{}: {sent} requests counted", mode.name());
        wait_until(&what, SOON, async || self.counted().await == sent)
            .await
            .unwrap();
    }
}

/// A question with an answer of so many tokens; other texts share no beginning.
pub(crate) fn question(text: &str, tokens: u32, stream: bool) -> Value {
    let content = format!("{text} {}", "and so on ".repeat(400));
    let mut body = json!({
        "model": "llama", "max_tokens": tokens, "messages": [{"role": "user", "content": content}],
    });
    if stream {
        body["stream"] = json!(true);
        body["stream_options"] = json!({"include_usage": true});
    }
    body
}

/// What is left of an answer.
pub(crate) async fn rest(body: Incoming) -> String {
    let bytes = body.collect().await.unwrap().to_bytes();
    String::from_utf8(bytes.to_vec()).unwrap()
}
