//! Stories of the engine, on made-up times, and what must hold whatever happens.

use proptest::prelude::*;

use super::prompt::{Prompt, Token};
use super::*;

/// A step takes 10 ms and 1 ms for every token.
const TIMING: Timing = Timing {
    overhead_ns: 10e6,
    weights_ns: 0.0,
    context_token_ns: 0.0,
    token_ns: 1e6,
};

fn config() -> EngineConfig {
    EngineConfig {
        timing: TIMING,
        blocks: 64,
        block_size: 4,
        max_num_seqs: 8,
        max_num_batched_tokens: 32,
        max_loras: 1,
        max_queued: 16,
        prefix_caching: true,
    }
}

fn ms(milliseconds: u64) -> Duration {
    Duration::from_millis(milliseconds)
}

/// `length` tokens that no other `family` begins with.
fn tokens(family: u32, length: u32) -> Vec<Token> {
    (0..length).map(|index| family << 16 | index).collect()
}

fn submission(prompt: &[Token], answer: u32) -> Submission {
    let prompt = Prompt::new(prompt, 4, 0);
    Submission {
        prompt,
        tokens: answer,
        ending: FinishReason::Length,
        adapter: None,
    }
}

fn submit(engine: &mut Engine, now: Duration, prompt: &[Token], answer: u32) -> SequenceId {
    engine
        .submit(now, vec![submission(prompt, answer)], &mut Vec::new())
        .unwrap()[0]
}

/// Runs until nothing is left to do; the time of every event.
fn run(engine: &mut Engine) -> Vec<(Duration, Event)> {
    let mut log = Vec::new();
    let mut events = Vec::new();
    while let Some(at) = engine.next_event() {
        engine.advance(at, &mut events);
        log.extend(events.drain(..).map(|event| (at, event)));
    }
    log
}

fn finished_at(log: &[(Duration, Event)], id: SequenceId) -> Duration {
    log.iter()
        .find(|(_, event)| event.id == id && event.finished.is_some())
        .unwrap()
        .0
}

#[test]
fn a_request_is_one_prefill_and_then_a_token_a_step() {
    let mut engine = Engine::new(config());
    submit(&mut engine, ms(0), &tokens(1, 10), 3);
    let log = run(&mut engine);
    assert_eq!(
        log.iter().map(|(at, event)| (*at, event.generated)).collect::<Vec<_>>(),
        [(ms(20), 1), (ms(31), 2), (ms(42), 3)]
    );
    let stats = engine.stats();
    assert_eq!(
        (stats.prompt_tokens, stats.generation_tokens, stats.reached_length),
        (10, 3, 1)
    );
    assert_eq!(stats.first_token.sum(), 0.02);
    assert!((stats.inter_token.sum() - 0.022).abs() < 1e-9);
}

#[test]
fn prefills_wait_for_each_other() {
    let mut engine = Engine::new(config());
    let first = submit(&mut engine, ms(0), &tokens(1, 30), 1);
    let second = submit(&mut engine, ms(1), &tokens(2, 30), 1);
    let third = submit(&mut engine, ms(2), &tokens(3, 30), 1);
    let log = run(&mut engine);
    assert_eq!(finished_at(&log, first), ms(40));
    // The second step has room for all of the second prompt and two tokens of the third.
    assert_eq!(finished_at(&log, second), ms(40 + 42));
    assert_eq!(finished_at(&log, third), ms(82 + 38));
}

#[test]
fn a_long_prompt_is_cut_into_chunks_that_others_decode_beside() {
    let mut engine = Engine::new(config());
    let short = submit(&mut engine, ms(0), &tokens(1, 2), 4);
    let long = submit(&mut engine, ms(1), &tokens(2, 70), 1);
    let log = run(&mut engine);
    let short_tokens: Vec<_> = log
        .iter()
        .filter(|(_, event)| event.id == short)
        .map(|(at, _)| *at)
        .collect();
    assert_eq!(
        short_tokens,
        [ms(12), ms(54), ms(96), ms(115)],
        "each chunk leaves the short one its token"
    );
    assert_eq!(finished_at(&log, long), ms(115));
}

#[test]
fn a_known_prefix_is_not_computed_again() {
    let mut engine = Engine::new(config());
    submit(&mut engine, ms(0), &tokens(1, 20), 1);
    run(&mut engine);
    let again = submit(&mut engine, ms(1000), &tokens(1, 20), 1);
    let log = run(&mut engine);
    assert_eq!(
        log[0].1.cached, 16,
        "the last token is always computed, so the last block is not taken"
    );
    assert_eq!(finished_at(&log, again), ms(1000 + 14));
    assert_eq!((engine.stats().prefix_queries, engine.stats().prefix_hits), (40, 16));
    assert_eq!(engine.stats().cached_tokens, 16);
}

