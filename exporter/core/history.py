"""What a GPU's readings and Xids show only over time: findings that rest on what was seen before.

May not be in here: rules that need one look (rules.py), how long a finding counts and what follows (health.py), Xids
(xid_past.py), links (links.py), what shows a reset (resets.py), I/O, clocks.
"""

from collections.abc import Iterable, Mapping, Sequence

from msgspec import Struct
from msgspec.structs import replace

from exporter.core import containment, links, resets, rules, xid_past
from exporter.core.containment import Containment, Told
from exporter.core.findings import FINDINGS, THRESHOLDS, Finding
from exporter.core.join import MergedGpu
from exporter.core.links import Links
from exporter.core.model import XidEvent
from exporter.core.resets import Resets
from exporter.core.windows import Held, Window, hold, time_on
from exporter.core.xid_past import XidPast

#: Findings by the time for which they hold, each with its counter of seconds. The bit of throttle_reasons that has the
#: finding's name stands in for the counter.
_SLOWDOWNS = (
    ("hw_thermal_slowdown", "throttle_hw_thermal"),
    ("hw_power_brake", "throttle_hw_power_brake"),
)
#: Seconds of the window.
_SLOWDOWN_LIMIT = THRESHOLDS.slowdown_share * THRESHOLDS.window_seconds
_UNCORRECTED = "ecc_uncorrected"
#: The count of the board's life, which no reset clears: NVML has no other of a board in MIG mode.
_LIFETIME = "ecc_uncorrected_lifetime"


class History(Struct, frozen=True):
    """What is remembered of a GPU's readings and Xids."""

    resets: Resets = Resets()
    uncorrected: Mapping[str, float] = {}  # source -> value of _UNCORRECTED
    lifetime: tuple[str, float] | None = None  # (source, value) of _LIFETIME
    windows: Mapping[str, Window] = {}  # reason -> seconds on
    fabric: Held | None = None  # how long the GPU has not joined it
    containment: Containment = Containment()
    links: Links = Links()
    xids: XidPast = XidPast()


class Seen(Struct, frozen=True):
    found: list[Finding]
    silent: set[str]  # reasons that could not be looked for
    back: set[str]  # reasons that count no more: they turned out to be none
    reset: bool  # the GPU was reset since the last look


def look(
    old: History,
    merged: MergedGpu,
    values: Mapping[str, float],
    xids: Sequence[XidEvent],
    now: float,
    contained: Sequence[XidEvent] = (),
    reset: bool = False,
) -> tuple[Seen, Mapping[str, float], History]:
    """(what the past and this look show together, the readings to judge by, the past for the next look).

    values: the fresh readings. The readings to judge by are these, with what Xid 154 told of the recovery action.
    contained: new Xids 94 of the board's MIG instances. reset: the GPU was reset, whatever the readings show.
    """
    past = xid_past.announced(old.xids, xids, merged, values, now)
    judged, past = xid_past.stand_in(past, values)
    reset, of_resets = resets.look(old.resets, merged, values, judged, reset)
    if reset:
        old = replace(old, uncorrected={}, windows={}, containment=Containment())
        past = xid_past.after_reset(past, xids)
        judged, past = xid_past.stand_in(past, values)

    heard, past = xid_past.look(past, xids, merged, values, now)
    found, back, silent = heard.found, heard.back, set[str]()
    uncorrected, errors = _uncorrected(old.uncorrected, merged, values, found)
    lifetime, more = _lived(old.lifetime, merged, values)
    told = [*heard.contained, *containment.contained(contained)]
    explained, taken_back = _contained(old.containment, heard, told, errors + more, found, now)
    back |= taken_back
    windows = _windows(old.windows, merged, values, found, silent, now)
    fabric = _fabric(old.fabric, merged, values, found, silent)
    of_links, silent_links, linked = links.look(old.links, merged, values, now, reset)
    if back:
        found = [finding for finding in found if finding.reason not in back]
    seen = Seen(found + of_links, silent | silent_links, back, reset)
    new = History(
        resets=of_resets,
        uncorrected=uncorrected,
        lifetime=lifetime,
        windows=windows,
        fabric=fabric,
        containment=explained,
        links=linked,
        xids=past,
    )
    return seen, judged, new


