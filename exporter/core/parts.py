"""The parts of a verdict: what a whole one rests on, and which of it nobody can tell now.

May not be in here: what the readings mean (findings.py), what follows from not knowing (health.py).

A part is known if what it rests on was read, or if the driver says that the card has no such thing ("not_supported").
Everything else is unknown: not exported, not permitted, blank, too old, hung, or "not_supported_in_mig", which only
means "not now".
"""
# ruff: noqa: E501 -- one row a part: a wrapped table cannot be scanned

from collections.abc import Mapping
from typing import NamedTuple


class Part(NamedTuple):
    name: str
    ways: tuple[frozenset[str], ...]  # signals: all of any one of these tell the part
    essential: bool  # without it no GPU is healthy
    reason: str  # how it is called among the reasons for "unknown"; "": it is not
    why: str
    absent: bool = True  # the card may have no such thing
    above_zero: bool = False  # a reading of 0 tells nothing
    off: str = ""  # the card has no such thing only if this signal is not supported either, or reads 0
    unless: str = ""  # not essential while this signal is read


def _all(*signals: str) -> frozenset[str]:
    return frozenset(signals)


# fmt: off
PARTS: tuple[Part, ...] = (
    Part("memory_errors", (_all("ecc_uncorrected"), _all("ecc_uncorrected_lifetime")), True, "ecc_not_read", "wrong memory makes wrong answers, and nothing else would show it; under MIG a board has the count of its life alone", off="ecc_enabled"),
    Part("sensor", (_all("temperature"), _all("clock_sm")), True, "temperature_not_read", "that a number comes from the board itself shows that it is there", absent=False),
    Part("xid", (_all("xid_watched"),), True, "xid_not_watched", "most faults are told by an Xid first; the driver's recovery action follows from the same faults", absent=False, above_zero=True, unless="recovery_action"),
    Part("recovery_action", (_all("recovery_action"),), False, "recovery_action_not_read", "what the driver itself wants done; Xids tell much of it"),
    Part("throttling", (_all("throttle_reasons"),), False, "throttling_not_read", "why a clock is low, and what is left of the capacity"),
    Part("row_remap", (_all("remap_failure", "remap_pending"), _all("retired_pages_sbe", "retired_pages_dbe", "retired_pages_pending")), False, "row_remap_not_read", "whether the memory could mend itself: rows from Ampere on, pages before"),
    Part("sram", (_all("sram_threshold_exceeded"),), False, "", "whether the caches have had more errors than they may"),
    Part("thermal_margin", (_all("temperature_margin"), _all("temperature_slowdown", "temperature")), False, "", "what is left until heat slows the board down"),
    Part("pcie", (_all("pcie_replays", "pcie_generation", "pcie_width"),), False, "", "the link to the host"),
    Part("nvlink", (_all("nvlink_up_0"),), False, "", "the links to the other GPUs; the first stands for all, they are read together"),
    Part("fabric", (_all("fabric_state"),), False, "", "whether the GPU has joined its NVLink fabric"),
)
# fmt: on

_NOTHING = "not_supported"


def unknown(values: Mapping[str, float], missing: Mapping[str, str]) -> tuple[Part, ...]:
    """The parts that nobody can tell, in the order of the table.

    values: fresh readings by signal. missing: signal -> a name from signals.MISSING_REASONS.
    """
    return tuple(part for part in PARTS if not _known(part, values, missing))


def essential(parts: tuple[Part, ...], values: Mapping[str, float]) -> bool:
    """Whether one of these unknown parts is one without which no GPU is healthy."""
    return any(part.essential and part.unless not in values for part in parts)


def _known(part: Part, values: Mapping[str, float], missing: Mapping[str, str]) -> bool:
    signals = values.keys()
    for way in part.ways:
        if way <= signals:
            return not part.above_zero or all(values[signal] > 0 for signal in way)
    if not part.absent:
        return False
    if part.off and values.get(part.off) != 0.0 and missing.get(part.off) != _NOTHING:
        return False
    # Every way counts: that an old card has no row remapping says nothing of its retired pages.
    return all(signal in values or missing.get(signal) == _NOTHING for way in part.ways for signal in way)
