//! Story: the ext_proc server and the wasm filter are one. Whatever a client sends, whatever the state, however a host cuts a body: both
//! choose the same endpoints in the same order, change the same bytes and say the same words.
//!
//! The corpus (`corpus/`) has pictures (`*.yaml`: all that a filter decides by) and beside each its requests, each followed by what becomes of it
//! (`*.jsonl`). Requests are made with a fixed seed, outcomes are those of both shells, compared byte for byte: `GENERATE=1` writes them again,
//! if the shells agree, and then they have to be read.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "a test helper fails by panicking"
)]

mod controller;
mod corpus;
#[path = "../faults/documented.rs"]
#[allow(dead_code, reason = "what a whole system answers is a story of `faults`")]
mod documented;
mod envoys;
mod ext_proc;
mod generate;
mod outcome;
mod picture;
mod places;
mod quotas;
mod request;
mod sense;
mod wasm;

use envoy_types::pb::envoy::extensions::filters::http::ext_proc::v3::processing_mode::BodySendMode;
pub(crate) use kthena_e2e::system::story::{CHAT, SOON, send};

use corpus::Entry;
use outcome::Outcome;
use picture::Picture;
use request::Request;

/// Sizes that both shells are given: what they forget for want of room is no part of a decision.
const INDEX_BYTES: u64 = 4 << 20;
const MAX_ENDPOINTS: u32 = 64;

/// Whether the corpus is to be written instead of compared.
fn is_generating() -> bool {
    std::env::var_os("GENERATE").is_some()
}

#[test]
fn the_requests_are_those_that_the_seed_makes() {
    if is_generating() {
        return;
    }
    for picture in corpus::PICTURES {
        let committed: Vec<_> = corpus::read(picture).into_iter().map(|entry| entry.request).collect();
        let made = generate::requests(picture);
        for (committed, made) in committed.iter().zip(&made) {
            assert_eq!(committed, made, "{picture}: run `make generate`");
        }
        assert_eq!(committed.len(), made.len(), "{picture}: run `make generate`");
    }
}

/// What becomes of the requests in each shell, and in each mode of the one that has modes.
async fn outcomes(picture: &Picture, requests: &[Request]) -> [(&'static str, Vec<Outcome>); 3] {
    [
        ("wasm", wasm::run(picture, requests)),
        (
            "ext_proc, buffered",
            ext_proc::run(picture, requests, BodySendMode::Buffered).await,
        ),
        (
            "ext_proc, full duplex",
            ext_proc::run(picture, requests, BodySendMode::FullDuplexStreamed).await,
        ),
    ]
}

/// What is not as expected, in words.
fn differences(requests: &[Request], shell: &str, outcomes: &[Outcome], expected: &[String]) -> Vec<String> {
    assert_eq!((requests.len(), outcomes.len()), (expected.len(), expected.len()));
    let mut different = Vec::new();
    for ((request, outcome), expected) in requests.iter().zip(outcomes).zip(expected) {
        if outcome.line() != *expected {
            different.push(format!(
                "{}\n  expected {expected}\n  {shell} {}",
                request.name,
                outcome.line()
            ));
        }
    }
    different
}

fn assert_same(picture: &str, requests: &[Request], shell: &str, outcomes: &[Outcome], expected: &[String]) {
    let different = differences(requests, shell, outcomes, expected);
    assert!(
        different.is_empty(),
        "{picture}: {} of {} differ in {shell}; the first of them:\n{}",
        different.len(),
        requests.len(),
        different[..different.len().min(5)].join("\n")
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn both_shells_do_with_each_request_what_the_corpus_says() {
    for name in corpus::PICTURES {
        let picture = Picture::read(name);
        if is_generating() {
            let requests = generate::requests(name);
            let [(_, first), others @ ..] = outcomes(&picture, &requests).await;
            let lines: Vec<_> = first.iter().map(Outcome::line).collect();
            for (shell, outcomes) in &others {
                assert_same(name, &requests, shell, outcomes, &lines);
            }
            corpus::write(name, &requests, &lines);
            continue;
        }
        let (requests, expected): (Vec<_>, Vec<_>) = corpus::read(name)
            .into_iter()
            .map(|Entry { request, outcome }| (request, outcome))
            .unzip();
        for (shell, outcomes) in outcomes(&picture, &requests).await {
            assert_same(name, &requests, shell, &outcomes, &expected);
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_shell_that_does_otherwise_is_found_out() {
    if is_generating() {
        return;
    }
    let mut picture = Picture::read("everyday");
    let entries = corpus::read("everyday").into_iter();
    let (requests, expected): (Vec<_>, Vec<_>) = entries.map(|entry| (entry.request, entry.outcome)).unzip();
    // It allows a little less than the operator said, or says a little less than it was asked.
    picture.settings.max_body_bytes = 70_000;
    let smaller = differences(&requests, "wasm", &wasm::run(&picture, &requests), &expected);
    assert!((1..20).contains(&smaller.len()), "{smaller:?}");
    picture.settings.max_body_bytes = 16 << 20;
    picture.settings.explain = false;
    let silent = ext_proc::run(&picture, &requests, BodySendMode::Buffered).await;
    let silent = differences(&requests, "ext_proc", &silent, &expected);
    let explained = expected
        .iter()
        .filter(|outcome| outcome.contains("\"explanation\""))
        .count();
    assert_eq!(silent.len(), explained);
}
