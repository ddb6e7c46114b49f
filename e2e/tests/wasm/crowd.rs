//! Nine hundred filters lose the controller at one time and come back to it: all have the state again, and those in Envoy go on serving.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering::Relaxed};
use std::time::{Duration, Instant};

use kthena_e2e::client::Client;
use kthena_e2e::process::wait_until;
use kthena_e2e::system::manifests::model_route;
use kthena_e2e::system::{Part, System};
use kthena_ext_proc::state::{Controller, Credentials, Sizes, State, Subscription, Timing};
use tokio::sync::{mpsc, watch};
use tokio::task::JoinHandle;

use crate::{SOON, llama, metric, new_question, start, wait_in_flight};

const FILTERS: usize = 900;

/// All are back within this time of the controller's start, or it cannot stand the crowd.
const BACK_WITHIN: Duration = Duration::from_secs(20);

/// Subscribers that speak the protocol for themselves, and begin again whenever their stream ends.
struct Crowd {
    states: Vec<Arc<State>>,
    _stop: watch::Sender<bool>,
}

impl Crowd {
    fn gather(url: &str) -> Self {
        let (stop, stopping) = watch::channel(false);
        let states = (0..FILTERS).map(|_| {
            let state = State::new(&Sizes {
                max_endpoints: 8,
                prefix_index_bytes: 64 << 10,
                outbox: 10,
            });
            let controller = Controller::new(url, Credentials::default()).unwrap();
            let (settlements, _) = mpsc::channel(1);
            let subscription = Subscription::new(Arc::clone(&state), controller, Timing::default(), settlements);
            tokio::spawn(subscription.run(stopping.clone()));
            state
        });
        Self {
            states: states.collect(),
            _stop: stop,
        }
    }

    /// How many have a stream, and know a model of this name.
    fn know(&self, model: &str) -> usize {
        let knows = |state: &&Arc<State>| {
            let known = state.snapshot().is_some_and(|snapshot| snapshot.routes.knows(model));
            known && state.status().connected
        };
        self.states.iter().filter(knows).count()
    }
}

/// One question after the other, of which none may be lost. It is the same each time, so that there is no news of it to tell the crowd.
struct Trickle {
    stop: Arc<AtomicBool>,
    answered: Arc<AtomicUsize>,
    asking: JoinHandle<()>,
}

impl Trickle {
    fn start(system: &System) -> Self {
        let (stop, answered) = (Arc::<AtomicBool>::default(), Arc::<AtomicUsize>::default());
        let (client, ask) = (Client::http1(system.address()), new_question("llama"));
        let (stopped, count) = (Arc::clone(&stop), Arc::clone(&answered));
        let asking = tokio::spawn(async move {
            while !stopped.load(Relaxed) {
                let answer = client.send(ask.clone()).await.unwrap();
                assert_eq!(answer.status, 200, "{}", answer.text());
                count.fetch_add(1, Relaxed);
            }
        });
        Self { stop, answered, asking }
    }

    async fn goes_on(&self, more: usize) {
        let goal = self.answered.load(Relaxed) + more;
        wait_until("more answers", SOON, async || self.answered.load(Relaxed) >= goal)
            .await
            .unwrap();
    }

    async fn stop(self) {
        self.stop.store(true, Relaxed);
        self.asking.await.unwrap();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn nine_hundred_come_back_at_once_and_nobody_notices() {
    let mut system = start(llama(3)).await;
    let crowd = Crowd::gather(&format!("http://{}", system.state_address()));
    wait_until("all to have subscribed", SOON, async || crowd.know("llama") == FILTERS)
        .await
        .unwrap();
    let load = Trickle::start(&system);
    load.goes_on(50).await;

    system.kill(Part::Controller).unwrap();
    wait_until("the loss to be told", SOON, async || {
        metric(&system, "kthena_connected").await == 0
    })
    .await
    .unwrap();
    load.goes_on(50).await;
    system
        .manifests()
        .write("more.yaml", &[model_route("second", "llama-2", "llama")])
        .unwrap();
    system.restart(Part::Controller).await.unwrap();
    let begun = Instant::now();
    wait_until("all to be back", BACK_WITHIN, async || crowd.know("llama-2") == FILTERS)
        .await
        .unwrap_or_else(|error| panic!("{error:#}: {} are", crowd.know("llama-2")));
    eprintln!("{FILTERS} filters were back {:?} after the controller", begun.elapsed());
    wait_until("those in Envoy to be back", SOON, async || {
        metric(&system, "kthena_connected").await > 0
    })
    .await
    .unwrap();
    load.goes_on(50).await;
    load.stop().await;
    let page = system.controller().page("/metrics").await.unwrap();
    assert!(
        !page.contains("kthena_controller_subscriptions_rejected_total{"),
        "{page}"
    );
    wait_in_flight(&system, 3, 0.0).await;
}
