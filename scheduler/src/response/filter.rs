//! Withholds the event that was asked for in the client's name.
//!
//! Where usage was injected into a request ([`crate::request::splice::inject_usage`]), the engine sends one event that the
//! client did not ask for: usage, and no choices. It is taken out whole, with the blank line that ends it; every other
//! byte passes as it came. An event whose end has not come is held back up to a bound; a longer one cannot be the one
//! we look for, and passes.

use std::borrow::Cow;

use super::counts::Usage;
use super::events;
use super::usage::UsageScan;
use crate::request::ApiForm;

/// Bytes of an unfinished event that are held back. The event in question is below 1 kB, and one that is longer than this only passes at once
/// instead of at its end, so there is nothing here to set or to count.
const HELD_LIMIT: usize = 16 * 1024;

/// Passes a stream of events on, but for the usage-only event, and reads usage on the way.
#[derive(Debug)]
pub struct UsageFilter {
    form: ApiForm,
    scan: UsageScan,
    /// The beginning of an event whose end has not come.
    held: Vec<u8>,
    /// The event being read is too long to be held: its rest passes.
    passing: bool,
    /// The line being read has nothing in it so far but a carriage return.
    blank: bool,
}

impl UsageFilter {
    /// A filter for an answer to a request of this form.
    pub fn new(form: ApiForm) -> Self {
        Self {
            form,
            scan: UsageScan::new(form, true),
            held: Vec::new(),
            passing: false,
            blank: true,
        }
    }

    /// Takes a chunk and gives back what the client gets in its place: the chunk itself, if nothing is held or taken out.
    pub fn feed<'a>(&mut self, chunk: &'a [u8]) -> Cow<'a, [u8]> {
        self.scan.feed(chunk);
        // As long as `out` is None, what passes is `chunk[..start]`.
        let mut out = (!self.held.is_empty()).then(Vec::new);
        let mut start = 0;
        let mut line = 0;
        while let Some(length) = memchr::memchr(b'\n', &chunk[line..]) {
            let end = line + length + 1;
            let blank = self.blank && only_carriage_return(&chunk[line..end - 1]);
            self.blank = true;
            line = end;
            if blank {
                self.event_ended(chunk, start..end, &mut out);
                start = end;
            }
        }
        self.blank = self.blank && only_carriage_return(&chunk[line..]);
        let rest = &chunk[start..];
        if self.passing || self.held.len() + rest.len() > HELD_LIMIT {
            self.passing = true;
            match &mut out {
                None => return Cow::Borrowed(chunk),
                Some(out) => {
                    out.append(&mut self.held);
                    out.extend_from_slice(rest);
                }
            }
        } else {
            self.held.extend_from_slice(rest);
        }
        out.map_or(Cow::Borrowed(&chunk[..start]), Cow::Owned)
    }

    /// Ends the stream: what is still held and goes to the client, and the usage.
    pub fn finish(self) -> (Vec<u8>, Usage) {
        let rest = if self.usage_only(&self.held) {
            Vec::new()
        } else {
            self.held
        };
        (rest, self.scan.finish())
    }

    /// The end of the stream was seen; see [`UsageScan::done`].
    pub fn done(&self) -> bool {
        self.scan.done()
    }

    /// What is known of usage so far.
    pub fn usage(&self) -> Usage {
        self.scan.usage()
    }

    /// An event ended with the bytes `range` of `chunk`; it may have begun in `held`.
    fn event_ended(&mut self, chunk: &[u8], range: std::ops::Range<usize>, out: &mut Option<Vec<u8>>) {
        let start = range.start;
        let event = &chunk[range];
        let withheld = !self.passing
            && if self.held.is_empty() {
                self.usage_only(event)
            } else {
                self.held.extend_from_slice(event);
                self.usage_only(&self.held)
            };
        if withheld {
            out.get_or_insert_with(|| chunk[..start].to_vec());
            self.held.clear();
        } else if let Some(out) = out {
            if self.held.is_empty() {
                out.extend_from_slice(event);
            } else {
                out.append(&mut self.held);
            }
        }
        self.passing = false;
    }

    /// The event has one data line, and that holds usage and no choices.
    fn usage_only(&self, event: &[u8]) -> bool {
        let mut data = event.split(|byte| *byte == b'\n').filter_map(events::data_of);
        match (data.next(), data.next()) {
            (Some(only), None) => events::read(self.form, only).is_some_and(|said| said.usage_only),
            _ => false,
        }
    }
}

