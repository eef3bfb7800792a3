"""llama.cpp's llama-server: data.

May not be in here: behaviour.

Source: ggml-org/llama.cpp, tools/server/README.md "GET /metrics" and the server's task of that name. It needs --metrics;
no series has a label.
"""

# ruff: noqa: E501 -- one row a line: a wrapped table cannot be scanned

from exporter.core.kinds.table import Kind, Row

# fmt: off
LLAMACPP = Kind(
    name="llamacpp",
    model_label="",
    engine_label="",
    counted_late=True,
    rows=(
        Row("waiting", "one", ("llamacpp:requests_deferred",), "README", required=True),
        Row("running", "one", ("llamacpp:requests_processing",), "README", required=True),
        Row("kv_usage", "one", ("llamacpp:kv_cache_usage_ratio",), "README until 2025, gone since", most=1.0),
        Row("prompt_tokens_total", "one", ("llamacpp:prompt_tokens_total",), "README"),
        Row("generation_tokens_total", "one", ("llamacpp:tokens_predicted_total",), "README"),
    ),
)
# fmt: on
