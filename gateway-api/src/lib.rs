//! API types and their pure validation.
