//! A story for each picture.

use super::maker::Maker;
use crate::places::{Place, places};
use crate::request::{Body, Cuts, End, Part, Request};

const CHAT: &str = "/v1/chat/completions";
const MESSAGES: &str = "/v1/messages";

/// The requests of a picture.
pub(crate) fn requests(picture: &'static str) -> Vec<Request> {
    let mut maker = Maker::new(picture);
    match picture {
        "everyday" => everyday(&mut maker),
        "busy" => busy(&mut maker),
        "rules" => rules(&mut maker),
        "strict" => strict(&mut maker),
        "crowded" => crowded(&mut maker),
        "nothing" => nothing(&mut maker),
        _ => panic!("no story for {picture}"),
    }
    maker.finish()
}

/// Every form of prompt for every kind of name, conversations, odd bodies, lists of models, and what is not ours.
fn everyday(maker: &mut Maker) {
    let models = ["assistant", "coder", "sql-lora", "embedder", "odd/名前"];
    for form in 0..maker.forms() {
        for model in [models[form % models.len()], models[(form / 2 + 1) % models.len()]] {
            let request = maker.infer(form, model);
            maker.add(request);
        }
    }
    maker.conversations(&["assistant", "coder", "org/rust-lora"], 6, 5);
    odd_bodies(maker);
    lists(
        maker,
        &[
            "assistant",
            "org/rust-lora",
            "org%2Frust-lora",
            "odd%2F%E5%90%8D%E5%89%8D",
        ],
    );
    passing(maker);
    forged(maker);
    without_id(maker);
    maker.refused("assistant");
}

/// The same names while some pods are loaded, down, full or slow; some requests stay.
fn busy(maker: &mut Maker) {
    early(maker);
    for round in 0..3 {
        for form in (round..maker.forms()).step_by(2) {
            let model = *maker
                .draws
                .one(&["assistant", "coder", "sql-lora", "org/rust-lora", "embedder"]);
            let mut request = maker.infer(form, model);
            request.stays = maker.draws.percent(15);
            if maker.draws.percent(50) {
                request.headers.insert("x-kthena-explain".to_owned(), "1".to_owned());
            }
            maker.add(request);
        }
    }
    maker.conversations(&["assistant", "sql-lora"], 5, 5);
}

/// Requests that are there before the filter has any state.
fn early(maker: &mut Maker) {
    let first = [
        maker.infer(0, "assistant"),
        maker.infer(12, "sql-lora"),
        maker.infer(27, "nobody-has-it"),
    ];
    let list = maker.plain("models: /v1/models", "GET", "/v1/models");
    let mut broken = maker.post("refused: broken, and no state", CHAT, "{]");
    broken.row = Some("the body is not JSON".to_owned());
    for request in first.into_iter().chain([list, broken]) {
        let name = format!("{}, early", request.name);
        maker.add(Request {
            name,
            early: true,
            ..request
        });
    }
}

/// Rules by header, path and model, weights, several routes of one name, and routes that lead nowhere.
fn rules(maker: &mut Maker) {
    let tags = [
        ("x-user", "beta-9"),
        ("x-tier", "premium"),
        ("x-tier", "Premium"),
        ("x-user", "beta-7"),
        ("x-user", "alpha"),
        ("x-team", "red-12"),
        ("x-team", "our red-12 team"),
        ("accept", "*/*"),
    ];
    for form in 0..maker.forms() {
        let (name, value) = *maker.draws.one(&tags);
        let model = *maker.draws.one(&["router", "router", "shared", "split", "adapter-a"]);
        let mut request = maker.infer(form, model);
        request.name = format!("{}, {name}: {value}", request.name);
        request.headers.insert(name.to_owned(), value.to_owned());
        maker.add(request);
    }
    for (form, (name, value)) in tags.into_iter().enumerate() {
        for model in ["router", "router", "shared"] {
            let mut request = maker.infer(form, model);
            request.name = format!("{}, {name}: {value}", request.name);
            request.headers.insert(name.to_owned(), value.to_owned());
            maker.add(request);
        }
    }
    for _ in 0..16 {
        let request = maker.infer(0, "split");
        maker.add(request);
    }
    for path in [
        CHAT,
        "/v1/chat/completions?a=b",
        MESSAGES,
        "/v1/completions",
        "/v1/chat/completions/",
    ] {
        let body = r#"{"model":"only-chat","messages":[{"role":"user","content":"x"}],"prompt":"y"}"#;
        let mut request = maker.post(&format!("only-chat, {path}"), path, body);
        request.row = (!path.starts_with(CHAT) || path.ends_with('/'))
            .then(|| "no rule of the model's ModelRoutes holds".to_owned());
        maker.add(request);
    }
    leads_nowhere(maker);
    lists(maker, &["router", "only-chat", "adapter-a"]);
}

