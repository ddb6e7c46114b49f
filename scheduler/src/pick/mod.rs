//! Filter, score, pick: which endpoints of a ModelServer get a request, in order.
//!
//! What must always hold: a decision is a pure function of the picture, the request and its seed, so that it can be
//! replayed; it allocates nothing once its [`Scratch`] has grown to the size of the ModelServer; its cost is linear in
//! endpoints and independent of the length of the prompt but for its checkpoints. An endpoint that was observed to be
//! unable to serve is a candidate only if all are. It fails in one way: there is no endpoint at all.

mod choose;
mod rehearse;
mod scratch;

use crate::draws::mix;
use crate::load::{Fleet, View};
use crate::prefix::chain::BlockChain;
use crate::prefix::{Holder, PrefixIndex, keys};
use crate::profile::{Candidates, Profile, Subject, demand};
use crate::snapshot::{Endpoint, ModelServer};
use crate::time::Time;

pub use choose::{MAX_ENDPOINTS, Order};
pub use rehearse::{Again, Role, rehearse};
pub(crate) use scratch::Fate;
pub use scratch::Scratch;

/// What a decision asks about a request.
#[derive(Clone, Copy, Debug)]
pub struct Ask<'a> {
    /// The prompt; `None` when there is none, or when no profile looks at it.
    pub chain: Option<&'a BlockChain>,
    /// What else makes equal prompts differ: ModelServer, adapter, salt.
    pub context: u64,
    /// The name under which the engine knows what is asked for: adapter or served model, never the client's alias.
    pub model: &'a str,
    /// Tokens of the prompt, exact or estimated.
    pub prompt_tokens: u64,
    /// The request's randomness.
    pub seed: u64,
    /// Now.
    pub now: Time,
}

/// Where a request goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Decision {
    /// Positions in the endpoints of the ModelServer: the first, then those to retry at.
    pub endpoints: Order,
    /// Prompt blocks that the first one is believed to hold.
    pub matched_blocks: u32,
    /// Blocks of the prompt that were looked at.
    pub total_blocks: u32,
    /// Prompt tokens that the first one is believed not to hold.
    pub uncached_tokens: u64,
    /// The filters left nobody: the order is by load alone, and the caller may refuse the request instead.
    pub saturated: bool,
}

/// Decides where a request goes; `None` when the ModelServer has no endpoint at all.
pub fn decide(
    server: &ModelServer,
    fleet: &Fleet,
    index: &PrefixIndex,
    ask: &Ask<'_>,
    scratch: &mut Scratch,
) -> Option<Decision> {
    scratch.clear();
    let saturated = gather(server, fleet, ask, scratch);
    if scratch.at.is_empty() {
        return None;
    }
    let total_blocks = look_up(server, index, ask, scratch);
    let unit = match saturated {
        true => by_load(scratch),
        false => score(&server.profile, total_blocks, ask.seed, scratch),
    };
    let head = ask.chain.filter(|_| total_blocks > 0).and_then(BlockChain::head);
    let endpoints = match head {
        Some(head) if !saturated && scratch.matched.iter().all(|blocks| *blocks == 0) => {
            choose::by_head(server, scratch, unit, mix(ask.context, head))
        }
        _ => choose::by_score(scratch, unit, ask.seed),
    };
    let first = *endpoints.first()?;
    let matched_blocks = scratch.overlap.blocks(server.slots[first as usize]);
    Some(Decision {
        endpoints,
        matched_blocks,
        total_blocks,
        uncached_tokens: uncached(ask, matched_blocks),
        saturated,
    })
}

/// The prefix index' name for an endpoint under the profile that schedules it; `None` when that profile keeps none.
pub fn holder(profile: &Profile, endpoint: &Endpoint) -> Option<Holder> {
    profile.residency().map(|residency| Holder {
        slot: endpoint.slot.index(),
        capacity: residency.capacity_of(endpoint.kv_capacity_tokens),
    })
}

