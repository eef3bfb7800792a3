"""core/engines.py, engine_values.py: a number that is not beyond doubt is missing. What pages say: test_kinds*.py."""

import contextlib
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from msgspec.structs import asdict

from exporter.core.engines import WANTED, Answer, read
from exporter.core.exposition import ExpositionError
from exporter.core.model_engines import EngineReading, Histogram
from tests.exporter.pages import busy_dp2, multiplied, page


def row(name: str, value: float, **labels: str) -> str:
    """A sample of engine 0 of model a."""
    return _row(name, value, {"engine": "0", "model_name": "a", **labels})


def info(**labels: str) -> str:
    """cache_config_info of engine 0: it has no model."""
    return _row("cache_config_info", 1, {"engine": "0", **labels})


def lora(value: float, waiting: str) -> str:
    """lora_requests_info: it has neither model nor engine, and its value is a time."""
    return _row(
        "lora_requests_info", value, {"max_lora": "4", "running_lora_adapters": "x", "waiting_lora_adapters": waiting}
    )


def rejected(value: float, reason: str, model: str = "a") -> str:
    return _row("admission_rejections_total", value, {"model_name": model, "reason": reason})


def _row(name: str, value: float, labels: dict[str, str]) -> str:
    pairs = ",".join(f'{key}="{text}"' for key, text in labels.items())
    return f"vllm:{name}{{{pairs}}} {value}"


GAUGES = ("num_requests_waiting", "num_requests_running")


def gauges(*rows: str, tail: str = "# HELP z z\n") -> bytes:
    """A page with what every page must have: 3 wait, 2 run. Then the rows."""
    required = [row(name, value) for name, value in zip(GAUGES, (3, 2), strict=True)]
    return "".join(line + "\n" for line in (*required, *rows)).encode() + tail.encode()


def with_waiting_at_engine_1(body: bytes) -> bytes:
    series = row("num_requests_waiting", 4, engine="1").encode()
    return body.replace(b"vllm:num_requests_running", series + b"\nvllm:num_requests_running")


def readings_of(body: bytes) -> tuple[EngineReading, ...]:
    return read(body).readings


def only(body: bytes) -> EngineReading:
    readings = readings_of(body)
    assert len(readings) == 1
    return readings[0]


KV, BLOCKS = "kv_cache_usage_perc", {"num_gpu_blocks": "24", "block_size": "16"}

