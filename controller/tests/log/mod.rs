//! What is logged, for stories of what a controller says.
#![allow(dead_code)] // each story uses some of it

use std::io::{self, Write};
use std::panic::AssertUnwindSafe;
use std::sync::Arc;

use futures::FutureExt;
use parking_lot::Mutex;
use tracing::Dispatch;

use crate::filter::eventually;

/// Lines that were logged, of level info and above.
#[derive(Clone, Default)]
pub(crate) struct Log(Arc<Mutex<Vec<u8>>>);

impl Log {
    /// What writes to it.
    pub(crate) fn dispatch(&self) -> Dispatch {
        let log = self.clone();
        let writing = tracing_subscriber::fmt().with_ansi(false);
        Dispatch::new(writing.with_writer(move || log.clone()).finish())
    }

    /// How many lines hold all of these.
    pub(crate) fn lines(&self, parts: &[&str]) -> usize {
        let text = self.text();
        let lines = text.lines().filter(|line| parts.iter().all(|part| line.contains(part)));
        lines.count()
    }

    /// Waits until a line holds all of these.
    pub(crate) async fn says(&self, parts: &[&str]) {
        let said = AssertUnwindSafe(eventually("it to be logged", || self.lines(parts) > 0));
        if said.catch_unwind().await.is_err() {
            panic!("{parts:?} in none of:\n{}", self.text());
        }
    }

    fn text(&self) -> String {
        String::from_utf8_lossy(&self.0.lock()).into_owned()
    }
}

impl Write for Log {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.lock().extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}
