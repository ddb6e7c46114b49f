//! Whole requests through a plugin on the fake host.

use kthena_scheduler::state::proto::{self, FromFilter, ResourceType, ToFilter, from_filter, to_filter};
use prost::Message as _;
use serde_json::{Value, json};
use twox_hash::XxHash3_64;

use crate::config::Config;
use crate::host::fake::Fake;
use crate::host::{Flow, Level};
use crate::root::Root;
use crate::stream::Progress;

mod by_head;
mod counts;
mod usage;

const ROOT: u32 = 1;
const REQUEST: u32 = 2;

/// A plugin with its host.
struct Rig {
    host: Fake,
    root: Root<Fake>,
}

impl Rig {
    fn new(configuration: &Value) -> Self {
        Self::on(Fake::new(), configuration)
    }

    fn on(host: Fake, configuration: &Value) -> Self {
        let config = Config::parse(configuration.to_string().as_bytes()).unwrap();
        let root = Root::new(host.clone(), ROOT, config);
        Self { host, root }
    }

    /// A plugin that serves and has the state of one ModelServer with two endpoints.
    fn ready(configuration: &Value) -> Self {
        let mut rig = Self::new(configuration);
        rig.post(9, "/other", "");
        rig.root.on_done(9);
        rig.tick();
        rig.welcome();
        rig.update(true);
        rig.host.take_sent();
        rig
    }

    fn tick(&mut self) {
        self.host.pass(20);
        self.root.on_tick();
    }

    fn ticks(&mut self, count: usize) {
        (0..count).for_each(|_| self.tick());
    }

    fn hear(&mut self, message: to_filter::Message) {
        let message = ToFilter {
            message: Some(message),
            echoes: Vec::new(),
        };
        let stream = self.host.stream().unwrap();
        self.root.on_message(stream, &message.encode_to_vec());
    }

    fn welcome(&mut self) {
        self.hear(to_filter::Message::Welcome(proto::Welcome::default()));
    }

    fn update(&mut self, synced: bool) {
        let resources = vec![
            resource(
                ResourceType::Route,
                "a/r",
                &proto::ModelRoute {
                    name: "a/r".into(),
                    model_name: "alias".into(),
                    rules: vec![proto::Rule {
                        targets: vec![proto::Target {
                            weight: 1,
                            backend: Some(proto::target::Backend::ModelServer("a/s".into())),
                        }],
                        ..Default::default()
                    }],
                    ..Default::default()
                },
            ),
            resource(
                ResourceType::Server,
                "a/s",
                &proto::ModelServer {
                    name: "a/s".into(),
                    model: Some("engine/model".into()),
                    cluster: "model-server/a/s/8000".into(),
                    ..Default::default()
                },
            ),
            resource(
                ResourceType::Endpoints,
                "a/s",
                &proto::Endpoints {
                    endpoints: (1..=2).map(endpoint).collect(),
                },
            ),
        ];
        self.hear(to_filter::Message::Update(proto::Update {
            nonce: 1,
            resources,
            removed: Vec::new(),
            synced,
        }));
    }

    /// The head of a request, and its body in one piece.
    fn post(&mut self, id: u32, path: &str, body: &str) -> Flow {
        let length = body.len().to_string();
        let headers = [
            (":method", "POST"),
            (":path", path),
            (":authority", "host"),
            ("content-length", &length),
            ("x-request-id", "r"),
        ];
        self.host.begin(id, &headers);
        match self.root.on_request_headers(id, body.is_empty()) {
            Flow::Pause if !body.is_empty() => self.body(id, body, true),
            flow => flow,
        }
    }

    /// A piece of a body.
    fn body(&mut self, id: u32, piece: &str, end: bool) -> Flow {
        self.host
            .change(id, |request| request.body.extend_from_slice(piece.as_bytes()));
        let bytes = self.host.request(id).body.len();
        self.root.on_request_body(id, bytes, end)
    }

    fn answer(&self, id: u32) -> (u16, Value) {
        let (status, _, body) = self.host.request(id).answer.expect("an answer");
        (status, serde_json::from_slice(&body).unwrap())
    }

    /// What is reported as in flight in the messages sent since the last look.
    fn reported(&self) -> Vec<u32> {
        self.sent()
            .into_iter()
            .filter_map(|message| match message {
                from_filter::Message::Report(report) => Some(report.in_flight),
                _ => None,
            })
            .flatten()
            .map(|entry| entry.requests)
            .collect()
    }

    fn sent(&self) -> Vec<from_filter::Message> {
        let sent = self.host.take_sent();
        let decoded = sent.iter().map(|bytes| FromFilter::decode(bytes.as_slice()).unwrap());
        decoded.filter_map(|message| message.message).collect()
    }
}

