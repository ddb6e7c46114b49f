//! A body as slices of the messages that it came in.
//!
//! A prompt may be megabytes long, and what changes in it is a name: so its bytes stay where they were received, and go back from there. What must always hold: the slices in order are the body, and their lengths
//! add up to `len`. Nothing fails.

use bytes::{Buf, Bytes};

use kthena_scheduler::request::Splice;

/// Bytes of a body, in order. Bodies are equal when their bytes are, however they are cut.
#[derive(Clone, Debug, Default)]
pub struct Body {
    slices: Vec<Bytes>,
    len: usize,
}

// === impl Body ===

impl Body {
    /// How many bytes these are.
    pub fn len(&self) -> usize {
        self.len
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// Appends bytes.
    pub fn push(&mut self, bytes: Bytes) {
        if !bytes.is_empty() {
            self.len += bytes.len();
            self.slices.push(bytes);
        }
    }

    /// Takes the first bytes away, as far as there are so many.
    pub fn split_to(&mut self, mut at: usize) -> Self {
        let mut first = Self::default();
        let mut whole = 0;
        for slice in &mut self.slices {
            if at < slice.len() {
                first.push(slice.split_to(at));
                break;
            }
            at -= slice.len();
            first.push(std::mem::take(slice));
            whole += 1;
        }
        self.slices.drain(..whole);
        self.len -= first.len;
        first
    }

    /// Replaces ranges that are in ascending order and do not overlap; all of them refer to the body before the call. One
    /// that does not lie within what the others left is passed over rather than applied somewhere else.
    pub fn splice(&mut self, splices: Vec<Splice>) {
        let mut changed = Self::default();
        let mut done = 0;
        for splice in splices {
            let range = usize::try_from(splice.range.start)
                .ok()
                .zip(usize::try_from(splice.range.end).ok());
            let Some((start, end)) = range.filter(|(start, end)| done <= *start && start <= end) else {
                continue;
            };
            if end - done > self.len {
                continue;
            }
            changed.append(self.split_to(start - done));
            self.split_to(end - start);
            changed.push(splice.bytes.into());
            done = end;
        }
        changed.append(std::mem::take(self));
        *self = changed;
    }

    /// Takes so many bytes from a message, or as many as there are.
    pub fn take_from(message: &mut impl Buf, mut len: usize) -> Self {
        let mut body = Self::default();
        while len > 0 && message.has_remaining() {
            let slice = message.copy_to_bytes(len.min(message.chunk().len()));
            len -= slice.len();
            body.push(slice);
        }
        body
    }

    /// The slices, in order.
    pub fn slices(&self) -> &[Bytes] {
        &self.slices
    }

    /// The slices, in order.
    pub fn into_slices(self) -> Vec<Bytes> {
        self.slices
    }

    /// All bytes in one piece, which are copied where there are several.
    pub fn into_bytes(mut self) -> Bytes {
        match self.slices.as_slice() {
            [_] => self.slices.pop().unwrap_or_default(),
            slices => slices.concat().into(),
        }
    }

    fn append(&mut self, other: Self) {
        self.len += other.len;
        self.slices.extend(other.slices);
    }
}

impl PartialEq for Body {
    fn eq(&self, other: &Self) -> bool {
        self.len == other.len && self.slices.iter().flatten().eq(other.slices.iter().flatten())
    }
}

impl From<Bytes> for Body {
    fn from(bytes: Bytes) -> Self {
        let mut body = Self::default();
        body.push(bytes);
        body
    }
}

impl From<Vec<u8>> for Body {
    fn from(bytes: Vec<u8>) -> Self {
        Bytes::from(bytes).into()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use kthena_scheduler::request::splice;
    use proptest::prelude::*;

    fn cut(text: &[u8], at: &[usize]) -> Body {
        let mut body = Body::default();
        let mut rest = Bytes::copy_from_slice(text);
        for at in at {
            body.push(rest.split_to((*at).min(rest.len())));
        }
        body.push(rest);
        body
    }

    proptest! {
        #[test]
        fn however_it_is_cut_a_body_is_spliced_as_if_it_were_whole(
            text in proptest::collection::vec(any::<u8>(), 0..60),
            cuts in proptest::collection::vec(0usize..30, 0..5),
            ranges in proptest::collection::vec((0u64..70, 0u64..20, "[a-c]{0,4}"), 0..4),
        ) {
            let splices: Vec<_> = ranges
                .into_iter()
                .map(|(start, len, bytes)| Splice { range: start..start + len, bytes: bytes.into_bytes() })
                .collect();
            let mut body = cut(&text, &cuts);
            body.splice(splices.clone());
            let mut whole = text;
            splice::apply(&mut whole, &splices);
            prop_assert_eq!(body.len(), whole.len());
            prop_assert_eq!(body.into_bytes(), whole);
        }

        #[test]
        fn what_is_split_off_and_what_is_left_are_the_body(
            text in proptest::collection::vec(any::<u8>(), 0..60),
            cuts in proptest::collection::vec(0usize..30, 0..5),
            at in 0usize..80,
        ) {
            let mut body = cut(&text, &cuts);
            let first = body.split_to(at);
            prop_assert_eq!(first.len(), at.min(text.len()));
            prop_assert_eq!([first.into_bytes(), body.into_bytes()].concat(), text);
        }
    }
}
