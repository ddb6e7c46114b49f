//! One of several controllers leads: it holds a Lease of the API server, and alone writes status and events.
//!
//! What must always hold: two never lead at one time, as far as clocks run at one speed (what they show does not matter): a holder that has not
//! renewed for `renew_deadline` leads no more, and others take the Lease only after they have seen it unchanged for `duration`, which is
//! longer. It fails by nobody leading: everything but status and events goes on.

mod election;

use std::time::Duration;

use k8s_openapi::api::coordination::v1::Lease;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::MicroTime;
use kube::Client;
use kube::api::{Api, PostParams};
use prometheus_client::metrics::gauge::Gauge;
use tokio::sync::watch;
use tokio::time::{Instant, sleep, timeout};

use election::{Election, Step};

/// Which Lease, as whom, and its times.
#[derive(Clone, Debug)]
pub struct Settings {
    /// Namespace of the Lease.
    pub namespace: String,
    /// Its name.
    pub name: String,
    /// Who we are: no other has this name.
    pub identity: String,
    /// How long others wait for a holder that does not renew.
    pub duration: Duration,
    /// How long a holder goes on that cannot renew.
    pub renew_deadline: Duration,
    /// Time from one look to the next.
    pub retry: Duration,
}

/// Campaigns, and leads while it can.
#[derive(Debug)]
pub struct Candidate {
    settings: Settings,
    election: Election,
    leading: watch::Sender<bool>,
    gauge: Gauge,
    said: Option<String>,
}

impl Candidate {
    /// A candidate, and where it tells whether it leads; `gauge` is 1 while it does.
    pub fn new(settings: Settings, gauge: Gauge) -> (Self, watch::Receiver<bool>) {
        let (leading, seen) = watch::channel(false);
        let election = Election::new(settings.identity.clone(), settings.duration, settings.renew_deadline);
        let candidate = Self {
            settings,
            election,
            leading,
            gauge,
            said: None,
        };
        (candidate, seen)
    }

    /// Campaigns until `stop` turns true, then gives the Lease back, so that a successor need not wait.
    pub async fn run(mut self, client: Client, mut stop: watch::Receiver<bool>) {
        let api: Api<Lease> = Api::namespaced(client, &self.settings.namespace);
        loop {
            let begun = Instant::now();
            // A call that hangs must not outlast the right to lead.
            let round = timeout(self.settings.retry, self.round(&api)).await;
            let failed = match round {
                Ok(result) => result.err().map(|error| error.to_string()),
                Err(_) => Some("the API server does not answer in time".to_owned()),
            };
            self.say(failed);
            self.lead(self.election.leads(Instant::now()));
            let pause = self.settings.retry.saturating_sub(begun.elapsed());
            // The right may end before the next look.
            let pause = self
                .election
                .leads_until()
                .map_or(pause, |end| pause.min(end.saturating_duration_since(Instant::now())));
            tokio::select! {
                () = sleep(pause) => {}
                _ = stop.wait_for(|stop| *stop) => break,
            }
            self.lead(self.election.leads(Instant::now()));
        }
        if self.election.leads(Instant::now()) {
            self.lead(false);
            let _ = timeout(self.settings.retry, self.release(&api)).await;
        }
    }

    async fn round(&mut self, api: &Api<Lease>) -> kube::Result<()> {
        let found = api.get_opt(&self.settings.name).await?;
        let now = Instant::now();
        self.election.see(found.as_ref(), now);
        let write = match self.election.step(now) {
            Step::Wait => return Ok(()),
            Step::Write => self.lease(found.as_ref(), Some(self.settings.identity.clone())),
        };
        let written = match &found {
            Some(_) => api.replace(&self.settings.name, &PostParams::default(), &write).await,
            None => api.create(&PostParams::default(), &write).await,
        };
        match written {
            // It counts from before the call: others may have seen it at once.
            Ok(lease) => self.election.won(&lease, now),
            // Another was faster: what it wrote is seen in the next round.
            Err(kube::Error::Api(status)) if status.code == 409 => {}
            Err(error) => return Err(error),
        }
        Ok(())
    }

    async fn release(&mut self, api: &Api<Lease>) -> kube::Result<()> {
        let Some(found) = api.get_opt(&self.settings.name).await? else {
            return Ok(());
        };
        let holder = found.spec.as_ref().and_then(|spec| spec.holder_identity.as_deref());
        if holder == Some(&self.settings.identity) {
            let write = self.lease(Some(&found), None);
            api.replace(&self.settings.name, &PostParams::default(), &write).await?;
        }
        Ok(())
    }

    /// The Lease as it is written: with what was found as its base, so that a write after another's fails.
    fn lease(&self, found: Option<&Lease>, holder: Option<String>) -> Lease {
        let mut lease = found.cloned().unwrap_or_default();
        lease.metadata.name = Some(self.settings.name.clone());
        let spec = lease.spec.get_or_insert_default();
        let now = MicroTime(k8s_openapi::jiff::Timestamp::now());
        if spec.holder_identity != holder {
            spec.acquire_time = Some(now.clone());
            let taken = spec.lease_transitions.unwrap_or(0);
            spec.lease_transitions = Some(taken.saturating_add(i32::from(found.is_some() && holder.is_some())));
        }
        spec.renew_time = Some(now);
        spec.lease_duration_seconds = Some(match &holder {
            Some(_) => i32::try_from(self.settings.duration.as_secs()).unwrap_or(i32::MAX),
            None => 1,
        });
        spec.holder_identity = Some(holder.unwrap_or_default());
        lease
    }

    fn lead(&self, leads: bool) {
        let changed = self.leading.send_if_modified(|leading| {
            let changed = *leading != leads;
            *leading = leads;
            changed
        });
        self.gauge.set(i64::from(leads));
        if changed {
            let lease = format!("{}/{}", self.settings.namespace, self.settings.name);
            match leads {
                true => tracing::info!(lease, "this controller leads: it writes status and events"),
                false => tracing::info!(lease, "this controller does not lead any more"),
            }
        }
    }

    /// Says why the Lease cannot be had, once for each reason.
    fn say(&mut self, failed: Option<String>) {
        if failed == self.said {
            return;
        }
        match &failed {
            Some(reason) => tracing::warn!(lease = self.settings.name, "the Lease cannot be looked at: {reason}"),
            None => tracing::info!(lease = self.settings.name, "the Lease can be looked at again"),
        }
        self.said = failed;
    }
}
