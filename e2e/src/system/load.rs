//! Requests one after the other on a few connections, while something else happens. It fails a story by panicking, and says why.

#![allow(clippy::unwrap_used, clippy::panic, reason = "a story's helper fails by panicking")]

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering::Relaxed};
use std::time::Instant;

use tokio::task::JoinHandle;

use super::System;
use super::story::{SOON, new_question};
use crate::client::Client;
use crate::process::wait_until;

/// Connections, each with one request at a time.
pub const CONNECTIONS: usize = 8;

/// Traffic that goes on until it is stopped.
#[derive(Debug)]
pub struct Load {
    stop: Arc<AtomicBool>,
    answered: Arc<AtomicUsize>,
    connections: Vec<JoinHandle<Vec<Lost>>>,
}

/// A request that was not answered by 200.
#[derive(Debug)]
pub struct Lost {
    /// When it was sent.
    pub begun: Instant,
    /// What came instead.
    pub outcome: String,
}

impl Load {
    /// Asks for `llama`, a new question every time.
    #[must_use]
    pub fn start(system: &System) -> Self {
        Self::on(system, "llama", CONNECTIONS)
    }

    /// Asks for a model on so many connections, a new question every time.
    #[must_use]
    pub fn on(system: &System, model: &'static str, connections: usize) -> Self {
        let (stop, answered) = (Arc::<AtomicBool>::default(), Arc::<AtomicUsize>::default());
        let connection = |_| {
            let client = Client::http1(system.address());
            tokio::spawn(ask_on(client, model, Arc::clone(&stop), Arc::clone(&answered)))
        };
        Self {
            connections: (0..connections).map(connection).collect(),
            stop,
            answered,
        }
    }

    /// How many requests were answered by 200.
    #[must_use]
    pub fn answered(&self) -> usize {
        self.answered.load(Relaxed)
    }

    /// Waits until so many more requests were answered by 200.
    ///
    /// # Panics
    /// When they are not, in time.
    pub async fn goes_on(&self, more: usize) {
        let goal = self.answered.load(Relaxed) + more;
        wait_until(&format!("{more} more answers"), SOON, async || {
            self.answered.load(Relaxed) >= goal
        })
        .await
        .unwrap();
    }

    /// Ends the traffic, and returns what was lost.
    ///
    /// # Panics
    /// When a connection's task did.
    pub async fn stop(self) -> Vec<Lost> {
        self.stop.store(true, Relaxed);
        let mut lost = Vec::new();
        for connection in self.connections {
            lost.extend(connection.await.unwrap());
        }
        lost
    }

    /// Ends the traffic, of which nothing may have been lost.
    ///
    /// # Panics
    /// When something was.
    pub async fn stop_without_loss(self) {
        let lost = self.stop().await;
        assert!(lost.is_empty(), "{lost:#?}");
    }
}

async fn ask_on(client: Client, model: &'static str, stop: Arc<AtomicBool>, answered: Arc<AtomicUsize>) -> Vec<Lost> {
    let mut lost = Vec::new();
    while !stop.load(Relaxed) {
        let begun = Instant::now();
        let outcome = match client.send(new_question(model)).await {
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
