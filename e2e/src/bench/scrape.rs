//! What it costs `kthena-controller` to watch a fleet.
//!
//! The system is up and idle: model servers are observed at the usual interval, states are pushed, nobody asks anything. User time is the
//! controller's own work; system time is the kernel's share of reading the pages, which no program can save, and is told beside it.

use std::time::{Duration, Instant};

use anyhow::{Context as _, Result};

use super::meter;
use super::report::Verdict;
use super::traffic::MODEL;
use crate::client::{Ask, Client};
use crate::system::fleet::Group;
use crate::system::{Options, System};

/// After this long every endpoint has been observed more than once, and the start is over.
const SETTLE: Duration = Duration::from_secs(5);

/// How much is measured.
#[derive(Clone, Debug)]
pub struct Settings {
    /// Model servers.
    pub endpoints: u8,
    /// How long it is watched.
    pub length: Duration,
}

/// Measures; progress goes to standard error.
///
/// # Errors
/// When something cannot be started or measured.
pub async fn run(settings: &Settings) -> Result<Vec<Verdict>> {
    let mut system = System::start(Options {
        groups: vec![Group::instant("bench", MODEL, settings.endpoints)],
        ext_procs: 1,
        ..Options::default()
    })
    .await?;
    let address = system
        .fleet()
        .addresses("bench")
        .into_iter()
        .next()
        .context("an empty fleet")?;
    let page = Client::http1((address, system.fleet().port()).into())
        .send(Ask::get("/metrics"))
        .await?;
    let controller = system.controller().process().map(|process| process.id());
    let controller = controller.context("the controller is not running")?;
    tokio::time::sleep(SETTLE).await;
    let (begun, before) = (Instant::now(), meter::split(controller)?);
    tokio::time::sleep(settings.length).await;
    let (elapsed, after) = (begun.elapsed(), meter::split(controller)?);
    let cores = |before: Duration, after: Duration| after.saturating_sub(before).as_secs_f64() / elapsed.as_secs_f64();
    let system_share = cores(before.system, after.system);
    Ok(vec![Verdict {
        what: format!(
            "user time in cores of kthena-controller, {} endpoints with {} bytes of metrics each, every second \
             (the kernel beside it: {system_share:.3})",
            settings.endpoints,
            page.body.len(),
        ),
        is: cores(before.user, after.user),
        at_most: 0.03,
    }])
}
