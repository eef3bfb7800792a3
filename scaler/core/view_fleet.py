"""Which engines are the replicas of one ScaledObject, and whether the exporters told enough to say so.

May not be in here: what a replica is (view_replicas.py), what follows from a fleet (decision.py).

A replica is one pod, or one endpoint where no pod is known: all engine rows of it that the trigger selects.
"""

from collections.abc import Iterable, Sequence, Set

from exporter.core.selector import meets
from scaler.core import policy
from scaler.core.trigger import Trigger
from scaler.core.view import Fleet, NodeView
from scaler.core.view_replicas import Row, replicas


def fleet(nodes: Sequence[NodeView], trigger: Trigger, now: float) -> Fleet:
    """The replicas that the trigger selects; never raises."""
    views = _current(nodes)
    heard = [view for view in views if view.at is not None]
    unheard = tuple(f"{view.address} ({view.error or 'no answer yet'})" for view in views if view.at is None)
    if problem := _missing_exporters(views, heard, unheard, now):
        return Fleet(problem=problem)
    rows, nameless, problem = _selected(heard, trigger, now)
    if problem:
        return Fleet(problem=problem)
    models = {row.engine.model for row in rows}
    return Fleet(replicas(rows), nameless=replicas(nameless), unheard=unheard, cold_start=_lead(heard, models, trigger))


def _current(nodes: Iterable[NodeView]) -> list[NodeView]:
    """The views without those that a newer exporter of the same node has replaced (its pod was restarted).

    Two that answered at the same time are two exporters, whatever they call their node.
    """
    newest: dict[str, float] = {}
    for view in nodes:
        if view.connected and view.node and view.first is not None:
            newest[view.node] = max(view.first, newest.get(view.node, view.first))
    return [view for view in nodes if view.connected or view.at is None or view.at >= newest.get(view.node, view.at)]


def _missing_exporters(views: Sequence[NodeView], heard: Sequence[NodeView], unheard: Sequence[str], now: float) -> str:
    """Why the exporters cannot be believed to have told everything; "": they can."""
    if not views:
        return "no exporter is known: what --exporters names has no address yet; check the name, and that exporters run"
    if not heard:
        return f"no exporter has answered: {_few(unheard)}; check --exporters, and that the feed's port can be reached"
    # A scaler that has just started and sees half of the nodes would ask for half of the replicas.
    start, grace = min(view.since for view in views), policy.value("unheard_grace")
    listing = policy.value("first_listing")
    if any(view.at is None and view.since - start < listing and now - view.since < grace for view in views):
        return f"{len(unheard)} of {len(views)} exporters have not answered yet: {_few(unheard)}; wait {grace:g} s"
    return ""


def _selected(views: Iterable[NodeView], trigger: Trigger, now: float) -> tuple[list[Row], list[Row], str]:
    """The engine rows that the trigger selects, those that it might (no model known yet), and why there are none."""
    rows: list[Row] = []
    nameless: list[Row] = []
    others: set[str] = set()  # models that were passed over
    elsewhere: set[str] = set()  # namespaces that were passed over
    for view in views:
        elapsed = max(0.0, now - view.at) if view.at is not None else 0.0
        for engine, age in zip(view.engines, view.engine_ages, strict=True):
            if engine.namespace not in ("", trigger.namespace):
                elsewhere.add(engine.namespace)
            elif not meets(trigger.pod_selector, engine.labels) or (
                engine.model and trigger.model not in ("", engine.model)
            ):
                others.add(engine.model)
            else:
                sure = engine.model or trigger.pod_selector or not trigger.model
                (rows if sure else nameless).append(Row(view, engine, None if age is None else age + elapsed))
    models = {row.engine.model for row in rows if row.engine.model}
    if not (trigger.model or trigger.pod_selector) and len(models) > 1:
        return [], [], f"the fleet serves {len(models)} models ({_few(sorted(models))}); name one with the key model"
    return rows, nameless, "" if rows else _nothing(trigger, others - {""}, elsewhere)


def _nothing(trigger: Trigger, others: set[str], elsewhere: set[str]) -> str:
    wanted = [
        f"{key} {trigger.shown[key]}" for key in sorted(trigger.shown) if key.startswith(("model", "podSelector"))
    ]
    seen = []
    if others:
        seen.append(f"models seen there: {_few(sorted(others))}")
    if elsewhere:
        seen.append(f"engines in other namespaces: {_few(sorted(elsewhere))}")
    return (
        f"no engine in namespace {trigger.namespace} is selected by {' and '.join(wanted) or 'the empty trigger'} "
        f"({'; '.join(seen) or 'no engine is seen at all'}); check model, podSelector and the exporters' engines, "
        "or wait for a first replica"
    )


def _lead(views: Iterable[NodeView], models: Set[str], trigger: Trigger) -> float | None:
    """The sum over phases of their medians, each weighted by how many starts a node saw.

    A phase that nobody saw (a node that was there, an image that was cached) adds nothing; the load of the model is the
    bulk of it everywhere, and without that nothing is known.
    """
    sums: dict[str, tuple[float, int]] = {}
    for view in views:
        for start in view.cold_starts:
            if start.model in models and start.namespace in ("", trigger.namespace):
                seconds, count = sums.get(start.phase, (0.0, 0))
                sums[start.phase] = seconds + start.p50 * start.count, count + start.count
    if "model_load" not in sums:
        return None
    return sum(seconds / count for seconds, count in sums.values())


def _few(names: Sequence[str], most: int = 5) -> str:
    more = f" and {len(names) - most} more" if len(names) > most else ""
    return ", ".join(names[:most]) + more
