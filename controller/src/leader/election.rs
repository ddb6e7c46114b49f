//! Who leads, as one candidate sees it. No I/O; time is an argument, and is this machine's own: what another machine wrote into the Lease is
//! compared with what it wrote before, never with a clock here, so that clocks that differ do no harm.

use std::time::Duration;

use k8s_openapi::api::coordination::v1::Lease;
use tokio::time::Instant;

/// What is to be done.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Step {
    /// Another holds it.
    Wait,
    /// Take it, or renew it.
    Write,
}

/// One candidate's view.
#[derive(Debug)]
pub(super) struct Election {
    identity: String,
    duration: Duration,
    renew_deadline: Duration,
    /// The Lease as it was last seen, and since when it has been so.
    seen: Option<(Seen, Instant)>,
    /// When it was ours for certain.
    renewed: Option<Instant>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
struct Seen {
    version: Option<String>,
    holder: String,
}

impl Election {
    pub(super) fn new(identity: String, duration: Duration, renew_deadline: Duration) -> Self {
        Self {
            identity,
            duration,
            renew_deadline,
            seen: None,
            renewed: None,
        }
    }

    /// Takes in what the API server holds now.
    pub(super) fn see(&mut self, lease: Option<&Lease>, now: Instant) {
        let Some(lease) = lease else {
            self.seen = None;
            return;
        };
        let holder = lease.spec.as_ref().and_then(|spec| spec.holder_identity.clone());
        let seen = Seen {
            version: lease.metadata.resource_version.clone(),
            holder: holder.unwrap_or_default(),
        };
        if seen.holder != self.identity {
            self.renewed = None;
        }
        if self.seen.as_ref().is_none_or(|(before, _)| *before != seen) {
            self.seen = Some((seen, now));
        }
    }

    /// What is to be done about what was seen.
    pub(super) fn step(&self, now: Instant) -> Step {
        match &self.seen {
            Some((seen, since)) if !seen.holder.is_empty() && seen.holder != self.identity => {
                match now.duration_since(*since) > self.duration {
                    true => Step::Write,
                    false => Step::Wait,
                }
            }
            _ => Step::Write,
        }
    }

    /// Our write has been taken, which was begun at `at`.
    pub(super) fn won(&mut self, lease: &Lease, at: Instant) {
        self.see(Some(lease), at);
        self.renewed = Some(at);
    }

    /// Until when this candidate leads if it does not renew; `None` = it does not lead.
    pub(super) fn leads_until(&self) -> Option<Instant> {
        self.renewed.map(|renewed| renewed + self.renew_deadline)
    }

    /// Whether this candidate leads.
    pub(super) fn leads(&self, now: Instant) -> bool {
        self.leads_until().is_some_and(|end| now < end)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    const DURATION: Duration = Duration::from_secs(10);
    const DEADLINE: Duration = Duration::from_secs(6);

    fn lease(holder: &str, version: u32) -> Lease {
        serde_json::from_value(json!({
            "metadata": {"name": "l", "resourceVersion": version.to_string()},
            // A clock that is an hour ahead says nothing.
            "spec": {"holderIdentity": holder, "renewTime": "2100-01-01T00:00:00.000000Z", "leaseDurationSeconds": 10},
        }))
        .unwrap()
    }

    fn candidate() -> Election {
        Election::new("me".into(), DURATION, DEADLINE)
    }

    #[test]
    fn a_lease_of_nobody_is_taken_and_led_until_the_deadline() {
        let start = Instant::now();
        let mut me = candidate();
        me.see(None, start);
        assert_eq!(me.step(start), Step::Write);
        assert!(!me.leads(start), "not before it is written");
        me.won(&lease("me", 1), start);
        assert!(me.leads(start + DEADLINE - Duration::from_millis(1)));
        assert!(!me.leads(start + DEADLINE), "it could not renew");
        // Given back.
        let mut other = candidate();
        other.see(Some(&lease("", 2)), start);
        assert_eq!(other.step(start), Step::Write);
    }

    #[test]
    fn anothers_lease_is_taken_after_it_was_seen_unchanged_for_its_duration_whatever_its_times_say() {
        let start = Instant::now();
        let mut me = candidate();
        me.see(Some(&lease("other", 1)), start);
        assert_eq!(me.step(start + DURATION), Step::Wait);
        // Renewed: the wait begins anew.
        let renewed = start + DURATION;
        me.see(Some(&lease("other", 2)), renewed);
        assert_eq!(me.step(renewed + DURATION), Step::Wait);
        me.see(Some(&lease("other", 2)), renewed + DURATION);
        assert_eq!(me.step(renewed + DURATION + Duration::from_millis(1)), Step::Write);
    }

    #[test]
    fn a_leader_that_sees_another_in_its_place_leads_no_more() {
        let start = Instant::now();
        let mut me = candidate();
        me.won(&lease("me", 1), start);
        me.see(Some(&lease("other", 2)), start);
        assert!(!me.leads(start));
        assert_eq!(me.step(start), Step::Wait);
    }
}
