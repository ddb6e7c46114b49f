//! How far an object has got is told of the filters of both controllers that see it.

use kthena_controller::publish::{Key, by_key};
use kthena_scheduler::state::proto::{Hello, ResourceType};
use tonic::transport::Channel;

use crate::filter::{Filter, eventually};
use crate::pair::{Controller, filter, pair};
use crate::service::{endpoints_of, route};

#[tokio::test]
async fn how_far_an_object_has_got_speaks_of_the_filters_of_both() {
    let mut pair = pair().await;
    let of = |controller: &Controller| controller.hub.acceptance(&Key::new(ResourceType::Route, "ns/a"));
    let counts = |controller: &Controller| of(controller).map(|seen| (seen.acknowledged, seen.subscribers));
    pair[0].hub.set_config(by_key([route("ns/a", "one")]));
    let _here = filter(&pair[0], "here").await;
    eventually("the one here", || counts(&pair[0]) == Some((1, 1))).await;

    // The other has a filter that has acknowledged another version.
    pair[1].hub.set_config(by_key([route("ns/a", "older")]));
    let mut there = filter(&pair[1], "there").await;
    eventually("the one there lacks it", || counts(&pair[0]) == Some((1, 2))).await;
    pair[1].hub.set_config(by_key([route("ns/a", "one")]));
    let key = Key::new(ResourceType::Route, "ns/a");
    there
        .until("the route again", |f| {
            f.received.iter().filter(|one| **one == key).count() == 2
        })
        .await;
    eventually("the one there has it", || counts(&pair[0]) == Some((2, 2))).await;
    eventually("which is said there as well", || counts(&pair[1]) == Some((2, 2))).await;

    // It refuses the next one.
    there.refuses = Some("ns/a");
    for one in &pair {
        one.hub.set_config(by_key([route("ns/a", "two")]));
    }
    there
        .until("the next", |f| {
            f.received.iter().filter(|one| **one == key).count() == 3
        })
        .await;
    eventually("the refusal", || {
        of(&pair[0]).is_some_and(|seen| seen.refused == [("there".to_owned(), "no such plugin".to_owned())])
    })
    .await;
    drop(there);
    eventually("it is not spoken of any more", || {
        of(&pair[0]).is_some_and(|seen| seen.subscribers == 1 && seen.refused.is_empty())
    })
    .await;
    let _again = filter(&pair[1], "again").await;
    eventually("another one", || of(&pair[0]).is_some_and(|seen| seen.subscribers == 2)).await;
    pair[1].die();
    eventually("nor are those of a dead controller", || {
        of(&pair[0]).is_some_and(|seen| seen.subscribers == 1)
    })
    .await;
}

#[tokio::test]
async fn of_an_object_those_alone_have_a_say_that_see_it() {
    let pair = pair().await;
    let counts = |name: &str| {
        let seen = pair[0].hub.acceptance(&Key::new(ResourceType::Route, name));
        seen.map(|seen| (seen.acknowledged, seen.subscribers))
    };
    let config = |ids: &[u64]| by_key([route("a/r", "one"), route("b/r", "one"), endpoints_of("b/s", ids)]);
    for one in &pair {
        one.hub.set_config(config(&[1]));
    }
    let channel = Channel::from_shared(format!("http://{}", pair[1].address)).unwrap();
    let hello = Hello {
        origin: "narrow".into(),
        namespaces: vec!["a".into()],
        ..Hello::default()
    };
    let mut narrow = Filter::over(channel.connect().await.unwrap(), hello).await;
    eventually("it has yet to answer", || counts("a/r") == Some((0, 1))).await;
    assert_eq!(counts("b/r"), Some((0, 0)), "it does not see this one");
    narrow.until("state", |f| f.synced).await;
    eventually("it has answered", || counts("a/r") == Some((1, 1))).await;
    let newer = pair[0].hub.set_config(config(&[1, 2]));
    assert!(
        pair[0].hub.acknowledged(newer),
        "nobody waits for it where it does not see what changed"
    );

    let mut wide = filter(&pair[1], "wide").await;
    eventually("one that sees all", || {
        (counts("a/r"), counts("b/r")) == (Some((2, 2)), Some((1, 1)))
    })
    .await;
    assert!(!pair[0].hub.acknowledged(newer), "that one lacks what changed");
    pair[1].hub.set_config(config(&[1, 2]));
    let changed = Key::new(ResourceType::Endpoints, "b/s");
    wide.until("what changed", |f| {
        f.received.iter().filter(|one| **one == changed).count() == 2
    })
    .await;
    eventually("it has what changed", || pair[0].hub.acknowledged(newer)).await;
    let newest = pair[0].hub.set_config(config(&[1, 2, 3]));
    assert!(!pair[0].hub.acknowledged(newest), "but not what changed since");
    drop(narrow);
    eventually("it has gone", || {
        (counts("a/r"), counts("b/r")) == (Some((1, 1)), Some((1, 1)))
    })
    .await;
    drop(wide);
    eventually("nobody is there", || counts("a/r") == Some((0, 0))).await;
}
