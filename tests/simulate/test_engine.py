"""The engine against a naive one that makes every token on its own, and what happens to it from outside.

The profiles here are sums of powers of two and so are all times: floats hold them exactly, both engines must agree to
the last bit, and arrivals meet the ends of steps.
"""

import math
from typing import NamedTuple

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from scaler.simulate.engine import Engine
from scaler.simulate.engine_meters import ITL, Buckets
from scaler.simulate.model import Profile, Request
from scaler.simulate.profiles import profile

GRAIN = 2.0**-10  # seconds; arrivals lie on it


def small(kv_tokens: int = 1 << 20, block: int = 16, seqs: int = 256, batched: int = 8192) -> Profile:
    return Profile("small", "", "", 2**-6, 2**-9, 2**-16, 2**-12, 2**-20, kv_tokens, 1, block, seqs, batched)


# The naive engine: every step, every sequence, every token, in the order in which vLLM's scheduler goes through them.


class Naive:
    """One sequence of the naive engine."""

    def __init__(self, request: Request) -> None:
        self.request = request
        self.generated = 0
        self.held = 0  # tokens in the cache
        self.blocks = 0
        self.now = 0  # tokens that it computes in this step
        self.last = 0.0
        self.first: float | None = None
        self.finished = 0.0
        self.started: float | None = None

    @property
    def length(self) -> int:
        return self.request.prompt + self.generated


class Moment(NamedTuple):
    """A step of the naive engine."""

    start: float
    end: float
    running: int
    blocks: int
    generated: int  # before it


class Course(NamedTuple):
    sequences: list[Naive]
    steps: list[Moment]
    preemptions: int
    between: list[float]


def naive(profile: Profile, requests: list[Request]) -> Course:
    block, capacity = profile.block_tokens, profile.kv_tokens // profile.block_tokens
    sequences = [Naive(request) for request in requests]
    coming, waiting, running = list(sequences), [], []
    now, preemptions, generated = 0.0, 0, 0
    steps, between = [], []
    while coming or waiting or running:
        if not waiting and not running:
            now = max(now, coming[0].request.arrived)
        while coming and coming[0].request.arrived <= now:
            waiting.append(coming.pop(0))
        budget, short, place = profile.max_num_batched_tokens, False, 0
        while place < len(running):
            one = running[place]
            one.now = min(one.length - one.held, budget)
            blocks = math.ceil((one.held + one.now) / block)
            while sum(each.blocks for each in running) - one.blocks + blocks > capacity and len(running) > 1:
                last = running.pop()
                last.blocks = last.held = 0
                waiting.insert(0, last)
                preemptions, short = preemptions + 1, True
                if last is one:
                    break
            else:
                one.blocks = blocks
                budget -= one.now
                place += 1
        while waiting and not short and budget > 0 and len(running) < profile.max_num_seqs:
            one = waiting[0]
            held = sum(each.blocks for each in running)
            if running and held + math.ceil(one.length / block) > capacity:
                break
            running.append(waiting.pop(0))
            one.started = now if one.started is None else one.started
            one.held = min(one.request.cached, one.request.prompt - 1)
            one.now = min(one.length - one.held, budget)
            one.blocks = math.ceil((one.held + one.now) / block)
            budget -= one.now
        seconds = profile.step
        for one in running:
            if one.generated and one.last == now:  # it made a token in the step before: it decodes
                seconds += profile.per_sequence + profile.per_context_token * one.length
                continue
            seconds += profile.per_prompt_token * one.now
            seconds += profile.per_prompt_token_squared * one.now * (one.held + one.now)
        steps.append(Moment(now, now + seconds, len(running), sum(each.blocks for each in running), generated))
        now += seconds
        for one in list(running):
            one.held += one.now
            if one.held < one.length:
                continue
            one.generated += 1
            generated += 1
            if one.first is None:
                one.first = now
            else:
                between.append(now - one.last)
            one.last = now
            if one.generated == one.request.output:
                one.finished = now
                running.remove(one)
    return Course(sequences, steps, preemptions, between)


def copies(requests: list[Request]) -> list[Request]:
    return [Request(one.arrived, one.prompt, one.output, one.cached) for one in requests]


