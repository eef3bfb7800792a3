"""The verdict on one GPU: its readings and Xids now, and what was known before, become a state with reasons.

May not be in here: what speaks against a GPU (findings.py at one look, history.py over time), numbers that are policy
(thresholds.toml), what an Xid code means (xid.tsv), I/O, clocks.

**States**, worst first: lost, unhealthy, unknown, degraded, healthy.

**Healthy has to be shown.** It takes a fresh temperature or clock AND the count of uncorrectable memory errors. A card
that has no such count (a consumer GPU, or ECC switched off) says so itself: NVML's "not_supported" is knowledge, and
such a GPU can be healthy. What dcgm-exporter does not export is no knowledge: with its default set the state is
"unknown", and the reasons name what was not read. Under MIG a driver that answers "not supported" for the board means
"not now" ("not_supported_in_mig"), which is no knowledge either.

**Degraded or worse needs no completeness**: what was seen counts, whatever else is missing. No fresh reading at all is
"unknown", unless the GPU was unhealthy or lost before: not hearing of it makes it no better.

**Flap.** A finding counts after as many polls as its row says (2; 1 for what the hardware states) and until it was not
seen for 5 minutes of clean readings. Xids of class lost and critical, and uncorrectable errors that no Xid 94 explains,
latch until the GPU was seen to be reset: a volatile counter fell, the driver withdrew its recovery action, or the GPU
was lost and reads again. (A reboot ends this process and with it the memory.) Unknown comes and goes at once.

**A MIG instance** is judged on what was seen of the instance itself, and takes its board's verdict where that is worse.
"""

from collections.abc import Iterable, Mapping, Sequence

from msgspec import Struct
from msgspec.structs import replace

from exporter.core import findings, history
from exporter.core.findings import THRESHOLDS, Finding
from exporter.core.history import History
from exporter.core.join import FRESH_SECONDS, MergedGpu
from exporter.core.model import Verdict, XidEvent

STATES = ("healthy", "degraded", "unhealthy", "lost", "unknown")
ACTIONS = findings.ACTIONS

_BADNESS = {"healthy": 0, "degraded": 1, "unknown": 2, "unhealthy": 3, "lost": 4}


class Condition(Struct, frozen=True):
    """A finding that counts, or that will if it is seen again."""

    finding: Finding
    polls: int  # in a row that showed it, up to now
    active: bool
    until: float  # counts until then, if it is not seen again


class HealthMemory(Struct, frozen=True):
    """What one verdict leaves to the next."""

    at: float = float("-inf")  # of the newest sample that was judged
    verdict: Verdict = Verdict("unknown")
    conditions: Mapping[str, Condition] = {}  # reason -> condition
    history: History = History()


def judge(
    memory: HealthMemory | None,
    merged: MergedGpu,
    xids: Sequence[XidEvent],
    now: float,
    fresh: Mapping[str, float] = FRESH_SECONDS,
    board: Verdict | None = None,
) -> tuple[Verdict, HealthMemory]:
    """The verdict at `now` (monotonic seconds), and the memory for the next one.

    xids: those of this GPU since the last call. fresh: source -> seconds for which its reading counts.
    board: the verdict on the board of a MIG instance.
    """
    old = memory or HealthMemory()
    values = {name: r.value for name, r in merged.readings.items() if now - r.at <= fresh.get(r.source, 0.0)}
    found, silent = findings.look(values)
    seen, past = history.look(old.history, merged, values, xids, now)
    found += _of_the_whole(merged) + seen.found
    unseen = silent | seen.silent if values else None
    conditions = _keep(old.conditions, found, unseen, seen.reset, merged.at > old.at, now)

    state, reasons = _state(conditions, merged, values)
    if board is not None and _BADNESS[board.state] > _BADNESS[state]:
        state, reasons = board.state, (*board.reasons, *(pair for pair in reasons if pair not in board.reasons))
    changed = state != old.verdict.state
    verdict = Verdict(
        state=state,
        reasons=reasons,
        since=now if changed or memory is None else old.verdict.since,
        transitions=old.verdict.transitions + (changed and memory is not None),
        capacity=_capacity(state, values, board),
    )
    return verdict, HealthMemory(max(old.at, merged.at), verdict, conditions, past)


def _of_the_whole(merged: MergedGpu) -> list[Finding]:
    """What speaks against the GPU before any reading does."""
    if merged.lost:
        return [Finding(merged.lost, "lost", "reboot_node")]
    # NVML error 16: the GPU refuses to be read until it is reset.
    if "reset_required" in merged.missing.values():
        return [Finding("reset_required", "unhealthy", "reset_gpu")]
    return []


def _keep(
    old: Mapping[str, Condition],
    found: Iterable[Finding],
    unseen: set[str] | None,
    reset: bool,
    polled: bool,
    now: float,
) -> dict[str, Condition]:
    """The conditions after this look.

    unseen: reasons that could not be looked for; None: none could. polled: there is a sample that was not judged yet.
    """
    kept: dict[str, Condition] = {}
    for finding in found:
        before = kept.get(finding.reason) or old.get(finding.reason)
        polls = before.polls + polled if before else 1
        active = polls >= finding.polls or (before is not None and before.active)
        until = max(now + finding.hold, before.until if before and not reset else now)
        kept[finding.reason] = Condition(finding, polls, active, until)
    for reason, before in old.items():
        if reason in kept:
            continue
        blind = unseen is None or reason in unseen
        until = min(before.until, now + THRESHOLDS.leave_seconds) if reset else before.until
        # What polls show leaves after so much time of clean readings; what an event left just runs out.
        if blind and not before.finding.event:
            until = now + THRESHOLDS.leave_seconds
        # What was not seen often enough to count is forgotten at the first poll that does not show it.
        stays = now < until if before.active else blind or not polled
        if stays:
            kept[reason] = replace(before, until=until)
    return kept


def _state(
    conditions: Mapping[str, Condition], merged: MergedGpu, values: Mapping[str, float]
) -> tuple[str, tuple[tuple[str, str], ...]]:
    """The worst state, and all reasons for a state other than healthy, worst first."""
    rows = [(c.finding.state, c.finding.reason, c.finding.action) for c in conditions.values() if c.active]
    if not values and not merged.lost:
        rows.append(("unknown", "stale" if merged.readings else "nothing_read", "none"))
    if not rows:
        rows = [("unknown", reason, "none") for reason in _not_known(merged, values)]
    rows.sort(key=lambda row: (-_BADNESS[row[0]], row[1]))
    return rows[0][0] if rows else "healthy", tuple((reason, action) for _, reason, action in rows)


def _not_known(merged: MergedGpu, values: Mapping[str, float]) -> list[str]:
    """Why the GPU cannot be called healthy; [] if it can. The head of this file says what it takes."""
    if merged.info.key.instance:
        return []
    unknown = [
        name
        for signal, name in findings.WATCHED
        if signal not in values and merged.missing.get(signal) != "not_supported"
    ]
    measured = "temperature" in values or "clock_sm" in values
    if measured and findings.WATCHED[0][1] not in unknown:
        return []
    return unknown if measured else ["temperature_not_read", *unknown]


def _capacity(state: str, values: Mapping[str, float], board: Verdict | None) -> float | None:
    if state in ("lost", "unhealthy"):
        return 0.0
    own = None if state == "unknown" else findings.capacity(values)
    if board is None or own is None:
        return own
    return None if board.capacity is None else min(own, board.capacity)
