"""What one look at a GPU's readings shows: the rules of the verdict that need no history, as rows.

May not be in here: history, hysteresis, the verdict (health.py); numbers that are policy (thresholds.toml).
"""

import math
import tomllib
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import NamedTuple

from msgspec import Struct, convert

#: What can be done about a finding, from the mildest. drain: let the work end, then reset.
ACTIONS = (
    "none",
    "restart_app",
    "drain",
    "reset_gpu",
    "reboot_node",
    "check_cabling",
    "rma",
    "contact_support",
)

#: A finding with this hold latches: it counts until the GPU was seen to be reset.
UNTIL_RESET = math.inf


class Thresholds(Struct, frozen=True, forbid_unknown_fields=True):
    """The values of thresholds.toml; units and sources stand there."""

    enter_polls: int
    leave_seconds: float
    contained_error_seconds: float
    degraded_xid_seconds: float
    ecc_match_seconds: float
    slowdown_window_seconds: float
    slowdown_share: float
    clock_share: float
    busy_share: float
    loaded_share: float
    application_episodes: int
    application_pods: int
    application_window_seconds: float
    application_burst_seconds: float


def load(text: str) -> Thresholds:
    """Raises msgspec.ValidationError, KeyError or tomllib.TOMLDecodeError if the file is not as it must be."""
    return convert({name: row["value"] for name, row in tomllib.loads(text).items()}, Thresholds)


THRESHOLDS = load(Path(__file__).with_name("thresholds.toml").read_text(encoding="utf-8"))


class Finding(NamedTuple):
    """Something that speaks against a GPU."""

    reason: str
    state: str  # "degraded" | "unhealthy" | "lost"
    action: str
    hold: float = THRESHOLDS.leave_seconds  # seconds for which it counts after it was last seen
    polls: int = 1  # how many polls in a row must show it before it counts
    event: bool = False  # it happened once: no later poll can show it or show that it is over


class Rule(NamedTuple):
    finding: Finding
    needs: tuple[str, ...]  # signals without which nothing can be said
    shows: Callable[[Mapping[str, float]], bool]


# Bits of throttle_reasons (signals.THROTTLE_REASONS) by what they mean for the verdict.
IDLE = 0x1
#: Holds the clocks below what the load asks for: power cap, HW slowdown, SW and HW thermal, power brake.
HELD_DOWN = 0x4 | 0x8 | 0x20 | 0x40 | 0x80
#: Explains a low clock without a fault (idle, application clocks, power cap, sync boost, display), or has a rule of its
#: own (HW slowdown, HW thermal, power brake). SW thermal slowdown is left: with it a low clock is a finding.
EXPLAINED = 0x1 | 0x2 | 0x4 | 0x8 | 0x10 | 0x40 | 0x80 | 0x100

#: NVML field 230: what the driver wants done. Any other number above 0 is a newer driver's.
RECOVERY: Mapping[int, Finding] = {
    1: Finding("recovery_reset", "unhealthy", "reset_gpu"),
    2: Finding("recovery_reboot_node", "unhealthy", "reboot_node"),
    3: Finding("recovery_drain_p2p", "degraded", "drain"),
    4: Finding("recovery_drain_and_reset", "unhealthy", "reset_gpu"),
    5: Finding("recovery_imex", "degraded", "drain"),
    6: Finding("recovery_bus_reset", "unhealthy", "reset_gpu"),
    7: Finding("recovery_system_reboot", "unhealthy", "reboot_node"),
}
_OTHER_RECOVERY = Finding("recovery_other", "degraded", "contact_support")


def _is(action: int) -> Callable[[Mapping[str, float]], bool]:
    return lambda values: values["recovery_action"] == action


def _low_clock(values: Mapping[str, float]) -> bool:
    return (
        values["utilization"] > THRESHOLDS.busy_share
        and values["clock_sm"] < THRESHOLDS.clock_share * values["clock_sm_max"]
        and not int(values["throttle_reasons"]) & EXPLAINED
    )


RULES: tuple[Rule, ...] = (
    Rule(Finding("row_remap_failure", "unhealthy", "rma"), ("remap_failure",), lambda v: v["remap_failure"] > 0),
    Rule(Finding("row_remap_pending", "degraded", "drain"), ("remap_pending",), lambda v: v["remap_pending"] > 0),
    *(Rule(finding, ("recovery_action",), _is(action)) for action, finding in RECOVERY.items()),
    Rule(_OTHER_RECOVERY, ("recovery_action",), lambda v: v["recovery_action"] > max(RECOVERY)),
    Rule(
        Finding("clock_low", "degraded", "contact_support", polls=THRESHOLDS.enter_polls),
        ("utilization", "clock_sm", "clock_sm_max", "throttle_reasons"),
        _low_clock,
    ),
)


def look(values: Mapping[str, float]) -> tuple[list[Finding], set[str]]:
    """(what the readings show, the reasons that they cannot speak about because a signal is missing)."""
    found: list[Finding] = []
    silent: set[str] = set()
    for rule in RULES:
        if any(signal not in values for signal in rule.needs):
            silent.add(rule.finding.reason)
        elif rule.shows(values):
            found.append(rule.finding)
    return found, silent


#: What a whole verdict would rest on, and how it is called when it is not known. The first is essential: without it
#: no GPU is healthy (health.py).
WATCHED: tuple[tuple[str, str], ...] = (
    ("ecc_uncorrected", "ecc_not_read"),
    ("throttle_reasons", "throttling_not_read"),
    ("remap_failure", "row_remap_not_read"),
    ("recovery_action", "recovery_action_not_read"),
)


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