fn endpoint(id: u64) -> proto::Endpoint {
    proto::Endpoint {
        id,
        uid: format!("uid-{id}"),
        port: 8000,
        address: format!("10.0.0.{id}:8000"),
        pod: format!("a/pod-{id}"),
        ..Default::default()
    }
}

fn resource(r#type: ResourceType, name: &str, body: &impl prost::Message) -> proto::Resource {
    proto::Resource {
        r#type: r#type as i32,
        name: name.to_owned(),
        version: XxHash3_64::oneshot(&body.encode_to_vec()),
        body: body.encode_to_vec().into(),
        ..Default::default()
    }
}

const CHAT: &str = "/v1/chat/completions";

fn chat(model: &str) -> String {
    json!({"messages": [{"role": "user", "content": "hello"}], "model": model, "max_tokens": 3}).to_string()
}

fn header(rig: &Rig, id: u32, name: &str) -> String {
    let headers = rig.host.request(id).headers;
    String::from_utf8(headers.get(name).cloned().unwrap_or_default()).unwrap()
}

#[test]
fn a_request_is_sent_where_the_decision_says_with_the_engines_name_for_the_model() {
    let mut rig = Rig::ready(&json!({}));
    assert_eq!(rig.post(REQUEST, CHAT, &chat("alias")), Flow::Continue);
    let request = rig.host.request(REQUEST);
    assert_eq!(String::from_utf8(request.body).unwrap(), chat("engine/model"));
    assert_eq!(
        header(&rig, REQUEST, "content-length"),
        chat("engine/model").len().to_string()
    );
    assert_eq!(header(&rig, REQUEST, "x-kthena-cluster"), "model-server/a/s/8000");
    let list = header(&rig, REQUEST, "x-gateway-destination-endpoint");
    assert_eq!(list.split(',').count(), 2, "{list}");
    assert!(request.rerouted && request.answer.is_none());
    assert_eq!(request.facts["kthena.model_name"], "alias");
    assert_eq!(request.facts["kthena.upstream_model"], "engine/model");
    let decisions = rig.host.log(Level::Debug);
    let told = decisions.iter().filter(|line| line.contains("alias goes to 10.0.0."));
    assert_eq!(told.count(), 1, "a line a decision: {decisions:?}");
}

#[test]
fn a_body_may_come_in_any_pieces_and_end_in_trailers() {
    let mut rig = Rig::ready(&json!({}));
    let body = chat("alias");
    for (id, cut) in (10..).zip(1..body.len()) {
        rig.host
            .begin(id, &[(":method", "POST"), (":path", CHAT), (":authority", "h")]);
        assert_eq!(rig.root.on_request_headers(id, false), Flow::Pause);
        assert_eq!(rig.body(id, &body[..cut], false), Flow::Pause);
        let flow = if cut % 2 == 0 {
            rig.body(id, &body[cut..], true)
        } else {
            assert_eq!(rig.body(id, &body[cut..], false), Flow::Pause);
            rig.root.on_request_trailers(id)
        };
        assert_eq!(flow, Flow::Continue, "cut at {cut}");
        let sent = rig.host.request(id);
        assert_eq!(
            String::from_utf8(sent.body).unwrap(),
            chat("engine/model"),
            "cut at {cut}"
        );
        assert!(!sent.headers.contains_key("content-length"), "none came");
        rig.root.on_done(id);
    }
}

#[test]
fn a_body_longer_than_a_window_is_read_whole() {
    let mut rig = Rig::ready(&json!({}));
    let text = "word ".repeat(100_000);
    let body = json!({"messages": [{"role": "user", "content": text}], "model": "alias"}).to_string();
    assert_eq!(rig.post(REQUEST, CHAT, &body), Flow::Continue);
    let sent = String::from_utf8(rig.host.request(REQUEST).body).unwrap();
    assert_eq!(sent, body.replace("\"alias\"", "\"engine/model\""));
}

#[test]
fn control_headers_of_a_client_go_no_further() {
    let mut rig = Rig::ready(&json!({}));
    let forged = [
        (":method", "POST"),
        (":path", "/mine"),
        (":authority", "h"),
        ("x-kthena-cluster", "other"),
        ("x-envoy-retry-on", "5xx"),
        ("x-kept", "yes"),
    ];
    rig.host.begin(REQUEST, &forged);
    assert_eq!(rig.root.on_request_headers(REQUEST, true), Flow::Continue);
    let request = rig.host.request(REQUEST);
    assert!(request.rerouted && request.headers.contains_key("x-kept"));
    assert!(
        !request
            .headers
            .keys()
            .any(|name| name.starts_with("x-kthena") || name.starts_with("x-envoy"))
    );
}