def play(engine: Engine, requests: list[Request]) -> list[Request]:
    """All are submitted when they arrive; returns them in the order in which they finished."""
    done: list[Request] = []
    for one in requests:
        done += engine.advance(one.arrived)
        engine.submit(one, one.arrived)
    return done + engine.advance(1e9)


@st.composite
def loads(draw: st.DrawFn) -> list[Request]:
    now, requests = 0.0, []
    for _ in range(draw(st.integers(1, 14))):
        now += draw(st.sampled_from((0, 1, 16, 18, 33, 100, 700))) * GRAIN
        prompt = draw(st.integers(1, 70))
        requests.append(Request(now, prompt, draw(st.integers(1, 45)), draw(st.sampled_from((0, 0, 5, prompt)))))
    return requests


@st.composite
def profiles(draw: st.DrawFn) -> Profile:
    block = draw(st.sampled_from((1, 2, 4, 7, 16)))
    seqs = draw(st.integers(1, 9))
    blocks = draw(st.integers(1, 200 // block + 2))
    return small(block * blocks + draw(st.integers(0, block - 1)), block, seqs, seqs + draw(st.integers(0, 90)))


@settings(max_examples=400, deadline=None)
@given(profiles(), loads())
def test_engine_is_the_naive_one(profile: Profile, requests: list[Request]) -> None:
    expected = naive(profile, requests)
    engine = Engine(profile, 0.0)
    done = play(engine, requests)
    assert [(one.first_token, one.finished) for one in requests] == [
        (one.first, one.finished) for one in expected.sequences
    ]
    assert sorted(done, key=lambda one: one.finished or 0.0) == done
    assert [one.generated for one in requests] == [one.output for one in requests]
    assert engine.preemptions == expected.preemptions
    assert engine.generated == sum(one.output for one in requests)
    assert engine.busy_seconds == sum(step.end - step.start for step in expected.steps)
    said = engine.reading(1e9)
    assert said.itl is not None
    assert said.itl.counts == tuple(sum(gap <= edge for gap in expected.between) for edge in ITL)
    assert said.itl.sum == sum(expected.between)
    assert said.ttft is not None
    assert said.ttft.sum == sum(one.first - one.request.arrived for one in expected.sequences if one.first is not None)
    assert said.queue_time is not None
    waits = [one.started - one.request.arrived for one in expected.sequences if one.started is not None]
    assert said.queue_time.sum == sum(waits)
    assert (said.waiting, said.running, said.kv_usage) == (0.0, 0.0, 0.0)


@settings(max_examples=150, deadline=None)
@given(profiles(), loads(), st.data())
def test_gauges_in_every_step_are_the_naive_ones(
    profile: Profile, requests: list[Request], data: st.DataObject
) -> None:
    steps = naive(profile, requests).steps
    looked = sorted(data.draw(st.sets(st.integers(0, len(steps) - 1), max_size=12)))
    engine, coming = Engine(profile, 0.0), list(requests)
    capacity = profile.kv_tokens // profile.block_tokens
    for step in (steps[number] for number in looked):
        now = (step.start + step.end) / 2
        while coming and coming[0].arrived <= now:
            engine.submit(coming[0], coming.pop(0).arrived)
        said = engine.reading(now)
        arrived = len(requests) - len(coming)
        ended = sum(one.finished is not None for one in requests)
        assert said.running == engine.running == step.running
        assert said.waiting == engine.waiting == arrived - ended - step.running
        assert engine.in_flight == arrived - ended
        assert said.kv_usage == min(1.0, step.blocks / capacity)
        assert step.blocks <= capacity or step.running == 1
        assert said.generation_tokens_total == engine.generated == step.generated


@settings(max_examples=100, deadline=None)
@given(loads(), st.lists(st.floats(0.0, 6.0), max_size=40), st.sampled_from(("8b-a100", "70b-4xh100")))
def test_looking_changes_nothing(requests: list[Request], looks: list[float], name: str) -> None:
    """Real profiles, whose times are rounded: where the work is cut must not show in one bit."""
    tight = profile(name)._replace(kv_tokens=160, max_num_seqs=6)
    straight, cut = Engine(tight, 0.0), Engine(tight, 0.0)
    twins = copies(requests)
    play(straight, requests)
    looks = sorted(looks)
    counts: tuple[float, ...] = (0.0,) * len(ITL)
    for one in twins:
        while looks and looks[0] < one.arrived:
            cut.advance(looks[0])
            said = cut.reading(looks.pop(0)).itl
            assert said is not None
            assert all(new >= old for new, old in zip(said.counts, counts, strict=True))
            counts = said.counts
        cut.submit(one, one.arrived)
    for now in looks:
        cut.reading(now)
        cut.advance(now)
    cut.advance(1e9)
    assert [(one.first_token, one.finished) for one in twins] == [(one.first_token, one.finished) for one in requests]
    assert cut.reading(1e9) == straight.reading(1e9)
    assert cut.busy_seconds == straight.busy_seconds


@settings(max_examples=150, deadline=None)
@given(profiles(), loads())
def test_next_finish_leads_to_every_finish(profile: Profile, requests: list[Request]) -> None:
    engine, coming = Engine(profile, 0.0), list(requests)
    done: list[Request] = []
    for _ in range(5000):
        now = engine.next_finish()
        assert now > engine.at or math.isinf(now) or not engine.at
        if coming and coming[0].arrived <= now:
            done += engine.advance(coming[0].arrived)
            engine.submit(coming[0], coming.pop(0).arrived)
            continue
        if math.isinf(now):
            break
        ended = engine.advance(now)
        assert all(one.finished == now for one in ended)
        done += ended
    assert len(done) == len(requests)
    assert engine.next_finish() == math.inf


# Times that can be reckoned by hand.


@pytest.mark.parametrize(("prompt", "cached"), [(1, 0), (1000, 0), (1000, 400), (1000, 1000), (8192, 0)])
def test_idle_engine_needs_the_time_of_the_prompt(prompt: int, cached: int) -> None:
    used, request = small(), Request(5.0, prompt, 1, cached)
    play(Engine(used, 0.0), [request])
    computed = prompt - min(cached, prompt - 1)
    seconds = used.step + used.per_prompt_token * computed + used.per_prompt_token_squared * computed * prompt
    assert request.first_token == request.finished == 5.0 + seconds


def test_long_prompt_is_computed_in_chunks_while_others_decode() -> None:
    used = small()
    others = [Request(0.0, 16, 400), Request(0.0, 16, 400)]
    long = Request(1.0, 20_000, 1)
    play(Engine(used, 0.0), [*others, long])
    short_step = used.step + 2 * used.per_sequence
    start = used.step + 32 * used.per_prompt_token + 2 * 256 * used.per_prompt_token_squared  # the first two's prompts
    decoded = 0
    while start < 1.0:  # the step under way at 1.0 is finished first
        decoded += 1
        start += short_step + 2 * used.per_context_token * (16 + decoded)
    ends = (8190, 16380, 20_000)  # two of the 8,192 tokens of a step are the others'
    for before, end in zip((0, *ends), ends, strict=False):
        decoded += 1
        start += short_step + 2 * used.per_context_token * (16 + decoded)
        start += used.per_prompt_token * (end - before) + used.per_prompt_token_squared * (end - before) * end
    assert long.first_token == start
    assert others[0].finished is not None
    assert others[0].finished > start


def test_request_larger_than_the_cache_runs_alone() -> None:
    engine = Engine(small(kv_tokens=64), 0.0)
    requests = [Request(0.0, 20, 10), Request(0.0, 100, 30), Request(0.0, 20, 10)]
    for one in requests:
        engine.submit(one, 0.0)
    shares = []
    while engine.in_flight:
        engine.advance(engine.next_finish())
        shares.append((engine.reading(engine.at).kv_usage or 0.0, engine.running))
    first, large, last = requests
    assert first.finished is not None
    assert large.first_token is not None
    assert large.finished is not None
    assert last.first_token is not None
    assert first.finished < large.first_token < large.finished < last.first_token
    assert max(shares)[0] <= 1.0


@pytest.mark.parametrize("steps", [1, 2, 5])
def test_who_arrives_as_a_step_ends_is_in_the_next(steps: int) -> None:
    """In the middle of a run, and where another request finishes; `next_finish` must lead on from there."""
    used = small()._replace(per_context_token=0.0)
    prompt = used.step + used.per_prompt_token * 16 + used.per_prompt_token_squared * 256
    one, other = Request(0.0, 8, 21), Request(0.0, 8, 41)
    engine = Engine(used, 0.0)
    engine.submit(one, 0.0)
    engine.submit(other, 0.0)
    start = used.step + used.per_prompt_token * 16 + used.per_prompt_token_squared * 128
    step = used.step + 2 * used.per_sequence
    third = Request(start + steps * step, 16, 100)
    engine.submit(third, third.arrived)
    assert engine.generated == 2 + 2 * steps
    assert engine.next_finish() > third.arrived
    engine.advance(third.arrived + 1e-9)
    assert (engine.running, engine.waiting) == (3, 0)
    assert engine.advance(third.arrived + 0.5) == [one]
    assert third.first_token == third.arrived + prompt + 2 * used.per_sequence
    assert one.finished == third.first_token + (19 - steps) * (used.step + 3 * used.per_sequence)

    engine = Engine(used, 0.0)
    one, other = Request(0.0, 8, 21), Request(0.0, 8, 41)
    engine.submit(one, 0.0)
    engine.submit(other, 0.0)
    end = start + 20 * step
    assert engine.advance(end) == [one]
    last = Request(end, 16, 1)
    engine.submit(last, end)
    engine.advance(1e3)
    assert last.first_token == end + prompt + used.per_sequence


@pytest.mark.parametrize("name", ["8b-a100", "8b-l4"])
def test_steps_are_done_when_their_time_has_come_to_the_bit(name: str) -> None:
    """Of a run's steps so many are done as a request with so many tokens, alone, would be finished."""
    for tokens in range(2, 900, 7):
        one = Request(0.0, 100, tokens)
        play(Engine(profile(name), 0.0), [one])
        assert one.finished is not None
        for at, made in ((math.nextafter(one.finished, 0.0), tokens - 1), (one.finished, tokens)):
            engine = Engine(profile(name), 0.0)
            engine.submit(Request(0.0, 100, 1000), 0.0)
            engine.advance(at)
            assert engine.generated == made


@given(
    st.floats(0.001, 90.0),
    st.one_of(st.just(0.0), st.floats(1e-9, 2.0)),
    st.integers(1, 60),
    st.integers(1, 5),
)
def test_steps_are_counted_in_the_buckets_of_each(first: float, rise: float, steps: int, times: int) -> None:
    together, single = Buckets(ITL), Buckets(ITL)
    together.observe_rising(first, rise, steps, times)
    for number in range(steps):
        for _ in range(times):
            single.observe(first + rise * number)
    assert together.counts == single.counts
    assert together.sum == pytest.approx(single.sum)


# What happens to it from outside.


def busy(kv_tokens: int = 1 << 20, seqs: int = 2) -> tuple[Engine, list[Request]]:
    """At 0.5 two decode and one waits for a seat."""
    engine = Engine(small(kv_tokens, seqs=seqs), 0.0)
    requests = [Request(0.0, 16, 100), Request(0.0, 16, 100), Request(0.25, 16, 100)]
    for one in requests:
        engine.submit(one, one.arrived)
    engine.advance(0.5)
    assert (engine.running, engine.waiting) == (2, 1)
    return engine, requests


def test_slow_begins_with_the_next_step_and_ends_so() -> None:
    one = Request(0.0, 16, 1000)
    engine = Engine(small()._replace(per_context_token=0.0), 0.0)
    engine.submit(one, 0.0)
    step = 2**-6 + 2**-9
    first = 2**-6 + 16 * 2**-12 + 256 * 2**-20
    engine.slow(4.0, first + 10.5 * step)  # the eleventh is under way
    assert engine.generated == 11
    engine.advance(first + 11 * step + 4 * step)
    assert engine.generated == 1 + 11 + 1
    engine.slow(1.0, first + 11 * step + 8 * step)
    assert engine.generated == 1 + 11 + 2
    engine.advance(first + 20 * step)
    assert engine.generated == 1 + 11 + 3


def test_frozen_engine_accepts_and_says_what_it_said() -> None:
    engine, _ = busy()
    before = engine.reading(0.5)
    busy_before = engine.busy_seconds
    engine.freeze(0.5)
    engine.submit(Request(1.0, 16, 1), 1.0)
    assert engine.advance(100.0) == []
    assert engine.next_finish() == math.inf
    assert engine.reading(200.0) == before
    assert engine.at == 200.0
    assert engine.busy_seconds == busy_before == 0.5
    assert engine.generated == before.generation_tokens_total
    assert (engine.running, engine.waiting, engine.in_flight) == (2, 2, 4)


@pytest.mark.parametrize("frozen", [False, True])
def test_take_all_leaves_nothing_behind(frozen: bool) -> None:
    engine, requests = busy()
    if frozen:
        engine.freeze(0.5)
    assert requests[0].first_token is not None
    made = engine.generated
    taken = engine.take_all(0.625)
    assert taken == requests
    assert [(one.first_token, one.finished, one.generated) for one in taken] == [(None, None, 0)] * 3
    assert engine.in_flight == 0
    assert engine.next_finish() == math.inf
    assert engine.generated >= made
    if not frozen:
        assert engine.busy_seconds == 0.625
        assert engine.reading(0.625).kv_usage == 0.0
        fresh = Engine(engine.profile, 1.0)
        again, alone = Request(1.0, 40, 20), Request(1.0, 40, 20)
        play(engine, [again])
        play(fresh, [alone])
        assert (again.first_token, again.finished) == (alone.first_token, alone.finished)


def test_take_waiting_leaves_those_that_have_begun() -> None:
    engine, requests = busy()
    assert engine.take_waiting(0.5) == [requests[2]]
    assert (engine.running, engine.waiting) == (2, 0)
    assert engine.advance(1e6) == requests[:2]


def test_preempted_request_keeps_its_beginning_when_those_that_wait_leave() -> None:
    engine = Engine(small(kv_tokens=160), 0.0)
    requests = [Request(0.0, 48, 90), Request(0.0, 48, 90), Request(0.0, 48, 90)]
    for one in requests:
        engine.submit(one, 0.0)
    while engine.preemptions < 1:
        engine.advance(engine.next_finish() if engine.waiting == 0 else engine.at + 0.01)
    preempted = [one for one in requests if one.finished is None and one.first_token is not None]
    first = {id(one): one.first_token for one in preempted}
    waited = engine.waiting
    assert engine.take_waiting(engine.at) == []
    assert engine.waiting == waited
    engine.advance(1e6)
    assert {id(one): one.first_token for one in preempted} == first
    assert [one.generated for one in requests] == [90] * 3
    assert engine.reading(1e6).prompt_tokens_total == 3 * 48  # once each, although computed again


def test_reading_tells_what_a_vllm_tells() -> None:
    engine = Engine(small(kv_tokens=1600), 0.0, "llama")
    play(engine, [Request(0.0, 100, 10, 40), Request(0.0, 50, 10)])
    said = engine.reading(2e9)
    assert (said.model, said.engine, said.max_running) == ("llama", "0", None)
    assert (said.kv_capacity_tokens, said.config) == (1600.0, {"block_tokens": "16"})
    assert (said.prompt_tokens_total, said.generation_tokens_total) == (150.0, 20.0)
    assert (said.prefix_queries_total, said.prefix_hits_total) == (150.0, 40.0)
    assert said.finished == {"stop": 2.0}
    for histogram, count in ((said.ttft, 2), (said.itl, 18), (said.queue_time, 2), (said.e2e, 2)):
        assert histogram is not None
        assert (histogram.edges[-1], histogram.counts[-1]) == (math.inf, count)


@pytest.mark.parametrize(
    ("change", "word"),
    [
        ({"step": 0.0}, "step"),
        ({"step": math.nan}, "step"),
        ({"max_num_seqs": 0}, "max_num_seqs"),
        ({"max_num_batched_tokens": 255}, "max_num_batched_tokens"),
        ({"kv_tokens": 15}, "kv_tokens"),
    ],
)
def test_profile_without_a_step_is_refused(change: dict[str, float], word: str) -> None:
    with pytest.raises(ValueError, match=word):
        Engine(small()._replace(**change), 0.0)  # type: ignore[arg-type]