FIELDS: dict[str, tuple[list[str], str, Any]] = {
    "kv usage: the new name, not both": ([row("gpu_cache_usage_perc", 0.3), row(KV, 0.4)], "kv_usage", 0.4),
    "kv usage above 1 is no ratio": ([row(KV, 87)], "kv_usage", None),
    "a count beyond any engine": ([row("num_preemptions_total", 1e16)], "preemptions_total", None),
    "finished, beyond any engine": ([row("request_success_total", 1e16, finished_reason="stop")], "finished", None),
    "two processes that agree": ([row(KV, 0.4, pid="1"), row(KV, 0.4, pid="2")], "kv_usage", 0.4),
    "two processes that disagree": ([row(KV, 0.4, pid="1"), row(KV, 0.5, pid="2")], "kv_usage", None),
    "awake": ([row("engine_sleep_state", 1, sleep_state="awake")], "sleeping", False),
    "asleep": ([row("engine_sleep_state", 0, sleep_state="awake")], "sleeping", True),
    "sleep state unknown": ([row("engine_sleep_state", 0, sleep_state="discard_all")], "sleeping", None),
    "capacity by its own label": ([info(kv_cache_size_tokens="8192", **BLOCKS)], "kv_capacity_tokens", 8192.0),
    "capacity by blocks": ([info(kv_cache_size_tokens="None", **BLOCKS)], "kv_capacity_tokens", 384.0),
    "capacity without an engine": ([_row("cache_config_info", 1, BLOCKS)], "kv_capacity_tokens", 384.0),
    "capacity not known yet": ([info(num_gpu_blocks="None", block_size="16")], "kv_capacity_tokens", None),
    "capacity known after it was not": (
        [info(num_gpu_blocks="None", block_size="16"), info(**BLOCKS)],
        "kv_capacity_tokens",
        384.0,
    ),
    "two capacities": ([info(**BLOCKS), info(num_gpu_blocks="25", block_size="16")], "kv_capacity_tokens", None),
    "no capacity at all": ([info(num_gpu_blocks="0", block_size="16")], "kv_capacity_tokens", None),
    "capacity in Arabic digits": ([info(kv_cache_size_tokens="١٢")], "kv_capacity_tokens", None),
    "rejections over reasons": ([rejected(3, "x"), rejected(4, "y")], "rejections_total", 7.0),
    "rejections of another model": ([rejected(3, "x", model="b")], "rejections_total", None),
    "finished": ([row("request_success_total", 3, finished_reason="stop")], "finished", {"stop": 3.0}),
    "finished, a reason twice": (
        [row("request_success_total", count, finished_reason="stop", pid=str(count)) for count in (3, 4)],
        "finished",
        None,
    ),
    "a label of the configuration": (
        [info(**BLOCKS, cache_dtype="fp8")],
        "config",
        {"block_tokens": "16", "cache_dtype": "fp8"},
    ),
    "a configuration that is not told": ([info(cache_dtype="None", kv_cache_memory_bytes="")], "config", {}),
    "two configurations": ([info(cache_dtype="fp8"), info(cache_dtype="auto")], "config", {}),
    "a configuration as long as a book": ([info(cache_dtype="x" * 65)], "config", {}),
    "swapped out is not scheduled": ([row("num_requests_swapped", 4)], "waiting", 7.0),
    "swapped, declared and never said": (["# TYPE vllm:num_requests_swapped gauge"], "waiting", 3.0),
    "swapped, of another engine": ([row("num_requests_swapped", 4, engine="1")], "waiting", None),
    "swapped, and two processes that disagree": (
        [row("num_requests_swapped", count, pid=str(count)) for count in (4, 5)],
        "waiting",
        None,
    ),
    "reasons to wait": (
        [row("num_requests_waiting_by_reason", n, reason=why) for n, why in ((1, "capacity"), (2, "deferred"))],
        "waiting_by_reason",
        {"capacity": 1.0, "deferred": 2.0},
    ),
    "prefix cache: the new name, not both": (
        [row("gpu_prefix_cache_hits_total", 5), row("prefix_cache_hits_total", 7)],
        "prefix_hits_total",
        7.0,
    ),
    "hit rate": ([row("gpu_prefix_cache_hit_rate", 0.25)], "prefix_hit_ratio", 0.25),
    "hit rate without a prefix cache": ([row("gpu_prefix_cache_hit_rate", -1)], "prefix_hit_ratio", None),
    "no adapter waits": ([lora(10, "")], "lora_waiting", 0.0),
    "two adapters wait": ([lora(10, "a,b")], "lora_waiting", 2.0),
    "adapters: the newest, wherever it stands": (
        [lora(11, "a,b,c"), lora(12, "a"), lora(10, "a,b")],
        "lora_waiting",
        1.0,
    ),
    "adapters: two that are the newest": ([lora(12, "a"), lora(12, "a,b")], "lora_waiting", None),
    "nothing else": ([], "preemptions_total", None),
}


@pytest.mark.parametrize("name", FIELDS)
def test_field(name: str) -> None:
    rows, field, expected = FIELDS[name]
    reading = only(gauges(*rows))
    assert getattr(reading, field) == expected
    assert (reading.waiting, reading.running) == (expected if field == "waiting" else 3.0, 2.0)


def test_a_page_of_many_models_is_refused_before_it_crowds_out_others() -> None:
    names = [f'vllm:{gauge}{{model_name="m{i}"}} 1\n' for gauge in GAUGES for i in range(65)]
    with pytest.raises(ExpositionError, match="65 engines, 64 are allowed") as error:
        read("".join(names).encode() + b"# HELP z z\n")
    assert error.value.reason == "too_many_engines"


