"""What a fake engine's /metrics says: the names, labels and help that vLLM 0.32 has for these families.

May not be in here: I/O, clocks. Families of the real thing that nobody here reads are left out.
"""

from collections.abc import Iterator

from scaler.demo.engine import TTFT_BUCKETS, Engine

CONTENT_TYPE = "text/plain; version=1.0.0; charset=utf-8"
BLOCK_SIZE = 16

#: Family -> type and help, as vLLM 0.32.0 prints them.
FAMILIES = {
    "vllm:num_requests_running": ("gauge", "Number of requests in model execution batches."),
    "vllm:num_requests_waiting": ("gauge", "Number of requests waiting to be processed."),
    "vllm:num_requests_waiting_by_reason": ("gauge", "Number of waiting requests by reason."),
    "vllm:engine_sleep_state": ("gauge", "Engine sleep state; awake = 0 means engine is sleeping."),
    "vllm:kv_cache_usage_perc": ("gauge", "KV-cache usage. 1 means 100 percent usage."),
    "vllm:num_preemptions_total": ("counter", "Cumulative number of preemption from the engine."),
    "vllm:prompt_tokens_total": ("counter", "Number of prefill tokens processed."),
    "vllm:generation_tokens_total": ("counter", "Number of generation tokens processed."),
    "vllm:request_success_total": ("counter", "Count of successfully processed requests."),
    "vllm:admission_rejections_total": ("counter", "Number of admission attempts rejected by a queue limit."),
    "vllm:time_to_first_token_seconds": ("histogram", "Histogram of time to first token in seconds."),
    "vllm:cache_config_info": ("gauge", "Information of the LLMEngine CacheConfig"),
}


def render(engine: Engine, model: str) -> str:
    """The whole page, in the text format."""
    lines: list[str] = []
    last = ""
    for family, suffix, labels, value in _samples(engine, model):
        if family != last:
            kind, text = FAMILIES[family]
            lines += (f"# HELP {family} {text}", f"# TYPE {family} {kind}")
            last = family
        lines.append(f"{family}{suffix}{{{labels}}} {value!r}")
    return "\n".join(lines) + "\n"


def _samples(engine: Engine, model: str) -> Iterator[tuple[str, str, str, float]]:
    """Family, what a histogram's sample adds to the name, labels, value."""
    gauges, counters = engine.gauges(), engine.counters
    who = f'engine="0",model_name="{model}"'
    yield "vllm:num_requests_running", "", who, float(gauges.running)
    yield "vllm:num_requests_waiting", "", who, float(gauges.waiting)
    yield "vllm:num_requests_waiting_by_reason", "", f'{who},reason="capacity"', float(gauges.waiting)
    yield "vllm:num_requests_waiting_by_reason", "", f'{who},reason="deferred"', 0.0
    for state, value in (("awake", 1.0), ("weights_offloaded", 0.0), ("discard_all", 0.0)):
        yield "vllm:engine_sleep_state", "", f'{who},sleep_state="{state}"', value
    yield "vllm:kv_cache_usage_perc", "", who, gauges.kv_usage
    yield "vllm:num_preemptions_total", "", who, 0.0
    yield "vllm:prompt_tokens_total", "", who, counters.prompt_tokens
    yield "vllm:generation_tokens_total", "", who, float(int(counters.generation_tokens))
    ended = {"stop": 0, "length": counters.finished, "abort": counters.aborted, "error": 0, "repetition": 0}
    for reason, count in ended.items():
        labels = f'engine="0",finished_reason="{reason}",model_name="{model}"'
        yield "vllm:request_success_total", "", labels, float(count)
    for reason in ("max_num_queued_reqs", "max_num_queued_tokens"):
        yield "vllm:admission_rejections_total", "", f'model_name="{model}",reason="{reason}"', 0.0
    below = 0
    for edge, count in zip((*map(str, TTFT_BUCKETS), "+Inf"), counters.ttft_buckets, strict=True):
        below += count
        labels = f'engine="0",le="{edge}",model_name="{model}"'
        yield "vllm:time_to_first_token_seconds", "_bucket", labels, float(below)
    yield "vllm:time_to_first_token_seconds", "_count", who, float(below)
    yield "vllm:time_to_first_token_seconds", "_sum", who, counters.ttft_sum
    tokens = engine.profile.kv_tokens
    labels = (
        f'block_size="{BLOCK_SIZE}",cache_dtype="auto",engine="0",gpu_memory_utilization="0.92",'
        f'kv_cache_size_tokens="{tokens}",num_gpu_blocks="{tokens // BLOCK_SIZE}"'
    )
    yield "vllm:cache_config_info", "", labels, 1.0
