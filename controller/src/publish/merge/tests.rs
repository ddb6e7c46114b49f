//! What must hold of the merge, told in examples and by any order of arrivals.

use proptest::prelude::*;

use super::*;

const BOUNDS: Bounds = Bounds {
    max_origins: 4,
    max_peer_origins: 2,
    max_entries: 8,
    lost_after_ms: 5000,
};

fn report(origin: &str, epoch: u64, sequence: u64, complete: bool, entries: &[(u64, u32)]) -> Report {
    Report {
        origin: origin.into(),
        epoch,
        sequence,
        complete,
        in_flight: entries
            .iter()
            .map(|(endpoint, requests)| proto::InFlight {
                endpoint: *endpoint,
                requests: *requests,
                tokens: u64::from(*requests) * 10,
                ..Default::default()
            })
            .collect(),
        waiting: Vec::new(),
    }
}

#[test]
fn a_sum_over_origins_that_each_replace_what_they_said() {
    let mut merge = Merge::new(BOUNDS);
    merge.report(Speaker::Filter(1), report("a", 1, 1, true, &[(7, 3)]));
    merge.report(Speaker::Filter(2), report("b", 1, 1, true, &[(7, 2), (8, 1)]));
    merge.report(Speaker::Filter(1), report("a", 1, 2, false, &[(7, 4)]));
    assert_eq!(
        merge.in_flight(7),
        InFlight {
            requests: 6,
            tokens: 60
        }
    );
    assert_eq!(
        merge.report(Speaker::Filter(1), report("a", 1, 2, false, &[(7, 9)])),
        Outcome::Stale
    );
    assert_eq!(merge.in_flight(7).requests, 6);
    merge.report(Speaker::Filter(2), report("b", 1, 5, true, &[(8, 1)]));
    assert_eq!(
        merge.in_flight(7).requests,
        4,
        "a complete report zeroes what is absent"
    );
    merge.report(Speaker::Filter(1), report("a", 2, 1, false, &[(8, 1)]));
    assert_eq!(merge.in_flight(7).requests, 0, "a new epoch starts anew");
    assert_eq!(merge.in_flight(8).requests, 2);
    let echo = Echo {
        origin: "a".into(),
        epoch: 2,
        sequence: 1,
    };
    assert_eq!(merge.echoes(1), vec![echo]);
}

#[test]
fn a_lost_origin_keeps_its_counts_for_a_while_unless_it_comes_back() {
    let mut merge = Merge::new(BOUNDS);
    merge.report(Speaker::Filter(1), report("a", 1, 1, true, &[(7, 3)]));
    merge.report(Speaker::Filter(1), report("b", 1, 1, true, &[(7, 1)]));
    merge.lose(1, Time::from_millis(100));
    merge.report(Speaker::Filter(2), report("b", 1, 2, true, &[(7, 1)]));
    assert!(merge.expire(Time::from_millis(5099)).is_empty());
    assert_eq!(merge.in_flight(7).requests, 4);
    assert_eq!(
        merge.expire(Time::from_millis(5100)),
        [("a".to_owned(), Speaker::Filter(1))]
    );
    assert_eq!(merge.in_flight(7).requests, 1);
    merge.lose(1, Time::from_millis(5200));
    assert!(
        merge.expire(Time::from_millis(99_999)).is_empty(),
        "b speaks over another stream now"
    );
}

#[test]
fn an_origin_that_moves_between_controllers_counts_once_and_is_where_its_newest_report_came_from() {
    let (here, there) = (Speaker::Filter(1), Speaker::Peer(9));
    let mut merge = Merge::new(BOUNDS);
    merge.report(there, report("x", 1, 7, true, &[(7, 3)]));
    assert_eq!(merge.report_of("x", None), None, "what another tells is not told on");
    merge.adopt("x", 1, Time::from_millis(0));
    merge.report(here, report("x", 1, 8, true, &[(7, 2)]));
    assert_eq!(merge.in_flight(7).requests, 2);
    for sequence in [7, 8] {
        let late = merge.report(there, report("x", 1, sequence, true, &[(7, 3)]));
        assert_eq!(late, Outcome::Stale, "it is here now");
    }
    merge.end("x", there);
    assert_eq!(merge.in_flight(7).requests, 2, "it is not there any more, but here");
    assert_eq!(merge.report_of("x", None).unwrap().in_flight.len(), 1);
    merge.report(there, report("x", 1, 9, true, &[(8, 1)]));
    assert_eq!((merge.in_flight(7).requests, merge.in_flight(8).requests), (0, 1));
    merge.lose(1, Time::from_millis(10));
    assert!(merge.expire(Time::from_millis(9_999)).is_empty(), "it went back");
    merge.end("x", there);
    assert_eq!((merge.in_flight(8).requests, merge.origins()), (0, 0));
}

