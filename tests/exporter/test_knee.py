"""core/knee.py: what a queue teaches of an engine, how it fades, what is true of a model's engines.

The engine that is watched is simulated below, so that what it can carry is known.
"""

import math
import random
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from statistics import mean
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from exporter.core import knee
from exporter.core.knee import AGE, LEAST_QUEUED, STILL, TAU, or_typical, typical
from exporter.core.model_engines import EngineReading, Learned
from exporter.core.saturation import EngineMemory, observe

# --- an engine of which all is known ----------------------------------------------------------------------------


@dataclass
class Request:
    prompt: float  # tokens that are still to be read
    output: float  # tokens that are still to be generated
    size: float  # tokens that it may hold


class SimulatedEngine:
    """Continuous batching: a request enters when the batch and the cache have room for all its tokens (nothing is
    preempted). Prompts are read one after another, and every request that has been read generates a token a step.
    """

    def __init__(self, prompt: float, output: float, most: int = 256, capacity: float = 1e9, seed: int = 1) -> None:
        self.prompt, self.output, self.most, self.capacity = prompt, output, most, capacity
        self.random = random.Random(seed)  # noqa: S311 - lengths of requests are no secret
        self.waiting: deque[Request] = deque()
        self.running: list[Request] = []
        self.finished = self.generated = self.read = 0.0

    def arrive(self, requests: int) -> None:
        """Lengths from half to one and a half of the mean."""
        for _ in range(requests):
            prompt, output = (mean * self.random.uniform(0.5, 1.5) for mean in (self.prompt, self.output))
            self.waiting.append(Request(prompt, output, prompt + output))

    def work(self, seconds: float, tick: float = 0.1, step: float = 0.02, prefill: float = 20_000.0) -> None:
        for _ in range(round(seconds / tick)):
            while self.waiting and len(self.running) < self.most:
                if self.held() + self.waiting[0].size > self.capacity:
                    break
                self.running.append(self.waiting.popleft())
            budget = prefill * tick
            for request in self.running:
                if request.prompt > 0:
                    part = min(budget, request.prompt)
                    request.prompt -= part
                    budget -= part
                    self.read += part
                else:
                    request.output -= tick / step
                    self.generated += tick / step
            ended = sum(request.output <= 0 for request in self.running)
            self.finished += ended
            if ended:
                self.running = [request for request in self.running if request.output > 0]

    def held(self) -> float:
        return sum(request.size for request in self.running)

    def restart(self) -> None:
        """What ran is lost and comes again, and all is counted from 0."""
        self.arrive(len(self.running))
        self.running.clear()
        self.finished = self.generated = self.read = 0.0

    def reading(self) -> EngineReading:
        return EngineReading(
            "m",
            "0",
            waiting=float(len(self.waiting)),
            running=float(len(self.running)),
            kv_usage=min(1.0, self.held() / self.capacity),
            kv_capacity_tokens=self.capacity,
            prompt_tokens_total=self.read,
            generation_tokens_total=self.generated,
            finished={"stop": self.finished},
        )


#: Requests that wait at least: more than any engine here takes between two readings.
QUEUE = 300


@dataclass
class Watched:
    """An engine and what is remembered of it, second by second."""

    engine: SimulatedEngine
    memory: EngineMemory | None = None
    at: float = 0.0

    def queue(self, seconds: float, seen: Callable[[int], bool] = lambda number: True, every: float = 1.0) -> Learned:
        """It works under a queue that never ends; the readings whose number is `seen` arrive."""
        for number in range(round(seconds / every)):
            self.engine.arrive(max(0, QUEUE - len(self.engine.waiting)))
            self.work(every, seen(number))
        return self.learned

    def idle(self, seconds: int, requests: int = 0) -> Learned:
        """What waits is given up, what runs ends, and so many requests arrive every second."""
        self.engine.waiting.clear()
        for _ in range(seconds):
            self.engine.arrive(requests)
            self.work(1.0)
        return self.learned

    def work(self, seconds: float, seen: bool = True) -> None:
        self.engine.work(seconds)
        self.at += seconds
        if seen:
            self.memory = observe(self.memory, self.engine.reading(), self.at)

    @property
    def learned(self) -> Learned:
        assert self.memory is not None
        return self.memory.learned


