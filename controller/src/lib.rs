//! The controller: watches, compiles, observes and publishes scheduling state.
