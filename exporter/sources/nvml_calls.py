"""What is asked of NVML for one GPU: a table of signals and the calls that know them, and the reader that works it off.

May not be in here: threads, inventory, what a value means.

Units are NVML's; the factor makes them ours (core/signals.py). Sources: NVML API reference, nvml.h of driver 580. Most
signals come from one nvmlDeviceGetFieldValues call; those that an older driver or a card does not have as a field are
asked for by the call that stands after it.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, NamedTuple

import pynvml

from exporter.core import blanks

Handle = Any  # pynvml's opaque pointer


class Call(NamedTuple):
    name: str  # NVML's
    ask: Callable[[Handle], Any]


class Way(NamedTuple):
    """One way to learn a signal: from a call's answer, or from a field."""

    call: Call | None
    field: int = 0
    factor: float = 1.0
    pick: Callable[[Any], float] = float


class Row(NamedTuple):
    signal: str
    ways: tuple[Way, ...]  # in the order in which they are tried until the card supports one
    fixed: bool = False  # does not change while the driver is loaded: asked for once


class Answer(NamedTuple):
    values: dict[str, float]
    missing: dict[str, str]  # signal -> one of signals.MISSING_REASONS
    lost: str  # why nothing can be read of the GPU, "" if it can


def _call(name: str, *arguments: Any, factor: float = 1.0, pick: Callable[[Any], float] = float) -> Way:
    """The pynvml function of this name, asked for (handle, *arguments)."""
    function = getattr(pynvml, name)
    return Way(Call(name, lambda handle: function(handle, *arguments)), 0, factor, pick)


def _field(number: int, factor: float = 1.0) -> Way:
    return Way(None, number, factor)


_MEMORY = Call("nvmlDeviceGetMemoryInfo_v2", lambda h: pynvml.nvmlDeviceGetMemoryInfo(h, pynvml.nvmlMemory_v2))
#: Drivers before 510. Their "used" holds what is reserved.
_MEMORY_V1 = Call("nvmlDeviceGetMemoryInfo", pynvml.nvmlDeviceGetMemoryInfo)
_REMAPPED = Call("nvmlDeviceGetRemappedRows", pynvml.nvmlDeviceGetRemappedRows)


def _memory(part: str, old: bool = True) -> tuple[Way, ...]:
    def pick(info: Any) -> float:
        return float(getattr(info, part))

    return (Way(_MEMORY, pick=pick), Way(_MEMORY_V1, pick=pick)) if old else (Way(_MEMORY, pick=pick),)


def _remapped(field: int, place: int) -> tuple[Way, ...]:
    return _field(field), Way(_REMAPPED, pick=lambda rows: float(rows[place]))


def _ecc(field: int, kind: int, counter: int) -> tuple[Way, ...]:
    return _field(field), _call("nvmlDeviceGetTotalEccErrors", kind, counter)


def _first(answer: Sequence[int]) -> float:
    return float(answer[0])


MHZ, MILLI, NANO = 1e6, 1e-3, 1e-9

MEMORY_ROWS: tuple[Row, ...] = (
    Row("memory_total", _memory("total")),
    Row("memory_used", _memory("used")),
    Row("memory_free", _memory("free")),
    Row("memory_reserved", _memory("reserved", old=False)),
)

