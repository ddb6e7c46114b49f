//! Finds the line of a field, once something is wrong with it.

use std::cell::OnceCell;
use std::fmt;

use serde::de::{Deserialize, Deserializer, MapAccess, SeqAccess, Visitor};
use serde_saphyr::Spanned;

/// A document's shape with the place of every value.
enum Node {
    Scalar,
    List(Vec<Spanned<Node>>),
    Map(Vec<(String, Spanned<Node>)>),
}

/// The lines of a document's fields; it is read for them when the first is asked for.
pub(super) struct Lines<'a> {
    document: &'a str,
    root: OnceCell<Option<Spanned<Node>>>,
}

impl<'a> Lines<'a> {
    pub(super) fn new(document: &'a str) -> Self {
        Self {
            document,
            root: OnceCell::new(),
        }
    }

    /// The line, from 1, of the value at `path` (`spec.rules[0].name`), or of the closest value around it that is there.
    pub(super) fn line_of(&self, path: &str) -> Option<u32> {
        let root = self.root.get_or_init(|| serde_saphyr::from_str(self.document).ok());
        let mut at = root.as_ref()?;
        for segment in segments(path) {
            let inner = match &at.value {
                Node::Scalar => None,
                Node::List(items) => segment.parse::<usize>().ok().and_then(|i| items.get(i)),
                Node::Map(entries) => entries.iter().find(|(key, _)| key == segment).map(|(_, value)| value),
            };
            match inner {
                Some(inner) => at = inner,
                None => break,
            }
        }
        u32::try_from(at.referenced.line()).ok().filter(|line| *line > 0)
    }
}

fn segments(path: &str) -> impl Iterator<Item = &str> {
    path.split(['.', '['])
        .map(|s| s.trim_end_matches(']'))
        .filter(|s| !s.is_empty())
}

impl<'de> Deserialize<'de> for Node {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(NodeVisitor)
    }
}

struct NodeVisitor;

impl<'de> Visitor<'de> for NodeVisitor {
    type Value = Node;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("any value")
    }

    fn visit_bool<E>(self, _: bool) -> Result<Node, E> {
        Ok(Node::Scalar)
    }

    fn visit_i64<E>(self, _: i64) -> Result<Node, E> {
        Ok(Node::Scalar)
    }

    fn visit_i128<E>(self, _: i128) -> Result<Node, E> {
        Ok(Node::Scalar)
    }

    fn visit_u64<E>(self, _: u64) -> Result<Node, E> {
        Ok(Node::Scalar)
    }

    fn visit_u128<E>(self, _: u128) -> Result<Node, E> {
        Ok(Node::Scalar)
    }

    fn visit_f64<E>(self, _: f64) -> Result<Node, E> {
        Ok(Node::Scalar)
    }

    fn visit_str<E>(self, _: &str) -> Result<Node, E> {
        Ok(Node::Scalar)
    }

    fn visit_bytes<E>(self, _: &[u8]) -> Result<Node, E> {
        Ok(Node::Scalar)
    }

    fn visit_unit<E>(self) -> Result<Node, E> {
        Ok(Node::Scalar)
    }

    fn visit_none<E>(self) -> Result<Node, E> {
        Ok(Node::Scalar)
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<Node, A::Error> {
        let mut items = Vec::new();
        while let Some(item) = seq.next_element()? {
            items.push(item);
        }
        Ok(Node::List(items))
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Node, A::Error> {
        let mut entries = Vec::new();
        while let Some(entry) = map.next_entry()? {
            entries.push(entry);
        }
        Ok(Node::Map(entries))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const TEXT: &str = "---\nspec:\n  rules:\n  - name: a\n    weight: x\n  labels:\n    team: b\n  port: 0\n";

    #[test]
    fn finds_the_line_or_the_closest_around_it() {
        for (path, line) in [
            ("spec.port", 8),
            ("spec.rules[0].weight", 5),
            ("spec.labels[team]", 7),
            ("spec.rules[7].weight", 4),
            ("spec.rules[0].weight.deeper", 5),
        ] {
            assert_eq!(Lines::new(TEXT).line_of(path), Some(line), "{path}");
        }
        assert_eq!(Lines::new("a: [").line_of("a"), None);
        assert_eq!(Lines::new("{\"a\":\n {\"b\": 1}}").line_of("a.b"), Some(2));
    }
}
