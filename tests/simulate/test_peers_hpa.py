"""The peers that go through KEDA and the HPA: histories and the replicas that follow, one row a rule."""

from collections.abc import Sequence
from typing import NamedTuple

import pytest

from scaler.simulate.peers import PEERS
from scaler.simulate.peers_hpa import operator
from tests.simulate.seen import BLIND, STARTING, P, play, scenario, seen

CALCULATOR = "kubernetes replica_calculator.go, calcPlainMetricReplicas"
PER_POD = "kubernetes replica_calculator.go, GetExternalPerPodMetricReplicas"
NORMALIZE = "kubernetes horizontal.go, normalizeDesiredReplicas"
PROMETHEUS = "keda prometheus_scaler.go"
KAITO = "keda-kaito-scaler builder.go"
GPU_SCALER = "keda-gpu-scaler server.go, profiles.go"
OPERATOR = "production-stack vllmruntime_types.go"


class Row(NamedTuple):
    rule: str
    source: str
    peer: str
    knob: float
    start: int
    steps: Sequence[tuple[float, Sequence[P]]]
    expect: list[int]


def full(share: float) -> P:
    return P(busy=share)


def queued(waiting: float, running: float = 0.0) -> P:
    return P(waiting, running)


ROWS = [
    Row("the sum over the threshold", PER_POD, "keda-waiting", 5, 1, [(0, [queued(12)])], [3]),
    Row("at most 4, or double, in one sync", NORMALIZE, "keda-waiting", 5, 1, [(0, [queued(100)])], [4]),
    Row("10 % is tolerated", PER_POD, "keda-waiting", 5, 2, [(0, [queued(5), queued(6)])], [2]),
    Row(
        "down to the most of 300 s",
        NORMALIZE,
        "keda-waiting",
        5,
        4,
        [(t, [P()] * 4) for t in (0, 150, 300, 315)],
        [4, 4, 4, 1],
    ),
    Row(
        "a query that finds nothing is 0",
        PROMETHEUS,
        "keda-waiting",
        5,
        4,
        [(0, [BLIND] * 4), (315, [BLIND] * 4)],
        [4, 1],
    ),
    Row("an absent series is not in the sum", PROMETHEUS, "keda-waiting", 5, 2, [(0, [queued(12), BLIND])], [3]),
    Row("waiting and running", PER_POD, "keda-in-flight", 16, 1, [(0, [queued(10, 30)])], [3]),
    Row(
        "pods that start are counted, not asked for again",
        PER_POD,
        "keda-in-flight",
        16,
        3,
        [(0, [queued(10, 30), STARTING, STARTING])],
        [3],
    ),
    Row("a sum with a missing part", PROMETHEUS, "keda-in-flight", 16, 1, [(0, [P(waiting=90, running=None)])], [1]),
    Row("by its KV usage", PER_POD, "kv-waiting", 0.65, 1, [(0, [P(kv=0.9)])], [2]),
    Row("the larger of two triggers", "computeReplicasForMetrics", "kv-waiting", 0.65, 1, [(0, [P(12, kv=0.9)])], [3]),
    Row("VRAM is always 90 %: two", GPU_SCALER, "keda-gpu-scaler", 5, 1, [(0, [P()])], [2]),
    Row(
        "and never more than two by VRAM",
        GPU_SCALER,
        "keda-gpu-scaler",
        5,
        3,
        [(0, [P()] * 3), (315, [P()] * 3)],
        [3, 2],
    ),
    Row("the queue of one replica", GPU_SCALER, "keda-gpu-scaler", 5, 2, [(0, [queued(12), queued(90)])], [3]),
    Row(
        "an error of one trigger lets nothing scale down",
        "computeReplicasForMetrics",
        "keda-gpu-scaler",
        5,
        3,
        [(0, [BLIND, P(), P()]), (315, [BLIND, P(), P()])],
        [3, 3],
    ),
    Row(
        "one more in 60 s",
        OPERATOR,
        "production-stack-running",
        5,
        1,
        [(t, [P(running=50)]) for t in (0, 15, 45, 60)],
        [2, 2, 2, 3],
    ),
    Row(
        "one less in 60 s, after 300 s",
        OPERATOR,
        "production-stack-running",
        5,
        4,
        [(t, [P()] * 4) for t in (0, 285, 300, 315, 345, 360)],
        [4, 4, 3, 3, 3, 2],
    ),
    Row(
        "100 tokens/s a pod ask for more although 1 request runs",
        OPERATOR,
        "production-stack-operator",
        5,
        1,
        [(0, [P(running=1, tokens=0)]), (15, [P(running=1, tokens=6000)])],
        [1, 2],
    ),
    Row(
        "and prompts likewise",
        OPERATOR,
        "production-stack-operator",
        5,
        1,
        [(0, [P(running=1, prompts=0)]), (15, [P(running=1, prompts=6000)])],
        [1, 2],
    ),
    Row(
        "without the triggers on tokens it is enough",
        OPERATOR,
        "production-stack-running",
        5,
        1,
        [(0, [P(running=1, tokens=0)]), (15, [P(running=1, tokens=6000)])],
        [1, 1],
    ),
    Row(
        "one more when the queue was long for 60 s",
        KAITO,
        "kaito",
        10,
        1,
        [(t, [queued(20)]) for t in (0, 15, 45, 60)],
        [1, 1, 1, 2],
    ),
    Row(
        "no more while one starts",
        KAITO,
        "kaito",
        10,
        2,
        [(t, [queued(20), STARTING]) for t in (0, 60, 400)],
        [2, 2, 2],
    ),
    Row(
        "the next only after 300 s",
        KAITO,
        "kaito",
        10,
        1,
        [(60, [queued(20)]), (75, [queued(20)] * 2), (345, [queued(20)] * 2), (360, [queued(20)] * 2)],
        [2, 2, 2, 3],
    ),
    Row(
        "one less when it was short for 300 s",
        KAITO,
        "kaito",
        10,
        2,
        [(t, [queued(1)] * 2) for t in (0, 150, 299, 300)],
        [2, 2, 2, 1],
    ),
    Row("at the threshold nothing", KAITO, "kaito", 10, 2, [(t, [queued(10)] * 2) for t in (0, 300)], [2, 2]),
    Row(
        "old numbers are an error: nothing",
        KAITO,
        "kaito",
        10,
        2,
        [(t, [P(age=46)] * 2) for t in (0, 400)],
        [2, 2],
    ),
    Row("up to 45 s they count", KAITO, "kaito", 10, 2, [(t, [P(age=45)] * 2) for t in (0, 400)], [2, 1]),
    Row("no replica answers: nothing", KAITO, "kaito", 10, 2, [(t, [BLIND] * 2) for t in (0, 400)], [2, 2]),
    Row("the mean against the target", CALCULATOR, "hpa-gpu", 80, 2, [(0, [full(1.0)] * 2)], [3]),
    Row("10 % is tolerated", CALCULATOR, "hpa-gpu", 80, 2, [(0, [full(0.88)] * 2)], [2]),
    Row("no numbers: nothing", CALCULATOR, "hpa-gpu", 80, 3, [(0, [P()] * 3), (400, [P()] * 3)], [3, 3]),
    Row(
        "a missing one is 0 % up, and turns nothing down",
        CALCULATOR,
        "hpa-gpu",
        80,
        3,
        [(t, [full(1.0), P(), P()]) for t in (0, 315)],
        [3, 3],
    ),
    Row("into the tolerance: nothing", CALCULATOR, "hpa-gpu", 80, 20, [(0, [full(1.0)] * 17 + [STARTING] * 3)], [20]),
    Row(
        "up to less than what is asked for already",
        CALCULATOR,
        "hpa-gpu",
        80,
        12,
        [(t, [full(1.0)] * 8 + [P()]) for t in (0, 315)],
        [12, 12],
    ),
    Row("and up with it all the same", CALCULATOR, "hpa-gpu", 80, 9, [(0, [full(1.0)] * 8 + [P()])], [10]),
    Row(
        "a missing one is at the target down",
        CALCULATOR,
        "hpa-gpu",
        80,
        3,
        [(t, [full(0.2), full(0.2), P()]) for t in (0, 315)],
        [3, 2],
    ),
    Row("one that starts is 0 % up", CALCULATOR, "hpa-gpu", 80, 3, [(0, [full(1.0)] * 2 + [STARTING])], [3]),
    Row("and is counted", CALCULATOR, "hpa-gpu", 40, 3, [(0, [full(1.0)] * 2 + [STARTING])], [5]),
    Row(
        "one that starts is set aside down",
        CALCULATOR,
        "hpa-gpu",
        80,
        2,
        [(t, [full(0.2), STARTING]) for t in (0, 315)],
        [2, 1],
    ),
]


@pytest.mark.parametrize("row", ROWS, ids=lambda row: f"{row.peer}: {row.rule}")
def test_what_follows_from_a_history(row: Row) -> None:
    controller = PEERS[row.peer].make(row.knob, scenario(start=row.start))
    assert play(controller, row.steps, row.start) == row.expect


def test_rates_of_tokens_are_of_the_last_minute() -> None:
    metrics = operator(5.0, 100.0)
    history = [(0.0, 0.0), (15.0, 6000.0), (60.0, 6000.0), (75.0, 6000.0)]
    assert [metrics(seen(now, P(tokens=tokens)))[1].value for now, tokens in history] == [0.0, 400.0, 0.0, 0.0]
