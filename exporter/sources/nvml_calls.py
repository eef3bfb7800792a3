"""What is asked of NVML for one GPU: a table of signals, each with the fields and calls that know it.

May not be in here: making the calls (nvml_reader.py), threads, inventory, what a value means.

Units are NVML's; the factor makes them ours (core/signals.py). Sources: NVML API reference, nvml.h of driver 580,
nvidia-ml-py 13.615. Most signals come from one nvmlDeviceGetFieldValues call; those that an older driver or a card does
not have as a field are asked for by the call that stands after it.
"""

import ctypes
import math
from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple

import pynvml

from exporter.core.model import GpuProcess
from exporter.core.signals import NVLINKS

Handle = Any  # pynvml's opaque pointer

UNINITIALIZED, INVALID_ARGUMENT, NOT_SUPPORTED, NO_PERMISSION, DRIVER_NOT_LOADED = 1, 2, 3, 4, 9
GPU_IS_LOST, RESET_REQUIRED, LIB_RM_VERSION_MISMATCH, UNKNOWN = 15, 16, 18, 999

#: NVML's ways to say that a card or a driver does not know a call or its version: not supported, function not found,
#: argument version mismatch, deprecated.
UNSUPPORTED = frozenset((NOT_SUPPORTED, 13, 25, 26))
#: A field that is newer than the driver, or a link that the card does not have, is an invalid argument to it.
UNSUPPORTED_ARGUMENT = UNSUPPORTED | {INVALID_ARGUMENT}

#: Errors after which no call of this process can succeed: NVML must be opened again, or the process started again.
BROKEN = frozenset((UNINITIALIZED, DRIVER_NOT_LOADED, LIB_RM_VERSION_MISMATCH))

#: What NVML leaves in a number that does not apply.
UNSET = 0xFFFFFFFF


class Call(NamedTuple):
    name: str  # NVML's
    ask: Callable[[Handle], Any]
    refusals: frozenset[int] = UNSUPPORTED  # the error codes that say: not supported


#: From the answer to a number. None: the card says by it that it has no such thing. NaN: the number is not valid now.
Pick = Callable[[Any], float | None]


class Way(NamedTuple):
    """One way to learn a signal: from a call's answer, or (call None) from a field."""

    call: Call | None
    field: int = 0
    scope: int = 0  # of the field: the NVLink
    factor: float = 1.0
    pick: Pick = float
    wide: bool = False  # the field must come as a 64-bit number: else its number means something else to this driver


class Row(NamedTuple):
    signal: str
    ways: tuple[Way, ...]  # in the order in which they are tried until the card supports one
    slow: bool = False  # changes seldom, or costs the driver much: asked for at a look only (nvml_board.LOOK_SECONDS)
    fixed: bool = False  # does not change while the driver is loaded: asked for once
    link: int = -1  # the NVLink that it is about


def _call(name: str, *arguments: Any, factor: float = 1.0, pick: Pick = float) -> Way:
    """The pynvml function of this name, asked for (handle, *arguments)."""
    function = getattr(pynvml, name)
    return Way(Call(name, lambda handle: function(handle, *arguments)), factor=factor, pick=pick)


def _field(number: int, factor: float = 1.0, wide: bool = False) -> Way:
    return Way(None, number, factor=factor, wide=wide)


_MEMORY = Call("nvmlDeviceGetMemoryInfo_v2", lambda h: pynvml.nvmlDeviceGetMemoryInfo(h, pynvml.nvmlMemory_v2))
#: Drivers before 510. Their "used" holds what is reserved.
_MEMORY_V1 = Call("nvmlDeviceGetMemoryInfo", pynvml.nvmlDeviceGetMemoryInfo)
_REMAPPED = Call("nvmlDeviceGetRemappedRows", pynvml.nvmlDeviceGetRemappedRows)
_BANKS = Call("nvmlDeviceGetRowRemapperHistogram", pynvml.nvmlDeviceGetRowRemapperHistogram)
#: Their answers list processes. Clients of MPS have a list of their own, which is not asked for: they share a GPU, and
#: whose memory is whose is then told by their containers alone (core/engine_memory.py).
PROCESSES = (
    Call("nvmlDeviceGetComputeRunningProcesses_v3", pynvml.nvmlDeviceGetComputeRunningProcesses_v3),
    Call("nvmlDeviceGetComputeRunningProcesses_v2", pynvml.nvmlDeviceGetComputeRunningProcesses_v2),
)
#: Processes of a GPU that are listed; what is more is in the signal `processes` alone.
MAX_PROCESSES = 256


