"""core/saturation.py: what an engine did lately, how near its knee it is, whether it is stuck.

How rates and quantiles are taken: test_meters.py. How the knee is learned: test_knee.py.
"""

import math
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from exporter.core import engines
from exporter.core.exposition import ExpositionError
from exporter.core.model_engines import EngineReading, Histogram, Learned, Rates
from exporter.core.saturation import GAP, STALL, WINDOW, EngineMemory, kv_peak, observe, rates, ratio, wedged

PAGES = Path(__file__).parent.parent / "fixtures" / "engines"


def reading(**changes: Any) -> EngineReading:
    fields: dict[str, Any] = {
        "waiting": 0.0,
        "running": 0.0,
        "prompt_tokens_total": 0.0,
        "generation_tokens_total": 0.0,
        "finished": {"stop": 0.0},
        **changes,
    }
    return EngineReading("m", "0", **fields)


def watch(*readings: tuple[float, EngineReading]) -> EngineMemory:
    memory = None
    for at, seen in readings:
        memory = observe(memory, seen, at)
    assert memory is not None
    return memory


# --- rates ------------------------------------------------------------------------------------------------------

EDGES = (1.0, 2.0, 4.0, math.inf)


def seen(*counts: float) -> Histogram:
    return Histogram(EDGES, counts)


#: (first reading, the one 10 s later, what Rates says then); what is not named is None
DID: dict[str, tuple[dict[str, Any], dict[str, Any], dict[str, float]]] = {
    "requests are all that ended, errors those that failed": (
        {"finished": {"stop": 1.0, "abort": 1.0, "error": 2.0}},
        {"finished": {"stop": 11.0, "abort": 21.0, "error": 7.0}},
        {"requests_per_second": 3.5, "errors_per_second": 0.5},
    ),
    "an error that had never happened before": (
        {"finished": {"stop": 1.0}},
        {"finished": {"stop": 1.0, "error": 5.0}},
        {"requests_per_second": 0.5, "errors_per_second": 0.5},
    ),
    "how they ended is not told: no errors are known": (
        {"finished": {"finished": 1.0}},
        {"finished": {"finished": 21.0}},
        {"requests_per_second": 2.0},
    ),
    "only that they failed is told": (
        {"finished": {"finished": 1.0, "error": 0.0}},
        {"finished": {"finished": 21.0, "error": 10.0}},
        {"requests_per_second": 3.0, "errors_per_second": 1.0},
    ),
    "nothing has ended yet": ({"finished": {}}, {"finished": {}}, {"requests_per_second": 0.0}),
    "rejections": ({"rejections_total": 5.0}, {"rejections_total": 25.0}, {"rejections_per_second": 2.0}),
    "preemptions": ({"preemptions_total": 5.0}, {"preemptions_total": 10.0}, {"preemptions_per_second": 0.5}),
    "prompt tokens": ({"prompt_tokens_total": 0.0}, {"prompt_tokens_total": 70.0}, {"prompt_tokens_per_second": 7.0}),
    "generated tokens": (
        {"generation_tokens_total": 0.0},
        {"generation_tokens_total": 90.0},
        {"tokens_per_second": 9.0},
    ),
    "time to first token": (
        {"ttft": seen(0, 0, 0, 0)},
        {"ttft": seen(0, 10, 20, 20)},
        {"ttft_p50": 2.0, "ttft_p95": 3.8},
    ),
    "between tokens": ({"itl": seen(0, 0, 0, 0)}, {"itl": seen(0, 10, 20, 20)}, {"itl_p50": 2.0, "itl_p95": 3.8}),
    "time in the queue": ({"queue_time": seen(0, 0, 0, 0)}, {"queue_time": seen(0, 0, 0, 9)}, {"queue_time_p95": 4.0}),
    "whole latency": ({"e2e": seen(5, 5, 5, 5)}, {"e2e": seen(25, 25, 25, 25)}, {"e2e_p95": 0.95}),
    "nobody was observed": ({"ttft": seen(5, 5, 5, 5)}, {"ttft": seen(5, 5, 5, 5)}, {}),
    "hits of the prefix cache": (
        {"prefix_queries_total": 0.0, "prefix_hits_total": 0.0},
        {"prefix_queries_total": 200.0, "prefix_hits_total": 50.0},
        {"prefix_hit_ratio": 0.25},
    ),
    "the counters come before the server's own word": (
        {"prefix_queries_total": 0.0, "prefix_hits_total": 0.0, "prefix_hit_ratio": 0.9},
        {"prefix_queries_total": 200.0, "prefix_hits_total": 50.0, "prefix_hit_ratio": 0.9},
        {"prefix_hit_ratio": 0.25},
    ),
    "the server's own word": ({"prefix_hit_ratio": 0.1}, {"prefix_hit_ratio": 0.9}, {"prefix_hit_ratio": 0.9}),
    "nothing was looked up": (
        {"prefix_queries_total": 9.0, "prefix_hits_total": 3.0},
        {"prefix_queries_total": 9.0, "prefix_hits_total": 3.0},
        {},
    ),
    "more hits than queries: not of one instant": (
        {"prefix_queries_total": 0.0, "prefix_hits_total": 0.0},
        {"prefix_queries_total": 10.0, "prefix_hits_total": 12.0},
        {"prefix_hit_ratio": 1.0},
    ),
    "a restart": (
        {"generation_tokens_total": 5000.0, "ttft": seen(7, 7, 7, 7)},
        {"generation_tokens_total": 30.0, "ttft": seen(0, 4, 4, 4)},
        {"tokens_per_second": 3.0, "ttft_p50": 1.5, "ttft_p95": 1.95},
    ),
    "it tells nothing": ({}, {}, {}),
}


