//! Requests one after the other on a few connections, while something else happens.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering::Relaxed};
use std::time::Instant;

use kthena_e2e::client::Client;
use kthena_e2e::process::wait_until;
use kthena_e2e::system::System;
use tokio::task::JoinHandle;

use crate::{SOON, new_question};

/// Connections, each with one request at a time.
pub(crate) const CONNECTIONS: usize = 8;

/// Traffic that goes on until it is stopped.
pub(crate) struct Load {
    stop: Arc<AtomicBool>,
    answered: Arc<AtomicUsize>,
    connections: Vec<JoinHandle<Vec<Lost>>>,
}

/// A request that was not answered by 200.
#[derive(Debug)]
pub(crate) struct Lost {
    /// When it was sent.
    pub(crate) begun: Instant,
    /// What came instead.
    pub(crate) outcome: String,
}

impl Load {
    /// Asks for `llama`, a new question every time.
    pub(crate) fn start(system: &System) -> Self {
        let (stop, answered) = (Arc::<AtomicBool>::default(), Arc::<AtomicUsize>::default());
        let connection = |_| {
            let client = Client::http1(system.address());
            tokio::spawn(ask_on(client, Arc::clone(&stop), Arc::clone(&answered)))
        };
        Self {
            connections: (0..CONNECTIONS).map(connection).collect(),
            stop,
            answered,
        }
    }

    /// Waits until so many more requests were answered by 200.
    pub(crate) async fn goes_on(&self, more: usize) {
        let goal = self.answered.load(Relaxed) + more;
        wait_until(&format!("{more} more answers"), SOON, async || {
            self.answered.load(Relaxed) >= goal
        })
        .await
        .unwrap();
    }

    /// Ends the traffic, and returns what was lost.
    pub(crate) async fn stop(self) -> Vec<Lost> {
        self.stop.store(true, Relaxed);
        let mut lost = Vec::new();
        for connection in self.connections {
            lost.extend(connection.await.unwrap());
        }
        lost
    }

    /// Ends the traffic, of which nothing may have been lost.
    pub(crate) async fn stop_without_loss(self) {
        let lost = self.stop().await;
        assert!(lost.is_empty(), "{lost:#?}");
    }
}

async fn ask_on(client: Client, stop: Arc<AtomicBool>, answered: Arc<AtomicUsize>) -> Vec<Lost> {
    let mut lost = Vec::new();
    while !stop.load(Relaxed) {
        let begun = Instant::now();
        let outcome = match client.send(new_question("llama")).await {
            Ok(answer) if answer.status == 200 => {
                answered.fetch_add(1, Relaxed);
                continue;
            }
            Ok(answer) => format!("{}: {}", answer.status, answer.text()),
            Err(error) => format!("{error:#}"),
        };
        lost.push(Lost { begun, outcome });
    }
    lost
}