def _filling(name: str, structure: Callable[[], Any]) -> Call:
    """A pynvml function that hands NVML the pointer that it is given, to be filled."""
    function = getattr(pynvml, name)

    def ask(handle: Handle) -> Any:
        answer = structure()
        function(handle, ctypes.byref(answer))
        return answer

    return Call(name, ask)


#: Needs root.
_SRAM = _filling("nvmlDeviceGetSramEccErrorStatus", pynvml.c_nvmlEccSramErrorStatus_v1_t)
_FABRIC = _filling("nvmlDeviceGetGpuFabricInfoV", pynvml.c_nvmlGpuFabricInfo_v3_t)
#: Drivers before 575.
_FABRIC_V2 = _filling("nvmlDeviceGetGpuFabricInfoV", pynvml.c_nvmlGpuFabricInfo_v2_t)


def _part(name: str, *calls: Call) -> tuple[Way, ...]:
    """The member of this name of what the calls answer."""
    return tuple(Way(call, pick=lambda answer: float(getattr(answer, name))) for call in calls)


def _remapped(field: int, place: int) -> tuple[Way, ...]:
    return _field(field), Way(_REMAPPED, pick=lambda rows: float(rows[place]))


_DRAM, _SRAM_PLACE = pynvml.NVML_MEMORY_LOCATION_DRAM, pynvml.NVML_MEMORY_LOCATION_SRAM
_VOLATILE, _LIFETIME = 0, 1
_CORRECTED, _UNCORRECTED = 0, 1


def _ecc(field: int, kind: int, counter: int) -> tuple[Way, ...]:
    return _field(field), _call("nvmlDeviceGetTotalEccErrors", kind, counter)


def _ecc_dram(field: int, kind: int) -> tuple[Way, ...]:
    return _field(field), _call("nvmlDeviceGetMemoryErrorCounter", kind, _VOLATILE, _DRAM)


def _ecc_sram(kind: int, parts: Sequence[str] = ()) -> tuple[Way, ...]:
    counter = _call("nvmlDeviceGetMemoryErrorCounter", kind, _VOLATILE, _SRAM_PLACE)
    if not parts:
        return (counter,)
    return counter, Way(_SRAM, pick=lambda status: float(sum(getattr(status, part) for part in parts)))


def _retired(field: int, cause: int) -> tuple[Way, ...]:
    def count(pages: Sequence[int]) -> float:
        return math.nan if 2**64 - 1 in pages else float(len(pages))

    return _field(field), _call("nvmlDeviceGetRetiredPages", cause, pick=count)


def _fabric(name: str, *calls: Call) -> tuple[Way, ...]:
    """State 0 says that the board has no fabric. The probe's status is only valid once the probe is completed (3)."""

    def pick(info: Any) -> float | None:
        if info.state == pynvml.NVML_GPU_FABRIC_STATE_NOT_SUPPORTED:
            return None
        if name == "status" and info.state != pynvml.NVML_GPU_FABRIC_STATE_COMPLETED:
            return math.nan
        return float(getattr(info, name))

    return tuple(Way(call, pick=pick) for call in calls)


def listed(processes: Sequence[Any]) -> tuple[GpuProcess, ...]:
    """What a call of PROCESSES answered, MAX_PROCESSES at most. Raises what a wrong answer raises."""
    return tuple(
        GpuProcess(int(process.pid), None if process.usedGpuMemory is None else float(process.usedGpuMemory))
        for process in processes[:MAX_PROCESSES]
    )


def _held(processes: Sequence[Any]) -> float:
    """Bytes that the processes hold; NaN if one of them does not say."""
    amounts = [process.usedGpuMemory for process in processes]
    return math.nan if None in amounts else float(sum(amounts))


def _reasons(*names: str) -> tuple[Way, ...]:
    """They were renamed in driver 535."""
    return tuple(_call(f"nvmlDeviceGetCurrentClocks{name}Reasons") for name in names)


def _first(answer: Sequence[int]) -> float:
    return float(answer[0])


def _is_up(state: float) -> float:
    """Field 165: 0 inactive, 1 active, 2 asleep to save power (it wakes by itself), 3 active without traffic."""
    return {0.0: 0.0, 1.0: 1.0, 2.0: 1.0, 3.0: 0.0}.get(state, math.nan)


def _link_call(name: str, link: int, *arguments: int) -> Way:
    function = getattr(pynvml, name)
    return Way(Call(name, lambda handle: function(handle, link, *arguments), UNSUPPORTED_ARGUMENT))