# fmt: off -- one row a line: a wrapped table cannot be scanned
BOARD_ROWS: tuple[Row, ...] = (
    Row("temperature", (_call("nvmlDeviceGetTemperatureV", 0), _call("nvmlDeviceGetTemperature", 0))),
    Row("utilization", (_call("nvmlDeviceGetUtilizationRates", factor=0.01, pick=lambda rates: float(rates.gpu)),)),
    *MEMORY_ROWS,
    Row("power", (_call("nvmlDeviceGetPowerUsage", factor=MILLI),)),
    Row("power_limit", (_call("nvmlDeviceGetEnforcedPowerLimit", factor=MILLI),)),
    Row("power_limit_default", (_call("nvmlDeviceGetPowerManagementDefaultLimit", factor=MILLI),), fixed=True),
    Row("clock_sm", (_call("nvmlDeviceGetClockInfo", pynvml.NVML_CLOCK_SM, factor=MHZ),)),
    Row("clock_memory", (_call("nvmlDeviceGetClockInfo", pynvml.NVML_CLOCK_MEM, factor=MHZ),)),
    Row("clock_sm_max", (_call("nvmlDeviceGetMaxClockInfo", pynvml.NVML_CLOCK_SM, factor=MHZ),), fixed=True),
    Row("clock_memory_max", (_call("nvmlDeviceGetMaxClockInfo", pynvml.NVML_CLOCK_MEM, factor=MHZ),), fixed=True),
    Row(
        "throttle_reasons",
        (_call("nvmlDeviceGetCurrentClocksEventReasons"), _call("nvmlDeviceGetCurrentClocksThrottleReasons")),
    ),
    Row("pcie_generation", (_call("nvmlDeviceGetCurrPcieLinkGeneration"),)),
    Row("pcie_generation_max", (_call("nvmlDeviceGetMaxPcieLinkGeneration"),), fixed=True),
    Row("pcie_width", (_call("nvmlDeviceGetCurrPcieLinkWidth"),)),
    Row("pcie_width_max", (_call("nvmlDeviceGetMaxPcieLinkWidth"),), fixed=True),
    Row("ecc_enabled", (_field(1), _call("nvmlDeviceGetEccMode", pick=_first))),
    Row("ecc_corrected", _ecc(3, 0, 0)),
    Row("ecc_uncorrected", _ecc(4, 1, 0)),
    Row("ecc_corrected_lifetime", _ecc(5, 0, 1)),
    Row("ecc_uncorrected_lifetime", _ecc(6, 1, 1)),
    Row("throttle_sw_power_cap", (_field(74, NANO),)),
    Row("memory_temperature", (_field(82),)),
    Row("energy", (_field(83, MILLI), _call("nvmlDeviceGetTotalEnergyConsumption", factor=MILLI))),
    Row("pcie_replays", (_field(94), _call("nvmlDeviceGetPcieReplayCounter"))),
    Row("remapped_correctable", _remapped(142, 0)),
    Row("remapped_uncorrectable", _remapped(143, 1)),
    Row("remap_pending", _remapped(144, 2)),
    Row("remap_failure", _remapped(145, 3)),
    Row("recovery_action", (_field(230),)),
    Row("throttle_sw_thermal", (_field(269, NANO),)),
    Row("throttle_hw_thermal", (_field(270, NANO),)),
    Row("throttle_hw_power_brake", (_field(271, NANO),)),
)
# fmt: on

FIELDS = "nvmlDeviceGetFieldValues"

#: NVML_VALUE_TYPE_* -> the member of the union that is set.
_MEMBERS = ("dVal", "uiVal", "ulVal", "ullVal", "sllVal", "siVal", "usVal")

#: What NVML leaves in a number that does not apply.
UNSET = 0xFFFFFFFF

UNINITIALIZED, NOT_SUPPORTED, DRIVER_NOT_LOADED, GPU_IS_LOST = 1, 3, 9, 15
RESET_REQUIRED, LIB_RM_VERSION_MISMATCH, UNKNOWN = 16, 18, 999

#: Errors after which no call of this process can succeed: NVML must be opened again, or the process started again.
BROKEN = frozenset((UNINITIALIZED, DRIVER_NOT_LOADED, LIB_RM_VERSION_MISMATCH))

#: NVML's ways to say that a card or a driver does not know a call or its version.
_UNSUPPORTED = frozenset((NOT_SUPPORTED, 13, 25, 26))
#: A field that is newer than the driver is an invalid argument to it.
_UNSUPPORTED_FIELD = _UNSUPPORTED | {2}

_REASONS: Mapping[int, str] = {
    4: "no_permission",
    10: "timeout",
    GPU_IS_LOST: "gpu_is_lost",
    RESET_REQUIRED: "reset_required",
}


