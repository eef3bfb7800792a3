"""Triton Inference Server with the TensorRT-LLM backend: data.

May not be in here: behaviour.

Sources: triton-inference-server/tensorrtllm_backend, README "Triton Metrics" (batch manager statistics, from 23.11), and
server/docs/user_guide/metrics.md. Series have model and version. Models of the pipeline around it (tokenizers, the
ensemble) have nv_inference_* series too; only a model that has nv_trt_llm_* series is an engine. Versions before
request_type="waiting" was told are blind. Tokens are not counted.
"""

# ruff: noqa: E501 -- one row a line: a wrapped table cannot be scanned

from exporter.core.kinds.table import Kind, Named, Row

_REQUESTS, _BLOCKS = ("nv_trt_llm_request_metrics",), ("nv_trt_llm_kv_cache_block_metrics",)

# fmt: off
TRITON = Kind(
    name="triton",
    model_label="model",
    engine_label="version",
    rows=(
        Row("waiting", "one", _REQUESTS, "tensorrtllm_backend README", where={"request_type": ("waiting",)}, required=True),
        Row("running", "one", _REQUESTS, "tensorrtllm_backend README", where={"request_type": ("scheduled",)}, required=True),
        Row("max_running", "one", _REQUESTS, "tensorrtllm_backend README", where={"request_type": ("max",)}, least=1.0),
        Row("kv_usage", "one", _BLOCKS, "tensorrtllm_backend README", where={"kv_cache_block_type": ("fraction",)}, most=1.0, expected=True),
        Row("kv_capacity_tokens", "one", _BLOCKS, "tensorrtllm_backend README", where={"kv_cache_block_type": ("max",)}, times=(Named(_BLOCKS, {"kv_cache_block_type": ("tokens_per",)}),), least=1.0),
        Row("rejections_total", "one", ("nv_inference_request_failure",), "metrics.md: before it was run", where={"reason": ("REJECTED",)}, naming=False),
        Row("finished", "by", ("nv_inference_request_success",), "metrics.md; how is not told", key="finished", naming=False),
        Row("finished", "by", ("nv_inference_request_failure",), "metrics.md", where={"reason": ("BACKEND", "OTHER")}, key="error", naming=False),
        Row("finished", "by", ("nv_inference_request_failure",), "metrics.md", where={"reason": ("CANCELED",)}, key="abort", naming=False),
        Row("ttft", "histogram", ("nv_inference_first_response_histogram_ms",), "metrics.md: with --metrics-config histogram_latencies=true, of models that stream", scale=1e-3),
        Row("config", "text", _BLOCKS, "tensorrtllm_backend README", where={"kv_cache_block_type": ("tokens_per",)}, key="block_tokens"),
    ),
)
# fmt: on