#: Kind of NVLink error -> its fields, and its counter in nvmlDeviceGetNvLinkErrorCounter where it has one. Blackwell
#: has no fields 161-163 any more; 213 counts the links that were brought up again.
_LINK_ERRORS: tuple[tuple[str, tuple[int, ...], tuple[int, ...]], ...] = (
    ("replay", (161,), (0,)),
    ("recovery", (162, 213), (1,)),
    ("recovery_failed", (214,), ()),
    ("crc", (163,), (2,)),
    ("receive", (208,), ()),
)


def _links() -> Iterator[Row]:
    for link in range(NVLINKS):
        up = Way(None, 165, link, pick=_is_up), _link_call("nvmlDeviceGetNvLinkState", link)
        yield Row(f"nvlink_up_{link}", up, slow=True, link=link)
        for kind, fields, counters in _LINK_ERRORS:
            ways = [Way(None, field, link) for field in fields]
            ways += [_link_call("nvmlDeviceGetNvLinkErrorCounter", link, counter) for counter in counters]
            yield Row(f"nvlink_{kind}_{link}", tuple(ways), slow=True, link=link)


MHZ, MILLI, NANO = 1e6, 1e-3, 1e-9

# One row a line: a wrapped table cannot be scanned.
# fmt: off
_MEMORY_ROWS: tuple[Row, ...] = (
    Row("memory_total", _part("total", _MEMORY, _MEMORY_V1)),
    Row("memory_used", _part("used", _MEMORY, _MEMORY_V1)),
    Row("memory_free", _part("free", _MEMORY, _MEMORY_V1)),
    Row("memory_reserved", _part("reserved", _MEMORY)),
    Row("processes", tuple(Way(call, pick=lambda found: float(len(found))) for call in PROCESSES), slow=True),
    Row("processes_memory", tuple(Way(call, pick=_held) for call in PROCESSES), slow=True),
)

#: NVML tells of a MIG instance its memory, its processes and its uncorrected errors, but not those of its DRAM.
INSTANCE_ROWS: tuple[Row, ...] = (
    *_MEMORY_ROWS,
    Row("ecc_uncorrected", (_call("nvmlDeviceGetTotalEccErrors", _UNCORRECTED, _VOLATILE),)),
    Row("ecc_uncorrected_sram", _ecc_sram(_UNCORRECTED), slow=True),
)

