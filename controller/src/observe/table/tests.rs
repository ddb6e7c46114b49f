//! Who is told what of which look at an endpoint.

use kthena_scheduler::load::Sample;

use super::*;
use crate::compile::Fact;

const NOW: Time = Time::from_millis(1000);

fn key() -> EndpointKey {
    EndpointKey {
        uid: "a".into(),
        port: 8000,
    }
}

#[tokio::test]
async fn compile_hears_of_facts_and_publish_of_load() {
    let table = Table::new();
    let mut facts = Facts::default();
    table.expect(&key(), 1, NOW);
    assert_eq!(table.follow(&mut facts), [key()]);
    assert!(facts.pending.contains(&key()));
    table.store(&key(), Observation::default(), NOW);
    assert!(table.take_changed()[&key()], "the first is urgent");
    assert_eq!(table.follow(&mut facts), [key()]);
    assert_eq!(facts.pending.len(), 0);
    table.facts_changed().await;

    let mut next = Observation {
        sampled_at: Some(Time::from_millis(7)),
        ..Observation::default()
    };
    table.store(&key(), next.clone(), NOW);
    assert!(!table.take_changed()[&key()], "a sample can wait");
    let waiting = tokio::time::timeout(std::time::Duration::ZERO, table.facts_changed()).await;
    assert!(waiting.is_err(), "a sample is no fact");

    let fact = Fact {
        incarnation: 5,
        ..Fact::default()
    };
    next.fact = Arc::new(fact.clone());
    table.store(&key(), next, NOW);
    table.facts_changed().await;
    assert_eq!(table.follow(&mut facts), [key()]);
    assert_eq!(*facts.endpoints[&key()], fact);
    assert!(table.follow(&mut facts).is_empty(), "told once");
    table.drop_row(&key());
    assert_eq!(table.follow(&mut facts), [key()]);
    assert_eq!(facts, Facts::default());
}

#[test]
fn a_row_that_is_no_target_stays_away() {
    let table = Table::new();
    table.store(&key(), Observation::default(), NOW);
    assert_eq!(table.get(&key()), None);
}

fn told(target: u64, looked_at: u64, waiting: u32, incarnation: Option<u64>) -> Told {
    let load = Observation {
        sample: Sample {
            waiting: Some(waiting),
            ..Sample::default()
        },
        ..Observation::default()
    };
    Told {
        key: key(),
        target,
        looked_at: Time::from_millis(looked_at),
        load,
        fact: incarnation.map(|incarnation| Fact {
            incarnation,
            ..Fact::default()
        }),
    }
}

fn waiting(table: &Table) -> Option<u32> {
    table.get(&key()).and_then(|seen| seen.sample.waiting)
}

#[test]
fn the_newest_look_at_the_same_server_counts_whoever_took_it() {
    let table = Table::new();
    table.expect(&key(), 1, NOW);
    assert_eq!(table.hear(7, vec![told(2, 1500, 9, Some(4))], 10), 0);
    assert_eq!(waiting(&table), None, "it was another server");
    table.hear(7, vec![told(1, 1500, 3, Some(4))], 10);
    assert_eq!((waiting(&table), table.of_others()), (Some(3), 1));
    table.hear(8, vec![told(1, 1400, 5, Some(4))], 10);
    assert_eq!(waiting(&table), Some(3), "an older look");
    assert!(table.is_seen_by_other(&key(), Time::from_millis(1500)));
    assert!(!table.is_seen_by_other(&key(), Time::from_millis(1501)));
    // Without a word on the fact it is the one that was told.
    table.hear(7, vec![told(1, 1600, 4, None)], 10);
    assert_eq!(table.get(&key()).unwrap().fact.incarnation, 4);
    table.store(&key(), Observation::default(), Time::from_millis(1700));
    assert_eq!((waiting(&table), table.of_others()), (None, 0));
    table.forget_teller(7);
    table.forget_teller(8);
    assert!(!table.is_seen_by_other(&key(), NOW));
}

#[test]
fn what_was_told_before_the_pod_was_known_here_is_not_lost() {
    let table = Table::new();
    let mut facts = Facts::default();
    table.hear(7, vec![told(1, 1500, 3, Some(4))], 10);
    table.expect(&key(), 1, Time::from_millis(1600));
    table.follow(&mut facts);
    assert!(facts.pending.contains(&key()), "it was too long ago");
    table.expect(&key(), 1, NOW);
    table.follow(&mut facts);
    assert_eq!(facts.endpoints[&key()].incarnation, 4);
    assert!(facts.pending.is_empty());
    table.forget_teller(7);
    assert_eq!(waiting(&table), Some(3), "what is known stays");
    table.expect(&key(), 1, NOW);
    assert_eq!(waiting(&table), None);
}

#[test]
fn others_are_told_of_our_own_looks_once_and_of_facts_that_are_new() {
    let table = Table::new();
    let urgent = table.urgent();
    let mut cursor = 0;
    table.expect(&key(), 1, NOW);
    assert!(table.looks(&mut cursor).is_empty());
    table.store(&key(), Observation::default(), NOW);
    assert!(urgent.has_changed().unwrap());
    let first = table.looks(&mut cursor);
    assert_eq!((first.len(), first[0].target, first[0].is_new_fact), (1, 1, true));
    assert!(table.looks(&mut cursor).is_empty());
    table.store(&key(), Observation::default(), NOW);
    assert!(!table.looks(&mut cursor)[0].is_new_fact);
    assert!(table.looks(&mut 0)[0].is_new_fact, "to one that comes later it is");
    table.hear(7, vec![told(1, 1500, 3, Some(4))], 10);
    assert!(table.looks(&mut 0).is_empty(), "what others told is not told on");
    let mut mine = table.get(&key()).unwrap();
    mine.down = true;
    table.store(&key(), mine, Time::from_millis(1600));
    let next = table.looks(&mut cursor);
    assert!(next[0].is_new_fact && next[0].observation.down);
    table.drop_row(&key());
    assert!(table.looks(&mut 0).is_empty());
}