#[test]
fn what_cannot_be_served_is_answered_from_the_errors_table() {
    let mut rig = Rig::ready(&json!({"max_body_bytes": 1000}));
    let large = "x".repeat(2000);
    let cases = [("{", 400), (&chat("unknown"), 404), (&chat(&large), 413)];
    for (id, (body, status)) in (20..).zip(cases) {
        assert_eq!(rig.post(id, CHAT, body), Flow::Pause);
        assert_eq!(rig.answer(id).0, status);
        assert_eq!(rig.root.request(id).unwrap().progress(), Progress::Answered);
    }
    rig.host
        .begin(30, &[(":method", "GET"), (":path", "/v1/models"), (":authority", "h")]);
    rig.root.on_request_headers(30, true);
    assert_eq!(rig.answer(30).1["data"][0]["id"], "alias");
}

#[test]
fn however_a_request_ends_it_is_reported_and_forgotten() {
    let mut rig = Rig::ready(&json!({}));
    type End = fn(&mut Rig);
    let ends: [(&str, End); 3] = [
        ("the answer is done", |rig| {
            rig.host.change(REQUEST, |request| {
                request.response_headers.insert(":status".into(), "200".into());
            });
            rig.root.on_response_headers(REQUEST, false);
            rig.root.on_response_body(REQUEST, 10, true);
        }),
        ("the answer ends in trailers", |rig| {
            rig.root.on_response_headers(REQUEST, false);
            rig.root.on_response_trailers(REQUEST);
        }),
        ("the client is gone, or the upstream was reset", |rig| {
            rig.root.on_done(REQUEST)
        }),
    ];
    for (name, end) in ends {
        rig.post(REQUEST, CHAT, &chat("alias"));
        rig.ticks(5);
        assert_eq!(rig.reported(), [1], "{name}");
        end(&mut rig);
        rig.ticks(5);
        assert_eq!(rig.reported(), [0], "{name}");
        rig.root.on_done(REQUEST);
        assert!(rig.root.request(REQUEST).is_none(), "{name}");
        rig.ticks(5);
        assert_eq!(rig.reported(), [0; 0], "{name}: settled once");
    }
}

#[test]
fn another_endpoint_that_served_is_told_to_the_others() {
    let mut rig = Rig::ready(&json!({}));
    let text = "a prompt of some length ".repeat(50);
    let body = json!({"messages": [{"role": "user", "content": text}], "model": "alias"}).to_string();
    rig.post(REQUEST, CHAT, &body);
    let list = header(&rig, REQUEST, "x-gateway-destination-endpoint");
    let second = list.split(',').nth(1).unwrap().as_bytes().to_vec();
    rig.ticks(1);
    rig.sent();
    rig.host.change(REQUEST, |request| {
        request.properties.insert("upstream.address".into(), second);
    });
    rig.root.on_response_headers(REQUEST, false);
    rig.ticks(1);
    let told: Vec<bool> = rig
        .sent()
        .into_iter()
        .filter_map(|message| match message {
            from_filter::Message::Placements(placements) => Some(placements.placements),
            _ => None,
        })
        .flatten()
        .map(|placement| placement.gone)
        .collect();
    assert_eq!(told, [true, false], "gone from the first, placed at the second");
}

#[test]
fn a_vm_without_requests_subscribes_to_nothing() {
    let mut rig = Rig::new(&json!({}));
    rig.ticks(200);
    assert_eq!((rig.host.stream(), rig.host.tick_ms()), (None, 1_000));
    rig.post(REQUEST, "/other", "");
    rig.tick();
    assert!(rig.host.stream().is_some() && rig.host.tick_ms() == 20);
}

#[test]
fn without_state_requests_wait_up_to_a_bound_in_time_and_number() {
    let mut rig = Rig::new(&json!({"max_held": 2, "state_wait_ms": 5000}));
    rig.host.set_controller(false);
    for id in 10..13 {
        assert_eq!(rig.post(id, CHAT, &chat("alias")), Flow::Pause);
    }
    assert_eq!(rig.answer(12).0, 503, "there is room for two");
    assert!(rig.host.request(10).answer.is_none());
    rig.ticks(249);
    assert!(rig.host.request(10).answer.is_none());
    rig.ticks(2);
    assert_eq!((rig.answer(10).0, rig.answer(11).0), (503, 503));

    assert_eq!(rig.post(14, CHAT, &chat("alias")), Flow::Pause);
    rig.host.set_controller(true);
    // Time for the next try, and less than the client waits.
    rig.ticks(80);
    rig.welcome();
    rig.update(true);
    let served = rig.host.request(14);
    assert!(served.resumed && served.answer.is_none());
    assert_eq!(String::from_utf8(served.body).unwrap(), chat("engine/model"));
}

