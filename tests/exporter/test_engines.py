"""core/engines.py: every version of vLLM reads as what it is, and a number that is not beyond doubt is missing."""

from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from msgspec.structs import asdict

from exporter.core.engine_names import KINDS
from exporter.core.engines import WANTED, read
from exporter.core.exposition import ExpositionError
from exporter.core.model import EngineReading
from tests.exporter.pages import PAGES, busy_dp2, multiplied, page

V1_FINISHED = {"stop": 0.0, "length": 2.0, "abort": 0.0}
V32_FINISHED = {"stop": 0.0, "length": 0.0, "abort": 0.0, "error": 0.0, "repetition": 0.0}

#: What the loggers of old versions were given (tests/fixtures/README.md).
LOGGED = {
    "model": "tiny",
    "engine": "0",
    "waiting": 20.0,
    "running": 4.0,
    "kv_usage": 0.87,
    "kv_capacity_tokens": 384.0,
    "prompt_tokens_total": 3600.0,
    "generation_tokens_total": 12000.0,
    "preemptions_total": 2.0,
    "finished": V1_FINISHED,
}
IDLE = {
    "model": "tiny",
    "engine": "0",
    "waiting": 0.0,
    "running": 0.0,
    "kv_usage": 0.0,
    "kv_capacity_tokens": 1048576.0,
    "prompt_tokens_total": 0.0,
    "generation_tokens_total": 0.0,
    "preemptions_total": 0.0,
    "rejections_total": 0.0,
    "finished": V32_FINISHED,
    "sleeping": False,
}

READINGS: dict[str, list[dict[str, Any]]] = {
    "vllm-0.6.6-v0-names.txt": [{**LOGGED, "engine": "", "finished": {"length": 2.0}}],
    "vllm-0.8.5-v1-names.txt": [LOGGED],
    "vllm-0.9.2-v1-names.txt": [LOGGED],
    "vllm-0.12.0-v1-names.txt": [{**LOGGED, "sleeping": False}],
    "vllm-0.16.0-v1-names.txt": [{**LOGGED, "sleeping": False}],
    "vllm-0.33.0-v1-names.txt": [{**LOGGED, "sleeping": False, "rejections_total": 0.0}],
    "vllm-0.32.0-idle.txt": [IDLE],
    "vllm-0.32.0-busy-queue.txt": [
        {
            **IDLE,
            "waiting": 28.0,
            "running": 4.0,
            "kv_usage": 0.002441704309608106,
            "prompt_tokens_total": 800.0,
            "generation_tokens_total": 1349.0,
        }
    ],
    "vllm-0.32.0-after-load-idle.txt": [
        {
            **IDLE,
            "prompt_tokens_total": 6400.0,
            "generation_tokens_total": 12800.0,
            "finished": {**V32_FINISHED, "length": 32.0},
        }
    ],
    "vllm-0.32.0-kv-pressure.txt": [
        {
            **IDLE,
            "waiting": 13.0,
            "running": 5.0,
            "kv_usage": 1.0,
            "kv_capacity_tokens": 3072.0,
            "prompt_tokens_total": 23550.0,
            "generation_tokens_total": 121969.0,
            "preemptions_total": 281.0,
            "finished": {**V32_FINISHED, "length": 150.0},
        }
    ],
    # Two API servers have HELP and TYPE of waiting, running and KV usage, and no sample before the first request.
    "vllm-0.32.0-two-api-servers-idle.txt": [{**IDLE, "kv_capacity_tokens": 8192.0}],
    "vllm-0.32.0-dp2-idle.txt": [{**IDLE, "kv_capacity_tokens": 8192.0, "engine": engine} for engine in ("0", "1")],
}


@pytest.mark.parametrize("name", PAGES)
def test_every_version(name: str) -> None:
    if name == "vllm-0.32.0-disable-log-stats.txt":
        with pytest.raises(ExpositionError, match="no series of a known server"):
            read(page(name))
        return
    assert read(page(name)) == ("vllm", tuple(EngineReading(**fields) for fields in READINGS[name]))


def row(name: str, value: float, **labels: str) -> str:
    """A sample of engine 0 of model a."""
    return _row(name, value, {"engine": "0", "model_name": "a", **labels})


def info(**labels: str) -> str:
    """cache_config_info of engine 0: it has no model."""
    return _row("cache_config_info", 1, {"engine": "0", **labels})


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