/// Finds the candidates and their load; whether the filters left none, in which case all that are up are candidates.
fn gather(server: &ModelServer, fleet: &Fleet, ask: &Ask<'_>, scratch: &mut Scratch) -> bool {
    for (at, slot) in server.slots.iter().enumerate() {
        let view = fleet.view(*slot, ask.now);
        let fate = fate(server, at, &view, ask);
        scratch.fates.push(fate);
        if fate == Fate::Candidate {
            scratch.at.push(at as u32);
            scratch.views.push(view);
        }
    }
    if !scratch.at.is_empty() {
        return false;
    }
    let all_down = scratch.fates.iter().all(|fate| *fate == Fate::Down);
    for (at, slot) in server.slots.iter().enumerate() {
        if all_down || scratch.fates[at] != Fate::Down {
            scratch.at.push(at as u32);
            scratch.views.push(fleet.view(*slot, ask.now));
        }
    }
    !all_down
}

fn fate(server: &ModelServer, at: usize, view: &View, ask: &Ask<'_>) -> Fate {
    if view.down {
        return Fate::Down;
    }
    let subject = Subject {
        view,
        models: &|| &server.endpoints[at].models,
        model: ask.model,
    };
    let filters = server.profile.filters().iter();
    match filters.zip(0u8..).find(|(filter, _)| !filter.plugin.keep(&subject)) {
        Some((_, position)) => Fate::Filtered(position),
        None => Fate::Candidate,
    }
}

/// Finds what of the prompt the candidates hold; how many blocks were looked at, 0 = there is nothing to hold.
fn look_up(server: &ModelServer, index: &PrefixIndex, ask: &Ask<'_>, scratch: &mut Scratch) -> u32 {
    let mut total_blocks = 0;
    scratch.overlap.begin();
    if let (Some(chain), Some(residency)) = (ask.chain, server.profile.residency()) {
        let most = residency.max_blocks.map_or(u32::MAX, |most| most.get());
        total_blocks = chain.blocks.min(most);
        scratch.keys.extend(keys(chain, ask.context, most));
        for at in &scratch.at {
            scratch.overlap.admit(server.slots[*at as usize]);
        }
        index.look_up(&scratch.keys, residency.top.get(), &mut scratch.overlap);
    }
    for at in &scratch.at {
        scratch.matched.push(scratch.overlap.blocks(server.slots[*at as usize]));
    }
    total_blocks
}

/// Lets the profile's plugins score the candidates and sums up; the average weight of a score.
///
/// A candidate that a plugin does not score counts as the average of those it does: it is neither favoured nor dropped.
fn score(profile: &Profile, total_blocks: u32, seed: u64, scratch: &mut Scratch) -> f32 {
    let len = scratch.at.len();
    let scores = profile.scores();
    scratch.points.resize(scores.len() * len, 0.0);
    scratch.totals.resize(len, 0.0);
    let candidates = Candidates {
        views: &scratch.views,
        matched: &scratch.matched,
        total_blocks,
        seed,
    };
    for (score, points) in scores.iter().zip(scratch.points.chunks_exact_mut(len)) {
        score.plugin.score(&candidates, points);
        let average = average(points);
        let weight = score.weight as f32;
        for (total, point) in scratch.totals.iter_mut().zip(points.iter()) {
            *total += weight * if point.is_nan() { average } else { *point };
        }
    }
    let weights: f32 = scores.iter().map(|score| score.weight as f32).sum();
    weights / scores.iter().filter(|score| score.weight > 0).count().max(1) as f32
}