@pytest.mark.parametrize("name", DID)
def test_what_it_did(name: str) -> None:
    first, last, expected = DID[name]
    memory = watch((0, EngineReading("m", "0", **first)), (10, EngineReading("m", "0", **last)))
    told = msgspec.structs.asdict(rates(memory, 10))
    assert {field: value for field, value in told.items() if value is not None} == pytest.approx(expected)
    alone = rates(watch((0, EngineReading("m", "0", **first))), 0)
    assert alone == Rates(prefix_hit_ratio=first.get("prefix_hit_ratio")), "one reading is no rate"
    assert rates(memory, 10.1 + WINDOW) == Rates(), "nothing is known of a server that no longer answers"


def test_a_silence_up_to_the_window_is_bridged_and_a_longer_one_is_not() -> None:
    def tokens(silence: float) -> float | None:
        before, after = reading(generation_tokens_total=0.0), reading(generation_tokens_total=600.0)
        return rates(watch((0, before), (silence, after)), silence).tokens_per_second

    assert (tokens(WINDOW), tokens(WINDOW + 1)) == (600 / WINDOW, None)


def test_engines_of_one_server_are_engines_of_their_own() -> None:
    """Data parallelism: a memory is one engine's, and knows of no other."""
    ranks = {rank: watch((0, reading()), (1, reading(generation_tokens_total=rank))) for rank in (10.0, 70.0)}
    assert {rank: rates(memory, 1).tokens_per_second for rank, memory in ranks.items()} == {10.0: 10.0, 70.0: 70.0}


@pytest.mark.parametrize("page", sorted(PAGES.glob("*.txt")), ids=lambda page: page.stem)
def test_every_counter_and_histogram_of_a_real_page_is_followed(page: Path) -> None:
    """Nothing that moves is 0 where there is a counter, and all that a histogram holds gives its quantiles."""
    try:
        _, readings, *_ = engines.read(page.read_bytes())
    except ExpositionError:
        return  # a page that tells nothing
    for shown in readings:
        did = rates(watch((0, shown), (5, shown)), 5)
        assert (did.tokens_per_second is None) == (shown.generation_tokens_total is None)
        assert (did.requests_per_second is None) == (shown.finished is None)
        histograms = {name: value for name in ("ttft", "itl", "queue_time", "e2e") if (value := getattr(shown, name))}
        before = {name: Histogram(value.edges, (0.0,) * len(value.edges)) for name, value in histograms.items()}
        told = msgspec.structs.asdict(rates(watch((0, msgspec.structs.replace(shown, **before)), (5, shown)), 5))
        for name, value in histograms.items():
            field = f"{name}_p95"
            assert told[field] is None if not value.counts[-1] else 0 < told[field] <= value.edges[-2]


