"""The workload variant autoscaler of llm-d: its two saturation analyzers, and the HPA that follows its number.

May not be in here: the HPA's arithmetic (hpa.py), several variants of one model (here there is one).

Sources: llm-d/llm-d-workload-variant-autoscaler (formerly llm-d-incubation/workload-variant-autoscaler), in the
functions. Every 30 s (engines/saturation/engine.go) it looks at the highest KV usage and queue of each replica in the
last minute (max_over_time[1m]) and publishes wva_desired_replicas, which an HPA follows with target 1.
"""

from collections.abc import Callable
from statistics import median
from typing import NamedTuple

from scaler.simulate.hpa import Metric, Policy, Rules
from scaler.simulate.model import Profile, Seen
from scaler.simulate.peers_hpa import Metrics
from scaler.simulate.peers_readings import (
    Past,
    finished,
    generation_tokens,
    kv_usage,
    prefilled,
    prompt_tokens,
    waiting,
)

EVERY = 30.0
QUEUE = 5.0  # queueLengthThreshold
KV_SPARE, QUEUE_SPARE = 0.1, 3.0  # kvSpareTrigger, queueSpareTrigger
KV = 0.80  # kvCacheThreshold
DOWN_TO_UP = 0.70 / 0.85  # scaleDownBoundary to scaleUpThreshold, as they are by default
HISTORY = 10  # RollingAverageWindowSize

#: charts/workload-variant-autoscaler/values.yaml, hpa.behavior, for both ways.
BEHAVIOR = Rules(240.0, (Policy("Pods", 10, 150.0),))


class Replica(NamedTuple):
    """What one replica showed in the last minute."""

    name: str
    kv: float
    queue: float
    capacity: float | None  # tokens of its KV cache


#: Desired replicas from the replicas that have numbers; None: nothing to say.
Analyzer = Callable[[Seen, list[Replica], int], int | None]


def desired_replicas(analyzer: Analyzer, maximum: int) -> Metrics:
    """The gauge, renewed every 30 s. With no numbers at all it stays what it was, at first the replicas that there are
    (emitSafetyNetMetrics). It is never over the HPA's maximum: V1 would wait for that replica for ever."""
    past = Past(60.0)
    desired: int | None = None
    due = 0.0

    def metrics(seen: Seen) -> list[Metric]:
        nonlocal desired, due
        past.add(seen)
        if seen.now >= due:
            due = seen.now + EVERY
            replicas = []
            for pod in seen.pods:
                kv, queue = past.highest(pod.name, kv_usage), past.highest(pod.name, waiting)
                if kv is not None and queue is not None:
                    capacity = past.highest(pod.name, lambda reading: reading.kv_capacity_tokens)
                    replicas.append(Replica(pod.name, kv, queue, capacity))
            current = len(seen.pods) or seen.spec
            answer = analyzer(seen, replicas, desired or current) if replicas else None
            desired = min(maximum, answer if answer is not None else desired or current)
        return [Metric(None if desired is None else float(desired), 1.0)]

    return metrics


def v1(kv_threshold: float) -> Analyzer:
    """internal/saturation/analyzer.go: one more when the replicas that are not saturated have too little to spare, one
    less when N-1 of them would still have enough; nothing while replicas come or go."""

    def analyze(seen: Seen, replicas: list[Replica], desired: int) -> int:
        current = len(seen.pods)
        if desired != current or len(replicas) != current:
            return desired
        calm = [replica for replica in replicas if replica.kv < kv_threshold and replica.queue < QUEUE]
        count = len(calm)
        spare_kv = sum(kv_threshold - replica.kv for replica in calm) / count if calm else 0.0
        spare_queue = sum(QUEUE - replica.queue for replica in calm) / count if calm else 0.0
        if spare_kv < KV_SPARE or spare_queue < QUEUE_SPARE:
            return current + 1 if seen.ready == current else current
        if count < 2 or current <= 1:
            return current
        load = count / (count - 1)
        fits = (
            kv_threshold - (kv_threshold - spare_kv) * load >= KV_SPARE
            and QUEUE - (QUEUE - spare_queue) * load >= QUEUE_SPARE
        )
        return current - 1 if fits else current

    return analyze


def v2(up_threshold: float, profile: Profile) -> Analyzer:
    """engines/analyzers/saturation_v2/analyzer.go and pipeline/cost_aware_optimizer.go: tokens in demand against the
    tokens that a replica can carry, the smaller of its memory's (k1) and its compute's (k2)."""
    down_boundary = up_threshold * DOWN_TO_UP
    lengths = Past(300.0)  # the queries of mean lengths are rates over 5 min
    observed: list[float] = []  # k2 where a queue stood: one history, as a trace is one bucket of output lengths

    def k2(replica: Replica, used: float, prompt: float, output: float, k1: float) -> float:
        if replica.queue >= QUEUE and used > 0:
            observed.append(used)
            del observed[:-HISTORY]
            return used
        if observed:
            return float(int(sum(observed) / len(observed)))
        if output > 0:  # estimateCapacityFromParams, from the server's arguments
            steady = min(profile.max_num_batched_tokens * output / (prompt + output), profile.max_num_seqs)
            return float(int(steady * (prompt + output / 2)))
        return k1

    def analyze(seen: Seen, replicas: list[Replica], desired: int) -> int | None:
        lengths.add(seen)
        demand, capacities = 0.0, []
        for replica in replicas:
            if not replica.capacity:
                continue
            prompt = lengths.ratio(replica.name, prompt_tokens, prefilled) or 0.0
            output = lengths.ratio(replica.name, generation_tokens, finished) or 0.0
            used, k1 = float(int(replica.kv * replica.capacity)), float(int(replica.capacity * KV))
            demand += used + int(replica.queue) * int(prompt)
            capacities.append(min(k1, k2(replica, used, prompt, output, k1)))
        each = median(capacities) if capacities else 0.0
        current = len(seen.pods)
        if each <= 0:
            return current
        required = demand / up_threshold - current * each
        spare = seen.ready * each - demand / down_boundary
        if required > 0:
            return current + int(-(-required // each))
        return max(1, current - int(spare // each)) if spare > 0 else current

    return analyze
