"""What a GPU's readings and Xids show only over time: findings that rest on what was seen before.

May not be in here: rules that need one look (findings.py), how long a finding counts and what follows (health.py), I/O,
clocks.
"""

from collections.abc import Iterable, Mapping

from msgspec import Struct
from msgspec.structs import replace

from exporter.core import findings, xid
from exporter.core.findings import THRESHOLDS, UNTIL_RESET, Finding
from exporter.core.join import MergedGpu
from exporter.core.model import PodRef, XidEvent

_CONTAINED = 94

#: Counters that fall only when the GPU was reset or the driver was loaded again.
_VOLATILE = ("energy", "ecc_uncorrected", "ecc_corrected")

#: Findings by the share of time in which they hold: reason, action, the counter of seconds, the bit of throttle_reasons
#: that stands in for it.
_SLOWDOWNS = (
    ("hw_thermal_slowdown", "contact_support", "throttle_hw_thermal", 0x40),
    ("hw_power_brake", "check_cabling", "throttle_hw_power_brake", 0x80),
)
_BUCKET_SECONDS = 15.0

#: More bursts in a day than this cannot be told apart by a person either.
_MAX_EPISODES = 64


class Slowdown(Struct, frozen=True):
    """How long a slowdown was on, by buckets of 15 s."""

    at: float | None = None  # of the last reading
    total: float | None = None  # the counter then; None: the bit was read
    buckets: tuple[tuple[float, float], ...] = ()  # (start, seconds on)


class Episode(Struct, frozen=True):
    """A burst of application Xids."""

    last: float
    pods: frozenset[PodRef]


class History(Struct, frozen=True):
    """What is remembered of a GPU's readings and Xids."""

    volatile: Mapping[str, tuple[str, float]] = {}  # signal -> (source, value)
    recovery: float = 0.0  # the last recovery action that was read
    lost: bool = False
    slowdowns: Mapping[str, Slowdown] = {}
    contained_at: float | None = None  # of the last Xid 94
    uncontained_at: float | None = None  # when an uncorrectable error was counted that waits for its Xid 94
    episodes: tuple[Episode, ...] = ()


class Seen(Struct, frozen=True):
    found: list[Finding]
    silent: set[str]  # reasons that could not be looked for
    reset: bool  # the GPU was reset since the last look


def look(
    old: History, merged: MergedGpu, values: Mapping[str, float], xids: Iterable[XidEvent], now: float
) -> tuple[Seen, History]:
    """What the past and this look show together, and the past for the next one. values: the fresh readings."""
    events = sorted(xids, key=lambda event: event.at)
    reset = _was_reset(old, merged, values)
    if reset:
        old = replace(old, slowdowns={}, volatile={}, uncontained_at=None)
    new, errors = _errors(old, merged, values, events, now)
    new, slow, silent = _slow(new, merged, values, now)
    new, repeated = _applications(new, merged, events, now)
    new = replace(new, recovery=values.get("recovery_action", old.recovery), lost=bool(merged.lost))
    return Seen(errors + slow + repeated + _by_class(events), silent, reset), new


def _was_reset(old: History, merged: MergedGpu, values: Mapping[str, float]) -> bool:
    if merged.lost or not values:
        return False
    fell = any(
        signal in values and merged.readings[signal].source == source and values[signal] < value
        for signal, (source, value) in old.volatile.items()
    )
    wanted = findings.RECOVERY.get(int(old.recovery))
    withdrawn = wanted is not None and wanted.state == "unhealthy" and values.get("recovery_action") == 0.0
    return fell or withdrawn or old.lost


def _by_class(events: Iterable[XidEvent]) -> list[Finding]:
    found = []
    for event in events:
        row = xid.of(event.xid)
        reason = "xid_unlisted" if row is xid.UNLISTED else f"xid_{event.xid}"
        if row.kind in ("lost", "critical"):
            state = "lost" if row.kind == "lost" else "unhealthy"
            found.append(Finding(reason, state, row.action, UNTIL_RESET, event=True))
        elif row.kind == "degraded":
            contained = event.xid == _CONTAINED
            hold = THRESHOLDS.contained_error_seconds if contained else THRESHOLDS.degraded_xid_seconds
            found.append(Finding(reason, "degraded", row.action, hold, event=True))
    return found


