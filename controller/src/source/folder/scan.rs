//! Looks at a folder: every manifest file below it, whatever led to it (a file, a link, a linked folder).
//!
//! What must always hold: it ends, also with links that go round; what is too large or too much is named instead of read.
//! Names that begin with a dot are passed over: Kubernetes keeps the versions of a mounted ConfigMap under such names.

use std::collections::BTreeSet;
use std::fs;
use std::io::{self, Read};
use std::os::unix::fs::MetadataExt;
use std::path::Path;

use super::state::{FoundContent, FoundFile};

const EXTENSIONS: [&str; 3] = ["yaml", "yml", "json"];
const MAX_DEPTH: usize = 16;

/// Bounds on a look.
#[derive(Clone, Copy, Debug)]
pub(super) struct Bounds {
    pub(super) max_files: usize,
    pub(super) max_file_bytes: u64,
}

/// Every manifest file below the folder, sorted by path.
///
/// # Errors
/// When the folder itself cannot be listed.
pub(super) fn look(root: &Path, bounds: Bounds) -> io::Result<Vec<FoundFile>> {
    let mut look = Look {
        bounds,
        visited: BTreeSet::new(),
        found: Vec::new(),
    };
    look.folder(root, "", 0)?;
    look.found.sort_by(|a, b| a.path.cmp(&b.path));
    Ok(look.found)
}

struct Look {
    bounds: Bounds,
    // Device and inode of every folder entered.
    visited: BTreeSet<(u64, u64)>,
    found: Vec<FoundFile>,
}

impl Look {
    fn folder(&mut self, folder: &Path, prefix: &str, depth: usize) -> io::Result<()> {
        let metadata = fs::metadata(folder)?;
        if depth > MAX_DEPTH || !self.visited.insert((metadata.dev(), metadata.ino())) {
            return Ok(());
        }
        let mut names: Vec<_> = fs::read_dir(folder)?
            .filter_map(|entry| entry.ok().map(|entry| entry.file_name()))
            .collect();
        // The same files are left out on every look when there are too many.
        names.sort();
        for name in names {
            let text = name.to_string_lossy();
            if text.starts_with('.') {
                continue;
            }
            let path = format!("{prefix}{text}");
            self.entry(&folder.join(&name), path, depth);
        }
        Ok(())
    }

    fn entry(&mut self, at: &Path, path: String, depth: usize) {
        let is_manifest = at
            .extension()
            .is_some_and(|extension| EXTENSIONS.iter().any(|known| extension == *known));
        let metadata = match fs::metadata(at) {
            Ok(metadata) => metadata,
            // Gone since it was listed, or a link to nowhere.
            Err(error) if error.kind() == io::ErrorKind::NotFound && !is_link(at) => return,
            Err(error) if is_manifest => return self.unreadable(path, format!("cannot be read: {error}")),
            Err(_) => return,
        };
        if metadata.is_dir() {
            if let Err(error) = self.folder(at, &format!("{path}/"), depth + 1) {
                self.unreadable(path, format!("cannot be listed: {error}"));
            }
        } else if is_manifest && metadata.is_file() {
            self.file(at, path);
        }
    }

    fn file(&mut self, at: &Path, path: String) {
        if self.found.len() >= self.bounds.max_files {
            let message = format!("is not read: there are more than {} files", self.bounds.max_files);
            return self.unreadable(path, message);
        }
        match read(at, self.bounds.max_file_bytes) {
            Ok(Some(bytes)) => match String::from_utf8(bytes) {
                Ok(text) => {
                    let hash = twox_hash::XxHash3_64::oneshot(text.as_bytes());
                    let content = FoundContent::Text(hash, text);
                    self.found.push(FoundFile { path, content });
                }
                Err(error) => {
                    let at = error.utf8_error().valid_up_to();
                    self.unreadable(path, format!("is not UTF-8 text: byte {at} begins no character"));
                }
            },
            Ok(None) => {
                let message = format!("is not read: it is larger than {} bytes", self.bounds.max_file_bytes);
                self.unreadable(path, message);
            }
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Err(error) => self.unreadable(path, format!("cannot be read: {error}")),
        }
    }

    fn unreadable(&mut self, path: String, reason: String) {
        self.found.push(FoundFile {
            path,
            content: FoundContent::Unreadable(reason),
        });
    }
}

fn is_link(at: &Path) -> bool {
    fs::symlink_metadata(at).is_ok_and(|metadata| metadata.is_symlink())
}

/// `None` when it is larger.
fn read(at: &Path, max: u64) -> io::Result<Option<Vec<u8>>> {
    let mut bytes = Vec::new();
    fs::File::open(at)?
        .take(max.saturating_add(1))
        .read_to_end(&mut bytes)?;
    Ok((bytes.len() as u64 <= max).then_some(bytes))
}
