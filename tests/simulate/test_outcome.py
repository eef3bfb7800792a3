"""A run's figures, its course and its worst minutes, against hand-made runs whose numbers are known."""

import math
from itertools import pairwise

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from scaler.simulate import outcome
from scaler.simulate.model import Arrival, Change, Fault, Profile, Request, Run, Scenario, Tick, Trace
from scaler.simulate.worst import WINDOW, worst

PROFILE = Profile("p", "", "", 0.01, 0.0, 0.0, 0.0, 0.0, 100_000, gpus=2)


def request(arrived, ttft=None, seconds=None, output=11, restarts=0):
    """ttft, seconds: to its first and last token; None: it did not come."""
    made = Request(arrived, 10, output)
    made.first_token = None if ttft is None else arrived + ttft
    made.finished = None if seconds is None else arrived + seconds
    made.restarts = restarts
    return made


def tick(at, waiting=0, running=0, ready=1, starting=0, going=0, spec=None, arrived=0):
    return Tick(at, arrived, waiting, running, ready, starting, going, ready + starting if spec is None else spec)


def change(at, before, after):
    return Change(at, before, after, None, "", "")


def run(requests=(), ticks=(), changes=(), seconds=600.0, events=(), replica_seconds=0.0, preemptions=0, **scenario):
    trace = Trace("t", [Arrival(each.arrived, each.prompt, each.output) for each in requests], seconds)
    return Run(
        Scenario(trace, PROFILE, **scenario),
        "policy",
        None,
        list(requests),
        list(ticks),
        list(changes),
        replica_seconds,
        preemptions,
        tuple(events),
    )


def test_summary_of_a_run_that_was_counted_by_hand():
    requests = [
        request(0, ttft=1, seconds=3, output=11),  # 0.2 s a token
        request(10, ttft=2, seconds=4, output=5),  # just in time; 0.5 s a token
        request(20, ttft=2.5, seconds=2.5, output=1, restarts=2),  # late; no time between one token
        request(30, ttft=0.5),  # began, not finished
        request(40),  # never began
    ]
    ticks = [
        tick(0, ready=2, waiting=3),
        tick(300, ready=3, starting=2, going=1, waiting=7),
        tick(600, ready=4, waiting=1),
    ]
    changes = [change(0, 2, 5), change(300, 5, 4), change(1000, 4, 5)]
    made = outcome.summary(run(requests, ticks, changes, seconds=1800.0, replica_seconds=5400.0, preemptions=4))
    assert made._asdict() == {
        "attainment": pytest.approx(0.6),
        "gpu_hours": 3.0,
        "requests": 5,
        "missed": 2,
        "unfinished": 2,
        "ttft_p50": 2.0,
        "ttft_p95": math.inf,
        "ttft_p99": math.inf,
        "between_tokens_p50": 0.2,
        "between_tokens_p95": 0.5,
        "e2e_p95": 4.0,
        "restarts": 2,
        "preemptions": 4,
        "replicas_mean": 3.0,
        "replicas_peak": 6,
        "ups_per_hour": 4.0,
        "downs_per_hour": 2.0,
        "reversals": 1,
        "queue_peak": 7,
    }


@pytest.mark.parametrize(
    ("requests", "attainment", "missed"),
    [
        ([], None, 0),
        ([request(598.5)], None, 0),  # it may still be in time
        ([request(598.5, ttft=1)], 1.0, 0),
        ([request(598.0)], 0.0, 1),  # its two seconds are over
        ([request(598.5), request(0, ttft=1)], 1.0, 0),
        ([request(0), request(1, ttft=1)], 0.5, 1),
    ],
)
def test_only_decided_requests_count(requests, attainment, missed):
    made = outcome.summary(run(sorted(requests, key=lambda each: each.arrived)))
    assert (made.attainment, made.missed) == (attainment, missed)
    assert made.requests == len(requests)


def test_a_run_that_outlasts_its_trace_ends_with_its_last_tick():
    late = run([request(598.5)], [tick(700)])
    assert outcome.end(late) == 700
    assert outcome.summary(late).attainment == 0.0


@pytest.mark.parametrize(
    ("count", "percent", "rank"),
    [(1, 50, 1), (1, 99, 1), (2, 50, 1), (3, 50, 2), (20, 95, 19), (21, 95, 20), (100, 95, 95), (100, 99, 99)],
)
def test_quantile_is_the_nearest_rank(count, percent, rank):
    assert outcome.quantile(list(range(1, count + 1)), percent) == rank


def test_nothing_has_no_quantile():
    assert outcome.quantile([], 50) is None


