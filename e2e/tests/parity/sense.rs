//! What every outcome of the corpus must be, whatever the shells say: by the documents, by the picture, and by JSON itself.

use std::collections::BTreeSet;

use serde_json::Value;
use twox_hash::XxHash3_64;

use crate::corpus::{self, Entry};
use crate::documented::{OURS, documented};
use crate::is_generating;
use crate::picture::Picture;

/// An object of a picture by kind and name.
fn object<'a>(picture: &'a Picture, kind: &str, name: &str) -> Option<&'a Value> {
    let mut objects = picture.objects.iter();
    objects.find(|object| object["kind"] == kind && object["metadata"]["name"] == name)
}

/// The addresses of a ModelServer's pods.
fn addresses(picture: &Picture, server: &str) -> BTreeSet<String> {
    let pods = picture.objects.iter().filter(|object| object["kind"] == "Pod");
    let of = pods.filter(|pod| pod["metadata"]["labels"]["app"] == server);
    let address = |pod: &Value| {
        let ip = pod["status"]["podIP"].as_str().unwrap();
        if ip.contains(':') {
            format!("[{ip}]:8000")
        } else {
            format!("{ip}:8000")
        }
    };
    of.map(address).collect()
}

/// The body that reaches the model server, made again from what the corpus says of it.
pub(crate) fn arrives(entry: &Entry, got: &Value) -> Vec<u8> {
    let sent = entry.request.body.bytes();
    match &got["body"] {
        Value::Null => sent,
        Value::String(text) => text.clone().into_bytes(),
        large => {
            let at = large["at"].as_u64().unwrap() as usize;
            let (was, is) = (large["was"].as_str().unwrap(), large["is"].as_str().unwrap());
            assert_eq!(&sent[at..at + was.len()], was.as_bytes());
            let body = [&sent[..at], is.as_bytes(), &sent[at + was.len()..]].concat();
            assert_eq!(large["bytes"], body.len(), "more than one place was changed");
            assert_eq!(large["xxh3"], format!("{:016x}", XxHash3_64::oneshot(&body)));
            body
        }
    }
}

#[test]
fn errors_are_those_of_the_table() {
    if is_generating() {
        return;
    }
    let rows = documented(OURS);
    for entry in corpus::PICTURES.into_iter().flat_map(corpus::read) {
        let (name, got) = (&entry.request.name, entry.got());
        let status = got["status"].as_u64().unwrap();
        if status < 400 {
            assert_eq!(entry.request.row, None, "{name}: {status}");
            continue;
        }
        let is_messages = entry.request.path == "/v1/messages";
        let message = got["answer"]["error"]["message"].as_str().unwrap();
        let answer = |row: &str| {
            let (status, mut body) = rows[row].answer(is_messages, message);
            // The table has one field for all that can carry a prompt; the message names the one that is meant.
            if let Some(field) = message.split('`').nth(1)
                && body["error"]["param"] == "messages"
            {
                body["error"]["param"] = field.into();
            }
            (u64::from(status), body)
        };
        let told = (status, got["answer"].clone());
        match &entry.request.row {
            Some(row) => assert_eq!(told, answer(row), "{name}"),
            None => assert!(rows.keys().any(|row| told == answer(row)), "{name}: {told:?}"),
        }
        let headers = &got["answer_headers"];
        assert_eq!(headers["content-type"], "application/json", "{name}");
        let may_pass = [429, 503].contains(&status) && !message.starts_with("external model provider");
        assert_eq!(headers["retry-after"].is_string(), may_pass, "{name}");
    }
}

#[test]
fn a_request_goes_to_pods_of_its_model_server_with_its_tries_and_times() {
    if is_generating() {
        return;
    }
    for (picture, entry) in decided() {
        let (name, got) = (&entry.request.name, entry.got());
        let cluster = got["cluster"].as_str().unwrap();
        let server = cluster
            .trim_start_matches("model-server/default/")
            .trim_end_matches("/8000");
        assert_eq!(got["facts"]["model_server"], format!("default/{server}"), "{name}");
        let list: Vec<_> = got["endpoints"].as_str().unwrap().split(',').collect();
        let listed: BTreeSet<String> = list.iter().map(|address| (*address).to_owned()).collect();
        assert_eq!(listed.len(), list.len(), "{name}: twice in the list");
        assert!(
            (1..=5).contains(&list.len()) && listed.is_subset(&addresses(&picture, server)),
            "{name}: {list:?}"
        );

        let policy = &object(&picture, "ModelServer", server).unwrap()["spec"]["trafficPolicy"];
        let attempts = policy["retry"]["attempts"].as_u64().unwrap_or(2);
        assert_eq!(got["headers"]["x-envoy-max-retries"], attempts.to_string(), "{name}");
        let timeout = match policy["timeout"].as_str() {
            None => Value::Null,
            Some("30s") => "30000".into(),
            Some("100ms") => "100".into(),
            other => panic!("{other:?}"),
        };
        assert_eq!(
            got["headers"]["x-envoy-upstream-rq-per-try-timeout-ms"], timeout,
            "{name}"
        );
        if got["explanation"].is_object() {
            let why = &got["explanation"];
            assert_eq!(
                (&why["address"], &why["pick"]),
                (&Value::from(list[0]), &got["facts"]["selected_pod"]),
                "{name}"
            );
            assert_eq!(why["top"][0]["pod"], why["pick"], "{name}");
        }
    }
}