def unread(rows: Iterable[Row], code: int) -> Answer:
    """The answer of a GPU of which nothing could be asked because of this error."""
    reason = _REASONS.get(code, "unknown_error")
    lost = reason if code in (GPU_IS_LOST, UNKNOWN) else ""
    return Answer({}, {row.signal: reason for row in rows}, lost)


class Reader:
    """Reads one GPU or MIG instance. What the card does not support is asked once and then known.

    `doing` names the NVML call that is under way, for whoever sees it hang.
    """

    def __init__(self, handle: Handle, rows: Sequence[Row], unsupported: str = "not_supported") -> None:
        self.doing = ""
        self._handle = handle
        self._reason = unsupported  # how a signal is missing that the card does not support
        self._rows = {row.signal: row for row in rows}
        self._way = dict.fromkeys(self._rows, 0)  # signal -> place in its ways; past the end: not supported
        self._fixed: dict[str, float] = {}
        self._unsupported: dict[str, str] = {}
        self._plan = self._planned(self._rows)

    def read(self) -> Answer:
        """All signals as they are now. Raises pynvml.NVMLError with a code in BROKEN only."""
        values, missing = dict(self._fixed), {}
        answered = False
        codes: set[int] = set()
        plan, changed = self._plan, False
        while plan:
            refused: list[str] = []
            for call, wanted in plan:
                for (signal, way), (code, raw) in zip(wanted, self._ask(call, wanted), strict=True):
                    if code == GPU_IS_LOST:
                        return unread(self._rows.values(), code)
                    if code in (_UNSUPPORTED if call else _UNSUPPORTED_FIELD):
                        refused.append(signal)
                    elif code:
                        codes.add(code)
                        missing[signal] = _REASONS.get(code, "unknown_error")
                    else:
                        answered = True
                        value = blanks.value(signal, raw, way.factor)
                        if value is None:
                            missing[signal] = "blank"
                        else:
                            values[signal] = value
            changed = changed or bool(refused)
            for signal in refused:
                self._refuse(signal)
            plan = self._planned(refused)
        self.doing = ""
        self._settle(values, changed)
        missing.update(self._unsupported)
        if not answered and codes == {UNKNOWN}:
            return Answer({}, missing, "unknown_error")
        return Answer(values, missing, "")

    def _ask(self, call: Call | None, wanted: Sequence[tuple[str, Way]]) -> Iterable[tuple[int, float]]:
        """(error code, raw value) for each wanted signal."""
        self.doing = call.name if call else FIELDS
        try:
            if call is None:
                fields = pynvml.nvmlDeviceGetFieldValues(self._handle, [way.field for _, way in wanted])
                return [_of_field(value) for value in fields]
            answer = call.ask(self._handle)
        except pynvml.NVMLError as error:
            if error.value in BROKEN:
                raise
            return [(error.value, 0.0)] * len(wanted)
        return [(0, way.pick(answer)) for _, way in wanted]

    def _refuse(self, signal: str) -> None:
        self._way[signal] += 1
        if self._way[signal] == len(self._rows[signal].ways):
            self._unsupported[signal] = self._reason

    def _settle(self, values: Mapping[str, float], changed: bool) -> None:
        """Leave out of the next plan what is known for good."""
        fixed = [s for s, row in self._rows.items() if row.fixed and s in values and s not in self._fixed]
        self._fixed.update((signal, values[signal]) for signal in fixed)
        if changed or fixed:
            self._plan = self._planned(self._rows)

    def _planned(self, signals: Iterable[str]) -> list[tuple[Call | None, list[tuple[str, Way]]]]:
        """Each call once, with the signals that it answers; the fields' call (None) as one of them."""
        plan: dict[Call | None, list[tuple[str, Way]]] = {}
        for signal in signals:
            if signal not in self._fixed and signal not in self._unsupported:
                way = self._rows[signal].ways[self._way[signal]]
                plan.setdefault(way.call, []).append((signal, way))
        return list(plan.items())


def _of_field(value: Any) -> tuple[int, float]:
    kind = value.valueType
    if value.nvmlReturn or not 0 <= kind < len(_MEMBERS):
        return value.nvmlReturn or UNKNOWN, 0.0
    return 0, float(getattr(value.value, _MEMBERS[kind]))
