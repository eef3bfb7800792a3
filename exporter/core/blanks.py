"""Numbers that mean "I have no number": sentinels of NVML and DCGM, and values that no GPU can have.

May not be in here: reading a source. Whatever is turned down here is missing, never a value.
"""

import math
from collections.abc import Mapping

from exporter.core.signals import NVLINKS

#: All bits set, and DCGM's blanks for 32-bit, 64-bit and floating-point fields (dcgm_structs.h: blank, not found, not
#: supported, no permission). The 64-bit ones, and the 9223372036854775794 of dcgm-exporter's README, are one in
#: floating point: 2**63.
SENTINELS = frozenset(
    float(number)
    for number in (
        0xFFFFFFFF,
        0xFFFFFFFFFFFFFFFF,
        *range(0x7FFFFFF0, 0x7FFFFFF4),
        *range(0x7FFFFFFFFFFFFFF0, 0x7FFFFFFFFFFFFFF4),
        *range(1 << 47, (1 << 47) + 4),
    )
)

#: What a signal can be at all, in its own unit (core/signals.py), both ends included. A sensor that is not there
#: reads 127 or 255 degrees on some boards, 0 for the memory's, and -1 where a signed number has all bits set. Margins
#: count down, and go below 0 on a board that is too hot.
_FLAG = (0.0, 1.0)
_MARGIN = (-100.0, 150.0)
RANGES: Mapping[str, tuple[float, float]] = {
    "utilization": (0.0, 1.0),
    "temperature": (0.0, 125.0),
    "memory_temperature": (1.0, 125.0),
    "temperature_margin": _MARGIN,
    "margin_shutdown": _MARGIN,
    "margin_slowdown": _MARGIN,
    "margin_memory_max": _MARGIN,
    "margin_gpu_max": _MARGIN,
    "temperature_shutdown": (1.0, 150.0),
    "temperature_slowdown": (1.0, 150.0),
    "power": (0.0, 20e3),
    "power_limit": (1.0, 20e3),
    "power_limit_default": (1.0, 20e3),
    "memory_total": (1.0, 1e15),
    "clock_sm": (0.0, 1e10),
    "clock_memory": (0.0, 1e11),
    "clock_sm_max": (1.0, 1e10),
    "clock_memory_max": (1.0, 1e11),
    "clock_sm_application": (1.0, 1e10),
    "throttle_reasons": (0.0, float(1 << 53)),
    "ecc_enabled": _FLAG,
    "ecc_pending": _FLAG,
    "sram_threshold_exceeded": _FLAG,
    "remap_pending": _FLAG,
    "remap_failure": _FLAG,
    "retired_pages_sbe": (0.0, 1e6),
    "retired_pages_dbe": (0.0, 1e6),
    "retired_pages_pending": _FLAG,
    "pcie_generation": (1.0, 16.0),
    "pcie_generation_max": (1.0, 16.0),
    "pcie_width": (1.0, 64.0),
    "pcie_width_max": (1.0, 64.0),
    **{f"remap_banks_{left}": (0.0, 1e6) for left in ("max", "high", "partial", "low", "none")},
    "pcie_bytes_sent": (0.0, float(1 << 64)),  # a busy link passes 10**15 in hours
    "pcie_bytes_received": (0.0, float(1 << 64)),
    **{f"nvlink_up_{link}": _FLAG for link in range(NVLINKS)},
    "fabric_state": (0.0, 255.0),
    "fabric_status": (0.0, 65535.0),
    "fabric_health": (0.0, float((1 << 32) - 2)),
    "fabric_summary": (0.0, 254.0),  # one byte
    "mig_enabled": _FLAG,
    "persistence": _FLAG,
    "processes": (0.0, 1e6),
    "xid_watched": _FLAG,
    "recovery_action": (0.0, 255.0),
}
_ANYTHING = (0.0, 1e15)


def value(signal: str, raw: float, factor: float) -> float | None:
    """raw * factor, in the signal's unit; None if raw is a sentinel, not finite or out of the signal's range."""
    if raw in SENTINELS or not math.isfinite(raw):
        return None
    number = raw * factor
    low, high = RANGES.get(signal, _ANYTHING)
    return number if low <= number <= high else None
