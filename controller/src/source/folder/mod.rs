//! Objects from a folder of manifests: `*.yaml`, `*.yml` and `*.json` below it, many documents a file.
//!
//! The folder is watched; whatever the system says of it, what decides is the content of the files, compared by hash, so a
//! write in place, an atomic rename and the link swap of a mounted ConfigMap are all the same. What must always hold: a
//! change is told within 200 ms of the last write; one that the system does not report is found by the next look, which
//! comes by itself every few seconds; one look gives one batch of events. A file that cannot be read, and a folder that
//! vanishes, are problems that are told; the objects stay.

mod scan;
mod state;

use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::PathBuf;
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, channel};
use std::thread;
use std::time::{Duration, Instant};

use notify::event::{AccessKind, AccessMode};
use notify::{EventKind, RecommendedWatcher, RecursiveMode, Watcher};
use tokio::sync::mpsc;

use super::Event;
use scan::Bounds;
use state::State;

// A write in place is seen in pieces: wait until it is quiet, but not for ever.
const QUIET: Duration = Duration::from_millis(20);
const LONGEST_WAIT: Duration = Duration::from_millis(80);
// Batches that wait for the reader; then the folder is looked at less often.
const BATCHES: usize = 16;

/// Which folder, and its bounds.
#[derive(Clone, Debug)]
pub struct FolderConfig {
    /// The folder.
    pub path: PathBuf,
    /// Time between looks that nothing asked for.
    pub rescan: Duration,
    /// Files beyond these are not read.
    pub max_files: usize,
    /// A larger file is not read, bytes.
    pub max_file_bytes: u64,
    /// Documents in all files beyond these are not read.
    pub max_documents: usize,
}

/// A folder that cannot be watched.
#[derive(Debug, thiserror::Error)]
pub enum FolderError {
    /// It cannot be listed.
    #[error("the folder {} cannot be listed: {source}; it must exist and be readable", path.display())]
    List {
        /// The folder.
        path: PathBuf,
        /// Why.
        source: std::io::Error,
    },
    /// The system gives no notice of changes.
    #[error("the folder {} cannot be watched: {source}", path.display())]
    Watch {
        /// The folder.
        path: PathBuf,
        /// Why.
        source: notify::Error,
    },
    /// The system gives no thread.
    #[error("no thread for watching a folder: {0}")]
    Thread(std::io::Error),
}

/// A watched folder; dropping it ends the watch.
#[derive(Debug)]
pub struct FolderSource {
    /// What changed, one batch a look. The first holds everything there is and ends with [`Event::Synced`].
    pub events: mpsc::Receiver<Vec<Event>>,
    // Only held: the watch ends when it closes.
    _stop: StopOnDrop,
}

#[derive(Debug)]
struct StopOnDrop(Sender<Signal>);

#[derive(Debug)]
enum Signal {
    Changed,
    Stop,
}

struct Watch {
    config: FolderConfig,
    state: State,
    watcher: RecommendedWatcher,
    // Device and inode of what is watched: a folder put in its place must be watched anew.
    watched: Option<(u64, u64)>,
    signals: Receiver<Signal>,
    events: mpsc::Sender<Vec<Event>>,
}

// === impl FolderConfig ===

impl FolderConfig {
    /// A folder with the usual bounds.
    pub fn new(path: impl Into<PathBuf>) -> Self {
        Self {
            path: path.into(),
            rescan: Duration::from_secs(5),
            max_files: 10_000,
            max_file_bytes: 16 * 1024 * 1024,
            max_documents: 50_000,
        }
    }

    fn bounds(&self) -> Bounds {
        Bounds {
            max_files: self.max_files,
            max_file_bytes: self.max_file_bytes,
        }
    }
}

// === impl FolderSource ===

