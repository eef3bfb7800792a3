"""The peers with controllers of their own: their rules and what follows from histories, one row a rule."""

from collections.abc import Sequence
from typing import NamedTuple

import pytest

from scaler.simulate.peers import PEERS
from scaler.simulate.peers_aibrix import Use, apa, kpa
from scaler.simulate.peers_knative import Buckets
from scaler.simulate.peers_wva import Replica, desired_replicas, v1, v2
from tests.simulate.seen import BLIND, CAPACITY, PROFILE, STARTING, P, every, play, scenario, seen


class Row(NamedTuple):
    rule: str
    source: str
    peer: str
    knob: float
    start: int
    steps: Sequence[tuple[float, Sequence[P]]]
    expect: list[int]
    last: bool = False  # only the last answers are compared


KNATIVE = "knative autoscaler.go, Scale"
RAY = "ray autoscaling_policy.py, _apply_delay_logic"
LOAD = "dynamo load_scaling.py, _agg_easy_decision"
RECONCILE = "dynamo load_scaling.py, _advance_load_agg"
THROUGHPUT = "dynamo throughput_scaling.py, _throughput_agg"
STABILIZE = "aibrix podautoscaler_controller.go, stabilizeRecommendation"
COLLECT = "aibrix metrics/collector.go"
WVA = "workload-variant-autoscaler values.yaml, hpa.behavior"

LONG = {"prompts": 10_000.0, "prefilled": 10.0}  # prompts of 1,000 tokens


def held(count: float) -> P:
    return P(running=count)


def at_kv(share: float, waiting: float = 0.0) -> P:
    return P(waiting, kv=share)


def after(burst: Sequence[P], then: Sequence[P], seconds: float = 0.0) -> list[tuple[float, Sequence[P]]]:
    return every(5, 65, lambda now: burst if now <= seconds else then)


