//! JSON whose objects keep the order in which they are written, since clients see vLLM's order: `id` first, `usage`
//! after the text. (`serde_json`'s own objects are sorted by key.)

use serde::{Serialize, Serializer};
use serde_json::Value;

/// A JSON value.
#[derive(Debug, Clone)]
pub(crate) enum Json {
    /// Anything without order.
    Value(Value),
    /// A list.
    List(Vec<Json>),
    /// An object, in order.
    Object(Vec<(&'static str, Json)>),
}

/// The value null.
pub(super) const NULL: Json = Json::Value(Value::Null);

impl Json {
    /// Adds or replaces a field of an object.
    pub(super) fn with(mut self, name: &'static str, value: impl Into<Json>) -> Self {
        if let Self::Object(fields) = &mut self {
            fields.retain(|(present, _)| *present != name);
            fields.push((name, value.into()));
        }
        self
    }

    /// As text.
    pub(crate) fn to_text(&self) -> String {
        // Nothing in here can fail to be written: keys are strings and numbers are finite.
        serde_json::to_string(self).unwrap_or_default()
    }
}

impl Serialize for Json {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match self {
            Self::Value(value) => value.serialize(serializer),
            Self::List(entries) => entries.serialize(serializer),
            Self::Object(fields) => serializer.collect_map(fields.iter().map(|(name, value)| (name, value))),
        }
    }
}

impl From<Vec<Json>> for Json {
    fn from(entries: Vec<Json>) -> Self {
        Self::List(entries)
    }
}

impl<T: Into<Json>> From<Option<T>> for Json {
    fn from(value: Option<T>) -> Self {
        value.map_or(NULL, Into::into)
    }
}

macro_rules! from_value {
    ($($type:ty),*) => {$(
        impl From<$type> for Json {
            fn from(value: $type) -> Self {
                Self::Value(value.into())
            }
        }
    )*};
}
from_value!(&str, String, bool, u16, u32, u64, usize, f64, Vec<u32>, Vec<f32>);

/// An object: `object! {"id": id, "usage": NULL}`.
macro_rules! object {
    ($($name:literal: $value:expr),* $(,)?) => {
        $crate::api::json::Json::Object(vec![$(($name, $crate::api::json::Json::from($value))),*])
    };
}
pub(super) use object;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn objects_keep_their_order() {
        let json = object! {"b": 1u32, "a": object! {"z": NULL, "y": vec![Json::from("x")]}}.with("b", 2u32);
        assert_eq!(json.to_text(), r#"{"a":{"z":null,"y":["x"]},"b":2}"#);
    }
}
