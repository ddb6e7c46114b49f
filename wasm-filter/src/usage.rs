//! The parts of an answer that say what it cost: its beginning and its end.
//!
//! Event streams say it in their first or last events, so that no other piece is looked at, only kept until later ones
//! push it out. An answer that is one document is read as it passes. What must always hold: bytes kept are bounded.

use kthena_scheduler::exchange::Input;

/// Bytes of the beginning of an event stream that are read.
const HEAD: usize = 4 << 10;
/// Bytes of its end that are kept: usage, and the mark of the end.
const TAIL: usize = 4 << 10;

/// What of an answer is shown to the exchange.
#[derive(Debug)]
pub enum Excerpt {
    /// All of it, as it passes.
    Whole,
    /// An event stream.
    Ends {
        /// Bytes of the beginning that were shown.
        head: usize,
        /// The last bytes since.
        tail: Vec<u8>,
        /// Bytes between them were left out.
        cut: bool,
    },
}

impl Excerpt {
    /// For an answer of this content type.
    pub fn new(content_type: &str) -> Self {
        if content_type.starts_with("text/event-stream") {
            Self::Ends {
                head: 0,
                tail: Vec::new(),
                cut: false,
            }
        } else {
            Self::Whole
        }
    }

    /// Takes a piece that passes, and shows what is to be shown of it.
    pub fn take(&mut self, piece: &[u8], mut show: impl FnMut(Input<'_>)) {
        match self {
            Self::Whole => show(Input::ResponseBody(piece)),
            Self::Ends { head, .. } if *head < HEAD => {
                *head += piece.len();
                show(Input::ResponseBody(piece));
            }
            Self::Ends { tail, cut, .. } => {
                tail.extend_from_slice(piece);
                if tail.len() > 2 * TAIL {
                    tail.drain(..tail.len() - TAIL);
                    *cut = true;
                }
            }
        }
    }

    /// The answer is complete: shows its end.
    pub fn finish(self, mut show: impl FnMut(Input<'_>)) {
        let Self::Ends { tail, cut, .. } = self else { return };
        let mut from = 0;
        if cut {
            // What was left out ends whatever event was begun, and what is kept begins within another.
            show(Input::ResponseBody(b"\n\n"));
            from = tail.iter().position(|byte| *byte == b'\n').unwrap_or(tail.len());
        }
        if from < tail.len() {
            show(Input::ResponseBody(&tail[from..]));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shown(content_type: &str, pieces: &[&str]) -> String {
        let mut shown = Vec::new();
        let mut excerpt = Excerpt::new(content_type);
        let mut show = |input: Input<'_>| match input {
            Input::ResponseBody(bytes) => shown.extend_from_slice(bytes),
            other => panic!("{other:?}"),
        };
        pieces
            .iter()
            .for_each(|piece| excerpt.take(piece.as_bytes(), &mut show));
        excerpt.finish(&mut show);
        String::from_utf8(shown).unwrap()
    }

    #[test]
    fn a_document_is_shown_whole() {
        assert_eq!(shown("application/json", &["{\"a\":", "1}"]), "{\"a\":1}");
    }

    #[test]
    fn a_stream_of_which_nothing_was_left_out_is_shown_as_it_came() {
        let long = format!("data: {}\n\n", "x".repeat(HEAD));
        let pieces = [long.as_str(), "data: sp", "lit\n\ndata: [DONE]\n\n"];
        assert_eq!(shown("text/event-stream", &pieces), pieces.concat());
    }

    #[test]
    fn of_a_stream_its_ends_are_shown_and_little_is_kept() {
        let middle = format!("data: {}\n\n", "x".repeat(990));
        let mut pieces = vec!["data: first\n\n"];
        pieces.extend(std::iter::repeat_n(middle.as_str(), 100));
        pieces.push("data: last\n\n");
        pieces.push("data: [DONE]\n\n");
        let shown = shown("text/event-stream; charset=utf-8", &pieces);
        assert!(shown.starts_with("data: first\n\n"));
        assert!(shown.ends_with("data: last\n\ndata: [DONE]\n\n"));
        assert!(shown.len() < 16 << 10, "{}", shown.len());
        let whole = |line: &str| line.is_empty() || line.starts_with("data: ");
        assert!(shown.lines().all(whole), "no line is shown in half");
    }
}
