//! Cuts a YAML stream into its documents without parsing it, so that one that is broken does not hide the next.
//!
//! YAML forbids a marker at the start of a line inside any scalar, so the lines that begin with `---` or `...` are
//! document boundaries whatever surrounds them.

/// One document of a stream.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Chunk<'a> {
    /// Lines before it in the file.
    pub(super) lines_before: u32,
    pub(super) text: &'a str,
}

/// The documents that hold more than comments.
pub(super) fn documents(text: &str) -> Vec<Chunk<'_>> {
    let mut chunks = Vec::new();
    let (mut start, mut start_line) = (0, 0u32);
    let (mut at, mut line) = (0, 0u32);
    let mut push = |from: usize, to: usize, lines_before: u32| {
        let text = &text[from..to];
        if holds_something(text) {
            chunks.push(Chunk { lines_before, text });
        }
    };
    for full in text.split_inclusive('\n') {
        let next = at + full.len();
        if is_marker(full, "---") {
            push(start, at, start_line);
            (start, start_line) = (at, line);
        } else if is_marker(full, "...") {
            push(start, at, start_line);
            (start, start_line) = (next, line + 1);
        }
        at = next;
        line = line.saturating_add(1);
    }
    push(start, text.len(), start_line);
    chunks
}

fn is_marker(line: &str, marker: &str) -> bool {
    line.strip_prefix(marker)
        .is_some_and(|rest| rest.is_empty() || rest.starts_with([' ', '\t', '\r', '\n']))
}

fn holds_something(text: &str) -> bool {
    text.lines().any(|line| {
        let line = if is_marker(line, "---") { &line[3..] } else { line };
        let line = line.trim();
        !(line.is_empty() || line.starts_with('#') || line.starts_with('%'))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn cut(text: &str) -> Vec<(u32, &str)> {
        documents(text).into_iter().map(|c| (c.lines_before, c.text)).collect()
    }

    #[test]
    fn documents_know_where_they_begin() {
        assert_eq!(cut("a: 1\n---\nb: 2\n"), [(0, "a: 1\n"), (1, "---\nb: 2\n")]);
        assert_eq!(
            cut("--- {a: 1}\r\n---\r\nb: 2"),
            [(0, "--- {a: 1}\r\n"), (1, "---\r\nb: 2")]
        );
        assert_eq!(cut("a: 1\n...\nb: 2\n"), [(0, "a: 1\n"), (2, "b: 2\n")]);
    }

    #[test]
    fn empty_documents_are_none() {
        assert!(cut("").is_empty());
        assert!(cut("# only\n---\n\n---\n  # comments\n%YAML 1.2\n---\n").is_empty());
    }

    #[test]
    fn dashes_elsewhere_are_content() {
        let text = "a: |\n  ---\n  x\nb: ---x\n----: 1\n";
        assert_eq!(cut(text), [(0, text)]);
    }
}