BOARD_ROWS: tuple[Row, ...] = (
    Row("temperature", (_call("nvmlDeviceGetTemperatureV", 0), _call("nvmlDeviceGetTemperature", 0))),
    Row("memory_temperature", (_field(82),)),
    Row("temperature_margin", (_call("nvmlDeviceGetMarginTemperature"),)),
    Row("margin_shutdown", (_field(193),), fixed=True),
    Row("margin_slowdown", (_field(194),), fixed=True),
    Row("margin_memory_max", (_field(195),), fixed=True),
    Row("margin_gpu_max", (_field(196),), fixed=True),
    Row("temperature_shutdown", (_call("nvmlDeviceGetTemperatureThreshold", 0),), fixed=True),
    Row("temperature_slowdown", (_call("nvmlDeviceGetTemperatureThreshold", 1),), fixed=True),
    Row("utilization", (_call("nvmlDeviceGetUtilizationRates", factor=0.01, pick=lambda rates: float(rates.gpu)),)),
    *_MEMORY_ROWS,
    Row("power", (_call("nvmlDeviceGetPowerUsage", factor=MILLI),)),
    Row("power_limit", (_call("nvmlDeviceGetEnforcedPowerLimit", factor=MILLI),)),
    Row("power_limit_default", (_call("nvmlDeviceGetPowerManagementDefaultLimit", factor=MILLI),), fixed=True),
    Row("energy", (_field(83, MILLI), _call("nvmlDeviceGetTotalEnergyConsumption", factor=MILLI))),
    Row("clock_sm", (_call("nvmlDeviceGetClockInfo", pynvml.NVML_CLOCK_SM, factor=MHZ),)),
    Row("clock_memory", (_call("nvmlDeviceGetClockInfo", pynvml.NVML_CLOCK_MEM, factor=MHZ),)),
    Row("clock_sm_max", (_call("nvmlDeviceGetMaxClockInfo", pynvml.NVML_CLOCK_SM, factor=MHZ),), fixed=True),
    Row("clock_memory_max", (_call("nvmlDeviceGetMaxClockInfo", pynvml.NVML_CLOCK_MEM, factor=MHZ),), fixed=True),
    Row("clock_sm_application", (_call("nvmlDeviceGetApplicationsClock", pynvml.NVML_CLOCK_SM, factor=MHZ),), True),
    Row("throttle_reasons", _reasons("Event", "Throttle")),
    # Drivers up to 580.65 at least have the last three as fields 251-253 and power smoothing as 269-271, later ones the
    # other way round. The counters are nanoseconds in 64 bits. Field 75 is the older name of the thermal one.
    Row("throttle_sw_power_cap", (_field(74, NANO),)),
    Row("throttle_sw_thermal", (_field(269, NANO, wide=True), _field(251, NANO, wide=True), _field(75, NANO))),
    Row("throttle_hw_thermal", (_field(270, NANO, wide=True), _field(252, NANO, wide=True))),
    Row("throttle_hw_power_brake", (_field(271, NANO, wide=True), _field(253, NANO, wide=True))),
    Row("ecc_enabled", (_field(1), _call("nvmlDeviceGetEccMode", pick=_first))),
    Row("ecc_pending", (_field(2), _call("nvmlDeviceGetEccMode", pick=lambda modes: float(modes[1]))), slow=True),
    Row("ecc_corrected", _ecc(3, _CORRECTED, _VOLATILE)),
    Row("ecc_uncorrected", _ecc(4, _UNCORRECTED, _VOLATILE)),
    Row("ecc_corrected_lifetime", _ecc(5, _CORRECTED, _LIFETIME)),
    Row("ecc_uncorrected_lifetime", _ecc(6, _UNCORRECTED, _LIFETIME)),
    Row("ecc_corrected_dram", _ecc_dram(11, _CORRECTED)),
    Row("ecc_uncorrected_dram", _ecc_dram(12, _UNCORRECTED)),
    Row("ecc_corrected_sram", _ecc_sram(_CORRECTED, ("volatileCor",)), slow=True),
    Row("ecc_uncorrected_sram", _ecc_sram(_UNCORRECTED, ("volatileUncParity", "volatileUncSecDed")), slow=True),
    Row("sram_threshold_exceeded", _part("bThresholdExceeded", _SRAM), slow=True),
    Row("remapped_correctable", _remapped(142, 0)),
    Row("remapped_uncorrectable", _remapped(143, 1)),
    Row("remap_pending", _remapped(144, 2)),
    Row("remap_failure", _remapped(145, 3)),
    *(Row(f"remap_banks_{left}", _part(left, _BANKS), slow=True) for left in ("max", "high", "partial", "low", "none")),
    Row("retired_pages_sbe", _retired(29, pynvml.NVML_PAGE_RETIREMENT_CAUSE_MULTIPLE_SINGLE_BIT_ECC_ERRORS), slow=True),
    Row("retired_pages_dbe", _retired(30, pynvml.NVML_PAGE_RETIREMENT_CAUSE_DOUBLE_BIT_ECC_ERROR), slow=True),
    Row("retired_pages_pending", (_field(31), _call("nvmlDeviceGetRetiredPagesPendingStatus")), slow=True),
    Row("pcie_replays", (_field(94), _call("nvmlDeviceGetPcieReplayCounter"))),
    Row("pcie_generation", (_call("nvmlDeviceGetCurrPcieLinkGeneration"),)),
    Row("pcie_generation_max", (_call("nvmlDeviceGetMaxPcieLinkGeneration"),), fixed=True),
    Row("pcie_width", (_call("nvmlDeviceGetCurrPcieLinkWidth"),)),
    Row("pcie_width_max", (_call("nvmlDeviceGetMaxPcieLinkWidth"),), fixed=True),
    # Bytes, as the GPU sees it: TX is what it sends. The call without fields samples for 20 ms: never.
    Row("pcie_bytes_sent", (_field(197),)),
    Row("pcie_bytes_received", (_field(198),)),
    *_links(),
    Row("fabric_state", _fabric("state", _FABRIC, _FABRIC_V2), slow=True),
    Row("fabric_status", _fabric("status", _FABRIC, _FABRIC_V2), slow=True),
    Row("fabric_health", _fabric("healthMask", _FABRIC, _FABRIC_V2), slow=True),
    Row("fabric_summary", _fabric("healthSummary", _FABRIC), slow=True),
    Row("mig_enabled", (_call("nvmlDeviceGetMigMode", pick=_first),), slow=True),
    Row("persistence", (_call("nvmlDeviceGetPersistenceMode"),), slow=True),
    Row("recovery_action", (_field(230),)),
)
# fmt: on

#: How many NVLinks the card has.
LINK_COUNT_FIELD = 91

#: What the whole of a board's sample is made of: its rows, and what the Xid watch knows.
BOARD_SIGNALS: tuple[str, ...] = (*(row.signal for row in BOARD_ROWS), "xid_watched")


def rows_for(links: int) -> tuple[Row, ...]:
    """BOARD_ROWS for a card with so many NVLinks: what is about a link that it does not have has no way to be read."""
    return tuple(row._replace(ways=()) if row.link >= links else row for row in BOARD_ROWS)
