//! Stories of a conversation: which replies Envoy gets, and when, in each body mode.

use std::num::NonZeroU32;
use std::sync::Arc;

use bytes::Bytes;
use kthena_scheduler::exchange::{Context, RequestHead, Settings, World};
use kthena_scheduler::load::Fleet;
use kthena_scheduler::pick::Scratch;
use kthena_scheduler::prefix::{IndexConfig, PrefixIndex};
use kthena_scheduler::profile::Profile;
use kthena_scheduler::routing::{Backend, ModelRoute, RouteTable, Rule, Targets};
use kthena_scheduler::snapshot::{Endpoint, EndpointId, Engine, ModelServer, Retry, Snapshot};
use kthena_scheduler::time::Time;

use super::conversation::{Conversation, News};
use crate::wire::message::{Mutation, Reply};
use crate::wire::{Body, BodyMode, Event, Modes, Replies};

const BODY: &str = r#"{"model":"alias","messages":[{"role":"user","content":"hi"}]}"#;
const REWRITTEN: &str = r#"{"model":"served","messages":[{"role":"user","content":"hi"}]}"#;

/// One conversation in a world of one endpoint, where `alias` is served as `served`.
struct Room {
    fleet: Arc<Fleet>,
    index: PrefixIndex,
    snapshot: Option<Arc<Snapshot>>,
    settings: Settings,
    conversation: Conversation,
    news: Vec<News>,
}

impl Room {
    fn new(request: BodyMode, response: BodyMode) -> Self {
        let fleet = Fleet::new(1);
        let slot = fleet.claim().unwrap();
        let endpoint = Arc::new(Endpoint {
            id: EndpointId(1),
            address: "127.0.0.2:8000".into(),
            pod: "a/pod".into(),
            models: Vec::new(),
            kv_capacity_tokens: None,
            slot,
        });
        let server = ModelServer {
            name: "a/s".into(),
            model: Some("served".into()),
            engine: Engine::Vllm,
            cluster: "cluster".into(),
            timeout_ms: None,
            retry: Retry::default(),
            profile: Arc::new(Profile::default_profile()),
            slots: vec![endpoint.slot.index()],
            endpoints: vec![endpoint],
        };
        let rule = Rule {
            name: "".into(),
            headers: Vec::new(),
            uri: None,
            body_model: None,
            targets: Targets::new(vec![(Backend::ModelServer("a/s".into()), 1)]).unwrap(),
        };
        let route = ModelRoute {
            name: "a/r".into(),
            model_name: Some("alias".into()),
            lora_adapters: Vec::new(),
            rules: vec![rule],
            rank: 0,
        };
        let mut conversation = Conversation::default();
        conversation.learn_modes(Modes { request, response });
        Self {
            index: PrefixIndex::new(IndexConfig {
                max_bytes: 1 << 16,
                max_endpoints: 1,
            }),
            fleet,
            snapshot: Some(Arc::new(Snapshot {
                routes: RouteTable::new(vec![Arc::new(route)]),
                servers: vec![Arc::new(server)],
                block_bytes: NonZeroU32::new(64).unwrap(),
            })),
            settings: Settings::default(),
            conversation,
            news: Vec::new(),
        }
    }

