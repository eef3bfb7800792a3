"""The verdict on one GPU: its readings and Xids now, and what was known before, become a state with reasons.

May not be in here: what speaks against a GPU (rules.py at one look, history.py over time), what a whole verdict rests
on (parts.py), numbers that are policy (thresholds.toml), what an Xid code means (xid.tsv), I/O, clocks.

**States**, worst first: lost, unhealthy, unknown, degraded, healthy. docs/gpu-health.md says what each reason means.

**Healthy has to be shown.** It takes the essential parts of parts.py: a number from the board itself, the count of
uncorrectable memory errors, and somebody who would tell of an Xid or the driver's own recovery action. What a card has
not got, by its own word, is known; what could not be read is not, and the reasons name it. All parts that nobody can
tell are in `Verdict.unknown`, whatever the state.

**Degraded or worse needs no completeness**: what was seen counts, whatever else is missing. No fresh reading at all is
"unknown", unless the GPU was unhealthy or lost before: not hearing of it makes it no better.

**Flap.** A finding counts after as many polls as its row says (2; 1 for what the hardware states), over as many seconds
as it takes that they are readings of their own, and until it was not seen for 5 minutes of clean readings. Xids of
class lost and critical, and uncorrectable errors that no Xid 94 explains, latch until the GPU was seen to be reset
(resets.py says by what). Unknown comes and goes at once.

**Boot.** The memory outlives the process, and its times stay comparable until the node boots again: then all of it is
gone. Whatever the GPU had, the reboot has reset it; what has not gone away will be seen again.

**A MIG instance** is judged on what was seen of the instance itself, and takes its board's verdict where that is worse;
the parts that nobody can tell are its board's. Without a board it has to show for itself.
"""

import math
from collections.abc import Iterable, Mapping, Sequence, Set
from itertools import chain

from msgspec import Struct
from msgspec.structs import replace

from exporter.core import history, parts, rules, xid
from exporter.core.findings import FINDINGS, THRESHOLDS, Finding
from exporter.core.history import History
from exporter.core.join import FRESH_SECONDS, MergedGpu
from exporter.core.model import Verdict, XidEvent
from exporter.core.parts import Part

STATES = ("healthy", "degraded", "unhealthy", "lost", "unknown")
#: Nobody vouches for a GPU of which nothing is known: that is worse than one that works and should be looked at.
WORST_FIRST = ("lost", "unhealthy", "unknown", "degraded", "healthy")

_RANK = {state: place for place, state in enumerate(WORST_FIRST)}
#: Nothing fresh was read: there was something, or never.
_STALE, _NOTHING_READ = "stale", "nothing_read"

#: A memory whose newest sample is so far ahead of now is from another boot, whatever the boot ids say.
_AHEAD_SECONDS = 60.0


class Condition(Struct, frozen=True):
    """A finding that counts, or that will if it is seen again."""

    finding: Finding
    polls: int  # in a row that showed it, up to now
    first: float  # when the first and the last of them were read
    last: float
    active: bool
    until: float  # counts until then, if it is not seen again


class HealthMemory(Struct, frozen=True):
    """What one verdict leaves to the next. msgspec encodes and decodes it as it is."""

    at: float = -math.inf  # of the newest sample that was judged
    verdict: Verdict = Verdict("unknown")
    conditions: Mapping[str, Condition] = {}  # reason -> condition
    history: History = History()
    boot: str = ""  # the boot id under which all this was seen; "" is not known
    reset: bool = False  # the last look found that the GPU had been reset since the one before


def judge(
    memory: HealthMemory | None,
    merged: MergedGpu,
    xids: Sequence[XidEvent],
    now: float,
    fresh: Mapping[str, float] = FRESH_SECONDS,
    board: Verdict | None = None,
    boot: str = "",
    contained: Sequence[XidEvent] = (),
    reset: bool = False,
) -> tuple[Verdict, HealthMemory]:
    """The verdict at `now` (monotonic seconds), and the memory for the next one.

    xids: those of this GPU since the last call; a witness may tell again what another has told. fresh: source ->
    seconds for which its reading counts. board: the verdict on the board of a MIG instance. boot: the node's boot id.
    contained: new Xids 94 of a board's MIG instances; they explain memory errors that the board counts, and say nothing
    else of it. reset: the GPU is known to have been reset since the last call, whatever its readings show.
    """
    if memory is not None and _of_another_boot(memory, boot, now):
        memory = None
    old = memory or HealthMemory()
    readings = {name: r.value for name, r in merged.readings.items() if now - r.at <= fresh.get(r.source, 0.0)}
    unknown = () if board is not None else parts.unknown(readings, merged.missing)
    seen, values, past = history.look(old.history, merged, readings, xids, now, contained, reset)
    found, silent = rules.look(values)
    shown = [_dated(finding, merged) for finding in (*found, *_of_the_whole(merged), *seen.found)]
    unseen = silent | seen.silent if readings else None
    before = old.conditions
    if seen.back:
        before = {reason: condition for reason, condition in before.items() if reason not in seen.back}
    conditions = _keep(before, shown, unseen, seen.reset, merged.at > old.at, now)

    state, reasons = _state(conditions, merged, readings, unknown)
    if board is not None and _RANK[board.state] < _RANK[state]:
        state, reasons = board.state, (*board.reasons, *(pair for pair in reasons if pair not in board.reasons))
    changed = state != old.verdict.state
    verdict = Verdict(
        state=state,
        reasons=reasons,
        since=now if changed or memory is None else old.verdict.since,
        transitions=old.verdict.transitions + (changed and memory is not None),
        capacity=_capacity(state, readings, board),
        unknown=board.unknown if board is not None else tuple(part.name for part in unknown),
    )
    return verdict, HealthMemory(max(old.at, merged.at), verdict, conditions, past, boot or old.boot, seen.reset)


