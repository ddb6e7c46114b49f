//! What one endpoint's answers add up to: the state between scrapes, without any I/O.
//!
//! What must always hold: a failed scrape changes no value, it only counts towards `down`; the first success ends
//! `down`; a restart of the engine, however it shows (its start time, or histograms that fell), gives a new incarnation
//! and makes the list of models due.

use std::sync::Arc;

use kthena_scheduler::time::Time;

use super::latency::Tracker;
use super::observation::Observation;
use super::parse::Reading;
use crate::compile::Fact;

/// The state of one endpoint.
#[derive(Debug)]
pub(super) struct Probe {
    /// Failures in a row after which it is down.
    down_after: u32,
    failures: u32,
    ttft: Tracker,
    tpot: Tracker,
    observation: Observation,
    /// Whether `/v1/models` must be asked whatever the time.
    models_due: bool,
    /// Whether `/health` failed last: it is asked at every scrape until it does not.
    unhealthy: bool,
}

// === impl Probe ===

impl Probe {
    pub(super) fn new(down_after: u32) -> Self {
        Self {
            down_after,
            failures: 0,
            ttft: Tracker::default(),
            tpot: Tracker::default(),
            observation: Observation::default(),
            models_due: true,
            unhealthy: false,
        }
    }

    /// Goes on from what another saw who looked at the endpoint meanwhile: it is the same endpoint, and no interval is measured over the gap.
    pub(super) fn resume(&mut self, seen: Observation) {
        self.failures = if seen.down { self.down_after } else { 0 };
        self.ttft = Tracker::default();
        self.tpot = Tracker::default();
        self.models_due = seen.fact.models.is_empty();
        self.observation = seen;
    }

    /// Takes the metrics of a scrape. `unix_ms` names a restart of an engine that does not tell its start time.
    pub(super) fn read(&mut self, reading: &Reading, now: Time, unix_ms: u64) {
        let seen = &mut self.observation;
        seen.sample = reading.sample;
        seen.sampled_at = Some(now);
        let ttft = self.ttft.step(reading.ttft);
        let tpot = self.tpot.step(reading.tpot);
        seen.latency.ttft = ttft.mean.or(seen.latency.ttft);
        seen.latency.tpot = tpot.mean.or(seen.latency.tpot);
        if ttft.mean.is_some() || tpot.mean.is_some() {
            seen.latency_at = now;
        }
        let incarnation = match reading.started_ms {
            Some(started) => started,
            None if ttft.reset || tpot.reset => unix_ms,
            None => seen.fact.incarnation,
        };
        let restarted = incarnation != seen.fact.incarnation;
        self.models_due |= restarted;
        if restarted || reading.kv_capacity_tokens != seen.fact.kv_capacity_tokens {
            seen.fact = Arc::new(Fact {
                incarnation,
                models: seen.fact.models.clone(),
                kv_capacity_tokens: reading.kv_capacity_tokens,
            });
        }
    }

    /// Takes the answer of `/v1/models`.
    pub(super) fn list(&mut self, mut models: Vec<String>) {
        self.models_due = false;
        models.sort();
        models.dedup();
        if self.observation.fact.models != models {
            let mut fact = Fact::clone(&self.observation.fact);
            fact.models = models;
            self.observation.fact = Arc::new(fact);
        }
    }

    /// Takes the answer of `/health`.
    pub(super) fn health(&mut self, healthy: bool) {
        self.unhealthy = !healthy;
    }

    /// Whether `/v1/models` must be asked whatever the time.
    pub(super) fn models_due(&self) -> bool {
        self.models_due
    }

    /// Whether `/health` must be asked whatever the time.
    pub(super) fn unhealthy(&self) -> bool {
        self.unhealthy
    }

    /// Ends a scrape and returns what is known now.
    pub(super) fn end(&mut self, succeeded: bool) -> Observation {
        if succeeded {
            self.failures = 0;
            self.observation.down = false;
        } else {
            self.failures = self.failures.saturating_add(1);
            self.observation.down |= self.failures >= self.down_after;
        }
        self.observation.clone()
    }
}