@pytest.mark.parametrize(
    ("moves", "reversals"),
    [
        ([], 0),
        ([(0, 1, 2), (60, 2, 3)], 0),
        ([(0, 1, 2), (600, 2, 1)], 1),
        ([(0, 1, 2), (601, 2, 1)], 0),
        ([(0, 3, 2), (60, 2, 3), (120, 3, 2)], 2),
        ([(0, 1, 2), (30, 2, 2), (60, 2, 1)], 1),  # a change of nothing stands between nobody
    ],
)
def test_reversals(moves, reversals):
    assert outcome.summary(run(changes=[change(*move) for move in moves])).reversals == reversals


def test_timelines_keep_peaks_and_the_last_state():
    requests = [request(1, ttft=1), request(2, ttft=3), request(12), request(19.5)]
    ticks = [
        tick(0, waiting=1, ready=1),
        tick(5, waiting=9, running=4, ready=2, starting=3, spec=6),
        tick(10, waiting=2, ready=3),
        tick(15, waiting=0, running=7, ready=4, spec=5),
        tick(20, waiting=5, ready=5),
    ]
    made = outcome.timelines(run(requests, ticks, seconds=20.0), points=2)
    assert made.seconds == 10
    assert made.points == (
        outcome.Point(0, 0.2, 9, 4, 2, 3, 6, 1.0, 3.0),
        outcome.Point(10, 0.2, 5, 7, 5, 0, 5, math.inf, math.inf),  # of two, one is not decided
    )


@pytest.mark.parametrize(
    ("seconds", "points", "count", "width"), [(600, 240, 120, 5), (600, 100, 60, 10), (7, 10, 2, 5)]
)
def test_a_point_is_of_whole_intervals(seconds, points, count, width):
    made = outcome.timelines(
        run(ticks=[tick(float(at)) for at in range(0, seconds, 5)], seconds=float(seconds)), points
    )
    assert (len(made.points), made.seconds) == (count, width)


def test_a_stretch_without_ticks_shows_the_last():
    made = outcome.timelines(run(ticks=[tick(0, ready=2), tick(20, ready=5)], seconds=20.0), points=4)
    assert [point.ready for point in made.points] == [2, 2, 2, 5]


def test_no_ticks_no_timelines():
    assert outcome.timelines(run([request(1)])).points == ()


def crowd(begin, end, per_second, ttft=0.1):
    return [request(begin + index / per_second, ttft=ttft) for index in range(int((end - begin) * per_second))]


def beats(begin, end, **values):
    return [tick(float(at), **values) for at in range(begin, end, 5)]


QUIET = crowd(0, 300, 2)
LATE = crowd(300, 360, 2, ttft=9)

#: What happened in the minute from 0:05:00, and what must be told.
CAUSES = [
    ("nothing else", {"ticks": beats(0, 600, ready=4, waiting=8)}, "the policy asked for no more than 4 replicas"),
    (
        "at the maximum",
        {"ticks": beats(0, 600, ready=4), "maximum": 4},
        "the replicas were at their maximum of 4",
    ),
    (
        "started in time but in vain",
        {"ticks": beats(0, 600, ready=4, waiting=8), "changes": [change(60, 3, 4)]},
        "up to 8 requests waited for 4 ready replicas",
    ),
    (
        "loading",
        {"ticks": beats(0, 240, ready=3) + beats(240, 600, ready=3, starting=5)},
        "5 replicas had been starting since 0:04:00",
    ),
    (
        "from zero",
        {"ticks": beats(0, 600, ready=0, starting=1)},
        "no replica was ready; 1 replica had been starting since 0:00:00",
    ),
    (
        "load rose",
        {
            "requests": QUIET + crowd(300, 360, 8, ttft=9),
            "ticks": beats(0, 600, ready=3, starting=1),
        },
        "1 replica had been starting since 0:00:00; load rose from 2 to 8 requests/s within 60 s, by 0:06:00",
    ),
    (
        "gone down too early",
        {"ticks": beats(0, 600, ready=4, starting=1), "changes": [change(120, 8, 6), change(180, 6, 5)]},
        "1 replica had been starting since 0:00:00; the policy had gone down from 8 to 5 by 0:03:00",
    ),
    (
        "a replica throttled",
        {"ticks": beats(0, 600, ready=2, starting=1), "faults": (Fault(30, "throttled", factor=3.0),)},
        "a replica's steps had taken 3 times as long since 0:00:30; 1 replica had been starting since 0:00:00",
    ),
    (
        "a fault that is over, and one to come",
        {
            "ticks": beats(0, 600, ready=1, starting=1),
            "faults": (Fault(30, "blind", seconds=120), Fault(370, "wedged")),
        },
        "1 replica had been starting since 0:00:00",
    ),
    (
        "lost just before",
        {"ticks": beats(0, 600, ready=1, starting=1), "faults": (Fault(290, "lost"),)},
        "a replica was lost at 0:04:50; 1 replica had been starting since 0:00:00",
    ),
    (
        "no room for replicas of two GPUs",
        {"ticks": beats(0, 600, ready=4, starting=2), "nodes": 1},
        "4 replicas fit into the nodes that there are, 6 were asked for; 2 replicas had been starting since 0:00:00",
    ),
    ("no ticks at all", {}, "up to 0 requests waited for 0 ready replicas"),
]