#[test]
fn without_prefix_caching_nothing_is_found_or_counted() {
    let mut engine = Engine::new(EngineConfig {
        prefix_caching: false,
        ..config()
    });
    for _ in 0..2 {
        submit(&mut engine, ms(0), &tokens(1, 20), 1);
    }
    assert!(run(&mut engine).iter().all(|(_, event)| event.cached == 0));
    assert_eq!(engine.stats().prefix_queries, 0);
}

#[test]
fn the_least_recently_used_prefix_is_lost() {
    let mut engine = Engine::new(EngineConfig { blocks: 12, ..config() });
    for (at, family) in [(0, 1), (100, 2), (200, 1), (300, 3)] {
        submit(&mut engine, ms(at), &tokens(family, 20), 1);
        run(&mut engine);
    }
    let cached = |engine: &mut Engine, at, family| {
        submit(engine, ms(at), &tokens(family, 20), 1);
        run(engine)[0].1.cached
    };
    assert_eq!(cached(&mut engine, 400, 1), 16, "used again after the second prompt");
    assert!(cached(&mut engine, 500, 2) < 16, "the oldest made room for the third");
}

#[test]
fn a_full_cache_lets_requests_wait() {
    let mut engine = Engine::new(EngineConfig { blocks: 6, ..config() });
    let first = submit(&mut engine, ms(0), &tokens(1, 16), 2);
    let second = submit(&mut engine, ms(0), &tokens(2, 16), 1);
    assert_eq!((engine.load().running, engine.load().waiting), (1, 1));
    let log = run(&mut engine);
    assert!(finished_at(&log, second) > finished_at(&log, first));
    assert_eq!(engine.stats().preemptions, 0);
    assert_eq!(engine.load().kv_usage, 0.0);
}

#[test]
fn whoever_came_last_makes_room_and_says_the_same_words_later() {
    let mut engine = Engine::new(EngineConfig { blocks: 6, ..config() });
    let first = submit(&mut engine, ms(0), &tokens(1, 8), 12);
    let second = submit(&mut engine, ms(0), &tokens(2, 8), 12);
    let log = run(&mut engine);
    assert!(engine.stats().preemptions > 0);
    assert_eq!(
        engine.stats().request_preemptions.sum(),
        engine.stats().preemptions as f64
    );
    assert!(finished_at(&log, first) < finished_at(&log, second));
    let counts: Vec<u32> = log
        .iter()
        .filter(|(_, e)| e.id == second)
        .map(|(_, e)| e.generated)
        .collect();
    assert_eq!(counts, (1..=12).collect::<Vec<_>>(), "no token is lost or said twice");
}

#[test]
fn a_batch_of_decodes_costs_one_step() {
    let mut engine = Engine::new(EngineConfig {
        timing: Timing {
            token_ns: 0.0,
            ..TIMING
        },
        ..config()
    });
    let ids: Vec<_> = (0..8)
        .map(|family| submit(&mut engine, ms(0), &tokens(family, 1), 10))
        .collect();
    let log = run(&mut engine);
    assert_eq!(finished_at(&log, ids[0]), ms(100));
    assert_eq!(
        finished_at(&log, ids[7]),
        ms(110),
        "the others came after the first step had begun"
    );
}

#[test]
fn an_aborted_sequence_gives_its_blocks_back_at_once() {
    let mut engine = Engine::new(config());
    let id = submit(&mut engine, ms(0), &tokens(1, 30), 100);
    assert!(engine.load().kv_usage > 0.0);
    engine.abort(id);
    assert_eq!((engine.load().kv_usage, engine.load().running), (0.0, 0));
    assert!(run(&mut engine).is_empty());
    assert_eq!(engine.stats().aborted, 1);
    engine.abort(id);
    assert_eq!(engine.stats().aborted, 1);
}

#[test]
fn an_adapter_without_a_slot_is_passed_over() {
    let mut engine = Engine::new(config());
    let with = |adapter, family| Submission {
        adapter,
        ..submission(&tokens(family, 2), 5)
    };
    let mut submit = |adapter, family| {
        engine
            .submit(ms(0), vec![with(adapter, family)], &mut Vec::new())
            .unwrap()[0]
    };
    let (one, other, base) = (submit(Some(0), 1), submit(Some(1), 2), submit(None, 3));
    let log = run(&mut engine);
    assert!(finished_at(&log, base) < finished_at(&log, other));
    assert!(finished_at(&log, one) < finished_at(&log, other));
}

#[test]
fn a_full_queue_refuses_and_counts() {
    let mut engine = Engine::new(EngineConfig {
        max_num_seqs: 1,
        max_queued: 1,
        ..config()
    });
    submit(&mut engine, ms(0), &tokens(1, 2), 5);
    submit(&mut engine, ms(0), &tokens(2, 2), 5);
    let refused = engine.submit(ms(0), vec![submission(&tokens(3, 2), 5)], &mut Vec::new());
    assert_eq!((refused, engine.stats().rejected), (Err(QueueFull), 1));
}

