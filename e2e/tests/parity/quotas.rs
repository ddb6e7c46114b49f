//! What the corpus must hold to be worth anything, counted from its files.

use std::collections::{BTreeMap, BTreeSet};

use serde_json::Value;

use crate::corpus::{self, Entry};
use crate::documented::{OURS, documented};
use crate::generate::forms;
use crate::is_generating;
use crate::picture::Picture;
use crate::places::{Place, places};
use crate::request::{Cuts, End, Request};

/// All entries, by picture.
fn all() -> Vec<(&'static str, Vec<Entry>)> {
    corpus::PICTURES.map(|picture| (picture, corpus::read(picture))).into()
}

fn count(of: &[(&str, Vec<Entry>)], has: impl Fn(&Entry, &Value) -> bool) -> usize {
    let entries = of.iter().flat_map(|(_, entries)| entries);
    entries.filter(|entry| has(entry, &entry.got())).count()
}

fn header<'a>(request: &'a Request, name: &str) -> Option<&'a str> {
    request.headers.get(name).map(String::as_str)
}

#[test]
fn it_is_large_and_mostly_answered_200() {
    if is_generating() {
        return;
    }
    let all = all();
    let requests = count(&all, |_, _| true);
    let good = count(&all, |_, got| got["status"] == 200);
    assert!(requests >= 500, "{requests} requests");
    assert!(good * 100 >= requests * 60, "{good} of {requests} are answered 200");
    assert!(all.len() >= 5, "several pictures");
    let names: BTreeSet<_> = all
        .iter()
        .flat_map(|(picture, entries)| entries.iter().map(move |entry| (picture, &entry.request.name)))
        .collect();
    assert_eq!(names.len(), requests, "a name is used twice");
}

#[test]
fn at_least_three_endpoints_serve_in_each_picture() {
    if is_generating() {
        return;
    }
    for (picture, entries) in all() {
        let first = |entry: &Entry| Some(entry.got()["endpoints"].as_str()?.split(',').next()?.to_owned());
        let used: BTreeSet<_> = entries.iter().filter_map(first).collect();
        let least = if Picture::read(picture).has_state() { 3 } else { 0 };
        assert!(used.len() >= least, "{picture}: {used:?}");
    }
}

/// Rows for what only one of the shells can be: stories of its own tell them.
const OF_ONE_SHELL: [&str; 1] = ["the wasm filter with `hold: off`, and the head names no model"];

#[test]
fn every_row_of_the_table_of_errors_is_told_in_both_forms() {
    if is_generating() {
        return;
    }
    let all = all();
    let rows = documented(OURS);
    for row in OF_ONE_SHELL {
        assert!(rows.contains_key(row), "the table has lost: {row}");
    }
    for row in rows.keys().filter(|row| !OF_ONE_SHELL.contains(&row.as_str())) {
        for is_messages in [false, true] {
            let told = count(&all, |entry, got| {
                let in_form = (entry.request.path == "/v1/messages") == is_messages;
                entry.request.row.as_ref() == Some(row) && in_form && got["status"] != 200
            });
            assert!(told > 0, "{row}, messages: {is_messages}");
        }
    }
}

#[test]
fn every_form_of_prompt_is_served_on_its_path() {
    if is_generating() {
        return;
    }
    let all = all();
    for form in forms() {
        let begins = |entry: &Entry| {
            entry
                .request
                .name
                .split_once(' ')
                .unwrap()
                .1
                .starts_with(&format!("{},", form.name))
        };
        let served = count(&all, |entry, got| {
            begins(entry) && entry.request.path == form.path && got["cluster"].is_string()
        });
        assert!(served >= 3, "{}: {served}", form.name);
    }
}