LAST = {
    "finished": row("request_success_total", 3, finished_reason="stop"),
    "rejections_total": rejected(3, "x"),
}


@pytest.mark.parametrize("field", LAST)
def test_a_sum_over_the_last_family_is_missing(field: str) -> None:
    assert getattr(only(gauges(LAST[field], tail="")), field) is None
    assert getattr(only(gauges(LAST[field], tail="# EOF\n")), field) is not None


BLIND: dict[str, tuple[bytes, str, str]] = {
    "nothing": (b"\n", "blind", "no series of a known server"),
    "another program": (b"up 1\n", "blind", "no series of a known server"),
    "no waiting": (b"vllm:num_requests_running 1\nz 1\n", "blind", "no vllm:num_requests_waiting;"),
    "no running": (b"vllm:num_requests_waiting 1\nz 1\n", "blind", "no vllm:num_requests_running;"),
    "neither": (b"vllm:kv_cache_usage_perc 1\nz 1\n", "blind", "waiting and no vllm:num_requests_running;"),
    "declared, no engine anywhere": (
        b"# TYPE vllm:num_requests_running gauge\n# TYPE vllm:num_requests_waiting gauge\n# EOF\n",
        "blind",
        "names an engine",
    ),
    "a router's view of its backends": (
        b'vllm:num_requests_running{server="http://x"} 1\nvllm:num_requests_waiting{server="http://x"} 1\nz 1\n',
        "gateway",
        "the engines behind this page; point the URL at each engine's own page",
    ),
    "the page ends where it declares": (
        gauges(tail="").partition(b"vllm:num_requests_running")[0] + b"# TYPE vllm:num_requests_running gauge\n",
        "truncated",
        "before it told",
    ),
    "the page ends among the engines": (
        b'vllm:num_requests_waiting{engine="0"} 1\nvllm:num_requests_waiting{engine="1"} 1\n'
        b'vllm:num_requests_running{engine="0"} 1\n',
        "truncated",
        "before it told",
    ),
    "the page ends among the first engines": (
        b"# TYPE vllm:num_requests_running gauge\n# TYPE vllm:num_requests_waiting gauge\n"
        b'vllm:prompt_tokens_total{engine="0"} 1\n',
        "truncated",
        "before it told",
    ),
    "a negative queue": (gauges().replace(b" 3", b" -3"), "negative", "num_requests_waiting"),
}


@pytest.mark.parametrize("name", BLIND)
def test_what_cannot_be_told_is_an_error_and_never_0(name: str) -> None:
    body, reason, message = BLIND[name]
    with pytest.raises(ExpositionError, match=message) as caught:
        read(body)
    assert caught.value.reason == reason


def test_engines_stay_apart_and_their_sum_is_whole() -> None:
    readings = readings_of(multiplied(page("vllm-0.32.0-busy-queue.txt"), 3))
    assert [(reading.engine, reading.waiting, reading.running) for reading in readings] == [
        ("0", 28.0, 4.0),
        ("1", 28.0, 4.0),
        ("2", 28.0, 4.0),
    ]
    assert sum(reading.rejections_total or 0 for reading in readings) == 0


def test_whose_adapters_wait_cannot_be_told_of_several_engines() -> None:
    body = with_waiting_at_engine_1(gauges(lora(10, "a")))
    assert [reading.lora_waiting for reading in readings_of(body)] == [None, None]


def test_a_server_that_sleeps() -> None:
    awake, asleep = b'sleep_state="awake"} 1.0', b'sleep_state="awake"} 0.0'
    body = page("vllm-0.32.0-idle.txt")
    assert only(body).sleeping is False
    sleeping = only(body.replace(awake, asleep).replace(b'"weights_offloaded"} 0.0', b'"weights_offloaded"} 1.0'))
    assert (sleeping.sleeping, sleeping.waiting, sleeping.running) == (True, 0.0, 0.0)


