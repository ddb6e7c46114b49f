//! The folder that the project's scripts install into, where tests find what they never fetch themselves.

use std::path::PathBuf;

/// `KTHENA_CACHE`, or `kthena` in the user's cache folder, as the scripts in `e2e/tools` have it.
#[must_use]
pub fn folder() -> PathBuf {
    let folder = |name: &str| {
        std::env::var_os(name)
            .filter(|value| !value.is_empty())
            .map(PathBuf::from)
    };
    folder("KTHENA_CACHE")
        .or_else(|| folder("XDG_CACHE_HOME").map(|cache| cache.join("kthena")))
        .or_else(|| folder("HOME").map(|home| home.join(".cache/kthena")))
        .unwrap_or_else(|| PathBuf::from("/tmp/kthena"))
}
