"""scaler.simulate.generators: rates, lengths and refusals."""

# ruff: noqa: E501 -- one row a case: a wrapped table cannot be scanned

import math
import random
import statistics

import pytest

from scaler.simulate.generators import GENERATORS, generate, lengths
from scaler.simulate.model import Trace
from scaler.simulate.traces import TraceError
from tests.simulate.random_traces import random_trace


def _count(trace: Trace, begin: float, end: float) -> int:
    return sum(begin <= arrival.at < end for arrival in trace.arrivals)


#: (generator, settings, from, to, requests expected in that time)
RATES = [
    ("steady", {"rate": 5}, 0, 3600, 18000),
    ("steady", {"rate": 0}, 0, 3600, 0),
    ("diurnal", {"low": 1, "high": 11, "period": 3600}, 0, 3600, 21600),
    ("diurnal", {"low": 0, "high": 20, "period": 3600}, 1700, 1900, 200 * 19.9),
    ("diurnal", {"low": 0, "high": 20, "period": 3600}, 3500, 3600, 5.1),
    ("ramp", {"start": 0, "end": 10}, 0, 1800, 4500),
    ("ramp", {"start": 10, "end": 0}, 0, 1800, 13500),
    ("bursts", {"base": 2, "factor": 10, "every": 600, "length": 60}, 0, 540, 1080),
    ("bursts", {"base": 2, "factor": 10, "every": 600, "length": 60}, 540, 600, 1200),
    ("bursts", {"base": 2, "factor": 10, "every": 600, "length": 60}, 600, 1140, 1080),
    ("flash_crowd", {"base": 3, "factor": 8, "at": 900, "rise": 30, "fall": 300}, 0, 900, 2700),
    ("flash_crowd", {"base": 3, "factor": 8, "at": 900, "rise": 30, "fall": 300}, 900, 930, 90 + 21 * 15),
    ("flash_crowd", {"base": 3, "factor": 8, "at": 900, "rise": 0, "fall": 300}, 900, 1200, 900 + 6300 * (1 - math.exp(-1))),
    ("flash_crowd", {"base": 3, "factor": 0.5, "at": 900, "rise": 0, "fall": 3600}, 900, 1000, 300 - 150 * 0.986),
]  # fmt: skip


@pytest.mark.parametrize(("name", "values", "begin", "end", "expected"), RATES)
def test_arrivals_come_at_the_rate(
    name: str, values: dict[str, float], begin: float, end: float, expected: float
) -> None:
    # Four standard deviations of a Poisson count; the seed is fixed.
    assert abs(_count(generate(name, values, 7), begin, end) - expected) <= 4 * math.sqrt(expected)


def test_on_and_off_take_turns_of_random_length() -> None:
    trace = generate("on_off", {"rate": 20, "on": 100, "off": 50, "seconds": 20_000}, 1)
    gaps = [b.at - a.at for a, b in zip(trace.arrivals, trace.arrivals[1:], strict=False)]
    assert trace.arrivals[0].at < 1  # it begins with on
    assert len(trace.arrivals) == pytest.approx(20 * 20_000 * 100 / 150, rel=0.15)
    off = [gap for gap in gaps if gap > 2]
    assert len(off) == pytest.approx(133, rel=0.2)
    assert statistics.mean(off) == pytest.approx(52, rel=0.2)
    assert statistics.stdev(off) == pytest.approx(50, rel=0.25)


@pytest.mark.parametrize("name", GENERATORS)
def test_a_trace_is_its_seed_and_settings(name: str) -> None:
    trace = generate(name, {"seconds": 900}, 3)
    assert trace == generate(name, {"seconds": 900}, 3)
    assert trace.arrivals != generate(name, {"seconds": 900}, 4).arrivals
    assert trace.name == f"{name} seconds=900"
    assert trace.seconds == 900
    times = [arrival.at for arrival in trace.arrivals]
    assert times == sorted(times)
    assert all(0 <= at < 900 for at in times)