def truth(engine: SimulatedEngine) -> Learned:
    """What it carries under a queue, counted over 10 minutes after the batch has filled."""
    true = SimulatedEngine(engine.prompt, engine.output, engine.most, engine.capacity, seed=99)
    running, tokens = [], []
    true.arrive(QUEUE)
    true.work(60)
    finished, generated = true.finished, true.generated
    for _ in range(600):
        true.arrive(max(0, QUEUE - len(true.waiting)))
        true.work(1.0)
        running.append(len(true.running))
        tokens.append(true.held())
    return Learned(
        mean(running), mean(tokens), (true.finished - finished) / 600, (true.generated - generated) / 600, 600
    )


def assert_near(learned: Learned, true: Learned, within: float) -> None:
    for field in ("knee_running", "knee_tokens", "service_rate", "token_rate"):
        assert getattr(learned, field) == pytest.approx(getattr(true, field), rel=within), field


ENGINES: dict[str, Callable[[int], SimulatedEngine]] = {
    "a small batch is the limit": lambda seed: SimulatedEngine(500, 250, most=8, seed=seed),
    "a batch is the limit": lambda seed: SimulatedEngine(500, 250, most=32, seed=seed),
    "the cache is the limit": lambda seed: SimulatedEngine(500, 250, capacity=20_000, seed=seed),
    "long answers: none ends in the first 5 seconds": lambda seed: SimulatedEngine(1000, 500, most=64, seed=seed),
    "long prompts: the batch fills for 12 seconds": lambda seed: SimulatedEngine(4000, 100, most=64, seed=seed),
}
#: (readings that arrive, seconds between two, how near the truth is after a minute)
READINGS: dict[str, tuple[Callable[[int], bool], float, float]] = {
    "every second": (lambda number: True, 1.0, 0.10),
    "five a second": (lambda number: True, 0.2, 0.10),
    "every 5 seconds": (lambda number: True, 5.0, 0.15),
    "3 of 7 are missed in a row": (lambda number: number % 7 not in (2, 3, 4), 1.0, 0.10),
    "every other is missed": (lambda number: number % 2 == 0, 1.0, 0.10),
}


@pytest.mark.parametrize("name", ENGINES)
def test_the_knee_is_known_after_a_minute_of_queueing(name: str) -> None:
    true = truth(ENGINES[name](0))
    for seen, every, within in READINGS.values():
        for seed in (1, 2, 3):
            assert_near(Watched(ENGINES[name](seed)).queue(60, seen, every), true, within)


@pytest.mark.parametrize("name", ENGINES)
def test_restarts_and_a_long_silence_change_nothing_of_it(name: str) -> None:
    true = truth(ENGINES[name](0))
    watched = Watched(ENGINES[name](4))
    for part in range(6):
        watched.queue(30, seen=lambda number: number % 5 != 3)
        if part % 2:
            watched.engine.restart()
        else:
            watched.queue(20, seen=lambda number: False)
    assert_near(watched.learned, true, 0.15)


#: (prompt, output) of the requests before and after; the engine is 64 requests or 20,000 tokens wide
MIXES: dict[str, tuple[tuple[float, float], tuple[float, float]]] = {
    "answers grow long": ((200, 50), (200, 200)),
    "answers grow short": ((200, 200), (200, 50)),
    "prompts grow long": ((100, 100), (1500, 100)),
    "prompts grow short": ((1500, 100), (100, 100)),
}


@pytest.mark.parametrize("name", MIXES)
@pytest.mark.parametrize("pause", [0, 1800])
def test_it_follows_another_mix_within_four_minutes_of_queueing(name: str, pause: int) -> None:
    before, after = MIXES[name]
    watched = Watched(SimulatedEngine(*before, most=64, capacity=20_000))
    watched.queue(300)
    assert_near(watched.learned, truth(watched.engine), 0.10)
    watched.engine.prompt, watched.engine.output = after
    watched.idle(pause)
    watched.queue(240)
    assert_near(watched.learned, truth(watched.engine), 0.15)


