//! What a compilation needs beside objects and facts.

use super::profile::Profiles;

/// Fixed for the life of the process.
#[derive(Clone, Debug)]
pub struct Settings {
    /// The global scheduling profile, and the judge of every other.
    pub profiles: Profiles,
    /// Retries of a ModelServer whose trafficPolicy does not say. Kthena tries up to five pods; two more tries find a pod
    /// that works in all but a collapse, without multiplying the load in one.
    pub default_retry_attempts: u32,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            profiles: Profiles::default(),
            default_retry_attempts: 2,
        }
    }
}