totals = st.one_of(st.none(), st.floats(0, 1e12))


@settings(max_examples=150)
@given(
    st.lists(
        st.tuples(
            st.floats(0.01, 60),
            st.fixed_dictionaries(
                {
                    "waiting": totals,
                    "running": totals,
                    "kv_usage": st.one_of(st.none(), st.floats(0, 1)),
                    "kv_capacity_tokens": totals,
                    "max_running": totals,
                    "generation_tokens_total": totals,
                    "rejections_total": totals,
                    "prefix_queries_total": totals,
                    "prefix_hits_total": totals,
                    "finished": st.one_of(
                        st.none(), st.dictionaries(st.sampled_from(["stop", "error", "abort"]), st.floats(0, 1e12))
                    ),
                    "ttft": st.one_of(
                        st.none(),
                        st.builds(
                            lambda counts: Histogram(EDGES, tuple(sorted(counts))),
                            st.lists(st.floats(0, 1e9), min_size=4, max_size=4),
                        ),
                    ),
                    "sleeping": st.sampled_from([None, False, True]),
                }
            ),
        ),
        min_size=1,
        max_size=20,
    )
)
def test_whatever_a_server_shows_nothing_is_negative_or_without_end(steps: list[tuple[float, dict[str, Any]]]) -> None:
    memory, at = None, 0.0
    for seconds, shown in steps:
        at += seconds
        memory = observe(memory, EngineReading("m", "0", **shown), at)
        did = rates(memory, at)
        told: Mapping[str, Any] = {
            **msgspec.structs.asdict(did),
            **msgspec.structs.asdict(memory.learned),
            "ratio": ratio(memory.reading, memory.learned, did),
            "peak": kv_peak(memory, at),
        }
        assert all(value is None or (value >= 0 and math.isfinite(value)) for value in told.values()), told
        for name in ("prefix_hit_ratio", "peak"):
            assert told[name] is None or told[name] <= 1


# --- what is remembered -----------------------------------------------------------------------------------------


def full(at: float) -> EngineReading:
    """Everything that a reading can hold, as large as vLLM's: 24 edges, 5 reasons."""

    def histogram(n: float) -> Histogram:
        return Histogram((*(float(i + 1) for i in range(23)), math.inf), tuple(at * n * (i + 1) for i in range(24)))

    return reading(
        waiting=10.0,
        running=8.0,
        kv_usage=0.5,
        kv_capacity_tokens=1000.0,
        prompt_tokens_total=at * 100.0,
        generation_tokens_total=at * 100.0,
        preemptions_total=at,
        rejections_total=at,
        prefix_queries_total=at * 2,
        prefix_hits_total=at,
        finished=dict.fromkeys(("stop", "length", "abort", "error", "repetition"), at),
        ttft=histogram(1),
        itl=histogram(90),
        queue_time=histogram(2),
        e2e=histogram(3),
    )


def size(thing: Any, known: set[int]) -> int:
    """Bytes of a value and of all that it holds, each once."""
    if id(thing) in known:
        return 0
    known.add(id(thing))
    inner: list[Any] = []
    if isinstance(thing, dict):
        inner = [*thing, *thing.values()]
    elif isinstance(thing, tuple):
        inner = list(thing)
    elif isinstance(thing, msgspec.Struct):
        inner = [getattr(thing, name) for name in thing.__struct_fields__]
    return sys.getsizeof(thing) + sum(size(part, known) for part in inner)


@pytest.mark.parametrize("every", [0.05, 1.0, 20.0])
def test_an_engine_takes_little_memory_however_often_it_is_read(every: float) -> None:
    memory = None
    for number in range(600):
        memory = observe(memory, full(number * every), number * every)
        # 256 engines: 16 MB at most.
        assert number % 60 or size(memory, set()) < 64_000
    assert memory is not None
    assert rates(memory, 599 * every).tokens_per_second == pytest.approx(100.0)


