//! The ext_proc server: Envoy asks it where each request goes.
