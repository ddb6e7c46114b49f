//! vLLM's series, as version 0.32 exports them. Data-parallel ranks differ in the label `engine` and are summed.

use super::series::{Field, Series};

/// The series read of vLLM.
pub(super) static SERIES: Series = Series {
    names: &[
        (b"vllm:num_requests_waiting", Field::Waiting),
        (b"vllm:num_requests_running", Field::Running),
        (b"vllm:kv_cache_usage_perc", Field::KvUsage),
        (b"vllm:time_to_first_token_seconds_sum", Field::TtftSum),
        (b"vllm:time_to_first_token_seconds_count", Field::TtftCount),
        (b"vllm:inter_token_latency_seconds_sum", Field::TpotSum),
        (b"vllm:inter_token_latency_seconds_count", Field::TpotCount),
        (b"vllm:cache_config_info", Field::CacheConfig),
        (b"process_start_time_seconds", Field::StartTime),
    ],
    shard_labels: &[],
};
