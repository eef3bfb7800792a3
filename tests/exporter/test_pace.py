"""core/pace.py: what an engine does with its time, against engines whose time is known.

The engine here is naive: it goes step by step, makes a token for each sequence and counts what vLLM counts.
"""

import math
import random
from bisect import bisect_left
from collections import deque
from collections.abc import Callable, Iterator
from heapq import heappop, heappush
from itertools import accumulate
from statistics import median
from typing import Any, NamedTuple

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from msgspec.structs import replace

from exporter.core import lessons, pace, saturation
from exporter.core.model_engines import EngineReading, Histogram, Learned
from exporter.core.pace import Pace, PaceMemory

INF = math.inf
EDGES = (0.01, 0.025, 0.05, 0.1, 0.2, 0.5, 1.0, 2.5, 5.0, 10.0, INF)
MOST_SEQUENCES, MOST_TOKENS = 256, 8192  # vLLM's defaults


class Model(NamedTuple):
    step: float
    sequence: float
    prompt: float
    kv: float

    def slowed(self, factor: float) -> "Model":
        return Model(self.step * factor, self.sequence * factor, self.prompt * factor, self.kv)


A100 = Model(0.0118, 0.000133, 0.00012, 421_000.0)  # 8B
L40S = Model(0.0265, 0.00031, 0.00013, 185_000.0)  # 8B
H100 = Model(0.0293, 0.00023, 0.000114, 487_000.0)  # 70B on four


class Load(NamedTuple):
    """Tokens of a request (means of log-normals), and whether they come in bursts: 10 s of 30."""

    prompt: int
    output: int
    spread: float
    bursts: bool = False

    def capacity(self, model: Model | Pace, kv: float) -> float:
        """Requests per second of a full engine."""
        step, sequence, prompt = tuple(model)[:3] if isinstance(model, Model) else _numbers(model)
        most = min(MOST_SEQUENCES, kv / (self.prompt + self.output))
        return 1.0 / (prompt * self.prompt + self.output * (sequence + step / most))


LOADS = {
    "conversation": Load(1155, 211, 0.8),
    "code": Load(2048, 28, 0.6, bursts=True),
    "summary": Load(16_000, 300, 0.3),
    "tiny": Load(100, 300, 0.5),
}


def _numbers(of: Pace) -> tuple[float, float, float]:
    return of.step_seconds, of.sequence_seconds, of.prompt_token_seconds


class _Histogram:
    def __init__(self) -> None:
        self.counts, self.sum = [0.0] * len(EDGES), 0.0

    def add(self, value: float, times: int = 1) -> None:
        self.counts[bisect_left(EDGES, value)] += times
        self.sum += value * times

    def shown(self) -> Histogram:
        return Histogram(EDGES, tuple(accumulate(self.counts)), self.sum)


class _Prompt:
    def __init__(self, arrived: float, prompt: int, output: int, waited: float) -> None:
        self.left, self.arrived, self.prompt, self.output, self.waited = prompt, arrived, prompt, output, waited