fn leads_nowhere(maker: &mut Maker) {
    let rows = [
        ("the route leads to an external provider", "external"),
        ("the ModelServer does not exist", "missing"),
        ("the ModelServer has no endpoint", "nobody"),
    ];
    for (row, model) in rows {
        for path in [CHAT, MESSAGES, "/v1/rerank"] {
            let body = format!(r#"{{"messages":[{{"role":"user","content":"x"}}],"model":"{model}"}}"#);
            let request = maker.post(&format!("refused: {row}, {path}"), path, body);
            maker.add_refused(row, request);
        }
    }
    for _ in 0..6 {
        let request = maker.infer(0, "partly-external");
        maker.add(request);
    }
}

/// Only some hosts, small bodies, no explanations; a ModelServer that is saturated, and one that is not.
fn strict(maker: &mut Maker) {
    for form in 0..maker.forms() {
        let mut request = maker.infer(form, "free");
        request.host = (*maker.draws.one(&["llm.example", "LLM.example:8080", "[::1]:80"])).to_owned();
        request.headers.insert("x-kthena-explain".to_owned(), "1".to_owned());
        maker.add(request);
    }
    for path in [CHAT, MESSAGES, CHAT] {
        let body = r#"{"model":"full","messages":[{"role":"user","content":"x"}]}"#;
        let row = "every endpoint is saturated, and `--when-saturated reject`";
        let request = maker.post(&format!("refused: saturated, {path}"), path, body);
        maker.add_refused(row, request);
    }
    for (what, host) in [
        ("another host", "other.example"),
        ("no host", ""),
        ("a longer host", "llm.example.org"),
    ] {
        let mut request = maker.infer(0, "free");
        request.name = format!("passes: {what}");
        request.host = host.to_owned();
        maker.add(request);
    }
    let mut list = maker.plain("passes: models of another host", "GET", "/v1/models");
    list.host = "other.example".to_owned();
    maker.add(list);
    for path in [CHAT, MESSAGES] {
        for (what, size, row) in [
            ("as large as may be", 4_096, None),
            ("one byte too large", 4_097, Some("the body is too large")),
        ] {
            let mut request = maker.post(&format!("{what}, {path}"), path, filled("free", size));
            request.row = row.map(str::to_owned);
            maker.cut(&mut request);
            maker.add(request);
        }
    }
    let broken = format!("{}{}", r#"{"model":"free",,"#, " ".repeat(5_000));
    let request = maker.post("refused: broken first, and too large after", CHAT, broken);
    maker.add_refused("the body is not JSON", request);
    let request = maker.post(
        "refused: too large first, and broken after",
        CHAT,
        format!("{}]", filled("free", 4_200)),
    );
    maker.add_refused("the body is too large", request);
    lists(maker, &["free", "full"]);
}

/// A chat of exactly so many bytes.
fn filled(model: &str, size: usize) -> String {
    let (head, tail) = (
        r#"{"messages":[{"role":"user","content":""#,
        format!(r#""}}],"model":"{model}"}}"#),
    );
    format!("{head}{}{tail}", "a".repeat(size - head.len() - tail.len()))
}

/// Every pod is saturated, or down, and yet serves.
fn crowded(maker: &mut Maker) {
    for form in (0..maker.forms()).step_by(2) {
        let model = *maker.draws.one(&["full", "full", "down"]);
        let mut request = maker.infer(form, model);
        request.headers.insert("x-kthena-explain".to_owned(), "1".to_owned());
        request.stays = maker.draws.percent(30);
        maker.add(request);
    }
}

/// A filter that has never heard from its controller.
fn nothing(maker: &mut Maker) {
    let row = "no state from the controller within `--state-wait`";
    for path in [CHAT, MESSAGES, "/v1/embeddings"] {
        let body = r#"{"model":"assistant","messages":[{"role":"user","content":"x"}],"input":"x"}"#;
        let request = maker.post(&format!("refused: no state, {path}"), path, body);
        maker.add_refused(row, request);
    }
    let mut list = maker.plain("refused: no state, the list of models", "GET", "/v1/models");
    list.row = Some(row.to_owned());
    maker.add(list);
    let request = maker.post("refused: broken, and no state", CHAT, "{");
    maker.add_refused("the body is not JSON", request);
    let request = maker.post("passes: no state", "/v2/chat", "{}");
    maker.add(request);
}

/// Bodies that are odd, and served.
fn odd_bodies(maker: &mut Maker) {
    for (what, body) in [
        (
            "a model in disguise",
            r#"{"\u006dodel":"\u0061ssist\u0061nt","messages":[{"role":"user","content":"x"}]}"#,
        ),
        (
            "half of a surrogate pair",
            r#"{"model":"assistant","messages":[{"role":"user","content":"\ud83d \ude00"}]}"#,
        ),
        (
            "other names given twice",
            r#"{"n":1,"model":"assistant","n":2,"messages":[{"role":"user","content":"x"}],"n":3}"#,
        ),
        (
            "numbers of all kinds",
            r#"{"a":-0,"b":1E+400,"c":0.10000000000000000001,"model":"assistant","messages":[{"role":"user","content":1.50e-3},{"role":"user","content":"x"}]}"#,
        ),
        (
            "white space all over",
            "\r\n { \"model\" :\t\"assistant\" ,\n\"messages\" : [ { \"role\" : \"user\" , \"content\" : \"x\" } ] } \n",
        ),
        (
            "the name that engines know",
            r#"{"model":"meta-llama/Llama-3.1-8B-Instruct","messages":[{"role":"user","content":"x"}]}"#,
        ),
        (
            "a name with spaces around it",
            r#"{"model":" assistant ","messages":[{"role":"user","content":"x"}]}"#,
        ),
        (
            "an empty name",
            r#"{"":0,"model":"assistant","messages":[{"role":"user","content":"x"}]}"#,
        ),
    ] {
        for every in [0, 1, 2, 3] {
            let mut request = maker.post(&format!("odd: {what}, cut every {every}"), CHAT, body);
            request.cuts = if every == 0 { Cuts::None } else { Cuts::Every(every) };
            maker.add(request);
        }
    }
    let all = r#"{"n":[-1.5e+3,12],"x":true,"messages":[{"role":"user","content":"a\n\ud83d\ude00 é東\ud83d\ude80"}],"model":"odd/名前"}"#;
    for place in Place::ALL {
        let mut request = maker.post(&format!("odd: cut at every place of the kind {place:?}"), CHAT, all);
        let found = places(all.as_bytes()).into_iter().zip(1..);
        request.cuts = Cuts::At(found.filter(|(kind, _)| *kind == place).map(|(_, at)| at).collect());
        maker.add(request);
    }
    for (kilobytes, cut) in [(70, 65_536), (70, 1_000), (300, 65_536), (1_100, 16_384)] {
        let mut request = maker.post(
            &format!("large: {kilobytes} kB, the model last, cut every {cut}"),
            CHAT,
            "",
        );
        let text = |text: &str| Part::Text(text.to_owned());
        let filling = Part::Repeat {
            repeat: "0123456789 né\\u00e9".to_owned(),
            times: kilobytes * 1_000 / 20,
        };
        request.body = Body::Recipe(vec![
            text(r#"{"messages":[{"role":"user","content":""#),
            filling,
            text(r#""}],"model":"assistant","stream":true}"#),
        ]);
        request.cuts = Cuts::Every(cut);
        request.headers.insert("x-kthena-explain".to_owned(), "1".to_owned());
        maker.add(request);
    }
}

fn lists(maker: &mut Maker, known: &[&str]) {
    for path in ["/v1/models", "/v1/models/", "/v1/models?limit=1"] {
        let request = maker.plain(&format!("models: {path}"), "GET", path);
        maker.add(request);
    }
    for name in known {
        let request = maker.plain(&format!("models: {name}"), "GET", &format!("/v1/models/{name}"));
        maker.add(request);
    }
    let mut request = maker.plain("refused: a model that is not there", "GET", "/v1/models/gpt-9");
    request.row = Some("no ModelRoute for the model".to_owned());
    maker.add(request);
}

/// What is not ours goes on as it came.
fn passing(maker: &mut Maker) {
    for (method, path) in [
        ("GET", "/"),
        ("GET", "/health"),
        ("GET", "/v1/chat/completions"),
        ("OPTIONS", CHAT),
        ("DELETE", "/v1/models/assistant"),
        ("HEAD", "/v1/models"),
        ("GET", "/v1/modelsx"),
    ] {
        let request = maker.plain(&format!("passes: {method} {path}"), method, path);
        maker.add(request);
    }
    for (end, path) in [(End::Last, "/v2/chat"), (End::Empty, "/upload"), (End::Trailers, "/v1")] {
        let mut request = maker.post(
            &format!("passes: POST {path}"),
            path,
            "{\"model\":\"assistant\", broken \u{7f}",
        );
        request.cuts = Cuts::At(vec![3, 9]);
        request.end = end;
        maker.add(request);
    }
    let mut request = maker.plain("passes, without control headers", "GET", "/metrics");
    forge(&mut request);
    maker.add(request);
    let mut request = maker.post(
        "passes, without control headers, with its body",
        "/upload",
        "x".repeat(50),
    );
    forge(&mut request);
    request.cuts = Cuts::Every(11);
    maker.add(request);
}

/// Control headers, which no client may set.
fn forge(request: &mut Request) {
    for (name, value) in [
        ("x-gateway-destination-endpoint", "10.9.9.9:80"),
        ("x-kthena-cluster", "model-server/default/code/8000"),
        ("x-kthena-explain", "1"),
        ("x-envoy-max-retries", "50"),
        ("x-envoy-upstream-rq-per-try-timeout-ms", "1"),
        ("x-envoy-retry-on", "5xx"),
    ] {
        request.headers.insert(name.to_owned(), value.to_owned());
    }
}

fn forged(maker: &mut Maker) {
    for (form, model) in [(0, "assistant"), (12, "coder"), (27, "embedder"), (33, "sql-lora")] {
        let mut request = maker.infer(form, model);
        request.name = format!("{}, with control headers", request.name);
        forge(&mut request);
        maker.add(request);
    }
    for name in ["x-gateway-destination-endpoint", "x-kthena-cluster", "x-envoy-retry-on"] {
        let mut request = maker.infer(0, "assistant");
        request.name = format!("{}, with {name}", request.name);
        request.headers.insert(name.to_owned(), "x".to_owned());
        maker.add(request);
    }
}

/// Without an identifier one is made, and choices are left to chance: there is only one pod to choose.
fn without_id(maker: &mut Maker) {
    for form in [0, 12, 17] {
        let mut request = maker.infer(form, "single");
        request.name = format!("{}, without an identifier", request.name);
        maker.add_without_id(request);
    }
}
