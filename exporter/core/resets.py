"""Whether a GPU was reset: what ends its latches, and makes its counters begin anew.

May not be in here: what a reset ends (health.py, history.py), I/O, clocks.

**The driver's word** counts: that it withdraws a recovery action for which the GPU had to stop. So does the caller's:
the driver was loaded anew, or the board of a MIG instance was reset.

**Else** it shows in counters that start from 0: one fell, or the GPU was gone and reads again. But it was none if any
of them goes on: a GPU can be out of reach for a while, and anybody may clear its error counts. Every number is compared
with what the same source told before: another one may repeat what it read long ago.
"""

from collections.abc import Mapping

from msgspec import Struct

from exporter.core import rules
from exporter.core.findings import THRESHOLDS
from exporter.core.join import MergedGpu

#: Counters that start anew when the GPU is reset or the driver is loaded again.
_VOLATILE = ("energy", "ecc_uncorrected", "ecc_corrected")
#: Who tells a recovery action that is not read: the driver, by Xid 154.
_ANNOUNCED = "xid"
#: How a GPU is lost that only a reset brings back. After an "unknown error" nobody knows.
_GONE = ("gpu_is_lost", "gone_from_inventory")


class Resets(Struct, frozen=True):
    """What is remembered: of each source what it told last."""

    volatile: Mapping[str, Mapping[str, float]] = {}  # signal -> source -> value
    recovery: Mapping[str, float] = {}  # source -> recovery action
    gone: bool = False  # and not read since


def look(
    old: Resets, merged: MergedGpu, values: Mapping[str, float], judged: Mapping[str, float], told: bool
) -> tuple[bool, Resets]:
    """(whether the GPU was reset since the last look, the memory for the next one).

    values: the fresh readings. judged: these, with the recovery action of Xid 154 where it is not read. told: it was
    reset, whatever the readings show.
    """
    recovery = {}
    if "recovery_action" in judged:
        read = "recovery_action" in values
        recovery[merged.readings["recovery_action"].source if read else _ANNOUNCED] = judged["recovery_action"]
    reads = bool(values) and not merged.lost
    withdrawn = not merged.lost and _withdrawn(old.recovery, recovery)
    reset = told or withdrawn or (reads and _shows(old, merged, values))

    volatile = {} if reset else dict(old.volatile)
    for signal in _VOLATILE:
        if signal in values:
            volatile[signal] = {**volatile.get(signal, {}), merged.readings[signal].source: values[signal]}
    wanted = {} if reset else {**old.recovery, **recovery}
    return reset, Resets(volatile, wanted, merged.lost in _GONE or (old.gone and not reads))


def _withdrawn(old: Mapping[str, float], recovery: Mapping[str, float]) -> bool:
    for source, action in recovery.items():
        wanted = rules.RECOVERY.get(int(old.get(source, 0.0)))
        if action == 0.0 and wanted is not None and wanted.state == "unhealthy":
            return True
    return False


def _shows(old: Resets, merged: MergedGpu, values: Mapping[str, float]) -> bool:
    fell = False
    for signal, sources in old.volatile.items():
        before = sources.get(merged.readings[signal].source) if signal in values else None
        if before is None:
            continue
        value = values[signal]
        # Energy that stands still is not counted; a count of errors stands still for months, and at 0 says nothing.
        if value > before if signal == "energy" else value >= before > 0.0:
            return False
        fell = fell or value < (before * THRESHOLDS.energy_reset_share if signal == "energy" else before)
    return fell or old.gone