ROWS = [
    # --- a fixed number
    Row("a fixed number", "", "static", 4, 1, [(0, [P(90)]), (15, [BLIND])], [4, 4]),
    Row("within the bounds", "", "static", 99, 1, [(0, [P()])], [40]),
    # --- AIBrix
    Row(
        "down to the LEAST of 300 s",
        STABILIZE,
        "aibrix-apa",
        0.5,
        8,
        [(t, [at_kv(kv)]) for t, kv in ((1000, 0.05), (1010, 1.0), (1020, 1.0), (1030, 0.0), (1040, 0.0))],
        [4, 4, 6, 6, 4],
    ),
    Row(
        "what is over 300 s old is forgotten",
        STABILIZE,
        "aibrix-apa",
        0.5,
        2,
        [(t, [at_kv(kv)]) for t, kv in ((0, 0.1), (200, 5.0), (400, 0.8), (600, 0.3))],
        [1, 2, 4, 3],
    ),
    Row(
        "the mean of 180 s",
        "aibrix client.go",
        "aibrix-apa",
        0.5,
        2,
        [(0, [at_kv(1.0)]), (180, [at_kv(0.5)])],
        [4, 6],
    ),
    Row("and no more", "aibrix client.go", "aibrix-apa", 0.5, 2, [(0, [at_kv(1.0)]), (190, [at_kv(0.5)])], [4, 4]),
    Row("no pod answers: nothing", COLLECT, "aibrix-apa", 0.5, 4, [(0, [BLIND] * 4)], [4]),
    Row("the mean of those that answer", COLLECT, "aibrix-apa", 0.5, 2, [(0, [at_kv(1.0), BLIND])], [4]),
    Row("by running requests", "aibrix apa.go", "aibrix-apa-running", 16, 2, [(0, [held(24), held(24)])], [3]),
    Row(
        "twice the stable is panic",
        "aibrix kpa.go",
        "aibrix-kpa",
        0.1,
        2,
        [(0, [at_kv(0.1)]), (60, [at_kv(0.1)]), (120, [at_kv(0.1)]), (180, [at_kv(1.0)])],
        [2, 2, 2, 4],
    ),
    # --- Knative: a knob of 10 is a target of 7
    Row("70 % of the target", KNATIVE, "knative", 10, 1, [(0, [held(7)])], [1]),
    Row("over it", KNATIVE, "knative", 10, 1, [(0, [held(7.1)])], [2]),
    Row("panic at twice what is ready", KNATIVE, "knative", 10, 1, after([held(20)], [held(1)] * 3), [3] * 13 + [1]),
    Row("a target of at least 1", "knative target.go", "knative", 1, 1, [(0, [held(1)])], [1]),
    Row("two of one is panic for 60 s", KNATIVE, "knative", 10, 1, after([held(14)], [P()] * 2), [2] * 13 + [1]),
    Row(
        "a second panic knows nothing of the first",
        KNATIVE,
        "knative",
        10,
        1,
        [*after([held(35)], [P()] * 5), (70, [held(42)])],
        [5] * 13 + [2, 3],
    ),
    Row("no panic below that", KNATIVE, "knative", 10, 2, [(0, [held(10)] * 2), (70, [held(10)] * 2)], [3, 3]),
    Row(
        "it begins in panic with more than one, then halves",
        KNATIVE,
        "knative",
        10,
        10,
        every(5, 65, lambda now: [held(0)] * 10),
        [10] * 13 + [5],
    ),
    Row(
        "the mean of 60 s",
        KNATIVE,
        "knative",
        10,
        1,
        every(5, 70, lambda now: [held(10 if now >= 30 else 0)] * 2),
        [1] * 9 + [2] * 5 + [3],
    ),
    Row("no numbers: nothing", KNATIVE, "knative", 10, 3, [(0, [BLIND] * 3)], [3]),
    Row("those that answer stand for all", "knative stats_scraper.go", "knative", 10, 2, [(0, [held(14), BLIND])], [4]),
    Row("not those that start", "knative stats_scraper.go", "knative", 10, 1, [(0, [held(14), STARTING])], [2]),
    # --- Ray Serve
    Row("up after 30 s", RAY, "ray-serve", 2, 1, every(5, 30, lambda now: [held(8)]), [1] * 6 + [4]),
    Row(
        "counted from the turn after one that wanted nothing",
        RAY,
        "ray-serve",
        2,
        1,
        every(5, 35, lambda now: [held(2 if now == 0 else 8)]),
        [1] * 7 + [4],
    ),
    Row(
        "and anew after each step",
        RAY,
        "ray-serve",
        2,
        1,
        every(5, 65, lambda now: [held(8 if now < 35 else 16)]),
        [1] * 6 + [4] * 7 + [8],
    ),
    Row(
        "as much as the last turn wants",
        RAY,
        "ray-serve",
        2,
        1,
        every(5, 30, lambda now: [held(8 if now < 15 else 0)]),
        [1] * 6 + [2],
    ),
    Row("down after 600 s", RAY, "ray-serve", 2, 4, every(5, 600, lambda now: [P()] * 4), [4, 4, 1], True),
    Row(
        "a turn that wants nothing begins the delay anew",
        RAY,
        "ray-serve",
        2,
        4,
        every(5, 700, lambda now: [held(6 if now == 300 else 1)] * 4),
        [4, 4, 4],
        True,
    ),
    Row(
        "a report stands until its replica stops",
        "ray autoscaling_state.py",
        "ray-serve",
        2,
        1,
        every(5, 30, lambda now: [held(8) if now == 0 else BLIND]),
        [1] * 6 + [4],
    ),
    Row(
        "none runs: nothing",
        "ray autoscaling_policy.py",
        "ray-serve",
        2,
        1,
        every(5, 60, lambda now: [STARTING]),
        [1] * 13,
    ),
    # --- Dynamo
    Row("tokens that wait are counted", LOAD, "dynamo-load", 1, 1, [(0, [P(1, kv=0.95, **LONG)])], [2]),
    Row("at 1.0 nothing", LOAD, "dynamo-load", 1, 1, [(0, [P(1, kv=0.9, **LONG)])], [1]),
    Row("any worker over it", LOAD, "dynamo-load", 1, 2, [(0, [at_kv(0.2), P(9, kv=0.2, **LONG)])], [3]),
    Row("one less when all are below 0.6", LOAD, "dynamo-load", 1, 2, [(0, [at_kv(0.5), at_kv(0.59)])], [1]),
    Row("one at a time", LOAD, "dynamo-load", 1, 4, [(0, [at_kv(0.0)] * 4)], [3]),
    Row("not when one is not", LOAD, "dynamo-load", 1, 2, [(0, [at_kv(0.5), at_kv(0.6)])], [2]),
    Row("never below one", LOAD, "dynamo-load", 1, 1, [(0, [at_kv(0.0)])], [1]),
    Row("nothing while one starts", RECONCILE, "dynamo-load", 1, 2, [(0, [P(90, kv=1.0, **LONG), STARTING])], [2]),
    Row("nothing while one goes", RECONCILE, "dynamo-load", 1, 1, [(0, [at_kv(0.0), at_kv(0.0)])], [1]),
    Row("nothing when one is silent", RECONCILE, "dynamo-load", 1, 2, [(0, [at_kv(0.0), BLIND])], [2]),
    Row(
        "the rate of 180 s over a worker's",
        THROUGHPUT,
        "dynamo-throughput",
        1,
        1,
        [(0, [P()]), (90, [P(finished=300)]), (180, [P(finished=700)]), (195, [P(finished=9000)])],
        [1, 1, 4, 4],
    ),
    Row(
        "each interval for itself, a replica from its start",
        THROUGHPUT,
        "dynamo-throughput",
        1,
        1,
        [(180, [P(finished=541)]), (360, [P(finished=1081)])],
        [4, 3],
    ),
    Row(
        "each replica's own count",
        THROUGHPUT,
        "dynamo-throughput",
        1,
        2,
        [(0, [P(), P()]), (180, [P(finished=300), P(finished=400)])],
        [2, 4],
    ),
    Row(
        "zeros before the first request",
        "dynamo predictors.py",
        "dynamo-throughput",
        1,
        3,
        [(0, [P()] * 3), (180, [P()] * 3)],
        [3, 3],
    ),
    Row(
        "zeros after it",
        "dynamo predictors.py",
        "dynamo-throughput",
        1,
        1,
        [(180, [P(finished=540)]), (360, [P(finished=540), P(), P()])],
        [3, 1],
    ),
    Row(
        "silence is not zero",
        "dynamo throughput_scaling.py",
        "dynamo-throughput",
        1,
        1,
        [(180, [P(finished=540)]), (360, [BLIND] * 3)],
        [3, 3],
    ),
    # --- WVA, as its HPA follows it
    Row("its HPA waits 240 s", WVA, "wva-v1", 0.8, 1, every(15, 240, lambda now: [at_kv(0.9)]), [1] * 16 + [2]),
    Row(
        "ten more in 150 s",
        WVA,
        "wva-v2",
        0.1,
        1,
        every(15, 390, lambda now: [at_kv(1.0)]),
        [1] * 16 + [11] * 10 + [13],
    ),
    Row(
        "without numbers what was said last",
        "emitSafetyNetMetrics",
        "wva-v1",
        0.8,
        2,
        every(15, 600, lambda now: [BLIND] * 2),
        [2] * 41,
    ),
    Row(
        "one of ten is within the HPA's tolerance",
        WVA,
        "wva-v1",
        0.8,
        10,
        every(15, 300, lambda now: [at_kv(0.9)] * 10),
        [10] * 21,
    ),
]