class Engine:
    """Requests are (when, prompt tokens, output tokens), in the order of time."""

    def __init__(self, model: Model, requests: list[tuple[float, int, int]]) -> None:
        self.model, self.now = model, 0.0
        self._coming, self._waiting, self._prompts = deque(requests), deque[tuple[float, int, int]](), list[_Prompt]()
        self._ends: list[tuple[int, int, float]] = []  # (step, tokens held, seconds waited)
        self._steps = self._decoding = 0
        self._under_way: tuple[float, list[tuple[_Prompt, int]]] | None = None  # when the step ends, its prompts' parts
        self._prompt_tokens = self._generated = self._held = self._ended = 0.0
        self._ttft, self._itl, self._queue = _Histogram(), _Histogram(), _Histogram()

    def go(self, until: float) -> EngineReading:
        """What it shows at `until`: of a step that is under way then, nothing is counted yet."""
        while True:
            if self._under_way is None and not self._begin(until):
                break
            assert self._under_way is not None
            if self._under_way[0] > until:
                break
            self._end(*self._under_way)
        return EngineReading(
            "m",
            "0",
            waiting=float(len(self._waiting)),
            running=float(self._decoding + len(self._prompts)),
            kv_usage=min(1.0, self._held / self.model.kv),
            prompt_tokens_total=self._prompt_tokens,
            generation_tokens_total=self._generated,
            preemptions_total=0.0,
            finished={"stop": self._ended},
            ttft=self._ttft.shown(),
            itl=self._itl.shown(),
            queue_time=self._queue.shown(),
            sleeping=False,
        )

    def _begin(self, until: float) -> bool:
        if not (self._waiting or self._prompts or self._decoding):
            if not self._coming or self._coming[0][0] > until:
                return False
            self.now = max(self.now, self._coming[0][0])
        while self._coming and self._coming[0][0] <= self.now:
            self._waiting.append(self._coming.popleft())
        room = MOST_TOKENS - self._decoding
        parts = []
        for one in self._prompts:
            part = min(room, one.left)
            room -= part
            parts.append((one, part))
        while room > 0 and self._waiting and self._decoding + len(self._prompts) < MOST_SEQUENCES:
            arrived, prompt, output = self._waiting[0]
            if self._held + prompt + output > self.model.kv:
                break
            self._waiting.popleft()
            self._held += prompt + output
            one = _Prompt(arrived, prompt, output, self.now - arrived)
            self._prompts.append(one)
            part = min(room, prompt)
            room -= part
            parts.append((one, part))
        tokens = sum(part for _, part in parts)
        seconds = self.model.step + self.model.sequence * self._decoding + self.model.prompt * tokens
        self._under_way = self.now + seconds, parts
        return True

    def _end(self, at: float, parts: list[tuple[_Prompt, int]]) -> None:
        if self._decoding:
            self._itl.add(at - self.now, self._decoding)
            self._generated += self._decoding
        self.now, self._under_way = at, None
        self._steps += 1
        while self._ends and self._ends[0][0] <= self._steps:
            self._done(*heappop(self._ends)[1:])
            self._decoding -= 1
        for one, part in parts:
            one.left -= part
            if one.left:
                continue
            self._prompts.remove(one)
            self._prompt_tokens += one.prompt
            self._generated += 1
            self._ttft.add(at - one.arrived)
            if one.output > 1:
                heappush(self._ends, (self._steps + one.output - 1, one.prompt + one.output, one.waited))
                self._decoding += 1
            else:
                self._done(one.prompt + one.output, one.waited)

    def _done(self, held: int, waited: float) -> None:
        self._held -= held
        self._ended += 1
        self._queue.add(waited)


