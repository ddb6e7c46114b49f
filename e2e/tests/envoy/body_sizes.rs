//! Bodies up to the bound pass and can be tried again; larger ones are refused with words.

use kthena_e2e::client::Ask;
use kthena_e2e::clusters::Cluster;
use kthena_e2e::scripted::Behaviour;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

use crate::rig::{CHAT, LLAMA, Rig, SOON, named, route, who};

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

#[tokio::test(flavor = "multi_thread")]
async fn a_client_that_waits_to_be_told_to_continue_is_told() {
    let pod = named("pod").await;
    let rig = Rig::start(&[Cluster::new(LLAMA, [pod.address()])], route(LLAMA, &[pod.address()])).await;
    let mut connection = tokio::net::TcpStream::connect(rig.envoy.address()).await.unwrap();
    let head = format!("POST {CHAT} HTTP/1.1\r\nhost: a\r\nexpect: 100-continue\r\ncontent-length: 4096\r\n\r\n");
    connection.write_all(head.as_bytes()).await.unwrap();
    read_until(&mut connection, "100 Continue\r\n\r\n").await;
    connection.write_all(&[b'x'; 4096]).await.unwrap();
    read_until(&mut connection, "{\"id\":\"pod\"}").await;
    assert_eq!(pod.take_seen()[0].body_length, 4096);
}

/// Reads until the text received so far ends with these words.
async fn read_until(connection: &mut tokio::net::TcpStream, words: &str) {
    let mut text = String::new();
    let reading = async {
        while !text.ends_with(words) {
            let mut piece = [0; 1024];
            let length = connection.read(&mut piece).await.unwrap();
            assert_ne!(length, 0, "the connection was closed after {text:?}");
            text.push_str(&String::from_utf8_lossy(&piece[..length]));
        }
    };
    tokio::time::timeout(SOON, reading).await.unwrap();
}
