"""Hugging Face's Text Generation Inference: data.

May not be in here: behaviour.

Sources: huggingface/text-generation-inference, docs/source/reference/metrics.md, router/src/infer and backends/v3/src
(2.x, 3.x). One model a server, and no label names it. A series is not there before it is first written: a server that
has never had a request is blind. The KV cache's usage is not told; of the size, only what a batch may hold.
"""

# ruff: noqa: E501 -- one row a line: a wrapped table cannot be scanned

from exporter.core.kinds.table import Kind, Row

# fmt: off
TGI = Kind(
    name="tgi",
    model_label="",
    engine_label="",
    counted_late=True,
    rows=(
        Row("waiting", "one", ("tgi_queue_size",), "metrics.md", required=True),
        Row("running", "one", ("tgi_batch_current_size",), "metrics.md", required=True),
        Row("kv_capacity_tokens", "one", ("tgi_batch_max_total_tokens",), "backends/v3, at the start: the room for KV that its warm-up found", least=1.0),
        Row("prompt_tokens_total", "one", ("tgi_request_input_length_sum",), "metrics.md; of a histogram"),
        Row("generation_tokens_total", "one", ("tgi_request_generated_tokens_sum",), "metrics.md; of a histogram"),
        Row("rejections_total", "add", ("tgi_request_failure",), "router/src/infer: no permit is left", where={"err": ("overloaded",)}),
        Row("finished", "by", ("tgi_request_success",), "metrics.md; how is not told", key="finished"),
        Row("finished", "by", ("tgi_request_failure",), "router/src/infer and backends/v3", where={"err": ("generation", "incomplete")}, key="error"),
        Row("finished", "by", ("tgi_request_failure",), "backends/v3: the client went away", where={"err": ("dropped",)}, key="abort"),
        Row("itl", "histogram", ("tgi_request_mean_time_per_token_duration",), "metrics.md; the mean of a request"),
        Row("queue_time", "histogram", ("tgi_request_queue_duration",), "metrics.md"),
        Row("e2e", "histogram", ("tgi_request_duration",), "metrics.md"),
    ),
)
# fmt: on
