//! Filter, score, pick: which endpoints of a ModelServer get a request, in order.

/// What decides among the endpoints of a ModelServer: filters and weighted scores.
#[derive(Debug)]
pub struct Profile {
    /// "default", or the `namespace/name` of the ModelServer it belongs to.
    pub name: Box<str>,
}
