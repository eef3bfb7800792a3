"""The arithmetic of KEDA and the HPA, one row a rule, each with the place in their code that it follows."""

from typing import NamedTuple

import pytest
from hypothesis import given
from hypothesis import strategies as st

from scaler.simulate.hpa import (
    Fallback,
    Hpa,
    Metric,
    Policy,
    Rules,
    Scale,
    ScaledObject,
    State,
    desired,
    fall_back,
    poll,
    proposal,
    received,
    sync,
)

NOW = 10_000.0
PLAIN = Hpa(1, 100)
AVERAGE = "GetExternalPerPodMetricReplicas"
VALUE = "GetExternalMetricReplicas"
COMPUTE = "computeReplicasForMetrics"
RECONCILE = "reconcileAutoscaler"
NORMALIZE = "normalizeDesiredReplicas"
BEHAVIOR = "stabilizeRecommendationWithBehaviors"
RATE = "convertDesiredReplicasWithBehaviorRate"


def behaving(up: Rules | None = None, down: Rules | None = None) -> Hpa:
    """An HPA that has `behavior`; a half that is not given is left out, as a user would."""
    return Hpa(1, 100, up, down)


def average(value: float | None, target: float = 1.0) -> Metric:
    return Metric(value, target)


def plain(value: float | None, target: float = 1.0) -> Metric:
    return Metric(value, target, "Value")


class Proposal(NamedTuple):
    rule: str
    source: str
    metric: Metric
    scale: Scale
    expect: int | None
    hpa: Hpa = PLAIN


LOOSE_DOWN = behaving(down=Rules(0.0, (Policy("Percent", 100, 15.0),), tolerance=0.5))

PROPOSALS = [
    Proposal("average rounds up", AVERAGE, average(7.2), Scale(3, 3, 3), 8),
    Proposal("average asks in whole replicas of its target", AVERAGE, average(23, 5), Scale(2, 2, 2), 5),
    Proposal("average ignores pending pods", AVERAGE, average(8), Scale(8, 8, 1), 8),
    Proposal("average at 1.1 is tolerated", AVERAGE, average(11, 1), Scale(10, 10, 10), 10),
    Proposal("average at 0.9 is tolerated", AVERAGE, average(9, 1), Scale(10, 10, 10), 10),
    Proposal("average above 1.1 is not", AVERAGE, average(11.001), Scale(10, 10, 10), 12),
    Proposal("average below 0.9 is not", AVERAGE, average(8.999), Scale(10, 10, 10), 9),
    Proposal("tolerance keeps the status, not the spec", AVERAGE, average(4), Scale(6, 4, 4), 4),
    Proposal("average with no pod yet", AVERAGE, average(2), Scale(1, 0, 0), 2),
    Proposal("average of nothing", AVERAGE, average(0), Scale(3, 3, 3), 0),
    Proposal("thousandths, as a Quantity has them", AVERAGE, average(0.1 + 0.2, 0.1), Scale(1, 1, 1), 3),
    Proposal("value multiplies ready pods", VALUE, plain(20, 10), Scale(4, 4, 4), 8),
    Proposal("value asks too little while pods load", VALUE, plain(20, 10), Scale(4, 4, 2), 4),
    Proposal("value within tolerance keeps the spec", VALUE, plain(10.9, 10), Scale(4, 4, 1), 4),
    Proposal("no value, no proposal", AVERAGE, average(None), Scale(4, 4, 4), None),
    Proposal("own tolerance downwards", "isWithin", average(6), Scale(10, 10, 10), 10, LOOSE_DOWN),
    Proposal("... leaves the other direction", "isWithin", average(12), Scale(10, 10, 10), 12, LOOSE_DOWN),
]


@pytest.mark.parametrize("row", PROPOSALS, ids=lambda row: row.rule)
def test_proposal(row: Proposal) -> None:
    assert proposal(row.hpa, row.metric, row.scale) == row.expect, row.source


class Combined(NamedTuple):
    rule: str
    metrics: list[Metric]
    expect: int | None


COMBINED = [
    Combined("the largest wins", [average(3), average(7), plain(2, 1)], 10),
    Combined("all invalid: hold", [average(None), plain(None)], None),
    Combined("no metric: hold", [], None),
    Combined("some invalid and the rest would scale down: hold", [average(None), average(2)], None),
    Combined("some invalid and the rest would scale up: up", [average(None), average(9)], 9),
    Combined("some invalid and the rest would stay: stay", [average(None), average(5)], 5),
]


@pytest.mark.parametrize("row", COMBINED, ids=lambda row: row.rule)
def test_several_metrics(row: Combined) -> None:
    assert desired(PLAIN, row.metrics, Scale(5, 5, 5)) == row.expect, COMPUTE


