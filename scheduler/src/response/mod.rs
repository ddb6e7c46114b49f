//! What an answer says of its cost: token counts, read as the bytes pass.
//!
//! Usage comes at the end of an answer: as a field of a JSON object, or in one of the last events of a stream. Neither is
//! held in memory. A count that no engine reported is unknown, never guessed; a malformed one is unknown as well, and
//! no answer, whatever it looks like, makes this fail: it is the client's, and only looked at here.

mod counts;
mod document;
mod events;
mod filter;
mod usage;

pub use counts::Usage;
pub use filter::UsageFilter;
pub use usage::UsageScan;
