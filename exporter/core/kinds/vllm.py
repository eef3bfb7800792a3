"""vLLM, engines V0 and V1: data.

May not be in here: behaviour.

Sources: vLLM's own metric loggers, 0.6.6 to 0.33.0, run or read from their wheels; the tests' fixtures are their
output. The version in a row is the one in which a name came or went.
"""

# ruff: noqa: E501 -- one row a line: a wrapped table cannot be scanned

from exporter.core.kinds.table import Kind, Named, Row

# fmt: off
VLLM = Kind(
    name="vllm",
    model_label="model_name",
    engine_label="engine",  # V1; V0 had none
    foreign_labels=frozenset(("server",)),  # the production stack's router tells of its backends by the engines' own names
    counters=("prompt_tokens_total", "generation_tokens_total", "finished"),
    rows=(
        # A request that was swapped out (V0) is scheduled as little as one that waits. Gone in 0.9.1.
        Row("waiting", "one", ("vllm:num_requests_waiting",), "V0, V1; from 0.18 with the deferred", plus=(Named(("vllm:num_requests_swapped",)),), required=True, silent=True),
        Row("running", "one", ("vllm:num_requests_running",), "V0, V1", required=True, silent=True),
        Row("waiting_by_reason", "by", ("vllm:num_requests_waiting_by_reason",), "from 0.20", label="reason", silent=True),
        Row("kv_usage", "one", ("vllm:kv_cache_usage_perc", "vllm:gpu_cache_usage_perc"), "new from 0.9.2, old to 0.10.2, hidden in 0.11", most=1.0, expected=True, silent=True),
        Row("kv_capacity_tokens", "tokens", ("vllm:cache_config_info",), "V0, V1; engine label from 0.9.2; kv_cache_size_tokens in 0.32", products=(("kv_cache_size_tokens",), ("num_gpu_blocks", "block_size")), least=1.0),
        Row("prompt_tokens_total", "one", ("vllm:prompt_tokens_total",), "V0, V1"),
        Row("generation_tokens_total", "one", ("vllm:generation_tokens_total",), "V0, V1"),
        Row("preemptions_total", "one", ("vllm:num_preemptions_total",), "V0, V1"),
        Row("rejections_total", "sum", ("vllm:admission_rejections_total",), "from 0.32, without an engine label"),
        Row("prefix_queries_total", "one", ("vllm:prefix_cache_queries_total", "vllm:gpu_prefix_cache_queries_total"), "V1: new from 0.9.2, old to 0.10.2, hidden in 0.11"),
        Row("prefix_hits_total", "one", ("vllm:prefix_cache_hits_total", "vllm:gpu_prefix_cache_hits_total"), "V1: new from 0.9.2, old to 0.10.2, hidden in 0.11"),
        Row("prefix_hit_ratio", "one", ("vllm:gpu_prefix_cache_hit_rate",), "V0, gone in 0.9.1; -1: prefixes are not kept", most=1.0, signed=True),
        Row("finished", "by", ("vllm:request_success_total",), "V0, V1; abort and error are in it", label="finished_reason", silent=True),
        Row("ttft", "histogram", ("vllm:time_to_first_token_seconds",), "V0, V1"),
        Row("itl", "histogram", ("vllm:inter_token_latency_seconds", "vllm:time_per_output_token_seconds"), "new from 0.10.2, old to 0.11.2 and gone in 0.15"),
        Row("queue_time", "histogram", ("vllm:request_queue_time_seconds",), "V0 from 0.6, V1"),
        Row("e2e", "histogram", ("vllm:e2e_request_latency_seconds",), "V0, V1"),
        Row("lora_waiting", "newest", ("vllm:lora_requests_info",), "V0, V1; its value is when it was written, in Unix seconds, and old label sets stay", label="waiting_lora_adapters"),
        Row("sleeping", "off", ("vllm:engine_sleep_state",), "from 0.11.1; awake = 0: asleep", where={"sleep_state": ("awake",)}),
        Row("config", "labels", ("vllm:cache_config_info",), "V0, V1; kv_cache_memory_bytes from 0.11", keys={"block_tokens": "block_size", "kv_cache_bytes": "kv_cache_memory_bytes", "gpu_memory_utilization": "gpu_memory_utilization", "cache_dtype": "cache_dtype", "prefix_caching": "enable_prefix_caching"}, unless={"kv_cache_bytes": "num_gpu_blocks_override"}),
    ),
)
# fmt: on
