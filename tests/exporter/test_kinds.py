"""core/kinds/: each row of each table is true of a recorded page, and a name that drifts is noticed and never 0."""

import re
from collections.abc import Iterator, Mapping
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from msgspec.structs import asdict

from exporter.core.engines import WANTED, read
from exporter.core.exposition import ExpositionError, parse
from exporter.core.kinds import COUNTED_LATE, KINDS, STRANGERS
from exporter.core.kinds.table import HISTOGRAMS, Kind, Named, Row
from exporter.core.model_engines import CONFIG_KEYS, EngineReading
from tests.exporter.pages import PAGES, page
from tests.exporter.test_kinds_readings import BLIND, READINGS

EACH_KIND = pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.name)


# --- the tables -------------------------------------------------------------------------------------------------


@EACH_KIND
def test_the_table_of_names_is_sound(kind: Kind) -> None:
    fields = [row.field for row in kind.rows]
    assert set(fields) <= set(EngineReading.__struct_fields__) - {"model", "engine"}
    assert {row.field for row in kind.rows if row.required} == {"waiting", "running"}
    assert {row.field for row in kind.rows if row.expected} <= {"kv_usage"}
    assert set(kind.counters) <= set(fields)
    for row in kind.rows:
        assert row.source
        assert bool(row.label or row.key) == (row.how in ("by", "text", "newest"))
        assert bool(row.products) == (row.how == "tokens")
        assert bool(row.keys) == (row.how == "labels")
        assert (row.field in ("ttft", "itl", "queue_time", "e2e")) == (row.how in HISTOGRAMS)
        assert {row.key, *row.keys} - {""} <= set(CONFIG_KEYS) or row.field != "config"


def test_no_family_is_of_two_kinds() -> None:
    owners: dict[str, str] = {}
    for kind in KINDS:
        for name in families_of(kind):
            assert owners.setdefault(name, kind.name) == kind.name
    for stranger in STRANGERS:
        assert not owners.keys() & set(stranger.families)


def test_the_kinds_that_count_tokens_when_a_request_ends() -> None:
    assert {"tgi", "trtllm", "llamacpp"} == COUNTED_LATE


def named_of(row: Row) -> tuple[Named, ...]:
    return Named(row.names, row.where), *row.plus, *row.times


def families_of(kind: Kind) -> set[str]:
    return {name for row in kind.rows for named in named_of(row) for name in named.names}


def cells() -> Iterator[tuple[Kind, Row, str, Mapping[str, tuple[str, ...]]]]:
    for kind in KINDS:
        for row in kind.rows:
            for named in named_of(row):
                for name in named.names:
                    yield kind, row, name, named.where


PARSED = {name: parse(page(name), WANTED) for name in PAGES}


@pytest.mark.parametrize(
    ("kind", "row", "name", "where"),
    list(cells()),
    ids=lambda part: getattr(part, "name", getattr(part, "field", None)),
)
def test_every_name_of_every_row_is_on_a_recorded_page_that_gives_the_field(
    kind: Kind, row: Row, name: str, where: Mapping[str, tuple[str, ...]]
) -> None:
    for recorded, (owner, readings) in READINGS.items():
        family = PARSED[recorded].get(name)
        if family is None or owner != kind.name or not any(fields.get(row.field) is not None for fields in readings):
            continue
        samples = [labels for _, labels, _ in family.samples] + [labels for labels, _ in family.histograms]
        if any(all(labels.get(label, "") in values for label, values in where.items()) for labels in samples):
            return
    pytest.fail(f"{name} of {kind.name} is on no recorded page")


# --- names by version -------------------------------------------------------------------------------------------