#[test]
fn an_embedding_ends_with_its_prefill() {
    let mut engine = Engine::new(config());
    submit(&mut engine, ms(0), &tokens(1, 10), 0);
    let log = run(&mut engine);
    assert_eq!(log.len(), 1);
    assert_eq!((log[0].0, log[0].1.generated), (ms(20), 0));
    assert_eq!(engine.stats().first_token.count(), 0);
}

#[test]
fn without_delay_the_answer_is_there_when_submit_returns() {
    let timing = Timing {
        overhead_ns: 0.0,
        token_ns: 0.0,
        ..TIMING
    };
    let mut engine = Engine::new(EngineConfig { timing, ..config() });
    let mut events = Vec::new();
    engine
        .submit(ms(5), vec![submission(&tokens(1, 100), 10)], &mut events)
        .unwrap();
    assert_eq!(events.last().unwrap().finished, Some(FinishReason::Length));
    assert_eq!(engine.next_event(), None);
}

#[test]
fn late_wake_ups_do_not_shift_the_steps() {
    let mut engine = Engine::new(config());
    submit(&mut engine, ms(0), &tokens(1, 10), 3);
    let mut events = Vec::new();
    engine.advance(ms(33), &mut events);
    assert_eq!(events.len(), 2);
    assert_eq!(engine.next_event(), Some(ms(42)));
}

#[derive(Debug, Clone)]
enum Action {
    Submit {
        family: u32,
        length: u32,
        answer: u32,
        adapter: Option<usize>,
    },
    Abort(usize),
    Pass(u64),
    SlowDown(f64),
}

fn actions() -> impl Strategy<Value = Vec<Action>> {
    let submit =
        (0..4u32, 1..60u32, 0..20u32, prop::option::of(0..3usize)).prop_map(|(family, length, answer, adapter)| {
            Action::Submit {
                family,
                length,
                answer,
                adapter,
            }
        });
    let action = prop_oneof![
        4 => submit,
        1 => (0..40usize).prop_map(Action::Abort),
        3 => (0..200u64).prop_map(Action::Pass),
        1 => (0.5..3.0f64).prop_map(Action::SlowDown),
    ];
    prop::collection::vec(action, 1..60)
}

fn check(engine: &Engine) {
    let mut holders: HashMap<u32, u32> = HashMap::new();
    for (id, sequence) in &engine.sequences {
        assert_ne!(
            engine.running.contains(id),
            engine.waiting.contains(id),
            "in the batch or in the queue"
        );
        assert!(
            engine.running.contains(id) || sequence.blocks.is_empty(),
            "the queue holds no blocks"
        );
        for block in &sequence.blocks {
            *holders.entry(*block).or_default() += 1;
        }
    }
    for (id, tokens) in engine.step.iter().flat_map(|step| &step.work) {
        if let Some(sequence) = engine.sequences.get(id) {
            let held = sequence.blocks.len() as u32 * engine.config.block_size;
            assert!(held >= sequence.computed + tokens, "what is being computed has a place");
        }
    }
    assert_eq!(
        holders.len() as u32,
        engine.pool.capacity() - engine.pool.free(),
        "held and free are all"
    );
    assert!(engine.running.len() <= engine.config.max_num_seqs as usize);
    assert!(
        engine.sequences.is_empty() || engine.step.is_some(),
        "work is under way"
    );
}

proptest! {
    #[test]
    fn whatever_comes_every_request_ends_and_all_blocks_come_back(actions in actions(), blocks in 20..40u32) {
        let mut engine = Engine::new(EngineConfig { blocks, max_num_seqs: 4, ..config() });
        let (mut now, mut submitted, mut ended) = (ms(0), Vec::new(), BTreeSet::new());
        let mut events = Vec::new();
        for action in actions {
            match action {
                Action::Submit { family, length, answer, adapter } => {
                    let submission = Submission { adapter, ..submission(&tokens(family, length), answer) };
                    if let Ok(ids) = engine.submit(now, vec![submission], &mut events) {
                        submitted.extend(ids);
                    }
                }
                Action::Abort(index) => {
                    if let Some(id) = submitted.get(index) {
                        let before = engine.stats().aborted;
                        engine.abort(*id);
                        if engine.stats().aborted > before {
                            prop_assert!(ended.insert(*id));
                        }
                    }
                }
                Action::Pass(time) => {
                    now += ms(time);
                    engine.advance(now, &mut events);
                }
                Action::SlowDown(factor) => engine.slow_down(factor),
            }
            for event in events.drain(..).filter(|event| event.finished.is_some()) {
                prop_assert!(ended.insert(event.id), "a sequence ends once");
            }
            if !engine.sequences.is_empty() {
                check(&engine);
            }
        }
        for (_, event) in run(&mut engine) {
            if event.finished.is_some() {
                prop_assert!(ended.insert(event.id));
            }
        }
        prop_assert_eq!(ended.len(), submitted.len());
        prop_assert_eq!(engine.pool.free(), blocks);
        prop_assert!(engine.sequences.is_empty());
    }
}