impl FolderSource {
    /// Looks at the folder and goes on watching it, on a thread of its own.
    ///
    /// # Errors
    /// When the folder cannot be listed or watched.
    pub fn start(config: FolderConfig) -> Result<Self, FolderError> {
        let (signal, signals) = channel();
        let (events, receiver) = mpsc::channel(BATCHES);
        let wake = signal.clone();
        let watcher = notify::recommended_watcher(move |event: notify::Result<notify::Event>| {
            // An error may mean lost events: look.
            if event.as_ref().map_or(true, |event| is_change(event.kind)) {
                let _ = wake.send(Signal::Changed);
            }
        })
        .map_err(|source| FolderError::Watch {
            path: config.path.clone(),
            source,
        })?;
        let mut watch = Watch {
            state: State::new(config.max_documents),
            watcher,
            watched: None,
            signals,
            events,
            config,
        };
        let first = watch.begin()?;
        thread::Builder::new()
            .name("folder".to_owned())
            .spawn(move || watch.run(first))
            .map_err(FolderError::Thread)?;
        Ok(Self {
            events: receiver,
            _stop: StopOnDrop(signal),
        })
    }
}

impl Drop for StopOnDrop {
    fn drop(&mut self) {
        let _ = self.0.send(Signal::Stop);
    }
}

// === impl Watch ===

impl Watch {
    /// Watches before it looks, so that no change falls between.
    fn begin(&mut self) -> Result<Vec<Event>, FolderError> {
        let list = |source| FolderError::List {
            path: self.config.path.clone(),
            source,
        };
        let metadata = fs::metadata(&self.config.path).map_err(list)?;
        self.watcher
            .watch(&self.config.path, RecursiveMode::Recursive)
            .map_err(|source| FolderError::Watch {
                path: self.config.path.clone(),
                source,
            })?;
        self.watched = Some((metadata.dev(), metadata.ino()));
        let found = scan::look(&self.config.path, self.config.bounds()).map_err(list)?;
        let mut events = self.state.update(found);
        events.push(Event::Synced);
        Ok(events)
    }

    fn run(mut self, first: Vec<Event>) {
        let mut batch = first;
        loop {
            if !batch.is_empty() && self.events.blocking_send(batch).is_err() {
                return;
            }
            match self.signals.recv_timeout(self.config.rescan) {
                Ok(Signal::Changed) => {
                    if !self.settle() {
                        return;
                    }
                }
                Err(RecvTimeoutError::Timeout) => {}
                Ok(Signal::Stop) | Err(RecvTimeoutError::Disconnected) => return,
            }
            batch = self.look();
        }
    }

    /// Waits until it is quiet; false = stop.
    fn settle(&self) -> bool {
        let begun = Instant::now();
        while begun.elapsed() < LONGEST_WAIT {
            match self.signals.recv_timeout(QUIET) {
                Ok(Signal::Changed) => {}
                Err(RecvTimeoutError::Timeout) => return true,
                Ok(Signal::Stop) | Err(RecvTimeoutError::Disconnected) => return false,
            }
        }
        true
    }

    fn look(&mut self) -> Vec<Event> {
        self.watch_again();
        match scan::look(&self.config.path, self.config.bounds()) {
            Ok(found) => self.state.update(found),
            Err(error) => self.state.unreadable(&format!("the folder cannot be listed: {error}")),
        }
    }

    /// The watch hangs on the folder itself, not on its path.
    fn watch_again(&mut self) {
        let now = fs::metadata(&self.config.path).ok().map(|m| (m.dev(), m.ino()));
        if now == self.watched {
            return;
        }
        let _ = self.watcher.unwatch(&self.config.path);
        // Without it, the looks that come by themselves go on, and the next tries again.
        let watched = now.is_some() && self.watcher.watch(&self.config.path, RecursiveMode::Recursive).is_ok();
        self.watched = now.filter(|_| watched);
    }
}

/// Whether content may have changed; our own reading is reported, too.
fn is_change(kind: EventKind) -> bool {
    match kind {
        EventKind::Access(AccessKind::Close(AccessMode::Write)) => true,
        EventKind::Access(_) => false,
        _ => true,
    }
}

#[cfg(test)]
mod tests;
