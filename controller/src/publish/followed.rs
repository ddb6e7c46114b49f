//! What is known of a controller that is followed.

use kthena_scheduler::time::Time;

use super::progress;

#[derive(Debug)]
pub(super) struct Followed {
    /// Names the process.
    pub(super) instance: String,
    /// Where it was found.
    pub(super) address: String,
    pub(super) since: Time,
    /// How far its filters have got.
    pub(super) progress: progress::Heard,
}
