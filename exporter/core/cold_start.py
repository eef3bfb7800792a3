"""How long engines take to start, as four latencies, and what they come to by model: a scaler's lead time.

May not be in here: asking Kubernetes or engines, clocks, what all starts of a model took (cold_history.py).

    phase              from                        to                          told by
    node_provisioning  the pod is created          it is scheduled             Kubernetes; 0 on an older node
    image_pull         its images are pulled       they are there              events; 0 if they were there already
    model_load         the container is started    the port answers readings   Kubernetes, and the engine's port
    warm_up            the first request arrives   the first token is made     the engine

A phase is told when it is over and both its ends are known, and then it stays. A start is a start of the engine's
container: a restart has no node to wait for and no image. Its load is told if the port was seen closed just before it
answered, or answered within GAP of the start: an engine that was up when this program came, or was found late, has
shown nothing of its load. An engine that no pod is known of has a start when its port was seen to answer, to refuse and
to answer again without a token made: its load is from the first refusal on. That of its first start is not known.

Kubernetes' stamps are whole seconds of other machines' clocks: a difference that is negative by SKEW at most is 0,
another is no difference. What the engine shows is timed by the monotonic clock alone, but for the moment at which it
was up, which is held against the container's stamp: by this machine's clock as it was then.
"""

import math
from collections.abc import Mapping, Sequence
from typing import NamedTuple

from msgspec import Struct
from msgspec.structs import replace

from exporter.core.cold_history import Begun, ModelStarts, News, learn, quantiles
from exporter.core.inputs import LIMITS, NodeInputs, count
from exporter.core.model_engines import ColdStart, EngineReading, EngineScrape, EngineTarget, PodFacts

PHASES = ("node_provisioning", "image_pull", "model_load", "warm_up")

#: Models whose starts are remembered.
MAX_MODELS = LIMITS["cold_start"] // len(PHASES)
#: Seconds by which clocks may differ. A phase that is longer than LONGEST is none: a stamp or a clock is wrong.
SKEW = 2.0
LONGEST = 86400.0
#: Seconds after the last refusal, or after the container's start, within which an answer is the first there was: ten
#: polls of an engine. By no more than this is a load told too long.
GAP = 10.0
#: Seconds after its creation for which a pod's node and images count though its engine was not seen to start.
#: Kubernetes keeps events for an hour (kube-apiserver --event-ttl): of an older pod half would be told, and late.
YOUNG = 3600.0

#: Errors of an attempt that say that nobody listens on the port, or that whoever does is not ready (a service mesh;
#: llama.cpp while it loads). Others do not: a server may be slow.
_CLOSED = frozenset(("refused", "unavailable"))
#: Requests that ended so have not made a token.
_NOT_SERVED = frozenset(("abort", "error"))


class Start(Struct, frozen=True):
    """One start of the engine behind a URL, as far as it has come. Times are monotonic but for `started`."""

    uid: str = ""  # of the pod; "" is not known
    container: str = ""
    restarts: int = 0
    started: float | None = None  # Unix seconds: of the container
    number: int = 0  # of starts that were seen by the port alone, where no pod is known
    after: float | None = None  # an answer that is not newer is of an earlier start; None: there was none
    closed_since: float | None = None  # first and last attempt of those that the port refused
    closed_at: float | None = None
    up_at: float | None = None  # of the first good reading
    up_wall: float | None = None  # the same in Unix seconds, by the clock as it was then: it may be set later
    silent_at: float | None = None  # of the last reading before a token was made
    held_since: float | None = None  # of the first reading with work and no token
    warm: bool = False  # a token was made
    phases: Mapping[str, float] = {}


class ColdMemory(Struct, frozen=True):
    """All that a step leaves to the next one. `models` is worth keeping over a restart of this program."""

    starts: Mapping[str, Start] = {}  # URL -> its start
    models: tuple[ModelStarts, ...] = ()


class Cold(NamedTuple):
    of: Mapping[str, Mapping[str, float]]  # URL -> phase -> seconds, as far as its start has come
    starts: tuple[ColdStart, ...]  # sorted by namespace and model