#[test]
fn a_waiting_client_that_goes_makes_room() {
    let mut rig = Rig::new(&json!({"max_held": 1}));
    rig.post(10, CHAT, &chat("alias"));
    rig.root.on_done(10);
    rig.post(11, CHAT, &chat("alias"));
    assert!(rig.host.request(11).answer.is_none());
}

#[test]
fn a_lost_controller_is_tried_again_and_met_with_what_is_held() {
    let mut rig = Rig::ready(&json!({}));
    let stream = rig.host.stream().unwrap();
    rig.host.set_controller(false);
    rig.root.on_closed(stream, 14);
    assert_eq!(
        rig.post(REQUEST, CHAT, &chat("alias")),
        Flow::Continue,
        "what is known serves"
    );
    rig.ticks(100);
    assert!(
        rig.host
            .log(Level::Warn)
            .iter()
            .any(|line| line.contains("no stream to the controller"))
    );
    rig.host.set_controller(true);
    rig.ticks(100);
    let hello = rig.sent().into_iter().next();
    let Some(from_filter::Message::Hello(hello)) = hello else {
        panic!("{hello:?}");
    };
    assert_eq!(hello.have.len(), 3);
}

#[test]
fn a_message_that_cannot_be_read_ends_the_stream_and_nothing_else() {
    let mut rig = Rig::ready(&json!({}));
    let stream = rig.host.stream().unwrap();
    rig.root.on_message(stream, b"\xff\xff\xff");
    assert_eq!(rig.host.stream(), None);
    assert_eq!(rig.post(REQUEST, CHAT, &chat("alias")), Flow::Continue);
    rig.ticks(60);
    assert!(rig.host.stream().is_some(), "another is opened");
}

#[test]
fn the_next_plugin_serves_what_this_one_left_and_leaves_damaged_state_aside() {
    let mut first = Rig::ready(&json!({}));
    first.ticks(60);
    assert_eq!(first.host.metric("kthena_state_kept_total"), 1);
    let host = first.host.clone();
    host.set_controller(false);
    let mut second = Rig::on(host.clone(), &json!({"state_wait_ms": 0}));
    assert_eq!(second.post(REQUEST, CHAT, &chat("alias")), Flow::Continue);

    let mut patient = Rig::on(host.clone(), &json!({}));
    assert_eq!(
        patient.post(REQUEST, CHAT, &chat("alias")),
        Flow::Pause,
        "the controller comes first"
    );
    patient.tick();
    assert!(host.request(REQUEST).resumed, "there is none");

    use crate::host::Host as _;
    let mut left = host.shared("kthena.state.1").unwrap();
    left[20] ^= 1;
    host.share("kthena.state.1", &left);
    let mut third = Rig::on(host.clone(), &json!({"state_wait_ms": 0}));
    assert_eq!(third.post(REQUEST, CHAT, &chat("alias")), Flow::Pause);
    assert_eq!(third.answer(REQUEST).0, 503);
    assert!(host.log(Level::Warn).iter().any(|line| line.contains("checksum")));
}

#[test]
fn a_host_that_shows_no_body_while_it_holds_the_head_is_found_out() {
    let mut rig = Rig::ready(&json!({}));
    let head = [(":method", "POST"), (":path", CHAT), (":authority", "h")];
    let total = |rig: &Rig, bytes: u64| {
        rig.host.change(REQUEST, |request| {
            let bytes = bytes.to_le_bytes().to_vec();
            request.properties.insert("request.total_size".into(), bytes);
        });
    };
    rig.host.begin(REQUEST, &head);
    total(&rig, 100);
    assert_eq!(rig.root.on_request_headers(REQUEST, false), Flow::Pause);
    rig.ticks(10);
    assert!(rig.host.request(REQUEST).answer.is_none(), "the client may be slow");
    total(&rig, 101);
    rig.ticks(1);
    assert_eq!(rig.answer(REQUEST).1["error"]["code"], "misconfigured");
    assert_eq!(rig.host.log(Level::Error).len(), 1);
}

#[test]
fn gauges_are_sums_over_vms_and_go_with_them() {
    let host = Fake::new();
    let mut vms = [Rig::on(host.clone(), &json!({})), Rig::on(host.clone(), &json!({}))];
    for rig in &mut vms {
        rig.host.set_controller(false);
        rig.post(REQUEST, CHAT, &chat("alias"));
        rig.ticks(50);
    }
    assert_eq!(host.metric("kthena_held"), 2);
    vms[0].root.on_end();
    assert_eq!(host.metric("kthena_held"), 1);
}
