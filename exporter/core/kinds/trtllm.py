"""trtllm-serve, TensorRT-LLM's own server: data.

May not be in here: behaviour.

Source: NVIDIA/TensorRT-LLM, tensorrt_llm/metrics/collector.py. Labels model_name and engine_type. The page is
/prometheus/metrics; /metrics is JSON. What is told of requests needs return_perf_metrics, and is counted when one
ends; versions without num_requests_waiting (1.0) are blind.
"""

# ruff: noqa: E501 -- one row a line: a wrapped table cannot be scanned

from exporter.core.kinds.table import Kind, Named, Row

# fmt: off
TRTLLM = Kind(
    name="trtllm",
    model_label="model_name",
    engine_label="",
    counted_late=True,
    rows=(
        Row("waiting", "one", ("trtllm_num_requests_waiting",), "collector.py: queued", required=True),
        Row("running", "one", ("trtllm_num_requests_running",), "collector.py: active, those that pause are among them", required=True),
        Row("max_running", "one", ("trtllm_max_num_active_requests",), "collector.py", least=1.0),
        Row("kv_usage", "one", ("trtllm_kv_cache_utilization",), "collector.py; 0..1", most=1.0, expected=True),
        Row("kv_capacity_tokens", "one", ("trtllm_kv_cache_max_blocks",), "collector.py", times=(Named(("trtllm_kv_cache_tokens_per_block",)),), least=1.0),
        Row("prompt_tokens_total", "one", ("trtllm_prompt_tokens_total",), "collector.py"),
        Row("generation_tokens_total", "one", ("trtllm_generation_tokens_total",), "collector.py"),
        Row("prefix_queries_total", "one", ("trtllm_prompt_tokens_total",), "collector.py: every prompt is looked up"),
        Row("prefix_hits_total", "one", ("trtllm_prompt_cached_tokens_total",), "collector.py"),
        Row("prefix_hit_ratio", "one", ("trtllm_kv_cache_hit_rate",), "collector.py; of blocks", most=1.0),
        Row("finished", "by", ("trtllm_request_success_total",), "collector.py", label="finished_reason"),
        Row("ttft", "histogram", ("trtllm_time_to_first_token_seconds",), "collector.py"),
        Row("itl", "histogram", ("trtllm_time_per_output_token_seconds",), "collector.py; the mean of a request"),
        Row("queue_time", "histogram", ("trtllm_request_queue_time_seconds",), "collector.py"),
        Row("e2e", "histogram", ("trtllm_e2e_request_latency_seconds",), "collector.py"),
        Row("config", "text", ("trtllm_kv_cache_tokens_per_block",), "collector.py", key="block_tokens"),
    ),
)
# fmt: on
