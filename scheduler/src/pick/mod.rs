//! Filter, score, pick: which endpoints of a ModelServer get a request, in order.
