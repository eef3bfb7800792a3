"""The wording of a decision: one line that a person can check against the numbers.

May not be in here: anything that the decision depends on.
"""

from collections.abc import Mapping, Sequence

from scaler.core import policy
from scaler.core.demand import Demand, Outlook
from scaler.core.trigger import Trigger
from scaler.core.view import Fleet, Replica

MOST_NAMED = 5  # pods named in one line

#: Causes (the exporter's diagnosis) that say that more replicas are not all that helps. The others are told by the
#: numbers, or by what is missing.
_TOLD = ("hardware", "throttled", "kv_pressure", "outside_gpu", "cold_start")


def number(value: float) -> str:
    """Whole numbers without a point, others with two digits."""
    return f"{value:.0f}" if value == int(value) else f"{value:.2f}"


def few(items: Sequence[str]) -> str:
    more = [f"{len(items) - MOST_NAMED} more"] if len(items) > MOST_NAMED else []
    return ", ".join([*items[:MOST_NAMED], *more])


def why_blind(replica: Replica, trigger: Trigger) -> str:
    error = f", last error {replica.error}" if replica.error else ""
    if replica.reading_age is None:
        return f"{replica.pod} never read{error}"
    if replica.reading_age > trigger.stale_after:
        return f"{replica.pod} not read for {replica.reading_age:.0f} s{error}"
    missing = [name for name in ("waiting", "running") if getattr(replica, name) is None]
    return f"{replica.pod} without {' and '.join(missing)}{error}"


def nothing_fresh(blind: Sequence[Replica], starting: Sequence[Replica], trigger: Trigger) -> str:
    """Why nobody says anything of now. Where all are on their way nothing is wrong: they are only to be waited for."""
    unread = (*blind, *starting)
    why = few([why_blind(replica, trigger) for replica in unread])
    if starting and not blind:
        are = "replica is" if len(starting) == 1 else "replicas are"
        return f"{len(starting)} {are} starting, none serves yet: {why}"
    return (
        f"none of {len(unread)} replicas has a fresh reading (limit {number(trigger.stale_after)} s): "
        f"{why}; check that their exporters can reach them"
    )


def missing(trigger: Trigger, fleet: Fleet, seen: Sequence[Replica], blind: Sequence[Replica]) -> tuple[str, ...]:
    """What should be known of now, and is not: there may be work that is not seen."""
    found = []
    if blind:
        found.append(f"blind: {few([why_blind(replica, trigger) for replica in blind])}")
    if without := [replica.pod for replica in seen if replica.kv_usage is None]:
        found.append(f"no kv_usage: {few(without)}")
    if fleet.unheard:
        found.append(f"exporters never heard: {few(fleet.unheard)}")
    return tuple(found)


def unlearned(work: Demand, outlook: Outlook, since_unknown: float) -> tuple[str, ...]:
    """What has to be learned before it can be said that fewer replicas would do. since_unknown: seconds."""
    found = []
    if work.planned is None and work.waiting + work.running:
        found.append("what a request costs is not known yet")
    if outlook.seconds < policy.value("young"):
        found.append(f"load known for {outlook.seconds:.0f} s of {number(policy.value('young'))} s")
    if since_unknown < policy.value("hpa_window"):
        found.append(f"nothing was known {since_unknown:.0f} s ago: the HPA forgets what it was told before")
    return tuple(found)


def sickness(replica: Replica) -> str:
    """What ails a replica, its GPUs first; "" if nothing does."""
    sick = [
        f"{gpu.uuid}{'/' + gpu.instance if gpu.instance else ''} {gpu.state}"
        + (f" ({', '.join(f'{reason} -> {action}' for reason, action in gpu.reasons)})" if gpu.reasons else "")
        for gpu in replica.gpus
        if gpu.state not in ("healthy", "unknown")
    ]
    found = list(sick)
    cause = f"{replica.cause} ({replica.why})" if replica.why else replica.cause
    if replica.cause == "wedged":
        found.append(cause)
    if replica.sleeping:
        found.append("asleep")
    if not found and replica.capacity is not None and replica.capacity < 1:
        found.append(f"{replica.health}, capacity {number(replica.capacity)}")
    # A sick GPU says what its engine suffers from, and better.
    if replica.cause in _TOLD and not sick:
        found.append(cause)
    return f"pod {replica.pod}: {', '.join(found)}" if found else ""


def _base(terms: Mapping[str, float], n: Mapping[str, str], trigger: Trigger) -> str:
    """What the demand is made of, but for the queue."""
    held = f"{n['demand_kv']} from KV / {trigger.kv_cache_target:g}, {n['demand_running']} from running / {n['batch']}"
    if "planned" not in terms:
        return f"larger of {held}"
    return (
        f"largest of {n['planned']} planned, {held}; {n['requests_per_second']} requests/s x {n['request_seconds']} s "
        f"are {n['work']} replicas of work, {n['expected']} expected in {n['lead_seconds']} s"
    )


def sentence(
    trigger: Trigger,
    fleet: Fleet,
    by_state: Mapping[str, Sequence[Replica]],
    reason: str,
    terms: Mapping[str, float],
    held: Sequence[str],
) -> str:
    n = {name: number(value) for name, value in terms.items()}
    gateway = f" gateway_waiting={n['gateway_waiting']}" if "gateway_waiting" in n else ""
    parts = [
        f"waiting={n['waiting']} running={n['running']}{gateway} kv_usage={n['kv_usage']}",
        f"demand {n['demand']} = {n['demand_base']} ({_base(terms, n, trigger)}) + {n['demand_queue']} (queue)",
        f"replicas {n['replicas']}: " + ", ".join(f"{n[name]} {name}" for name, of in by_state.items() if of),
        f"needs {n['needed']}",
    ]
    if terms["capacity_unknown"]:
        parts.append(f"{n['capacity_unknown']} of unknown capacity counted as whole")
    if sick := [text for text in map(sickness, fleet.replicas) if text]:
        parts.append("; ".join(sick[:MOST_NAMED]))
    if held:
        parts.append(f"holds at {n['floor']} or more ({'; '.join(held)})")
    if reason == "max_replicas":
        parts.append(f"capped by maxReplicas {trigger.max_replicas}")
    if reason == "advisory":
        parts.append(f"advisory: would ask for {n['held']}, answers with the replicas there are")
    there, tolerance = terms["replicas"], policy.value("hpa_tolerance")
    if reason != "advisory" and terms["required"] > terms["held"]:
        parts.append(
            f"{n['held']} is within the HPA's tolerance of {tolerance:g}: pressed just beyond, or it will not act"
        )
    elif 0 < abs(terms["required"] / there - 1) <= tolerance:
        parts.append(f"within the HPA's tolerance of {tolerance:g} around {n['replicas']}: it will not act")
    return f"{n['required']} replicas ({reason}): " + "; ".join(parts)
