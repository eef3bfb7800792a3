"""core/saturation.py: rates that survive restarts, a knee that only a moving queue teaches, and wedged engines."""

import math
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from exporter.core.model import EngineReading, Learned
from exporter.core.saturation import GAP, LEAST_QUEUED, STALL, TAU, WINDOW, EngineMemory, observe, rates, ratio, wedged


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


def busy(at: float, waiting: float = 10, running: float = 8, rate: float = 2, start: float = 0) -> EngineReading:
    """An engine that finishes `rate` requests of 100 tokens per second."""
    done = math.floor(start + rate * at)
    tokens = 100 * (start + rate * at)
    return reading(
        waiting=waiting,
        running=running,
        prompt_tokens_total=tokens,
        generation_tokens_total=tokens,
        finished={"stop": float(done)},
    )


def watch(*readings: tuple[float, EngineReading]) -> EngineMemory:
    memory = None
    for at, seen in readings:
        memory = observe(memory, seen, at)
    assert memory is not None
    return memory


# --- rates ------------------------------------------------------------------------------------------------------


def tokens(*pairs: tuple[float, float | None]) -> float | None:
    return rates(watch(*((at, reading(generation_tokens_total=total)) for at, total in pairs)))[1]


RATES: dict[str, tuple[list[tuple[float, float | None]], float | None]] = {
    "one reading is no rate": ([(0, 100)], None),
    "two readings": ([(0, 100), (2, 300)], 100.0),
    "nothing moved": ([(0, 100), (2, 100)], 0.0),
    "a scrape was missed": ([(0, 0), (1, 100), (5, 500)], 100.0),
    "a restart counts from 0": ([(0, 1000), (1, 1100), (2, 50)], 75.0),
    "a restart to 0": ([(0, 1000), (1, 0), (2, 0)], 0.0),
    "a restart is seen later": ([(0, 1000), (10, 500)], 50.0),
    "the counter was never there": ([(0, None), (1, None)], None),
    "the counter came late": ([(0, None), (1, 100), (2, 200)], 100.0),
    "the counter was away once": ([(0, 0), (1, None), (2, 200)], 100.0),
    "the counter went away for good": ([(0, 0), (1, 100), (2 + WINDOW, None)], None),
    "what is older than the window does not count": ([(0, 0), (10, 10_000), (10 + WINDOW, 10_300)], 10.0),
    "a silence longer than the window is averaged over": ([(0, 0), (100, 1000)], 10.0),
    "the clock stood still": ([(0, 0), (0, 100)], None),
    "a reading of the past": ([(5, 0), (6, 100), (1, 7)], 100.0),
}


@pytest.mark.parametrize("name", RATES)
def test_rate(name: str) -> None:
    pairs, expected = RATES[name]
    assert tokens(*pairs) == (None if expected is None else pytest.approx(expected))


def test_requests_are_all_that_ended() -> None:
    first, last = ({"stop": 1.0, "abort": 1.0}, {"stop": 5.0, "abort": 3.0, "error": 4.0})
    memory = watch((0, reading(finished=first)), (2, reading(finished=last)))
    assert rates(memory) == (5.0, 0.0)


@settings(max_examples=200)
@given(
    st.lists(st.tuples(st.floats(0.01, 60), st.one_of(st.none(), st.floats(0, 1e9))), min_size=1, max_size=60),
)
def test_rates_are_never_negative_and_memory_is_bounded(steps: list[tuple[float, float | None]]) -> None:
    memory, at = None, 0.0
    for seconds, total in steps:
        at += seconds
        memory = observe(memory, reading(generation_tokens_total=total, waiting=1.0, running=1.0), at)
        _, rate = rates(memory)
        assert rate is None or (rate >= 0 and math.isfinite(rate))
        assert memory.tokens is None or len(memory.tokens.points) <= 2 * WINDOW + 2
        assert memory.learned.service_rate is None or memory.learned.service_rate >= 0


def test_memory_is_bounded_however_often_it_is_read() -> None:
    memory = watch(*((at / 100, busy(at / 100)) for at in range(10_000)))
    assert memory.tokens is not None
    assert len(memory.tokens.points) <= 2 * WINDOW + 2
    assert rates(memory) == (pytest.approx(2.0, rel=0.1), pytest.approx(200.0, rel=0.01))


# --- what is learned --------------------------------------------------------------------------------------------


def test_a_queue_that_moves_teaches_the_knee_and_the_service_rate() -> None:
    learned = watch(*((float(at), busy(at)) for at in range(31))).learned
    assert learned.knee_running == pytest.approx(8.0)
    assert learned.service_rate == pytest.approx(2.0, rel=0.05)
    assert learned.queued_seconds == 30.0