#: What changed -> page, families that it has and has not, field, value.
VERSIONS: dict[str, tuple[str, tuple[str, ...], tuple[str, ...], str, Any]] = {
    "V0 has no engine label": ("vllm-0.6.6-v0-names.txt", (), (), "engine", ""),
    "V1 has one": ("vllm-0.8.5-v1-names.txt", (), (), "engine", "0"),
    "V0 swaps": ("vllm-0.6.6-v0-names.txt", ("vllm:num_requests_swapped",), (), "waiting", 20.0),
    "V1 does not": ("vllm-0.8.5-v1-names.txt", (), ("vllm:num_requests_swapped",), "waiting", 20.0),
    "V0 tells the hit rate": (
        "vllm-0.6.6-v0-names.txt",
        ("vllm:gpu_prefix_cache_hit_rate",),
        (),
        "prefix_hit_ratio",
        0.25,
    ),
    "V1 does not tell the rate": (
        "vllm-0.8.5-v1-names.txt",
        ("vllm:gpu_prefix_cache_hits_total",),
        ("vllm:gpu_prefix_cache_hit_rate", "vllm:prefix_cache_hits_total"),
        "prefix_hits_total",
        1200.0,
    ),
    "KV usage until 0.9.1": (
        "vllm-0.8.5-v1-names.txt",
        ("vllm:gpu_cache_usage_perc",),
        ("vllm:kv_cache_usage_perc",),
        "kv_usage",
        0.87,
    ),
    "KV usage from 0.9.2 to 0.10.2": (
        "vllm-0.10.2-v1-names.txt",
        ("vllm:gpu_cache_usage_perc", "vllm:kv_cache_usage_perc"),
        (),
        "kv_usage",
        0.87,
    ),
    "KV usage from 0.12": (
        "vllm-0.12.0-v1-names.txt",
        ("vllm:kv_cache_usage_perc",),
        ("vllm:gpu_cache_usage_perc",),
        "kv_usage",
        0.87,
    ),
    "prefix cache from 0.9.2 to 0.10.2": (
        "vllm-0.9.2-v1-names.txt",
        ("vllm:gpu_prefix_cache_queries_total", "vllm:prefix_cache_queries_total"),
        (),
        "prefix_queries_total",
        3600.0,
    ),
    "prefix cache from 0.12": (
        "vllm-0.12.0-v1-names.txt",
        ("vllm:prefix_cache_queries_total",),
        ("vllm:gpu_prefix_cache_queries_total",),
        "prefix_queries_total",
        3600.0,
    ),
    "time between tokens until 0.10.1": (
        "vllm-0.9.2-v1-names.txt",
        ("vllm:time_per_output_token_seconds",),
        ("vllm:inter_token_latency_seconds",),
        "itl",
        ...,
    ),
    "time between tokens from 0.10.2 to 0.11.2": (
        "vllm-0.10.2-v1-names.txt",
        ("vllm:time_per_output_token_seconds", "vllm:inter_token_latency_seconds"),
        (),
        "itl",
        ...,
    ),
    "time between tokens from 0.15": (
        "vllm-0.16.0-v1-names.txt",
        ("vllm:inter_token_latency_seconds",),
        ("vllm:time_per_output_token_seconds",),
        "itl",
        ...,
    ),
    "queue time in V0": ("vllm-0.6.6-v0-names.txt", ("vllm:request_queue_time_seconds",), (), "queue_time", ...),
    "sleep state, not yet": ("vllm-0.9.2-v1-names.txt", (), ("vllm:engine_sleep_state",), "sleeping", None),
    "sleep state from 0.11.1": ("vllm-0.12.0-v1-names.txt", ("vllm:engine_sleep_state",), (), "sleeping", False),
    "waiting by reason, not yet": (
        "vllm-0.16.0-v1-names.txt",
        (),
        ("vllm:num_requests_waiting_by_reason",),
        "waiting_by_reason",
        None,
    ),
    "waiting by reason from 0.20": (
        "vllm-0.33.0-v1-names.txt",
        ("vllm:num_requests_waiting_by_reason",),
        (),
        "waiting_by_reason",
        {"capacity": 20.0, "deferred": 0.0},
    ),
    "rejections, not yet": (
        "vllm-0.16.0-v1-names.txt",
        (),
        ("vllm:admission_rejections_total",),
        "rejections_total",
        None,
    ),
    "rejections from 0.32": ("vllm-0.32.0-idle.txt", ("vllm:admission_rejections_total",), (), "rejections_total", 0.0),
}


@pytest.mark.parametrize("change", VERSIONS)
def test_names_by_version(change: str) -> None:
    name, has, has_not, field, expected = VERSIONS[change]
    assert set(has) <= PARSED[name].keys()
    assert not set(has_not) & PARSED[name].keys()
    (fields,) = READINGS[name][1]
    assert field in fields if expected is ... else fields.get(field) == expected


# --- drift ------------------------------------------------------------------------------------------------------


def drifted(body: bytes, names: tuple[str, ...]) -> bytes:
    """The page of a server that has renamed these families."""
    for name in names:
        body = re.sub(
            rb"(?m)^((?:# (?:HELP|TYPE) )?)%s(?![A-Za-z0-9_])" % name.encode(), rb"\1%s_new" % name.encode(), body
        )
    return body


DRIFT = [
    (name, row) for name, (owner, _) in READINGS.items() for kind in KINDS if kind.name == owner for row in kind.rows
]