/// The average of the points that were given, 0 when there are none.
fn average(points: &[f32]) -> f32 {
    // Eight sums side by side, since one alone waits for each addition before the next.
    let (mut sums, mut counts) = ([0.0f32; 8], [0.0f32; 8]);
    for chunk in points.chunks(8) {
        for ((sum, count), point) in sums.iter_mut().zip(&mut counts).zip(chunk) {
            let scored = !point.is_nan();
            *sum += if scored { *point } else { 0.0 };
            *count += if scored { 1.0 } else { 0.0 };
        }
    }
    sums.iter().sum::<f32>() / counts.iter().sum::<f32>().max(1.0)
}

/// Ranks the candidates by load alone, a point a request, when the filters left none.
fn by_load(scratch: &mut Scratch) -> f32 {
    scratch.totals.extend(scratch.views.iter().map(|view| -demand(view)));
    // The draw is among those within one request of the least loaded.
    0.1
}

fn uncached(ask: &Ask<'_>, matched_blocks: u32) -> u64 {
    // The share is of the whole prompt, not of the part that the profile looks at: the rest is not known to be held.
    let blocks = ask.chain.map_or(0, |chain| chain.blocks);
    if blocks == 0 {
        return ask.prompt_tokens;
    }
    let missing = u64::from(blocks.saturating_sub(matched_blocks));
    (u128::from(ask.prompt_tokens) * u128::from(missing) / u128::from(blocks)) as u64
}