def test_one_of_two_engines_sleeps() -> None:
    lines = [row("engine_sleep_state", value, engine=str(1 - value), sleep_state="awake") for value in (1, 0)]
    body = with_waiting_at_engine_1(gauges(*lines))
    assert [reading.sleeping for reading in readings_of(body)] == [False, True]


def histogram(name: str, *counts: int, **labels: str) -> list[str]:
    """Of engine 0 of model a, with the edges 0.1, 0.5, inf; counts are cumulative."""
    buckets = [row(f"{name}_bucket", n, le=le, **labels) for n, le in zip(counts, ("0.1", "0.5", "+Inf"), strict=True)]
    return [*buckets, row(f"{name}_sum", 0.25, **labels), row(f"{name}_count", counts[-1], **labels)]


NEW, OLD = "inter_token_latency_seconds", "time_per_output_token_seconds"
HISTOGRAMS: dict[str, tuple[list[str], Histogram | None]] = {
    "one": (histogram(NEW, 1, 2, 4), Histogram((0.1, 0.5, float("inf")), (1.0, 2.0, 4.0), 0.25)),
    "the new name, not both": (
        [*histogram(OLD, 1, 1, 1), *histogram(NEW, 1, 2, 4)],
        Histogram((0.1, 0.5, float("inf")), (1.0, 2.0, 4.0), 0.25),
    ),
    "two processes that agree": (
        [*histogram(NEW, 1, 2, 4, pid="1"), *histogram(NEW, 1, 2, 4, pid="2")],
        Histogram((0.1, 0.5, float("inf")), (1.0, 2.0, 4.0), 0.25),
    ),
    "two processes that disagree": ([*histogram(NEW, 1, 2, 4, pid="1"), *histogram(NEW, 1, 2, 5, pid="2")], None),
    "of another engine": (histogram(NEW, 1, 2, 4, engine="1"), None),
    "that falls": (histogram(NEW, 3, 2, 4), None),
}


@pytest.mark.parametrize("name", HISTOGRAMS)
def test_histogram(name: str) -> None:
    rows, expected = HISTOGRAMS[name]
    assert only(gauges(*rows)).itl == expected


def test_the_last_histogram_of_a_page_may_be_cut() -> None:
    assert only(gauges(*histogram(NEW, 1, 2, 4), tail="")).itl is None


def sglang(*rows: str) -> EngineReading:
    required = [f'sglang:num_{what}_reqs{{model_name="a"}} 1' for what in ("running", "queue")]
    return only("\n".join([*required, *rows, "z 1", ""]).encode())


def test_parts_of_a_histogram_are_added_where_their_edges_are_the_same() -> None:
    def part(streaming: str, edge: str) -> list[str]:
        labels = f'model_name="a",is_streaming="{streaming}"'
        name = "sglang:time_to_first_token_seconds"
        return [
            f'{name}_bucket{{{labels},le="{edge}"}} 1',
            f'{name}_bucket{{{labels},le="+Inf"}} 3',
            f"{name}_sum{{{labels}}} 4.5",
            f"{name}_count{{{labels}}} 3",
        ]

    assert sglang(*part("true", "0.5"), *part("false", "0.5")).ttft == Histogram((0.5, float("inf")), (2.0, 6.0), 9.0)
    assert sglang(*part("true", "0.5"), *part("false", "0.6")).ttft is None


def test_live_token_counters_are_read_and_not_added_to_those_of_ended_requests() -> None:
    late = 'sglang:generation_tokens_total{model_name="a"} 100'
    live = [
        f'sglang:realtime_tokens_total{{model_name="a",mode="{mode}"}} 130' for mode in ("decode", "prefill_compute")
    ]
    assert sglang(late).generation_tokens_total == 100.0
    reading = sglang(late, *live)
    assert (reading.generation_tokens_total, reading.prompt_tokens_total) == (130.0, 130.0)
    # Nothing has been decoded yet: a switch to the other counter, and back, would be a reset that never was.
    assert sglang(late, live[1]).generation_tokens_total is None


