"""Every number that is read of a GPU: its name, unit, metric and where the sources keep it.

May not be in here: anything but this table. A new signal is a row here and the call that reads it in
sources/nvml.py (or a DCGM field name in the row).

Sources: NVML API reference (nvml.h of driver 580, nvidia-ml-py 13.615); dcgm-exporter's field names,
old, current and DCGM 4.6's renames. DCGM factors turn its unit into ours.
"""

from typing import NamedTuple


class Signal(NamedTuple):
    name: str
    family: str  # metric family in core/catalog.py
    labels: tuple[tuple[str, str], ...] = ()
    dcgm: tuple[str, ...] = ()  # field names that carry it, newest first
    factor: float = 1.0  # DCGM's unit times this is ours


MIB = 1048576.0

# One row a line: a wrapped table cannot be scanned.
# fmt: off
SIGNALS: tuple[Signal, ...] = (
    # Not DCGM_FI_DEV_GPU_UTIL_RATIO: it is a percentage in DCGM 4.6 and a ratio in 4.7, and 1 may be either.
    Signal("utilization", "plimsoll_gpu_utilization_ratio", (), ("DCGM_FI_DEV_GPU_UTIL",), 0.01),
    Signal("memory_total", "plimsoll_gpu_memory_bytes", (("kind", "total"),), ("DCGM_FI_DEV_FB_TOTAL",), MIB),
    Signal("memory_used", "plimsoll_gpu_memory_bytes", (("kind", "used"),), ("DCGM_FI_DEV_FB_USED",), MIB),
    Signal("memory_free", "plimsoll_gpu_memory_bytes", (("kind", "free"),), ("DCGM_FI_DEV_FB_FREE",), MIB),
    Signal("memory_reserved", "plimsoll_gpu_memory_bytes", (("kind", "reserved"),), ("DCGM_FI_DEV_FB_RESERVED",), MIB),
    Signal("temperature", "plimsoll_gpu_temperature_celsius", (("sensor", "gpu"),), ("DCGM_FI_DEV_GPU_TEMP_CELSIUS", "DCGM_FI_DEV_GPU_TEMP")),
    Signal("memory_temperature", "plimsoll_gpu_temperature_celsius", (("sensor", "memory"),), ("DCGM_FI_DEV_MEMORY_TEMP_CELSIUS", "DCGM_FI_DEV_MEMORY_TEMP")),
    Signal("power", "plimsoll_gpu_power_watts", (), ("DCGM_FI_DEV_BOARD_POWER_WATTS", "DCGM_FI_DEV_POWER_USAGE")),
    Signal("power_limit", "plimsoll_gpu_power_limit_watts", (("kind", "enforced"),), ("DCGM_FI_DEV_BOARD_POWER_LIMIT_ENFORCED_WATTS", "DCGM_FI_DEV_ENFORCED_POWER_LIMIT")),
    Signal("power_limit_default", "plimsoll_gpu_power_limit_watts", (("kind", "default"),), ("DCGM_FI_DEV_BOARD_POWER_LIMIT_DEFAULT_WATTS", "DCGM_FI_DEV_POWER_MGMT_LIMIT_DEF")),
    Signal("energy", "plimsoll_gpu_energy_joules_total", (), ("DCGM_FI_DEV_TOTAL_ENERGY_CONSUMPTION",), 0.001),
    Signal("clock_sm", "plimsoll_gpu_clock_hertz", (("domain", "sm"),), ("DCGM_FI_DEV_SM_CLOCK",), 1e6),
    Signal("clock_memory", "plimsoll_gpu_clock_hertz", (("domain", "memory"),), ("DCGM_FI_DEV_MEM_CLOCK",), 1e6),
    Signal("clock_sm_max", "plimsoll_gpu_clock_max_hertz", (("domain", "sm"),), ("DCGM_FI_DEV_MAX_SM_CLOCK",), 1e6),
    Signal("clock_memory_max", "plimsoll_gpu_clock_max_hertz", (("domain", "memory"),), ("DCGM_FI_DEV_MAX_MEM_CLOCK",), 1e6),
    # A bit mask (THROTTLE_REASONS below); publish.py spreads it into one series a reason.
    Signal("throttle_reasons", "plimsoll_gpu_throttle_active", (), ("DCGM_FI_DEV_CLOCKS_EVENT_REASONS", "DCGM_FI_DEV_CLOCK_THROTTLE_REASONS")),
    Signal("throttle_sw_power_cap", "plimsoll_gpu_throttle_seconds_total", (("reason", "sw_power_cap"),), ("DCGM_FI_DEV_CLOCKS_EVENT_REASON_SW_POWER_CAP_NS", "DCGM_FI_DEV_POWER_VIOLATION"), 1e-9),
    Signal("throttle_sw_thermal", "plimsoll_gpu_throttle_seconds_total", (("reason", "sw_thermal_slowdown"),), ("DCGM_FI_DEV_CLOCKS_EVENT_REASON_SW_THERM_SLOWDOWN_NS", "DCGM_FI_DEV_THERMAL_VIOLATION"), 1e-9),
    Signal("throttle_hw_thermal", "plimsoll_gpu_throttle_seconds_total", (("reason", "hw_thermal_slowdown"),), ("DCGM_FI_DEV_CLOCKS_EVENT_REASON_HW_THERM_SLOWDOWN_NS",), 1e-9),
    Signal("throttle_hw_power_brake", "plimsoll_gpu_throttle_seconds_total", (("reason", "hw_power_brake"),), ("DCGM_FI_DEV_CLOCKS_EVENT_REASON_HW_POWER_BRAKE_SLOWDOWN_NS",), 1e-9),
    Signal("ecc_enabled", "plimsoll_gpu_ecc_enabled", (), ("DCGM_FI_DEV_ECC_MODE", "DCGM_FI_DEV_ECC_CURRENT")),
    Signal("ecc_corrected", "plimsoll_gpu_ecc_errors_total", (("kind", "corrected"), ("location", "all")), ("DCGM_FI_DEV_ECC_SBE_VOL_TOTAL",)),
    Signal("ecc_uncorrected", "plimsoll_gpu_ecc_errors_total", (("kind", "uncorrected"), ("location", "all")), ("DCGM_FI_DEV_ECC_DBE_VOL_TOTAL",)),
    Signal("ecc_corrected_lifetime", "plimsoll_gpu_ecc_lifetime_errors_total", (("kind", "corrected"), ("location", "all")), ("DCGM_FI_DEV_ECC_SBE_AGG_TOTAL",)),
    Signal("ecc_uncorrected_lifetime", "plimsoll_gpu_ecc_lifetime_errors_total", (("kind", "uncorrected"), ("location", "all")), ("DCGM_FI_DEV_ECC_DBE_AGG_TOTAL",)),
    Signal("remapped_correctable", "plimsoll_gpu_remapped_rows", (("kind", "correctable"),), ("DCGM_FI_DEV_ROW_REMAP_CORRECTABLE_TOTAL", "DCGM_FI_DEV_CORRECTABLE_REMAPPED_ROWS")),
    Signal("remapped_uncorrectable", "plimsoll_gpu_remapped_rows", (("kind", "uncorrectable"),), ("DCGM_FI_DEV_ROW_REMAP_UNCORRECTABLE_TOTAL", "DCGM_FI_DEV_UNCORRECTABLE_REMAPPED_ROWS")),
    Signal("remap_pending", "plimsoll_gpu_row_remap_pending", (), ("DCGM_FI_DEV_ROW_REMAP_PENDING",)),
    Signal("remap_failure", "plimsoll_gpu_row_remap_failure", (), ("DCGM_FI_DEV_ROW_REMAP_FAILED", "DCGM_FI_DEV_ROW_REMAP_FAILURE")),
    Signal("pcie_replays", "plimsoll_gpu_pcie_replays_total", (), ("DCGM_FI_DEV_PCIE_REPLAY_TOTAL", "DCGM_FI_DEV_PCIE_REPLAY_COUNTER")),
    Signal("pcie_generation", "plimsoll_gpu_pcie_link_generation", (("kind", "current"),), ("DCGM_FI_DEV_PCIE_LINK_GEN",)),
    Signal("pcie_generation_max", "plimsoll_gpu_pcie_link_generation", (("kind", "max"),), ("DCGM_FI_DEV_PCIE_MAX_LINK_GEN",)),
    Signal("pcie_width", "plimsoll_gpu_pcie_link_width", (("kind", "current"),), ("DCGM_FI_DEV_PCIE_LINK_WIDTH",)),
    Signal("pcie_width_max", "plimsoll_gpu_pcie_link_width", (("kind", "max"),), ("DCGM_FI_DEV_PCIE_MAX_LINK_WIDTH",)),
    # 0 none, 1 reset, 2 reboot node, 3 drain P2P, 4 drain and reset, 5 IMEX, 6 bus reset, 7 system reboot (field 230).
    Signal("recovery_action", "plimsoll_gpu_recovery_action", ()),
)

BY_NAME = {signal.name: signal for signal in SIGNALS}

#: Why a signal is missing. "blank" is a sentinel or a value that no GPU can have (core/blanks.py). "not_supported" is
#: what the card says of itself; while MIG is on it may only mean "not now", which is "not_supported_in_mig".
MISSING_REASONS = (
    "not_supported",
    "not_supported_in_mig",
    "no_permission",
    "gpu_is_lost",
    "reset_required",
    "timeout",
    "unknown_error",
    "blank",
)

#: nvml.h, nvmlClocksEventReasons: bit -> the name it has in our labels.
THROTTLE_REASONS: tuple[tuple[int, str], ...] = (
    (0x1, "gpu_idle"),
    (0x2, "applications_clocks"),
    (0x4, "sw_power_cap"),
    (0x8, "hw_slowdown"),
    (0x10, "sync_boost"),
    (0x20, "sw_thermal_slowdown"),
    (0x40, "hw_thermal_slowdown"),
    (0x80, "hw_power_brake"),
    (0x100, "display_clocks"),
)
# fmt: on
