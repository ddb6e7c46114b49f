//! Puts resources together again that were too large for one message.
//!
//! What must always hold: a body leaves here whole and equal to what its version names, or not at all; what waits for
//! its other parts is bounded in bytes and in number. It fails by refusing the resource with a reason; the sender's next
//! version starts afresh.

use std::collections::BTreeMap;

use prost::bytes::{Bytes, BytesMut};

use super::proto;

/// More parts than this are a mistake: at 256 KiB a part it would be a gigabyte.
const MAX_PARTS: u32 = 4096;

/// Bodies of which some parts are still to come, by type and name.
#[derive(Debug)]
pub(super) struct Parts {
    waiting: BTreeMap<(i32, String), Waiting>,
    bytes: usize,
    max_bytes: usize,
}

#[derive(Debug)]
struct Waiting {
    version: u64,
    parts: u32,
    received: BTreeMap<u32, Bytes>,
}

impl Waiting {
    fn bytes(&self) -> usize {
        self.received.values().map(Bytes::len).sum()
    }
}

impl Parts {
    /// Keeps at most `max_bytes` of incomplete bodies.
    pub(super) fn new(max_bytes: usize) -> Self {
        Self {
            waiting: BTreeMap::new(),
            bytes: 0,
            max_bytes,
        }
    }

    /// The whole body, once all of it has come; `None` while parts are missing.
    ///
    /// # Errors
    /// When the parts cannot make a body: too large, inconsistent, or another content than the version says.
    pub(super) fn add(&mut self, resource: &proto::Resource) -> Result<Option<Bytes>, String> {
        let body = if resource.parts <= 1 {
            self.forget(resource.r#type, &resource.name);
            if resource.body.len() > self.max_bytes {
                return Err(format!("larger than {} bytes", self.max_bytes));
            }
            resource.body.clone()
        } else {
            match self.collect(resource)? {
                Some(body) => body,
                None => return Ok(None),
            }
        };
        if twox_hash::XxHash3_64::oneshot(&body) != resource.version {
            return Err("the body is not what its version says".to_owned());
        }
        Ok(Some(body))
    }

    /// Drops what has come of a resource so far.
    pub(super) fn forget(&mut self, r#type: i32, name: &str) {
        if let Some(dropped) = self.waiting.remove(&(r#type, name.to_owned())) {
            self.bytes -= dropped.bytes();
        }
    }

    /// Drops everything incomplete: the stream that would bring the rest is gone.
    pub(super) fn clear(&mut self) {
        self.waiting.clear();
        self.bytes = 0;
    }

    fn collect(&mut self, resource: &proto::Resource) -> Result<Option<Bytes>, String> {
        let (part, parts) = (resource.part, resource.parts);
        if parts > MAX_PARTS || part >= parts {
            self.forget(resource.r#type, &resource.name);
            return Err(format!("part {part} of {parts} is out of range"));
        }
        let key = (resource.r#type, resource.name.clone());
        if self
            .waiting
            .get(&key)
            .is_some_and(|held| held.version != resource.version || held.parts != parts)
        {
            self.forget(resource.r#type, &resource.name);
        }
        if self.bytes + resource.body.len() > self.max_bytes || self.waiting.len() >= MAX_PARTS as usize {
            self.forget(resource.r#type, &resource.name);
            return Err(format!("incomplete resources exceed {} bytes", self.max_bytes));
        }
        let held = self.waiting.entry(key).or_insert_with(|| Waiting {
            version: resource.version,
            parts,
            received: BTreeMap::new(),
        });
        self.bytes += resource.body.len();
        if let Some(doubled) = held.received.insert(part, resource.body.clone()) {
            self.bytes -= doubled.len();
        }
        if held.received.len() < parts as usize {
            return Ok(None);
        }
        let mut body = BytesMut::with_capacity(held.bytes());
        held.received.values().for_each(|part| body.extend_from_slice(part));
        self.forget(resource.r#type, &resource.name);
        Ok(Some(body.freeze()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn part(body: &[u8], version: u64, part: u32, parts: u32) -> proto::Resource {
        proto::Resource {
            r#type: 1,
            name: "a/r".into(),
            version,
            body: Bytes::copy_from_slice(body),
            part,
            parts,
        }
    }

    fn version(body: &[u8]) -> u64 {
        twox_hash::XxHash3_64::oneshot(body)
    }

    #[test]
    fn parts_make_the_body_in_any_order_and_doubled() {
        let mut parts = Parts::new(100);
        let v = version(b"abcdef");
        for (body, at) in [(b"ef", 2), (b"ab", 0), (b"ab", 0)] {
            assert_eq!(parts.add(&part(body, v, at, 3)), Ok(None));
        }
        assert_eq!(
            parts.add(&part(b"cd", v, 1, 3)),
            Ok(Some(Bytes::from_static(b"abcdef")))
        );
        assert_eq!((parts.bytes, parts.waiting.len()), (0, 0));
    }

    #[test]
    fn a_newer_version_starts_afresh() {
        let mut parts = Parts::new(100);
        assert_eq!(parts.add(&part(b"old", 1, 0, 2)), Ok(None));
        let v = version(b"newer");
        assert_eq!(parts.add(&part(b"ne", v, 0, 2)), Ok(None));
        assert_eq!(
            parts.add(&part(b"wer", v, 1, 2)),
            Ok(Some(Bytes::from_static(b"newer")))
        );
    }

    #[test]
    fn bounds_and_versions_are_enforced() {
        let mut parts = Parts::new(4);
        assert!(parts.add(&part(b"abcde", version(b"abcde"), 0, 1)).is_err());
        assert!(parts.add(&part(b"abc", 1, 0, 1)).is_err());
        assert!(parts.add(&part(b"a", 1, 2, 2)).is_err());
        assert!(parts.add(&part(b"a", 1, 0, u32::MAX)).is_err());
        assert_eq!(parts.add(&part(b"abc", 1, 0, 3)), Ok(None));
        assert!(parts.add(&part(b"de", 1, 1, 3)).is_err());
        assert_eq!((parts.bytes, parts.waiting.len()), (0, 0));
    }
}