def test_a_restart_keeps_what_was_learned_and_begins_a_life_that_has_produced_nothing() -> None:
    memory = watch(*((float(at), full(at)) for at in range(31)))
    again = observe(observe(memory, reading(), 31.0), full(1), 32.0)
    assert memory.learned.knee_running == 8.0
    assert again.learned == memory.learned
    assert (memory.since, memory.produced) == (0.0, True)
    new = reading(prompt_tokens_total=0.0, generation_tokens_total=0.0, finished={})
    for silence in (1.0, GAP + 1, 3600.0):  # a model takes minutes to load: far longer than GAP
        fresh = observe(memory, new, 30.0 + silence)
        assert (fresh.since, fresh.produced) == (30.0 + silence, False)
        assert fresh.learned == memory.learned
    assert again.produced


def test_a_memory_outlives_the_process() -> None:
    memory = watch(*((float(at), full(at)) for at in range(31)))
    again = msgspec.msgpack.decode(msgspec.msgpack.encode(memory), type=EngineMemory)
    # msgpack has infinity, so that histograms come back whole.
    assert again == memory
    assert rates(observe(again, full(31), 31.0), 31.0) == rates(observe(memory, full(31), 31.0), 31.0)


def test_the_peak_of_the_cache_is_that_of_a_day() -> None:
    hour = 3600.0
    memory = watch(
        *((at * hour, reading(kv_usage=0.9 if at == 5 else 0.3)) for at in range(12)), (12 * hour, reading())
    )
    assert kv_peak(memory, 12 * hour) == 0.9
    assert kv_peak(observe(memory, reading(kv_usage=0.4), 40 * hour), 40 * hour) == 0.4
    assert kv_peak(memory, 90 * hour) is None


# --- how near the knee ------------------------------------------------------------------------------------------

KNEE = Learned(knee_running=10.0, service_rate=2.0, queued_seconds=60.0)
#: Learned where 900 of 1000 tokens were held when the queue formed, and where 300 were.
BY_CACHE = Learned(knee_running=10.0, knee_tokens=900.0, queued_seconds=60.0)
BY_BATCH = Learned(knee_running=10.0, knee_tokens=300.0, queued_seconds=60.0)

RATIOS: dict[str, tuple[dict[str, Any], Learned, float | None]] = {
    "idle": ({}, Learned(), 0.0),
    "idle, knee known": ({}, KNEE, 0.0),
    "half": ({"running": 5.0}, KNEE, 0.5),
    "at the knee": ({"running": 10.0}, KNEE, 1.0),
    "above the learned knee, no queue": ({"running": 14.0}, KNEE, 1.0),
    "above, with a queue": ({"running": 10.0, "waiting": 5.0}, KNEE, 1.5),
    "a queue below the learned knee": ({"running": 4.0, "waiting": 1.0}, KNEE, 1.0),
    "KV cache fuller than the batch": ({"running": 2.0, "kv_usage": 0.7}, KNEE, 0.7),
    "batch fuller than the KV cache": ({"running": 8.0, "kv_usage": 0.7}, KNEE, 0.8),
    "no knee: the KV cache is the least": ({"running": 2.0, "kv_usage": 0.25}, Learned(), 0.25),
    "no knee, no KV cache": ({"running": 2.0}, Learned(), None),
    "no knee, a queue: what runs is the knee": ({"running": 4.0, "waiting": 2.0}, Learned(), 1.5),
    "no knee, a queue, nothing runs": ({"waiting": 2.0}, Learned(), 1.0),
    "fuller of tokens than of requests": (
        {"running": 2.0, "kv_usage": 0.6, "kv_capacity_tokens": 1e3},
        BY_CACHE,
        2 / 3,
    ),
    "tokens as at the knee": ({"running": 2.0, "kv_usage": 0.95, "kv_capacity_tokens": 1e3}, BY_CACHE, 1.0),
    "the cache was not what was short": (
        {"running": 2.0, "kv_usage": 0.3, "kv_capacity_tokens": 1e3},
        BY_BATCH,
        0.3,
    ),
    "no knee, half of what the server runs": ({"running": 4.0, "max_running": 8.0}, Learned(), 0.5),
    "a knee above what the server runs": ({"running": 4.0, "max_running": 8.0}, KNEE, 0.5),
    "and with a queue": ({"running": 8.0, "waiting": 8.0, "max_running": 8.0}, KNEE, 2.0),
    "no knee, a queue, the server's limit is far": (
        {"running": 4.0, "waiting": 2.0, "max_running": 256.0},
        Learned(),
        1.5,
    ),
    "what waits is missing": ({"waiting": None, "running": 2.0, "kv_usage": 0.2}, KNEE, None),
    "what runs is missing": ({"running": None, "waiting": 2.0}, KNEE, None),
}


