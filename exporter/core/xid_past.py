"""What a GPU's Xids show over time: latches and holds by their class, application Xids that come back, and the driver's
recovery action as Xid 154 tells it.

May not be in here: what a code means (xid.tsv), who told an Xid first (witness.py), memory errors and their Xid 94
(containment.py), how long a finding counts (health.py), I/O, clocks.

**What another witness told before** (`again`) latches, holds and counts nothing: else a late witness would latch again
what a reset has ended. It is heard for what it adds: that the error was fatal, the recovery action, the pods.

**Replayed Xids** are from before this program looked. They latch like any other, unless the GPU was reset since or
never needed to be: the driver's recovery action is read and is "none", or its energy counter, which a reset clears,
shows less than the GPU must have used since the Xid. One of class lost is also over when the driver itself reads the
GPU: it answers "lost" for such a GPU until it was initialised anew. All of this may become known after the Xid. What
came live stays, whatever is replayed after it.
"""

import re
from collections.abc import Iterable, Mapping, Sequence

from msgspec import Struct
from msgspec.structs import replace

from exporter.core import containment, xid
from exporter.core.containment import CONTAINED, Told
from exporter.core.findings import FINDINGS, THRESHOLDS, UNTIL_RESET, Finding
from exporter.core.join import MergedGpu
from exporter.core.model import PodRef, XidEvent

#: Its field `recovery` is what the driver wants done from now on.
_ACTION_CHANGED = 154
#: More bursts in a day than this cannot be told apart by a person either.
_MAX_EPISODES = 64
#: Watts that no board stays below while the driver has it: nvidia-smi shows 9 W for an idle T4 and an idle A2, the
#: smallest boards that data centres have.
_IDLE_WATTS = 5.0

#: What a Deployment calls its pods: its own name, a hash of its template, and five characters; both in the alphabet of
#: the Kubernetes API machinery (util/rand), which has no vowels and no 0, 1, 3.
_OF_REPLICA_SET = re.compile(r"(.+)-[bcdfghjklmnpqrstvwxz2456789]{8,10}-[bcdfghjklmnpqrstvwxz2456789]{5}")

#: Class of an Xid -> state of the finding; what is not here is none by itself.
_STATES = {"lost": "lost", "critical": "unhealthy", "memory": "unhealthy", "degraded": "degraded"}

#: Xids of class memory, by reason: findings if no Xid 94 explains them.
MEMORY: Mapping[str, Finding] = {
    f"xid_{row.code}": Finding(f"xid_{row.code}", "unhealthy", row.action, UNTIL_RESET, event=True)
    for row in xid.XIDS.values()
    if row.kind == "memory"
}


class Last(Struct, frozen=True):
    """The newest Xid of one reason, a live one rather than a replayed one."""

    state: str
    at: float
    replayed: bool


class Episode(Struct, frozen=True):
    """A burst of application Xids."""

    last: float
    pods: frozenset[tuple[str, str]]  # (namespace, owner or pod) that were on the GPU


class XidPast(Struct, frozen=True):
    announced: float | None = None  # the recovery action that Xid 154 told; None: not known, or it is read
    last: Mapping[str, Last] = {}  # by reason
    episodes: tuple[Episode, ...] = ()  # oldest first


class Heard(Struct, frozen=True):
    found: list[Finding]
    back: set[str]  # reasons that count no more
    contained: list[Told]  # new Xids 94
    errors: list[tuple[str, Told]]  # new Xids of class memory, by reason


def announced(
    past: XidPast, events: Iterable[XidEvent], merged: MergedGpu, values: Mapping[str, float], now: float
) -> XidPast:
    """The past with the recovery action that the newest Xid 154 tells."""
    for event in sorted(events, key=lambda event: event.at):
        over = event.replayed and _reset_since(event.at, merged, values, now)
        if event.xid == _ACTION_CHANGED and event.recovery is not None and not over:
            past = replace(past, announced=float(event.recovery))
    return past


def stand_in(past: XidPast, values: Mapping[str, float]) -> tuple[Mapping[str, float], XidPast]:
    """The readings with the recovery action of Xid 154 where it is not read; where it is, the reading rules."""
    if past.announced is None:
        return values, past
    if "recovery_action" in values:
        return values, replace(past, announced=None)
    return {**values, "recovery_action": past.announced}, past


def after_reset(past: XidPast, events: Iterable[XidEvent]) -> XidPast:
    """What Xid 154 told before the reset has been done; what it tells with it is new."""
    if past.announced is None or any(event.recovery is not None for event in events):
        return past
    return replace(past, announced=0.0)


