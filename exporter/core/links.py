"""What a GPU's links show over time: NVLinks that went down or make errors, PCIe packets that are sent again.

May not be in here: rules that need one look (rules.py), the arithmetic of windows (windows.py), I/O, clocks.

**The NVLink baseline is learned**: nobody can be asked how many links a board should have up, for that depends on the
machine. A link that was seen up for a minute of polls belongs to it, until the node boots again. Under MIG the driver
turns the links off, and they come back after it, as they do after a reset: the baseline stays, and nothing is missed
before the links had time to train.
"""

from collections.abc import Mapping
from typing import NamedTuple

from msgspec import Struct

from exporter.core.findings import FINDINGS, THRESHOLDS, Finding
from exporter.core.join import MergedGpu
from exporter.core.signals import NVLINK_ERRORS, NVLINKS
from exporter.core.windows import Held, Window, amounts, growth, hold


class Links(Struct, frozen=True):
    """What is remembered. Sets of NVLinks are bit masks: bit N is link N."""

    mig: bool = False  # as last read
    training: float = float("-inf")  # when the links last had to train anew: at a reset, under MIG
    baseline: int = 0  # links that were up for long enough to be missed
    candidates: int = 0  # links that were up in every poll of `held`
    held: Held | None = None
    errors: Mapping[str, float] = {}  # NVLink error counters, as last read
    rates: Mapping[str, Window] = {}  # kind of error (_Rate.name) -> how many there were
    replays: Window = Window()  # PCIe


class _Rate(NamedTuple):
    name: str
    kinds: tuple[str, ...]  # of signals.NVLINK_ERRORS
    limit: float  # a minute, over all links; above is a finding
    seconds: float  # that must have been watched


_RATES = (
    _Rate("failed", ("recovery_failed",), THRESHOLDS.nvlink_failed_recoveries_per_minute, 0.0),
    _Rate("mended", ("replay", "recovery"), THRESHOLDS.nvlink_recoveries_per_minute, THRESHOLDS.rate_seconds),
    _Rate("damaged", ("crc", "receive"), THRESHOLDS.nvlink_damaged_packets_per_minute, THRESHOLDS.rate_seconds),
)
_UP = tuple((1 << link, f"nvlink_up_{link}") for link in range(NVLINKS))
_RATE_OF = {kind: rate.name for rate in _RATES for kind in rate.kinds}
_ERRORS = {f"nvlink_{kind}_{link}": _RATE_OF[kind] for kind in NVLINK_ERRORS for link in range(NVLINKS)}


def look(
    old: Links, merged: MergedGpu, values: Mapping[str, float], now: float, reset: bool
) -> tuple[list[Finding], set[str], Links]:
    """(what the links show, reasons that they cannot speak about, the memory for the next look).

    reset: the GPU was reset since the last look.
    """
    found: list[Finding] = []
    silent: set[str] = set()
    mig = values["mig_enabled"] > 0 if "mig_enabled" in values else old.mig
    training = now if reset or mig else old.training
    trained = now - training >= THRESHOLDS.nvlink_baseline_seconds
    baseline, candidates, held = _nvlinks(old, merged, values, mig, trained, found, silent)
    errors, rates = _nvlink_errors(old, merged, values, found, silent, now)
    replays = _replays(old.replays, merged, values, found, silent, now)
    new = Links(
        mig=mig,
        training=training,
        baseline=baseline,
        candidates=candidates,
        held=held,
        errors=errors,
        rates=rates,
        replays=replays,
    )
    return found, silent, new


def _nvlinks(
    old: Links,
    merged: MergedGpu,
    values: Mapping[str, float],
    mig: bool,
    trained: bool,
    found: list[Finding],
    silent: set[str],
) -> tuple[int, int, Held | None]:
    """(baseline, candidates, how long these are up)."""
    seen = up = 0
    at = None
    for bit, name in _UP:
        value = values.get(name)
        if value is not None:
            seen |= bit
            if value > 0:
                up |= bit
            if at is None:
                at = merged.readings[name].at
    if mig:
        return old.baseline, 0, None
    if trained and old.baseline & seen & ~up:
        found.append(FINDINGS["nvlink_down"])
    elif old.baseline & ~up:
        silent.add("nvlink_down")
    if at is None:
        return old.baseline, old.candidates, old.held
    candidates = (old.candidates & up) or (up & ~old.baseline)
    held = hold(old.held if old.candidates & up else None, at, candidates > 0)
    if held is not None and held.seconds >= THRESHOLDS.nvlink_baseline_seconds:
        return old.baseline | candidates, 0, None
    return old.baseline, candidates, held


def _nvlink_errors(
    old: Links,
    merged: MergedGpu,
    values: Mapping[str, float],
    found: list[Finding],
    silent: set[str],
    now: float,
) -> tuple[Mapping[str, float], Mapping[str, Window]]:
    counters = {name: values[name] for name in _ERRORS if name in values}
    if not counters:
        silent.add("nvlink_errors")
        return old.errors, old.rates
    grown = dict.fromkeys((rate.name for rate in _RATES), 0.0)
    if old.errors and counters != old.errors:
        for name, value in counters.items():
            # A counter that fell was reset: what it shows now is of a time that nobody watched.
            grown[_ERRORS[name]] += max(0.0, value - old.errors.get(name, value))
    at = merged.readings[next(iter(counters))].at
    rates = {name: amounts(old.rates.get(name, Window()), at, more, now) for name, more in grown.items()}
    if any(_above(rates[rate.name], rate.limit, rate.seconds) for rate in _RATES):
        found.append(FINDINGS["nvlink_errors"])
    return counters, rates


def _replays(
    old: Window, merged: MergedGpu, values: Mapping[str, float], found: list[Finding], silent: set[str], now: float
) -> Window:
    # By the fastest that the link can be: an idle link is slower, and its limit is not that of the load before.
    generation = values.get("pcie_generation_max", values.get("pcie_generation"))
    lanes = values.get("pcie_width", values.get("pcie_width_max"))
    if "pcie_replays" not in values or generation is None or not lanes:
        silent.add("pcie_replays")
        return old
    reading = merged.readings["pcie_replays"]
    window = growth(old, reading.at, reading.source, reading.value, now)
    limits = THRESHOLDS.pcie_replays_per_minute_per_lane
    limit = limits[min(max(int(generation), 1), len(limits)) - 1]
    if _above(window, limit * lanes, THRESHOLDS.rate_seconds):
        found.append(FINDINGS["pcie_replays"])
    return window


def _above(window: Window, per_minute: float, seconds: float) -> bool:
    amount, watched = window.amount, window.watched
    return amount > 0 and watched >= seconds and amount * 60.0 > per_minute * watched
