"""The rules of the verdict that need one look at a GPU's readings, as rows; and what the GPU can carry now.

May not be in here: history (history.py), hysteresis and the verdict (health.py), numbers that are policy
(thresholds.toml), what can be found and what to do about it (findings.py).
"""

import math
from collections.abc import Callable, Mapping
from typing import NamedTuple

from exporter.core.findings import FINDINGS, THRESHOLDS, Finding
from exporter.core.signals import THROTTLE_REASONS

Test = Callable[[Mapping[str, float]], bool]


class Rule(NamedTuple):
    finding: Finding
    needs: frozenset[str]  # signals without which nothing can be said
    shows: Test
    when: Test | None = None  # while it does not hold, nothing can be said either


def bits(*names: str) -> int:
    """The bits of throttle_reasons that have these names in signals.THROTTLE_REASONS."""
    return sum(bit for bit, name in THROTTLE_REASONS if name in names)


IDLE = bits("gpu_idle")
#: Holds the clocks down unasked. The power cap is not among them: under full load it is every data-centre GPU's
#: ordinary state.
THROTTLED = bits("hw_slowdown", "sw_thermal_slowdown", "hw_thermal_slowdown", "hw_power_brake")
#: Holds the clocks below what the load asks for.
HELD_DOWN = THROTTLED | bits("sw_power_cap")
#: Explains a low clock without a fault (idle, application clocks, power cap, sync boost, display), or has a rule of its
#: own (HW slowdown, HW thermal, power brake). SW thermal slowdown is left: with it a low clock is a finding.
EXPLAINED = bits(*(name for _, name in THROTTLE_REASONS if name != "sw_thermal_slowdown"))

#: NVML field 230 -> the finding.
RECOVERY: Mapping[int, Finding] = {
    number: FINDINGS[f"recovery_{name}"]
    for number, name in enumerate(
        ("reset", "reboot_node", "drain_p2p", "drain_and_reset", "imex", "bus_reset", "system_reboot"), 1
    )
}

#: nvml.h, NVML_GPU_FABRIC_HEALTH_MASK_*: where two bits (four for the configuration) stand. 1 is "yes" for the first
#: three and 2 is "no"; 0 is "not supported"; a configuration of 1 is right. Fabric managers of 2026 also say 3 for a
#: route: unhealthy until the reset.
_BANDWIDTH, _ROUTE_RECOVERY, _ROUTE_UNHEALTHY, _TIMEOUT_RECOVERY, _CONFIGURATION = 0, 2, 4, 6, 8


def thermal_margin(values: Mapping[str, float]) -> float | None:
    """Degrees that are left until the driver slows the clocks down; None is unknown.

    The margin of newer boards counts down to their maximum and goes below 0; margin_slowdown is where slowing begins.
    """
    if "temperature_margin" in values:
        return values["temperature_margin"] - values.get("margin_slowdown", 0.0)
    if "temperature_slowdown" in values and "temperature" in values:
        return values["temperature_slowdown"] - values["temperature"]
    return None


def fabric_waits(values: Mapping[str, float]) -> bool | None:
    """Whether the GPU has not joined its NVLink fabric yet (not started, in progress); None is unknown."""
    return values["fabric_state"] in (1.0, 2.0) if "fabric_state" in values else None


def _is(action: int) -> Test:
    return lambda values: values["recovery_action"] == action


def _above_zero(signal: str) -> Test:
    return lambda values: values[signal] > 0


def _busy(values: Mapping[str, float]) -> bool:
    """An idle GPU lowers its clock and its link: what they could be does not show."""
    return values["utilization"] > THRESHOLDS.busy_share


def _low_clock(values: Mapping[str, float]) -> bool:
    # A clock that somebody has set lower for applications is the highest that the load gets.
    highest = min(values["clock_sm_max"], values.get("clock_sm_application", math.inf))
    low = values["clock_sm"] < THRESHOLDS.clock_share * highest
    return low and not int(values["throttle_reasons"]) & EXPLAINED