def step(memory: ColdMemory, inputs: NodeInputs, overflow: dict[str, int], now: float) -> tuple[Cold, ColdMemory]:
    """The starts at `now` (monotonic seconds), and the memory for the next step. overflow: kind -> left out; added to.

    Of `inputs`: targets, scrapes, last_good, pods and wall. A target that left the list is forgotten; what its starts
    taught of the model is not.
    """
    starts: dict[str, Start] = {}
    news: list[News] = []
    for target in inputs.targets:
        if target.url in starts:
            continue
        facts = inputs.pods.get((target.pod.namespace, target.pod.pod)) if target.pod.pod else None
        good = inputs.last_good.get(target.url)
        start = _begun(memory.starts.get(target.url), target, facts, now)
        start = _asked(start, inputs.scrapes.get(target.url))
        start = _answered(start, good)
        if start.up_at is not None and start.up_wall is None and inputs.wall is not None:
            start = replace(start, up_wall=inputs.wall - (now - start.up_at))
        start = replace(start, phases={**start.phases, **_told(start, facts, inputs.wall)})
        starts[target.url] = start
        if start.up_at is not None and good is not None:
            begun = Begun(_name(target.url, start), start.phases)
            models = sorted({reading.model for reading in good.readings})
            news += [News(target.pod.namespace, model, begun) for model in models]
    known, left_out = learn(memory.models, news, MAX_MODELS)
    count(len(PHASES) * (len(known) + left_out), "cold_start", overflow)
    cold = Cold({url: start.phases for url, start in starts.items()}, quantiles(known, PHASES))
    return cold, ColdMemory(starts, known)


def _name(url: str, start: Start) -> str:
    """The same after a restart of this program, where Kubernetes tells of the pod."""
    return f"{start.uid}/{start.container}/{start.restarts}" if start.uid else f"{url}/{start.number}"


def _begun(known: Start | None, target: EngineTarget, facts: PodFacts | None, now: float) -> Start:
    """The start that the URL's engine is in: the known one, or a new one."""
    container = _container(target, facts)
    if facts is None or not container:
        return known or Start()
    uid = facts.uid or f"{facts.namespace}/{facts.pod}"
    restarts, started = facts.restarts.get(container, 0), facts.started.get(container)
    fresh = Start(uid, container, restarts, started, after=None if known is None else now)
    if known is None:
        return fresh
    if not known.uid:
        # Kubernetes is heard of it for the first time; what was seen of the engine was its.
        return replace(known, uid=uid, container=container, restarts=restarts, started=started)
    if (uid, container) != (known.uid, known.container) or restarts > known.restarts:
        return fresh
    if started is not None and known.started is not None and started != known.started:
        return fresh
    return replace(known, started=known.started if started is None else started)


def _container(target: EngineTarget, facts: PodFacts | None) -> str:
    """The name of the engine's container; "" is not known."""
    if target.pod.container or facts is None:
        return target.pod.container
    names = {*facts.containers, *facts.started}
    return names.pop() if len(names) == 1 else ""


def _asked(start: Start, last: EngineScrape | None) -> Start:
    """With what the last attempt shows of the port."""
    if last is None or last.error not in _CLOSED:
        return start
    if start.up_at is None:
        return replace(
            start, closed_since=last.at if start.closed_since is None else start.closed_since, closed_at=last.at
        )
    if start.uid or last.at <= start.up_at:
        return start  # Kubernetes will tell of the restart
    return Start(number=start.number + 1, after=last.at, closed_since=last.at, closed_at=last.at)


def _answered(start: Start, good: EngineScrape | None) -> Start:
    """With what the last good reading shows of the engine."""
    if good is None or not good.readings or start.warm or (start.after is not None and good.at <= start.after):
        return start
    if start.up_at is None and start.closed_at is not None and good.at <= start.closed_at:
        return start  # it answered before the port was closed
    start = replace(start, up_at=good.at if start.up_at is None else start.up_at)
    made = [_made(reading) for reading in good.readings]
    if True in made:
        warm_up = _warm_up(start, good.readings, good.at)
        phases = start.phases if warm_up is None else {**start.phases, "warm_up": warm_up}
        return replace(start, warm=True, phases=phases)
    if None in made or (start.silent_at is not None and good.at <= start.silent_at):
        return start
    works = any((reading.waiting or 0.0) > 0.0 or (reading.running or 0.0) > 0.0 for reading in good.readings)
    since = good.at if works and start.held_since is None else start.held_since
    return replace(start, silent_at=good.at, held_since=since)