fn only_carriage_return(line: &[u8]) -> bool {
    matches!(line, [] | [b'\r'])
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const FIRST: &str = "data: {\"choices\":[{\"delta\":{\"content\":\"a\"}}],\"usage\":null}\n\n";
    const RUNNING: &str = "data: {\"choices\":[{}],\"usage\":{\"prompt_tokens\":3,\"completion_tokens\":1}}\n\n";
    const EXTRA: &str =
        "data: {\"id\":\"x\",\"choices\":[],\"usage\":{\"prompt_tokens\":3,\"completion_tokens\":2}}\n\n";
    const DONE: &str = "data: [DONE]\n\n";

    fn passed(pieces: &[&[u8]]) -> (String, Usage) {
        let mut filter = UsageFilter::new(ApiForm::ChatCompletions);
        let mut out = Vec::new();
        for piece in pieces {
            out.extend_from_slice(&filter.feed(piece));
        }
        let (rest, usage) = filter.finish();
        out.extend(rest);
        (String::from_utf8(out).unwrap(), usage)
    }

    fn at_every_cut(stream: &str, expected: &str) {
        let bytes = stream.as_bytes();
        assert_eq!(passed(&[bytes]).0, expected);
        assert_eq!(passed(&bytes.chunks(1).collect::<Vec<_>>()).0, expected);
        for cut in 0..bytes.len() {
            assert_eq!(passed(&[&bytes[..cut], &bytes[cut..]]).0, expected, "cut at {cut}");
        }
    }

    /// The definition, over a whole stream.
    fn without_extra(stream: &str) -> String {
        let mut out = String::new();
        let mut event = String::new();
        for line in stream.split_inclusive('\n') {
            event.push_str(line);
            if line.trim_end().is_empty() {
                out.push_str(if judged_extra(&event) { "" } else { &event });
                event.clear();
            }
        }
        out + if judged_extra(&event) { "" } else { &event }
    }

    fn judged_extra(event: &str) -> bool {
        let data: Vec<&str> = event.lines().filter(|line| line.starts_with("data:")).collect();
        data.len() == 1 && data[0] == EXTRA.trim_end()
    }

    #[test]
    fn the_extra_event_goes_and_all_else_stays() {
        let stream = [": hello\n\n", FIRST, RUNNING, EXTRA, DONE].concat();
        at_every_cut(&stream, &[": hello\n\n", FIRST, RUNNING, DONE].concat());
        let usage = passed(&[stream.as_bytes()]).1;
        assert_eq!((usage.input_tokens, usage.output_tokens), (Some(3), Some(2)));
    }

    #[test]
    fn carriage_returns_and_events_that_only_look_alike_stay() {
        let crlf = |text: &str| text.replace('\n', "\r\n");
        at_every_cut(&crlf(&[FIRST, EXTRA, DONE].concat()), &crlf(&[FIRST, DONE].concat()));
        for alike in [
            "data: {\"choices\":[]}\n\n",
            "data: {\"usage\":{\"prompt_tokens\":3}}\n\n",
            "data: {\"choices\":[],\"usage\":null}\n\n",
            "data: {\"choices\":[],\"usage\":{}}}\n\n",
            "data: {\"choices\":[[]],\"usage\":{}}\n\n",
            "event: x\ndata: usage\ndata: {\"choices\":[],\"usage\":{}}\n\n",
        ] {
            at_every_cut(alike, alike);
        }
    }

    #[test]
    fn a_stream_that_breaks_off_loses_nothing_but_the_extra_event() {
        let whole = [FIRST, EXTRA].concat();
        let broken = &whole[..whole.len() - 2];
        at_every_cut(broken, FIRST);
        let broken = &whole[..whole.len() - 12];
        at_every_cut(broken, broken);
    }

    #[test]
    fn untouched_chunks_are_not_copied() {
        let mut filter = UsageFilter::new(ApiForm::ChatCompletions);
        assert!(matches!(filter.feed(FIRST.as_bytes()), Cow::Borrowed(chunk) if chunk == FIRST.as_bytes()));
        assert!(filter.feed(EXTRA.as_bytes()).is_empty());
        assert!(matches!(filter.feed(DONE.as_bytes()), Cow::Borrowed(_)));
        assert!(filter.done());
    }

    #[test]
    fn a_long_event_is_not_held() {
        let long = format!("data: {{\"x\":\"{}", "y".repeat(HELD_LIMIT));
        let mut filter = UsageFilter::new(ApiForm::ChatCompletions);
        assert!(filter.feed(b"data: {").is_empty());
        assert_eq!(filter.feed(&long.as_bytes()[7..]).len(), long.len());
        assert_eq!(&*filter.feed(b"more"), b"more");
        assert_eq!(&*filter.feed(b"\"}\n\n"), b"\"}\n\n");
        assert!(
            filter.feed(EXTRA.as_bytes()).is_empty(),
            "the event after it is judged again"
        );
    }

    proptest! {
        #[test]
        fn any_order_of_events_in_any_cuts(
            events in proptest::collection::vec(
                proptest::sample::select(vec![FIRST, RUNNING, EXTRA, DONE, ": c\n", "\n", "event: x\n", "\r\n"]), 0..8),
            cuts in proptest::collection::vec(0usize..600, 0..6),
        ) {
            let stream = events.concat();
            let mut cuts: Vec<usize> = cuts.into_iter().map(|c| c.min(stream.len())).collect();
            cuts.extend([0, stream.len()]);
            cuts.sort_unstable();
            let bytes = stream.as_bytes();
            let pieces: Vec<&[u8]> = cuts.windows(2).map(|pair| &bytes[pair[0]..pair[1]]).collect();
            let (cut, usage) = passed(&pieces);
            let (whole, whole_usage) = passed(&[bytes]);
            prop_assert_eq!(&cut, &whole);
            prop_assert_eq!(usage, whole_usage);
            prop_assert_eq!(cut, without_extra(&stream));
        }
    }
}
