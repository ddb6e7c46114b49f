//! The vocabulary that the engines' files share: which series means what.
//!
//! One file per engine holds its names and nothing else. A series that an engine does not have is simply never seen:
//! its value stays unknown.

/// What a series says, in our terms.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Field {
    /// Requests waiting in the engine's queue (gauge, summed over label sets).
    Waiting,
    /// Requests in the running batch (gauge, summed).
    Running,
    /// Share of the KV cache in use, 0 to 1 (gauge, mean over label sets: ranks hold caches of equal size).
    KvUsage,
    /// Time to first token, seconds: sum of the histogram (summed).
    TtftSum,
    /// Time to first token: samples of the histogram (summed).
    TtftCount,
    /// Time per output token, seconds: sum of the histogram (summed).
    TpotSum,
    /// Time per output token: samples of the histogram (summed).
    TpotCount,
    /// Tokens the KV cache holds (gauge, summed).
    KvCapacity,
    /// The labels `block_size` and `num_gpu_blocks`, whose product is the tokens the KV cache holds (summed).
    CacheConfig,
    /// Start of the process, seconds since the Unix epoch (the latest over label sets).
    StartTime,
}

/// The series of one engine.
#[derive(Debug)]
pub struct Series {
    /// Exact names, and what each says.
    pub names: &'static [(&'static [u8], Field)],
    /// Labels that tell shards of one replica apart. Every shard reports the same requests, so only shard 0 counts.
    pub shard_labels: &'static [&'static [u8]],
}

impl Series {
    /// What the series of this name says, `None` when it is not read.
    pub fn field(&self, name: &[u8]) -> Option<Field> {
        self.names
            .iter()
            .find_map(|(known, field)| (*known == name).then_some(*field))
    }
}