class Pass(NamedTuple):
    """One sync: what is wanted now (target 1, AverageValue), what is remembered, what comes out."""

    rule: str
    source: str
    wanted: float
    current: int
    expect: int
    hpa: Hpa = PLAIN
    state: State = State()


def had(*recommendations: tuple[float, int]) -> State:
    """Seconds ago -> replicas that were wanted then."""
    return State(recommendations=tuple((NOW - ago, count) for ago, count in recommendations))


def moved(added: tuple[tuple[float, int], ...] = (), removed: tuple[tuple[float, int], ...] = ()) -> State:
    return State(
        added=tuple((NOW - ago, count) for ago, count in added),
        removed=tuple((NOW - ago, count) for ago, count in removed),
    )


DEFAULTED = behaving(up=Rules(0.0, (Policy("Pods", 4, 15.0), Policy("Percent", 100, 15.0))))
SLOW_UP = behaving(up=Rules(60.0, (Policy("Percent", 900, 15.0),)))
QUICK_DOWN = behaving(down=Rules(0.0, (Policy("Percent", 100, 15.0),)))
STEPPED_DOWN = behaving(down=Rules(0.0, (Policy("Pods", 2, 60.0), Policy("Percent", 10, 60.0))))
STEPPED_DOWN_MIN = behaving(down=Rules(0.0, (Policy("Pods", 2, 60.0), Policy("Percent", 10, 60.0)), "Min"))
STEPPED_UP_MIN = behaving(up=Rules(0.0, (Policy("Pods", 1, 60.0), Policy("Percent", 100, 60.0)), "Min"))
NO_DOWN = behaving(down=Rules(0.0, (Policy("Percent", 100, 15.0),), "Disabled"))
NO_UP = behaving(up=Rules(0.0, (Policy("Percent", 100, 15.0),), "Disabled"))

PASSES = [
    Pass("0 replicas switch it off", RECONCILE, 7, 0, 0),
    Pass("above the bound: to the bound at once", RECONCILE, 7, 200, 100),
    Pass("below the bound: to the bound at once", RECONCILE, 7, 2, 5, Hpa(5, 100)),
    Pass("clamped below", NORMALIZE, 1, 3, 3, Hpa(3, 100)),
    Pass("clamped above", NORMALIZE, 50, 9, 10, Hpa(1, 10)),
    Pass("at least 1", NORMALIZE, 0, 3, 1),
    Pass("no behavior: double at most", NORMALIZE, 50, 6, 12),
    Pass("no behavior: 4 at least allowed", NORMALIZE, 50, 1, 4),
    Pass("no behavior: the most of 300 s", NORMALIZE, 2, 8, 6, state=had((299, 6), (100, 3))),
    Pass("no behavior: what is 300 s old still counts", NORMALIZE, 2, 8, 6, state=had((300, 6))),
    Pass("no behavior: what is older does not", NORMALIZE, 2, 8, 2, state=had((301, 6))),
    Pass("no behavior: the window can also raise", NORMALIZE, 2, 4, 6, state=had((100, 6))),
    Pass("no behavior: drops all the way at once", NORMALIZE, 1, 20, 1),
    Pass("behavior: up by 4 pods at once", RATE, 50, 2, 6, DEFAULTED),
    Pass("behavior: or by 100 %, the larger", RATE, 50, 6, 12, DEFAULTED),
    Pass("behavior: own additions use up the period", RATE, 50, 6, 6, DEFAULTED, moved(added=((14, 4),))),
    Pass("behavior: the period is over after 15 s", RATE, 50, 6, 12, DEFAULTED, moved(added=((15, 4),))),
    Pass("behavior: only own rescales count", RATE, 50, 6, 12, DEFAULTED, had((5, 6))),
    Pass("behavior: removals widen the way back", RATE, 50, 4, 12, DEFAULTED, moved(removed=((5, 2),))),
    Pass("behavior: a half left out has its defaults", RATE, 50, 2, 6, QUICK_DOWN),
    Pass("behavior: up to the least of its window", BEHAVIOR, 9, 3, 5, SLOW_UP, had((59, 5), (20, 8))),
    Pass("behavior: one low value in the window holds", BEHAVIOR, 9, 3, 3, SLOW_UP, had((59, 2), (20, 8))),
    Pass("behavior: the window's edge is out", BEHAVIOR, 9, 3, 9, SLOW_UP, had((60, 2))),
    Pass("behavior: down to the most of 300 s", BEHAVIOR, 2, 8, 6, DEFAULTED, had((299, 6), (100, 3))),
    Pass("behavior: what is 300 s old is out", BEHAVIOR, 2, 8, 2, DEFAULTED, had((300, 6))),
    Pass("behavior: the down window cannot raise", BEHAVIOR, 2, 4, 4, DEFAULTED, had((100, 6))),
    Pass("behavior: down window 0", BEHAVIOR, 2, 8, 2, QUICK_DOWN, had((1, 6))),
    Pass("down policies: Max is the largest step", RATE, 1, 50, 45, STEPPED_DOWN),
    Pass("down policies: Min is the smallest step", RATE, 1, 50, 48, STEPPED_DOWN_MIN),
    Pass("down per cent is cut, not rounded up", RATE, 1, 19, 17, STEPPED_DOWN),
    Pass("down period counts own removals", RATE, 1, 46, 45, STEPPED_DOWN, moved(removed=((59, 4),))),
    Pass("up policies: Min is the smallest step", RATE, 50, 8, 9, STEPPED_UP_MIN),
    Pass("up per cent is rounded up", RATE, 9, 1, 2, behaving(up=Rules(0.0, (Policy("Percent", 10, 60.0),)))),
    Pass("down disabled", RATE, 1, 8, 8, NO_DOWN),
    Pass("up disabled", RATE, 9, 3, 3, NO_UP),
    Pass("behavior: clamped above", RATE, 500, 90, 100, DEFAULTED),
    Pass("behavior: clamped below", RATE, 0, 3, 1, QUICK_DOWN),
]