#[test]
fn only_the_name_of_the_model_changes() {
    if is_generating() {
        return;
    }
    let mut compared = 0;
    for (picture, entry) in decided() {
        let (name, got) = (&entry.request.name, entry.got());
        let facts = &got["facts"];
        let server = facts["model_server"].as_str().unwrap().trim_start_matches("default/");
        let served = &object(&picture, "ModelServer", server).unwrap()["spec"]["model"];
        let asked = facts["model_name"].as_str().unwrap();
        let by_adapter = picture.objects.iter().any(|object| {
            object["spec"]["loraAdapters"]
                .as_array()
                .is_some_and(|names| names.contains(&asked.into()))
        });
        let expected = if by_adapter {
            asked
        } else {
            served.as_str().unwrap_or(asked)
        };
        let told = facts["upstream_model"].as_str().unwrap_or(asked);
        assert_eq!(told, expected, "{name}");

        let after = arrives(&entry, &got);
        // What serde_json does not read, such as 1E+400 and half of a surrogate pair, is in the corpus for that very reason.
        let Ok(mut before) = serde_json::from_slice::<Value>(&entry.request.body.bytes()) else {
            continue;
        };
        assert_eq!(before["model"], asked, "{name}");
        before["model"] = expected.into();
        assert_eq!(serde_json::from_slice::<Value>(&after).unwrap(), before, "{name}");
        compared += 1;
    }
    assert!(compared > 300, "{compared}");
}

#[test]
fn rules_decide_as_they_are_written() {
    if is_generating() {
        return;
    }
    let mut seen = 0;
    for (_, entry) in decided().filter(|(picture, _)| picture.name == "rules") {
        let (request, got) = (&entry.request, entry.got());
        let header = |name: &str| request.headers.get(name).map(String::as_str).unwrap_or_default();
        let servers: &[&str] = match got["facts"]["model_name"].as_str().unwrap() {
            "router" if header("x-tier") == "premium" => &["large"],
            "router" if header("x-user").starts_with("beta-") => &["canary"],
            "router" if header("x-team") == "red-12" => &["vision"],
            "router" if request.path == "/v1/embeddings" => &["small"],
            "router" => &["small", "large"],
            "shared" if header("x-team").contains("red-12") => &["vision"],
            "shared" | "partly-external" => &["small"],
            "split" => &["small", "large", "vision"],
            "only-chat" | "adapter-a" => &["large"],
            other => panic!("{other}"),
        };
        let server = got["facts"]["model_server"]
            .as_str()
            .unwrap()
            .trim_start_matches("default/");
        assert!(servers.contains(&server), "{}: {server}", request.name);
        seen += 1;
    }
    assert!(seen > 60, "{seen}");
}

#[test]
fn what_is_not_ours_goes_on_as_it_came() {
    if is_generating() {
        return;
    }
    for entry in corpus::PICTURES.into_iter().flat_map(corpus::read) {
        let got = entry.got();
        if got["status"] != 0 {
            continue;
        }
        let only_taken = |headers: &serde_json::Map<String, Value>| headers.values().all(Value::is_null);
        assert!(
            got["headers"].as_object().is_none_or(only_taken),
            "{}",
            entry.request.name
        );
        let fields: Vec<_> = got
            .as_object()
            .unwrap()
            .keys()
            .filter(|field| *field != "headers")
            .collect();
        assert_eq!(fields, ["status"], "{}", entry.request.name);
    }
}

/// The requests that go to a model server, and the pictures they belong to.
fn decided() -> impl Iterator<Item = (Picture, Entry)> {
    corpus::PICTURES.into_iter().flat_map(|name| {
        let picture = Picture::read(name);
        let entries = corpus::read(name).into_iter();
        entries
            .filter(|entry| entry.got()["cluster"].is_string())
            .map(move |entry| (picture.clone(), entry))
    })
}