def test_short_bursts_with_quiet_between_them_teach_the_knee_as_well() -> None:
    watched = Watched(SimulatedEngine(500, 250, most=32))
    for _ in range(6):
        watched.queue(15)
        watched.idle(120, requests=1)
    true = truth(watched.engine)
    # The batch fills for 2 seconds of each burst, and what the burst is served in its first 3 was in the batch before.
    assert watched.learned.knee_running == pytest.approx(true.knee_running, rel=0.10)
    assert watched.learned.service_rate == pytest.approx(true.service_rate, rel=0.35)


# --- what does and does not teach -------------------------------------------------------------------------------


def reading(**changes: Any) -> EngineReading:
    fields: dict[str, Any] = {
        "waiting": 5.0,
        "running": 8.0,
        "prompt_tokens_total": 0.0,
        "generation_tokens_total": 0.0,
        "finished": {"stop": 0.0},
        **changes,
    }
    return EngineReading("m", "0", **fields)


def busy(at: float, **changes: Any) -> EngineReading:
    """Two requests of 100 tokens end every second, half of the cache of 1000 tokens is held."""
    fields = {
        "prompt_tokens_total": at * 200.0,
        "generation_tokens_total": at * 200.0,
        "finished": {"stop": math.floor(at * 2.0)},
        "kv_usage": 0.5,
        "kv_capacity_tokens": 1000.0,
        **changes,
    }
    return reading(**fields)


def watch(seconds: int, made: Callable[[int], EngineReading], memory: EngineMemory | None = None) -> EngineMemory:
    start = int(memory.at) + 1 if memory else 0
    for at in range(start, start + seconds):
        memory = observe(memory, made(at), float(at))
    assert memory is not None
    return memory


KNEE, TOKENS, SERVICE, TOKEN_RATE = 8.0, 500.0, 2.0, 200.0

