"""What the scaler sees: nodes as their feeds told them, and the replicas of one ScaledObject among them.

May not be in here: how a feed is read (sources/feed.py), what follows from a fleet (decision.py).

A replica is one pod, or one endpoint where no pod is known: all engine rows of it that the trigger selects. Over its
engines (data parallelism) requests, tokens, rates and learned numbers are summed, KV usage and time to first token are
the highest, capacity the lowest, the age the oldest. The pace (seconds of a step, a sequence, a prompt token) is of one
engine, their mean: the pod works off as much at a time as it has engines. The share of prompts in the prefix cache is
their mean, too. Where one engine's number is missing the replica's is missing: a part is never taken for a whole.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence, Set
from statistics import fmean
from urllib.parse import urlsplit

from msgspec import Struct

from exporter.core.selector import meets
from scaler.core import policy
from scaler.core.trigger import Trigger

HEALTH = ("healthy", "unknown", "degraded", "unhealthy", "lost")  # from best to worst


class GpuView(Struct, frozen=True):
    uuid: str
    instance: str = ""
    index: str = ""
    name: str = ""
    state: str = "unknown"
    reasons: tuple[tuple[str, str], ...] = ()  # (reason, action), worst first
    capacity: float | None = None


class EngineView(Struct, frozen=True):
    """One engine of one model behind one URL, as the feed has it (proto/signals.proto). None: missing."""

    endpoint: str
    namespace: str = ""
    pod: str = ""
    container: str = ""
    model: str = ""
    engine: str = ""
    kind: str = ""
    labels: Mapping[str, str] = {}
    seen_seconds: float = 0.0
    error: str = ""
    waiting: float | None = None
    running: float | None = None
    kv_usage: float | None = None
    kv_capacity_tokens: float | None = None
    prompt_tokens_total: float | None = None
    generation_tokens_total: float | None = None
    requests_finished_total: float | None = None
    preemptions_total: float | None = None
    rejections_total: float | None = None
    sleeping: bool | None = None
    gpus: tuple[str, ...] = ()  # "UUID" or "UUID/instance"
    health: str = "unknown"
    capacity: float | None = None
    saturation: float | None = None
    cause: str = ""
    requests_per_second: float | None = None
    tokens_per_second: float | None = None
    knee_running: float | None = None
    service_rate: float | None = None
    queued_seconds: float = 0.0  # 0: what was learned is the model's on its node, not its own
    knee_tokens: float | None = None
    token_rate: float | None = None
    rejections_per_second: float | None = None
    preemptions_per_second: float | None = None
    prompt_tokens_per_second: float | None = None
    prefix_hit_ratio: float | None = None
    ttft_p50: float | None = None  # seconds, over the exporter's window
    ttft_p95: float | None = None
    itl_p50: float | None = None
    itl_p95: float | None = None
    queue_time_p95: float | None = None
    why: str = ""  # the diagnosis in a sentence
    max_running: float | None = None
    kv_peak: float | None = None
    step_seconds: float | None = None  # of a step, and more for each sequence and each prompt token in it: all or none
    sequence_seconds: float | None = None
    prompt_token_seconds: float | None = None
    pace_seconds: float = 0.0  # 0: the three are the model's on its node, not its own


class ColdStartView(Struct, frozen=True):
    """How long cold starts of a model took on one node, one phase of them."""

    namespace: str
    model: str
    phase: str
    count: int
    p50: float  # seconds
    p90: float


class NodeView(Struct, frozen=True):
    """What one exporter said last. All ages are those at `at`: they grow with the time since."""

    address: str  # of the exporter
    since: float  # when the address was first listed
    at: float | None = None  # when its newest message arrived; None: it never answered
    first: float | None = None  # when its first message arrived
    connected: bool = False
    error: str = ""  # why it is not connected
    node: str = ""
    boot: str = ""
    sequence: int = 0
    engines: tuple[EngineView, ...] = ()
    engine_ages: tuple[float | None, ...] = ()  # one for each engine; None: never read
    gpus: tuple[GpuView, ...] = ()
    gpu_ages: tuple[float | None, ...] = ()
    cold_starts: tuple[ColdStartView, ...] = ()


class Replica(Struct, frozen=True):
    """One replica as far as it is known. Times are seconds, counters count from its start, None is missing."""

    pod: str  # its endpoint where no pod is known
    node: str = ""
    namespace: str = ""
    model: str = ""
    kind: str = ""
    engines: int = 1
    ready: bool | None = None
    age: float = 0.0  # since it was first seen
    reading_age: float | None = None  # of its oldest reading; None: never read
    error: str = ""  # of the last attempt to read it
    waiting: float | None = None
    running: float | None = None
    max_running: float | None = None  # requests that it runs at most, as it says
    kv_usage: float | None = None
    kv_capacity_tokens: float | None = None
    prompt_tokens_total: float | None = None
    generation_tokens_total: float | None = None
    requests_finished_total: float | None = None
    preemptions_total: float | None = None
    sleeping: bool | None = None
    health: str = "unknown"
    capacity: float | None = None  # 0..1 of a whole replica
    cause: str = ""  # the exporter's diagnosis
    why: str = ""  # it, as a sentence
    knee_running: float | None = None
    service_rate: float | None = None
    queued_seconds: float = 0.0  # 0: the two above are the model's on its node, not its own
    preemptions_per_second: float | None = None  # over the exporter's window, as the next two
    prefix_hit_ratio: float | None = None  # mean over its engines
    ttft_p95: float | None = None  # the highest of its engines
    step_seconds: float | None = None  # of one of its engines, as the next two
    sequence_seconds: float | None = None
    prompt_token_seconds: float | None = None
    pace_seconds: float = 0.0  # of the least watched; 0: the three are the model's on its node, not its own
    gpus: tuple[GpuView, ...] = ()

    @property
    def id(self) -> str:
        return f"{self.node}/{self.namespace}/{self.pod}"  # an endpoint may be the loopback of several nodes


class Fleet(Struct, frozen=True):
    """The replicas of one ScaledObject. `problem` is not empty: nothing can be said, and why, in one line."""

    replicas: tuple[Replica, ...] = ()
    gateway_waiting: float | None = None
    spec_replicas: int | None = None
    nameless: tuple[Replica, ...] = ()  # never read, so of no known model: ours only if we have seen them before
    unheard: tuple[str, ...] = ()  # exporters that are listed and never answered: what they see is missing here
    cold_start: float | None = None  # seconds from a new pod to its first token, as seen; None: not seen
    problem: str = ""


class _Row(Struct, frozen=True):
    view: NodeView
    engine: EngineView
    age: float | None  # of the reading, now


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
    return Fleet(
        _replicas(rows), nameless=_replicas(nameless), unheard=unheard, cold_start=_lead(heard, models, trigger)
    )


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


def _selected(views: Iterable[NodeView], trigger: Trigger, now: float) -> tuple[list[_Row], list[_Row], str]:
    """The engine rows that the trigger selects, those that it might (no model known yet), and why there are none."""
    rows: list[_Row] = []
    nameless: list[_Row] = []
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
                (rows if sure else nameless).append(_Row(view, engine, None if age is None else age + elapsed))
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


def _replicas(rows: Iterable[_Row]) -> tuple[Replica, ...]:
    groups: dict[str, dict[str, list[_Row]]] = {}
    for row in rows:
        groups.setdefault(_identity(row), {}).setdefault(row.view.address, []).append(row)
    # A pod runs on one node: of several that tell of it, the one that read it last has it.
    return tuple(_replica(min(by_node.values(), key=_freshness)) for _, by_node in sorted(groups.items()))


def _identity(row: _Row) -> str:
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


def _freshness(rows: Sequence[_Row]) -> tuple[float, str]:
    return min(float("inf") if row.age is None else row.age for row in rows), rows[0].view.address


def _replica(rows: Sequence[_Row]) -> Replica:
    view, first = rows[0].view, rows[0].engine
    engines = [row.engine for row in rows]
    known = {f"{gpu.uuid}/{gpu.instance}" if gpu.instance else gpu.uuid: gpu for gpu in view.gpus}
    gpus = dict.fromkeys(key for engine in engines for key in engine.gpus)
    ages = [row.age for row in rows]
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
        reading_age=_all(ages, max),
        error=next((engine.error for engine in engines if engine.error), ""),
        waiting=_all([engine.waiting for engine in engines], sum),
        running=_all([engine.running for engine in engines], sum),
        max_running=_all([engine.max_running for engine in engines], sum),
        kv_usage=_all([engine.kv_usage for engine in engines], max),
        kv_capacity_tokens=_all([engine.kv_capacity_tokens for engine in engines], sum),
        prompt_tokens_total=_all([engine.prompt_tokens_total for engine in engines], sum),
        generation_tokens_total=_all([engine.generation_tokens_total for engine in engines], sum),
        requests_finished_total=_all([engine.requests_finished_total for engine in engines], sum),
        preemptions_total=_all([engine.preemptions_total for engine in engines], sum),
        sleeping=any(engine.sleeping for engine in engines),
        health=max((engine.health for engine in engines), key=_rank),
        capacity=_capacity(engines),
        cause=told.cause,
        why=told.why,
        knee_running=_all([engine.knee_running for engine in engines], sum),
        service_rate=_all([engine.service_rate for engine in engines], sum),
        queued_seconds=min(engine.queued_seconds for engine in engines),
        preemptions_per_second=_all([engine.preemptions_per_second for engine in engines], sum),
        prefix_hit_ratio=_all([engine.prefix_hit_ratio for engine in engines], fmean),
        ttft_p95=_all([engine.ttft_p95 for engine in engines], max),
        step_seconds=_all([engine.step_seconds for engine in engines], fmean),
        sequence_seconds=_all([engine.sequence_seconds for engine in engines], fmean),
        prompt_token_seconds=_all([engine.prompt_token_seconds for engine in engines], fmean),
        pace_seconds=min(engine.pace_seconds for engine in engines),
        gpus=tuple(known[key] for key in gpus if key in known),
    )


def _all(values: Sequence[float | None], combine: Callable[[Sequence[float]], float]) -> float | None:
    present = [value for value in values if value is not None]
    return combine(present) if len(present) == len(values) else None


def _rank(health: str) -> int:
    return HEALTH.index(health) if health in HEALTH else HEALTH.index("unknown")


def _capacity(engines: Sequence[EngineView]) -> float | None:
    """The lowest. An unknown one cannot raise it, nor make a replica known to be whole. Asleep carries nothing."""
    if any(engine.sleeping for engine in engines):
        return 0.0
    known = [engine.capacity for engine in engines if engine.capacity is not None]
    least = min(known, default=1.0)
    return None if least >= 1.0 and len(known) < len(engines) else least


def _few(names: Sequence[str], most: int = 5) -> str:
    more = f" and {len(names) - most} more" if len(names) > most else ""
    return ", ".join(names[:most]) + more
