"""What a replica is: the engine rows of one pod, or of one endpoint where no pod is known, brought together.

May not be in here: which rows are a ScaledObject's (view_fleet.py), what follows from a replica (decision.py).

Over a replica's engines (data parallelism) requests, tokens, rates and learned numbers are summed, KV usage and time to
first token are the highest, capacity the lowest, the age the oldest. The pace (seconds of a step, a sequence, a prompt
token) is of one engine, their mean: the pod works off as much at a time as it has engines. The share of prompts in the
prefix cache is their mean, too. Where one engine's number is missing the replica's is missing: a part is never taken
for a whole.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from operator import attrgetter
from statistics import fmean
from typing import Any
from urllib.parse import urlsplit

from msgspec import Struct

from scaler.core.view import EngineView, NodeView, Replica

_HEALTH = ("healthy", "unknown", "degraded", "unhealthy", "lost")  # from best to worst


class Row(Struct, frozen=True):
    view: NodeView
    engine: EngineView
    age: float | None  # of the reading, now


def replicas(rows: Iterable[Row]) -> tuple[Replica, ...]:
    """The replicas of these rows, by name."""
    groups: dict[str, dict[str, list[Row]]] = {}
    for row in rows:
        groups.setdefault(_identity(row), {}).setdefault(row.view.address, []).append(row)
    # A pod runs on one node: of several that tell of it, the one that read it last has it.
    return tuple(_replica(min(by_node.values(), key=_freshness)) for _, by_node in sorted(groups.items()))


def _identity(row: Row) -> str:
    engine = row.engine
    if engine.pod:
        return f"{engine.namespace}/{engine.pod}"
    host = _host(engine.endpoint)
    own = host in ("localhost", "::1", "") or host.startswith("127.")
    return f"{row.view.node or row.view.address} {engine.endpoint}" if own else engine.endpoint


def _host(url: str) -> str:
    try:
        return urlsplit(url).hostname or ""
    except ValueError:
        return ""


def _freshness(rows: Sequence[Row]) -> tuple[float, str]:
    return min(float("inf") if row.age is None else row.age for row in rows), rows[0].view.address


#: What a replica's engines come to together: number -> how those of its engines are combined.
_COMBINED: Mapping[str, Callable[[Sequence[float]], float]] = {
    "waiting": sum,
    "running": sum,
    "max_running": sum,
    "kv_usage": max,
    "kv_capacity_tokens": sum,
    "prompt_tokens_total": sum,
    "generation_tokens_total": sum,
    "requests_finished_total": sum,
    "preemptions_total": sum,
    "knee_running": sum,
    "service_rate": sum,
    "preemptions_per_second": sum,
    "prefix_hit_ratio": fmean,
    "ttft_p95": max,
    "step_seconds": fmean,
    "sequence_seconds": fmean,
    "prompt_token_seconds": fmean,
}


_NUMBERS = attrgetter(*_COMBINED)


def _replica(rows: Sequence[Row]) -> Replica:
    view, first = rows[0].view, rows[0].engine
    engines = [row.engine for row in rows]
    known = {f"{gpu.uuid}/{gpu.instance}" if gpu.instance else gpu.uuid: gpu for gpu in view.gpus}
    gpus = dict.fromkeys(key for engine in engines for key in engine.gpus)
    # The first that has a diagnosis: one that is wedged before the others, and what ails before what does not.
    ordered = sorted(engines, key=lambda e: (e.cause != "wedged", e.cause in ("healthy", "idle")))
    told = next((engine for engine in ordered if engine.cause), first)
    return Replica(
        pod=first.pod or first.endpoint,
        node=view.node,
        namespace=first.namespace,
        model=",".join(sorted({engine.model for engine in engines if engine.model})),
        kind=first.kind,
        engines=len(engines),
        age=max(engine.seen_seconds for engine in engines),
        reading_age=_all([row.age for row in rows], max),
        error=next((engine.error for engine in engines if engine.error), ""),
        sleeping=any(engine.sleeping for engine in engines),
        health=max((engine.health for engine in engines), key=_rank),
        capacity=_capacity(engines),
        cause=told.cause,
        why=told.why,
        queued_seconds=min(engine.queued_seconds for engine in engines),
        pace_seconds=min(engine.pace_seconds for engine in engines),
        gpus=tuple(known[key] for key in gpus if key in known),
        **_numbers(engines),
    )


def _numbers(engines: Sequence[EngineView]) -> dict[str, Any]:
    """Each float | None."""
    if len(engines) == 1:
        return dict(zip(_COMBINED, _NUMBERS(engines[0]), strict=True))
    return {name: _all([getattr(one, name) for one in engines], combine) for name, combine in _COMBINED.items()}


def _all(values: Sequence[float | None], combine: Callable[[Sequence[float]], float]) -> float | None:
    present = [value for value in values if value is not None]
    return combine(present) if len(present) == len(values) else None


def _rank(health: str) -> int:
    return _HEALTH.index(health) if health in _HEALTH else _HEALTH.index("unknown")


def _capacity(engines: Sequence[EngineView]) -> float | None:
    """The lowest. An unknown one cannot raise it, nor make a replica known to be whole. Asleep carries nothing."""
    if any(engine.sleeping for engine in engines):
        return 0.0
    known = [engine.capacity for engine in engines if engine.capacity is not None]
    least = min(known, default=1.0)
    return None if least >= 1.0 and len(known) < len(engines) else least