def test_an_answer_has_kind_readings_and_what_is_lacking() -> None:
    answer = read(gauges())
    assert answer == Answer("vllm", answer.readings, ("vllm:kv_cache_usage_perc",))
    assert read(gauges("# TYPE vllm:kv_cache_usage_perc gauge")).lacking == ()
    assert read(gauges(row("gpu_cache_usage_perc", 0.5))).lacking == ()


def test_models_behind_one_url_stay_apart() -> None:
    rows = [row(name, value, model_name=model) for name in GAUGES for model, value in (("a", 3), ("b", 5))]
    readings = readings_of("\n".join([*rows, info(kv_cache_size_tokens="8192"), "z 1\n"]).encode())
    assert [(r.model, r.waiting, r.running, r.kv_capacity_tokens) for r in readings] == [
        ("a", 3.0, 3.0, None),  # whose cache it is cannot be told
        ("b", 5.0, 5.0, None),
    ]


def test_an_engine_that_one_family_lacks_is_missing_there() -> None:
    body = with_waiting_at_engine_1(gauges())
    readings = readings_of(body)
    assert [(r.engine, r.waiting, r.running) for r in readings] == [("0", 3.0, 2.0), ("1", 4.0, None)]


SILENT = (
    "# TYPE vllm:num_requests_running gauge",
    "# TYPE vllm:num_requests_waiting gauge",
    'vllm:num_requests_waiting{engine="0"} 3',
    'vllm:num_requests_running{engine="0"} 1',
    'vllm:prompt_tokens_total{engine="0"} 9',
    'vllm:prompt_tokens_total{engine="1"} 0',
    'vllm:generation_tokens_total{engine="0"} 9',
    'vllm:generation_tokens_total{engine="1"} 0',
    'vllm:request_success_total{engine="0",finished_reason="stop"} 0',
    'vllm:request_success_total{engine="1",finished_reason="stop"} 0',
    "# EOF",
)


def silent(change: Callable[[list[str]], None] = lambda lines: None) -> EngineReading:
    lines = [SILENT[0], SILENT[3], SILENT[1], SILENT[2], *SILENT[4:]]
    change(lines)
    readings = readings_of("".join(line + "\n" for line in lines).encode())
    assert readings[0].waiting == 3.0
    return readings[1]


def test_an_engine_that_has_produced_nothing_yet_waits_for_nothing() -> None:
    reading = silent()
    assert (reading.engine, reading.waiting, reading.running) == ("1", 0.0, 0.0)


PRODUCED: dict[str, Callable[[list[str]], None]] = {
    "it has a token": lambda lines: lines.__setitem__(7, 'vllm:generation_tokens_total{engine="1"} 1'),
    "a counter's family is not there": lambda lines: lines.__delitem__(slice(6, 8)),
    "the page may be cut": lambda lines: lines.__delitem__(-1),
}


@pytest.mark.parametrize("name", PRODUCED)
def test_an_engine_without_a_queue_and_with_a_past_is_missing(name: str) -> None:
    assert silent(PRODUCED[name]).waiting is None


def test_rejections_are_carried_by_the_first_engine() -> None:
    body = with_waiting_at_engine_1(gauges(rejected(7, "x")))
    assert [reading.rejections_total for reading in readings_of(body)] == [7.0, 0.0]


def test_data_parallel_blocks_are_added_up_by_the_server_and_so_no_engines_own() -> None:
    body = with_waiting_at_engine_1(gauges(*(info(**{**BLOCKS, "engine": engine}) for engine in "01")))
    assert [reading.kv_capacity_tokens for reading in readings_of(body)] == [None, None]


# --- cut --------------------------------------------------------------------------------------------------------