@pytest.mark.parametrize("row", PASSES, ids=lambda row: row.rule)
def test_sync(row: Pass) -> None:
    # status 0 keeps the tolerance, which has its own rows, out of these.
    replicas, state = sync(row.hpa, row.state, [average(row.wanted)], Scale(row.current, 0, 0), NOW)
    assert replicas == row.expect, row.source
    assert (NOW, replicas - row.current) in state.added or replicas <= row.current
    assert (NOW, row.current - replicas) in state.removed or replicas >= row.current


def test_an_error_leaves_no_trace_in_the_windows() -> None:
    state = had((10, 6))
    assert sync(PLAIN, state, [average(None)], Scale(4, 4, 4), NOW) == (4, state)


def test_the_window_remembers_what_was_wanted_not_what_was_allowed() -> None:
    _, state = sync(Hpa(1, 5), State(), [average(40)], Scale(2, 2, 2), NOW)
    assert state.recommendations == ((NOW, 40),)


def test_memory_is_bounded_by_the_longest_window() -> None:
    state = State()
    for second in range(2000):
        _, state = sync(DEFAULTED, state, [average(second % 7)], Scale(3, 3, 3), NOW + second)
    assert len(state.recommendations) <= 302
    assert len(state.added) <= 302
    assert len(state.removed) <= 302


def test_a_step_of_load_comes_and_goes_as_on_a_cluster() -> None:
    """Default HPA, a sync each 15 s: 2 -> 4 -> 8 -> 10, and back 300 s after the last high value."""
    state, current, seen = State(), 2, []
    for turn in range(40):
        now = NOW + 15.0 * turn
        current, state = sync(PLAIN, state, [average(10 if turn < 5 else 2)], Scale(current, current, current), now)
        seen.append(current)
    assert seen[:5] == [4, 8, 10, 10, 10]
    assert seen[5:25] == [10] * 20  # the last high value was at turn 4: 300 s are 20 turns
    assert seen[25:] == [2] * 15


class Value(NamedTuple):
    rule: str
    as_int: int
    as_float: float
    expect: float


VALUES = [
    Value("the float, if it is above 0", 3, 2.5, 2.5),
    Value("else the int", 3, 0.0, 3.0),
    Value("a negative float gives way to the int", 3, -1.0, 3.0),
    Value("NaN gives way to the int", 3, float("nan"), 3.0),
    Value("an infinite float is 0", 3, float("inf"), 0.0),
    Value("a negative int is 0", -3, 0.0, 0.0),
    Value("cut to thousandths", 0, 2.9999, 2.999),
]


@pytest.mark.parametrize("row", VALUES, ids=lambda row: row.rule)
def test_received(row: Value) -> None:
    assert received(row.as_int, row.as_float) == row.expect, "scalers.GenerateMetricInMili"


class Fallen(NamedTuple):
    rule: str
    fallback: Fallback | None
    metric: Metric
    failures: int
    expect: float | None
    expect_failures: int


FALLEN = [
    Fallen("a value resets the count", Fallback(3, 6), average(2), 9, 2, 0),
    Fallen("no fallback: the error stays", None, average(None), 9, None, 10),
    Fallen("up to the threshold the error stays", Fallback(3, 6), average(None), 2, None, 3),
    Fallen("above it the value asks for the replicas", Fallback(3, 6), average(None, 5), 3, 30, 4),
    Fallen("not for Value", Fallback(3, 6), plain(None), 9, None, 10),
    Fallen("currentReplicas", Fallback(0, 6, "currentReplicas"), average(None), 0, 4, 1),
    Fallen("currentReplicasIfHigher, lower", Fallback(0, 6, "currentReplicasIfHigher"), average(None), 0, 6, 1),
    Fallen("currentReplicasIfHigher, higher", Fallback(0, 3, "currentReplicasIfHigher"), average(None), 0, 4, 1),
    Fallen("currentReplicasIfLower", Fallback(0, 6, "currentReplicasIfLower"), average(None), 0, 4, 1),
]