def reasons() -> Mapping[str, str]:
    """Every reason that a verdict can have -> its action."""
    by_xid = chain.from_iterable((row.under(""), row.under("fatal")) for row in (*xid.XIDS.values(), xid.UNLISTED))
    return {
        **{finding.reason: finding.action for finding in FINDINGS.values()},
        **{reason: action for reason, kind, action in by_xid if kind not in ("application", "info")},
        **{part.reason: "none" for part in parts.PARTS if part.reason},
        **dict.fromkeys((_STALE, _NOTHING_READ), "none"),
    }


def _of_another_boot(memory: HealthMemory, boot: str, now: float) -> bool:
    return (bool(boot) and bool(memory.boot) and boot != memory.boot) or memory.at > now + _AHEAD_SECONDS


def _of_the_whole(merged: MergedGpu) -> list[Finding]:
    """What speaks against the GPU before any reading does."""
    if merged.lost:
        return [FINDINGS[merged.lost]]
    # NVML error 16: the GPU refuses to be read until it is reset.
    if "reset_required" in merged.missing.values():
        return [FINDINGS["reset_required"]]
    return []


def _dated(finding: Finding, merged: MergedGpu) -> tuple[Finding, float]:
    """(the finding, with the span for who tells of it; when what shows it was read)."""
    if finding.polls < 2:
        return finding, merged.at
    if finding.reason == merged.lost:
        # The sample that says so has no readings. Where another source's is newer, this is no new one.
        return finding, merged.at if all(r.at < merged.at for r in merged.readings.values()) else -math.inf
    readings = [merged.readings[signal] for signal in rules.NEEDS.get(finding.reason, ())]
    if any(reading.source == "dcgm" for reading in readings):
        finding = finding._replace(span=THRESHOLDS.dcgm_reading_seconds)
    return finding, min((reading.at for reading in readings), default=merged.at)


def _keep(
    old: Mapping[str, Condition],
    found: Iterable[tuple[Finding, float]],
    unseen: Set[str] | None,
    reset: bool,
    polled: bool,
    now: float,
) -> dict[str, Condition]:
    """The conditions after this look.

    found: with when it was read. unseen: reasons that could not be looked for; None: none could. polled: there is a
    sample that was not judged yet.
    """
    kept: dict[str, Condition] = {}
    for finding, at in found:
        before = kept.get(finding.reason) or old.get(finding.reason)
        polls, first, last = (before.polls, before.first, before.last) if before else (0, at, -math.inf)
        if before is None or at > last:
            polls, last = polls + 1, at
        enough = polls >= finding.polls and last - first >= finding.span
        active = enough or (before is not None and before.active)
        until = max(now + finding.hold, before.until if before and not reset else now)
        kept[finding.reason] = Condition(finding, polls, first, last, active, until)
    for reason, before in old.items():
        if reason in kept:
            continue
        until = min(before.until, now + THRESHOLDS.leave_seconds) if reset else before.until
        # What polls show leaves after so much time of clean readings; what an event left just runs out.
        if (unseen is None or reason in unseen) and not before.finding.event:
            until = now + THRESHOLDS.leave_seconds
        # What was not seen often enough to count is forgotten at the first poll that does not show it.
        stays = now < until if before.active else not polled
        if stays:
            kept[reason] = replace(before, until=until)
    return kept


def _state(
    conditions: Mapping[str, Condition], merged: MergedGpu, values: Mapping[str, float], unknown: tuple[Part, ...]
) -> tuple[str, tuple[tuple[str, str], ...]]:
    """The worst state, and all reasons for a state other than healthy, worst first."""
    rows = [(c.finding.state, c.finding.reason, c.finding.action) for c in conditions.values() if c.active]
    lost = conditions.get(merged.lost)
    if not values and not (lost and lost.active):
        rows.append(("unknown", _STALE if merged.readings else _NOTHING_READ, "none"))
    if not rows and unknown and parts.essential(unknown, values):
        rows = [("unknown", part.reason, "none") for part in unknown if part.reason]
    rows.sort(key=lambda row: (_RANK[row[0]], row[1]))
    return rows[0][0] if rows else "healthy", tuple((reason, action) for _, reason, action in rows)


def _capacity(state: str, values: Mapping[str, float], board: Verdict | None) -> float | None:
    if state in ("lost", "unhealthy"):
        return 0.0
    own = None if state == "unknown" else rules.capacity(values)
    if board is None or own is None:
        return own
    return None if board.capacity is None else min(own, board.capacity)