def _below_max(signal: str) -> Test:
    return lambda values: values[signal] < values[f"{signal}_max"]


def _many_pages(values: Mapping[str, float]) -> bool:
    return values["retired_pages_sbe"] + values["retired_pages_dbe"] >= THRESHOLDS.retired_pages


def _fabric_unhealthy(values: Mapping[str, float]) -> bool:
    # nvml.h: the status is to be looked at once the GPU has joined, not before.
    failed = values["fabric_state"] == 3.0 and values.get("fabric_status", 0.0) != 0.0
    route = int(values.get("fabric_health", 0.0)) >> _ROUTE_UNHEALTHY & 3
    return failed or values.get("fabric_summary") == 2.0 or route in (1, 3)


def _fabric_degraded(values: Mapping[str, float]) -> bool:
    mask = int(values.get("fabric_health", 0.0))
    yes = any(mask >> place & 3 == 1 for place in (_BANDWIDTH, _ROUTE_RECOVERY, _TIMEOUT_RECOVERY))
    return yes or mask >> _CONFIGURATION & 15 > 1 or values.get("fabric_summary") == 3.0


def _rule(reason: str, needs: tuple[str, ...], shows: Test, when: Test | None = None) -> Rule:
    return Rule(FINDINGS[reason], frozenset(needs), shows, when)


RULES: tuple[Rule, ...] = (
    *(_rule(finding.reason, ("recovery_action",), _is(action)) for action, finding in RECOVERY.items()),
    _rule("recovery_other", ("recovery_action",), lambda v: v["recovery_action"] > max(RECOVERY)),
    *(
        _rule(reason, (signal,), _above_zero(signal))
        for reason, signal in (
            ("row_remap_failure", "remap_failure"),
            ("row_remap_pending", "remap_pending"),
            ("sram_threshold_exceeded", "sram_threshold_exceeded"),
            ("retired_pages_pending", "retired_pages_pending"),
        )
    ),
    _rule("retired_pages_many", ("retired_pages_sbe", "retired_pages_dbe"), _many_pages),
    _rule("clock_low", ("utilization", "clock_sm", "clock_sm_max", "throttle_reasons"), _low_clock, _busy),
    *(
        _rule(f"{signal}_low", ("utilization", signal, f"{signal}_max"), _below_max(signal), _busy)
        for signal in ("pcie_width", "pcie_generation")
    ),
    _rule("fabric_unhealthy", ("fabric_state",), _fabric_unhealthy),
    _rule("fabric_degraded", ("fabric_state",), _fabric_degraded),
)


#: Reason -> the signals that its rule needs.
NEEDS: Mapping[str, frozenset[str]] = {rule.finding.reason: rule.needs for rule in RULES}


def look(values: Mapping[str, float]) -> tuple[list[Finding], set[str]]:
    """(what the readings show, the reasons that they cannot speak about: a signal is missing, or the GPU is idle)."""
    found: list[Finding] = []
    silent: set[str] = set()
    signals = values.keys()
    for finding, needs, shows, when in RULES:
        if not needs <= signals or (when is not None and not when(values)):
            silent.add(finding.reason)
        elif shows(values):
            found.append(finding)
    return found, silent


def capacity(values: Mapping[str, float]) -> float | None:
    """What a GPU that works can do now, 0..1: the clock's share of the highest while the clock is held down under
    load, else 1. None: it is held down by an unknown share.
    """
    reasons = int(values.get("throttle_reasons", 0.0))
    loaded = values.get("utilization", 1.0) > THRESHOLDS.loaded_share
    if not reasons & HELD_DOWN or reasons & IDLE or not loaded:
        return 1.0
    clock, highest = values.get("clock_sm"), values.get("clock_sm_max")
    if clock is None or not highest:
        return None
    # Two digits: a clock that jitters by 15 MHz is no news to a scaler.
    return round(min(1.0, clock / highest), 2)
