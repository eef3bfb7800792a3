"""Uncorrectable memory errors, and which of them an Xid 94 explains: those stayed within one process.

May not be in here: where an error was seen (history.py: a counter; xid_past.py: an Xid), what follows (health.py), I/O,
clocks.

The driver tells of one error several times, within seconds: by a counter, by Xid 48 and its details, by Xid 94 if it
was contained or 95 if not. What tells first waits for its 94 (the counter) or counts at once (the Xid), and is taken
back if the 94 comes. A witness that is late by nature (dcgm-exporter) has longer.

**Under MIG** the counter and Xid 48 are the board's, and Xid 94 names the instance that had the error: it explains the
board's as well, and is a finding of the instance alone.
"""

from collections.abc import Iterable, Mapping

from msgspec import Struct

from exporter.core.findings import THRESHOLDS
from exporter.core.model import XidEvent

CONTAINED = 94
#: Xids 94 that are remembered; the oldest give way.
_MAX_CONTAINED = 16


class Told(Struct, frozen=True):
    """When somebody told of something, and who."""

    at: float
    source: str


class Containment(Struct, frozen=True):
    contained: tuple[Told, ...] = ()  # Xids 94 that may still explain an error, of the board and of its instances
    pending: Mapping[str, Told] = {}  # reason -> an error that an Xid 94 may still explain
    settled: tuple[str, ...] = ()  # reasons of errors that none has explained, until the next reset


def contained(events: Iterable[XidEvent]) -> list[Told]:
    """The Xids 94 among them that no other witness told before."""
    return [Told(event.at, event.source) for event in events if event.xid == CONTAINED and not event.again]


def weigh(
    old: Containment, contained: Iterable[Told], errors: Iterable[tuple[str, Told]], waits: str, now: float
) -> tuple[set[str], set[str], Containment]:
    """(reasons that count, reasons that are taken back, the memory for the next call).

    contained: new Xids 94, of the GPU or of any instance of it. errors: (reason, told) of new errors. waits: the reason
    that is not counted before its Xid 94 had time to come. A reason that is settled is never taken back: its Xid 94
    would be another error's.
    """
    known, pending, settled = list(old.contained), dict(old.pending), set(old.settled)
    counts: set[str] = set()
    back: set[str] = set()
    happened = [(told.at, "", told) for told in contained] + [(told.at, reason, told) for reason, told in errors]
    for _, reason, told in sorted(happened, key=lambda row: row[:2]):
        if not reason:
            known.append(told)
            explained = {name for name, error in pending.items() if _explains(told, error)}
            back |= explained
            pending = {name: error for name, error in pending.items() if name not in explained}
        elif any(_explains(one, told) for one in known):
            back.add(reason)
        elif reason not in pending or told.at - pending[reason].at > THRESHOLDS.witness_seconds:
            if reason in pending:
                settled.add(reason)
            pending[reason] = told
    for reason, told in list(pending.items()):
        age = now - told.at
        if reason != waits or age >= THRESHOLDS.ecc_match_seconds:
            counts.add(reason)
        if age >= THRESHOLDS.witness_seconds:
            settled.add(reason)
            del pending[reason]
    counts |= settled.difference(old.settled)
    known = [one for one in known if now - one.at <= 2 * THRESHOLDS.witness_seconds][-_MAX_CONTAINED:]
    return counts, back - settled, Containment(tuple(known), pending, tuple(sorted(settled)))


def _explains(contained: Told, error: Told) -> bool:
    """Whether they can be of one error: a late witness of either may be as late as it is."""
    return error.at - _lag(error) <= contained.at <= error.at + _lag(contained)


def _lag(told: Told) -> float:
    return THRESHOLDS.witness_seconds if told.source == "dcgm" else THRESHOLDS.ecc_match_seconds
