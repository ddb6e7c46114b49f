//! Story: engines that run already are measured behind the whole system, by what they count themselves.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "a test fails by panicking"
)]

use std::net::SocketAddrV4;
use std::time::Duration;

use kthena_e2e::bench::engines::{self, Profile, Settings};
use kthena_e2e::system::fleet::Group;
use kthena_e2e::system::{Options, System};

/// Simulated engines of a system that routes nothing to them stand for those of somebody else.
async fn engines(endpoints: u8) -> (System, Vec<SocketAddrV4>) {
    let system = System::start(Options {
        groups: vec![Group {
            figures: "profile=test-nodelay,block_size=16".to_owned(),
            ..Group::instant("theirs", "llama", endpoints)
        }],
        ..Options::default()
    })
    .await
    .unwrap();
    let port = system.fleet().port();
    let addresses = system.fleet().addresses("theirs");
    let endpoints = addresses.into_iter().map(|ip| SocketAddrV4::new(ip, port)).collect();
    (system, endpoints)
}

fn settings(endpoints: Vec<SocketAddrV4>) -> Settings {
    Settings {
        endpoints,
        model: "llama".to_owned(),
        rounds: 2,
        conversations: 6,
        turns: 5,
        question_bytes: 600,
        answer_tokens: 4,
        pause: Duration::from_millis(20),
        seed: 1,
    }
}

#[tokio::test]
async fn the_default_profile_finds_in_the_caches_what_random_choice_does_not() {
    let (_theirs, endpoints) = engines(4).await;
    let settings = settings(endpoints);
    let rows = engines::run(&settings).await.unwrap();
    let table = engines::table(&rows);
    let profiles: Vec<Profile> = rows.iter().map(|row| row.profile).collect();
    assert_eq!(profiles, Profile::ALL);
    for row in &rows {
        assert_eq!(
            (row.figures.lost, row.figures.first_tokens.len()),
            (0, 2 * 6 * 5),
            "{table}"
        );
    }
    let [default, random] = [&rows[0].figures, &rows[1].figures];
    // Of five turns, all but the newest question can be found: 0.67 of all; at one of four endpoints at random, much less.
    assert!(default.hit_share > 0.55, "{table}");
    assert!(random.hit_share < 0.45, "{table}");
    assert!(!table.contains("with care"), "{table}");
}

#[tokio::test]
async fn an_engine_that_serves_another_model_is_refused_before_anything_starts() {
    let (_theirs, endpoints) = engines(2).await;
    let settings = Settings {
        model: "qwen".to_owned(),
        ..settings(endpoints)
    };
    let error = format!("{:#}", engines::run(&settings).await.unwrap_err());
    assert!(error.contains("[\"llama\"] and not qwen"), "{error}");
}