@pytest.mark.parametrize(("given_", "cause"), [row[1:] for row in CAUSES], ids=[row[0] for row in CAUSES])
def test_cause_of_the_worst_minute(given_, cause):
    (seen,) = worst(run(**{"requests": QUIET + LATE} | given_))
    assert (seen.at, seen.cause) == (300, cause)


def test_chance_is_no_rise():
    """Two minutes with 9 and 16 requests: 1.8 times as many, and well within chance."""
    requests = [*crowd(180, 240, 0.15), *crowd(240, 300, 16 / 60), request(301, ttft=9)]
    (seen,) = worst(run(requests, beats(0, 600, ready=1, starting=1)))
    assert "rose" not in seen.cause


def test_a_window_tells_what_stood_there():
    ticks = beats(0, 300, ready=5) + beats(300, 600, ready=4, starting=2, waiting=30, spec=6)
    changes = [change(at, 5, 6) for at in (10, 100, 150, 200, 250, 310, 400)]
    events = ((100.0, "old"), (310.0, "now"), (360.0, "later"))
    (seen,) = worst(run(QUIET + LATE, ticks, changes, events=events))
    assert (seen.requests, seen.missed, seen.load, seen.load_before, seen.ttft_p95) == (120, 120, 2.0, 2.0, 9.0)
    assert (seen.waiting, seen.ready, seen.starting, seen.spec) == (30, 4, 2, 6)
    assert [made.at for made in seen.changes] == [150, 200, 250, 310]
    assert seen.events == events[:2]


def test_worst_first_and_apart():
    requests = crowd(100, 400, 1, ttft=9) + crowd(1000, 1060, 3, ttft=9) + crowd(2000, 2010, 1, ttft=9)
    found = worst(run(requests, seconds=3000.0))
    assert [(seen.at, seen.missed) for seen in found] == [(1000, 180), (100, 60), (2000, 10)]
    assert [seen.at for seen in worst(run(requests, seconds=3000.0), count=2)] == [1000, 100]
    near = worst(run(crowd(100, 400, 1, ttft=9), seconds=3000.0), apart=0)
    assert [seen.at for seen in near] == [100, 160, 220]


def test_nobody_late_no_worst_minute():
    assert worst(run(QUIET, beats(0, 600))) == ()


times = st.floats(0, 700)
some_requests = st.lists(
    st.tuples(times, st.none() | st.floats(0, 100), st.none() | st.floats(0, 100), st.integers(1, 9))
)
some_ticks = st.lists(st.tuples(times, *[st.integers(0, 50)] * 7), max_size=30)
some_changes = st.lists(st.tuples(times, st.integers(0, 9), st.integers(0, 9)), max_size=9)


@given(some_requests, some_ticks, some_changes, st.sampled_from([0.0, 1.0, 600.0]), st.integers(1, 50))
@settings(max_examples=150, deadline=None)
def test_any_run_has_figures(requests, ticks, changes, seconds, points):
    made = run(
        [request(at, ttft, None if ttft is None or more is None else ttft + more, output)
         for at, ttft, more, output in sorted(requests, key=lambda each: each[0])],
        [Tick(at, *counts) for at, *counts in sorted(ticks)],
        [change(*each) for each in sorted(changes)],
        seconds=seconds,
    )  # fmt: skip
    counted = outcome.summary(made)
    assert counted.attainment is None or 0 <= counted.attainment <= 1
    assert counted.missed <= counted.requests == len(requests)
    if counted.ttft_p50 is not None:
        assert counted.ttft_p50 <= counted.ttft_p95 <= counted.ttft_p99
    course = outcome.timelines(made, points)
    assert len(course.points) <= points
    if course.points:
        length = outcome.end(made)
        spans = [min(course.seconds, length - point.at) for point in course.points]
        assert sum(p.arrivals * span for p, span in zip(course.points, spans, strict=True)) == pytest.approx(
            len(requests)
        )
    windows = worst(made)
    assert sum(seen.missed for seen in windows) <= counted.missed
    starts = sorted(seen.at for seen in windows)
    assert all(later - earlier >= WINDOW for earlier, later in pairwise(starts))
    assert bool(windows) == bool(counted.missed)
