//! A wasm filter that holds heads, reads bodies and decides nothing: what the host's part of `kthena-wasm-filter` costs at the least.
//!
//! The plugin's configuration is the name of the cluster that every request goes to. What must always hold: it reads every byte of a
//! body, as any filter must that looks for a model's name, and does nothing with it.

#[cfg(target_family = "wasm")]
mod filter;