def only(body: bytes) -> EngineReading:
    _, readings = read(body)
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
    "nothing else": ([], "preemptions_total", None),
}


@pytest.mark.parametrize("name", FIELDS)
def test_field(name: str) -> None:
    rows, field, expected = FIELDS[name]
    reading = only(gauges(*rows))
    assert getattr(reading, field) == expected
    assert (reading.waiting, reading.running) == (3.0, 2.0)


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
        "blind",
        "names an engine",
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
    _, readings = read(multiplied(page("vllm-0.32.0-busy-queue.txt"), 3))
    assert [(reading.engine, reading.waiting, reading.running) for reading in readings] == [
        ("0", 28.0, 4.0),
        ("1", 28.0, 4.0),
        ("2", 28.0, 4.0),
    ]
    assert sum(reading.rejections_total or 0 for reading in readings) == 0


def test_models_behind_one_url_stay_apart() -> None:
    rows = [row(name, value, model_name=model) for name in GAUGES for model, value in (("a", 3), ("b", 5))]
    _, readings = read("\n".join([*rows, info(kv_cache_size_tokens="8192"), "z 1\n"]).encode())
    assert [(r.model, r.waiting, r.running, r.kv_capacity_tokens) for r in readings] == [
        ("a", 3.0, 3.0, None),  # whose cache it is cannot be told
        ("b", 5.0, 5.0, None),
    ]


def test_an_engine_that_one_family_lacks_is_missing_there() -> None:
    body = with_waiting_at_engine_1(gauges())
    _, readings = read(body)
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
    _, readings = read("".join(line + "\n" for line in lines).encode())
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
    assert [reading.rejections_total for reading in read(body)[1]] == [7.0, 0.0]


def test_data_parallel_blocks_are_added_up_by_the_server_and_so_no_engines_own() -> None:
    body = with_waiting_at_engine_1(gauges(*(info(**{**BLOCKS, "engine": engine}) for engine in "01")))
    assert [reading.kv_capacity_tokens for reading in read(body)[1]] == [None, None]


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


@pytest.mark.parametrize("name", CUT)
def test_a_page_cut_at_any_byte_never_yields_a_wrong_number(name: str) -> None:
    whole = CUT[name]()
    truth = numbers(read(whole)[1])
    read_cuts = 0
    for end in range(len(whole)):
        try:
            _, readings = read(whole[:end])
        except ExpositionError:
            continue
        found = numbers(readings)
        # No engine may be left out either: a sum over engines would be partial.
        assert found.keys() == truth.keys(), f"cut at byte {end}"
        wrong = {key: value for key, value in found.items() if value is not None and value != truth[key]}
        assert not wrong, f"cut at byte {end}"
        read_cuts += 1
    assert read_cuts > 100  # there are cuts that leave a page that can be read


@settings(max_examples=200, deadline=None)
@given(st.data())
def test_families_in_any_order_cut_at_any_line(data: st.DataObject) -> None:
    """Servers print their families in different orders: the rule may not rest on vLLM's."""
    groups = [b"# TYPE" + group for group in busy_dp2().split(b"# TYPE")[1:] if group.startswith(b" vllm:")]
    groups = [b"".join(line for line in group.splitlines(True) if not line.startswith(b"# HELP")) for group in groups]
    wanted = [group for group in groups if group.split()[2].decode() in WANTED_NAMES]
    body = b"".join(data.draw(st.permutations(wanted)))
    truth = numbers(read(body + b"# EOF\n")[1])
    lines = body.splitlines(keepends=True)
    for count in range(len(lines)):
        try:
            found = numbers(read(b"".join(lines[:count]))[1])
        except ExpositionError:
            continue
        assert found.keys() == truth.keys()
        assert all(value is None or value == truth[key] for key, value in found.items())


WANTED_NAMES = {entry.family for entry in WANTED.samples.values()}


# --- the table --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.name)
def test_the_table_of_names_is_sound(kind: Any) -> None:
    fields = [row.field for row in kind.rows]
    assert len(set(fields)) == len(fields)
    assert set(fields) <= set(EngineReading.__struct_fields__) - {"model", "engine"}
    assert {row.field for row in kind.rows if row.required} == {"waiting", "running"}
    assert set(kind.counters) <= set(fields)
    assert all(row.source for row in kind.rows)
    assert all(row.label for row in kind.rows if row.how == "by")
    assert all(row.products for row in kind.rows if row.how == "tokens")
