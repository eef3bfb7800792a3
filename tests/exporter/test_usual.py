"""core/usual.py: an engine's good service is learned and nothing else is; what ailed it is remembered with its time."""

from typing import Any

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from exporter.core import usual
from exporter.core.ailing import LIMITS
from exporter.core.model_engines import EngineReading, Hardware, Rates, Usual
from exporter.core.saturation import GAP, WINDOW
from exporter.core.usual import Ailments, UsualMemory, observe
from tests.exporter.histories import GOOD, GPU, Phase, course, play, rest, still

RATES = Rates(
    requests_per_second=2.0, errors_per_second=0.0, prompt_tokens_per_second=1000.0, ttft_p50=0.2, itl_p50=0.02
)
ON = Hardware((GPU,), "healthy", 1.0, False, 0.6)
SERVING = EngineReading("m", "0", waiting=0.0, running=8.0)


def watch(
    seconds: float,
    memory: UsualMemory | None = None,
    every: float = 5.0,
    saturation: float | None = 0.4,
    reading: dict[str, Any] | None = None,
    rates: dict[str, Any] | None = None,
    on: dict[str, Any] | None = None,
) -> UsualMemory:
    """The same for so long, after what `memory` knows."""
    seen, did, runs_on = (
        msgspec.structs.replace(plain, **(changes or {}))
        for plain, changes in ((SERVING, reading), (RATES, rates), (ON, on))
    )
    start = memory.at + every if memory else 0.0
    for step in range(int(seconds / every) + (0 if memory else 1)):
        memory = observe(memory, seen, did, runs_on, saturation, start + step * every)
    assert memory is not None
    return memory


def test_good_service_is_the_usual() -> None:
    assert watch(600).usual == Usual(0.2, 0.02, 2.0, 500.0, 600.0)


def test_nothing_is_told_before_it_was_watched_for_long_enough() -> None:
    before = watch(LIMITS.usual_least_seconds - 5)
    assert before.usual == Usual(seconds=LIMITS.usual_least_seconds - 5)
    assert watch(5, before).usual.ttft_p50 == 0.2


#: Nothing is learned while one of these is so.
AILING: dict[str, dict[str, Any]] = {
    "a queue": {"reading": {"waiting": 5.0}, "saturation": 1.5},
    "throttled": {"on": {"throttled": True}},
    "a lost GPU": {"on": {"state": "lost"}},
    "an unhealthy GPU": {"on": {"state": "unhealthy"}},
    "asleep": {"reading": {"sleeping": True}},
    "refusing": {"rates": {"rejections_per_second": 0.1}},
    "preempting": {"rates": {"preemptions_per_second": 1.0}},
    "failing": {"rates": {"errors_per_second": 0.5}},
    "at its knee": {"saturation": 1.0},
    "too few requests": {"rates": {"requests_per_second": (LIMITS.usual_least_requests - 0.1) / WINDOW}},
    "how many requests is not told": {"rates": {"requests_per_second": None}},
    "what waits is not told": {"reading": {"waiting": None}},
    "what runs is not told": {"reading": {"running": None}},
}


@pytest.mark.parametrize("name", AILING)
def test_what_ails_an_engine_is_no_usual(name: str) -> None:
    changes = AILING[name]
    assert watch(600, **changes).usual == Usual()
    good = watch(600)
    bad = {**changes, "rates": {"ttft_p50": 9.0, **changes.get("rates", {})}}
    assert watch(600, good, **bad).usual == good.usual


@pytest.mark.parametrize("name", list(AILING)[:8])
def test_what_ailed_it_is_in_the_window_for_as_long_as_that_is(name: str) -> None:
    """These are remembered with their time; the others are only no good moment to learn."""
    good = watch(600)
    ailed = watch(5, good, **AILING[name])
    assert ailed.ailments.ailed_at == ailed.at
    assert watch(WINDOW, ailed).usual == good.usual
    assert watch(WINDOW + 5, ailed).usual.seconds == good.usual.seconds + 5


