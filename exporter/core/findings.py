"""Everything that can speak against a GPU, as rows, but for Xids (xid.tsv); and the policy's numbers.

May not be in here: when a row applies (rules.py at one look, history.py over time), the verdict (health.py), the numbers
themselves (thresholds.toml).
"""
# ruff: noqa: E501 -- one row a finding: a wrapped table cannot be scanned

import math
import tomllib
from collections.abc import Mapping
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
    slow_reading_seconds: float
    dcgm_reading_seconds: float
    leave_seconds: float
    energy_reset_share: float
    contained_error_seconds: float
    degraded_xid_seconds: float
    ecc_match_seconds: float
    witness_seconds: float
    window_seconds: float
    rate_seconds: float
    slowdown_share: float
    thermal_margin_seconds: float
    clock_share: float
    busy_share: float
    loaded_share: float
    retired_pages: int
    pcie_replays_per_minute_per_lane: tuple[float, ...]
    nvlink_baseline_seconds: float
    nvlink_failed_recoveries_per_minute: float
    nvlink_recoveries_per_minute: float
    nvlink_damaged_packets_per_minute: float
    fabric_not_ready_seconds: float
    application_episodes: int
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
    span: float = 0.0  # seconds from the first to the last of them: else they may repeat one reading
    event: bool = False  # it happened once: no later poll can show it or show that it is over


class Row(NamedTuple):
    finding: Finding
    source: str  # whose word it rests on


_TWICE = THRESHOLDS.enter_polls
_SLOW = THRESHOLDS.slow_reading_seconds

# fmt: off
TABLE: tuple[Row, ...] = (
    # The GPU as a whole.
    Row(Finding("gpu_is_lost", "lost", "reboot_node"), "NVML error 15"),
    Row(Finding("gone_from_inventory", "lost", "reboot_node"), "Plimsoll: the driver had the board and has it no more"),
    # NVML says no more than that. Two polls: a driver that is busy with another GPU's reset answers so as well.
    Row(Finding("unknown_error", "lost", "reboot_node", polls=_TWICE), "NVML error 999 from every call; a reset through the same driver would need calls that work"),
    Row(Finding("reset_required", "unhealthy", "reset_gpu"), "NVML error 16: no call is answered until the reset"),
    # NVML field 230: what the driver wants done. Any other number above 0 is a newer driver's.
    Row(Finding("recovery_reset", "unhealthy", "reset_gpu"), "NVML field 230: 1"),
    Row(Finding("recovery_reboot_node", "unhealthy", "reboot_node"), "NVML field 230: 2"),
    Row(Finding("recovery_drain_p2p", "degraded", "drain"), "NVML field 230: 3"),
    Row(Finding("recovery_drain_and_reset", "unhealthy", "drain"), "NVML field 230: 4; drain is just that: let the work end, then reset"),
    Row(Finding("recovery_imex", "degraded", "drain"), "NVML field 230: 5"),
    Row(Finding("recovery_bus_reset", "unhealthy", "reset_gpu"), "NVML field 230: 6"),
    Row(Finding("recovery_system_reboot", "unhealthy", "reboot_node"), "NVML field 230: 7"),
    Row(Finding("recovery_other", "degraded", "contact_support"), "Plimsoll: not known to be harmless"),
    # Memory.
    Row(Finding("ecc_uncorrected", "unhealthy", "reset_gpu", UNTIL_RESET, event=True), "NVIDIA memory error management: what Xid 94 does not call contained may have reached any process"),
    Row(Finding("ecc_uncorrected_before_start", "degraded", "drain", UNTIL_RESET, event=True), "Plimsoll: of unknown kind; reason to plan a reset, not to stop the GPU"),
    Row(Finding("row_remap_failure", "unhealthy", "rma"), "NVIDIA RMA policy: the row-remapping failure flag"),
    Row(Finding("row_remap_pending", "degraded", "drain"), "NVIDIA row remapping: takes effect at the next reset"),
    Row(Finding("sram_threshold_exceeded", "unhealthy", "rma"), "NVIDIA RMA policy: the SRAM threshold flag"),
    Row(Finding("retired_pages_pending", "degraded", "drain"), "NVIDIA page retirement: takes effect when the driver is loaded again"),
    # Degraded, not unhealthy: retired pages are out of use, and what is left works until the table of 64 is full.
    Row(Finding("retired_pages_many", "degraded", "rma"), "NVIDIA page retirement: evaluation for RMA at 60 pages"),
    # Heat, power, clocks.
    Row(Finding("hw_thermal_slowdown", "degraded", "contact_support", polls=_TWICE), "NVML clock event reason 0x40; gpud looks at the same for 10 min"),
    Row(Finding("hw_power_brake", "degraded", "check_cabling", polls=_TWICE), "NVML clock event reason 0x80: raised by the power supply"),
    Row(Finding("thermal_margin", "degraded", "contact_support"), "NVML margin temperature and its slowdown limit; how long is Plimsoll's"),
    Row(Finding("clock_low", "degraded", "contact_support", polls=_TWICE), "Plimsoll: busy, slow, and the driver gives no reason"),
    # PCIe.
    Row(Finding("pcie_width_low", "degraded", "check_cabling", polls=_TWICE), "NVML: fewer lanes than board and slot have, under load"),
    Row(Finding("pcie_generation_low", "degraded", "check_cabling", polls=_TWICE), "NVML: slower than board and slot can be, under load; idle links save power"),
    Row(Finding("pcie_replays", "degraded", "check_cabling"), "DCGM 4.6 health: replays a minute and lane by generation"),
    # NVLink and its fabric.
    Row(Finding("nvlink_down", "unhealthy", "reset_gpu", polls=_TWICE, span=_SLOW), "NVIDIA Health Validation nvlink_active: critical; drain, reset the GPU, then reboot"),
    Row(Finding("nvlink_errors", "degraded", "check_cabling"), "DCGM health: NVLink CRC, replay and recovery counters"),
    Row(Finding("fabric_unhealthy", "unhealthy", "reset_gpu", polls=_TWICE, span=_SLOW), "nvml.h fabric health: unhealthy, route unhealthy, or a probe that failed; DCGM health: FAIL"),
    Row(Finding("fabric_degraded", "degraded", "drain", polls=_TWICE, span=_SLOW), "nvml.h fabric health: less bandwidth, a recovery that goes on, a wrong configuration"),
    # Degraded, though CUDA cannot start there (error 802): an engine that cannot start is no supply anyhow, and a VM
    # that was given one GPU without its fabric works in this state.
    Row(Finding("fabric_not_ready", "degraded", "reboot_node"), "DCGM health: fabric manager not started or in progress"),
    # Xids over time; what a single code means stands in xid.tsv.
    Row(Finding("application_xids_repeated", "degraded", "contact_support"), "NVSentinel: bursts of Xids in 24 h"),
)
# fmt: on

FINDINGS: Mapping[str, Finding] = {row.finding.reason: row.finding for row in TABLE}