def _made(reading: EngineReading) -> bool | None:
    """Whether the engine has made a token since it started; None: it does not tell."""
    if reading.generation_tokens_total is not None:
        return reading.generation_tokens_total > 0.0
    if reading.finished is None:
        return None
    return any(number > 0.0 for reason, number in reading.finished.items() if reason not in _NOT_SERVED)


def _warm_up(start: Start, readings: Sequence[EngineReading], at: float) -> float | None:
    """Seconds from the first request to the first token, of which the reading taken `at` is the first to tell.

    The server's own mean time to a first token comes first: a vLLM that worked at its first load showed nothing running
    and nothing waiting for 10 s (0.32.0). It counts if it can be: the port was not open before. Else from the first
    reading that showed work; an engine that has had none tells nothing, however long it has been up.
    """
    if start.silent_at is None and start.closed_at is None:
        return None  # it had made tokens when it was found
    opened = start.closed_at if start.closed_at is not None else start.up_at
    seen = [reading.ttft for reading in readings if _made(reading) and reading.ttft and reading.ttft.counts]
    number = math.fsum(histogram.counts[-1] for histogram in seen)
    sums = [histogram.sum for histogram in seen if histogram.sum is not None]
    if opened is not None and number > 0.0 and len(sums) == len(seen):
        mean = math.fsum(sums) / number
        if 0.0 <= mean <= at - opened + SKEW:
            return mean
    return at - start.held_since if start.held_since is not None else None


def _told(start: Start, facts: PodFacts | None, wall: float | None) -> Mapping[str, float]:
    """Phases that are told beside the warm-up. A load that was told stays as it was: it rests on the wall clock."""
    phases: dict[str, float | None] = {}
    if "model_load" not in start.phases:
        phases["model_load"] = _load(start)
    if facts is not None and start.uid and not start.restarts:
        age = _between(facts.created, wall)
        if start.closed_at is not None or (age is not None and age <= YOUNG):
            phases["node_provisioning"] = _node(facts)
            phases["image_pull"] = _pull(start, facts)
    return {phase: seconds for phase, seconds in phases.items() if seconds is not None}


def _node(facts: PodFacts) -> float | None:
    waited, node = _between(facts.created, facts.scheduled), facts.node_created
    if waited is None or facts.created is None or node is None or not math.isfinite(node):
        return None
    # A wait for a place on a node that is there is for other pods to end, and none for a node.
    return waited if node > facts.created else 0.0


def _pull(start: Start, facts: PodFacts) -> float | None:
    """Seconds in which an image was pulled that the engine's container needed, or one before it."""
    until = facts.pulled.get(start.container)
    if until is None or (start.started is not None and until > start.started + SKEW):
        return None  # not yet; or for a restart that is not told yet
    spans: list[tuple[float, float]] = []
    for container, begin in facts.pulling.items():
        end = facts.pulled.get(container)
        if container != start.container and (end is None or end > until):
            continue  # of a container that comes after it
        if end is None or _between(begin, end) is None:
            return None
        spans.append((begin, max(begin, end)))
    seconds, reached = 0.0, -math.inf
    for begin, end in sorted(spans):
        seconds += max(0.0, end - max(begin, reached))
        reached = max(reached, end)
    return _span(seconds)


def _load(start: Start) -> float | None:
    if start.up_at is None:
        return None
    if not start.uid:
        first = start.closed_since if start.number and start.silent_at is not None else None
        return None if first is None else _span(start.up_at - first)
    seconds = _between(start.started, start.up_wall)
    seen = start.closed_at is not None and start.up_at - start.closed_at <= GAP
    return seconds if seen or (seconds is not None and seconds <= GAP) else None


def _between(begin: float | None, end: float | None) -> float | None:
    """Seconds from one stamp to another; None if one is missing or they cannot be true."""
    return None if begin is None or end is None else _span(end - begin)


def _span(seconds: float) -> float | None:
    return max(0.0, seconds) if -SKEW <= seconds <= LONGEST else None
