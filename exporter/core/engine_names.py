"""Which metric of which inference server holds which of our numbers: data.

May not be in here: behaviour (engines.py reads by this table). Another server, or a version with new names, is
rows here and a fixture.

Sources: vLLM's own metric loggers, 0.6.6 to 0.33.0, run or read from their wheels; the tests' fixtures are their
output. The version in a row is the one in which a name came or went.
"""

from collections.abc import Mapping
from typing import Literal, NamedTuple

#: one: the engine's sample. by: its samples by their `label`. off: whether its sample is 0. sum: over the samples
#: of the whole server, which its first engine carries. tokens: a product of labels of the engine's info sample.
How = Literal["one", "by", "off", "sum", "tokens"]


class Row(NamedTuple):
    """Where one field of model.EngineReading comes from."""

    field: str
    how: How
    names: tuple[str, ...]  # families, newest first; the first that the page has is read, the others never added to it
    source: str
    where: Mapping[str, str] = {}  # labels that the samples must have
    label: str = ""
    products: tuple[tuple[str, ...], ...] = ()  # labels to multiply: the first whose labels are all numbers is taken
    most: float = 1e15  # above it, the number is not what the name says: missing. A double counts exactly to 9e15
    required: bool = False  # without this family the page is blind
    silent: bool = False  # reads 0 while the engine has produced nothing and the family is declared without a sample


class Kind(NamedTuple):
    """One kind of server. counters: the fields that tell whether an engine has produced anything yet."""

    name: str
    model_label: str
    engine_label: str  # several engines behind one URL (data parallelism) differ in it; V0 had none
    foreign_labels: tuple[str, ...]  # a series with one of these is a gateway's, about other servers
    counters: tuple[str, ...]
    rows: tuple[Row, ...]


# One row a line: a wrapped table cannot be scanned.
# fmt: off
KINDS: tuple[Kind, ...] = (
    Kind(
        "vllm",
        "model_name",
        "engine",
        ("server",),
        ("prompt_tokens_total", "generation_tokens_total", "finished"),
        (
            Row("waiting", "one", ("vllm:num_requests_waiting",), "V0, V1", required=True, silent=True),
            Row("running", "one", ("vllm:num_requests_running",), "V0, V1", required=True, silent=True),
            Row(
                "kv_usage",
                "one",
                ("vllm:kv_cache_usage_perc", "vllm:gpu_cache_usage_perc"),
                "new from 0.9.2, old to 0.11",
                most=1.0,
                silent=True,
            ),
            Row(
                "kv_capacity_tokens",
                "tokens",
                ("vllm:cache_config_info",),
                "V0, V1; engine label from 0.9.2; kv_cache_size_tokens in 0.32",
                products=(("kv_cache_size_tokens",), ("num_gpu_blocks", "block_size")),
            ),
            Row("prompt_tokens_total", "one", ("vllm:prompt_tokens_total",), "V0, V1"),
            Row("generation_tokens_total", "one", ("vllm:generation_tokens_total",), "V0, V1"),
            Row("preemptions_total", "one", ("vllm:num_preemptions_total",), "V0, V1"),
            Row("rejections_total", "sum", ("vllm:admission_rejections_total",), "from 0.32, without an engine label"),
            Row(
                "finished",
                "by",
                ("vllm:request_success_total",),
                "V0, V1; abort and error are in it",
                label="finished_reason",
                silent=True,
            ),
            Row(
                "sleeping",
                "off",
                ("vllm:engine_sleep_state",),
                "from 0.11.1; awake = 0: asleep",
                where={"sleep_state": "awake"},
            ),
        ),
    ),
)
# fmt: on
