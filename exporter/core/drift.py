"""The node standard: what was declared of the node's GPUs, how it is written, and whether they are otherwise.

May not be in here: whether a GPU is healthy (health.py), who has it (devices.py), I/O, clocks.

What was not declared, or cannot be known now, is in no answer. What may differ for a while without anybody's fault
counts after it held for a time; that time is explicit memory, taken and given back (Since, Mismatch).
"""

import re
import reprlib
from collections.abc import Callable, Mapping
from typing import Any, Final, Literal, NamedTuple

from msgspec import Struct

from exporter.core import devices
from exporter.core.model import GpuInfo, KubeletReading


class Number(NamedTuple):
    value: float
    unit: str
    source: str


NUMBERS: Mapping[str, Number] = {
    "power_limit": Number(1.0, "watts", "nvidia-smi -pl takes whole watts; NVML tells milliwatts"),
    "clock_sm": Number(
        7.5e6, "hertz", "nvidia-smi -q -d SUPPORTED_CLOCKS: steps of 15 MHz; half a step, so that one is seen"
    ),
    # An idle driver holds 8 MiB (A100, nvml-wrapper issue 57), 13 MiB (a MIG instance), 112 MiB (V100, driver 440),
    # 256 MiB with the GSP's (T4, open-gpu-kernel-modules issue 357).
    "idle": Number(
        512 * 1048576.0, "bytes", "Plimsoll: twice the most that is known of an idle driver; weights hold more"
    ),
    "unowned": Number(60.0, "seconds", "Plimsoll: a pod that ended frees late, one that starts is listed late"),
    "mismatch": Number(300.0, "seconds", "Plimsoll: at boot and after a change of MIG the plugin is minutes late"),
}
_POWER, _CLOCK, _IDLE = (NUMBERS[name].value for name in ("power_limit", "clock_sm", "idle"))

#: Boards whose memory may be the operating system's, which keeps pages after the process that had them
#: (NVML reference, nvmlDeviceGetMemoryInfo_v2: systems where GPUs are NUMA nodes): GH200, GB200, GB300, GB10.
_COHERENT = re.compile(r"\bG[HB][0-9]+\b")

DEFAULT: Final = "default"


class Standard(Struct, frozen=True):
    """What was declared. The empty value of each: nothing."""

    driver_version: str = ""  # whole, or its beginning up to a dot
    ecc: bool | None = None
    mig: bool | None = None
    power_limit: float | Literal["default"] | None = None  # watts, or the board's own default
    clock_sm: float | None = None  # hertz: the clock that applications are set to run at


class Since(Struct, frozen=True):
    """For how long a GPU that no pod has has held memory."""

    at: float | None = None  # monotonic seconds; None: it holds none now
    known: bool = False


class Mismatch(Struct, frozen=True):
    """For how long the kubelet has offered other GPUs than the driver has."""

    at: float | None = None  # monotonic seconds; None: it does not now
    known: bool = False
    offers: bool = False  # whether it has ever offered any


class _Rule(NamedTuple):
    what: str
    needs: tuple[str, ...]  # signals without which nothing can be said
    declared: Callable[[Standard], Any]  # None: it was not
    differs: Callable[[Any, Mapping[str, float]], bool]


def _off_default(_: object, values: Mapping[str, float]) -> bool:
    return abs(values["power_limit"] - values["power_limit_default"]) > _POWER


_RULES: tuple[_Rule, ...] = (
    _Rule("ecc", ("ecc_enabled",), lambda s: s.ecc, lambda on, v: (v["ecc_enabled"] > 0) != on),
    _Rule("mig", ("mig_enabled",), lambda s: s.mig, lambda on, v: (v["mig_enabled"] > 0) != on),
    _Rule(
        "power_limit",
        ("power_limit",),
        lambda s: None if s.power_limit == DEFAULT else s.power_limit,
        lambda watts, v: abs(v["power_limit"] - watts) > _POWER,
    ),
    _Rule(
        "power_limit",
        ("power_limit", "power_limit_default"),
        lambda s: s.power_limit if s.power_limit == DEFAULT else None,
        _off_default,
    ),
    _Rule(
        "clock_sm",
        ("clock_sm_application",),
        lambda s: s.clock_sm,
        lambda hertz, v: abs(v["clock_sm_application"] - hertz) > _CLOCK,
    ),
)

#: Signals that the functions below look at.
SIGNALS: tuple[str, ...] = (*sorted({name for rule in _RULES for name in rule.needs}), "memory_used")


