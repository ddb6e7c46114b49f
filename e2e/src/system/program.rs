//! A program with a readiness page: started, waited for, killed, started again with the same flags.

use std::net::SocketAddr;
use std::time::Duration;

use anyhow::{Context as _, Result, bail};

use crate::client::{Ask, Client};
use crate::process::{Launch, Process, wait_until};

/// A program of ours is ready within this time of its start, or something is wrong.
const READY_WITHIN: Duration = Duration::from_secs(30);

/// The page that answers 200 when a program is ready.
#[derive(Clone, Copy, Debug)]
pub(super) struct Ready {
    /// Who answers.
    pub(super) at: SocketAddr,
    /// The page's path.
    pub(super) path: &'static str,
}

/// A program that runs, or was killed and can run again.
#[derive(Debug)]
pub struct Program {
    launch: Launch,
    ready: Ready,
    page: Client,
    process: Option<Process>,
}

impl Program {
    /// Starts the program and waits until it is ready.
    pub(super) async fn start(launch: Launch, ready: Ready) -> Result<Self> {
        let mut program = Self::launched(launch, ready)?;
        program.wait_ready().await?;
        Ok(program)
    }

    /// Starts the program without waiting.
    pub(super) fn launched(launch: Launch, ready: Ready) -> Result<Self> {
        let mut program = Self {
            page: Client::http1(ready.at),
            launch,
            ready,
            process: None,
        };
        program.launch()?;
        Ok(program)
    }

    /// Kills the program, if it runs, at once: no goodbye to anyone.
    ///
    /// # Errors
    /// When the system refuses.
    pub fn kill(&mut self) -> Result<()> {
        match self.process.take() {
            Some(mut process) => process
                .kill()
                .with_context(|| format!("cannot kill {}", self.launch.name)),
            None => Ok(()),
        }
    }

    /// Starts the program again with the same flags, killing it first if it runs, and waits until it is ready.
    ///
    /// # Errors
    /// When it ends at once or is not ready in time; the error holds the end of its log.
    pub async fn restart(&mut self) -> Result<()> {
        self.launch()?;
        self.wait_ready().await
    }

    /// Starts the program as [`Program::restart`] does, without waiting.
    ///
    /// # Errors
    /// When it cannot be started.
    pub fn launch(&mut self) -> Result<()> {
        self.kill()?;
        self.process = Some(Process::start(self.launch.clone())?);
        Ok(())
    }

    /// Whether its readiness page says yes.
    pub async fn is_ready(&self) -> bool {
        let answer = self.page.send(Ask::get(self.ready.path)).await;
        answer.is_ok_and(|answer| answer.status.is_success())
    }

    /// Waits until the program is ready.
    ///
    /// # Errors
    /// When it does not run, ends, or is not ready in time.
    pub async fn wait_ready(&mut self) -> Result<()> {
        let name = self.launch.name.clone();
        let mut ended = None;
        let waited = wait_until(&format!("{name} to be ready"), READY_WITHIN, async || {
            ended = self.process.as_mut().and_then(|process| process.ended().ok().flatten());
            ended.is_some() || self.is_ready().await
        })
        .await;
        let last_lines = self
            .process
            .as_ref()
            .map_or_else(String::new, |process| process.last_lines(20));
        if let Some(status) = ended {
            bail!("{name} ended at once ({status}):\n{last_lines}");
        }
        waited.with_context(|| last_lines)
    }

    /// The process, for its CPU time, its log and signals; `None` when it was killed.
    pub fn process(&mut self) -> Option<&mut Process> {
        self.process.as_mut()
    }

    /// An answer of the program's readiness server, such as its metrics.
    ///
    /// # Errors
    /// When it does not answer.
    pub async fn page(&self, path: &str) -> Result<String> {
        let answer = self.page.send(Ask::get(path)).await?;
        if !answer.status.is_success() {
            bail!(
                "{} answers {path} with {}: {}",
                self.launch.name,
                answer.status,
                answer.text()
            );
        }
        Ok(answer.text())
    }
}
