"""Plimsoll itself as a policy of the simulator: the scaler's own decide(), as KEDA and the HPA follow it.

May not be in here: deciding (scaler/core/decision.py), what the HPA makes of an answer (hpa.py).
"""

from collections.abc import Callable

from msgspec import Struct

from scaler.core.decision import Decision, Memory, Unknown, decide, metric_value, recall
from scaler.core.trigger import Trigger, metric_spec, parse
from scaler.core.view import Fleet
from scaler.core.view_fleet import fleet
from scaler.simulate.exporters import APP, NAMESPACE
from scaler.simulate.hpa import (
    POLLING_INTERVAL,
    SYNC_PERIOD,
    Metric,
    Scale,
    ScaledObject,
    State,
    fall_back,
    poll,
    received,
    sync,
)
from scaler.simulate.model import Answer, Scenario, Seen

#: Is told of a decision: its trigger, the fleet that it rests on, what it came to, and when.
Note = Callable[[Trigger, Fleet, Decision | Unknown, float], None]


class Setting(Struct, frozen=True):
    """A ScaledObject: its trigger's metadata, and what the rest of its spec says."""

    metadata: dict[str, str]
    spec: ScaledObject


def setting(scenario: Scenario, metadata: dict[str, str] | None = None) -> Setting:
    """The defaults, between the scenario's minimum and maximum."""
    return Setting(metadata or {}, ScaledObject(minimum=scenario.minimum, maximum=scenario.maximum))


class Product:
    """One ScaledObject on the way of a number from the feed to `.spec.replicas`.

    It looks at every reading, as the scaler's desk does, and answers when KEDA polls and when the HPA syncs.
    Raises TriggerError for metadata that the scaler would refuse. `note` is told of each decision.
    """

    scrape = 5.0
    feed = True

    def __init__(self, scenario: Scenario, of: Setting, note: Note | None = None) -> None:
        self._note = note
        self.period = scenario.interval
        metadata = {"podSelector": f"app={APP}", **of.metadata}
        self._trigger: Trigger = parse(NAMESPACE, "model", metadata)
        self._spec = of.spec
        self._metric, self._target = metric_spec(metadata)
        self._memory = Memory()
        self._hpa = State(recommendations=((0.0, scenario.start),))
        # A fleet that was there before was in use before: KEDA removes what it has never seen active at its first look.
        self._last_active: float | None = 0.0 if scenario.start else None
        self._failures = 0
        self._next_sync = self._next_poll = 0.0

    def __call__(self, seen: Seen) -> Answer:
        now = seen.now
        view = recall(fleet(seen.nodes, self._trigger, now), self._memory)
        result, self._memory = decide(self._trigger, view, self._memory, now)
        if self._note is not None:
            self._note(self._trigger, view, result, now)
        replicas = seen.spec
        if isinstance(result, Decision):
            value = received(*metric_value(self._metric, self._trigger, result))
            active, why, reason = result.active, result.explanation, result.reason
        else:
            value, active, why, reason = None, None, result.reason, "unknown"
        if now >= self._next_poll:
            self._next_poll += POLLING_INTERVAL
            replicas, self._last_active = poll(self._spec, self._last_active, active, replicas, now)
        if now >= self._next_sync:
            self._next_sync += SYNC_PERIOD
            scale = Scale(replicas, len(seen.pods), seen.ready)
            metric = Metric(value, received(0, self._target))
            metric, self._failures = fall_back(self._spec, self._failures, metric, replicas)
            replicas, self._hpa = sync(self._spec.hpa(), self._hpa, [metric], scale, now)
        return Answer(replicas, value, why, reason)