@pytest.mark.parametrize(("name", "row"), [(name, row) for name, row in DRIFT if row.required])
def test_without_what_is_required_the_page_is_blind_and_the_family_is_named(name: str, row: Row) -> None:
    with pytest.raises(ExpositionError, match=f"the page has no {row.names[0]}") as caught:
        read(drifted(page(name), row.names))
    assert caught.value.reason == "blind"


@pytest.mark.parametrize(("name", "row"), [(name, row) for name, row in DRIFT if row.expected and "triton" not in name])
def test_without_kv_usage_the_readings_stand_and_the_family_is_named(name: str, row: Row) -> None:
    answer = read(drifted(page(name), row.names))
    assert len(answer.lacking) == 1
    assert answer.lacking[0].startswith(row.names[0])
    whole = read(page(name)).readings
    assert [reading.kv_usage for reading in answer.readings] == [None] * len(whole)
    assert [(reading.waiting, reading.running) for reading in answer.readings] == [
        (reading.waiting, reading.running) for reading in whole
    ]


#: Label values of Triton's families that have drifted -> what is said.
TRITON = {
    b'request_type="waiting"': 'no nv_trt_llm_request_metrics{request_type="waiting"}',
    b'request_type="scheduled"': 'no nv_trt_llm_request_metrics{request_type="scheduled"}',
}


@pytest.mark.parametrize("text", TRITON)
def test_a_label_that_drifted_is_blind_too(text: bytes) -> None:
    with pytest.raises(ExpositionError, match=re.escape(TRITON[text])):
        read(page("triton-25.06-trtllm-busy.txt").replace(text, b'request_type="other"'))


def test_a_label_of_kv_usage_that_drifted_is_lacking() -> None:
    body = page("triton-25.06-trtllm-busy.txt").replace(b'"fraction"', b'"share"')
    answer = read(body)
    assert answer.lacking == ('nv_trt_llm_kv_cache_block_metrics{kv_cache_block_type="fraction"}',)
    assert answer.readings[0].waiting == 11.0


@pytest.mark.parametrize("name", ["tgi-3.3-busy.txt", "llamacpp-b10380-busy.txt"])
def test_a_kind_that_never_tells_kv_usage_lacks_nothing(name: str) -> None:
    assert read(page(name)).lacking == ()


def test_a_server_that_declares_its_queue_and_never_tells_it_is_blind() -> None:
    """trtllm-serve without enable_iter_perf_stats."""
    lines = page("trtllm-serve-1.3-busy.txt").splitlines(keepends=True)
    with pytest.raises(ExpositionError, match="no trtllm_num_requests_waiting and no trtllm_num_requests_running"):
        read(b"".join(line for line in lines if not line.startswith(b"trtllm_num_requests")))


# --- strangers --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("stranger", STRANGERS, ids=lambda stranger: stranger.name)
def test_a_gateways_page_is_refused_and_said_to_be_one(stranger: Any) -> None:
    for family in stranger.families:
        with pytest.raises(ExpositionError, match=f"this page is of {re.escape(stranger.name)}") as caught:
            read(f'{family}{{model="a"}} 3\nz 1\n'.encode())
        assert caught.value.reason == stranger.reason
        assert ("at each engine's own page" in str(caught.value)) == (stranger.reason == "gateway")
        assert "disable-log-stats" not in str(caught.value) or stranger.reason == "blind"


def test_only_what_stands_before_engines_is_said_to_be_a_gateway() -> None:
    reasons = {stranger.name: stranger.reason for stranger in STRANGERS}
    assert reasons.pop("a worker of NVIDIA Dynamo without its engine's series") == "blind"
    assert {*reasons.values()} == {"gateway"}


def test_the_production_stacks_router_is_no_engine() -> None:
    rows = [f'vllm:{name}{{server="http://10.0.0.{i}:8000"}} {i}' for name in GAUGES for i in (1, 2)]
    with pytest.raises(ExpositionError, match=r"have the label server: .*at each engine's own page$"):
        read("\n".join([*rows, 'vllm:num_incoming_requests_total{model="a"} 9', "z 1", ""]).encode())


GAUGES = ("num_requests_running", "num_requests_waiting", "gpu_prefix_cache_hit_rate")


def test_an_engine_behind_a_service_mesh_is_an_engine() -> None:
    body = page("vllm-0.32.0-busy-queue.txt") + b'envoy_cluster_upstream_rq_active{envoy_cluster_name="a"} 3\nz 1\n'
    assert read(body).readings[0].waiting == 28.0


def test_the_engine_of_a_dynamo_worker_speaks_for_it() -> None:
    answer = read(page("dynamo-1.0-vllm-worker.txt"))
    assert answer.kind == "vllm"
    assert answer.readings[0].running == 32.0  # not the 37 in flight