    fn act(
        &mut self,
        step: impl FnOnce(&mut Conversation, &mut Context<'_>, &mut Replies, &mut Vec<News>),
    ) -> Vec<String> {
        let mut scratch = Scratch::default();
        let mut replies = Replies::default();
        let mut cx = Context {
            now: Time::from_millis(1),
            random: 1,
            settings: &self.settings,
            world: World {
                snapshot: self.snapshot.as_ref(),
                fleet: &self.fleet,
                index: &self.index,
            },
            scratch: &mut scratch,
            may_wait: true,
        };
        step(&mut self.conversation, &mut cx, &mut replies, &mut self.news);
        std::iter::from_fn(|| replies.pop())
            .filter_map(|reply| reply.response.map(|r| said(&r)))
            .collect()
    }

    fn on(&mut self, event: Event) -> Vec<String> {
        self.act(|conversation, cx, replies, news| conversation.on_event(cx, event, replies, news))
    }

    fn head(&mut self, method: &str, path: &str, end: bool) -> Vec<String> {
        let head = RequestHead {
            method: method.into(),
            path: path.into(),
            ..RequestHead::default()
        };
        self.on(Event::RequestHeaders { head, end })
    }

    fn body(&mut self, text: &str, end: bool) -> Vec<String> {
        let body = Bytes::copy_from_slice(text.as_bytes()).into();
        self.on(Event::RequestBody { body, end })
    }

    fn answer(&mut self, status: u16, content_type: &str) -> Vec<String> {
        self.on(Event::ResponseHeaders {
            status,
            content_type: content_type.into(),
            served: None,
            end: false,
        })
    }

    fn chunk(&mut self, text: &str, end: bool) -> Vec<String> {
        let body = Bytes::copy_from_slice(text.as_bytes()).into();
        self.on(Event::ResponseBody { body, end })
    }

    fn in_flight(&self) -> u32 {
        self.fleet.view(0, Time::from_millis(1)).in_flight
    }
}

/// A reply in short: which message it answers, where it routes, what it makes of the body.
fn said(response: &Reply) -> String {
    let (to, common) = match response {
        Reply::RequestHeaders(r) => ("request headers", r.response.as_ref()),
        Reply::RequestBody(r) => ("request body", r.response.as_ref()),
        Reply::ResponseHeaders(r) => ("response headers", r.response.as_ref()),
        Reply::ResponseBody(r) => ("response body", r.response.as_ref()),
        Reply::RequestTrailers(_) => ("request trailers", None),
        Reply::ResponseTrailers(_) => ("response trailers", None),
        Reply::Immediate(r) => return format!("reply {}", r.status.as_ref().map_or(0, |s| s.code)),
    };
    let mut said = to.to_owned();
    let headers = common
        .and_then(|c| c.header_mutation.as_ref())
        .map(|m| m.set_headers.as_slice())
        .unwrap_or_default();
    for header in headers
        .iter()
        .filter_map(|h| h.header.as_ref())
        .filter(|h| h.key == "x-kthena-cluster")
    {
        said += &format!(" -> {}", String::from_utf8_lossy(&header.raw_value));
    }
    let text = |body: &Body| String::from_utf8_lossy(&body.clone().into_bytes()).into_owned();
    match common.and_then(|c| c.body_mutation.as_ref()) {
        Some(Mutation::Body(bytes)) => said += &format!(" = {}", text(bytes)),
        Some(Mutation::StreamedResponse(piece)) => {
            said += &format!(" + {}", text(&piece.body));
            said += if piece.end_of_stream { " end" } else { "" };
        }
        _ => {}
    }
    said
}

const CHAT: &str = "/v1/chat/completions";

#[test]
fn buffered_the_head_goes_on_and_the_decision_comes_with_the_body() {
    let mut room = Room::new(BodyMode::Buffered, BodyMode::None);
    assert_eq!(room.head("POST", CHAT, false), ["request headers"]);
    assert_eq!(
        room.body(BODY, true),
        [format!("request body -> cluster = {REWRITTEN}")]
    );
    assert_eq!(room.in_flight(), 1);
    room.act(|conversation, cx, _, news| conversation.on_end(cx, news));
    assert_eq!(room.in_flight(), 0);
    assert!(matches!(room.news.last(), Some(News::Settled)));
}

#[test]
fn full_duplex_the_head_waits_and_the_body_follows_it_once() {
    let mut room = Room::new(BodyMode::FullDuplex, BodyMode::None);
    assert!(room.head("POST", CHAT, false).is_empty());
    assert!(room.body(&BODY[..20], false).is_empty());
    let decided = room.body(&BODY[20..], true);
    assert_eq!(
        decided,
        [
            "request headers -> cluster".to_owned(),
            format!("request body + {REWRITTEN} end")
        ]
    );
    assert!(
        room.body(&BODY[20..], true).is_empty(),
        "an Envoy that doubles the end gets it once"
    );
}

#[test]
fn full_duplex_with_trailers_the_end_comes_with_them() {
    let mut room = Room::new(BodyMode::FullDuplex, BodyMode::None);
    room.head("POST", CHAT, false);
    room.body(BODY, false);
    let decided = room.on(Event::RequestTrailers);
    let body = format!("request body + {REWRITTEN}");
    assert_eq!(
        decided,
        [
            "request headers -> cluster".to_owned(),
            body,
            "request trailers".to_owned()
        ]
    );
}

#[test]
fn buffered_with_trailers_the_body_is_whole_before_they_come() {
    let mut room = Room::new(BodyMode::Buffered, BodyMode::None);
    room.head("POST", CHAT, false);
    assert_eq!(
        room.body(BODY, false),
        [format!("request body -> cluster = {REWRITTEN}")]
    );
    assert_eq!(room.on(Event::RequestTrailers), ["request trailers"]);
}

#[test]
fn an_answer_that_ends_with_trailers_is_at_its_end() {
    let mut room = Room::new(BodyMode::Buffered, BodyMode::FullDuplex);
    room.head("POST", CHAT, false);
    room.body(BODY, true);
    room.answer(200, "application/json");
    assert_eq!(
        room.chunk("{\"usage\":{\"prompt_tokens\":3}}", false),
        ["response body + {\"usage\":{\"prompt_tokens\":3}}"]
    );
    assert_eq!(room.in_flight(), 1);
    assert_eq!(room.on(Event::ResponseTrailers), ["response trailers"]);
    assert_eq!(room.in_flight(), 0);
    assert_eq!(room.conversation.exchange().record().usage.input_tokens, Some(3));
}

#[test]
fn what_is_not_ours_passes_in_either_mode() {
    let mut room = Room::new(BodyMode::Buffered, BodyMode::None);
    assert_eq!(room.head("POST", "/upload", false), ["request headers"]);
    assert_eq!(room.body("x", true), ["request body"]);
    let mut room = Room::new(BodyMode::FullDuplex, BodyMode::FullDuplex);
    assert_eq!(room.head("POST", "/upload", false), ["request headers"]);
    assert_eq!(room.body("x", false), ["request body + x"]);
    assert_eq!(room.body("", true), ["request body +  end"]);
    assert_eq!(room.answer(200, "text/plain"), ["response headers"]);
    assert_eq!(room.chunk("y", true), ["response body + y end"]);
}

#[test]
fn modes_in_which_we_cannot_decide_are_said_to_be_misconfigured() {
    for mode in [BodyMode::None, BodyMode::Streamed, BodyMode::Partial] {
        let mut room = Room::new(mode, BodyMode::None);
        assert_eq!(room.head("POST", CHAT, false), ["reply 500"], "{mode:?}");
    }
}

#[test]
fn a_bad_body_is_answered_at_once_and_what_still_comes_is_ignored() {
    let mut room = Room::new(BodyMode::FullDuplex, BodyMode::None);
    room.head("POST", CHAT, false);
    assert_eq!(room.body("{]", false), ["reply 400"]);
    assert!(room.body("more", true).is_empty());
}

#[test]
fn a_held_request_goes_on_when_state_comes() {
    for (mode, held_reply, decided) in [
        (
            BodyMode::Buffered,
            vec!["request headers"],
            vec![format!("request body -> cluster = {REWRITTEN}")],
        ),
        (
            BodyMode::FullDuplex,
            vec![],
            vec![
                "request headers -> cluster".to_owned(),
                format!("request body + {REWRITTEN} end"),
            ],
        ),
    ] {
        let mut room = Room::new(mode, BodyMode::None);
        let snapshot = room.snapshot.take();
        assert_eq!(room.head("POST", CHAT, false), held_reply);
        assert!(room.body(BODY, true).is_empty());
        assert!(room.news.iter().any(|news| matches!(news, News::WakeAt(_))));
        room.snapshot = snapshot;
        let woken = room.act(|conversation, cx, replies, news| conversation.on_wake(cx, replies, news));
        assert_eq!(woken, decided);
    }
}

#[test]
fn usage_that_we_asked_for_is_read_and_withheld() {
    for (mode, prefix, suffix) in [
        (BodyMode::Streamed, "response body = ", ""),
        (BodyMode::FullDuplex, "response body + ", " end"),
    ] {
        let mut room = Room::new(BodyMode::Buffered, mode);
        room.settings.usage_injection = true;
        room.head("POST", CHAT, false);
        let streamed = BODY.replace("]}", "],\"stream\":true}");
        assert!(room.body(&streamed, true)[0].contains("include_usage"));
        room.answer(200, "text/event-stream");
        let usage = "data: {\"choices\":[],\"usage\":{\"prompt_tokens\":3,\"completion_tokens\":4}}\n\n";
        let text = format!("data: {{\"choices\":[{{}}]}}\n\n{usage}data: [DONE]\n\n");
        let kept = text.replace(usage, "");
        assert_eq!(room.chunk(&text, true), [format!("{prefix}{kept}{suffix}")]);
        let usage = room.conversation.exchange().record().usage;
        assert_eq!((usage.input_tokens, usage.output_tokens), (Some(3), Some(4)));
        assert_eq!(room.in_flight(), 0);
    }
}

#[test]
fn usage_that_could_not_be_withheld_is_not_asked_for() {
    for mode in [BodyMode::Buffered, BodyMode::FullDuplex] {
        let mut room = Room::new(mode, BodyMode::None);
        room.settings.usage_injection = true;
        room.head("POST", CHAT, false);
        let streamed = BODY.replace("]}", "],\"stream\":true}");
        let decided = room.body(&streamed, true).concat();
        assert!(decided.contains("-> cluster"), "{decided}");
        assert!(!decided.contains("include_usage"), "{decided}");
    }
}