@pytest.mark.parametrize("state", ["healthy", "degraded", "unknown"])
def test_a_gpu_that_serves_teaches(state: str) -> None:
    assert watch(600, on={"state": state, "utilization": None}).usual.ttft_p50 == 0.2


def test_a_number_that_is_not_told_is_not_learned_and_stops_no_other() -> None:
    learned = watch(600, rates={"ttft_p50": None, "prompt_tokens_per_second": None}).usual
    assert learned == Usual(None, 0.02, 2.0, None, 600.0)
    late = watch(200, watch(600, rates={"ttft_p50": None})).usual
    assert (late.ttft_p50, late.itl_p50) == (None, 0.02), "each needs its own time"


def test_readings_that_are_far_apart_teach_nothing_of_what_was_between() -> None:
    assert watch(600, every=GAP).usual.seconds == 600
    assert watch(660, every=GAP + 1).usual == Usual()


def test_a_reading_that_is_not_newer_changes_nothing() -> None:
    good = watch(600)
    for at in (good.at, good.at - 1):
        assert observe(good, SERVING, msgspec.structs.replace(RATES, ttft_p50=9.0), ON, 0.4, at) is good


def test_the_usual_follows_within_hours_and_an_incident_of_minutes_hardly_moves_it() -> None:
    """Inside what counts as usual: 1.4 times is not slower than usual."""
    good = watch(7200)
    moved = watch(600, good, rates={"ttft_p50": 0.28}).usual.ttft_p50
    assert moved == pytest.approx(0.2 + 0.08 * (1 - 2.718281828 ** (-600 / 3600)), rel=0.01)
    assert watch(4 * 3600, good, rates={"ttft_p50": 0.28}).usual.ttft_p50 == pytest.approx(0.28, rel=0.01)


def test_what_is_slower_than_usual_takes_ten_times_as_long_to_be_the_usual() -> None:
    good = watch(7200)
    slow = {"ttft_p50": 2.0}
    after_an_hour = watch(3600, good, rates=slow).usual.ttft_p50
    assert after_an_hour is not None
    assert LIMITS.latency_bad * after_an_hour < 2.0, "a fault is still seen after an hour"
    assert watch(24 * 3600, good, rates=slow, every=10.0).usual.ttft_p50 == pytest.approx(2.0, rel=0.05)


def test_a_young_mean_is_not_swept_away_by_slow_service() -> None:
    """A plain mean over 300 s would weigh another 300 s at 2 s as half."""
    young = watch(LIMITS.usual_least_seconds)
    later = watch(300, young, rates={"ttft_p50": 2.0}).usual.ttft_p50
    assert later is not None
    assert later < 0.25


def test_a_mean_of_the_first_hour_weighs_all_of_it_alike() -> None:
    """A warm-up at the start is no anchor."""
    started = watch(60, rates={"ttft_p50": 0.25})
    assert watch(540, started).usual.ttft_p50 == pytest.approx((60 * 0.25 + 540 * 0.2) / 600, rel=0.01)


#: waiting, running, seconds for which some waited, whether it is a queue
QUEUES = [
    (None, 8.0, 60.0, False),
    (0.0, 8.0, None, False),
    (1.0, 8.0, 0.0, True),
    (1.0, 10.0, 0.0, True),
    (1.0, 11.0, 0.0, False),
    (1.0, 11.0, LIMITS.queue_seconds, True),
    (1.0, 0.0, 0.0, False),
    (1.0, 0.0, LIMITS.queue_seconds, True),
    (1.0, None, 1.0, False),
    (1.0, None, LIMITS.queue_seconds, True),
    (3.0, 11.0, None, True),
]


@pytest.mark.parametrize(("waiting", "running", "since", "queued"), QUEUES)
def test_a_queue_is_long_or_stands(
    waiting: float | None, running: float | None, since: float | None, queued: bool
) -> None:
    seen = EngineReading("m", "0", waiting=waiting, running=running)
    assert usual.queues(seen, Ailments(waiting_since=None if since is None else -since), 0.0) is queued