# --- SGLang's processes -----------------------------------------------------------------------------------------


def test_ranks_that_tell_of_the_same_work_are_not_added_and_data_parallel_ones_are_engines() -> None:
    readings = read(page("sglang-0.5.23-dp2-all-ranks.txt")).readings
    assert [(r.engine, r.waiting, r.running, r.generation_tokens_total) for r in readings] == [
        ("0", 3.0, 8.0, 12000.0),
        ("1", 0.0, 6.0, 8000.0),
    ]
    # The tokenizer tells of both together: of neither.
    assert [(r.ttft, r.finished, r.prefix_hits_total) for r in readings] == [(None, None, None)] * 2


def test_a_rank_that_is_behind_is_not_asked() -> None:
    body = page("sglang-0.5.23-dp2-all-ranks.txt").replace(
        b'priority="",tp_rank="1"} 8.0', b'priority="",tp_rank="1"} 7.0'
    )
    assert b"} 7.0" in body
    assert read(body).readings[0].running == 8.0


def test_a_queue_of_which_a_part_lacks_this_engine_is_missing() -> None:
    """A family that others fill: its number for this engine is not known, and the sum is not either."""
    body = page("sglang-0.5.23-dp2-all-ranks.txt")
    lines = [
        line
        for line in body.splitlines(keepends=True)
        if not (line.startswith(b"sglang:num_grammar_queue_reqs{") and b'dp_rank="1"' in line)
    ]
    assert [reading.waiting for reading in read(b"".join(lines)).readings] == [3.0, None]


def test_a_queue_that_is_declared_and_has_no_sample_adds_nothing() -> None:
    body = page("sglang-0.5.23-busy.txt")
    lines = [line for line in body.splitlines(keepends=True) if not line.startswith(b"sglang:num_decode_")]
    assert read(b"".join(lines)).readings[0].waiting == 11.0


def test_a_pipeline_model_of_triton_is_no_engine() -> None:
    assert [reading.model for reading in read(page("triton-25.06-trtllm-busy.txt")).readings] == ["tensorrt_llm"]


# --- cut --------------------------------------------------------------------------------------------------------


def numbers(body: bytes) -> dict[tuple[str, str, str], Any]:
    return {
        (reading.model, reading.engine, field): value
        for reading in read(body).readings
        for field, value in asdict(reading).items()
        if field not in ("model", "engine")
    }


@pytest.mark.parametrize("name", [name for name in PAGES if not name.startswith("vllm") and name not in BLIND])
def test_a_page_cut_at_any_line_never_yields_a_wrong_number(name: str) -> None:
    body = page(name)
    truth = numbers(body)
    (kind,) = (kind for kind in KINDS if kind.name == READINGS[name][0])
    added = {part for row in kind.rows for named in row.plus for part in named.names} & PARSED[name].keys()
    lines = body.splitlines(keepends=True)
    read_cuts = 0
    for count in range(len(lines) + 1):
        cut = b"".join(lines[:count])
        try:
            found = numbers(cut)
        except ExpositionError:
            continue
        assert found.keys() == truth.keys()
        # Nobody can see that a family is cut off that would be added to the queue: the one exception.
        partial = added - parse(cut, WANTED).keys()
        for (model, engine, field), value in found.items():
            known = truth[model, engine, field]
            if field == "config" or (field == "finished" and value is not None):
                # Families of their own, which are not there before they count something.
                assert value.items() <= known.items()
            elif not (field == "waiting" and partial):
                assert value in (None, known), f"{field} when cut before line {count + 1}"
        read_cuts += 1
    assert read_cuts > 0


@settings(max_examples=300, deadline=None)
@given(st.data())
def test_a_page_with_wrong_bytes_is_read_or_refused_and_nothing_else(data: st.DataObject) -> None:
    body = bytearray(page(data.draw(st.sampled_from([name for name in READINGS if not name.startswith("vllm-0.")]))))
    for _ in range(data.draw(st.integers(1, 4))):
        at = data.draw(st.integers(0, len(body) - 1))
        body[at : at + data.draw(st.integers(0, 3))] = data.draw(
            st.sampled_from([b"", b"9", b'"', b"{", b"e", b"-", b"\n"])
        )
    try:
        answer = read(bytes(body))
    except ExpositionError:
        return
    assert answer.readings
    assert all(reading.kv_usage is None or 0 <= reading.kv_usage <= 1 for reading in answer.readings)
    assert all(reading.waiting is None or reading.waiting >= 0 for reading in answer.readings)
