//! The last good state in a file, so that a restarted filter serves while the controller is away.
//!
//! What must always hold: the file is replaced whole or not at all; what is read from it is as untrusted as what comes
//! over the wire: it goes through the same translation, and a file that is damaged or too large is left aside with a
//! warning. Loads are not kept: they would be old.

use std::io::{self, Read, Write};
use std::path::{Path, PathBuf};

use kthena_scheduler::state::proto;
use prost::Message;
use twox_hash::XxHash3_64;

/// Names the format; another layout gets another name.
const MAGIC: &[u8; 16] = b"kthena-state-1\n\0";

/// Where the state is kept.
#[derive(Clone, Debug)]
pub(super) struct Cache {
    path: PathBuf,
    max_bytes: u64,
}

impl Cache {
    pub(super) fn new(path: PathBuf, max_bytes: u64) -> Self {
        Self { path, max_bytes }
    }

    pub(super) fn path(&self) -> &Path {
        &self.path
    }

    /// The state in the file; `None` when there is no file.
    pub(super) fn load(&self) -> io::Result<Option<proto::Update>> {
        let file = match std::fs::File::open(&self.path) {
            Ok(file) => file,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(error),
        };
        let mut bytes = Vec::new();
        file.take(self.max_bytes + 1).read_to_end(&mut bytes)?;
        if bytes.len() as u64 > self.max_bytes {
            return Err(invalid(format!("it is larger than {} bytes", self.max_bytes)));
        }
        let body = bytes
            .strip_prefix(MAGIC)
            .ok_or_else(|| invalid("it is not a state file of this version".to_owned()))?;
        let (sum, body) = body
            .split_first_chunk::<8>()
            .ok_or_else(|| invalid("it is cut off".to_owned()))?;
        if XxHash3_64::oneshot(body) != u64::from_le_bytes(*sum) {
            return Err(invalid("its checksum does not match".to_owned()));
        }
        proto::Update::decode(body)
            .map(Some)
            .map_err(|error| invalid(error.to_string()))
    }

    /// Replaces the file.
    pub(super) fn save(&self, state: &proto::Update) -> io::Result<()> {
        let body = state.encode_to_vec();
        if body.len() as u64 + 24 > self.max_bytes {
            return Err(invalid(format!("the state is larger than {} bytes", self.max_bytes)));
        }
        let beside = self.path.with_extension(format!("tmp-{}", std::process::id()));
        let mut file = std::fs::File::create(&beside)?;
        file.write_all(MAGIC)?;
        file.write_all(&XxHash3_64::oneshot(&body).to_le_bytes())?;
        file.write_all(&body)?;
        file.sync_all()?;
        std::fs::rename(&beside, &self.path)
    }
}

fn invalid(reason: String) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, reason)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn cache(name: &str) -> Cache {
        let file = format!("kthena-state-{name}-{}", std::process::id());
        Cache::new(std::env::temp_dir().join(file), 1_000)
    }

    fn state(names: usize) -> proto::Update {
        proto::Update {
            resources: vec![
                proto::Resource {
                    name: "a/r".into(),
                    ..Default::default()
                };
                names
            ],
            synced: true,
            ..Default::default()
        }
    }

    #[test]
    fn what_was_saved_is_read_again() {
        let cache = cache("roundtrip");
        assert!(cache.load().unwrap().is_none());
        cache.save(&state(2)).unwrap();
        assert_eq!(cache.load().unwrap(), Some(state(2)));
        std::fs::remove_file(cache.path()).unwrap();
    }

    #[test]
    fn a_damaged_file_is_refused_and_a_large_state_leaves_the_old_file() {
        let cache = cache("damaged");
        cache.save(&state(1)).unwrap();
        assert!(cache.save(&state(1_000)).is_err());
        let mut bytes = std::fs::read(cache.path()).unwrap();
        assert_eq!(cache.load().unwrap(), Some(state(1)));
        for damage in [bytes.len() - 1, 20, 3] {
            bytes[damage] ^= 1;
            std::fs::write(cache.path(), &bytes).unwrap();
            assert!(cache.load().is_err(), "byte {damage} differs");
            bytes[damage] ^= 1;
        }
        std::fs::write(cache.path(), &bytes[..18]).unwrap();
        assert!(cache.load().is_err());
        std::fs::remove_file(cache.path()).unwrap();
    }
}