def _uncorrected(
    old: Mapping[str, float], merged: MergedGpu, values: Mapping[str, float], found: list[Finding]
) -> tuple[Mapping[str, float], list[tuple[str, Told]]]:
    """The volatile count after this look, and the new errors that it shows.

    Those from before the first look are of unknown kind: reason enough to plan a reset, not to stop the GPU.
    """
    if _UNCORRECTED not in values:
        return old, []
    reading = merged.readings[_UNCORRECTED]
    if reading.value < old.get(reading.source, 0.0):
        old = {}  # it counts anew: what other sources told was before that
    if not old and reading.value > 0:
        found.append(FINDINGS["ecc_uncorrected_before_start"])
    # A source that lags tells nothing new.
    grew = bool(old) and reading.value > max(old.values())
    new = {**old, reading.source: reading.value}
    return new, [(_UNCORRECTED, Told(reading.at, reading.source))] if grew else []


def _lived(
    old: tuple[str, float] | None, merged: MergedGpu, values: Mapping[str, float]
) -> tuple[tuple[str, float] | None, list[tuple[str, Told]]]:
    """The board's lifetime count after this look, and the new errors that it alone shows."""
    if _LIFETIME not in values:
        return old, []
    reading = merged.readings[_LIFETIME]
    grew = old is not None and old[0] == reading.source and reading.value > old[1]
    alone = _UNCORRECTED not in values
    return (reading.source, reading.value), [(_UNCORRECTED, Told(reading.at, reading.source))] if grew and alone else []


def _contained(
    old: Containment,
    heard: xid_past.Heard,
    contained: Sequence[Told],
    errors: Iterable[tuple[str, Told]],
    found: list[Finding],
    now: float,
) -> tuple[Containment, set[str]]:
    """Memory errors that no Xid 94 explains are findings; those that turn out to be explained are none."""
    new_errors = (*heard.errors, *errors)
    if not (old.pending or new_errors or contained):
        return old, set()
    counts, back, new = containment.weigh(old, contained, new_errors, _UNCORRECTED, now)
    found += [FINDINGS.get(reason) or xid_past.MEMORY[reason] for reason in sorted(counts)]
    if heard.back:  # replayed ones that are over: the next of their kind is a new one
        pending = {reason: told for reason, told in new.pending.items() if reason not in heard.back}
        settled = tuple(reason for reason in new.settled if reason not in heard.back)
        new = Containment(new.contained, pending, settled)
    return new, back


def _windows(
    old: Mapping[str, Window],
    merged: MergedGpu,
    values: Mapping[str, float],
    found: list[Finding],
    silent: set[str],
    now: float,
) -> Mapping[str, Window]:
    """What was on for too much of the window: slowdowns, no margin to the next one. Idle time counts as it is: what an
    idle GPU's heat shows is the truth of it.
    """
    windows = dict(old)

    def add(reason: str, signal: str, seconds: float | None, on: bool, limit: float) -> None:
        at = merged.readings[signal].at
        windows[reason] = window = time_on(old.get(reason, Window()), at, seconds, on, now)
        if window.amount >= limit:
            found.append(FINDINGS[reason])

    for reason, counter in _SLOWDOWNS:
        if counter in values:
            add(reason, counter, values[counter], False, _SLOWDOWN_LIMIT)
        elif "throttle_reasons" in values:
            on = bool(int(values["throttle_reasons"]) & rules.bits(reason))
            add(reason, "throttle_reasons", None, on, _SLOWDOWN_LIMIT)
        else:
            silent.add(reason)
    margin = rules.thermal_margin(values)
    if margin is None:
        silent.add("thermal_margin")
    else:
        signal = "temperature_margin" if "temperature_margin" in values else "temperature"
        add("thermal_margin", signal, None, margin <= 0.0, THRESHOLDS.thermal_margin_seconds)
    return windows


def _fabric(
    old: Held | None, merged: MergedGpu, values: Mapping[str, float], found: list[Finding], silent: set[str]
) -> Held | None:
    """How long the GPU has not joined its fabric; for too long is a finding."""
    waits = rules.fabric_waits(values)
    if waits is None:
        silent.add("fabric_not_ready")
        return old
    held = hold(old, merged.readings["fabric_state"].at, waits)
    if held is not None and held.seconds >= THRESHOLDS.fabric_not_ready_seconds:
        found.append(FINDINGS["fabric_not_ready"])
    return held
