//! Controllers as the stories need them: each on a runtime of its own, so that it can die as a process does.

use std::sync::Arc;
use std::time::Duration;

use kthena_controller::clock::Clock;
use kthena_controller::metrics::Metrics;
use kthena_controller::observe::{Share, Table};
use kthena_controller::peers::{self, Credentials, Place};
use kthena_controller::publish::{Access, Bounds, Hub, Server, Settings, Timeouts};
use tokio::runtime::Runtime;

use crate::filter::{Filter, eventually};
use crate::log::Log;
use crate::service;

pub(crate) struct Controller {
    pub(crate) hub: Arc<Hub>,
    pub(crate) table: Arc<Table>,
    pub(crate) share: Arc<Share>,
    pub(crate) metrics: Metrics,
    pub(crate) address: String,
    pub(crate) log: Log,
    runtime: Option<Runtime>,
}

fn settings() -> Settings {
    let usual = service::settings();
    Settings {
        reports: Bounds {
            max_peer_origins: 64,
            // Long enough for a filter to move meanwhile.
            lost_after_ms: 2_000,
            ..usual.reports
        },
        sample_wait_ms: 20,
        ..usual
    }
}

/// A controller that listens.
pub(crate) async fn listening(access: Access) -> Controller {
    let log = Log::default();
    let dispatch = log.dispatch();
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(1)
        // For as long as the thread lives.
        .on_thread_start(move || std::mem::forget(tracing::dispatcher::set_default(&dispatch)))
        .enable_all()
        .build()
        .unwrap();
    let (table, metrics) = (Table::new(), Metrics::default());
    let hub = Hub::new(settings(), Arc::clone(&table), Clock::start(), metrics.publish.clone());
    let timeouts = Timeouts {
        hello: Duration::from_secs(5),
        send: Duration::from_secs(60),
        tick: Duration::from_millis(10),
    };
    let publish = metrics.publish.clone();
    let (serving, address) = (Arc::clone(&hub), "127.0.0.1:0".parse().unwrap());
    // A listener belongs to the runtime that it was bound on.
    let bound = runtime.spawn(async move {
        Server::bind(&address, access, serving, timeouts, publish)
            .await
            .unwrap()
    });
    let server = bound.await.unwrap();
    let address = format!("127.0.0.1:{}", server.local_addr().unwrap().port());
    runtime.spawn(server.run(std::future::pending()));
    Controller {
        share: Arc::new(Share::new(hub.instance())),
        hub,
        table,
        metrics,
        address,
        log,
        runtime: Some(runtime),
    }
}

pub(crate) fn open_access() -> Access {
    Access {
        peer_names: vec!["127.0.0.1".into()],
        ..Access::default()
    }
}

impl Controller {
    pub(crate) fn follow(&self, places: &[&str], tls: Option<Credentials>) {
        let settings = peers::Settings {
            places: places.iter().map(|place| place.parse::<Place>().unwrap()).collect(),
            tls,
            token_file: None,
            own_port: self.port(),
            lookup: Duration::from_millis(100),
            timeout: Duration::from_secs(2),
            max: 8,
        };
        let (hub, share) = (Arc::clone(&self.hub), Arc::clone(&self.share));
        let metrics = self.metrics.publish.peers.clone();
        self.spawn(peers::run(settings, hub, share, metrics));
    }

    pub(crate) fn port(&self) -> u16 {
        self.address.rsplit(':').next().unwrap().parse().unwrap()
    }

    pub(crate) fn spawn(&self, task: impl Future<Output = ()> + Send + 'static) {
        self.runtime.as_ref().unwrap().spawn(task);
    }

    /// It dies, as a process does that is killed.
    pub(crate) fn die(&mut self) {
        self.runtime.take().unwrap().shutdown_background();
    }

    /// How many controllers it follows.
    pub(crate) fn peers(&self) -> i64 {
        self.metrics.publish.peers.followed.get()
    }
}

impl Drop for Controller {
    fn drop(&mut self) {
        if self.runtime.is_some() {
            self.die();
        }
    }
}

/// Two controllers that follow each other; each is told where both are.
pub(crate) async fn pair() -> [Controller; 2] {
    let pair = [listening(open_access()).await, listening(open_access()).await];
    // A name, as a Service has one.
    let places = pair.each_ref().map(|one| one.address.replace("127.0.0.1", "localhost"));
    for one in &pair {
        one.follow(&places.each_ref().map(String::as_str), None);
    }
    eventually("they follow each other", || pair.iter().all(|one| one.peers() == 1)).await;
    pair
}

pub(crate) async fn filter(controller: &Controller, origin: &str) -> Filter {
    let mut filter = Filter::connect(&controller.address, origin, Vec::new()).await;
    filter.until("state", |f| f.synced).await;
    filter
}
