"""Several policies over one scenario: which is best, which are beaten.

May not be in here: how it is shown.
"""

from collections.abc import Sequence
from typing import NamedTuple

from scaler.simulate.model import Run, Scenario
from scaler.simulate.outcome import Summary


class Row(NamedTuple):
    """One policy with one setting of its knob, and what its run came to."""

    policy: str
    knob: float | None
    knob_name: str  # "" if it has none
    summary: Summary
    is_bound: bool = False  # no policy that one could run: it knows the trace. It neither wins nor beats


class Comparison(NamedTuple):
    scenario: Scenario
    rows: tuple[Row, ...]
    runs: tuple[Run, ...] = ()  # those to show in full
    target: float = 0.99  # the attainment that is wanted
    own: str = "plimsoll"  # our policies' names begin so


def attains(row: Row, target: float) -> bool:
    return row.summary.attainment is not None and row.summary.attainment >= target


def ranked(rows: Sequence[Row], target: float) -> list[Row]:
    """Best first: those that attain the target by GPU-hours, then the others by attainment. A tie is broken by name."""

    def key(row: Row) -> tuple[bool, float, float, str, float]:
        share = -1.0 if row.summary.attainment is None else row.summary.attainment
        missed = not attains(row, target)
        return missed, -share if missed else 0.0, row.summary.gpu_hours, row.policy, row.knob or 0.0

    return sorted(rows, key=key)


def dominated(row: Row, rows: Sequence[Row]) -> bool:
    """Whether another has at least its attainment with no more GPU-hours, and is better in one of the two."""
    if row.is_bound:
        return False
    mine = row.summary.attainment
    for other in rows:
        share, hours = other.summary.attainment, other.summary.gpu_hours
        if mine is None or share is None or other.is_bound:
            continue
        if share >= mine and hours <= row.summary.gpu_hours and (share > mine or hours < row.summary.gpu_hours):
            return True
    return False


def is_own(policy: str, comparison: Comparison) -> bool:
    return bool(comparison.own) and policy.startswith(comparison.own)


def best(rows: Sequence[Row], target: float) -> Row | None:
    """The first of those that one could run."""
    return next((row for row in ranked(rows, target) if not row.is_bound), None)