def of_gpu(
    standard: Standard, info: GpuInfo, values: Mapping[str, float], since: Since, now: float
) -> Mapping[str, bool]:
    """What of a GPU can be told -> whether it is otherwise than declared.

    values: fresh readings, signal name -> number in the signal's base unit. since: as unowned_memory() gave it.
    A driver version is as declared if it begins with it up to a dot: 570.133 has 570.133.20, not 570.13.
    """
    found: dict[str, bool] = {}
    if standard.driver_version and info.driver_version:
        found["driver_version"] = not f"{info.driver_version}.".startswith(f"{standard.driver_version}.")
    for rule in _RULES:
        declared = rule.declared(standard)
        if declared is not None and all(name in values for name in rule.needs):
            found[rule.what] = rule.differs(declared, values)
    if since.known:
        found["unowned_memory"] = _held(since.at, now, "unowned")
    return found


def unowned_memory(
    since: Since, info: GpuInfo, values: Mapping[str, float], holding: devices.Holding | None, now: float
) -> tuple[float | None, Since]:
    """(bytes that are held on a GPU that no pod has, the memory for the next call).

    holding: the kubelet's word, None if it is not fresh. The number is 0 up to what an idle driver may hold itself,
    and None if a pod has the GPU, if nobody can tell whether one has, if this is a board whose instances tell, or one
    whose memory need not be held by anybody.
    """
    used = values.get("memory_used")
    in_parts = not info.key.instance and values.get("mig_enabled", 0.0) > 0
    if holding is not None and holding.pods:
        return None, Since(known=True)
    if holding is None or not holding.certain or used is None or in_parts:
        return None, Since()
    if used <= _IDLE:
        return 0.0, Since(known=True)
    if _COHERENT.search(info.name):
        return None, Since()
    return used, Since(_since(since.at, now), known=True)


def mismatch(old: Mismatch, reading: KubeletReading | None, driver: int | None, now: float) -> Mismatch:
    """The memory of of_node(). reading: None if it is not fresh. driver: GPUs and MIG instances that the driver has.

    A kubelet that has never offered a GPU has no device plugin: there is nothing to compare (DRA; or the plugin has
    never come up, which plimsoll_node_gpus shows). One that did, and offers none now, differs.
    """
    if reading is None or driver is None:
        return Mismatch(offers=old.offers)
    offered = devices.offered(reading)
    if offered is None or not (old.offers or offered):
        return Mismatch()
    return Mismatch(_since(old.at, now) if offered != driver else None, known=True, offers=True)


def of_node(memory: Mismatch, now: float) -> Mapping[str, bool]:
    """Like of_gpu(), of the node: whether the kubelet offers other GPUs than the driver has."""
    return {"allocatable": _held(memory.at, now, "mismatch")} if memory.known else {}


def _since(at: float | None, now: float) -> float:
    # A memory that outlived its clock begins anew.
    return now if at is None or at > now else at


def _held(at: float | None, now: float, hold: str) -> bool:
    return at is not None and now - at >= NUMBERS[hold].value


# What the options may be. Each takes text (flag, environment) or a YAML value and raises ValueError("... ; fix").


def driver_version(raw: Any) -> str:
    """ "570", "570.133" or "570.133.20"; "" is not declared."""
    if isinstance(raw, float):
        raise ValueError(f"{raw} is a number to YAML, which drops zeros at its end; write it in quotes, as '570.133'")
    text = "" if raw is None else str(raw)
    if isinstance(raw, bool) or (text and not re.fullmatch(r"[0-9]{1,5}(\.[0-9]{1,5}){0,3}", text)):
        raise ValueError(f"{reprlib.repr(raw)} is not a driver version; write for example 570 or 570.133.20")
    return text


def on_off(raw: Any) -> bool | None:
    """YAML reads a bare `on` as true. None is not declared."""
    known = {"on": True, "true": True, "off": False, "false": False, "": None, "none": None}
    text = str(raw).lower()
    if text not in known:
        raise ValueError(f"{reprlib.repr(raw)} is neither on nor off; write on or off")
    return known[text]


def power_limit(raw: Any) -> float | Literal["default"] | None:
    """Watts, or "default"; None is not declared."""
    if raw == DEFAULT:
        return DEFAULT
    return _number(raw, "neither watts nor default; write for example 600 or default")


def megahertz(raw: Any) -> float | None:
    """MHz -> hertz; None is not declared."""
    number = _number(raw, "not a clock in MHz; write for example 1980")
    return None if number is None else number * 1e6


def _number(raw: Any, fix: str) -> float | None:
    if raw is None or raw == "":
        return None
    if isinstance(raw, bool) or not re.fullmatch(r"[0-9]{1,5}(\.[0-9]{1,3})?", str(raw)) or not float(raw):
        raise ValueError(f"{reprlib.repr(raw)} is {fix}")
    return float(raw)
