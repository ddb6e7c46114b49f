//! Child processes that never outlive their parent.
//!
//! Dropping a [`Process`] kills it, also when a test panics. When the parent itself is killed nothing is dropped, so where the machine has
//! `setpriv` (util-linux) the kernel is asked to kill the child when the parent dies. The kernel means the *thread* that started the
//! child: start long-lived children from the main thread or from a runtime's worker, not from a thread that ends before they should.
//! Output goes to a file, whose end is part of every error, so that a failed start says why.

use std::ffi::OsString;
use std::fs::{self, File};
use std::io;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail};

/// How often a condition is looked at while waiting for it.
const POLL: Duration = Duration::from_millis(5);

/// A process that is told to stop stands still within this time.
const PAUSED_WITHIN: Duration = Duration::from_secs(10);

/// Clock ticks a second in `/proc/<pid>/stat`, a constant of Linux's user interface on all architectures that we run on.
const TICKS: u64 = 100;

/// What to start.
#[derive(Clone, Debug)]
pub struct Launch {
    /// Name for messages, such as `envoy`.
    pub name: String,
    /// The program: a path, or a name found on `PATH`.
    pub program: PathBuf,
    /// Its arguments.
    pub args: Vec<OsString>,
    /// Variables added to the environment.
    pub env: Vec<(String, String)>,
    /// File that receives standard output and standard error; it is appended to.
    pub log: PathBuf,
}

/// A running child process; killed when dropped.
#[derive(Debug)]
pub struct Process {
    name: String,
    child: Child,
    log: PathBuf,
}

impl Process {
    /// Starts the program.
    ///
    /// # Errors
    /// When the program is not there or the log file can't be written.
    pub fn start(launch: Launch) -> Result<Self> {
        let Launch {
            name,
            program,
            args,
            env,
            log,
        } = launch;
        if program.components().count() > 1 && !program.is_file() {
            bail!("cannot start {name}: there is no {}", program.display());
        }
        let output = File::options()
            .create(true)
            .append(true)
            .open(&log)
            .with_context(|| format!("cannot write {name}'s log {}", log.display()))?;
        let errors = output
            .try_clone()
            .with_context(|| format!("cannot write {name}'s log {}", log.display()))?;
        let mut command = if setpriv_exists() {
            let mut command = Command::new("setpriv");
            command.args(["--pdeathsig", "KILL", "--"]).arg(&program);
            command
        } else {
            Command::new(&program)
        };
        let child = command
            .args(args)
            .envs(env)
            .stdin(Stdio::null())
            .stdout(output)
            .stderr(errors)
            .spawn()
            .with_context(|| format!("cannot start {name} ({})", program.display()))?;
        Ok(Self { name, child, log })
    }

    /// The process id.
    #[must_use]
    pub fn id(&self) -> u32 {
        self.child.id()
    }

    /// The exit status, when the process has ended.
    ///
    /// # Errors
    /// When the system doesn't say.
    pub fn ended(&mut self) -> io::Result<Option<ExitStatus>> {
        self.child.try_wait()
    }

    /// Kills the process at once and waits until it is gone.
    ///
    /// # Errors
    /// When the system refuses.
    pub fn kill(&mut self) -> io::Result<()> {
        self.child.kill()?;
        self.child.wait().map(drop)
    }

    /// Asks the process to end (SIGTERM) and waits for it; a process that is still there at the deadline is killed.
    ///
    /// # Errors
    /// When it had to be killed.
    pub async fn terminate(&mut self, within: Duration) -> Result<ExitStatus> {
        self.signal("TERM")?;
        let deadline = Instant::now() + within;
        loop {
            if let Some(status) = self.ended()? {
                return Ok(status);
            }
            if Instant::now() > deadline {
                self.kill()?;
                bail!(
                    "{} did not end within {within:?} of SIGTERM\n{}",
                    self.name,
                    self.last_lines(20)
                );
            }
            tokio::time::sleep(POLL).await;
        }
    }

    /// Sends a signal by its name without SIG, such as `STOP` or `CONT`.
    ///
    /// # Errors
    /// When the process is gone.
    pub fn signal(&self, name: &str) -> Result<()> {
        let status = Command::new("kill")
            .args(["-s", name, &self.id().to_string()])
            .status()?;
        if !status.success() {
            bail!(
                "cannot send SIG{name} to {}: is it gone?\n{}",
                self.name,
                self.last_lines(20)
            );
        }
        Ok(())
    }

    /// Stops the process until it gets `CONT`, and waits until it stands still: a thread that runs may still answer.
    ///
    /// # Errors
    /// When the process is gone, or does not stop in time.
    pub async fn pause(&self) -> Result<()> {
        self.signal("STOP")?;
        let threads = format!("/proc/{}/task", self.id());
        let stands = |stat: &str| {
            let state = stat.rsplit_once(')').map_or("", |(_, rest)| rest);
            state.trim_start().starts_with('T')
        };
        wait_until("all threads to stand still", PAUSED_WITHIN, async || {
            let Ok(threads) = fs::read_dir(&threads) else {
                return false;
            };
            let mut stats = threads
                .flatten()
                .flat_map(|thread| fs::read_to_string(thread.path().join("stat")));
            stats.all(|stat| stands(&stat))
        })
        .await
    }