@pytest.mark.parametrize("row", ROWS, ids=lambda row: f"{row.peer}: {row.rule}")
def test_what_follows_from_a_history(row: Row) -> None:
    controller = PEERS[row.peer].make(row.knob, scenario(start=row.start))
    answers = play(controller, row.steps, row.start)
    assert (answers[-len(row.expect) :] if row.last else answers) == row.expect


@pytest.mark.parametrize(
    ("stable", "target", "current", "expect"),
    [
        (85, 50, 4, 7),  # 4 x 1.7
        (250, 50, 2, 4),  # at most double
        (54, 50, 4, 4),  # 10 % is tolerated
        (46, 50, 4, 4),
        (30, 50, 4, 3),
        (10, 50, 4, 2),  # at least half
        (0, 50, 1, 0),  # its caller holds the minimum
    ],
)
def test_aibrix_apa_scales_by_the_ratio(stable: float, target: float, current: int, expect: int) -> None:
    assert apa(Use(stable, stable), target, current) == expect


@pytest.mark.parametrize(
    ("use", "target", "current", "expect"),
    [
        (Use(20, 20), 10, 2, 2),  # kpa_test.go, stable_mode_basic_scaling
        (Use(15, 40), 10, 4, 4),  # panic: the larger of the two
        (Use(15, 30), 10, 4, 2),  # at twice it is no panic yet
        (Use(100, 100), 10, 2, 4),  # at most double
        (Use(85, 85), 50, 4, 2),  # the mean of a pod for all: where APA wants 7
        (Use(10.5, 10.5), 10, 4, 4),  # 10 % is tolerated: what runs, not 2
        (Use(0, 30), 10, 2, 3),  # from nothing is panic
        (Use(0, 0), 10, 4, 2),
    ],
)
def test_aibrix_kpa_takes_the_mean_pod_for_the_fleet(use: Use, target: float, current: int, expect: int) -> None:
    assert kpa(use, target, current) == expect