#[test]
fn every_kind_of_thing_happens() {
    if is_generating() {
        return;
    }
    let all = all();
    type Happens = fn(&Request, &Value) -> bool;
    let model_of = |got: &Value| got["facts"]["model_name"].as_str().unwrap_or_default().to_owned();
    let kinds: [(&str, usize, Happens); 19] = [
        ("an alias rewritten", 100, |_, got| {
            got["facts"]["upstream_model"].is_string()
        }),
        ("a name that stays", 30, |_, got| {
            got["cluster"].is_string() && got["body"].is_null()
        }),
        ("an explanation", 80, |_, got| got["explanation"].is_object()),
        (
            "an explanation that nobody asked for is not there",
            80,
            |request, got| {
                header(request, "x-kthena-explain").is_none()
                    && got["explanation"].is_null()
                    && got["cluster"].is_string()
            },
        ),
        ("an explanation that the operator does not give", 20, |request, got| {
            header(request, "x-kthena-explain").is_some() && got["explanation"].is_null() && got["cluster"].is_string()
        }),
        ("a prompt that is held somewhere", 20, |_, got| {
            got["explanation"]["matched_blocks"]
                .as_u64()
                .is_some_and(|blocks| blocks > 0)
        }),
        ("a saturated ModelServer that serves", 10, |_, got| {
            got["explanation"]["saturated"] == true
        }),
        ("an endpoint filtered out", 20, |_, got| {
            got["explanation"]["filtered"]
                .as_object()
                .is_some_and(|filtered| !filtered.is_empty())
        }),
        ("the list of models", 6, |request, got| {
            request.path.trim_end_matches('/') == "/v1/models" && got["status"] == 200
        }),
        ("one model", 6, |request, got| {
            request.path.starts_with("/v1/models/") && got["answer"]["object"] == "model"
        }),
        ("a model that is not there", 2, |request, got| {
            request.path.starts_with("/v1/models/") && got["status"] == 404
        }),
        ("what is not ours", 12, |_, got| got["status"] == 0),
        ("a control header taken away", 8, |_, got| {
            got["headers"]
                .as_object()
                .is_some_and(|headers| headers.values().any(Value::is_null))
        }),
        ("an identifier made", 3, |_, got| {
            got["headers"]["x-request-id"].is_string()
        }),
        ("a request that stays", 15, |request, got| {
            request.stays && got["cluster"].is_string()
        }),
        ("a request that waits for the first state", 2, |request, got| {
            request.early && got["cluster"].is_string()
        }),
        ("trailers", 50, |request, got| {
            request.end == End::Trailers && got["cluster"].is_string()
        }),
        ("an end by itself", 50, |request, got| {
            request.end == End::Empty && got["cluster"].is_string()
        }),
        ("a large body", 4, |_, got| {
            got["body"]["bytes"].as_u64().is_some_and(|bytes| bytes > 65_536)
        }),
    ];
    for (what, least, happens) in kinds {
        let happened = count(&all, |entry, got| happens(&entry.request, got));
        assert!(happened >= least, "{what}: {happened}");
    }
    for adapter in ["sql-lora", "org/rust-lora", "adapter-a"] {
        let served = count(&all, |_, got| model_of(got) == adapter && got["cluster"].is_string());
        assert!(served >= 3, "{adapter}: {served}");
    }
    let mut servers = BTreeMap::new();
    for (_, entries) in all.iter().filter(|(picture, _)| *picture == "rules") {
        for got in entries.iter().map(Entry::got) {
            *servers.entry(got["facts"]["model_server"].to_string()).or_insert(0) += 1;
        }
    }
    for server in ["small", "large", "vision", "canary"] {
        assert!(servers[&format!("\"default/{server}\"")] >= 5, "{servers:?}");
    }
}

#[test]
fn bodies_are_cut_at_every_awkward_place() {
    if is_generating() {
        return;
    }
    let mut seen = BTreeMap::new();
    for entry in all().into_iter().flat_map(|(_, entries)| entries) {
        let Cuts::At(cuts) = &entry.request.cuts else { continue };
        let places = places(&entry.request.body.bytes());
        // A body that is refused half-way proves little.
        if entry.got()["cluster"].is_string() {
            cuts.iter().for_each(|at| *seen.entry(places[at - 1]).or_insert(0) += 1);
        }
    }
    for place in Place::ALL {
        let cuts = seen.get(&place).copied().unwrap_or(0);
        assert!(cuts >= 5, "{place:?}: {cuts}");
    }
    let all = all();
    for size in 1..=3 {
        let cut = count(&all, |entry, got| {
            entry.request.cuts == Cuts::Every(size) && got["cluster"].is_string()
        });
        assert!(cut >= 3, "every {size}: {cut}");
    }
}

#[test]
fn places_are_told_apart() {
    let body = br#"{"model":"a","x":[-1.5,true,"\n\ud83d\ude00"]}"#;
    let at = |text: &str, after: usize| {
        let start = body.windows(text.len()).position(|window| window == text.as_bytes());
        places(body)[start.unwrap() + after - 1]
    };
    assert_eq!(at("\"model\"", 3), Place::Name);
    assert_eq!(at("\"a\"", 1), Place::Model);
    assert_eq!(at("-1.5", 2), Place::Number);
    assert_eq!(at("-1.5", 4), Place::Structure);
    assert_eq!(at("true", 1), Place::Literal);
    assert_eq!(at("\\n", 1), Place::Escape);
    assert_eq!(at("\\ud83d", 1), Place::Escape);
    assert_eq!(at("\\ud83d", 3), Place::Digits);
    assert_eq!(at("\\ud83d", 6), Place::Surrogates);
    assert_eq!(at("\\ude00", 6), Place::Text);
    assert_eq!(places("\"é\"".as_bytes()), [Place::Text, Place::Character, Place::Text]);
}