CUT = {
    "busy": lambda: page("vllm-0.32.0-busy-queue.txt"),
    "kv pressure": lambda: page("vllm-0.32.0-kv-pressure.txt"),
    "two engines, busy": busy_dp2,
    "two engines, idle": lambda: page("vllm-0.32.0-dp2-idle.txt"),
    "two API servers, idle": lambda: page("vllm-0.32.0-two-api-servers-idle.txt"),
    "both names of KV usage": lambda: page("vllm-0.9.2-v1-names.txt"),
    "V0": lambda: page("vllm-0.6.6-v0-names.txt"),
}


def numbers(readings: tuple[EngineReading, ...]) -> dict[tuple[str, str, str], Any]:
    """Every number by model, engine and field; None if it is missing."""
    return {
        (reading.model, reading.engine, field): value
        for reading in readings
        for field, value in asdict(reading).items()
        if field not in ("model", "engine")
    }


def wrong(found: dict[tuple[str, str, str], Any], truth: dict[tuple[str, str, str], Any]) -> list[tuple[str, str, str]]:
    """What was read and is not so. Of the configuration each key is a value of its own."""
    return [
        key
        for key, value in found.items()
        if not (value.items() <= truth[key].items() if key[2] == "config" else value in (None, truth[key]))
    ]


@pytest.mark.parametrize("name", CUT)
def test_a_page_cut_at_any_byte_never_yields_a_wrong_number(name: str) -> None:
    whole = CUT[name]()
    truth = numbers(readings_of(whole))
    read_cuts = 0
    for end in range(len(whole)):
        try:
            readings = readings_of(whole[:end])
        except ExpositionError:
            continue
        found = numbers(readings)
        # No engine may be left out either: a sum over engines would be partial.
        assert found.keys() == truth.keys(), f"cut at byte {end}"
        assert not wrong(found, truth), f"cut at byte {end}"
        read_cuts += 1
    assert read_cuts > 100  # there are cuts that leave a page that can be read


@settings(max_examples=100, deadline=None)
@given(st.data())
def test_families_in_any_order_cut_at_any_line(data: st.DataObject) -> None:
    """Servers print their families in different orders: the rule may not rest on vLLM's."""
    groups = [b"# TYPE" + group for group in busy_dp2().split(b"# TYPE")[1:] if group.startswith(b" vllm:")]
    groups = [b"".join(line for line in group.splitlines(True) if not line.startswith(b"# HELP")) for group in groups]
    # Histograms are not folded over lines of several engines, and make most of the lines.
    plain = [group for group in groups if b" histogram\n" not in group]
    wanted = [group for group in plain if group.split()[2].decode() in WANTED_NAMES]
    body = b"".join(data.draw(st.permutations(wanted)))
    truth = numbers(readings_of(body + b"# EOF\n"))
    lines = body.splitlines(keepends=True)
    for count in range(len(lines)):
        try:
            found = numbers(readings_of(b"".join(lines[:count])))
        except ExpositionError:
            continue
        assert found.keys() == truth.keys()
        assert not wrong(found, truth)


WANTED_NAMES = {entry.family for entry in WANTED.samples.values()}


@pytest.mark.parametrize("warm", [False, True])
def test_a_page_of_more_samples_than_engines_have_is_refused_early(warm: bool) -> None:
    def full(series: int) -> bytes:
        rows = "".join(f'vllm:num_requests_running{{model_name="m{number}"}} 1\n' for number in range(series))
        return f"# TYPE vllm:num_requests_running gauge\n{rows}".encode()

    if warm:
        with contextlib.suppress(ExpositionError):
            read(full(10_000))
    with pytest.raises(ExpositionError, match="more than 10000 samples to be read") as refused:
        read(full(10_001))
    assert refused.value.reason == "too_many_samples"
    with pytest.raises(ExpositionError, match="names 9999 engines"):
        read(full(9_999) + b'# TYPE vllm:num_requests_waiting gauge\nvllm:num_requests_waiting{model_name="m0"} 1\n')
