//! What the kernel says a process has used: CPU time and memory, from `/proc`.
//!
//! CPU time comes in nanoseconds from the scheduler's own account of each thread. A thread that has ended takes its account with it, so
//! this is for programs whose threads live as long as they do, as those that are measured here. Where the split between user and system
//! matters there is the coarser account of the whole process.

use std::fs;
use std::time::Duration;

use anyhow::{Context as _, Result};

/// Clock ticks a second in `/proc/<pid>/stat`, a constant of Linux's user interface on all architectures that we run on.
const TICKS: u64 = 100;

/// CPU time that the threads of a process have used.
///
/// # Errors
/// When the process is gone, or the kernel keeps no such account.
pub fn busy(process: u32) -> Result<Duration> {
    let folder = format!("/proc/{process}/task");
    let threads = fs::read_dir(&folder).with_context(|| format!("cannot read {folder}: has the process ended?"))?;
    let mut nanoseconds = 0;
    for thread in threads {
        let file = thread?.path().join("schedstat");
        // A thread that ends in this moment has no file any more.
        let Ok(text) = fs::read_to_string(&file) else { continue };
        let first = text
            .split_whitespace()
            .next()
            .and_then(|field| field.parse::<u64>().ok());
        nanoseconds += first.with_context(|| format!("{} is not in the form of proc(5): {text}", file.display()))?;
    }
    anyhow::ensure!(
        nanoseconds > 0,
        "{folder}/*/schedstat say nothing: this kernel keeps no account of CPU time by thread"
    );
    Ok(Duration::from_nanos(nanoseconds))
}

/// CPU time of a process since its start; the resolution is 10 ms.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Split {
    /// In the program's own code.
    pub user: Duration,
    /// In the kernel on the program's behalf.
    pub system: Duration,
}

/// CPU time of a process by who used it.
///
/// # Errors
/// When the process is gone.
pub fn split(process: u32) -> Result<Split> {
    let file = format!("/proc/{process}/stat");
    let text = fs::read_to_string(&file).with_context(|| format!("cannot read {file}: has the process ended?"))?;
    parse_split(&text).with_context(|| format!("{file} is not in the form of proc(5): {text}"))
}

fn parse_split(text: &str) -> Option<Split> {
    // The second field is the program's name in brackets and may hold spaces; utime and stime are fields 14 and 15.
    let (_, after_name) = text.rsplit_once(')')?;
    let mut fields = after_name.split_whitespace().skip(11).map(str::parse::<u64>);
    let mut next = || Some(Duration::from_millis(fields.next()?.ok()? * 1000 / TICKS));
    Some(Split {
        user: next()?,
        system: next()?,
    })
}

/// Memory of a process in bytes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Memory {
    /// Resident now.
    pub resident: u64,
    /// The most that was ever resident.
    pub peak: u64,
}

/// Memory of a process.
///
/// # Errors
/// When the process is gone.
pub fn memory(process: u32) -> Result<Memory> {
    let file = format!("/proc/{process}/status");
    let text = fs::read_to_string(&file).with_context(|| format!("cannot read {file}: has the process ended?"))?;
    parse_memory(&text).with_context(|| format!("{file} has no VmRSS and VmHWM"))
}

fn parse_memory(text: &str) -> Option<Memory> {
    let bytes = |name: &str| {
        let line = text.lines().find_map(|line| line.strip_prefix(name))?;
        Some(line.split_whitespace().next()?.parse::<u64>().ok()? * 1024)
    };
    Some(Memory {
        resident: bytes("VmRSS:")?,
        peak: bytes("VmHWM:")?,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_with_brackets_and_spaces_does_not_shift_the_fields() {
        let text = "17 (a) (b c) S 1 1 1 0 -1 4194304 101 0 0 0 250 31 0 0 20 0 1 0";
        let split = parse_split(text).unwrap();
        assert_eq!(split.user, Duration::from_millis(2500));
        assert_eq!(split.system, Duration::from_millis(310));
        assert_eq!(parse_split("17 (a) S 1"), None);
    }

    #[test]
    fn memory_is_in_bytes() {
        let text = "Name:\tx\nVmHWM:\t    2048 kB\nVmRSS:\t    1024 kB\n";
        let memory = parse_memory(text).unwrap();
        assert_eq!((memory.resident, memory.peak), (1 << 20, 2 << 20));
        assert_eq!(parse_memory("Name:\tx\n"), None);
    }

    #[test]
    fn work_shows_in_our_own_account_and_a_process_that_is_not_there_is_an_error() {
        let own = std::process::id();
        let before = busy(own).unwrap();
        let deadline = std::time::Instant::now() + Duration::from_secs(20);
        while busy(own).unwrap() < before + Duration::from_millis(20) {
            assert!(std::time::Instant::now() < deadline, "20 ms of CPU in 20 s");
        }
        assert!(memory(own).unwrap().resident > 0);
        assert!(busy(u32::MAX).is_err() && split(u32::MAX).is_err() && memory(u32::MAX).is_err());
    }
}
