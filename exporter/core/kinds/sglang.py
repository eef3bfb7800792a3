"""SGLang: data.

May not be in here: behaviour.

Source: sgl-project/sglang, srt/observability/metrics_collector.py (0.5.9 to 0.5.23; srt/metrics/collector.py before) and
docs/references/production_metrics. Its schedulers label their series with model_name, engine_type, tp_rank, pp_rank,
moe_ep_rank, and dp_rank with data parallelism only; with priorities on, `priority` is "" for the sum and a number for a
part of it. Its tokenizer process tells the rest once for the server, by model_name, and splits some by is_streaming.
"""

# ruff: noqa: E501 -- one row a line: a wrapped table cannot be scanned

from collections.abc import Mapping

from exporter.core.kinds.table import Kind, Named, Row

_TOTAL: Mapping[str, tuple[str, ...]] = {"priority": ("",)}
_SCHEDULER, _TOKENIZER = "SchedulerMetricsCollector", "TokenizerMetricsCollector, when a request ends"

# fmt: off
SGLANG = Kind(
    name="sglang",
    model_label="model_name",
    engine_label="dp_rank",
    copies=("pp_rank", "tp_rank", "moe_ep_rank"),  # all ranks tell with --enable-metrics-for-all-schedulers
    rows=(
        Row(
            "waiting", "one", ("sglang:num_queue_reqs",), _SCHEDULER, where=_TOTAL, required=True,
            plus=(
                Named(("sglang:num_grammar_queue_reqs",), _TOTAL),
                # Prefill and decode apart: until a peer is found (older name second), until the KV cache has room,
                # until it has arrived. What is being sent away (num_prefill_inflight_queue_reqs) waits for nothing.
                Named(("sglang:num_prefill_bootstrap_queue_reqs", "sglang:num_prefill_prealloc_queue_reqs"), _TOTAL),
                Named(("sglang:num_decode_prealloc_queue_reqs",), _TOTAL),
                Named(("sglang:num_decode_transfer_queue_reqs",), _TOTAL),
            ),
        ),
        Row("running", "one", ("sglang:num_running_reqs",), _SCHEDULER, where=_TOTAL, required=True),
        Row("kv_usage", "one", ("sglang:token_usage",), f"{_SCHEDULER}; the fullest of its pools", where=_TOTAL, most=1.0, expected=True),
        Row("kv_capacity_tokens", "one", ("sglang:max_total_num_tokens",), f"{_SCHEDULER}, at the start", where=_TOTAL, least=1.0),
        # The tokenizer counts a request's tokens when it ends; the scheduler as they come, and for each dp_rank.
        Row("prompt_tokens_total", "add", ("sglang:realtime_tokens_total",), f"{_SCHEDULER}, by 0.5.9", where={"mode": ("prefill_compute", "prefill_cache")}),
        Row("prompt_tokens_total", "add", ("sglang:prompt_tokens_total",), _TOKENIZER, naming=False),
        Row("generation_tokens_total", "add", ("sglang:realtime_tokens_total",), f"{_SCHEDULER}, by 0.5.9", where={"mode": ("decode",)}),
        Row("generation_tokens_total", "add", ("sglang:generation_tokens_total",), _TOKENIZER, naming=False),
        Row("preemptions_total", "one", ("sglang:num_retracted_requests_total",), _SCHEDULER, where=_TOTAL),
        Row("prefix_queries_total", "add", ("sglang:prompt_tokens_total",), _TOKENIZER, naming=False),
        Row("prefix_hits_total", "add", ("sglang:cached_tokens_total",), f"{_TOKENIZER}; by cache_source", naming=False),
        Row("finished", "by", ("sglang:num_requests_total",), f"{_TOKENIZER}; how is not told", key="finished", naming=False),
        Row("ttft", "histograms", ("sglang:time_to_first_token_seconds",), "TokenizerMetricsCollector"),
        Row("itl", "histograms", ("sglang:inter_token_latency_seconds",), "TokenizerMetricsCollector"),
        Row("queue_time", "histogram", ("sglang:queue_time_seconds",), _SCHEDULER, where=_TOTAL),
        Row("e2e", "histograms", ("sglang:e2e_request_latency_seconds",), _TOKENIZER),
        Row("config", "text", ("sglang:page_size",), f"{_SCHEDULER}, at the start", where=_TOTAL, key="block_tokens", naming=False),
        Row("config", "labels", ("sglang:cache_config_info",), "0.5.9; page_size is a gauge of its own by 0.5.23", keys={"block_tokens": "page_size"}, naming=False),
    ),
)
# fmt: on