def look(
    past: XidPast, events: Sequence[XidEvent], merged: MergedGpu, values: Mapping[str, float], now: float
) -> tuple[Heard, XidPast]:
    """What the new events show. values: what was read, without stand_in()."""
    heard = Heard([], set(), containment.contained(events), [])
    last = dict(past.last)
    for event in sorted(events, key=lambda event: event.at):
        reason, kind, action = xid.of(event.xid).under(event.severity)
        state, before = _STATES.get(kind), last.get(reason)
        if state is None or (event.again and not _adds(event, reason, before)):
            continue
        hold = UNTIL_RESET
        if kind == "degraded":
            lasts = THRESHOLDS.contained_error_seconds if event.xid == CONTAINED else THRESHOLDS.degraded_xid_seconds
            hold = event.at + lasts - now
        live = before if before is not None and event.replayed and not before.replayed else None
        if hold <= 0 or (live is not None and event.at <= live.at):
            continue
        last[reason] = live or Last(state, event.at, event.replayed)
        if kind == "memory":
            heard.errors.append((reason, Told(event.at, event.source)))
        else:
            heard.found.append(Finding(reason, state, action, hold, event=True))
    heard.back.update(reason for reason, one in last.items() if one.replayed and _over(one, merged, values, now))
    episodes = _episodes(past.episodes, events, merged, now)
    if len(episodes) >= THRESHOLDS.application_episodes and _strangers(episodes):
        heard.found.append(FINDINGS["application_xids_repeated"])
    return heard, XidPast(past.announced, last, episodes)


def _adds(event: XidEvent, reason: str, before: Last | None) -> bool:
    """Whether a second telling is a finding of its own: the first did not know that the error was fatal, or not that
    it came after this program began to look, which dcgm-exporter's late gauge cannot know either.
    """
    is_live = before is not None and before.replayed and not event.replayed and event.source != "dcgm"
    return is_live or reason != xid.of(event.xid).under("")[0]


def _over(one: Last, merged: MergedGpu, values: Mapping[str, float], now: float) -> bool:
    if merged.lost:
        return False
    if one.state == "degraded":  # counts whatever the driver wants
        return _reset_since(one.at, merged, values, now)
    # dcgm-exporter's page can repeat what it read before the GPU was lost.
    read = any(name in values and merged.readings[name].source != "dcgm" for name in ("temperature", "clock_sm"))
    wants_nothing = values.get("recovery_action") == 0.0
    return wants_nothing or (one.state == "lost" and read) or _reset_since(one.at, merged, values, now)


def _reset_since(at: float, merged: MergedGpu, values: Mapping[str, float], now: float) -> bool:
    """Whether the energy counter began after `at`: it counts from the reset or from the load of the driver."""
    if "energy" not in values:
        return False
    lag = THRESHOLDS.witness_seconds if merged.readings["energy"].source == "dcgm" else 0.0
    return values["energy"] < _IDLE_WATTS * (now - lag - at)


def _episodes(
    old: tuple[Episode, ...], events: Iterable[XidEvent], merged: MergedGpu, now: float
) -> tuple[Episode, ...]:
    """The bursts of application Xids of the last day, and the pods that were on the GPU then."""
    episodes = [one for one in old if now - one.last < THRESHOLDS.application_window_seconds]
    for event in sorted(events, key=lambda event: event.at):
        if xid.of(event.xid).kind != "application" or now - event.at >= THRESHOLDS.application_window_seconds:
            continue
        # Who had the GPU before this program looked is not known.
        pods = frozenset() if event.replayed else frozenset(_same_pod(pod) for pod in merged.pods if pod.pod)
        near = next(
            (n for n, one in enumerate(episodes) if abs(event.at - one.last) <= THRESHOLDS.application_burst_seconds),
            None,
        )
        if near is not None:
            before = episodes[near]
            last = before.last if event.again else max(event.at, before.last)
            episodes[near] = Episode(last, before.pods | pods)
        elif not event.again:
            episodes.append(Episode(event.at, pods))
    return tuple(sorted(episodes, key=lambda one: one.last)[-_MAX_EPISODES:])


def _strangers(episodes: Iterable[Episode]) -> bool:
    """Whether two episodes had no pod in common: what is in all of them may be the one at fault."""
    sets = list({one.pods for one in episodes if one.pods})
    return any(one.isdisjoint(other) for n, one in enumerate(sets) for other in sets[:n])


def _same_pod(pod: PodRef) -> tuple[str, str]:
    """What a pod is compared by. Not its container: not every source knows it. A pod that a ReplicaSet makes for one
    that crashed has another name and the same fault, so the Deployment's name stands for them; a StatefulSet gives the
    new pod the old name, and its ordinals may run on other GPUs.
    """
    made = _OF_REPLICA_SET.fullmatch(pod.pod)
    return pod.namespace, made[1] if made else pod.pod