@pytest.mark.parametrize("name", RATIOS)
def test_ratio(name: str) -> None:
    changes, learned, expected = RATIOS[name]
    assert ratio(reading(**changes), learned) == (None if expected is None else pytest.approx(expected))


REFUSING: dict[str, tuple[dict[str, Any], Learned, Rates, float | None]] = {
    "as much as it serves, with a queue": (
        {"running": 10.0, "waiting": 10.0},
        KNEE,
        Rates(rejections_per_second=2.0),
        3.0,
    ),
    "four times what it serves": ({"running": 10.0, "waiting": 10.0}, KNEE, Rates(rejections_per_second=8.0), 6.0),
    "between two readings of an empty queue": ({"running": 5.0}, KNEE, Rates(rejections_per_second=1.0), 1.5),
    "nothing learned: over what it serves now": (
        {"running": 5.0},
        Learned(),
        Rates(rejections_per_second=1.0, requests_per_second=4.0),
        1.25,
    ),
    "nothing served: over one in the window": (
        {"running": 5.0},
        Learned(),
        Rates(rejections_per_second=0.1),
        1 + 0.1 * WINDOW,
    ),
    "none": ({"running": 5.0}, KNEE, Rates(rejections_per_second=0.0), 0.5),
    "it has no work: whatever was refused is over": ({}, KNEE, Rates(rejections_per_second=1.0), 0.0),
    "what waits is missing": ({"waiting": None}, KNEE, Rates(rejections_per_second=1.0), None),
}


@pytest.mark.parametrize("name", REFUSING)
def test_a_server_that_refuses_is_past_its_knee(name: str) -> None:
    changes, learned, did, expected = REFUSING[name]
    assert ratio(reading(**changes), learned, did) == (None if expected is None else pytest.approx(expected))


def test_saturation_goes_on_rising_where_the_queue_does_not() -> None:
    """vLLM's --max-num-queued-reqs: ten wait, and all that comes besides is refused."""
    told = []
    for offered in (1.0, 2.0, 4.0, 8.0):
        memory = None
        for at in range(60):
            shown = reading(
                waiting=min(10.0, max(0.0, (offered - 2) * at)),
                running=min(10.0, offered * 5),
                finished={"stop": math.floor(min(offered, 2.0) * at)},
                generation_tokens_total=at * 50.0,
                rejections_total=math.floor(max(0.0, (offered - 2.0) * at - 10)),
            )
            memory = observe(memory, shown, float(at))
        assert memory is not None
        told.append(ratio(memory.reading, memory.learned, rates(memory, 59)))
    least, knee, double, fourfold = told
    assert least is None, "neither a knee nor a cache tells how much headroom there is"
    assert knee is None
    assert double == pytest.approx(3.0, abs=0.1), "(10 + 10) / 10, and as much again is refused"
    assert fourfold == pytest.approx(5.0, abs=0.15)


bounded = st.one_of(st.none(), st.floats(0.5, 300))