def test_nothing_is_told_before_it_was_watched_for_a_while() -> None:
    memory = watch(*((float(at), busy(at)) for at in range(int(LEAST_QUEUED))))
    assert memory.learned == Learned(queued_seconds=LEAST_QUEUED - 1)
    memory = observe(memory, busy(LEAST_QUEUED), LEAST_QUEUED)
    assert memory.learned.knee_running == 8.0


def test_a_service_rate_of_0_is_not_told() -> None:
    """Tokens move, but no request has ended yet: that is not a rate."""
    memory = watch(
        *((float(at), reading(waiting=3.0, running=2.0, generation_tokens_total=at * 9.0)) for at in range(9))
    )
    assert memory.learned == Learned(knee_running=2.0, queued_seconds=8.0)


TEACHES_NOTHING: dict[str, list[tuple[float, EngineReading]]] = {
    "no queue": [(float(at), busy(at, waiting=0)) for at in range(20)],
    "a queue at one end only": [(float(at), busy(at, waiting=at % 2)) for at in range(20)],
    "the same page again and again": [(float(at), busy(5)) for at in range(20)],
    "no counters": [
        (
            float(at),
            reading(waiting=5.0, running=5.0, prompt_tokens_total=None, generation_tokens_total=None, finished=None),
        )
        for at in range(20)
    ],
    "readings far apart": [(at * (GAP + 1), busy(at * 20)) for at in range(20)],
    "a restart at every reading": [(float(at), busy(0, start=100 - at)) for at in range(20)],
    "what waits is missing": [
        (float(at), EngineReading("m", "0", running=3.0, finished={"stop": at * 1.0})) for at in range(20)
    ],
}


@pytest.mark.parametrize("name", TEACHES_NOTHING)
def test_teaches_nothing(name: str) -> None:
    assert watch(*TEACHES_NOTHING[name]).learned == Learned()


def test_requests_that_were_given_up_are_no_service() -> None:
    def given_up(at: int) -> EngineReading:
        counts = {"stop": at * 1.0, "abort": at * 50.0, "error": at * 7.0}
        return reading(waiting=5.0, running=4.0, generation_tokens_total=at * 10.0, finished=counts)

    assert watch(*((float(at), given_up(at)) for at in range(20))).learned.service_rate == pytest.approx(1.0)


def test_what_is_learned_follows_the_load_within_minutes() -> None:
    memory = watch(*((float(at), busy(at, running=8)) for at in range(200)))
    for at in range(200, 200 + int(3 * TAU)):
        memory = observe(memory, busy(at, running=20), float(at))
    assert memory.learned.knee_running == pytest.approx(20, abs=1)


def test_the_interval_does_not_change_what_is_learned() -> None:
    def changing(at: float) -> EngineReading:
        return busy(at, running=8 if at < 60 else 20)

    often = watch(*((at / 2, changing(at / 2)) for at in range(240))).learned
    seldom = watch(*((at * 4.0, changing(at * 4)) for at in range(30))).learned
    assert often.knee_running == pytest.approx(seldom.knee_running, rel=0.1)
    assert often.service_rate == pytest.approx(seldom.service_rate, rel=0.1)


def test_a_restart_of_the_engine_keeps_what_was_learned() -> None:
    memory = watch(*((float(at), busy(at)) for at in range(31)))
    learned = memory.learned
    memory = observe(memory, reading(), 31.0)
    memory = observe(memory, busy(1, waiting=1), 32.0)
    assert memory.learned == learned
    assert memory.since == 0.0


# --- how near the knee ------------------------------------------------------------------------------------------

KNEE = Learned(knee_running=10.0, service_rate=1.0, queued_seconds=60.0)

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
    "what waits is missing": ({"waiting": None, "running": 2.0, "kv_usage": 0.2}, KNEE, None),
    "what runs is missing": ({"running": None, "waiting": 2.0}, KNEE, None),
}


@pytest.mark.parametrize("name", RATIOS)
def test_ratio(name: str) -> None:
    changes, learned, expected = RATIOS[name]
    assert ratio(reading(**changes), learned) == (None if expected is None else pytest.approx(expected))


@given(
    st.integers(0, 300),
    st.integers(0, 300),
    st.one_of(st.none(), st.floats(0, 1)),
    st.one_of(st.none(), st.floats(0.5, 300)),
)
def test_a_ratio_is_above_1_only_with_a_queue_and_grows_with_it(
    waiting: int, running: int, usage: float | None, knee: float | None
) -> None:
    def at(queue: int) -> float | None:
        return ratio(reading(waiting=float(queue), running=float(running), kv_usage=usage), Learned(knee))

    now, more = at(waiting), at(waiting + 1)
    assert more is not None
    assert more >= 1.0
    assert now is None or (now <= more and (now >= 1.0 if waiting else 0 <= now <= 1.0))


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
    "one reading": ([held(0)], 0, False),
}


@pytest.mark.parametrize("name", WEDGED)
def test_wedged(name: str) -> None:
    readings, now, expected = WEDGED[name]
    assert wedged(watch(*readings), float(now)) is expected
