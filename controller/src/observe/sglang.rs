//! SGLang's series (it serves them when started with `--enable-metrics`). Tensor- and pipeline-parallel shards may each
//! report the same requests, so only shard 0 counts; data-parallel ranks are summed.

use super::series::{Field, Series};

/// The series read of SGLang.
pub(super) static SERIES: Series = Series {
    names: &[
        (b"sglang:num_queue_reqs", Field::Waiting),
        (b"sglang:num_running_reqs", Field::Running),
        (b"sglang:token_usage", Field::KvUsage),
        (b"sglang:time_to_first_token_seconds_sum", Field::TtftSum),
        (b"sglang:time_to_first_token_seconds_count", Field::TtftCount),
        (b"sglang:inter_token_latency_seconds_sum", Field::TpotSum),
        (b"sglang:inter_token_latency_seconds_count", Field::TpotCount),
        (b"sglang:max_total_num_tokens", Field::KvCapacity),
        (b"process_start_time_seconds", Field::StartTime),
    ],
    shard_labels: &[b"tp_rank", b"pp_rank"],
};