@pytest.mark.parametrize(
    ("points", "now", "expect"),
    [
        ([(0, 10)], 0, 10),
        ([(0, 10), (5, 20)], 5, 15),
        ([(0, 10), (15, 10)], 15, 5),  # a gap is zeros
        ([(0, 10), (5, 20)], 15, 15),  # no news is none
        ([(0, 10)], 60, None),
        ([(0, 10), (60, 4)], 60, 4),  # it begins anew
        ([(second, 6) for second in range(0, 100, 5)], 95, 6),
    ],
)
def test_knative_window_average(points: list[tuple[float, float]], now: float, expect: float | None) -> None:
    buckets = Buckets(60.0)
    for at, value in points:
        buckets.add(at, value)
    assert buckets.average(now) == expect


def fleet(*loads: tuple[float, float]) -> list[Replica]:
    """(KV usage, queue) of each replica."""
    return [Replica(f"replica-{number}", kv, queue, CAPACITY) for number, (kv, queue) in enumerate(loads)]


class Analysis(NamedTuple):
    rule: str
    loads: Sequence[tuple[float, float]]
    expect: int
    starting: int = 0
    desired: int | None = None  # as published before; None: what there is


@pytest.mark.parametrize(
    "row",
    [
        Analysis("too little KV to spare", [(0.71, 0)], 2),
        Analysis("enough", [(0.69, 0)], 1),
        Analysis("too little queue to spare", [(0.1, 2.5)], 2),
        Analysis("just enough queue", [(0.1, 2)], 1),
        Analysis("a queue of 5 is saturated", [(0.1, 5), (0.1, 0)], 2),
        Analysis("one less: the queue just fits", [(0.1, 1), (0.1, 1)], 1),
        Analysis("all are saturated", [(0.9, 0), (0.1, 7)], 3),
        Analysis("a saturated one is not in the mean", [(0.9, 0), (0.1, 0)], 2),
        Analysis("one less: the rest carry it", [(0.3, 0), (0.3, 0)], 1),
        Analysis("they would be too full", [(0.36, 0), (0.36, 0)], 2),
        Analysis("they would queue", [(0.1, 1.5), (0.1, 1.5)], 2),
        Analysis("never below one", [(0.0, 0)], 1),
        Analysis("not while one starts", [(0.9, 9)], 2, starting=1),
        Analysis("not while one is awaited", [(0.9, 9)], 2, desired=2),
        Analysis("not while one goes", [(0.0, 0)] * 3, 2, desired=2),
    ],
    ids=lambda row: row.rule,
)
def test_wva_v1(row: Analysis) -> None:
    """internal/saturation/analyzer.go: shouldScaleUp, isScaleDownSafe, CalculateSaturationTargets."""
    there = seen(0.0, *[P()] * len(row.loads), *[STARTING] * row.starting)
    desired = len(there.pods) if row.desired is None else row.desired
    assert v1(0.8)(there, fleet(*row.loads), desired) == row.expect