#[cfg(test)]
mod tests {
    use super::super::parse::Sums;
    use super::*;

    fn reading(started_ms: Option<u64>, ttft_sum: f64, count: f64) -> Reading {
        Reading {
            ttft: Some(Sums { sum: ttft_sum, count }),
            started_ms,
            ..Reading::default()
        }
    }

    #[test]
    fn failures_age_the_data_and_three_in_a_row_take_it_out_until_a_success() {
        let mut probe = Probe::new(3);
        probe.read(&reading(Some(5), 1.0, 1.0), Time::from_millis(100), 0);
        let first = probe.end(true);
        assert_eq!((first.down, first.sampled_at), (false, Some(Time::from_millis(100))));
        assert!(!probe.end(false).down);
        assert!(!probe.end(false).down);
        let third = probe.end(false);
        assert!(third.down);
        assert_eq!(third.sampled_at, first.sampled_at, "what is known only grows old");
        assert!(!probe.end(true).down);
        assert!(!probe.end(false).down, "failures count in a row");
    }

    #[test]
    fn latency_keeps_the_time_of_the_interval_that_had_samples() {
        let mut probe = Probe::new(3);
        probe.read(&reading(None, 1.0, 1.0), Time::from_millis(100), 0);
        probe.read(&reading(None, 1.5, 2.0), Time::from_millis(200), 0);
        probe.read(&reading(None, 1.5, 2.0), Time::from_millis(300), 0);
        let seen = probe.end(true);
        assert_eq!(
            (seen.latency.ttft, seen.latency_at),
            (Some(0.5), Time::from_millis(200))
        );
        assert_eq!(seen.sampled_at, Some(Time::from_millis(300)));
    }

    #[test]
    fn a_restart_is_another_incarnation_whose_models_are_asked_anew() {
        let mut probe = Probe::new(3);
        probe.read(&reading(Some(5), 9.0, 9.0), Time::from_millis(100), 77);
        probe.list(vec!["b".into(), "a".into()]);
        assert!(!probe.models_due());
        probe.read(&reading(Some(6), 0.0, 0.0), Time::from_millis(200), 78);
        assert!(probe.models_due());
        assert_eq!(probe.end(true).fact.incarnation, 6);

        let mut silent = Probe::new(3);
        silent.read(&reading(None, 9.0, 9.0), Time::from_millis(100), 77);
        assert_eq!(silent.end(true).fact.incarnation, 0, "an engine that does not tell");
        silent.read(&reading(None, 1.0, 1.0), Time::from_millis(200), 78);
        assert_eq!(silent.end(true).fact.incarnation, 78, "its histograms fell");
        silent.read(&reading(None, 2.0, 2.0), Time::from_millis(300), 79);
        assert_eq!(silent.end(true).fact.incarnation, 78);
    }

    #[test]
    fn who_takes_an_endpoint_over_makes_no_other_of_it() {
        let mut first = Probe::new(3);
        first.read(&reading(None, 9.0, 9.0), Time::from_millis(100), 77);
        first.read(&reading(None, 1.0, 1.0), Time::from_millis(200), 78);
        first.list(vec!["a".into()]);
        let seen = first.end(true);
        assert_eq!(seen.fact.incarnation, 78);

        let mut second = Probe::new(3);
        second.read(&reading(None, 0.0, 0.0), Time::from_millis(100), 77);
        second.resume(seen.clone());
        assert!(!second.models_due());
        assert_eq!(second.end(false), seen, "what is known only grows old");
        second.read(&reading(None, 5.0, 5.0), Time::from_millis(300), 79);
        let next = second.end(true);
        assert_eq!((&next.fact, next.latency), (&seen.fact, seen.latency));
        second.read(&reading(None, 7.0, 6.0), Time::from_millis(400), 80);
        assert_eq!(second.end(true).latency.ttft, Some(2.0));
    }

    #[test]
    fn one_that_is_down_stays_so_until_it_answers() {
        let mut probe = Probe::new(3);
        probe.resume(Observation {
            down: true,
            ..Observation::default()
        });
        assert!(probe.end(false).down);
        assert!(!probe.end(true).down);
    }
}
