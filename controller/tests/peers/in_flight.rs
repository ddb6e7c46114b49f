//! What filters have in flight counts once, whichever controller they are connected to, and goes with a controller that dies.

use kthena_controller::publish::by_key;

use crate::filter::eventually;
use crate::pair::{filter, pair};
use crate::service::{endpoints, report};

#[tokio::test]
async fn what_one_controllers_filter_has_in_flight_the_others_filter_is_told_once_and_as_long_as_it_counts() {
    let pair = pair().await;
    for one in &pair {
        one.hub.set_config(by_key([endpoints(&[1, 2])]));
    }
    let mut here = filter(&pair[0], "here").await;
    let mut there = filter(&pair[1], "there").await;
    here.send(report("here", 1, true, &[(1, 3)])).await;
    there.send(report("there", 1, true, &[(1, 2), (2, 1)])).await;
    there.until("the sum there", |f| f.load(1) == Some((5, 500))).await;
    here.until("the sum here", |f| {
        f.load(1) == Some((5, 500)) && f.load(2) == Some((1, 100))
    })
    .await;
    assert_eq!(here.echoes.len(), 1, "only its own report is echoed");
    here.send(report("here", 2, false, &[(1, 1)])).await;
    there.until("the change", |f| f.load(1) == Some((3, 300))).await;
    // It goes: what it had counts for a while, at both.
    drop(here);
    there.until("it counts no more", |f| f.load(1) == Some((2, 200))).await;
    // A newcomer hears what was said before it came.
    let mut late = filter(&pair[0], "late").await;
    late.until("what is there", |f| f.load(1) == Some((2, 200))).await;
}

#[tokio::test]
async fn a_filter_that_moves_from_a_dead_controller_to_the_other_counts_once_all_the_time() {
    let mut pair = pair().await;
    for one in &pair {
        one.hub.set_config(by_key([endpoints(&[1, 2])]));
    }
    let moving = filter(&pair[0], "moving").await;
    let stays = filter(&pair[0], "stays").await;
    let mut witness = filter(&pair[1], "witness").await;
    moving.send(report("moving", 1, true, &[(1, 3)])).await;
    stays.send(report("stays", 1, true, &[(2, 1)])).await;
    witness
        .until("told of both", |f| {
            (f.load(1), f.load(2)) == (Some((3, 300)), Some((1, 100)))
        })
        .await;
    pair[0].die();
    eventually("the loss is known", || pair[1].peers() == 0).await;
    let moved = filter(&pair[1], "moving").await;
    moved.send(report("moving", 2, true, &[(1, 4)])).await;
    let mut seen = Vec::new();
    while seen.last() != Some(&4) {
        let message = witness.down.message().await.unwrap().unwrap();
        witness.take(message).await;
        seen.extend(witness.load(1).map(|(requests, _)| requests));
    }
    assert!(seen.iter().all(|requests| [3, 4].contains(requests)), "{seen:?}");
    // Nor does the end of the dead controller's word take it away: it ends at once for all that the controller told of.
    witness
        .until("the end of its word", |f| f.load(2) == Some((0, 0)))
        .await;
    assert_eq!(witness.load(1), Some((4, 400)));
    moved.send(report("moving", 3, false, &[(1, 5)])).await;
    witness.until("it goes on", |f| f.load(1) == Some((5, 500))).await;
}

#[tokio::test]
async fn what_a_dead_controllers_filters_had_in_flight_goes() {
    let mut pair = pair().await;
    for one in &pair {
        one.hub.set_config(by_key([endpoints(&[1])]));
    }
    let lost = filter(&pair[0], "lost").await;
    let mut witness = filter(&pair[1], "witness").await;
    lost.send(report("lost", 1, true, &[(1, 3)])).await;
    witness.until("told", |f| f.load(1) == Some((3, 300))).await;
    pair[0].die();
    witness.until("gone", |f| f.load(1) == Some((0, 0))).await;
}
