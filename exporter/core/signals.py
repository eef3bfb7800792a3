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
#: No GPU has more NVLinks (nvml.h: NVML_NVLINK_MAX_LINKS, Blackwell and Hopper).
NVLINKS = 18

#: Kinds of NVLink errors that are counted per link. recovery: the link was brought up again; recovery_failed: it was not.
NVLINK_ERRORS: tuple[str, ...] = ("replay", "recovery", "recovery_failed", "crc", "receive")

#: What DCGM calls those that it has in a field for each link; of the others it has one field, told apart by a label.
_NVLINK_DCGM = {"replay": "REPLAY", "recovery": "RECOVERY", "crc": "CRC_FLIT"}


def _nvlink_dcgm(kind: str, link: int) -> tuple[str, ...]:
    if kind not in _NVLINK_DCGM:
        return ()
    stem = f"DCGM_FI_DEV_NVLINK_{_NVLINK_DCGM[kind]}_ERROR"
    return f"{stem}_L{link}_TOTAL", f"{stem}_COUNT_L{link}"


# One row a line: a wrapped table cannot be scanned.
# fmt: off
SIGNALS: tuple[Signal, ...] = (
    # Not DCGM_FI_DEV_GPU_UTIL_RATIO: it is a percentage in DCGM 4.6 and a ratio in 4.7, and 1 may be either.
    Signal("utilization", "plimsoll_gpu_utilization_ratio", (), ("DCGM_FI_DEV_GPU_UTIL", "dcgm_gpu_utilization"), 0.01),
    Signal("memory_total", "plimsoll_gpu_memory_bytes", (("kind", "total"),), ("DCGM_FI_DEV_FB_TOTAL",), MIB),
    Signal("memory_used", "plimsoll_gpu_memory_bytes", (("kind", "used"),), ("DCGM_FI_DEV_FB_USED", "dcgm_fb_used"), MIB),
    Signal("memory_free", "plimsoll_gpu_memory_bytes", (("kind", "free"),), ("DCGM_FI_DEV_FB_FREE", "dcgm_fb_free"), MIB),
    Signal("memory_reserved", "plimsoll_gpu_memory_bytes", (("kind", "reserved"),), ("DCGM_FI_DEV_FB_RESERVED",), MIB),
    Signal("temperature", "plimsoll_gpu_temperature_celsius", (("sensor", "gpu"),), ("DCGM_FI_DEV_GPU_TEMP_CELSIUS", "DCGM_FI_DEV_GPU_TEMP", "dcgm_gpu_temp")),
    Signal("memory_temperature", "plimsoll_gpu_temperature_celsius", (("sensor", "memory"),), ("DCGM_FI_DEV_MEMORY_TEMP_CELSIUS", "DCGM_FI_DEV_MEMORY_TEMP", "dcgm_memory_temp")),
    # What is left until the driver slows the clocks down, on boards that count downwards (Ada and newer); may be below 0.
    Signal("temperature_margin", "plimsoll_gpu_temperature_margin_celsius", (), ("DCGM_FI_DEV_GPU_TEMP_MARGIN_CELSIUS", "DCGM_FI_DEV_GPU_TEMP_LIMIT")),
    # The margin at which a slowdown begins, and so on (fields 193-196).
    Signal("margin_shutdown", "plimsoll_gpu_temperature_margin_limit_celsius", (("limit", "shutdown"),)),
    Signal("margin_slowdown", "plimsoll_gpu_temperature_margin_limit_celsius", (("limit", "slowdown"),)),
    Signal("margin_memory_max", "plimsoll_gpu_temperature_margin_limit_celsius", (("limit", "memory_max"),)),
    Signal("margin_gpu_max", "plimsoll_gpu_temperature_margin_limit_celsius", (("limit", "gpu_max"),)),
    # The temperature at which a slowdown begins, on boards that count upwards.
    Signal("temperature_shutdown", "plimsoll_gpu_temperature_limit_celsius", (("limit", "shutdown"),), ("DCGM_FI_DEV_GPU_TEMP_SHUTDOWN_CELSIUS", "DCGM_FI_DEV_SHUTDOWN_TEMP")),
    Signal("temperature_slowdown", "plimsoll_gpu_temperature_limit_celsius", (("limit", "slowdown"),), ("DCGM_FI_DEV_GPU_TEMP_SLOWDOWN_CELSIUS", "DCGM_FI_DEV_SLOWDOWN_TEMP")),
    Signal("power", "plimsoll_gpu_power_watts", (), ("DCGM_FI_DEV_BOARD_POWER_WATTS", "DCGM_FI_DEV_POWER_USAGE", "dcgm_power_usage")),
    Signal("power_limit", "plimsoll_gpu_power_limit_watts", (("kind", "enforced"),), ("DCGM_FI_DEV_BOARD_POWER_LIMIT_ENFORCED_WATTS", "DCGM_FI_DEV_ENFORCED_POWER_LIMIT")),
    Signal("power_limit_default", "plimsoll_gpu_power_limit_watts", (("kind", "default"),), ("DCGM_FI_DEV_BOARD_POWER_LIMIT_DEFAULT_WATTS", "DCGM_FI_DEV_POWER_MGMT_LIMIT_DEF")),
    Signal("energy", "plimsoll_gpu_energy_joules_total", (), ("DCGM_FI_DEV_TOTAL_ENERGY_CONSUMPTION", "dcgm_total_energy_consumption"), 0.001),
    Signal("clock_sm", "plimsoll_gpu_clock_hertz", (("domain", "sm"),), ("DCGM_FI_DEV_SM_CLOCK", "dcgm_sm_clock"), 1e6),
    Signal("clock_memory", "plimsoll_gpu_clock_hertz", (("domain", "memory"),), ("DCGM_FI_DEV_MEM_CLOCK", "dcgm_memory_clock"), 1e6),
    Signal("clock_sm_max", "plimsoll_gpu_clock_max_hertz", (("domain", "sm"),), ("DCGM_FI_DEV_MAX_SM_CLOCK",), 1e6),
    Signal("clock_memory_max", "plimsoll_gpu_clock_max_hertz", (("domain", "memory"),), ("DCGM_FI_DEV_MAX_MEM_CLOCK",), 1e6),
    Signal("clock_sm_application", "plimsoll_gpu_clock_application_hertz", (("domain", "sm"),), ("DCGM_FI_DEV_APP_SM_CLOCK",), 1e6),
    # A bit mask (THROTTLE_REASONS below); publish.py spreads it into one series a reason.
    Signal("throttle_reasons", "plimsoll_gpu_throttle_active", (), ("DCGM_FI_DEV_CLOCKS_EVENT_REASONS", "DCGM_FI_DEV_CLOCK_THROTTLE_REASONS")),
    Signal("throttle_sw_power_cap", "plimsoll_gpu_throttle_seconds_total", (("reason", "sw_power_cap"),), ("DCGM_FI_DEV_CLOCKS_EVENT_REASON_SW_POWER_CAP_NS", "DCGM_FI_DEV_POWER_VIOLATION", "dcgm_power_violation"), 1e-9),
    Signal("throttle_sw_thermal", "plimsoll_gpu_throttle_seconds_total", (("reason", "sw_thermal_slowdown"),), ("DCGM_FI_DEV_CLOCKS_EVENT_REASON_SW_THERM_SLOWDOWN_NS", "DCGM_FI_DEV_THERMAL_VIOLATION", "dcgm_thermal_violation"), 1e-9),
    Signal("throttle_hw_thermal", "plimsoll_gpu_throttle_seconds_total", (("reason", "hw_thermal_slowdown"),), ("DCGM_FI_DEV_CLOCKS_EVENT_REASON_HW_THERM_SLOWDOWN_NS",), 1e-9),
    Signal("throttle_hw_power_brake", "plimsoll_gpu_throttle_seconds_total", (("reason", "hw_power_brake"),), ("DCGM_FI_DEV_CLOCKS_EVENT_REASON_HW_POWER_BRAKE_SLOWDOWN_NS",), 1e-9),
    Signal("ecc_enabled", "plimsoll_gpu_ecc_enabled", (), ("DCGM_FI_DEV_ECC_MODE", "DCGM_FI_DEV_ECC_CURRENT")),
    Signal("ecc_pending", "plimsoll_gpu_ecc_pending", (), ("DCGM_FI_DEV_ECC_PENDING",)),
    Signal("ecc_corrected", "plimsoll_gpu_ecc_errors_total", (("kind", "corrected"), ("location", "all")), ("DCGM_FI_DEV_ECC_SBE_VOL_TOTAL", "dcgm_ecc_sbe_volatile_total")),
    Signal("ecc_uncorrected", "plimsoll_gpu_ecc_errors_total", (("kind", "uncorrected"), ("location", "all")), ("DCGM_FI_DEV_ECC_DBE_VOL_TOTAL", "dcgm_ecc_dbe_volatile_total")),
    Signal("ecc_corrected_dram", "plimsoll_gpu_ecc_errors_total", (("kind", "corrected"), ("location", "dram")), ("DCGM_FI_DEV_ECC_SBE_VOL_DEV",)),
    Signal("ecc_corrected_sram", "plimsoll_gpu_ecc_errors_total", (("kind", "corrected"), ("location", "sram")), ("DCGM_FI_DEV_ECC_SBE_VOL_SRM",)),
    Signal("ecc_uncorrected_dram", "plimsoll_gpu_ecc_errors_total", (("kind", "uncorrected"), ("location", "dram")), ("DCGM_FI_DEV_ECC_DBE_VOL_DEV",)),
    Signal("ecc_uncorrected_sram", "plimsoll_gpu_ecc_errors_total", (("kind", "uncorrected"), ("location", "sram")), ("DCGM_FI_DEV_ECC_DBE_VOL_SRM",)),
    Signal("ecc_corrected_lifetime", "plimsoll_gpu_ecc_lifetime_errors_total", (("kind", "corrected"), ("location", "all")), ("DCGM_FI_DEV_ECC_SBE_AGG_TOTAL", "dcgm_ecc_sbe_aggregate_total")),
    Signal("ecc_uncorrected_lifetime", "plimsoll_gpu_ecc_lifetime_errors_total", (("kind", "uncorrected"), ("location", "all")), ("DCGM_FI_DEV_ECC_DBE_AGG_TOTAL", "dcgm_ecc_dbe_aggregate_total")),
    Signal("sram_threshold_exceeded", "plimsoll_gpu_sram_threshold_exceeded", (), ("DCGM_FI_DEV_SRAM_EXCEEDED", "DCGM_FI_DEV_THRESHOLD_SRM")),
    Signal("remapped_correctable", "plimsoll_gpu_remapped_rows", (("kind", "correctable"),), ("DCGM_FI_DEV_ROW_REMAP_CORRECTABLE_TOTAL", "DCGM_FI_DEV_CORRECTABLE_REMAPPED_ROWS")),
    Signal("remapped_uncorrectable", "plimsoll_gpu_remapped_rows", (("kind", "uncorrectable"),), ("DCGM_FI_DEV_ROW_REMAP_UNCORRECTABLE_TOTAL", "DCGM_FI_DEV_UNCORRECTABLE_REMAPPED_ROWS")),
    Signal("remap_pending", "plimsoll_gpu_row_remap_pending", (), ("DCGM_FI_DEV_ROW_REMAP_PENDING",)),
    Signal("remap_failure", "plimsoll_gpu_row_remap_failure", (), ("DCGM_FI_DEV_ROW_REMAP_FAILED", "DCGM_FI_DEV_ROW_REMAP_FAILURE")),
    *(
        Signal(f"remap_banks_{left}", "plimsoll_gpu_remap_banks", (("availability", left),), (f"DCGM_FI_DEV_BANK_REMAP_AVAIL_{left.upper()}", f"DCGM_FI_DEV_BANKS_REMAP_ROWS_AVAIL_{left.upper()}"))
        for left in ("max", "high", "partial", "low", "none")
    ),
    # Boards before Ampere retire pages where newer ones remap rows.
    Signal("retired_pages_sbe", "plimsoll_gpu_retired_pages", (("cause", "single_bit"),), ("DCGM_FI_DEV_PAGE_RETIRED_SBE_TOTAL", "DCGM_FI_DEV_RETIRED_SBE", "dcgm_retired_pages_sbe")),
    Signal("retired_pages_dbe", "plimsoll_gpu_retired_pages", (("cause", "double_bit"),), ("DCGM_FI_DEV_PAGE_RETIRED_DBE_TOTAL", "DCGM_FI_DEV_RETIRED_DBE", "dcgm_retired_pages_dbe")),
    Signal("retired_pages_pending", "plimsoll_gpu_retired_pages_pending", (), ("DCGM_FI_DEV_PAGE_RETIRED_PENDING", "DCGM_FI_DEV_RETIRED_PENDING", "dcgm_retired_pages_pending")),
    Signal("pcie_replays", "plimsoll_gpu_pcie_replays_total", (), ("DCGM_FI_DEV_PCIE_REPLAY_TOTAL", "DCGM_FI_DEV_PCIE_REPLAY_COUNTER", "dcgm_pcie_replay_counter")),
    Signal("pcie_generation", "plimsoll_gpu_pcie_link_generation", (("kind", "current"),), ("DCGM_FI_DEV_PCIE_LINK_GEN",)),
    Signal("pcie_generation_max", "plimsoll_gpu_pcie_link_generation", (("kind", "max"),), ("DCGM_FI_DEV_PCIE_MAX_LINK_GEN",)),
    Signal("pcie_width", "plimsoll_gpu_pcie_link_width", (("kind", "current"),), ("DCGM_FI_DEV_PCIE_LINK_WIDTH",)),
    Signal("pcie_width_max", "plimsoll_gpu_pcie_link_width", (("kind", "max"),), ("DCGM_FI_DEV_PCIE_MAX_LINK_WIDTH",)),
    Signal("pcie_bytes_sent", "plimsoll_gpu_pcie_bytes_total", (("direction", "sent"),)),
    Signal("pcie_bytes_received", "plimsoll_gpu_pcie_bytes_total", (("direction", "received"),)),
    *(Signal(f"nvlink_up_{link}", "plimsoll_gpu_nvlink_up", (("link", str(link)),)) for link in range(NVLINKS)),
    *(
        Signal(f"nvlink_{kind}_{link}", "plimsoll_gpu_nvlink_errors_total", (("link", str(link)), ("kind", kind)), _nvlink_dcgm(kind, link))
        for kind in NVLINK_ERRORS
        for link in range(NVLINKS)
    ),
    # nvmlGpuFabricInfo: state 0 not supported, 1 not started, 2 in progress, 3 completed; status is an nvmlReturn.
    # DCGM's FABRIC_MANAGER_STATUS has more values than the state, and tells of both: core/dcgm.py.
    Signal("fabric_state", "plimsoll_gpu_fabric_state"),
    Signal("fabric_status", "plimsoll_gpu_fabric_status"),
    Signal("fabric_health", "plimsoll_gpu_fabric_health_mask", (), ("DCGM_FI_DEV_FABRIC_HEALTH_MASK",)),
    Signal("fabric_summary", "plimsoll_gpu_fabric_health", (), ("DCGM_FI_DEV_FABRIC_HEALTH_SUMMARY",)),
    Signal("mig_enabled", "plimsoll_gpu_mig_enabled", (), ("DCGM_FI_DEV_MIG_MODE",)),
    Signal("persistence", "plimsoll_gpu_persistence_mode", (), ("DCGM_FI_DEV_GPU_PERSISTENCE_MODE", "DCGM_FI_DEV_PERSISTENCE_MODE")),
    Signal("processes", "plimsoll_gpu_processes"),
    Signal("processes_memory", "plimsoll_gpu_processes_memory_bytes"),
    # 1: somebody would tell of an Xid of this GPU.
    Signal("xid_watched", "plimsoll_gpu_xid_watched"),
    # 0 none, 1 reset, 2 reboot node, 3 drain P2P, 4 drain and reset, 5 IMEX, 6 bus reset, 7 system reboot (field 230).
    Signal("recovery_action", "plimsoll_gpu_recovery_action", (), ("DCGM_FI_DEV_GPU_RECOVERY_ACTION", "DCGM_FI_DEV_GET_GPU_RECOVERY_ACTION")),
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
