//! How a rule compares a header or a path: exactly, by prefix, or by a regular expression compiled once.
//!
//! Regexes are RE2 syntax and search unanchored, as Kthena's do. The engine cannot back-track, so no pattern can stall a
//! request; a pattern that does not compile is refused when the route is compiled. In wasm, where the tables of Unicode
//! would be half of the module, the engine is a small one: `\p{…}` does not compile there.

#[cfg(not(target_family = "wasm"))]
use regex::Regex;
#[cfg(target_family = "wasm")]
use regex_lite::Regex;

/// A compiled comparison.
#[derive(Clone, Debug)]
pub struct StringMatch(Kind);

#[derive(Clone, Debug)]
enum Kind {
    Any,
    Exact(Box<str>),
    Prefix(Box<str>),
    Regex(Regex),
}

/// A regular expression that does not compile.
#[derive(Debug, thiserror::Error)]
#[error("regex `{pattern}` does not compile: {reason}")]
pub struct InvalidRegex {
    pattern: String,
    reason: String,
}

impl StringMatch {
    /// Holds for every string: what a match with nothing set means.
    pub fn any() -> Self {
        Self(Kind::Any)
    }

    /// Holds for this string alone.
    pub fn exact(value: &str) -> Self {
        Self(Kind::Exact(value.into()))
    }

    /// Holds for strings that begin so.
    pub fn prefix(value: &str) -> Self {
        Self(Kind::Prefix(value.into()))
    }

    /// Holds for strings in which the pattern is found anywhere.
    ///
    /// # Errors
    /// When the pattern is not valid RE2 syntax.
    pub fn regex(pattern: &str) -> Result<Self, InvalidRegex> {
        Regex::new(pattern)
            .map(|regex| Self(Kind::Regex(regex)))
            .map_err(|error| InvalidRegex {
                pattern: pattern.to_owned(),
                reason: error.to_string(),
            })
    }

    /// Whether it holds.
    pub fn matches(&self, value: &str) -> bool {
        match &self.0 {
            Kind::Any => true,
            Kind::Exact(exact) => **exact == *value,
            Kind::Prefix(prefix) => value.starts_with(&**prefix),
            Kind::Regex(regex) => regex.is_match(value),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_kind_compares_in_its_way() {
        assert!(StringMatch::any().matches(""));
        assert!(StringMatch::exact("a").matches("a") && !StringMatch::exact("a").matches("ab"));
        assert!(StringMatch::prefix("/v1").matches("/v1/chat") && !StringMatch::prefix("/v1").matches("/v2"));
        let regex = StringMatch::regex("pre.ium|gold").unwrap();
        assert!(regex.matches("a golden user") && !regex.matches("silver"));
    }

    #[test]
    fn a_broken_pattern_names_itself() {
        assert!(StringMatch::regex("a(").unwrap_err().to_string().contains("`a(`"));
    }
}