def _errors(
    old: History, merged: MergedGpu, values: Mapping[str, float], events: Iterable[XidEvent], now: float
) -> tuple[History, list[Finding]]:
    """Uncorrectable memory errors: new ones are contained if an Xid 94 comes with them, else the GPU is unhealthy.

    Those from before the first look are of unknown kind: reason enough to plan a reset, not to stop the GPU.
    """
    contained = max((event.at for event in events if event.xid == _CONTAINED), default=old.contained_at)
    waiting = old.uncontained_at
    volatile = dict(old.volatile)
    found = []
    for signal in _VOLATILE:
        if signal not in values:
            continue
        reading = merged.readings[signal]
        source, before = volatile.get(signal, (reading.source, None))
        if before is not None and source != reading.source and reading.value < before:
            continue  # another source that lags behind
        if signal == "ecc_uncorrected":
            if before is None and reading.value > 0:
                found.append(Finding("ecc_uncorrected_before_start", "degraded", "drain", UNTIL_RESET, event=True))
            elif before is not None and reading.value > before:
                waiting = reading.at
        volatile[signal] = (reading.source, reading.value)
    if waiting is not None:
        near = THRESHOLDS.ecc_match_seconds
        if contained is not None and abs(contained - waiting) <= near:
            waiting = None
        elif now - waiting >= near:
            found.append(Finding("ecc_uncorrected", "unhealthy", "reset_gpu", UNTIL_RESET, event=True))
            waiting = None
    return replace(old, volatile=volatile, contained_at=contained, uncontained_at=waiting), found


def _slow(
    old: History, merged: MergedGpu, values: Mapping[str, float], now: float
) -> tuple[History, list[Finding], set[str]]:
    """Slowdowns that were on for too much of the window; and those of which nothing could be read."""
    tracks = dict(old.slowdowns)
    found: list[Finding] = []
    silent: set[str] = set()
    for reason, action, counter, bit in _SLOWDOWNS:
        signal = counter if counter in values else "throttle_reasons"
        if signal not in values:
            silent.add(reason)
            continue
        on = signal != counter and bool(int(values[signal]) & bit)
        at = merged.readings[signal].at
        tracks[reason] = track = _advance(tracks.get(reason, Slowdown()), at, values.get(counter), on, now)
        limit = THRESHOLDS.slowdown_share * THRESHOLDS.slowdown_window_seconds
        if sum(seconds for _, seconds in track.buckets) >= limit:
            found.append(Finding(reason, "degraded", action, polls=THRESHOLDS.enter_polls))
    return replace(old, slowdowns=tracks), found, silent


def _advance(track: Slowdown, at: float, total: float | None, on: bool, now: float) -> Slowdown:
    """The track with the time since its last reading added: by the counter of seconds, else by the bit."""
    if track.at is not None and at <= track.at:
        return track
    passed = at - track.at if track.at is not None else 0.0
    if total is not None:
        seconds = min(max(0.0, total - track.total), passed) if track.total is not None else 0.0
    else:
        # Between two looks that are far apart the bit says nothing.
        seconds = min(passed, _BUCKET_SECONDS) if on else 0.0
    start = at // _BUCKET_SECONDS * _BUCKET_SECONDS
    buckets = [row for row in track.buckets if row[0] + _BUCKET_SECONDS > now - THRESHOLDS.slowdown_window_seconds]
    if buckets and buckets[-1][0] == start:
        seconds += buckets.pop()[1]
    return Slowdown(at, total, (*buckets, (start, seconds)))


def _applications(
    old: History, merged: MergedGpu, events: Iterable[XidEvent], now: float
) -> tuple[History, list[Finding]]:
    """Application Xids count when they come back on this GPU with another pod on it."""
    episodes = [e for e in old.episodes if now - e.last < THRESHOLDS.application_window_seconds]
    for event in events:
        if xid.of(event.xid).kind != "application":
            continue
        pods = frozenset(merged.pods)
        if episodes and event.at - episodes[-1].last <= THRESHOLDS.application_burst_seconds:
            pods |= episodes.pop().pods
        episodes.append(Episode(event.at, pods))
    pods = frozenset(pod for episode in episodes for pod in episode.pods)
    enough = len(episodes) >= THRESHOLDS.application_episodes and len(pods) >= THRESHOLDS.application_pods
    found = [Finding("application_xids_repeated", "degraded", "contact_support")] if enough else []
    return replace(old, episodes=tuple(episodes[-_MAX_EPISODES:])), found