def requests(load: Load, rate: float, seconds: float, seed: int) -> list[tuple[float, int, int]]:
    chance = random.Random(seed)  # noqa: S311 -- a test's load

    def tokens(mean: int) -> int:
        return max(1, round(chance.lognormvariate(math.log(mean) - load.spread**2 / 2, load.spread)))

    came, at = [], 0.0
    while at <= seconds:
        at += chance.expovariate(rate * (3.0 if load.bursts else 1.0))
        came.append((30.0 * (at // 10.0) + at % 10.0 if load.bursts else at, tokens(load.prompt), tokens(load.output)))
    return came


def readings(
    model: Model,
    load: Load,
    share: float,
    every: float,
    seconds: float,
    seed: int,
    changes: tuple[tuple[float, Model], ...] = (),
) -> Iterator[tuple[float, EngineReading]]:
    """What an engine shows that is loaded with `share` of what it can do. changes: (when, what it is from then on)."""
    engine = Engine(model, requests(load, share * load.capacity(model, model.kv), seconds, seed))
    for number in range(round(seconds / every) + 1):
        for when, changed in changes:
            if number * every >= when:
                engine.model = changed
        yield number * every, engine.go(number * every)


def learned(seen: Iterator[tuple[float, EngineReading]], shown: Callable[[EngineReading], EngineReading] = lambda r: r):
    memory = PaceMemory()
    for at, reading in seen:
        memory = pace.learn(memory, shown(reading), at, True)
    return memory


def error(memory: PaceMemory, load: Load, model: Model) -> float | None:
    """Of the capacity that follows, as a share of the true one."""
    known = pace.told(memory)
    return None if known is None else load.capacity(known, model.kv) / load.capacity(model, model.kv) - 1.0


@pytest.mark.parametrize("every", [1.0, 5.0])
@pytest.mark.parametrize("share", [0.3, 0.6, 0.9])
@pytest.mark.parametrize("name", LOADS)
def test_what_a_full_engine_could_do_is_known_after_three_minutes_of_ordinary_load(name, share, every) -> None:
    load = LOADS[name]
    errors = [
        error(learned(readings(model, load, share, every, 180.0, seed)), load, model)
        for model in (A100, L40S, H100)
        for seed in range(2)
    ]
    known = [abs(one) for one in errors if one is not None]
    assert len(known) >= len(errors) - 1
    assert median(known) <= 0.15
    assert max(known) <= 0.4


@pytest.mark.parametrize("name", LOADS)
@pytest.mark.parametrize("share", [0.02, 0.1])
def test_at_low_load_it_is_right_or_missing(name, share) -> None:
    load = LOADS[name]
    for seed in range(3):
        found = error(learned(readings(A100, load, share, 5.0, 180.0, seed)), load, A100)
        assert found is None or abs(found) <= 0.4


@pytest.mark.parametrize("name", ["conversation", "code", "tiny"])
@pytest.mark.parametrize("factor", [4.0, 0.5])
def test_a_change_of_pace_is_followed_within_three_minutes(name, factor) -> None:
    load, changed = LOADS[name], A100.slowed(factor)
    seen = readings(A100, load, 0.3, 5.0, 420.0, 1, ((240.0, changed),))
    found = error(learned(seen), load, changed)
    assert found is not None
    assert abs(found) <= 0.35


def test_what_is_throttled_for_a_while_is_itself_again() -> None:
    load = LOADS["conversation"]
    seen = readings(A100, load, 0.3, 5.0, 600.0, 2, ((200.0, A100.slowed(4.0)), (260.0, A100)))
    found = error(learned(seen), load, A100)
    assert found is not None
    assert abs(found) <= 0.2


def without(*fields: str) -> Callable[[EngineReading], EngineReading]:
    return lambda reading: replace(reading, **dict.fromkeys(fields))


# What is not told, load, its share, error at most; None: nothing may be said
LACKING: dict[str, tuple[tuple[str, ...], str, float, float | None]] = {
    "times between tokens: what runs is counted instead": (("itl",), "conversation", 0.6, 0.2),
    "and where little runs, nothing is": (("itl",), "conversation", 0.1, None),
    "the queue's times": (("queue_time",), "conversation", 0.3, 0.2),
    "any time to a first token": (("ttft", "queue_time"), "tiny", 0.6, 0.2),
    "tokens generated": (("generation_tokens_total",), "conversation", 0.6, None),
    "prompt tokens": (("prompt_tokens_total",), "conversation", 0.6, None),
    "what runs": (("running",), "conversation", 0.6, None),
    "what waits": (("waiting",), "conversation", 0.6, None),
    "any time": (("itl", "ttft", "queue_time"), "conversation", 0.1, None),
}


@pytest.mark.parametrize(("fields", "name", "share", "most"), LACKING.values(), ids=LACKING)
def test_what_a_server_does_not_tell_is_done_without_or_the_pace_is_missing(fields, name, share, most) -> None:
    found = error(learned(readings(A100, LOADS[name], share, 1.0, 180.0, 0), without(*fields)), LOADS[name], A100)
    assert found is None if most is None else found is not None and abs(found) <= most


def test_prompts_that_the_prefix_cache_had_cost_nothing() -> None:
    # The engine computes what it shows as half of the prompts: the others were there.
    def doubled(reading: EngineReading) -> EngineReading:
        computed = reading.prompt_tokens_total
        assert computed is not None
        return replace(
            reading, prompt_tokens_total=2 * computed, prefix_queries_total=2 * computed, prefix_hits_total=computed
        )

    load = LOADS["conversation"]
    known = pace.told(learned(readings(A100, load, 0.6, 5.0, 180.0, 0), doubled))
    plain = pace.told(learned(readings(A100, load, 0.6, 5.0, 180.0, 0)))
    assert known is not None
    assert plain is not None
    assert _numbers(known) == pytest.approx(_numbers(plain), rel=1e-6)


def test_times_that_are_a_requests_mean_are_no_times_between_tokens() -> None:
    def means(reading: EngineReading) -> EngineReading:
        ended = (reading.finished or {}).get("stop", 0.0)
        return replace(reading, itl=Histogram((0.1, INF), (ended, ended), ended * 0.03))

    assert pace.told(learned(readings(A100, LOADS["conversation"], 0.6, 5.0, 180.0, 0), means)) is None


def test_a_stall_teaches_nothing() -> None:
    """A core that hangs for 40 s with its work: nothing moves, then every sequence has one long time between tokens."""
    load = LOADS["conversation"]
    before = [*readings(A100, load, 0.6, 1.0, 120.0, 0)]
    at, last = before[-1]
    memory = learned(iter(before))
    known = pace.told(memory)
    for second in range(1, 41):
        memory = pace.learn(memory, last, at + second, True)
    assert pace.told(memory) == known
    assert last.itl is not None
    assert last.running is not None
    counts = tuple(count + last.running for count in last.itl.counts)
    woken = replace(
        last,
        itl=Histogram(EDGES, counts, (last.itl.sum or 0.0) + 40.0 * last.running),
        generation_tokens_total=(last.generation_tokens_total or 0.0) + last.running,
    )
    for second in range(41, 60):
        memory = pace.learn(memory, woken, at + second, True)
    assert pace.told(memory) == known


@pytest.mark.parametrize("goes_on", [True, False], ids=["counters fall", "it is known to be new"])
def test_a_restart_keeps_what_was_learned_and_no_interval_spans_it(goes_on: bool) -> None:
    load = LOADS["conversation"]
    memory = learned(readings(A100, load, 0.6, 1.0, 122.0, 0))
    known = pace.told(memory)
    fresh = Engine(A100, []).go(0.0)
    memory = pace.learn(memory, fresh, 128.0, goes_on)
    assert known is not None
    assert pace.told(memory) == known
    assert memory.opening is not None
    assert memory.opening.at == 128.0


def test_what_sleeps_is_not_watched() -> None:
    seen = [*readings(A100, LOADS["conversation"], 0.6, 1.0, 60.0, 0)]
    asleep = learned(iter(seen), lambda reading: replace(reading, sleeping=True))
    assert asleep == PaceMemory()


def test_a_server_that_counts_when_requests_end_shows_no_pace() -> None:
    memory = None
    for at, reading in readings(A100, LOADS["conversation"], 0.6, 1.0, 120.0, 0):
        memory = saturation.observe(memory, reading, at, counted_late=True)
    assert memory is not None
    assert memory.learned.step_seconds is None
    assert memory.pace == PaceMemory()


def test_an_engines_memory_tells_its_pace_beside_its_knee() -> None:
    memory = None
    for at, reading in readings(A100, LOADS["conversation"], 0.6, 1.0, 180.0, 0):
        memory = saturation.observe(memory, reading, at)
    assert memory is not None
    known = pace.of(memory.learned)
    assert known == pace.told(memory.pace)
    assert known is not None
    assert known.seconds == pytest.approx(180.0, abs=10.0)


OWN = Learned(step_seconds=0.01, sequence_seconds=1e-4, prompt_token_seconds=1e-4, pace_seconds=60.0)
SLOW = Learned(step_seconds=0.04, sequence_seconds=4e-4, prompt_token_seconds=4e-4, pace_seconds=90.0)
MODEL = Learned(knee_running=8.0, step_seconds=0.02, sequence_seconds=2e-4, prompt_token_seconds=2e-4)

# known of the model, what its engines show, a newcomer's pace
TYPICAL: dict[str, tuple[Learned, list[Learned], tuple[float | None, ...]]] = {
    "nobody shows one": (Learned(), [Learned()], (None, None, None)),
    "one has": (Learned(), [OWN], (0.01, 1e-4, 1e-4)),
    "the median": (Learned(), [OWN, SLOW, OWN], (0.01, 1e-4, 1e-4)),
    "what was known stays": (MODEL, [Learned()], (0.02, 2e-4, 2e-4)),
    "until one has shown its own": (MODEL, [OWN], (0.01, 1e-4, 1e-4)),
    "what is borrowed has no vote": (Learned(), [OWN, replace(SLOW, pace_seconds=0.0)], (0.01, 1e-4, 1e-4)),
    "a queue shows no pace": (MODEL, [Learned(knee_running=9.0, queued_seconds=30.0)], (0.02, 2e-4, 2e-4)),
}


@pytest.mark.parametrize(("before", "shown", "expected"), TYPICAL.values(), ids=TYPICAL)
def test_a_newcomer_has_its_models_pace(before, shown, expected) -> None:
    known = (lessons.Taught("ns", "m", before),)
    typical = lessons.Lessons(lessons.taught(known, [(("ns", "m"), one) for one in shown])).typical[("ns", "m")]
    newcomer = lessons.or_typical(Learned(), typical)
    assert (newcomer.step_seconds, newcomer.sequence_seconds, newcomer.prompt_token_seconds) == expected
    assert newcomer.pace_seconds == 0.0


def test_an_engine_that_has_its_own_pace_keeps_it_whole() -> None:
    assert lessons.or_typical(OWN, MODEL) == replace(OWN, knee_running=8.0)


COUNT = st.one_of(st.none(), st.floats(), st.floats(0, 1e6))
HISTOGRAM = st.one_of(
    st.none(), st.builds(lambda count, sum_: Histogram((1.0, INF), (0.0, count), sum_), st.floats(), COUNT)
)
READING = st.builds(
    EngineReading,
    model=st.just("m"),
    engine=st.just("0"),
    waiting=st.one_of(st.none(), st.floats(0, 1e6)),
    running=st.one_of(st.none(), st.floats(0, 1e6)),
    prompt_tokens_total=COUNT,
    generation_tokens_total=COUNT,
    prefix_queries_total=COUNT,
    prefix_hits_total=COUNT,
    itl=HISTOGRAM,
    ttft=HISTOGRAM,
    queue_time=HISTOGRAM,
)


@settings(max_examples=100, deadline=None)
@given(st.lists(st.tuples(READING, st.floats(0.1, 10.0), st.booleans()), max_size=30))
def test_whatever_is_told_the_pace_is_three_finite_numbers_of_0_or_more_or_missing(told: list[Any]) -> None:
    memory, at = PaceMemory(), 0.0
    for reading, seconds, goes_on in told:
        at += seconds
        memory = pace.learn(memory, reading, at, goes_on)
        known = pace.told(memory)
        assert known is None or all(0.0 <= number < INF for number in _numbers(known))