@pytest.mark.parametrize("row", FALLEN, ids=lambda row: row.rule)
def test_fallback(row: Fallen) -> None:
    metric, failures = fall_back(ScaledObject(fallback=row.fallback), row.failures, row.metric, 4)
    assert (metric.value, failures) == (row.expect, row.expect_failures), "fallback.GetMetricsWithFallback"


class Polled(NamedTuple):
    rule: str
    spec: ScaledObject
    last_active: float | None
    active: bool | None
    replicas: int
    expect: int
    expect_active: float | None


POLLED = [
    Polled("0 -> 1", ScaledObject(), None, True, 0, 1, NOW),
    Polled("0 -> the minimum", ScaledObject(3), None, True, 0, 3, NOW),
    Polled("active at N: only remembered", ScaledObject(), None, True, 5, 5, NOW),
    Polled("inactive in the cooldown", ScaledObject(), NOW - 300, False, 5, 5, NOW - 300),
    Polled("inactive after it: straight to 0", ScaledObject(), NOW - 300.1, False, 5, 0, NOW - 300.1),
    Polled("never seen active: no cooldown", ScaledObject(), None, False, 5, 0, None),
    Polled("a minimum is never left", ScaledObject(1), None, False, 5, 5, None),
    Polled("inactive below the minimum: up to it", ScaledObject(2), None, False, 0, 2, None),
    Polled("an error holds", ScaledObject(), NOW - 900, None, 5, 5, NOW - 900),
    Polled("an error with fallback holds", ScaledObject(fallback=Fallback(3, 6)), NOW - 900, None, 5, 5, NOW - 900),
    Polled("fallback of 0: an error zeroes", ScaledObject(fallback=Fallback(3, 0)), NOW - 900, None, 5, 0, NOW - 900),
]


@pytest.mark.parametrize("row", POLLED, ids=lambda row: row.rule)
def test_poll(row: Polled) -> None:
    result = poll(row.spec, row.last_active, row.active, row.replicas, NOW)
    assert result == (row.expect, row.expect_active), "executor.RequestScale"


def test_keda_never_gives_an_hpa_a_minimum_of_0() -> None:
    assert ScaledObject(0, 7).hpa() == Hpa(1, 7)


COUNT = st.integers(1, 200)
RULES = st.builds(
    Rules,
    window=st.sampled_from([0.0, 15.0, 300.0]),
    policies=st.lists(
        st.builds(Policy, st.sampled_from(["Pods", "Percent"]), st.integers(1, 200), st.sampled_from([15.0, 60.0])),
        min_size=1,
        max_size=3,
    ).map(tuple),
    select=st.sampled_from(["Max", "Min", "Disabled"]),
    tolerance=st.sampled_from([0.0, 0.1, 0.5]),
)
EVENTS = st.lists(st.tuples(st.floats(NOW - 400, NOW), COUNT), max_size=5).map(tuple)
HPAS = st.builds(
    lambda low, span, up, down: Hpa(low, low + span, up, down),
    COUNT,
    st.integers(0, 200),
    st.none() | RULES,
    st.none() | RULES,
)
NUMBER = st.floats(0, 500)


@given(
    HPAS, st.builds(State, EVENTS, EVENTS, EVENTS), st.lists(st.builds(Metric, st.none() | NUMBER, COUNT)), COUNT, COUNT
)
def test_always_within_bounds(hpa: Hpa, state: State, metrics: list[Metric], spec: int, ready: int) -> None:
    replicas, _ = sync(hpa, state, metrics, Scale(spec, spec, ready), NOW)
    assert hpa.minimum <= replicas <= hpa.maximum


@given(HPAS, NUMBER, NUMBER, st.integers(1, 20), COUNT, st.sampled_from(["AverageValue", "Value"]))
def test_more_load_never_means_fewer_replicas(hpa: Hpa, a: float, b: float, target: int, spec: int, kind: str) -> None:
    """With no history and all pods there and ready; while pods are pending, Value breaks this (its row is above)."""
    less, more = (
        sync(hpa, State(), [Metric(load, target, kind)], Scale(spec, spec, spec), NOW)[0] for load in sorted((a, b))
    )
    assert less <= more


@given(HPAS, st.builds(State, EVENTS, EVENTS, EVENTS), COUNT)
def test_an_error_never_moves_replicas_within_bounds(hpa: Hpa, state: State, spec: int) -> None:
    spec = min(max(spec, hpa.minimum), hpa.maximum)
    assert sync(hpa, state, [average(None)], Scale(spec, spec, spec), NOW)[0] == spec