def test_how_long_requests_wait_starts_anew_after_a_moment_without_and_after_a_gap() -> None:
    few = {"waiting": 1.0, "running": 30.0}
    waited = watch(10, every=1.0, reading=few)
    assert (waited.ailments.waiting_since, waited.ailments.queued_at) == (0.0, 10.0)
    free = watch(1, waited, every=1.0)
    assert (free.ailments.waiting_since, free.ailments.queued_at) == (None, 10.0)
    assert watch(1, free, every=1.0, reading=few).ailments.waiting_since == 12.0
    gap = observe(waited, msgspec.structs.replace(SERVING, **few), RATES, ON, 1.0, waited.at + GAP + 1)
    assert gap.ailments.waiting_since == waited.at + GAP + 1


def test_how_busy_a_gpu_is_is_a_mean_that_ends_where_nobody_tells() -> None:
    busy = watch(300, on={"utilization": 1.0})
    assert busy.ailments.utilization == 1.0
    half = watch(60, busy, every=1.0, on={"utilization": 0.0}).ailments
    assert half.utilization == pytest.approx(2.718281828 ** (-60 / WINDOW), rel=0.01)
    assert half.gpu_idle
    assert watch(5, busy, on={"utilization": None}).ailments.utilization is None
    untold = watch(5, busy, on={"utilization": None})
    assert watch(5, untold, on={"utilization": 0.1}).ailments.utilization == 0.1


def test_a_restarted_engine_keeps_its_usual() -> None:
    before, after = play(GOOD).usual, play(GOOD, rest(60, error="refused"), Phase(5)).usual
    assert after.ttft_p50 == pytest.approx(before.ttft_p50, rel=0.01)


def test_a_stall_teaches_nothing() -> None:
    learned = [facts.usual for facts in course(GOOD, still(60, running=3.0))]
    assert learned[-1].seconds <= play(GOOD).usual.seconds + WINDOW


def test_the_thresholds_of_learning_are_used() -> None:
    """What AILING and the tests above do not move by themselves."""
    assert LIMITS.usual_slow_seconds == 10 * LIMITS.usual_seconds
    assert LIMITS.usual_least_seconds >= 10 * WINDOW
    enough = {"requests_per_second": LIMITS.usual_least_requests / WINDOW, "prompt_tokens_per_second": None}
    assert watch(600, rates=enough).usual.ttft_p50 == 0.2


NUMBER = st.one_of(st.none(), st.floats(0, 1e6))


READINGS = st.builds(EngineReading, st.just("m"), st.just("0"), waiting=NUMBER, running=NUMBER, sleeping=st.booleans())
DID = st.builds(Rates, requests_per_second=NUMBER, prompt_tokens_per_second=NUMBER, ttft_p50=NUMBER, itl_p50=NUMBER)
GPUS = st.builds(
    Hardware, state=st.sampled_from(["healthy", "lost", "unknown"]), throttled=st.booleans(), utilization=NUMBER
)


@settings(max_examples=100, deadline=None)
@given(st.lists(st.tuples(st.floats(-1, 60), READINGS, DID, GPUS, NUMBER), max_size=12))
def test_whatever_comes_the_memory_is_small_and_what_it_tells_lies_between_what_it_saw(steps: list[Any]) -> None:
    memory, at, seen = None, 0.0, []
    for apart, reading, rates, on, saturation in steps:
        at += apart
        memory = observe(memory, reading, rates, on, saturation, at)
        if rates.ttft_p50 is not None:
            seen.append(rates.ttft_p50)
    if memory is None:
        return
    assert len(msgspec.msgpack.encode(memory)) < 600
    if (mean := memory.ttft_p50) is not None:
        assert min(seen) * 0.999999 <= mean.value <= max(seen) * 1.000001
        assert mean.seconds > 0
