//! Envoy tries the endpoints of the decision in order, and only for failures that another pod may mend.

use std::time::Duration;

use kthena_e2e::client::Ask;
use kthena_e2e::clusters::Cluster;
use kthena_e2e::noop::Decision;
use kthena_e2e::ports::Reserved;
use kthena_e2e::scripted::{Behaviour, Scripted};

use crate::rig::{CHAT, LLAMA, QWEN, Rig, named, route, who};

/// Two model servers, and an Envoy whose decision names both in this order.
struct Pair {
    first: Scripted,
    second: Scripted,
    rig: Rig,
}

impl Pair {
    /// With a decision that also sets these headers.
    async fn start(headers: &[(&str, &str)]) -> Self {
        let (first, second) = (named("first").await, named("second").await);
        let both = [first.address(), second.address()];
        let headers = headers
            .iter()
            .map(|(name, value)| ((*name).to_owned(), (*value).to_owned()));
        let decision = Decision {
            headers: headers.collect(),
            ..route(LLAMA, &both)
        };
        let rig = Rig::start(&[Cluster::new(LLAMA, both)], decision).await;
        Self { first, second, rig }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_next_endpoint_is_tried_after_a_reset_and_after_502_503_504() {
    let (first, second, third) = (named("first").await, named("second").await, named("third").await);
    let all = [first.address(), second.address(), third.address()];
    let rig = Rig::start(
        &[Cluster::new(LLAMA, all)],
        route(LLAMA, &[second.address(), third.address()]),
    )
    .await;
    let failures = [
        Behaviour::Reset,
        Behaviour::Answer(502, "{}".to_owned()),
        Behaviour::Answer(503, "{}".to_owned()),
        Behaviour::Answer(504, "{}".to_owned()),
    ];
    for failure in failures {
        second.behave(failure.clone());
        let answer = rig.chat().await;
        assert_eq!(
            (answer.status.as_u16(), who(&answer).as_str()),
            (200, "third"),
            "after {failure:?}"
        );
        let line = rig.log_line(&answer.header("x-request-id")).await;
        assert_eq!(line["upstream_attempts"], 2, "{line}");
        assert_eq!(line["served_pod"], third.address().to_string());
        assert_eq!(second.take_seen().len(), 1);
    }
    assert_eq!(first.take_seen().len(), 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn the_next_endpoint_is_tried_when_the_connection_is_refused() {
    let (refusing, second, third) = (
        Reserved::loopback().unwrap(),
        named("second").await,
        named("third").await,
    );
    let all = [refusing.address(), second.address(), third.address()];
    let rig = Rig::start(
        &[Cluster::new(LLAMA, all)],
        route(LLAMA, &[refusing.address(), third.address()]),
    )
    .await;
    for _ in 0..3 {
        assert_eq!(who(&rig.chat().await), "third");
    }
    assert_eq!(second.take_seen().len(), 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_answer_about_the_request_itself_is_not_tried_again() {
    let Pair { first, second, rig } = Pair::start(&[]).await;
    for status in [400, 404, 422, 429, 500] {
        let body = format!("{{\"error\":\"{status}\"}}");
        first.behave(Behaviour::Answer(status, body.clone()));
        let answer = rig.chat().await;
        assert_eq!(
            (answer.status.as_u16(), answer.text()),
            (status, body),
            "the engine's own words reach the client"
        );
    }
    assert_eq!(second.take_seen().len(), 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_decision_can_add_500_to_what_is_tried_again() {
    let Pair {
        first,
        rig,
        second: _second,
    } = Pair::start(&[("x-envoy-retry-on", "5xx")]).await;
    first.behave(Behaviour::Answer(500, "{}".to_owned()));
    assert_eq!(who(&rig.chat().await), "second");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_decision_sets_the_time_of_one_try_and_the_number_of_tries() {
    let (first, second, third) = (named("first").await, named("second").await, named("third").await);
    let all = [first.address(), second.address(), third.address()];
    let per_try = ("x-envoy-upstream-rq-per-try-timeout-ms".to_owned(), "100".to_owned());
    let rig = Rig::start(
        &[Cluster::new(LLAMA, all)],
        Decision {
            headers: vec![per_try.clone()],
            ..route(LLAMA, &all)
        },
    )
    .await;
    first.behave(Behaviour::Hang);
    second.behave(Behaviour::Hang);
    assert_eq!(
        who(&rig.chat().await),
        "third",
        "two retries unless the decision says otherwise"
    );

    let once = ("x-envoy-max-retries".to_owned(), "1".to_owned());
    rig.noop.decide(Decision {
        headers: vec![per_try, once],
        ..route(LLAMA, &all)
    });
    let answer = rig.chat().await;
    assert_eq!(
        (answer.status.as_u16(), third.take_seen().len()),
        (504, 1),
        "{}",
        answer.text()
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stream_that_has_begun_outlives_the_time_of_one_try_and_is_never_tried_again() {
    let Pair { first, second, rig } = Pair::start(&[("x-envoy-upstream-rq-per-try-timeout-ms", "200")]).await;
    let pieces: Vec<String> = (0..5)
        .map(|number| format!("data: {{\"number\":{number}}}\n\n"))
        .collect();
    first.behave(Behaviour::Stream(pieces.clone(), Duration::from_millis(100)));
    let answer = rig.chat().await;
    assert_eq!(
        answer.text(),
        pieces.concat(),
        "the time is until the headers, as the answer began at once"
    );
    assert_eq!(second.take_seen().len(), 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn when_the_whole_list_has_gone_another_pod_of_the_same_model_answers_and_never_one_of_another() {
    let (llama, qwen) = (named("llama").await, named("qwen").await);
    let clusters = [
        Cluster::new(LLAMA, [llama.address()]),
        Cluster::new(QWEN, [qwen.address()]),
    ];
    let rig = Rig::start(&clusters, route(LLAMA, &[qwen.address()])).await;
    for _ in 0..10 {
        assert_eq!(who(&rig.chat().await), "llama");
    }
    rig.noop
        .decide(route("model-server/default/gone/8000", &[qwen.address()]));
    let answer = rig.client.send(Ask::post(CHAT, "{}")).await.unwrap();
    assert_eq!((answer.status.as_u16(), qwen.take_seen().len()), (503, 0));
}

#[tokio::test(flavor = "multi_thread")]
async fn envoy_leaves_a_failing_pod_out_of_its_own_choices_but_not_of_a_decision() {
    let Pair { first, second, rig } = Pair::start(&[]).await;
    first.behave(Behaviour::Answer(503, "{}".to_owned()));
    for _ in 0..5 {
        assert_eq!(who(&rig.chat().await), "second");
    }
    rig.wait_for(LLAMA, "outlier_detection.ejections_active", 1).await;
    assert_eq!((first.take_seen().len(), second.take_seen().len()), (5, 5));

    // The list is followed whatever Envoy thinks of its entries: who decides has to notice failing pods.
    assert_eq!(who(&rig.chat().await), "second");
    assert_eq!((first.take_seen().len(), second.take_seen().len()), (1, 1));

    rig.noop.decide(route(LLAMA, &[]));
    for _ in 0..10 {
        assert_eq!(who(&rig.chat().await), "second");
    }
    assert_eq!(first.take_seen().len(), 0);
}
