//! `google.protobuf.Struct`, and Envoy's metadata made of it, as the lists of entries that they are on the wire.
//!
//! A handful of facts goes with every request, and comes back in its access-log entry: a list of slices of the message is read and
//! written without a hash and without a copy. What must always hold: numbers and types are those of `google/protobuf/struct.proto`
//! and `envoy/config/core/v3/base.proto` (a map is a repeated entry of key 1 and value 2); of an entry that is there twice the last
//! counts, as in a map. Text that is not UTF-8 is no text.

use bytes::Bytes;
use prost::{Message, Oneof};

/// `Struct`.
#[derive(Clone, PartialEq, Message)]
pub(crate) struct Fields {
    #[prost(message, repeated, tag = "1")]
    entries: Vec<Field>,
}

#[derive(Clone, PartialEq, Message)]
struct Field {
    #[prost(bytes = "bytes", tag = "1")]
    name: Bytes,
    #[prost(message, optional, tag = "2")]
    value: Option<Value>,
}

/// `Value`, but for the kinds that nobody sends us.
#[derive(Clone, PartialEq, Message)]
struct Value {
    #[prost(oneof = "Kind", tags = "2, 3, 5")]
    kind: Option<Kind>,
}

#[derive(Clone, PartialEq, Oneof)]
enum Kind {
    #[prost(double, tag = "2")]
    Number(f64),
    #[prost(bytes = "bytes", tag = "3")]
    Text(Bytes),
    #[prost(message, tag = "5")]
    Fields(Fields),
}

/// `Metadata`: fields by namespace.
#[derive(Clone, PartialEq, Message)]
pub(crate) struct Metadata {
    #[prost(message, repeated, tag = "1")]
    namespaces: Vec<Namespace>,
}

#[derive(Clone, PartialEq, Message)]
struct Namespace {
    #[prost(bytes = "bytes", tag = "1")]
    name: Bytes,
    #[prost(message, optional, tag = "2")]
    fields: Option<Fields>,
}

// === impl Fields ===

impl Fields {
    /// Texts under their names.
    pub(crate) fn of_texts(texts: impl IntoIterator<Item = (&'static str, String)>) -> Self {
        let texts = texts.into_iter();
        Self::of(texts.map(|(name, text)| (name, Kind::Text(text.into()))))
    }

    /// Fields under the names of their namespaces.
    pub(crate) fn of_namespaces(namespaces: impl IntoIterator<Item = (&'static str, Self)>) -> Self {
        let namespaces = namespaces.into_iter();
        Self::of(namespaces.map(|(name, fields)| (name, Kind::Fields(fields))))
    }

    fn of(entries: impl Iterator<Item = (&'static str, Kind)>) -> Self {
        let entry = |(name, kind): (&'static str, _)| Field {
            name: Bytes::from_static(name.as_bytes()),
            value: Some(Value { kind: Some(kind) }),
        };
        Self {
            entries: entries.map(entry).collect(),
        }
    }

    /// Whether there are none.
    pub(crate) fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }

    /// One that is a text.
    pub(crate) fn text(&self, name: &str) -> Option<&str> {
        match self.kind(name)? {
            Kind::Text(text) => std::str::from_utf8(text).ok(),
            Kind::Number(_) | Kind::Fields(_) => None,
        }
    }

    /// One that is a number, or the digits of one.
    pub(crate) fn count(&self, name: &str) -> Option<u64> {
        match self.kind(name)? {
            Kind::Number(number) if *number >= 0.0 && number.is_finite() => Some(*number as u64),
            Kind::Text(digits) => std::str::from_utf8(digits).ok()?.parse().ok(),
            Kind::Number(_) | Kind::Fields(_) => None,
        }
    }

    fn kind(&self, name: &str) -> Option<&Kind> {
        let field = self.entries.iter().rfind(|field| field.name == name)?;
        field.value.as_ref()?.kind.as_ref()
    }
}

// === impl Metadata ===

impl Metadata {
    /// The fields of a namespace; where there are none the namespace may be absent.
    pub(crate) fn fields(&self, namespace: &str) -> Option<&Fields> {
        let namespace = self.namespaces.iter().rfind(|known| known.name == namespace)?;
        namespace.fields.as_ref()
    }

    /// The same, taken out.
    pub(crate) fn take(&mut self, namespace: &str) -> Option<Fields> {
        let namespace = self.namespaces.iter_mut().rfind(|known| known.name == namespace)?;
        namespace.fields.take()
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashMap;

    use envoy_types::pb::envoy::config::core::v3 as envoy;
    use envoy_types::pb::google::protobuf::{Struct, Value as TheirValue, value::Kind as TheirKind};

    use super::*;

    fn theirs(fields: impl IntoIterator<Item = (&'static str, TheirKind)>) -> Struct {
        let value = |kind| TheirValue { kind: Some(kind) };
        let fields = fields.into_iter();
        Struct {
            fields: fields.map(|(name, kind)| (name.to_owned(), value(kind))).collect(),
        }
    }

    #[test]
    fn metadata_is_read_as_envoy_writes_it() {
        let fields = theirs([
            ("tokens", TheirKind::NumberValue(7.0)),
            ("digits", TheirKind::StringValue("8".into())),
            ("negative", TheirKind::NumberValue(-1.0)),
            ("text", TheirKind::StringValue("ä".into())),
            ("yes", TheirKind::BoolValue(true)),
        ]);
        let metadata = envoy::Metadata {
            filter_metadata: HashMap::from([("a".to_owned(), fields), ("b".to_owned(), Struct::default())]),
            ..envoy::Metadata::default()
        };
        let mut ours = Metadata::decode(metadata.encode_to_vec().as_slice()).unwrap();
        let fields = ours.fields("a").unwrap();
        assert_eq!((fields.count("tokens"), fields.count("digits")), (Some(7), Some(8)));
        assert_eq!((fields.text("text"), fields.text("tokens")), (Some("ä"), None));
        for nothing in ["negative", "text", "yes", "absent"] {
            assert_eq!(fields.count(nothing), None, "{nothing}");
        }
        assert!(ours.fields("b").is_none_or(Fields::is_empty) && ours.fields("c").is_none());
        assert!(ours.take("a").is_some() && ours.take("a").is_none());
    }

    #[test]
    fn envoy_reads_what_we_write() {
        let inner = Fields::of_texts([("k", "v".to_owned())]);
        let ours = Fields::of_namespaces([("kthena", inner)]);
        let inner = theirs([("k", TheirKind::StringValue("v".into()))]);
        let expected = theirs([("kthena", TheirKind::StructValue(inner))]);
        assert_eq!(Struct::decode(ours.encode_to_vec().as_slice()).unwrap(), expected);
    }
}