@pytest.mark.parametrize(("mean", "cv"), [(1155, 0.96), (211, 0.77), (28, 2.1), (500, 0)])
def test_lengths_have_the_mean_and_the_spread(mean: float, cv: float) -> None:
    draw = lengths(mean, cv, 10**7, random.Random(5))  # noqa: S311 -- no secret
    drawn = [draw() for _ in range(20_000)]
    assert min(drawn) >= 1
    assert statistics.mean(drawn) == pytest.approx(mean, rel=0.05)
    assert statistics.pstdev(drawn) / statistics.mean(drawn) == pytest.approx(cv, rel=0.1)


def test_lengths_are_cut_at_the_longest_and_at_one() -> None:
    trace = generate("steady", {"prompt": 900, "prompt_cv": 10, "longest": 1000, "output": 1, "output_cv": 10}, 1)
    assert max(arrival.prompt for arrival in trace.arrivals) == 1000
    assert min(arrival.output for arrival in trace.arrivals) == 1


def test_a_share_of_each_prompt_is_cached() -> None:
    trace = generate("steady", {"cached": 0.5, "seconds": 100}, 1)
    assert [arrival.cached for arrival in trace.arrivals] == [arrival.prompt // 2 for arrival in trace.arrivals]
    assert all(arrival.cached == 0 for arrival in generate("steady", {"seconds": 100}, 1).arrivals)


BAD = [
    ("stedy", {}, "generator 'stedy': is unknown; did you mean steady? known: steady, diurnal"),
    ("steady", {"rat": 1}, "generator steady, setting 'rat': is unknown; did you mean rate? known: rate, seconds"),
    ("steady", {"low": 1}, "setting 'low': is unknown"),
    ("steady", {"rate": -1}, "setting rate: -1 is not from 0 to 100000 requests/s; write for example 5"),
    ("steady", {"rate": math.nan}, "setting rate: nan is not"),
    ("steady", {"seconds": math.inf}, "setting seconds: inf is not"),
    ("steady", {"seconds": 0}, "setting seconds: 0 is not from 1"),
    ("steady", {"prompt": 0}, "setting prompt: 0 is not from 1"),
    ("steady", {"output_cv": 11}, "setting output_cv: 11 is not from 0 to 10;"),
    ("steady", {"cached": 1.1}, "setting cached: 1.1 is not from 0 to 1;"),
    ("diurnal", {"period": 0}, "setting period: 0 is not from 1"),
    ("bursts", {"length": 61, "every": 60}, "setting length: 61 s is more than every, 60 s"),
    ("steady", {"rate": 1e5}, "generator steady: 100000 requests/s for 3600 s are more than 10000000 requests"),
]


@pytest.mark.parametrize(("name", "values", "error"), BAD, ids=[row[2][:50] for row in BAD])
def test_what_cannot_be_generated_is_refused(name: str, values: dict[str, float], error: str) -> None:
    with pytest.raises(TraceError) as caught:
        generate(name, values, 1)
    assert error in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("name", GENERATORS)
def test_every_default_is_within_its_bounds(name: str) -> None:
    generator = GENERATORS[name]
    assert generator.about
    assert all(setting.least <= setting.default <= setting.most and setting.help for setting in generator.settings)


def test_random_traces_differ_and_are_small() -> None:
    traces = [random_trace(seed) for seed in range(300)]
    assert {name for name in GENERATORS if any(trace.name.startswith(name) for trace in traces)} == {*GENERATORS}
    assert any(" + " in trace.name for trace in traces)
    for trace in traces:
        times = [arrival.at for arrival in trace.arrivals]
        assert times == sorted(times)
        assert len(times) <= 4000
        assert 300 <= trace.seconds <= 1200
        assert all(
            0 <= arrival.at <= trace.seconds and arrival.prompt >= 1 <= arrival.output for arrival in trace.arrivals
        )
        assert all(0 <= arrival.cached <= arrival.prompt for arrival in trace.arrivals)
    assert random_trace(5) == traces[5]
