//! Bodies up to the bound pass and can be tried again; larger ones are refused with words.

use kthena_e2e::client::Ask;
use kthena_e2e::clusters::Cluster;
use kthena_e2e::scripted::Behaviour;

use crate::rig::{CHAT, LLAMA, Rig, named, route, who};

/// The bound of our own server, bytes; Envoy's is a little above it.
const BOUND: usize = 16 << 20;

#[tokio::test(flavor = "multi_thread")]
async fn a_body_of_one_kilobyte_and_one_of_nine_tenths_of_the_bound_can_be_tried_again() {
    let (first, second) = (named("first").await, named("second").await);
    let both = [first.address(), second.address()];
    let rig = Rig::start(&[Cluster::new(LLAMA, both)], route(LLAMA, &both)).await;
    for length in [1024, BOUND / 10 * 9] {
        for failure in [Behaviour::Reset, Behaviour::Answer(503, "{}".to_owned())] {
            first.behave(failure);
            let answer = rig.client.send(Ask::post(CHAT, vec![b'x'; length])).await.unwrap();
            assert_eq!(who(&answer), "second");
            for pod in [&first, &second] {
                let lengths: Vec<usize> = pod.take_seen().iter().map(|seen| seen.body_length).collect();
                assert_eq!(lengths, [length]);
            }
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_body_far_above_the_bound_is_refused_before_it_is_read_whole() {
    let pod = named("pod").await;
    let rig = Rig::start(&[Cluster::new(LLAMA, [pod.address()])], route(LLAMA, &[pod.address()])).await;
    let answer = rig.client.send(Ask::post(CHAT, vec![b'x'; BOUND * 2])).await.unwrap();
    assert_eq!(answer.status, 413);
    assert_eq!(answer.json().unwrap()["error"]["code"], "request_too_large");
    assert_eq!(pod.take_seen().len(), 0);
}