#[cfg(test)]
pub(crate) mod fixture;

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::fixture::{Site, ask, profile, prompt};
    use super::*;
    use crate::prefix::IndexConfig;

    fn site(endpoints: u32) -> Site {
        Site::new(endpoints, Profile::default_profile())
    }

    #[test]
    fn a_conversation_stays_where_its_beginning_is_although_others_are_idle() {
        let mut site = site(8);
        let first = prompt(&"once upon a time ".repeat(40));
        let home = site.dispatch(&ask(Some(&first), 1));
        site.busy(home, 4);
        let second = prompt(&("once upon a time ".repeat(40) + "there was a king"));
        for seed in 0..50 {
            let decision = site.decide(&ask(Some(&second), seed));
            assert_eq!(decision.endpoints[0], home);
            assert!(
                decision.matched_blocks >= 10 && decision.uncached_tokens < 200,
                "{decision:?}"
            );
        }
    }

    #[test]
    fn a_conversation_leaves_a_home_that_is_overloaded() {
        let mut site = site(8);
        let chain = prompt(&"once upon a time ".repeat(40));
        let home = site.dispatch(&ask(Some(&chain), 1));
        site.busy(home, 60);
        assert_ne!(site.decide(&ask(Some(&chain), 2)).endpoints[0], home);
    }

    #[test]
    fn deciders_that_never_met_send_a_cold_prompt_to_the_same_place() {
        let chain = prompt("a system prompt that nobody has seen");
        let choices: Vec<_> = (0..20)
            .map(|decider| {
                let mut site = site(50);
                site.busy(decider % 50, 3);
                site.decide(&ask(Some(&chain), u64::from(decider))).endpoints[0]
            })
            .collect();
        let agreed = choices.iter().filter(|choice| **choice == choices[0]).count();
        assert!(agreed >= 19, "{choices:?}");
    }

    #[test]
    fn cold_prompts_spread_over_all_and_pass_by_the_overloaded() {
        let mut site = site(10);
        site.busy(3, 30);
        let mut counts = [0; 10];
        for n in 0..1_000 {
            let chain = prompt(&format!("question {n}"));
            counts[site.decide(&ask(Some(&chain), 0)).endpoints[0] as usize] += 1;
        }
        assert_eq!(counts[3], 0);
        assert!(counts.iter().filter(|n| **n > 70).count() == 9, "{counts:?}");
    }

    #[test]
    fn equals_share_the_requests_that_have_no_prompt() {
        let mut site = site(4);
        let mut counts = [0; 4];
        for seed in 0..1_000 {
            counts[site.decide(&ask(None, seed)).endpoints[0] as usize] += 1;
        }
        assert!(counts.iter().all(|n| *n > 180), "{counts:?}");
    }

    #[test]
    fn a_decision_can_be_replayed() {
        let mut site = site(20);
        let once: Vec<_> = (0..50).map(|seed| site.decide(&ask(None, seed))).collect();
        let again: Vec<_> = (0..50).map(|seed| site.decide(&ask(None, seed))).collect();
        assert_eq!(once, again);
    }

    #[test]
    fn the_order_names_five_endpoints_each_once() {
        let mut site = site(9);
        (0..9).for_each(|at| site.busy(at, at * 20));
        let chain = prompt("hello");
        for chain in [None, Some(&chain)] {
            let mut order = site.decide(&ask(chain, 7)).endpoints.to_vec();
            order.sort_unstable();
            order.dedup();
            assert_eq!(order.len(), 5);
        }
    }

    #[test]
    fn an_endpoint_that_is_down_gets_nothing_unless_all_are() {
        let mut site = site(3);
        site.down(0);
        site.down(2);
        let decision = site.decide(&ask(None, 3));
        assert_eq!(
            (decision.endpoints.as_slice(), decision.saturated),
            ([1].as_slice(), false)
        );
        site.down(1);
        assert_eq!(site.decide(&ask(None, 3)).endpoints.len(), 3);
    }

    #[test]
    fn when_filters_leave_nobody_the_least_loaded_serves_and_it_is_said() {
        let mut site = site(3);
        site.waiting(0, 90);
        site.waiting(1, 30);
        site.waiting(2, 60);
        let decision = site.decide(&ask(Some(&prompt("hello")), 3));
        assert!(decision.saturated);
        assert_eq!(decision.endpoints.as_slice(), [1, 2, 0]);
    }

    #[test]
    fn a_profile_without_scores_or_without_anything_to_match_still_has_candidates() {
        for scores in [&[][..], &["prefix-cache"][..], &["gpu-usage"][..], &["random"][..]] {
            let mut site = Site::new(4, profile(&[], scores));
            assert_eq!(site.decide(&ask(None, 1)).endpoints.len(), 4, "{scores:?}");
        }
    }

    #[test]
    fn a_model_server_without_endpoints_decides_nothing() {
        let Site { server, fleet, .. } = site(0);
        let index = PrefixIndex::new(IndexConfig {
            max_bytes: 0,
            max_endpoints: 0,
        });
        assert_eq!(
            decide(&server, &fleet, &index, &ask(None, 1), &mut Scratch::default()),
            None
        );
    }

    proptest! {
        #[test]
        fn any_picture_gives_an_order_of_distinct_endpoints_that_can_be_replayed(
            loads in proptest::collection::vec((0..200u32, 0..30u32, any::<bool>()), 1..40),
            seed in any::<u64>(),
            prompts in proptest::collection::vec("[a-c]{0,200}", 1..6),
        ) {
            let mut site = site(loads.len() as u32);
            for (at, (busy, waiting, down)) in loads.iter().enumerate() {
                site.busy(at as u32, *busy);
                site.waiting(at as u32, *waiting);
                if *down {
                    site.down(at as u32);
                }
            }
            let up = loads.iter().filter(|(.., down)| !down).count();
            for text in &prompts {
                let chain = prompt(text);
                let decision = site.decide(&ask(Some(&chain), seed));
                prop_assert_eq!(decision, site.decide(&ask(Some(&chain), seed)));
                let mut order = decision.endpoints.to_vec();
                prop_assert!(order.iter().all(|at| (*at as usize) < loads.len()));
                prop_assert!(up == 0 || order.iter().all(|at| !loads[*at as usize].2));
                prop_assert!(decision.matched_blocks <= decision.total_blocks && decision.uncached_tokens <= 1_000);
                order.sort_unstable();
                order.dedup();
                prop_assert_eq!(order.len(), decision.endpoints.len());
                site.dispatch(&ask(Some(&chain), seed));
            }
        }
    }
}
