//! What the model servers say of themselves: load, latency, models, capacity, and whether they answer at all.
//!
//! Every endpoint is asked on its own schedule, so one that hangs never delays another (a barrier per round would).
//! What must always hold: at most one scrape of an endpoint is in flight, each has a deadline, and every value carries
//! the time it was read: a failed scrape replaces nothing, it lets what is known grow old. An endpoint that fails
//! several scrapes in a row is `down` until the next one that succeeds. It fails per endpoint: what one server answers
//! can only spoil what is known of that server.
//!
//! Several controllers share the endpoints among them (`share`) and tell each other what they see (`table`, `hearsay`).

mod engine;
mod hearsay;
mod latency;
mod link;
mod observation;
mod parse;
mod probe;
mod scrape;
mod series;
mod sglang;
mod share;
mod table;
mod vllm;

pub use engine::series_of;
pub use hearsay::Told;
pub use observation::Observation;
pub use parse::{Reader, Reading, Sums};
pub use scrape::{Scraper, Settings};
pub use series::{Field, Series};
pub use share::Share;
pub use table::{Look, Table};
