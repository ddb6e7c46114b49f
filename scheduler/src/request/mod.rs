//! What a request says: its path, its model, its prompt.
//!
//! A body is scanned as it passes and never parsed into a tree. The scan accepts exactly the JSON of RFC 8259 (white
//! space, number formats and escapes included; lone surrogates, which Python's parser accepts too, become U+FFFD), keeps
//! the few facts that a decision needs, and hashes the prompt on the way. What it reports never depends on how the body
//! was cut into chunks. A body that it refuses says what is wrong and where ([`BodyError`]); it never panics, and its
//! memory does not grow with the body but for the names it keeps and the checkpoints of the chain.

mod error;
mod facts;
mod fields;
mod path;
mod prompt;
mod scan;
pub mod splice;

pub use error::BodyError;
pub use facts::{IncludeUsage, ModelField, Prompt, RequestFacts, StreamOptions};
pub use path::{ApiForm, NamedInPath, Route, classify, model_in_path};
pub use scan::BodyScan;
pub use splice::Splice;
