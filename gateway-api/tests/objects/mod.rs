//! Objects that are good, bad, or judged differently by us and by an API server: one file each.
//!
//! A file begins with what is to be said of it, as comments:
//!
//! | | |
//! |---|---|
//! | `field` | path of the field that we complain of; empty where the object can't even be read |
//! | `says` | part of what we say |
//! | `server` | part of what an API server says; left out in `fail`: the same |
//! | `by` | what refuses it in the API server: a `rule` of the schema (CEL), the rest of the `schema`, the chart's `policy`, or a rule that only a real `server` holds to |
//! | `warns` | path of a field that is accepted and has no effect, once for each |
//! | `why` | why we and an API server differ |

use std::path::Path;

use serde_json::Value;

use super::PLACE;

/// One file.
pub(crate) struct Example {
    /// `fail/route-with-an-empty-adapter`.
    pub(crate) name: String,
    /// The object.
    pub(crate) object: Value,
    head: Vec<(String, String)>,
}

impl Example {
    /// What its head says of a key, the first time.
    pub(crate) fn says(&self, key: &str) -> Option<&str> {
        self.all(key).next()
    }

    /// What its head says of a key, each time.
    pub(crate) fn all(&self, key: &str) -> impl Iterator<Item = &str> {
        let of_key = self.head.iter().filter(move |(found, _)| found == key);
        of_key.map(|(_, value)| value.as_str())
    }

    /// Its kind.
    pub(crate) fn kind(&self) -> &str {
        self.object["kind"].as_str().unwrap_or_default()
    }
}

/// Those of a folder: `pass`, `fail` or `differ`, by name.
pub(crate) fn examples(folder: &str) -> Vec<Example> {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join(PLACE).join(folder);
    let mut examples: Vec<Example> = std::fs::read_dir(&path)
        .unwrap()
        .map(|entry| {
            let file = entry.unwrap().path();
            let text = std::fs::read_to_string(&file).unwrap();
            let name = format!("{folder}/{}", file.file_stem().unwrap().display());
            let head = text.lines().map_while(|line| line.strip_prefix("# "));
            let head = head.map(|line| {
                let (key, value) = line
                    .split_once(':')
                    .unwrap_or_else(|| panic!("{name}: `{line}` has no colon"));
                assert!(KEYS.contains(&key), "{name}: `{key}` has no meaning");
                (key.to_owned(), value.trim().to_owned())
            });
            Example {
                head: head.collect(),
                object: serde_saphyr::from_str(&text).unwrap(),
                name,
            }
        })
        .collect();
    assert!(!examples.is_empty(), "{} is empty", path.display());
    examples.sort_by(|a, b| a.name.cmp(&b.name));
    examples
}

const KEYS: [&str; 6] = ["field", "says", "server", "by", "warns", "why"];
