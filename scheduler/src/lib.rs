//! The pure core: routing, scheduling and one state machine per request.