#: what the engine shows at a second -> (knee_running, knee_tokens, service_rate, token_rate)
TEACHES: dict[str, tuple[Callable[[int], EngineReading], tuple[float | None, ...]]] = {
    "a queue that moves": (busy, (KNEE, TOKENS, SERVICE, TOKEN_RATE)),
    "no queue": (lambda at: busy(at, waiting=0.0), (None, None, None, None)),
    "a queue at one end only": (lambda at: busy(at, waiting=at % 2 * 5.0), (None, None, None, None)),
    "asleep": (lambda at: busy(at, sleeping=True), (None, None, None, None)),
    "awake": (lambda at: busy(at, sleeping=False), (KNEE, TOKENS, SERVICE, TOKEN_RATE)),
    "nothing moves": (lambda at: busy(7), (None, None, None, None)),
    "all that waits is deferred": (
        lambda at: busy(at, waiting_by_reason={"capacity": 0.0, "deferred": 5.0}),
        (None, None, None, None),
    ),
    "some of what waits is deferred": (
        lambda at: busy(at, waiting_by_reason={"capacity": 1.0, "deferred": 4.0}),
        (KNEE, TOKENS, SERVICE, TOKEN_RATE),
    ),
    "reasons of another server": (
        lambda at: busy(at, waiting_by_reason={"grammar": 5.0}),
        (KNEE, TOKENS, SERVICE, TOKEN_RATE),
    ),
    "nothing runs": (lambda at: busy(at, running=0.0), (None, None, None, TOKEN_RATE)),
    "the batch fills": (lambda at: busy(at, running=10 * 1.2**at), (None, None, SERVICE, TOKEN_RATE)),
    "the batch goes up and down": (
        lambda at: busy(at, running=KNEE + at % 2 - 0.5),
        (KNEE, TOKENS, SERVICE, TOKEN_RATE),
    ),
    "no usage of the cache": (lambda at: busy(at, kv_usage=None), (KNEE, None, SERVICE, TOKEN_RATE)),
    "no size of the cache": (lambda at: busy(at, kv_capacity_tokens=None), (KNEE, None, SERVICE, TOKEN_RATE)),
    "no count of what ended": (lambda at: busy(at, finished=None), (KNEE, TOKENS, None, TOKEN_RATE)),
    "no count of tokens": (lambda at: busy(at, generation_tokens_total=None), (KNEE, TOKENS, SERVICE, None)),
    "nothing has ended yet": (lambda at: busy(at, finished={"stop": 0.0}), (KNEE, TOKENS, None, TOKEN_RATE)),
    "what was given up is no service": (
        lambda at: busy(at, finished={"stop": at * 2.0, "abort": at * 50.0, "error": at * 7.0}),
        (KNEE, TOKENS, SERVICE, TOKEN_RATE),
    ),
    "the server's own limit bounds it": (lambda at: busy(at, max_running=6.0), (6.0, TOKENS, SERVICE, TOKEN_RATE)),
    "a limit above it does not": (lambda at: busy(at, max_running=256.0), (KNEE, TOKENS, SERVICE, TOKEN_RATE)),
    "counters that move every 3 seconds": (lambda at: busy(at // 3 * 3.0), (KNEE, TOKENS, SERVICE, TOKEN_RATE)),
    "counters that move every 12 seconds: stuck between": (
        lambda at: busy(at // 12 * 12.0),
        (None, None, None, None),
    ),
}


@pytest.mark.parametrize("name", TEACHES)
def test_what_a_minute_teaches(name: str) -> None:
    made, expected = TEACHES[name]
    learned = watch(61, made).learned
    shown = (learned.knee_running, learned.knee_tokens, learned.service_rate, learned.token_rate)
    assert shown == tuple(None if value is None else pytest.approx(value, rel=0.02) for value in expected)


def test_a_queue_that_formed_before_anything_ended_does_not_lower_the_service_rate() -> None:
    """A batch that began together: nothing ends for 20 seconds, and then 2 requests a second."""

    def began(at: int) -> EngineReading:
        return busy(at, finished={"stop": max(0.0, (at - 20) * 2.0)})

    assert watch(61, began).learned.service_rate == pytest.approx(2.0)
    again = watch(61, lambda at: began(at - 61), watch(61, began))
    assert again.learned.service_rate == pytest.approx(2.0, rel=0.05), "a restart begins from nothing as well"


def test_each_number_is_told_after_it_was_seen_for_a_while() -> None:
    memory = watch(int(LEAST_QUEUED), busy)
    assert memory.learned == Learned(queued_seconds=LEAST_QUEUED - 1)
    memory = watch(1, busy, memory)
    assert (memory.learned.knee_running, memory.learned.service_rate) == (KNEE, None), "the first end is no rate yet"
    memory = watch(1, busy, memory)
    assert memory.learned.service_rate == SERVICE


def test_a_stall_that_ends_is_part_of_the_rate_and_one_that_is_too_long_is_not() -> None:
    before = watch(61, busy)
    short, long = int(STILL) - 1, int(STILL) + 1
    for seconds, expected in ((short, 61 + short - 1), (long, 60)):
        after = watch(1, lambda at: busy(61), watch(seconds - 1, lambda at: busy(60), before))
        assert after.learned.queued_seconds == pytest.approx(expected)


# --- fading -----------------------------------------------------------------------------------------------------


def after_news(queued: int, pause: int, news: int) -> float:
    """The knee after `queued` seconds at 8 in flight, a pause without a queue, and `news` seconds at 20."""
    memory = watch(queued + 1, busy)
    if pause:
        memory = watch(pause, lambda at: busy(at, waiting=0.0), memory)
    memory = watch(news, lambda at: busy(at, running=20.0), memory)
    assert memory.learned.knee_running is not None
    return memory.learned.knee_running


def test_queueing_fades_what_was_known_by_its_time_constant() -> None:
    # One interval of the change itself is (8 + 20) / 2 and grows: it does not teach.
    assert after_news(600, 0, int(TAU) + 1) == pytest.approx(20 - 12 / math.e, abs=0.3)


def test_age_makes_the_old_count_for_less_against_the_new() -> None:
    shares = [(after_news(600, pause, 11) - 8) / 12 for pause in (0, int(AGE), int(4 * AGE))]
    assert shares == sorted(shares)
    assert shares[0] == pytest.approx(0.15, abs=0.02)
    assert shares[1] == pytest.approx(0.33, abs=0.03)


def test_old_knowledge_is_told_until_there_is_news_and_outweighs_one_odd_second() -> None:
    memory = observe(watch(601, busy), busy(90_000, waiting=0.0), 90_000.0)
    assert memory.learned.knee_running == KNEE
    assert after_news(600, int(20 * AGE), 2) == pytest.approx(8 + 12 / (LEAST_QUEUED + 1), abs=0.2)


# --- a model's engines ------------------------------------------------------------------------------------------

A = Learned(8.0, 100.0, 1.0, 200.0, queued_seconds=30.0)
B = Learned(16.0, 300.0, 3.0, 400.0, queued_seconds=90.0)
ODD = Learned(900.0, 9e9, 90.0, 9e9, queued_seconds=5.0)

TYPICAL: dict[str, tuple[list[Learned], Learned]] = {
    "nobody": ([], Learned()),
    "nobody has queued": ([Learned(), Learned()], Learned()),
    "one": ([A], Learned(8.0, 100.0, 1.0, 200.0)),
    "two": ([A, B], Learned(12.0, 200.0, 2.0, 300.0)),
    "one is odd": ([A, B, ODD], Learned(16.0, 300.0, 3.0, 400.0)),
    "what is borrowed does not count": ([A, Learned(50.0, 50.0, 50.0, 50.0)], Learned(8.0, 100.0, 1.0, 200.0)),
    "queued too little to tell": ([A, Learned(queued_seconds=3.0)], Learned(8.0, 100.0, 1.0, 200.0)),
    "number by number": (
        [A, Learned(knee_running=10.0, queued_seconds=9.0)],
        Learned(9.0, 100.0, 1.0, 200.0),
    ),
}


@pytest.mark.parametrize("name", TYPICAL)
def test_typical(name: str) -> None:
    known, expected = TYPICAL[name]
    assert typical(known) == expected


MODEL = Learned(12.0, 200.0, 2.0, 300.0)

OR_TYPICAL: dict[str, tuple[Learned, Learned, Learned]] = {
    "its own": (A, MODEL, A),
    "a newcomer": (Learned(), MODEL, MODEL),
    "it queued too little to tell": (Learned(queued_seconds=3.0), MODEL, MODEL),
    "no rate of its own yet": (
        Learned(knee_running=9.0, queued_seconds=7.0),
        MODEL,
        Learned(9.0, 200.0, 2.0, 300.0, queued_seconds=7.0),
    ),
    "nothing is known of the model": (A, Learned(), A),
    "nothing is known at all": (Learned(), Learned(), Learned()),
    "what was kept, where nobody has queued since": (typical([Learned()]), MODEL, MODEL),
}


@pytest.mark.parametrize("name", OR_TYPICAL)
def test_or_typical(name: str) -> None:
    own, model, expected = OR_TYPICAL[name]
    assert or_typical(own, model) == expected


numbers = st.one_of(st.none(), st.floats(0.1, 1e6))
learned = st.builds(Learned, numbers, numbers, numbers, numbers, st.one_of(st.just(0.0), st.floats(0.1, 1e6)))


@given(st.lists(learned, max_size=9), st.randoms(use_true_random=False))
def test_what_is_typical_lies_between_its_engines_in_any_order(known: list[Learned], order: random.Random) -> None:
    shuffled = list(known)
    order.shuffle(shuffled)
    model = typical(known)
    assert model == typical(shuffled)
    assert model.queued_seconds == 0
    for field in ("knee_running", "knee_tokens", "service_rate", "token_rate"):
        own = [getattr(each, field) for each in known if each.queued_seconds and getattr(each, field) is not None]
        value = getattr(model, field)
        assert value is None if not own else min(own) <= value <= max(own)


def test_what_was_learned_outlives_the_process() -> None:
    memory = watch(61, busy)
    packed = msgspec.msgpack.encode((memory.knee, memory.learned))
    assert msgspec.msgpack.decode(packed, type=tuple[knee.Knee, Learned]) == (memory.knee, memory.learned)