#[test]
fn another_controller_tells_several_messages_under_one_number_and_all_again_when_it_is_followed_anew() {
    let there = Speaker::Peer(9);
    let mut merge = Merge::new(BOUNDS);
    merge.report(there, report("x", 1, 7, true, &[(7, 3)]));
    merge.report(there, report("x", 1, 7, false, &[(8, 1)]));
    assert_eq!((merge.in_flight(7).requests, merge.in_flight(8).requests), (3, 1));
    merge.lose(9, Time::from_millis(0));
    let again = Speaker::Peer(10);
    assert_eq!(merge.report(again, report("x", 1, 7, true, &[(7, 3)])), Outcome::Merged);
    merge.report(again, report("x", 1, 7, false, &[(8, 1)]));
    assert_eq!((merge.in_flight(7).requests, merge.in_flight(8).requests), (3, 1));
    assert!(merge.expire(Time::from_millis(99_999)).is_empty());
    merge.report(again, report("y", 1, 1, true, &[]));
    assert_eq!(merge.report(again, report("z", 1, 1, true, &[])), Outcome::Excess);
}

#[test]
fn what_is_told_of_an_origin_is_absolute() {
    let mut merge = Merge::new(BOUNDS);
    merge.report(Speaker::Filter(1), report("x", 1, 7, true, &[(7, 3), (8, 1)]));
    merge.report(Speaker::Filter(1), report("x", 1, 8, false, &[(8, 0)]));
    let some = HashSet::from([(8, String::new())]);
    let told = merge.report_of("x", Some(&some)).unwrap();
    assert_eq!(
        (told.sequence, told.complete, told.in_flight[0].requests),
        (8, false, 0)
    );
    let all = merge.report_of("x", None).unwrap();
    assert_eq!(
        (all.complete, all.in_flight.len(), all.in_flight[0].requests),
        (true, 1, 3)
    );
    assert_eq!(merge.of_filters().collect::<Vec<_>>(), ["x"]);
}

#[test]
fn bounds_hold() {
    let mut merge = Merge::new(BOUNDS);
    let many: Vec<_> = (0..20).map(|endpoint| (endpoint, 1)).collect();
    assert_eq!(
        merge.report(Speaker::Filter(1), report("a", 1, 1, true, &many)),
        Outcome::Excess
    );
    assert_eq!(merge.sums.len(), 8);
    for origin in ["b", "c", "d"] {
        merge.report(Speaker::Filter(1), report(origin, 1, 1, true, &[]));
    }
    assert_eq!(
        merge.report(Speaker::Filter(1), report("e", 1, 1, true, &[(7, 1)])),
        Outcome::Excess
    );
    assert_eq!(merge.origins(), 4);
}

proptest! {
    /// Reports of three origins, each doubled and shuffled against the others': the sum is that of the last of each.
    #[test]
    fn any_order_and_number_of_arrivals_counts_once(
        script in proptest::collection::vec((0usize..3, any::<bool>(), proptest::collection::vec((0u64..5, 0u32..4), 0..5), 0usize..6), 1..40),
    ) {
        let bounds = Bounds { max_entries: 64, ..BOUNDS };
        let mut merge = Merge::new(bounds);
        let mut sent: Vec<Report> = Vec::new();
        let mut sequences = [0u64; 3];
        let mut truth = vec![HashMap::<u64, u32>::new(); 3];
        for (origin, complete, entries, again) in script {
            sequences[origin] += 1;
            let mut unique: Vec<(u64, u32)> = Vec::new();
            for (endpoint, requests) in entries {
                if unique.iter().all(|(e, _)| *e != endpoint) {
                    unique.push((endpoint, requests));
                }
            }
            if complete {
                truth[origin].clear();
            }
            truth[origin].extend(unique.iter().copied());
            let name = ["a", "b", "c"][origin];
            let next = report(name, 1, sequences[origin], complete, &unique);
            merge.report(Speaker::Filter(origin as u64), next.clone());
            sent.push(next);
            if let Some(old) = sent.get(again) {
                let outcome = merge.report(Speaker::Filter(9), old.clone());
                prop_assert_eq!(outcome, Outcome::Stale);
            }
            for endpoint in 0..5 {
                let expected: u32 = truth.iter().filter_map(|counts| counts.get(&endpoint)).sum();
                prop_assert_eq!(merge.in_flight(endpoint).requests, u64::from(expected));
                prop_assert_eq!(merge.in_flight(endpoint).tokens, u64::from(expected) * 10);
            }
        }
        for origin in 0..3 {
            merge.lose(origin, Time::from_millis(0));
        }
        merge.expire(Time::from_millis(5000));
        prop_assert_eq!(merge.sums.len(), 0);
    }
}
