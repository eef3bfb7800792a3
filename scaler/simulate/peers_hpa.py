"""Peers whose numbers go through KEDA and the HorizontalPodAutoscaler.

May not be in here: the arithmetic of KEDA and the HPA (hpa.py), peers that set replicas themselves.

Each is a function from what is seen to the metrics of the HPA; Keda keeps the HPA's memory. KEDA polls and the HPA
syncs every 15 s here, both of the newest scrape of Prometheus, which scrapes every 15 s too.
"""

from collections.abc import Callable
from math import ceil

from scaler.simulate.hpa import TOLERANCE, Metric, Policy, Rules, Scale, ScaledObject, State, poll, sync
from scaler.simulate.model import Answer, PodSeen, Scenario, Seen
from scaler.simulate.peers_readings import (
    Past,
    Pick,
    generation_tokens,
    in_flight,
    kv_usage,
    prompt_tokens,
    running,
    values,
    waiting,
)

INTERVAL = 15.0  # --horizontal-pod-autoscaler-sync-period, and what the examples set as pollingInterval
#: Per cent of its GPUs' memory that a vLLM server holds from its start to its end (--gpu-memory-utilization 0.9).
VRAM_PERCENT = 90.0
KAITO_STALE = 45.0

Metrics = Callable[[Seen], list[Metric]]


class Keda:
    """A ScaledObject. `metrics` may keep state: one object for each run."""

    period = INTERVAL
    scrape = INTERVAL
    feed = False

    def __init__(
        self, scenario: Scenario, metrics: Metrics, up: Rules | None = None, down: Rules | None = None
    ) -> None:
        self._spec = ScaledObject(minimum=scenario.minimum, maximum=scenario.maximum, up=up, down=down)
        self._metrics = metrics
        self._hpa = State(recommendations=((0.0, scenario.start),))
        self._last_active: float | None = None

    def __call__(self, seen: Seen) -> Answer:
        metrics = self._metrics(seen)
        known = [metric.value for metric in metrics if metric.value is not None]
        active = any(value > 0 for value in known) if known else None
        replicas, self._last_active = poll(self._spec, self._last_active, active, seen.spec, seen.now)
        scale = Scale(replicas, len(seen.pods), seen.ready)
        replicas, self._hpa = sync(self._spec.hpa(), self._hpa, metrics, scale, seen.now)
        why = ", ".join(f"{_shown(metric.value)} of {metric.target:g}" for metric in metrics)
        return Answer(replicas, known[0] if known else None, why, "hpa" if known else "unknown")


def _shown(value: float | None) -> str:
    return "unknown" if value is None else f"{value:.3g}"


def total(pick: Pick, target: float) -> Metrics:
    """KEDA's prometheus scaler on sum(...), AverageValue. A query that finds nothing is 0: ignoreNullValues is true by
    default (kedacore/keda pkg/scalers/prometheus_scaler.go), so an outage of the scrapes asks for the minimum."""

    def metrics(seen: Seen) -> list[Metric]:
        return [Metric(sum(values(seen.pods, pick)), target)]

    return metrics


def queue(target: float) -> Metrics:
    return total(waiting, target)


def concurrency(target: float) -> Metrics:
    return total(in_flight, target)


def kv_or_queue(kv_target: float, queue_target: float) -> Metrics:
    """Two triggers; the HPA takes the larger proposal."""
    kv, queued = total(kv_usage, kv_target), queue(queue_target)
    return lambda seen: [*kv(seen), *queued(seen)]


def gpu_utilization(percent: float) -> Metrics:
    """A Pods metric: the mean over the pods against a target (kubernetes replica_calculator.go,
    calcPlainMetricReplicas). hpa.Value has its last step: ceil(ratio x pods that were counted).

    A pod that is not ready counts as one whose phase is Pending: left out, and as 0 % when it would scale up. A ready
    pod without a number counts as at the target when it would scale down, as 0 % when up.
    """

    target = round(percent * 1000)  # the HPA reckons in thousandths and cuts off what is left

    def metrics(seen: Seen) -> list[Metric]:
        ready = [pod for pod in seen.pods if pod.ready]
        known = [round(pod.busy * 100_000) for pod in ready if pod.busy is not None]
        if not known:
            return [Metric(None, percent, "Value")]
        missing, unready = len(ready) - len(known), len(seen.pods) - len(ready)
        ratio = sum(known) // len(known) / target
        filled = known + [target if ratio < 1.0 else 0] * missing + [0] * (unready if ratio > 1.0 else 0)
        mean = sum(filled) // len(filled)
        if len(filled) > len(known) and _held(ratio, mean / target, len(filled), seen.spec):
            return [Metric(percent, percent, "Value")]
        # The HPA multiplies by those that are ready, where the code has those that were counted.
        return [Metric(mean * len(filled) // len(ready) / 1000, percent, "Value")]

    return metrics


def _held(before: float, after: float, pods: int, current: int) -> bool:
    """What assumed numbers bring into the tolerance, or turn around, is not done. They only turn an increase: a mean
    below the target stays below it with some at the target."""
    wanted = ceil(after * pods)
    turned = after < 1.0 < before
    contrary = (after < 1.0 and wanted > current) or (after > 1.0 and wanted < current)
    return abs(after - 1.0) <= TOLERANCE or turned or contrary


def gpu_scaler(queue_target: float) -> Metrics:
    """keda-gpu-scaler's profiles vllm-inference (highest % of VRAM in use, 80) and vllm-queue-depth.

    The queue is that of the one replica which its connection through the Service ended at: the oldest that is ready.
    """

    def metrics(seen: Seen) -> list[Metric]:
        ready = [pod for pod in seen.pods if pod.ready]
        asked = ready[0].reading if ready else None
        return [
            Metric(VRAM_PERCENT if ready else 0.0, 80.0),
            Metric(asked.waiting if asked is not None else None, queue_target),
        ]

    return metrics


def slow_steps(seconds: float, up_window: float = 0.0) -> tuple[Rules, Rules]:
    """`behavior` of at most one pod in `seconds` each way, down by the most of the last 300 s."""
    one = (Policy("Pods", 1, seconds),)
    return Rules(up_window, one), Rules(300.0, one)


def operator(running_target: float, tokens_target: float | None) -> Metrics:
    """The triggers of production-stack's operator: running requests, tokens of prompts and generated tokens a second
    (over 1 min) of each pod. tokens_target None: the first alone."""
    past = Past(60.0)
    requests = total(running, running_target)

    def metrics(seen: Seen) -> list[Metric]:
        past.add(seen)
        found = requests(seen)
        if tokens_target is not None:
            found += [
                Metric(past.rate(seen.pods, pick) or 0.0, tokens_target) for pick in (generation_tokens, prompt_tokens)
            ]
        return found

    return metrics


def kaito(threshold: float) -> Metrics:
    """keda-kaito-scaler's composite formula as a Value metric of target 1: 2 (with its rules: one more) when the mean
    queue is over the threshold and every replica is ready, 0.5 (one less) when under, else 1."""

    def fresh(pod: PodSeen, now: float) -> bool:
        return pod.at is not None and now - pod.at <= KAITO_STALE

    def metrics(seen: Seen) -> list[Metric]:
        queues = values([pod for pod in seen.pods if fresh(pod, seen.now)], waiting)
        if not queues:
            return [Metric(None, 1.0, "Value")]
        mean = sum(queues) / len(queues)
        starting = seen.ready < max(len(seen.pods), seen.spec)
        if mean > threshold and not starting:
            return [Metric(2.0, 1.0, "Value")]
        return [Metric(0.5 if mean < threshold else 1.0, 1.0, "Value")]

    return metrics
