//! Bodies of answers: bytes that are there, or events as an engine generates them.

use std::convert::Infallible;
use std::pin::Pin;
use std::task::{Context, Poll};

use bytes::Bytes;
use http_body::{Body, Frame, SizeHint};

use crate::api::{StreamForm, Usage, Word};
use crate::endpoint::{Generation, Progress};
use crate::engine::prompt::word;

/// The body of an answer.
pub(crate) enum Answer {
    /// All of it; none once it is taken.
    Whole(Option<Bytes>),
    /// Events to come.
    Events(Box<EventStream>),
}

impl Answer {
    /// A body that is there.
    pub(crate) fn whole(bytes: impl Into<Bytes>) -> Self {
        Self::Whole(Some(bytes.into()).filter(|bytes| !bytes.is_empty()))
    }
}

impl Body for Answer {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        match self.get_mut() {
            Self::Whole(bytes) => Poll::Ready(bytes.take().map(|bytes| Ok(Frame::data(bytes)))),
            Self::Events(events) => events.poll(cx).map(|bytes| bytes.map(|bytes| Ok(Frame::data(bytes)))),
        }
    }

    fn is_end_stream(&self) -> bool {
        match self {
            Self::Whole(bytes) => bytes.is_none(),
            Self::Events(events) => events.is_over,
        }
    }

    fn size_hint(&self) -> SizeHint {
        match self {
            Self::Whole(bytes) => SizeHint::with_exact(bytes.as_ref().map_or(0, |bytes| bytes.len() as u64)),
            Self::Events(_) => SizeHint::default(),
        }
    }
}

/// One choice of a stream.
struct Track {
    generation: Generation,
    seed: u64,
    progress: Progress,
}

/// Events of all choices of one request. A client that reads slowly finds several words in one piece; none is left out.
pub(crate) struct EventStream {
    tracks: Vec<Track>,
    copies: usize,
    prompt_tokens: u32,
    form: Box<dyn StreamForm>,
    has_begun: bool,
    is_over: bool,
}

impl EventStream {
    /// Streams `generations`, each with the seed of its words.
    pub(crate) fn new(
        generations: Vec<(Generation, u64)>,
        copies: u32,
        prompt_tokens: u32,
        form: Box<dyn StreamForm>,
    ) -> Self {
        let track = |(generation, seed)| Track {
            generation,
            seed,
            progress: Progress::default(),
        };
        Self {
            tracks: generations.into_iter().map(track).collect(),
            copies: copies as usize,
            prompt_tokens,
            form,
            has_begun: false,
            is_over: false,
        }
    }

    fn poll(&mut self, cx: &mut Context<'_>) -> Poll<Option<Bytes>> {
        if self.is_over {
            return Poll::Ready(None);
        }
        let mut out = String::new();
        for index in 0..self.tracks.len() {
            let track = &self.tracks[index];
            let seen = track.progress;
            if seen.finished.is_none()
                && let Poll::Ready(progress) = track.generation.poll_progress(seen.generated, cx)
            {
                self.write(index, progress, &mut out);
            }
        }
        if self.tracks.iter().all(|track| track.progress.finished.is_some()) {
            self.is_over = true;
            self.form.end(&mut out, self.usage());
        }
        if out.is_empty() {
            Poll::Pending
        } else {
            Poll::Ready(Some(out.into()))
        }
    }

    fn write(&mut self, choice: usize, progress: Progress, out: &mut String) {
        let seen = std::mem::replace(&mut self.tracks[choice].progress, progress).generated;
        let usage = self.usage();
        if !std::mem::replace(&mut self.has_begun, true) {
            self.form.begin(out, usage);
        }
        for index in seen..progress.generated {
            let is_last = index + 1 == progress.generated;
            let finish = progress.finished.filter(|_| is_last);
            let word = Word {
                choice,
                text: word(self.tracks[choice].seed, index),
                finish,
            };
            self.form.word(out, word, usage);
        }
    }

    fn usage(&self) -> Usage {
        usage(
            self.prompt_tokens,
            self.copies,
            self.tracks.iter().map(|track| track.progress),
        )
    }
}

/// What a request has used. The copies of a prompt share it, so the first of them tells what was cached.
pub(super) fn usage(prompt: u32, copies: usize, choices: impl Iterator<Item = Progress>) -> Usage {
    let mut usage = Usage {
        prompt,
        cached: 0,
        completion: 0,
    };
    for (index, progress) in choices.enumerate() {
        usage.completion += progress.generated;
        if index % copies == 0 {
            usage.cached += progress.cached;
        }
    }
    usage
}
