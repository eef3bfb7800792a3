"""What KEDA and the HorizontalPodAutoscaler make of a metric value: replicas, as their code has it.

May not be in here: I/O, clocks (every `now` is an argument), any idea of what the metric means.

Sources, named in the functions: kubernetes pkg/controller/podautoscaler (horizontal.go, replica_calculator.go),
kedacore/keda pkg/scaling/executor/scale_scaledobjects.go, pkg/fallback/fallback.go, pkg/scalers. All times are seconds.
"""

import math
from collections.abc import Iterable, Sequence
from typing import Literal

from msgspec import Struct, structs

#: --horizontal-pod-autoscaler-tolerance, -downscale-stabilization, -sync-period.
TOLERANCE = 0.1
DOWNSCALE_WINDOW = 300.0
SYNC_PERIOD = 15.0
#: Defaults of a ScaledObject: cooldownPeriod and pollingInterval.
COOLDOWN = 300.0
POLLING_INTERVAL = 30.0


class Metric(Struct, frozen=True):
    """One metric of the HPA: the sum of the values it got (None: the query failed) and its target, 0.001 or more."""

    value: float | None
    target: float
    kind: Literal["AverageValue", "Value"] = "AverageValue"


class Policy(Struct, frozen=True):
    """At most `value` pods, or per cent of the pods, may come or go in `period` seconds."""

    kind: Literal["Pods", "Percent"]
    value: int
    period: float


class Rules(Struct, frozen=True):
    """`behavior.scaleUp` or `.scaleDown`. A tolerance per direction needs a cluster with HPAConfigurableTolerance."""

    window: float
    policies: tuple[Policy, ...]
    select: Literal["Max", "Min", "Disabled"] = "Max"
    tolerance: float = TOLERANCE


#: What an absent half of `behavior` is filled with (autoscaling/v2 defaults.go).
DEFAULT_UP = Rules(0.0, (Policy("Pods", 4, 15.0), Policy("Percent", 100, 15.0)))
DEFAULT_DOWN = Rules(DOWNSCALE_WINDOW, (Policy("Percent", 100, 15.0),))


class Hpa(Struct, frozen=True):
    """The spec. `up` and `down` both None: no `behavior` at all, which follows older rules."""

    minimum: int
    maximum: int
    up: Rules | None = None
    down: Rules | None = None


class State(Struct, frozen=True):
    """What the HPA remembers: (when, replicas) it had in mind, and (when, how many) it added or removed itself."""

    recommendations: tuple[tuple[float, int], ...] = ()
    added: tuple[tuple[float, int], ...] = ()
    removed: tuple[tuple[float, int], ...] = ()


class Scale(Struct, frozen=True):
    """The target's scale: `.spec.replicas`, `.status.replicas` (pending pods too) and its ready pods."""

    spec: int
    status: int
    ready: int


def sync(hpa: Hpa, state: State, metrics: Sequence[Metric], scale: Scale, now: float) -> tuple[int, State]:
    """One pass of the HPA's loop (horizontal.go, reconcileAutoscaler): the new `.spec.replicas`.

    0 replicas switch the HPA off; outside the bounds it goes to the bound and asks no metric.
    """
    if scale.spec == 0:
        return 0, state
    if not hpa.minimum <= scale.spec <= hpa.maximum:
        replicas = min(max(scale.spec, hpa.minimum), hpa.maximum)
    else:
        wanted = desired(hpa, metrics, scale)
        if wanted is None:
            return scale.spec, state
        normalize = _with_behavior if hpa.up or hpa.down else _without_behavior
        replicas = normalize(hpa, state, wanted, scale.spec, now)
        state = structs.replace(state, recommendations=_keep(hpa, state.recommendations, (now, wanted), now))
    if replicas > scale.spec:
        state = structs.replace(state, added=_keep(hpa, state.added, (now, replicas - scale.spec), now))
    elif replicas < scale.spec:
        state = structs.replace(state, removed=_keep(hpa, state.removed, (now, scale.spec - replicas), now))
    return replicas, state


def desired(hpa: Hpa, metrics: Sequence[Metric], scale: Scale) -> int | None:
    """The largest proposal, before windows, limits and bounds; None: hold.

    Holds when no metric is valid, and when one is not and the rest would scale down (computeReplicasForMetrics).
    """
    proposals = [proposal(hpa, metric, scale) for metric in metrics]
    valid = [count for count in proposals if count is not None]
    if not valid or (len(valid) < len(proposals) and max(valid) < scale.spec):
        return None
    return max(valid)


def proposal(hpa: Hpa, metric: Metric, scale: Scale) -> int | None:
    """What one metric asks for; None if it has no value.

    AverageValue (GetExternalPerPodMetricReplicas) compares with all pods, also pending ones, and proposes u/t whatever
    runs. Value (GetExternalMetricReplicas) multiplies the ready pods alone, so it asks for too little while pods load.
    """
    if metric.value is None:
        return None
    value, target = round(metric.value * 1000), round(metric.target * 1000)  # as Quantity.MilliValue: no 0.1 + 0.2
    if metric.kind == "AverageValue":
        if scale.status and _tolerated(hpa, value / (target * scale.status)):
            return scale.status
        return math.ceil(value / target)
    ratio = value / target
    return scale.spec if _tolerated(hpa, ratio) else math.ceil(ratio * scale.ready)


def _tolerated(hpa: Hpa, ratio: float) -> bool:
    up = hpa.up.tolerance if hpa.up else TOLERANCE
    down = hpa.down.tolerance if hpa.down else TOLERANCE
    return 1.0 - down <= ratio <= 1.0 + up