    /// CPU time used so far, user and system, of all its threads. The resolution is 10 ms.
    ///
    /// # Errors
    /// When the process is gone or the machine has no `/proc`.
    pub fn cpu(&self) -> Result<Duration> {
        let stat = self.proc_file("stat")?;
        // The second field is the program's name in brackets and may hold spaces; utime and stime are fields 14 and 15.
        let after_name = stat.rsplit_once(')').map_or("", |(_, rest)| rest);
        let mut fields = after_name.split_whitespace().skip(11).map(str::parse::<u64>);
        match (fields.next(), fields.next()) {
            (Some(Ok(user)), Some(Ok(system))) => Ok(Duration::from_millis((user + system) * 1000 / TICKS)),
            _ => bail!(
                "/proc/{}/stat is not in the form that proc(5) describes: {stat}",
                self.id()
            ),
        }
    }

    /// Resident memory in bytes.
    ///
    /// # Errors
    /// When the process is gone or the machine has no `/proc`.
    pub fn resident(&self) -> Result<u64> {
        let status = self.proc_file("status")?;
        let kilobytes = status
            .lines()
            .find_map(|line| line.strip_prefix("VmRSS:"))
            .and_then(|rest| rest.split_whitespace().next())
            .and_then(|number| number.parse::<u64>().ok())
            .with_context(|| format!("/proc/{}/status has no VmRSS", self.id()))?;
        Ok(kilobytes * 1024)
    }

    /// Where the output goes.
    #[must_use]
    pub fn log(&self) -> &Path {
        &self.log
    }

    /// The last lines of the output, for messages.
    #[must_use]
    pub fn last_lines(&self, count: usize) -> String {
        let text = fs::read(&self.log)
            .map(|bytes| String::from_utf8_lossy(&bytes).into_owned())
            .unwrap_or_default();
        let lines: Vec<&str> = text.lines().collect();
        lines[lines.len().saturating_sub(count)..].join("\n")
    }

    fn proc_file(&self, file: &str) -> Result<String> {
        let path = format!("/proc/{}/{file}", self.id());
        fs::read_to_string(&path).with_context(|| format!("cannot read {path} of {}", self.name))
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        // Nothing is left to do about a failure here: the process is gone already, or the system is beyond help.
        if self.child.kill().is_ok() {
            self.child.wait().map(drop).unwrap_or_default();
        }
    }
}

fn setpriv_exists() -> bool {
    std::env::var_os("PATH")
        .is_some_and(|path| std::env::split_paths(&path).any(|folder| folder.join("setpriv").is_file()))
}

/// Waits until the condition holds, looking every few milliseconds.
///
/// # Errors
/// When it does not hold within the time, naming what was waited for.
pub async fn wait_until<F>(what: &str, within: Duration, mut condition: F) -> Result<()>
where
    F: AsyncFnMut() -> bool,
{
    let deadline = Instant::now() + within;
    while !condition().await {
        if Instant::now() > deadline {
            bail!("waited {within:?} in vain for: {what}");
        }
        tokio::time::sleep(POLL).await;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::scratch::Scratch;

    fn launch(name: &str, script: &str, folder: &Scratch) -> Launch {
        Launch {
            name: name.to_owned(),
            program: "sh".into(),
            args: vec!["-c".into(), script.into()],
            env: vec![("GREETING".to_owned(), "hello".to_owned())],
            log: folder.path().join("log"),
        }
    }

    fn is_alive(id: u32) -> bool {
        fs::read_to_string(format!("/proc/{id}/stat")).is_ok_and(|stat| !stat.contains(") Z "))
    }

    #[tokio::test]
    async fn a_process_is_killed_when_it_is_dropped() {
        let folder = Scratch::new("process").unwrap();
        let process = Process::start(launch("dropped", "exec sleep 60", &folder)).unwrap();
        let id = process.id();
        assert!(is_alive(id));
        drop(process);
        assert!(!is_alive(id));
    }

    #[tokio::test]
    async fn its_output_is_in_the_log_and_its_cpu_time_is_counted() {
        let folder = Scratch::new("process").unwrap();
        let mut process = Process::start(launch("busy", "echo $GREETING; while :; do :; done", &folder)).unwrap();
        wait_until("CPU time", Duration::from_secs(20), async || {
            process.cpu().unwrap() >= Duration::from_millis(50)
        })
        .await
        .unwrap();
        assert!(process.resident().unwrap() > 0);
        assert_eq!(process.last_lines(1), "hello");
        process.kill().unwrap();
    }

    #[tokio::test]
    async fn a_process_that_ignores_the_request_to_end_is_killed_and_that_is_an_error() {
        let folder = Scratch::new("process").unwrap();
        let mut process = Process::start(launch(
            "stubborn",
            "trap '' TERM; echo ready; while :; do sleep 0.05; done",
            &folder,
        ))
        .unwrap();
        wait_until("the trap", Duration::from_secs(20), async || {
            process.last_lines(1) == "ready"
        })
        .await
        .unwrap();
        let error = process.terminate(Duration::from_millis(100)).await.unwrap_err();
        assert!(error.to_string().contains("stubborn did not end"), "{error}");
        assert!(process.ended().unwrap().is_some());
    }

    #[test]
    fn a_program_that_is_not_there_is_named() {
        let folder = Scratch::new("process").unwrap();
        let missing = Launch {
            program: "/nowhere/envoy".into(),
            ..launch("missing", "", &folder)
        };
        let error = Process::start(missing).unwrap_err();
        assert!(error.to_string().contains("/nowhere/envoy"), "{error}");
    }
}
