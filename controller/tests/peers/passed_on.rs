//! Placements and settlements are passed on from one controller's filters to the other's.

use kthena_controller::publish::by_key;
use kthena_scheduler::state::proto::{Placement, Placements, Settlement, Settlements, from_filter};

use crate::pair::{filter, pair};
use crate::service::{endpoints, report};

#[tokio::test]
async fn placements_reach_the_others_filters_and_newcomers_and_settlements_their_owner() {
    let pair = pair().await;
    for one in &pair {
        one.hub.set_config(by_key([endpoints(&[1])]));
    }
    let mut here = filter(&pair[0], "here").await;
    let mut there = filter(&pair[1], "there").await;
    let placement = Placement {
        endpoint: 1,
        keys: vec![7, 8],
        gone: false,
        blocks: vec![1, 1],
    };
    let placements = Placements {
        placements: vec![placement.clone()],
    };
    here.send(from_filter::Message::Placements(placements)).await;
    there.until("the placement", |f| f.placements.len() == 1).await;
    assert_eq!(there.placements[0], placement);
    let mut late = filter(&pair[1], "late").await;
    late.until("the placement", |f| f.placements.len() == 1).await;

    here.send(report("here", 1, true, &[(1, 1)])).await;
    there.until("it is known there", |f| f.load(1) == Some((1, 100))).await;
    let settlement = Settlement {
        owner: "here".into(),
        lease: 42,
        served: "10.0.0.1:8000".into(),
    };
    let settlements = Settlements {
        settlements: vec![settlement.clone()],
    };
    there.send(from_filter::Message::Settlements(settlements)).await;
    here.until("its lease is settled", |f| f.settlements.len() == 1).await;
    assert_eq!(here.settlements[0], settlement);
    assert!(here.placements.is_empty(), "its own placement does not come back");
}
