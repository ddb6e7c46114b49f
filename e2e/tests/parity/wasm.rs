//! The corpus through the wasm filter, on the fake of its host. Time stands still once the state is there.

use std::collections::BTreeMap;

use kthena_scheduler::state::proto::{self, FromFilter, ToFilter, from_filter, to_filter};
use kthena_wasm_filter::config::Config;
use kthena_wasm_filter::host::Flow;
use kthena_wasm_filter::host::fake::Fake;
use kthena_wasm_filter::root::Root;
use prost::Message as _;
use serde_json::json;

use crate::outcome::{Outcome, Seen};
use crate::picture::Picture;
use crate::request::{End, Request};
use crate::{INDEX_BYTES, MAX_ENDPOINTS};

const ROOT: u32 = 1;

/// A plugin in a VM, with the state of a picture.
struct Plugin {
    host: Fake,
    root: Root<Fake>,
}

/// What becomes of the requests, in order.
pub(crate) fn run(picture: &Picture, requests: &[Request]) -> Vec<Outcome> {
    let mut plugin = Plugin::new(picture);
    let mut outcomes = Vec::new();
    let mut open = Vec::new();
    let mut waiting: Vec<_> = Vec::new();
    for (id, request) in (10..).zip(requests).take_while(|(_, request)| request.early) {
        waiting.push(plugin.show(id, request));
        assert!(plugin.host.request(id).answer.is_some() || waiting.ends_with(&[Flow::Pause]));
    }
    if picture.has_state() {
        plugin.subscribe(picture.update());
    }
    let mut waiting = waiting.into_iter();
    for (id, request) in (10..).zip(requests) {
        let flow = match waiting.next() {
            // What waited was let go when the state came.
            Some(_) if plugin.host.request(id).resumed => Flow::Continue,
            Some(flow) => flow,
            None => plugin.show(id, request),
        };
        outcomes.push(plugin.finish(id, request, flow));
        match request.stays {
            true => open.push(id),
            false => plugin.root.on_done(id),
        }
    }
    open.into_iter().for_each(|id| plugin.root.on_done(id));
    outcomes
}

impl Plugin {
    fn new(picture: &Picture) -> Self {
        let operator = &picture.settings;
        let saturated = if operator.reject_when_saturated {
            "reject"
        } else {
            "serve"
        };
        let configuration = json!({
            "explain": operator.explain,
            "hosts": operator.hosts,
            "when_saturated": saturated,
            "max_body_bytes": operator.max_body_bytes,
            "state_wait_ms": operator.state_wait_ms,
            "prefix_index_bytes": INDEX_BYTES,
            "max_endpoints": MAX_ENDPOINTS,
        });
        let host = Fake::new();
        let config = Config::parse(configuration.to_string().as_bytes()).unwrap();
        let root = Root::new(host.clone(), ROOT, config);
        Self { host, root }
    }

    /// A VM subscribes when it serves its first request, which here is none of the corpus'.
    fn subscribe(&mut self, update: proto::Update) {
        let first = 2;
        self.host
            .begin(first, &[(":method", "GET"), (":path", "/"), (":authority", "a")]);
        assert_eq!(self.root.on_request_headers(first, true), Flow::Continue);
        self.root.on_done(first);
        self.host.pass(20);
        self.root.on_tick();
        self.hear(to_filter::Message::Welcome(proto::Welcome::default()));
        self.host.take_sent();
        self.hear(to_filter::Message::Update(update));
        let refused: Vec<_> = self.sent().into_iter().filter_map(refusals).flatten().collect();
        assert!(refused.is_empty(), "{refused:?}");
        assert!(self.root.snapshot().is_some());
    }

    fn hear(&mut self, message: to_filter::Message) {
        let message = ToFilter {
            message: Some(message),
            echoes: Vec::new(),
        };
        let stream = self.host.stream().unwrap();
        self.root.on_message(stream, &message.encode_to_vec());
    }

    fn sent(&self) -> Vec<from_filter::Message> {
        let sent = self.host.take_sent();
        let decoded = sent.iter().map(|bytes| FromFilter::decode(bytes.as_slice()).unwrap());
        decoded.filter_map(|message| message.message).collect()
    }

    /// Shows a whole request.
    fn show(&mut self, id: u32, request: &Request) -> Flow {
        let head = request.head();
        let pairs: Vec<_> = head
            .iter()
            .map(|(name, value)| (name.as_str(), value.as_str()))
            .collect();
        self.host.begin(id, &pairs);
        let flow = self.root.on_request_headers(id, request.is_head_only());
        match request.is_head_only() {
            true => flow,
            false => self.send_body(id, request, flow),
        }
    }

    /// Answers a request where it goes on, and sees what became of it.
    fn finish(&mut self, id: u32, request: &Request, flow: Flow) -> Outcome {
        let mut seen = Seen::default();
        if flow == Flow::Continue {
            self.host.change(id, |request| {
                request.response_headers.insert(":status".into(), "200".into());
            });
            self.root.on_response_headers(id, !request.stays);
            let mut headers = self.host.request(id).response_headers;
            headers.remove(":status");
            seen.response_headers = headers;
        }
        let after = self.host.request(id);
        let text = |(name, value): (String, Vec<u8>)| (name, String::from_utf8(value).unwrap());
        seen.answer = after
            .answer
            .map(|(status, headers, body)| (status, headers.into_iter().collect(), body));
        if seen.answer.is_none() {
            assert_eq!(flow, Flow::Continue, "{}: it hangs", request.name);
            let head: BTreeMap<_, _> = after.headers.into_iter().map(text).collect();
            // Envoy follows the header of the cluster only when it is told to look at the route again.
            assert!(after.rerouted || head.get("x-kthena-cluster") == request.headers.get("x-kthena-cluster"));
            seen.head = Some(head);
        }
        seen.body = after.body;
        let facts = after.facts.into_iter();
        seen.facts = facts
            .filter_map(|(name, value)| Some((name.strip_prefix("kthena.")?.to_owned(), value)))
            .collect();
        Outcome::of(&request.head(), &request.body.bytes(), seen)
    }

    /// Shows the body as a host does: what has come so far, again and again. An answered request has no more events.
    fn send_body(&mut self, id: u32, request: &Request, mut flow: Flow) -> Flow {
        let mut pieces: Vec<Vec<u8>> = request.pieces();
        if request.end == End::Empty {
            pieces.push(Vec::new());
        }
        let last = pieces.len() - 1;
        for (number, piece) in pieces.into_iter().enumerate() {
            if self.host.request(id).answer.is_some() {
                return flow;
            }
            let end = number == last && request.end != End::Trailers;
            self.host.change(id, |request| request.body.extend_from_slice(&piece));
            let bytes = self.host.request(id).body.len();
            flow = self.root.on_request_body(id, bytes, end);
        }
        if request.end == End::Trailers && self.host.request(id).answer.is_none() {
            flow = self.root.on_request_trailers(id);
        }
        flow
    }
}

fn refusals(message: from_filter::Message) -> Option<Vec<proto::Refusal>> {
    match message {
        from_filter::Message::Ack(ack) => Some(ack.refused),
        _ => None,
    }
}
