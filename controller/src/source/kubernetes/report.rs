//! What watches tell the state.

use std::fmt;

use crate::source::{Kind, Object, ObjectKey, Origin};

/// One watch: a kind, in one namespace or in all.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct WatchId {
    kind: Kind,
    namespace: Option<String>,
}

/// What a watch tells.
#[derive(Debug)]
pub(super) struct Report {
    /// Which watch.
    pub(super) id: WatchId,
    /// Which beginning of it: what an ended one still tells is passed over.
    pub(super) epoch: u64,
    /// What happened.
    pub(super) signal: Signal,
}

/// What happened.
#[derive(Debug)]
pub(super) enum Signal {
    /// A list begins: what it does not hold is gone when it ends.
    ListBegins,
    /// An object is new, different, or in the list.
    Seen(Object, Origin),
    /// An object is there and cannot be read, for this reason.
    Unreadable(ObjectKey, String),
    /// An object is gone.
    Gone(ObjectKey),
    /// The list has ended.
    ListEnds,
    /// The server does not know the kind, at the moment.
    KindUnknown,
    /// The server says that there is no such kind, and so no object of it.
    KindAbsent,
}

/// The state has gone: there is nobody to watch for.
pub(super) struct Ended;

// === impl WatchId ===

impl WatchId {
    /// A kind in one namespace; `None` = in all.
    pub(super) fn new(kind: Kind, namespace: Option<String>) -> Self {
        Self { kind, namespace }
    }

    pub(super) fn kind(&self) -> Kind {
        self.kind
    }

    pub(super) fn namespace(&self) -> Option<&str> {
        self.namespace.as_deref()
    }
}

impl fmt::Display for WatchId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.namespace {
            Some(namespace) => write!(f, "{} in namespace {namespace}", self.kind),
            None => write!(f, "{} in all namespaces", self.kind),
        }
    }
}