def _without_behavior(hpa: Hpa, state: State, wanted: int, current: int, now: float) -> int:
    """normalizeDesiredReplicas: the most that was wanted in the window; at most double, or 4, in one pass."""
    highest = max([wanted, *(count for at, count in state.recommendations if at >= now - DOWNSCALE_WINDOW)])
    return max(hpa.minimum, min(highest, hpa.maximum, max(2 * current, 4)))


def _with_behavior(hpa: Hpa, state: State, wanted: int, current: int, now: float) -> int:
    """normalizeDesiredReplicasWithBehaviors: up to the least wanted in its window, down to the most in its own."""
    up, down = hpa.up or DEFAULT_UP, hpa.down or DEFAULT_DOWN
    least = min([wanted, *(count for at, count in state.recommendations if at > now - up.window)])
    most = max([wanted, *(count for at, count in state.recommendations if at > now - down.window)])
    stable = min(max(current, least), most)
    if stable > current:
        return min(stable, hpa.maximum, max(current, _limit(up, state, current, now, +1)))
    if stable < current:
        return max(stable, hpa.minimum, min(current, _limit(down, state, current, now, -1)))
    return stable


def _limit(rules: Rules, state: State, current: int, now: float, sign: int) -> int:
    """calculateScale{Up,Down}Limit...: how far the policies let the replicas go, counted from the period's start.

    The start is reckoned from the HPA's own rescales alone: what KEDA or a person did is not seen.
    """
    if rules.select == "Disabled":
        return current
    limits = []
    for policy in rules.policies:
        start = current - _recent(state.added, policy.period, now) + _recent(state.removed, policy.period, now)
        if policy.kind == "Pods":
            limits.append(start + sign * policy.value)
        elif sign > 0:  # rounded up, or one pod could never become two
            limits.append(math.ceil(start * (1 + policy.value / 100)))
        else:
            limits.append(math.trunc(start * (1 - policy.value / 100)))
    farthest = (rules.select == "Max") == (sign > 0)
    return max(limits) if farthest else min(limits)


def _recent(events: Iterable[tuple[float, int]], period: float, now: float) -> int:
    return sum(count for at, count in events if at > now - period)


def _keep(
    hpa: Hpa, events: tuple[tuple[float, int], ...], event: tuple[float, int], now: float
) -> tuple[tuple[float, int], ...]:
    """Events with one more, less those that no window or period reaches."""
    reach = DOWNSCALE_WINDOW
    for rules in (hpa.up, hpa.down):
        if rules:
            reach = max(reach, rules.window, *(policy.period for policy in rules.policies))
    return (*(old for old in events if old[0] >= now - reach), event)


class Fallback(Struct, frozen=True):
    """`spec.fallback` of a ScaledObject."""

    failure_threshold: int
    replicas: int
    behavior: Literal["static", "currentReplicas", "currentReplicasIfHigher", "currentReplicasIfLower"] = "static"


class ScaledObject(Struct, frozen=True):
    """The part of a ScaledObject's spec that decides on replicas."""

    minimum: int = 0
    maximum: int = 100
    cooldown: float = COOLDOWN
    fallback: Fallback | None = None
    up: Rules | None = None
    down: Rules | None = None

    def hpa(self) -> Hpa:
        """The HPA that KEDA makes of it: never below 1, since an HPA cannot scale to zero."""
        return Hpa(max(1, self.minimum), self.maximum, self.up, self.down)


def received(as_int: int, as_float: float) -> float:
    """What KEDA makes of a MetricValue (pkg/scalers, external_scaler.go): the float if it is above 0, else the int,
    cut to thousandths. NaN, negative and infinite values become 0, a silent scale-down (seen in a run)."""
    value = as_float if as_float > 0 else float(as_int)
    return math.trunc(value * 1000) / 1000 if 0 < value < math.inf else 0.0


def fall_back(spec: ScaledObject, failures: int, metric: Metric, replicas: int) -> tuple[Metric, int]:
    """GetMetricsWithFallback: after more than `failureThreshold` failures in a row the error becomes a value that
    asks for the fallback's replicas. Returns what the HPA is told and the new count of failures."""
    if metric.value is not None:
        return metric, 0
    failures += 1
    rule = spec.fallback
    if rule is None or metric.kind != "AverageValue" or failures <= rule.failure_threshold:
        return metric, failures
    count = {
        "static": rule.replicas,
        "currentReplicas": replicas,
        "currentReplicasIfHigher": max(replicas, rule.replicas),
        "currentReplicasIfLower": min(replicas, rule.replicas),
    }[rule.behavior]
    return structs.replace(metric, value=count * metric.target), failures


def poll(
    spec: ScaledObject, last_active: float | None, active: bool | None, replicas: int, now: float
) -> tuple[int, float | None]:
    """One pass of KEDA's own loop (RequestScale), which alone goes from and to 0. `active` None: the scaler failed.

    Returns replicas and when the object was last active. A failure holds, except with `fallback.replicas: 0`.
    """
    if active:
        return (max(1, spec.minimum) if replicas == 0 else replicas), now
    if active is None and (spec.fallback is None or spec.fallback.replicas != 0):
        return replicas, last_active
    if replicas > 0 and spec.minimum == 0:
        cooled = last_active is None or now > last_active + spec.cooldown
        return (0 if cooled else replicas), last_active
    return max(replicas, spec.minimum), last_active