@settings(max_examples=300)
@given(
    waiting=st.integers(0, 300),
    running=st.integers(0, 300),
    usage=st.one_of(st.none(), st.floats(0, 1)),
    knee=bounded,
    tokens=st.one_of(st.none(), st.floats(1, 2e5)),
    most=bounded,
    refused=st.one_of(st.none(), st.floats(0, 1e6)),
    served=bounded,
)
def test_a_ratio_grows_with_what_waits_and_runs_and_is_refused_and_is_above_1_only_past_the_knee(
    waiting: int,
    running: int,
    usage: float | None,
    knee: float | None,
    tokens: float | None,
    most: float | None,
    refused: float | None,
    served: float | None,
) -> None:
    def of(waiting: int, running: int, refused: float | None) -> float | None:
        shown = reading(
            waiting=float(waiting), running=float(running), kv_usage=usage, kv_capacity_tokens=1e5, max_running=most
        )
        return ratio(shown, Learned(knee, tokens, served), Rates(rejections_per_second=refused))

    now = of(waiting, running, refused)
    more = [of(waiting + 1, running, refused), of(waiting, running, (refused or 0.0) + 1)]
    if knee is not None or not waiting:
        # While the knee is not known what runs stands for it, so that more in flight is less far past it.
        more.append(of(waiting, running + 1, refused))
    blind = knee is None and most is None and usage is None
    assert blind or None not in more
    assert now is None or all(now <= after < math.inf for after in more if after is not None)
    queueing = waiting or (refused and running)
    assert now is None or (now >= 1.0 if queueing else 0.0 <= now <= 1.0)


# --- wedged -----------------------------------------------------------------------------------------------------


def held(at: float, **changes: Any) -> tuple[float, EngineReading]:
    return at, reading(**{"waiting": 2.0, "running": 4.0, "generation_tokens_total": 7.0, **changes})


LONG = int(STALL)

WEDGED: dict[str, tuple[list[tuple[float, EngineReading]], float, bool]] = {
    "frozen with work": ([held(at) for at in range(LONG + 1)], LONG, True),
    "frozen, not long enough": ([held(at) for at in range(LONG)], LONG - 1, False),
    "only waiting": ([held(at, running=0.0) for at in range(LONG + 1)], LONG, True),
    "only running": ([held(at, waiting=0.0) for at in range(LONG + 1)], LONG, True),
    "no work": ([held(at, waiting=0.0, running=0.0) for at in range(99)], 98, False),
    "what waits and runs is missing": ([held(at, waiting=None, running=None) for at in range(99)], 98, False),
    "generation moves": ([held(at, generation_tokens_total=at * 1.0) for at in range(99)], 98, False),
    "a long prefill: prompt tokens move": ([held(at, prompt_tokens_total=at * 1.0) for at in range(99)], 98, False),
    "requests end": ([held(at, finished={"stop": at * 1.0}) for at in range(99)], 98, False),
    "one token in the middle": (
        [held(at, generation_tokens_total=7.0 + (at > LONG // 2)) for at in range(LONG + 9)],
        LONG + 8,
        False,
    ),
    "frozen again after it moved": (
        [held(at, generation_tokens_total=7.0 + (at > 3)) for at in range(LONG + 5)],
        LONG + 4,
        True,
    ),
    "it restarted": (
        [held(at, generation_tokens_total=7.0 if at < 20 else 0.0) for at in range(LONG + 9)],
        LONG + 8,
        False,
    ),
    "no token counters": (
        [held(at, prompt_tokens_total=None, generation_tokens_total=None) for at in range(99)],
        98,
        False,
    ),
    "one token counter": ([held(at, prompt_tokens_total=None) for at in range(99)], 98, False),
    "no count of what ended": ([held(at, finished=None) for at in range(LONG + 1)], LONG, True),
    "readings stopped coming": ([held(at) for at in range(LONG + 1)], LONG + GAP + 1, False),
    "a reading was missed": ([held(at) for at in range(LONG + 1) if at % 5], LONG, False),
    "a reading was missed, later": ([held(at) for at in range(LONG + 3) if at % 5], LONG + 2, True),
    "a long silence in the middle": ([held(at) for at in (0, 1, 2, LONG, LONG + 1)], LONG + 1, False),
    "work came and went": ([held(at, waiting=at % 7 * 1.0, running=0.0) for at in range(99)], 98, False),
    "asleep: it was told to stop": ([held(at, sleeping=True) for at in range(99)], 98, False),
    "it has been awake for a while": ([held(at, sleeping=at < 9) for at in range(99)], 98, True),
    "it has just been woken": ([held(at, sleeping=at < 90) for at in range(99)], 98, False),
    "one reading": ([held(0)], 0, False),
}


@pytest.mark.parametrize("name", WEDGED)
def test_wedged(name: str) -> None:
    readings, now, expected = WEDGED[name]
    assert wedged(watch(*readings), float(now)) is expected