@pytest.mark.parametrize(
    "row",
    [
        Analysis("demand / 0.85 over what is there", [(0.75, 0)], 2),
        Analysis("not over it", [(0.6, 0)], 1),
        Analysis("as many as are lacking", [(1.0, 0), (1.0, 0), (1.0, 0)], 5),
        Analysis("those that start are counted", [(0.75, 0)], 2, starting=1),
        Analysis("but cannot be spared", [(0.3, 0)], 2, starting=1),
        Analysis("as many less as are spare", [(0.2, 0)] * 4, 2),
        Analysis("never below one", [(0.0, 0)] * 3, 1),
        Analysis("a queue shows what a replica carries", [(0.3, 5)], 2),
        Analysis("a shorter one does not", [(0.3, 4)], 1),
    ],
    ids=lambda row: row.rule,
)
def test_wva_v2(row: Analysis) -> None:
    """saturation_v2/analyzer.go, cost_aware_optimizer.go: 10,000 tokens a replica, 8,000 of them to use."""
    there = seen(0.0, *[P()] * len(row.loads), *[STARTING] * row.starting)
    assert v2(0.85, PROFILE)(there, fleet(*row.loads), len(there.pods)) == row.expect


def test_wva_v2_remembers_what_a_replica_carried() -> None:
    analyze = v2(0.85, PROFILE)
    assert analyze(seen(0.0, P()), fleet((0.3, 0)), 1) == 1
    assert analyze(seen(30.0, P()), fleet((0.3, 6)), 1) == 2
    assert analyze(seen(60.0, P()), fleet((0.3, 0)), 1) == 2  # 3,000 tokens, the mean of its last ten


def test_wva_v2_remembers_the_last_ten() -> None:
    analyze = v2(0.85, PROFILE)
    for step, kv in enumerate([0.1] + [0.5] * 10):
        analyze(seen(30.0 * step, P()), fleet((kv, 6)), 1)
    assert analyze(seen(330.0, P()), fleet((0.42, 0)), 1) == 1  # 4,200 / 0.85 is under 5,000


@pytest.mark.parametrize(
    ("kv", "queue", "batched", "asked_at", "expect"),
    [
        (0.66, 4, 8192, 30.0, 2),  # 6,600 + 4 x 100 tokens
        (0.66, 0, 8192, 30.0, 1),
        (0.66, 4, 8192, 400.0, 1),  # the lengths are of the last 300 s
        (0.45, 0, 64, 30.0, 2),  # k2: 64 x 100 / 200 requests at a time, of 150 tokens each
        (0.4, 0, 64, 30.0, 1),
    ],
)
def test_wva_v2_reckons_with_the_mean_lengths(
    kv: float, queue: float, batched: int, asked_at: float, expect: int
) -> None:
    analyze = v2(0.85, PROFILE._replace(max_num_batched_tokens=batched))
    later = P(prompts=1000, prefilled=10, tokens=1000, finished=10)
    analyze(seen(0.0, P()), fleet((0.0, 0)), 1)
    analyze(seen(30.0, later), fleet((0.5, 0)), 1)
    assert analyze(seen(asked_at, later), fleet((kv, queue)), 1) == expect


def test_wva_v2_knows_nothing_of_a_replica_without_a_capacity() -> None:
    assert v2(0.85, PROFILE)(seen(0.0, P()), [Replica("replica-0", 1.0, 9.0, None)], 1) == 1


@pytest.mark.parametrize(("peak", "expect"), [(0.75, [2.0, 2.0, 3.0, 3.0]), (0.5, [2.0, 2.0, 2.0, 2.0])])
def test_wva_looks_every_30_s_at_the_highest_of_a_minute(peak: float, expect: list[float]) -> None:
    """engine.go: PollingExecutor; the queries' max_over_time[1m]."""
    metrics = desired_replicas(v1(0.8), maximum=40)
    history = [(0.0, 0.5), (15.0, peak), (30.0, 0.5), (45.0, 0.5)]
    assert [metrics(seen(now, at_kv(kv), at_kv(kv)))[0].value for now, kv in history] == expect


def test_wva_forgets_after_a_minute() -> None:
    metrics = desired_replicas(v1(0.8), maximum=40)
    history = [(0.0, [at_kv(0.9)]), (30.0, [at_kv(0.3)] * 2), (60.0, [at_kv(0.3)] * 2)]
    assert [metrics(seen(now, *row))[0].value for now, row in history] == [2.0, 2.0, 1.0]


def test_wva_says_no_more_than_its_hpa_may_do() -> None:
    metrics = desired_replicas(v1(0.8), maximum=2)
    assert metrics(seen(0.0, at_kv(0.9), at_kv(0.9)))[0].value == 2.0
