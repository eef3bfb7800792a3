"""The engine model keeps its books: no request is lost or served twice, and none faster than the hardware."""

import random
from itertools import pairwise

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from scaler.demo.engine import Engine, Profile, Request

SMALL = Profile(4, 5000, 0.0265, 0.000307, 0.0001)
PREFILL = Profile().prefill_seconds_per_token


def requests(count: int, prompt: int = 500, output: int = 100, every: float = 0.0) -> list[Request]:
    return [Request(index * every, prompt, output) for index in range(count)]


def serve(engine: Engine, arrivals: list[Request], until: float) -> list[Request]:
    done = []
    for request in arrivals:
        done += engine.advance(request.arrived)
        engine.submit(request)
    return done + engine.advance(until)


def test_one_request_alone_takes_its_prefill_and_its_steps() -> None:
    engine = Engine(Profile(), 0.0)
    (request,) = serve(engine, requests(1, prompt=1000, output=101), 20.0)
    assert request.first_token == pytest.approx(1000 * PREFILL)
    assert request.finished == pytest.approx(1000 * PREFILL + 100 * Profile().step(1))


def test_a_full_batch_slows_every_sequence_down() -> None:
    engine = Engine(Profile(), 0.0)
    done = serve(engine, requests(32, prompt=1, output=101), 20.0)
    assert done[-1].finished == pytest.approx(100 * Profile().step(32), rel=0.01)
    assert Profile().step(32) == pytest.approx(0.0363 * 864 / 300, rel=0.01)  # the published point, by bandwidth


def test_more_than_its_slots_wait_in_the_order_they_came() -> None:
    engine = Engine(SMALL, 0.0)
    arrivals = requests(10)
    assert serve(engine, arrivals, 0.0) == []
    assert engine.gauges()[:2] == (6, 4)
    engine.advance(60.0)
    firsts = [request.first_token for request in arrivals]
    assert None not in firsts
    assert firsts == sorted(firsts)
    assert engine.gauges() == (0, 0, 0.0)


def test_kv_cache_holds_back_what_the_slots_would_take() -> None:
    engine = Engine(SMALL, 0.0)
    serve(engine, requests(4, prompt=2000, output=300), 0.0)
    assert engine.gauges() == (2, 2, 4600 / 5000)


def test_a_request_larger_than_the_cache_runs_alone_and_ends() -> None:
    engine = Engine(SMALL, 0.0)
    assert len(serve(engine, requests(3, prompt=6000, output=10), 60.0)) == 3


def test_a_stuck_engine_answers_with_what_was_true_and_serves_nobody() -> None:
    engine = Engine(SMALL, 0.0)
    serve(engine, requests(6), 0.1)
    before, tokens = engine.gauges(), engine.counters.generation_tokens
    engine.stick()
    engine.submit(Request(0.1, 10, 10))
    assert engine.advance(100.0) == []
    assert engine.gauges() == before
    assert engine.counters.generation_tokens == tokens
    assert engine.waiting == before.waiting + 1  # what it does not tell


def test_the_busy_rate_is_the_hardwares() -> None:
    """A queue that never empties: finished per second is one over the engine time that a request costs."""
    engine = Engine(Profile(), 0.0)
    count, prompt, output = 2000, 100, 120
    batch = Profile().kv_tokens // (prompt + output)
    cost = prompt * PREFILL + output * Profile().step(batch) / batch
    serve(engine, requests(count, prompt, output), 500.0)
    assert engine.waiting > 0
    assert engine.counters.finished / 500.0 == pytest.approx(1 / cost, rel=0.05)


ARRIVALS = st.lists(
    st.builds(Request, st.floats(0, 20), st.integers(1, 3000), st.integers(1, 300)), min_size=1, max_size=40
).map(lambda rows: sorted(rows, key=lambda row: row.arrived))


@settings(deadline=None)  # a slow machine is no finding
@given(ARRIVALS, st.lists(st.floats(0, 60), max_size=10), st.floats(0, 60), st.booleans())
def test_requests_are_conserved(arrivals: list[Request], looks: list[float], gone_at: float, stick: bool) -> None:
    """However time is cut, whoever goes away: each request is in one place, and the counters agree."""
    engine = Engine(SMALL, 0.0)
    done: list[Request] = []
    aborted: set[Request] = set()
    submitted: list[Request] = []
    events = sorted([(request.arrived, request) for request in arrivals], key=lambda event: event[0])
    for now in sorted({*looks, gone_at, *(at for at, _ in events), 60.0}):
        done += engine.advance(now)
        for at, request in events:
            if at == now:
                engine.submit(request)
                submitted.append(request)
        if now == gone_at:
            aborted = set(engine.requests()[::2])
            engine.abort(aborted)
            if stick:
                engine.stick()
        inside = engine.requests()
        assert len(inside) == engine.waiting + engine.running
        assert sorted(map(id, [*inside, *done, *aborted])) == sorted(map(id, submitted))
        assert engine.running <= SMALL.slots
        assert engine.kv_held == sum(r.prompt + r.output for r in inside[: engine.running])
    assert engine.counters.finished == len(done)
    assert engine.counters.aborted == len(aborted)
    if not stick:
        assert len(done) + len(aborted) == len(arrivals)
        made = sum(request.output for request in done)
        assert engine.counters.generation_tokens >= made - 1e-6


@settings(deadline=None)  # likewise
@given(ARRIVALS, st.integers(1, 50))
def test_the_outcome_does_not_depend_on_how_time_is_cut(arrivals: list[Request], cuts: int) -> None:
    whole, cut = Engine(SMALL, 0.0), Engine(SMALL, 0.0)
    copies = [Request(r.arrived, r.prompt, r.output) for r in arrivals]
    serve(whole, arrivals, 60.0)
    for copy, following in pairwise([*copies, Request(60.0, 1, 1)]):
        cut.advance(copy.arrived)
        cut.submit(copy)
        for step in range(1, cuts + 1):
            cut.advance(copy.arrived + (following.arrived - copy.arrived) * step / cuts)
    assert [c.first_token for c in copies] == pytest.approx([r.first_token for r in arrivals], abs=1e-6)
    assert [c.finished for c in copies] == pytest.approx([r.finished for r in arrivals], abs=1e-6)


def test_no_faster_than_the_hardware() -> None:
    generator = random.Random(1)  # noqa: S311 -- a workload, not a secret
    engine = Engine(Profile(), 0.0)
    arrivals = [Request(index / 20, generator.randint(1, 2000), generator.randint(2, 400)) for index in range(400)]
    for request in serve(engine, arrivals, 100.0):
        assert request.first_token is not None
        assert request.finished is not None
        assert request.first_token - request.arrived >= request.prompt * PREFILL - 1e-9
        assert request.finished - request.first_token >= (request.output - 1) * Profile().step(1) - 1e-9
