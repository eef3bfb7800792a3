"""The verdict: histories of one GPU and what is to be thought of it at their end, each with its source.

Every history is followed with a restart of the process after each look: the memory goes through its encoding.
"""

import tomllib
from collections.abc import Iterable, Iterator, Mapping
from itertools import pairwise
from pathlib import Path
from typing import Any, NamedTuple

import msgspec
import pynvml
import pytest
from hypothesis import given
from hypothesis import strategies as st

from exporter.core import findings, health, inventory, parts, rules, witness
from exporter.core.findings import ACTIONS, THRESHOLDS
from exporter.core.health import STATES, HealthMemory, judge
from exporter.core.inventory import Inventory
from exporter.core.join import FRESH_SECONDS, merge
from exporter.core.model import GpuInfo, GpuKey, GpuSample, PodRef, Verdict, XidEvent
from exporter.core.signals import MISSING_REASONS, NVLINK_ERRORS, NVLINKS, SIGNALS
from exporter.core.witness import Witnesses, sift
from exporter.sources.nvml_board import LOOK_SECONDS
from exporter.sources.nvml_calls import BOARD_ROWS
from exporter.sources.nvml_reader import unread

BOARD = GpuKey("GPU-1")
LATER = 10_000.0  # when the histories begin
NAN = float("nan")
LINKS = range(4)
QUIET = 0x1AA  # the fabric health mask when all is well: four times "no", and the configuration is right
#: A Hopper board with four NVLinks that is well. What it has not got is in NOT_THERE.
WELL = {
    "temperature": 60.0, "utilization": 0.5, "memory_used": 7e10, "power": 400.0,
    "temperature_margin": 25.0, "margin_slowdown": -2.0,
    "clock_sm": 1980e6, "clock_sm_max": 1980e6, "throttle_reasons": 0.0, "energy": 1e6,
    "throttle_hw_thermal": 0.0, "throttle_hw_power_brake": 0.0, "ecc_enabled": 1.0,
    "ecc_corrected": 0.0, "ecc_uncorrected": 0.0, "remap_pending": 0.0, "remap_failure": 0.0, "recovery_action": 0.0,
    "sram_threshold_exceeded": 0.0, "xid_watched": 1.0, "mig_enabled": 0.0,
    "pcie_replays": 0.0, "pcie_generation": 5.0, "pcie_generation_max": 5.0, "pcie_width": 16.0, "pcie_width_max": 16.0,
    "fabric_state": 3.0, "fabric_status": 0.0, "fabric_health": float(QUIET), "fabric_summary": 1.0,
    **{f"nvlink_up_{link}": 1.0 for link in LINKS},
    **{f"nvlink_{kind}_{link}": 0.0 for kind in NVLINK_ERRORS for link in LINKS},
}  # fmt: skip
RETIRED = ("retired_pages_sbe", "retired_pages_dbe", "retired_pages_pending")
NOT_THERE = dict.fromkeys((*RETIRED, "temperature_slowdown"), "not_supported")
#: What dcgm-exporter's default set has of the above.
DCGM_DEFAULT = (
    "temperature", "utilization", "memory_used", "power", "clock_sm", "energy", "remap_failure", "pcie_replays",
)  # fmt: skip


#: Either of them tells of uncorrectable errors.
COUNTS = ("ecc_uncorrected", "ecc_uncorrected_lifetime")


class Said(NamedTuple):
    """An Xid as a witness tells of it."""

    code: int
    source: str = "nvml"
    severity: str = ""
    recovery: int | None = None
    ago: float = 0.0
    replayed: bool = False


class Look(NamedTuple):
    """One look at the GPU, `at` seconds after the beginning."""

    at: float
    values: Mapping[str, float] = {}  # over WELL; a value of nan is left out
    xids: tuple[int | Said, ...] = ()
    missing: Mapping[str, str] = {}
    lost: str = ""
    pods: tuple[str, ...] = ("a",)
    sampled: float | None = None  # when the sample was taken, if not now
    source: str = "nvml"
    only: tuple[str, ...] | None = None  # the signals that the source has; None: all
    boot: str = ""
    contained: tuple[int | Said, ...] = ()  # Xids of the board's MIG instances
    reset: bool = False
    beside: "Look | None" = None  # what another source last said


def sample(look: Look, key: GpuKey = BOARD) -> GpuSample:
    missing = {**(NOT_THERE if look.only is None else {}), **look.missing}
    values = {
        name: value
        for name, value in {**WELL, **look.values}.items()
        if value == value and name not in look.missing and (look.only is None or name in look.only)
    }
    return GpuSample(
        GpuInfo(key),
        look.source,
        LATER + (look.at if look.sampled is None else look.sampled),
        {} if look.lost else values,
        {name: reason for name, reason in missing.items() if name not in values},
        look.lost,
        tuple(PodRef("ns", pod) for pod in look.pods),
    )


def event(said: int | Said, look: Look, key: GpuKey = BOARD) -> XidEvent:
    if isinstance(said, int):
        said = Said(said, look.source)
    at = LATER + look.at - said.ago
    return XidEvent(
        key, said.code, at, said.source, severity=said.severity, recovery=said.recovery, replayed=said.replayed
    )


def again(memory: Any) -> Any:
    """The memory as the next process reads it from the disk."""
    return msgspec.msgpack.decode(msgspec.msgpack.encode(memory), type=type(memory))


def remember(looks: Iterable[Look], key: GpuKey = BOARD, **more: Any) -> Iterator[tuple[Verdict, HealthMemory]]:
    """The verdicts on a history and what they leave, with a restart of the process after each look."""
    memory: HealthMemory | None = None
    witnesses = Witnesses()
    for look in looks:
        now = LATER + look.at
        (merged,) = merge([sample(one, key) for one in (look, look.beside) if one], now)
        _, events, witnesses = sift(witnesses, [event(said, look, key) for said in look.xids])
        contained = [event(said, look, GpuKey(key.uuid, "5")) for said in look.contained]
        verdict, memory = judge(
            memory, merged, events, now, boot=look.boot, contained=contained, reset=look.reset, **more
        )
        yield verdict, memory
        memory, witnesses = again(memory), again(witnesses)


def follow(looks: Iterable[Look], key: GpuKey = BOARD, **more: Any) -> list[Verdict]:
    return [verdict for verdict, _ in remember(looks, key, **more)]


def every(first: int, last: int, step: int = 1, **look: Any) -> list[Look]:
    return [Look(float(at), **look) for at in range(first, last + 1, step)]


def ramp(first: int, last: int, rate: float, name: str, step: int = 1, **values: float) -> list[Look]:
    """The counter grows by this much a second."""
    return [Look(float(at), {**values, name: rate * (at - first)}) for at in range(first, last + 1, step)]


def hot(first: int, last: int, share: float, name: str = "throttle_hw_thermal") -> list[Look]:
    """The slowdown's counter of seconds grows by this share of the time."""
    return ramp(first, last, share, name)


def fields(**values: float) -> list[Look]:
    """Two polls that show these values."""
    return [Look(0), Look(1, values), Look(2, values)]


def seldom(**values: float) -> list[Look]:
    """Polls over 20 s that show these values: two readings of what NVML is asked every 10 s."""
    return [Look(0), *every(1, 21, 5, values=values)]


def onward(first: int, last: int, step: int = 1, **look: Any) -> list[Look]:
    """Looks between which energy was used: there was no reset."""
    values = look.pop("values", {})
    return [Look(float(at), {**values, "energy": 1e6 + 100.0 * at}, **look) for at in range(first, last + 1, step)]


def blanked(*names: str, **values: float) -> dict[str, float]:
    """The values, without these."""
    return {**dict.fromkeys(names, NAN), **values}


def learned(last: int = 70) -> list[Look]:
    """Long enough for the NVLinks to be known."""
    return every(0, last, 5)


def pcie(generation: int, per_minute_per_lane: float, seconds: int = 330) -> list[Look]:
    link = {"pcie_generation": float(generation), "pcie_generation_max": float(generation)}
    return ramp(0, seconds, per_minute_per_lane * 16 / 60, "pcie_replays", 5, **link)


BUSY = {"utilization": 0.95}
SLOW = {"clock_sm": 1000e6}
OLD_CARD = dict.fromkeys(("remap_failure", "remap_pending", "recovery_action"), "not_supported")
PAGES = {"retired_pages_sbe": 10.0, "retired_pages_dbe": 2.0, "retired_pages_pending": 0.0}
GAMER = dict.fromkeys(
    ("ecc_enabled", *COUNTS, "ecc_corrected", "remap_failure", "remap_pending", "sram_threshold_exceeded",
     "fabric_state", "fabric_status", "fabric_health", "fabric_summary", "recovery_action",
     *(name for name in WELL if name.startswith("nvlink_"))), "not_supported",
)  # fmt: skip


def in_mig(at: float, lifetime: float, xids: tuple[int, ...] = ()) -> Look:
    """A board in MIG mode, which tells the uncorrectable errors of its life alone."""
    values = {"mig_enabled": 1.0, "ecc_uncorrected_lifetime": lifetime, "utilization": NAN}
    return Look(at, values, xids, {"ecc_uncorrected": "not_supported_in_mig", "ecc_corrected": "not_supported_in_mig"})


class Row(NamedTuple):
    name: str
    source: str
    looks: list[Look]
    state: str
    reasons: tuple[str, ...] = ()  # in their order; () is none
    capacity: float | None = 1.0
    unknown: tuple[str, ...] | None = None  # parts that nobody can tell; None: not looked at


#: What a code means, decided in xid.tsv; here once more, by hand.
CRITICAL = (
    46, 54, 62, 64, 74, 95, 109, 110, 119, 120, 136, 140, 143, 150, 151, 156, 158, 167, 169, 173,
)  # fmt: skip
MEMORY = (48, 171, 172)
FATAL_IF_SAID = tuple(range(144, 150))
DEGRADED = (
    32, 38, 44, 60, 61, 63, 78, 94, 122, 123, 124, 125, 142, 144, 145, 146, 149, 155, 157, 159, 160, 161, 163, 165, 166,
    168, 170, 175, 176,
)  # fmt: skip
#: Copy engines, video and JPEG decoders, optical flow: 39 to 43, 68, and these.
ENGINES = (*range(70, 73), *range(75, 78), *range(82, 87), 88, 89, *range(96, 106), *range(126, 136), 139)
APPLICATION = (8, 11, 13, 25, 31, 39, 40, 41, 43, 45, 68, 69, *ENGINES, 80, 137, 141, 152, 153, 174)
INFO = (14, 37, 66, 67, 92, 93, 106, 107, 108, 121, 147, 148, 154, 162, 164)

FACTS = "Plimsoll's policy"
ROWS = [
    # Healthy has to be shown.
    Row("all is well", FACTS, [Look(0)], "healthy"),
    Row("idle is no fault", "NVML bit 0x1", fields(throttle_reasons=0x1, utilization=0, clock_sm=345e6), "healthy"),
    Row("application clocks are no fault", "NVML bit 0x2", fields(throttle_reasons=0x2, **BUSY, **SLOW), "healthy"),
    Row("display clocks are no fault", "NVML bit 0x100", fields(throttle_reasons=0x100, **BUSY, **SLOW), "healthy"),
    Row("the power cap lowers capacity only", "NVML bit 0x4",
        fields(throttle_reasons=0x4, clock_sm=1485e6, **BUSY), "healthy", capacity=0.75),
    Row("power cap without load lowers nothing", FACTS,
        fields(throttle_reasons=0x4, clock_sm=990e6, utilization=0.01), "healthy"),
    Row("an idle GPU's low clock lowers nothing", "NVML bit 0x1",
        fields(throttle_reasons=0x5, clock_sm=345e6), "healthy"),
    Row("a consumer GPU has no ECC, and says so", "NVML NOT_SUPPORTED", [Look(0, missing=GAMER)], "healthy",
        unknown=()),
    Row("ECC is switched off, and so there is no count", "NVML NOT_SUPPORTED",
        [Look(0, {"ecc_enabled": 0}, missing=dict.fromkeys(COUNTS, "not_supported"))], "healthy", unknown=()),
    Row("ECC is on and there is no count", "Plimsoll: not supported is no knowledge then",
        [Look(0, missing=dict.fromkeys(COUNTS, "not_supported"))], "unknown", ("ecc_not_read",), None,
        ("memory_errors",)),
    Row("no count, and whether ECC is on cannot be read", "Plimsoll: not supported is no knowledge then",
        [Look(0, missing={"ecc_uncorrected": "not_supported", "ecc_enabled": "no_permission"})], "unknown",
        ("ecc_not_read",), None, ("memory_errors",)),
    Row("corrected errors are no fault", "NVIDIA: Xid 92 IGNORE", fields(ecc_corrected=1000), "healthy"),
    # Unknown.
    Row("dcgm-exporter's default set cannot vouch for a GPU", "dcgm-exporter default-counters.csv",
        [Look(0, source="dcgm", only=(*DCGM_DEFAULT, "xid_watched"))], "unknown",
        ("ecc_not_read", "recovery_action_not_read", "row_remap_not_read", "throttling_not_read"), None,
        ("memory_errors", "recovery_action", "throttling", "row_remap", "sram", "thermal_margin", "pcie", "nvlink",
         "fabric")),
    Row("nor without its Xid gauge", "dcgm-exporter default-counters.csv",
        [Look(0, source="dcgm", only=(*DCGM_DEFAULT, "ecc_uncorrected"))], "unknown",
        ("recovery_action_not_read", "row_remap_not_read", "throttling_not_read", "xid_not_watched"), None),
    Row("dcgm-exporter with the ECC counter and the Xid gauge can", FACTS,
        [Look(0, source="dcgm", only=(*DCGM_DEFAULT, "ecc_uncorrected", "xid_watched"))], "healthy",
        unknown=("recovery_action", "throttling", "row_remap", "sram", "thermal_margin", "pcie", "nvlink", "fabric")),
    Row("nobody would tell of an Xid, but the driver says what it wants", "NVML field 230",
        [Look(0, {"xid_watched": 0})], "healthy", unknown=("xid",)),
    Row("Xids are watched, and the driver is too old for field 230", "NVML field 230",
        [Look(0, missing={"recovery_action": "not_supported"})], "healthy", unknown=()),
    Row("neither Xids nor the recovery action", FACTS, [Look(0, blanked("xid_watched", "recovery_action"))], "unknown",
        ("recovery_action_not_read", "xid_not_watched"), None, ("xid", "recovery_action")),
    Row("that field 230 is not supported vouches for nothing", FACTS,
        [Look(0, {"xid_watched": 0}, missing={"recovery_action": "not_supported"})], "unknown", ("xid_not_watched",),
        None, ("xid",)),
    *(Row(f"{part} is unknown if it is {why}, and no more than that", f"NVML: {why}",
          [Look(0, missing=dict.fromkeys(names, why))], "healthy", unknown=(part,))
      for part, names in (("throttling", ("throttle_reasons",)), ("sram", ("sram_threshold_exceeded",)),
                          ("row_remap", ("remap_pending",)), ("nvlink", ("nvlink_up_0",)),
                          ("fabric", ("fabric_state",)), ("pcie", ("pcie_replays",)),
                          ("thermal_margin", ("temperature_margin",)))
      for why in ("blank", "not_supported_in_mig", "unknown_error")),
    Row("an old card remaps no rows: its retired pages are read", "NVIDIA page retirement",
        [Look(0, PAGES, missing=OLD_CARD)], "healthy", unknown=()),
    Row("an old card whose retired pages cannot be read", "NVIDIA page retirement",
        [Look(0, missing={**OLD_CARD, **dict.fromkeys(RETIRED, "unknown_error")})], "healthy", unknown=("row_remap",)),
    Row("what is stale is not known either", FACTS, [Look(0), Look(9, sampled=0)], "unknown", ("stale",), None,
        tuple(part.name for part in parts.PARTS)),
    Row("a degraded GPU says as well what is not known of it", FACTS, fields(remap_pending=1, throttle_reasons=NAN),
        "degraded", ("row_remap_pending",), unknown=("throttling",)),
    Row("a lost GPU's parts are unknown", FACTS, [Look(0), Look(9, lost="gpu_is_lost")], "lost", ("gpu_is_lost",), 0.0,
        tuple(part.name for part in parts.PARTS)),
    Row("not supported under MIG is no knowledge", "NVML under MIG",
        [Look(0, missing={"ecc_uncorrected": "not_supported_in_mig"})], "unknown", ("ecc_not_read",), None),
    Row("not permitted is no knowledge", "NVML NO_PERMISSION",
        [Look(0, missing={"ecc_uncorrected": "no_permission"})], "unknown", ("ecc_not_read",), None),
    Row("neither temperature nor clock", FACTS, [Look(0, {"temperature": NAN, "clock_sm": NAN})], "unknown",
        ("temperature_not_read",), None),
    Row("a clock will do", FACTS, [Look(0, {"temperature": NAN})], "healthy"),
    Row("nothing could be read", FACTS, [Look(0, only=())], "unknown", ("nothing_read",), None),
    Row("three polls old is fresh", FACTS, [Look(0), Look(3, sampled=0)], "healthy"),
    Row("older than three polls is stale", FACTS, [Look(0), Look(3.1, sampled=0)], "unknown", ("stale",), None),
    Row("fresh again is healthy at once", FACTS, [Look(0), Look(9, sampled=0), Look(10)], "healthy"),
    Row("stale hides no degraded finding", FACTS, [*fields(remap_pending=1), Look(9, sampled=2)], "unknown",
        ("stale", "row_remap_pending"), None),
    Row("stale mends nothing unhealthy", FACTS, [Look(0, xids=(48,)), Look(500, sampled=0)], "unhealthy",
        ("xid_48", "stale"), 0.0),
    Row("a degraded GPU is degraded whatever is not known", FACTS,
        [Look(0, source="dcgm", only=DCGM_DEFAULT), Look(1, source="dcgm", only=DCGM_DEFAULT, xids=(63,))], "degraded",
        ("xid_63",)),
    # Lost.
    Row("NVML error 15", "NVML GPU_IS_LOST", [Look(0), Look(1, lost="gpu_is_lost")], "lost", ("gpu_is_lost",), 0.0),
    Row("gone from the inventory", FACTS, [Look(0), Look(1, lost="gone_from_inventory")], "lost",
        ("gone_from_inventory",), 0.0),
    Row("every call answers 'unknown error', once: nothing is known", "NVML error 999",
        [Look(0), Look(1, lost="unknown_error")], "unknown", ("nothing_read",), None),
    Row("and is well again", "NVML error 999", [Look(0), Look(1, lost="unknown_error"), Look(2)], "healthy"),
    Row("twice: lost", "NVML error 999", [Look(0), *every(1, 2, lost="unknown_error")], "lost", ("unknown_error",),
        0.0),
    Row("two looks at one such poll are one", "NVML error 999",
        [Look(0), Look(1, lost="unknown_error"), Look(2, lost="unknown_error", sampled=1)], "unknown",
        ("nothing_read",), None),
    Row("also when dcgm-exporter has a new page", "NVML error 999",
        [Look(0), Look(1, lost="unknown_error"),
         Look(1.5, lost="unknown_error", sampled=1, beside=Look(1.5, source="dcgm", only=DCGM_DEFAULT))], "unknown",
        ("ecc_not_read", "recovery_action_not_read", "row_remap_not_read", "throttling_not_read", "xid_not_watched"),
        None),
    Row("twice, with dcgm-exporter's pages in between", "NVML error 999",
        [Look(0), Look(1, lost="unknown_error"),
         Look(2, lost="unknown_error", beside=Look(1.5, source="dcgm", only=DCGM_DEFAULT))], "lost",
        ("unknown_error",), 0.0),
    Row("after 'unknown error' five clean minutes", FACTS,
        [Look(0), *every(1, 2, lost="unknown_error"), *every(3, 303)], "healthy"),
    Row("'unknown error' and back is no reset", "NVML error 999",
        [Look(0, xids=(119,)), *every(1, 2, lost="unknown_error"), *every(3, 700)], "unhealthy", ("xid_119",), 0.0),
    Row("lost, then 'unknown error', then back: it was lost", FACTS,
        [Look(0, xids=(119,)), Look(1, lost="gpu_is_lost"), Look(2, lost="unknown_error"), *every(3, 310)], "healthy"),
    *(Row(f"{why} and back with all the energy it had used is no reset", "NVML: energy since the driver's load",
          [*onward(0, 9), Look(10, xids=(95,)), Look(11, lost=why), *onward(12, 700)], "unhealthy", ("xid_95",), 0.0)
      for why in ("gpu_is_lost", "gone_from_inventory")),
    Row("nor with the corrected errors that it had", "NVML: volatile counters",
        [Look(0, {"ecc_corrected": 3}, (95,)), Look(1, lost="gpu_is_lost"),
         *every(2, 700, values={"ecc_corrected": 3.0})], "unhealthy", ("xid_95",), 0.0),
    Row("Xid 79", "NVIDIA: RESTART_BM", [Look(0), Look(1, xids=(79,))], "lost", ("xid_79",), 0.0),
    Row("Xid 79 latches", FACTS, [Look(0, xids=(79,)), *every(1, 4000, 60)], "lost", ("xid_79",), 0.0),
    Row("lost and back: five clean minutes first", FACTS,
        [Look(0), Look(1, lost="gpu_is_lost"), *every(2, 300)], "lost", ("gpu_is_lost",), 0.0),
    Row("lost and back for five minutes", FACTS, [Look(0), Look(1, lost="gpu_is_lost"), *every(2, 302)], "healthy"),
    Row("lost with Xid 79, then reset", FACTS,
        [Look(0), Look(1, xids=(79,)), Look(2, lost="gpu_is_lost"), *every(3, 303)], "healthy"),
    # Unhealthy.
    *(Row(f"recovery action {number}", "NVML field 230", fields(recovery_action=number), "unhealthy", (name,), 0.0)
      for number, name in ((1, "recovery_reset"), (2, "recovery_reboot_node"), (4, "recovery_drain_and_reset"),
                           (6, "recovery_bus_reset"), (7, "recovery_system_reboot"))),
    Row("the driver withdraws its action: five minutes", FACTS,
        [*fields(recovery_action=1), *every(3, 301)], "unhealthy", ("recovery_reset",), 0.0),
    Row("the driver withdrew its action", FACTS, [*fields(recovery_action=1), *every(3, 303)], "healthy"),
    *(Row(f"Xid {code} latches", "xid.tsv", [Look(0, xids=(code,)), *every(1, 4000, 60)], "unhealthy",
          (f"xid_{code}",), 0.0) for code in (*CRITICAL, *MEMORY)),
    Row("an Xid latch ends with the reset", FACTS,
        [Look(0, xids=(48,)), *every(1, 500), *every(501, 801, values={"energy": 5.0})], "healthy"),
    Row("and not before five clean minutes", FACTS,
        [Look(0, xids=(48,)), *every(1, 500), *every(501, 799, values={"energy": 5.0})], "unhealthy", ("xid_48",), 0.0),
    Row("or when the driver withdraws its action", FACTS,
        [Look(0), Look(1, {"recovery_action": 1}, (48,)), Look(2, {"recovery_action": 1}), *every(3, 303)], "healthy"),
    Row("its energy counter falls by a little: no reset", "Plimsoll: a reading that came late",
        [*onward(0, 9), Look(10, {"energy": 1e6 + 1000}, (95,)), Look(11, {"energy": 1e6 + 999.999}),
         *onward(12, 700)], "unhealthy", ("xid_95",), 0.0),
    Row("somebody clears the volatile error counts: no reset", "nvmlDeviceClearEccErrorCounts",
        [*onward(0, 9, values={"ecc_corrected": 5.0}), Look(10, {"ecc_corrected": 5}, (95,)), *onward(11, 700)],
        "unhealthy", ("xid_95",), 0.0),
    Row("an error after somebody cleared the counts is a new one", "nvmlDeviceClearEccErrorCounts",
        [*onward(0, 9, values={"ecc_uncorrected": 5.0}), *onward(10, 19),
         *onward(20, 40, values={"ecc_uncorrected": 1.0})],
        "unhealthy", ("ecc_uncorrected", "ecc_uncorrected_before_start"), 0.0),
    Row("also where dcgm-exporter told the higher count before", "nvmlDeviceClearEccErrorCounts",
        [*onward(0, 4, source="dcgm", values={"ecc_uncorrected": 5.0}), *onward(5, 9, values={"ecc_uncorrected": 5.0}),
         *onward(10, 19), *onward(20, 40, values={"ecc_uncorrected": 1.0})],
        "unhealthy", ("ecc_uncorrected", "ecc_uncorrected_before_start"), 0.0),
    Row("the driver withdraws its action: a reset, though the energy goes on", "NVML field 230",
        [*onward(0, 9), *onward(10, 20, values={"recovery_action": 1.0}, xids=(95,)), *onward(21, 330)], "healthy"),
    Row("dcgm-exporter's 0 withdraws nothing that NVML told", "Plimsoll: its page may be older",
        [Look(0), Look(1, {"recovery_action": 1}, (95,)),
         *every(2, 700, 2, source="dcgm", only=(*DCGM_DEFAULT, "recovery_action", "ecc_uncorrected", "xid_watched"))],
        "unhealthy", ("xid_95",), 0.0),
    Row("NVML's own 0 after that does", "NVML field 230",
        [Look(0), Look(1, {"recovery_action": 1}, (95,)),
         *every(2, 60, 2, source="dcgm", only=(*DCGM_DEFAULT, "recovery_action", "ecc_uncorrected", "xid_watched")),
         *every(61, 361)], "healthy"),
    Row("dcgm-exporter told of the energy in between: NVML's fell all the same", FACTS,
        [Look(0, xids=(95,)), Look(1), *every(2, 60, 2, source="dcgm", values={"energy": 2e6}),
         *every(61, 362, values={"energy": 5.0})], "healthy"),
    Row("dcgm-exporter's count of an error that NVML told before is none", FACTS,
        [Look(0, source="dcgm"), Look(1), Look(2, {"ecc_uncorrected": 1}, (94,)),
         *every(3, 400, values={"ecc_uncorrected": 1.0}),
         *every(401, 430, source="dcgm", values={"ecc_uncorrected": 1.0})], "degraded", ("xid_94",)),
    Row("a reset that somebody else saw", "Plimsoll: the board's reset, a load of the driver",
        [Look(0, xids=(95,)), Look(1, reset=True), *onward(2, 302)], "healthy"),
    Row("five clean minutes after it as well", FACTS,
        [Look(0, xids=(95,)), Look(1, reset=True), *onward(2, 299)], "unhealthy", ("xid_95",), 0.0),
    Row("an Xid that comes with the reset is after it", FACTS,
        [Look(0), Look(1, xids=(95,), reset=True), *onward(2, 400)], "unhealthy", ("xid_95",), 0.0),
    Row("remap failure: replace the board", "NVIDIA RMA policy", fields(remap_failure=1), "unhealthy",
        ("row_remap_failure",), 0.0),
    Row("NVML error 16", "NVML RESET_REQUIRED", [Look(0), Look(1, missing={"power": "reset_required"})], "unhealthy",
        ("reset_required",), 0.0),
    Row("a board in MIG mode is known by the count of its life", "NVML reference: no volatile counters under MIG",
        [in_mig(0, 3.0), in_mig(1, 3.0)], "healthy", unknown=()),
    Row("which grows, and no Xid 94 comes", "NVML reference: no volatile counters under MIG",
        [in_mig(0, 3.0), *(in_mig(at, 4.0) for at in range(1, 13))], "unhealthy", ("ecc_uncorrected",), 0.0),
    Row("which grows with an Xid 94", "NVIDIA: Xid 94 RESTART_APP",
        [in_mig(0, 3.0), in_mig(1, 4.0, (94,)), *(in_mig(at, 4.0) for at in range(2, 60))], "degraded", ("xid_94",)),
    Row("an instance's Xid 94 explains what its board counted, and says nothing else of it", "NVIDIA: Xid 94 under MIG",
        [Look(0), Look(1, {"ecc_uncorrected": 1}, (48,), contained=(94,)),
         *every(2, 60, values={"ecc_uncorrected": 1.0})], "healthy"),
    Row("also when it comes a little later", "NVIDIA: Xid 94 under MIG",
        [Look(0), Look(1, {"ecc_uncorrected": 1}, (48,)), Look(3, {"ecc_uncorrected": 1}, contained=(94,)),
         *every(4, 60, values={"ecc_uncorrected": 1.0})], "healthy"),
    Row("the count of its life from before is none", FACTS,
        fields(ecc_uncorrected_lifetime=7.0), "healthy"),
    Row("where the volatile count is there it alone counts", FACTS,
        [Look(0, {"ecc_uncorrected_lifetime": 1.0}), *every(1, 30, values={"ecc_uncorrected_lifetime": 2.0})],
        "healthy"),
    Row("a new uncorrectable error without Xid 94", FACTS,
        [Look(0), *every(1, 12, values={"ecc_uncorrected": 1.0})], "unhealthy", ("ecc_uncorrected",), 0.0),
    Row("it latches", FACTS,
        [Look(0), *every(1, 900, values={"ecc_uncorrected": 1.0})], "unhealthy", ("ecc_uncorrected",), 0.0),
    Row("it waits for its Xid 94", FACTS, [Look(0), *every(1, 10, values={"ecc_uncorrected": 1.0})], "healthy"),
    Row("with Xid 94 after it: contained", "NVIDIA: Xid 94 RESTART_APP",
        [Look(0), Look(1, {"ecc_uncorrected": 1}), Look(2, {"ecc_uncorrected": 1}, xids=(94,)),
         *every(3, 60, values={"ecc_uncorrected": 1.0})], "degraded", ("xid_94",)),
    Row("with Xid 94 before it: contained", "NVIDIA: Xid 94 RESTART_APP",
        [Look(0), Look(1, xids=(94,)), *every(2, 60, values={"ecc_uncorrected": 1.0})], "degraded", ("xid_94",)),
    Row("an Xid 94 an hour ago explains nothing", FACTS,
        [Look(0, xids=(94,)), Look(3000), *every(3001, 3020, values={"ecc_uncorrected": 1.0})], "unhealthy",
        ("ecc_uncorrected", "xid_94"), 0.0),
    Row("errors from before the start: plan a reset", "Plimsoll: kind unknown", [Look(0, {"ecc_uncorrected": 2})],
        "degraded", ("ecc_uncorrected_before_start",)),
    Row("a reset clears the counter and, in time, the state", FACTS,
        [Look(0), *every(1, 20, values={"ecc_uncorrected": 1.0}), *every(21, 322)], "healthy"),
    # Degraded.
    Row("remap pending: reset at the next drain", "NVIDIA row remapping", fields(remap_pending=1), "degraded",
        ("row_remap_pending",)),
    Row("recovery action 3", "NVML field 230", fields(recovery_action=3), "degraded", ("recovery_drain_p2p",)),
    Row("recovery action 5", "NVML field 230", fields(recovery_action=5), "degraded", ("recovery_imex",)),
    Row("a recovery action of a newer driver", "Plimsoll: not harmless", fields(recovery_action=9), "degraded",
        ("recovery_other",)),
    Row("Xid 94 counts no longer than an hour", FACTS, [Look(0, xids=(94,)), *every(1, 3601, 2)], "healthy"),
    Row("an Xid that no table knows", "Plimsoll: not harmless", [Look(0, xids=(999,))], "degraded", ("xid_unlisted",)),
    *(Row(f"Xid {code} counts for an hour", "xid.tsv", [Look(0, xids=(code,)), *every(1, 3599, 60)], "degraded",
          (f"xid_{code}",)) for code in DEGRADED),
    *(Row(f"Xid {code} is no fault", "xid.tsv", [Look(0, xids=(code,))], "healthy") for code in INFO),
    *(Row(f"Xid {code} is its process's, until it comes back under other pods", "xid.tsv",
          [Look(0, xids=(code,)), Look(1000, xids=(code,), pods=("b",)), Look(2000)], "healthy")
      for code in APPLICATION),
    Row("HW thermal slowdown in a fifth of 5 min", "gpud: HW slowdown, 6 of 10 min", hot(0, 301, 0.21), "degraded",
        ("hw_thermal_slowdown",)),
    Row("HW thermal slowdown in less", FACTS, hot(0, 2000, 0.19), "healthy"),
    Row("a counter that jumps is no time", FACTS,
        [Look(0), Look(1, {"throttle_hw_thermal": 1e6}), *every(2, 9, values={"throttle_hw_thermal": 1e6})], "healthy"),
    Row("how much of a long gap was hot in the last 5 min is not known", FACTS,
        [Look(0), *every(1000, 1005, values={"throttle_hw_thermal": 500.0})], "healthy"),
    Row("power brake in a fifth of 5 min", FACTS, hot(0, 301, 0.21, "throttle_hw_power_brake"), "degraded",
        ("hw_power_brake",)),
    Row("all of a minute is a fifth of five", FACTS, hot(0, 62, 1.0), "degraded", ("hw_thermal_slowdown",)),
    Row("without counters the bit does", FACTS,
        [Look(float(at), {"throttle_hw_thermal": NAN, "throttle_reasons": 64.0}) for at in range(63)],
        "degraded", ("hw_thermal_slowdown",)),
    Row("the bit now and then is little", FACTS,
        [Look(float(at), {"throttle_hw_thermal": NAN, "throttle_reasons": 64.0 * (at % 10 == 0)}) for at in range(600)],
        "healthy"),
    Row("cool again: the window and five clean minutes", FACTS, [*hot(0, 62, 1.0), *every(63, 500)], "degraded",
        ("hw_thermal_slowdown",)),
    Row("cool for long", FACTS, [*hot(0, 62, 1.0), *every(63, 760)], "healthy"),
    Row("a low clock without a reason, while busy", FACTS, fields(**BUSY, **SLOW), "degraded", ("clock_low",)),
    Row("a low clock in waves of load: idle says nothing", FACTS,
        [*fields(**BUSY, **SLOW), *every(3, 900, 3)], "degraded", ("clock_low",)),
    Row("the clock that was set for applications is the highest that the load gets", "NVML: applications clock",
        fields(clock_sm_application=1200e6, **BUSY, **SLOW), "healthy"),
    Row("and below that it is low", "NVML: applications clock",
        fields(clock_sm_application=1500e6, **BUSY, **SLOW), "degraded", ("clock_low",)),
    Row("one poll of it is none", FACTS, [Look(0), Look(1, {**BUSY, **SLOW})], "healthy"),
    Row("two polls that are not in a row are none", FACTS,
        [Look(0), Look(1, {**BUSY, **SLOW}), Look(2), Look(3, {**BUSY, **SLOW})], "healthy"),
    Row("two looks at one poll are one", FACTS,
        [Look(0), Look(1, {**BUSY, **SLOW}), Look(2, {**BUSY, **SLOW}, sampled=1)], "healthy"),
    Row("a low clock in SW thermal slowdown", FACTS, fields(throttle_reasons=0x20, **BUSY, **SLOW), "degraded",
        ("clock_low",), capacity=0.51),
    Row("HW slowdown lowers the capacity at once", FACTS, [Look(0), Look(1, {"throttle_reasons": 0x48, **SLOW})],
        "healthy", capacity=0.51),
    Row("held down by nobody knows how much", FACTS, [Look(0, {"throttle_reasons": 0x40, "clock_sm_max": NAN})],
        "healthy", capacity=None),
    Row("the worst of several", FACTS,
        [*fields(remap_pending=1, recovery_action=1), Look(3, {"remap_pending": 1}, (79,))], "lost",
        ("xid_79", "recovery_reset", "row_remap_pending"), 0.0),
    # Application Xids.
    Row("application Xids of one pod", "NVSentinel bursts",
        [Look(1000.0 * at, xids=(31,)) for at in range(10)], "healthy"),
    Row("three episodes over two pods", "NVSentinel bursts",
        [Look(0, xids=(31,)), Look(1000, xids=(13,)), Look(2000, xids=(43,), pods=("b",))], "degraded",
        ("application_xids_repeated",)),
    Row("a burst is one episode", "NVSentinel: 180 s",
        [Look(100.0 * at, xids=(31,), pods=(f"p{at}",)) for at in range(10)], "healthy"),
    Row("two episodes are not enough", FACTS, [Look(0, xids=(31,)), Look(1000, xids=(31,), pods=("b",))], "healthy"),
    Row("three episodes in more than a day", FACTS,
        [Look(0, xids=(31,)), Look(50_000, xids=(31,), pods=("b",)), Look(99_000, xids=(31,))], "healthy"),
    Row("pods that nobody knows are none", FACTS,
        [Look(1000.0 * at, xids=(31,), pods=()) for at in range(5)], "healthy"),
    # Xids: several witnesses, replays, severities, the announced action.
    Row("three witnesses of one Xid are one", "Plimsoll: one error, told three times",
        [Look(0, xids=(48,)), Look(1, xids=(Said(48, "kmsg", ago=0.8),)), Look(40, xids=(Said(48, "dcgm"),))],
        "unhealthy", ("xid_48",), 0.0),
    Row("a late witness does not latch again what a reset has ended", FACTS,
        [Look(0, xids=(74,)), *every(1, 30), Look(31, {"energy": 5.0}),
         Look(32, {"energy": 6.0}, (Said(74, "dcgm"),)), *every(33, 340, values={"energy": 7.0})], "healthy"),
    Row("the same witness once more is another error", FACTS,
        [Look(0, xids=(74,)), *every(1, 30), Look(31, {"energy": 5.0}), Look(32, {"energy": 6.0}, (74,)),
         *every(33, 340, values={"energy": 7.0})], "unhealthy", ("xid_74",), 0.0),
    Row("a late witness holds no longer", FACTS,
        [Look(0, xids=(63,)), Look(50, xids=(Said(63, "dcgm"),)), *every(51, 3610, 5)], "healthy"),
    Row("witnesses neither split nor double an episode", "NVSentinel bursts",
        [Look(0, xids=(31, Said(31, "kmsg"))), Look(60, xids=(Said(31, "dcgm"),), pods=("b",)),
         Look(1000, xids=(31, Said(31, "kmsg"))), Look(1060, xids=(Said(31, "dcgm"),), pods=("b",)),
         Look(2000, xids=(31, Said(31, "kmsg")))], "healthy"),
    *(Row(f"an uncorrectable error and its Xid 94 by {source}", "NVIDIA: Xid 94 RESTART_APP",
          [Look(0), Look(1, {"ecc_uncorrected": 1}), Look(8, {"ecc_uncorrected": 1}, (Said(94, source),)),
           *every(9, 200, values={"ecc_uncorrected": 1.0})], "degraded", ("xid_94",))
      for source in ("nvml", "kmsg", "dcgm")),
    Row("only dcgm-exporter tells of the Xid 94, half a minute later", "dcgm-exporter: collects every 30 s",
        [Look(0), *every(1, 40, values={"ecc_uncorrected": 1.0}),
         Look(41, {"ecc_uncorrected": 1}, (Said(94, "dcgm"),)), *every(42, 60, values={"ecc_uncorrected": 1.0})],
        "degraded", ("xid_94",)),
    Row("the driver's own Xid 94 half a minute later is of another error", FACTS,
        [Look(0), *every(1, 40, values={"ecc_uncorrected": 1.0}),
         Look(41, {"ecc_uncorrected": 1}, (94,)), *every(42, 60, values={"ecc_uncorrected": 1.0})],
        "unhealthy", ("ecc_uncorrected", "xid_94"), 0.0),
    Row("dcgm-exporter's count is late, the driver's Xid 94 is not", "dcgm-exporter: collects every 30 s",
        [Look(0, source="dcgm"), Look(5, source="dcgm", xids=(Said(94, "kmsg"),)),
         *every(35, 60, 5, source="dcgm", values={"ecc_uncorrected": 1.0})], "degraded", ("xid_94",)),
    *(Row(f"Xid {code} with its Xid 94 stayed in one process", "NVIDIA memory error management",
          [Look(0), Look(1, {"ecc_uncorrected": 1}, (code, 63, 94)), *every(2, 99, values={"ecc_uncorrected": 1.0})],
          "degraded", ("xid_63", "xid_94")) for code in MEMORY),
    Row("the Xid 94 comes a little after its Xid 48", "NVIDIA memory error management",
        [Look(0), Look(1, xids=(48,)), Look(3, xids=(94,)), *every(4, 99)], "degraded", ("xid_94",)),
    Row("an Xid 94 takes back no Xid 48 of an hour before", FACTS,
        [Look(0, xids=(48,)), *every(1, 3000, 60), Look(3001, xids=(48, 94))], "unhealthy", ("xid_48", "xid_94"), 0.0),
    Row("an Xid 48 with Xid 95 is not contained", "NVIDIA: Xid 95 RESET_GPU", [Look(0, xids=(48, 95))], "unhealthy",
        ("xid_48", "xid_95"), 0.0),
    *(Row(f"Xid {code}, fatal", "NVIDIA: WORKFLOW_NVLINK5_ERR",
          [Look(0, xids=(Said(code, "kmsg", "fatal"),)), *every(1, 4000, 60)], "unhealthy", (f"xid_{code}_fatal",), 0.0)
      for code in FATAL_IF_SAID),
    *(Row(f"Xid {code}, nonfatal", "NVIDIA: WORKFLOW_NVLINK5_ERR", [Look(0, xids=(Said(code, "kmsg", "nonfatal"),))],
          *(("degraded", (f"xid_{code}",)) if code in DEGRADED else ("healthy",))) for code in FATAL_IF_SAID),
    Row("NVML does not know that an Xid 149 was fatal, the kernel's log does", "NVIDIA: WORKFLOW_NVLINK5_ERR",
        [Look(0, xids=(149,)), Look(1, xids=(Said(149, "kmsg", "fatal"),))], "unhealthy", ("xid_149_fatal", "xid_149"),
        0.0),
    Row("severity is nothing to other codes", "xid.tsv", [Look(0, xids=(Said(63, "kmsg", "fatal"),))], "degraded",
        ("xid_63",)),
    Row("a replayed Xid latches like a live one where the driver cannot be asked", FACTS,
        [Look(0, blanked("recovery_action"), (Said(119, "kmsg", ago=900, replayed=True),)),
         *every(1, 2000, 60, values=blanked("recovery_action"))], "unhealthy", ("xid_119",), 0.0),
    Row("and where the driver wants a reset", "NVML field 230",
        [Look(0, {"recovery_action": 1}, (Said(119, "kmsg", ago=900, replayed=True),)),
         Look(1, {"recovery_action": 1})], "unhealthy", ("recovery_reset", "xid_119"), 0.0),
    Row("but not where the driver wants nothing", "NVML field 230",
        [Look(0, xids=(Said(119, "kmsg", ago=900, replayed=True),))], "healthy"),
    Row("nor once it says so", "NVML field 230",
        [Look(0, blanked("recovery_action"), (Said(119, "kmsg", ago=900, replayed=True),)), Look(1)], "healthy"),
    Row("a live Xid after a replayed one stays", FACTS,
        [Look(0, blanked("recovery_action"), (Said(119, "kmsg", ago=900, replayed=True),)),
         Look(1, blanked("recovery_action"), (119,)), Look(2)], "unhealthy", ("xid_119",), 0.0),
    Row("a replayed Xid from before the driver was loaded", "NVML: energy since the driver's load",
        [Look(0, blanked("recovery_action", energy=4000.0), (Said(119, "kmsg", ago=900, replayed=True),))], "healthy"),
    Row("a replayed fatal one", FACTS,
        [Look(0, blanked("recovery_action"), (Said(145, "kmsg", "fatal", ago=900, replayed=True),))], "unhealthy",
        ("xid_145_fatal",), 0.0),
    Row("a replayed Xid 79, and the driver reads the GPU: it was initialised anew", "NVML GPU_IS_LOST",
        [Look(0, blanked("recovery_action"), (Said(79, "kmsg", ago=900, replayed=True),))], "healthy"),
    Row("a replayed Xid 79, and the driver reads a clock", "NVML GPU_IS_LOST",
        [Look(0, blanked("recovery_action", "temperature"), (Said(79, "kmsg", ago=900, replayed=True),))], "healthy"),
    Row("a replayed Xid 79, and the driver wants nothing", "NVML field 230",
        [Look(0, xids=(Said(79, "kmsg", ago=900, replayed=True),))], "healthy"),
    Row("a replayed Xid 79, and only dcgm-exporter has numbers", "dcgm-exporter: repeats what it read",
        [Look(0, source="dcgm", only=DCGM_DEFAULT, xids=(Said(79, "kmsg", ago=900, replayed=True),))], "lost",
        ("xid_79",), 0.0),
    Row("a replayed Xid 79, and the GPU is lost", "NVML GPU_IS_LOST",
        [Look(0, lost="gpu_is_lost", xids=(Said(79, "kmsg", ago=900, replayed=True),))], "lost",
        ("gpu_is_lost", "xid_79"), 0.0),
    Row("a replayed memory error with its Xid 94", "NVIDIA memory error management",
        [Look(0, blanked("recovery_action"),
              (Said(48, "kmsg", ago=900, replayed=True), Said(94, "kmsg", ago=899, replayed=True)))], "degraded",
        ("xid_94",)),
    Row("a replayed memory error without", "NVIDIA memory error management",
        [Look(0, blanked("recovery_action"),
              (Said(48, "kmsg", ago=900, replayed=True), Said(94, "kmsg", ago=500, replayed=True)))], "unhealthy",
        ("xid_48", "xid_94"), 0.0),
    Row("a replayed degraded Xid counts for what is left of its hour", FACTS,
        [Look(0, xids=(Said(63, "kmsg", ago=3500, replayed=True),)), Look(90)], "degraded", ("xid_63",)),
    Row("and not at all after it", FACTS, [Look(0, xids=(Said(63, "kmsg", ago=3700, replayed=True),))], "healthy"),
    Row("who had the GPU when a replayed application Xid came is not known", FACTS,
        [Look(0, xids=tuple(Said(31, "kmsg", ago=ago, replayed=True) for ago in (9000, 6000, 3000))),
         Look(1000, xids=(31,), pods=("b",))], "healthy"),
    Row("Xid 154 stands in where field 230 cannot be read", "NVIDIA: Xid 154",
        [Look(0, blanked("recovery_action"), (Said(154, "kmsg", recovery=2),)),
         *every(1, 900, 10, values=blanked("recovery_action"))], "unhealthy", ("recovery_reboot_node",), 0.0,
        ("recovery_action",)),
    Row("until the next one withdraws it", "NVIDIA: Xid 154",
        [Look(0, blanked("recovery_action"), (Said(154, "kmsg", recovery=1),)),
         Look(50, blanked("recovery_action"), (Said(154, "kmsg", recovery=0),)),
         *every(51, 351, values=blanked("recovery_action"))], "healthy"),
    Row("or until a reset", "NVIDIA: Xid 154",
        [Look(0, blanked("recovery_action"), (Said(154, "kmsg", recovery=1),)),
         *every(1, 301, values=blanked("recovery_action", energy=5.0))], "healthy"),
    Row("a reading of field 230 rules over Xid 154", "NVML field 230",
        [Look(0, xids=(Said(154, "kmsg", recovery=1),)), Look(1), Look(2, blanked("recovery_action"))], "healthy"),
    Row("an Xid 154 that says nothing of the action", "NVIDIA: Xid 154",
        [Look(0, blanked("recovery_action"), (Said(154, "kmsg", recovery=3),)),
         Look(1, blanked("recovery_action"), (154,))], "degraded", ("recovery_drain_p2p",)),
    # Memory.
    Row("the SRAM threshold: replace the board", "NVIDIA RMA policy", fields(sram_threshold_exceeded=1), "unhealthy",
        ("sram_threshold_exceeded",), 0.0),
    Row("retired pages are pending", "NVIDIA page retirement", fields(**{**PAGES, "retired_pages_pending": 1.0}),
        "degraded", ("retired_pages_pending",)),
    Row("59 retired pages", "NVIDIA page retirement: RMA at 60",
        fields(**{**PAGES, "retired_pages_sbe": 50, "retired_pages_dbe": 9}), "healthy"),
    Row("60 retired pages", "NVIDIA page retirement: RMA at 60",
        fields(**{**PAGES, "retired_pages_sbe": 50, "retired_pages_dbe": 10}), "degraded", ("retired_pages_many",)),
    # Heat.
    Row("no margin for a minute", "NVML margin temperature", every(0, 60, values={"temperature_margin": -2.0}),
        "degraded", ("thermal_margin",)),
    Row("no margin for less", "NVML margin temperature", every(0, 59, values={"temperature_margin": -2.0}), "healthy"),
    Row("slowing begins below the zero of the margin", "NVML field 194",
        every(0, 300, values={"temperature_margin": -1.0}), "healthy"),
    Row("a board that does not say where slowing begins", "NVML margin temperature",
        every(0, 60, values=blanked("margin_slowdown", temperature_margin=0.0)), "degraded", ("thermal_margin",)),
    Row("a board that counts upwards", "NVML temperature threshold: slowdown",
        every(0, 60, values=blanked("temperature_margin", temperature_slowdown=90.0, temperature=90.0)), "degraded",
        ("thermal_margin",)),
    Row("and is a degree below", "NVML temperature threshold: slowdown",
        every(0, 300, values=blanked("temperature_margin", temperature_slowdown=90.0, temperature=89.0)), "healthy"),
    Row("a cool second now and then cools nothing", FACTS,
        [Look(float(at), {"temperature_margin": -1.0 if at % 10 == 0 else -2.0}) for at in range(70)], "degraded",
        ("thermal_margin",)),
    Row("a hot second in ten is a peak of load", FACTS,
        [Look(float(at), {"temperature_margin": -2.0 if at % 10 == 0 else -1.0}) for at in range(900)], "healthy"),
    Row("heat that was over for five minutes does not add up", FACTS,
        [*every(0, 50, values={"temperature_margin": -9.0}), *every(51, 400),
         *every(401, 450, values={"temperature_margin": -9.0})], "healthy"),
    Row("two hot looks an hour apart are no hot hour", FACTS,
        [Look(0, {"temperature_margin": -9.0}), Look(3600, {"temperature_margin": -9.0})], "healthy"),
    # PCIe.
    Row("half the lanes under load", "NVML: PCIe link width", fields(pcie_width=8, **BUSY), "degraded",
        ("pcie_width_low",)),
    Row("half the lanes, in waves of load: idle says nothing", "NVML: PCIe link width",
        [Look(float(at), {"pcie_width": 8, "utilization": 0.95 if at % 1200 < 600 else 0.02})
         for at in range(0, 4200, 2)], "degraded", ("pcie_width_low",)),
    Row("all lanes under load for five minutes", "NVML: PCIe link width",
        [*fields(pcie_width=8, **BUSY), *every(3, 303, values=BUSY)], "healthy"),
    Row("a slow link in waves of load", "NVML: PCIe link generation",
        [*fields(pcie_generation=3, **BUSY), *every(3, 900, 3, values={"pcie_generation": 1, "utilization": 0})],
        "degraded", ("pcie_generation_low",)),
    Row("the end of the load, seen twice, is no slow link", "NVML: utilisation is of the second before",
        [*fields(pcie_generation=1, utilization=0)[:1], Look(1, {"pcie_generation": 1, **BUSY}),
         Look(2, {"pcie_generation": 1, "utilization": 0}), Look(3, {"pcie_generation": 1, **BUSY})], "healthy"),
    Row("two looks at one collection of dcgm-exporter are one reading", "dcgm-exporter: collects every 30 s",
        [Look(float(at), {**BUSY, "pcie_width": 8}, source="dcgm") for at in range(0, 45, 5)], "healthy"),
    Row("two collections of dcgm-exporter are two", "dcgm-exporter: collects every 30 s",
        [Look(float(at), {**BUSY, "pcie_width": 8}, source="dcgm") for at in range(0, 50, 5)], "degraded",
        ("pcie_width_low",)),
    Row("dcgm-exporter's new page is no new reading of NVML's", FACTS,
        [Look(0), Look(1, {**BUSY, "pcie_width": 8}),
         Look(1.5, {**BUSY, "pcie_width": 8}, sampled=1, beside=Look(1.5, source="dcgm", only=DCGM_DEFAULT))],
        "healthy"),
    Row("half the lanes while idle", "NVML: PCIe link width", fields(pcie_width=8), "healthy"),
    Row("one poll of it", FACTS, [Look(0), Look(1, {"pcie_width": 8, **BUSY})], "healthy"),
    Row("a slow link under load", "NVML: PCIe link generation", fields(pcie_generation=3, **BUSY), "degraded",
        ("pcie_generation_low",)),
    Row("a slow link while idle saves power", "NVML: PCIe link generation", fields(pcie_generation=1, utilization=0),
        "healthy"),
    *(Row(f"PCIe generation {generation}: replays below the limit", "DCGM 4.6 health", pcie(generation, limit * 0.9),
          "healthy") for generation, limit in enumerate((0.15, 0.3, 0.48, 0.96, 1.92, 3.84), 1)),
    *(Row(f"PCIe generation {generation}: replays above the limit", "DCGM 4.6 health", pcie(generation, limit * 1.1),
          "degraded", ("pcie_replays",)) for generation, limit in enumerate((0.15, 0.3, 0.48, 0.96, 1.92, 3.84), 1)),
    Row("a generation of tomorrow has the limit of the last", FACTS, pcie(7, 3.84 * 1.1), "degraded",
        ("pcie_replays",)),
    Row("nor do those of a long gap", FACTS,
        [Look(0), *every(1000, 1300, 5, values={"pcie_replays": 1e5})], "healthy"),
    Row("half a minute of replays says nothing", "DCGM health: a minute", pcie(5, 9.0, 45), "healthy"),
    Row("the load's replays are not held against the idle link", FACTS,
        [*pcie(5, 1.5), Look(331, {"pcie_replays": 132.0, "pcie_generation": 1, "utilization": 0})], "healthy"),
    Row("a replay counter that falls starts anew", FACTS,
        [*every(0, 120, 5, values={"pcie_replays": 1e6}), *every(125, 400, 5)], "healthy"),
    Row("another source's replay counter is another counter", FACTS,
        [Look(float(at), {"pcie_replays": 1e6 * (at % 10 == 0)}, source="dcgm" if at % 10 else "nvml")
         for at in range(0, 400, 5)], "healthy"),
    Row("replays from before the first look", FACTS, every(0, 400, 5, values={"pcie_replays": 1e6}), "healthy"),
    # NVLink.
    Row("a link that was up goes down", "NVIDIA Health Validation nvlink_active",
        [*learned(), *every(71, 91, 5, values={"nvlink_up_2": 0.0})], "unhealthy", ("nvlink_down",), 0.0),
    Row("one poll of a link that is down is none", FACTS, [*learned(), Look(71, {"nvlink_up_2": 0})], "healthy"),
    Row("one reading of a link that is down, repeated by ten polls, is none", "Plimsoll: NVML is asked every 10 s",
        [*learned(), *every(71, 81, values={"nvlink_up_2": 0.0}), Look(82)], "healthy"),
    Row("links that train after a reset are not missed", FACTS,
        [*learned(), *every(71, 129, values={"nvlink_up_2": 0.0, "energy": 5.0})], "healthy"),
    Row("nor after a reset that the readings do not show", FACTS,
        [*learned(), Look(71, reset=True), *every(72, 129, values={"nvlink_up_2": 0.0})], "healthy"),
    Row("but links that do not come up after it are", FACTS,
        [*learned(), *every(71, 155, values={"nvlink_up_2": 0.0, "energy": 5.0})], "unhealthy", ("nvlink_down",), 0.0),
    Row("a link that was never up is not missed", FACTS, every(0, 300, 5, values={"nvlink_up_3": 0.0}), "healthy"),
    Row("a link that was up for less than a minute is not missed", FACTS,
        [*learned(55), *every(56, 80, values={"nvlink_up_2": 0.0})], "healthy"),
    Row("a link that comes up late is learned as well", FACTS,
        [*every(0, 70, 5, values={"nvlink_up_3": 0.0}), *every(71, 140, 5),
         *every(141, 161, 5, values={"nvlink_up_3": 0})], "unhealthy", ("nvlink_down",), 0.0),
    Row("a link that flaps while it is learned is not known", FACTS,
        [*(Look(float(at), {"nvlink_up_3": float(at % 10 < 5)}) for at in range(0, 300, 5)),
         *every(301, 330, values={"nvlink_up_3": 0.0})], "healthy"),
    Row("a link that is not read is not down", FACTS, [*learned(), *every(71, 99, values={"nvlink_up_2": NAN})],
        "healthy"),
    Row("a link that is down stays so while it is not read", FACTS,
        [*learned(), *every(71, 91, values={"nvlink_up_2": 0.0}), *every(92, 900, 3, values={"nvlink_up_2": NAN})],
        "unhealthy", ("nvlink_down",), 0.0),
    Row("a link that sleeps is up", "nvml.h: NVML_NVLINK_STATE_SLEEP",
        [*learned(), *every(71, 99, values={"nvlink_up_2": 2.0})], "healthy"),
    Row("up again for five minutes", FACTS,
        [*learned(), *every(71, 91, values={"nvlink_up_2": 0.0}), *every(92, 392)], "healthy"),
    Row("MIG turns the links off", "NVIDIA MIG: no NVLink",
        [*learned(), *every(71, 200, 3, values={"mig_enabled": 1.0, "nvlink_up_2": 0.0, "nvlink_up_0": 0.0})],
        "healthy"),
    Row("also in a poll that does not tell whether MIG is on", "NVIDIA MIG: no NVLink",
        [*learned(), *every(71, 200, 3, values={"mig_enabled": 1.0, "nvlink_up_2": 0.0}),
         *every(201, 299, values=blanked("mig_enabled", nvlink_up_2=0.0))], "healthy"),
    Row("after MIG the links have a minute to come up", "NVIDIA MIG: no NVLink",
        [*learned(), *every(71, 200, 3, values={"mig_enabled": 1.0, "nvlink_up_2": 0.0}),
         *every(201, 257, values={"nvlink_up_2": 0.0}), *every(258, 270)], "healthy"),
    Row("after MIG the links are missed again", "NVIDIA MIG: no NVLink",
        [*learned(), *every(71, 200, 3, values={"mig_enabled": 1.0, "nvlink_up_2": 0.0}),
         *every(201, 290, values={"nvlink_up_2": 0.0})], "unhealthy", ("nvlink_down",), 0.0),
    Row("one NVLink recovery that failed", "DCGM health: a failure", fields(nvlink_recovery_failed_1=1), "degraded",
        ("nvlink_errors",)),
    Row("one NVLink recovery now and then", FACTS, ramp(0, 600, 0.5 / 60, "nvlink_recovery_1", 5), "healthy"),
    Row("NVLink recoveries that go on", "DCGM health: 1 in a minute", ramp(0, 300, 1.5 / 60, "nvlink_recovery_1", 5),
        "degraded", ("nvlink_errors",)),
    Row("NVLink replays over several links that go on", "DCGM health: 1 in a minute",
        [Look(float(at), {f"nvlink_replay_{link}": at * 0.4 / 60 for link in LINKS}) for at in range(0, 300, 5)],
        "degraded", ("nvlink_errors",)),
    Row("CRC errors at 50 a second", "DCGM health: 100 a second", ramp(0, 300, 50, "nvlink_crc_0", 5), "healthy"),
    Row("CRC errors at 150 a second", "DCGM health: 100 a second", ramp(0, 300, 150, "nvlink_crc_0", 5), "degraded",
        ("nvlink_errors",)),
    Row("receive errors at 150 a second", "DCGM health: 100 a second", ramp(0, 300, 150, "nvlink_receive_0", 5),
        "degraded", ("nvlink_errors",)),
    Row("NVLink errors from before the first look", FACTS,
        every(0, 300, 5, values={"nvlink_recovery_failed_0": 7.0, "nvlink_crc_0": 1e9}), "healthy"),
    Row("NVLink counters that fall and a link that is read again", FACTS,
        [*every(0, 90, 5, values={"nvlink_crc_0": 1e9, "nvlink_crc_1": 1e9}),
         *every(91, 120, values={"nvlink_crc_1": NAN}), *every(121, 300, 5, values={"nvlink_crc_1": 1e9})], "healthy"),
    # The fabric.
    Row("fabric: summary unhealthy", "nvml.h: FABRIC_HEALTH_SUMMARY", seldom(fabric_summary=2), "unhealthy",
        ("fabric_unhealthy",), 0.0),
    Row("fabric: the probe failed", "nvml.h: status when completed", seldom(fabric_status=999), "unhealthy",
        ("fabric_unhealthy",), 0.0),
    Row("fabric: a status before it is completed is none", "nvml.h: status when completed",
        seldom(fabric_state=2, fabric_status=999), "healthy"),
    *(Row(f"fabric: {name}", "nvml.h: FABRIC_HEALTH_MASK", seldom(fabric_health=mask), state, (reason,), capacity)
      for name, mask, state, reason, capacity in (
          ("route unhealthy", 0x19A, "unhealthy", "fabric_unhealthy", 0.0),
          ("route unhealthy until the reset", 0x1BA, "unhealthy", "fabric_unhealthy", 0.0),
          ("bandwidth degraded", 0x1A9, "degraded", "fabric_degraded", 1.0),
          ("route recovery", 0x1A6, "degraded", "fabric_degraded", 1.0),
          ("access timeout recovery", 0x16A, "degraded", "fabric_degraded", 1.0),
          ("wrong system GUID", 0x2AA, "degraded", "fabric_degraded", 1.0),
          ("too few NVLinks", 0x5AA, "degraded", "fabric_degraded", 1.0))),
    Row("fabric: limited capacity", "nvml.h: FABRIC_HEALTH_SUMMARY", seldom(fabric_summary=3), "degraded",
        ("fabric_degraded",)),
    Row("fabric: the mask tells nothing", "nvml.h: NOT_SUPPORTED", seldom(fabric_health=0, fabric_summary=0),
        "healthy"),
    Row("a board without a fabric", "nvml.h: state not supported", seldom(fabric_state=0, fabric_health=0), "healthy"),
    Row("fabric: one reading of the summary that many polls repeat", "Plimsoll: NVML is asked every 10 s",
        [Look(0), *every(1, 10, values={"fabric_summary": 2.0})], "healthy"),
    *(Row(f"fabric: {name} for a minute", "DCGM health: fabric manager", every(0, 60, values={"fabric_state": state}),
          "degraded", ("fabric_not_ready",)) for name, state in (("not started", 1.0), ("in progress", 2.0))),
    Row("fabric: in progress for less", FACTS, every(0, 59, values={"fabric_state": 2.0}), "healthy"),
    # Boots.
    Row("another boot is a fresh start", "Linux boot id",
        [Look(0, xids=(48,), boot="x"), *every(1, 60, boot="x"), Look(61, boot="y")], "healthy"),
    Row("the same boot is none", "Linux boot id", [Look(0, xids=(48,), boot="x"), Look(61, boot="x")], "unhealthy",
        ("xid_48",), 0.0),
    Row("a boot that is not known is none", "Linux boot id",
        [Look(0, xids=(48,), boot="x"), Look(1), Look(61, boot="x")], "unhealthy", ("xid_48",), 0.0),
    Row("a memory from the future is from another boot", "Linux: CLOCK_MONOTONIC starts at the boot",
        [Look(9000, xids=(48,)), Look(5)], "healthy"),
    Row("a new boot has new links", "Linux boot id",
        [*every(0, 70, 5, boot="x"), *every(71, 99, boot="y", values={"nvlink_up_2": 0.0})], "healthy"),
    Row("counts from before a new boot are not its", "Linux boot id",
        [Look(0, boot="x"), *every(1, 20, boot="y", values={"ecc_uncorrected": 1.0})], "degraded",
        ("ecc_uncorrected_before_start",)),
    Row("throttled and degraded: the clock's share", "NVML bit 0x4",
        fields(remap_pending=1, throttle_reasons=0x4, clock_sm=1485e6, **BUSY), "degraded", ("row_remap_pending",),
        0.75),
]  # fmt: skip


@pytest.mark.parametrize("row", ROWS, ids=lambda row: row.name)
def test_histories(row: Row) -> None:
    verdict = follow(row.looks)[-1]
    assert (verdict.state, tuple(reason for reason, _ in verdict.reasons)) == (row.state, row.reasons)
    assert verdict.capacity == row.capacity
    if row.unknown is not None:
        assert verdict.unknown == row.unknown
    assert row.source


def test_there_are_rows_enough_and_no_two_of_a_name() -> None:
    assert len({row.name for row in ROWS}) == len(ROWS) >= 130


def test_every_reason_has_a_row_and_its_action() -> None:
    """All that any rule, part or Xid can say is the end of some history; what a verdict says is in the tables."""
    shown = {pair for row in ROWS for pair in follow(row.looks)[-1].reasons}
    assert shown == set(health.reasons().items())
    assert {action for _, action in shown} <= set(ACTIONS)
    for reason, action in (
        ("row_remap_failure", "rma"),
        ("hw_power_brake", "check_cabling"),
        ("xid_79", "reboot_node"),
    ):
        assert (reason, action) in shown


def test_every_part_is_unknown_in_some_row() -> None:
    assert {name for row in ROWS for name in row.unknown or ()} == {part.name for part in parts.PARTS}


def test_the_document_has_every_reason_state_action_and_part() -> None:
    text = (Path(__file__).parents[2] / "docs" / "gpu-health.md").read_text(encoding="utf-8")
    rows = {line.split("|")[1].strip(): line for line in text.splitlines() if line.count(" | ") == 4}
    for row in findings.TABLE:
        line = rows[f"`{row.finding.reason}`"]
        assert f"| {row.finding.state} |" in line, row.finding.reason
        assert f"| {row.finding.action} |" in line, row.finding.reason
    words = {reason for reason in health.reasons() if not reason.startswith("xid_")}
    words |= {"xid_not_watched", "xid_unlisted", *(part.name for part in parts.PARTS), *STATES, *ACTIONS}
    assert [word for word in sorted(words) if f"`{word}`" not in text] == []


def test_transitions_are_counted_and_dated() -> None:
    looks = [Look(0), Look(1, {"remap_pending": 1}), *every(2, 301), Look(302), Look(303, xids=(48,))]
    verdicts = follow(looks)
    changes = [(b.state, b.since - LATER, b.transitions) for a, b in pairwise(verdicts) if a.state != b.state]
    assert (verdicts[0].since, verdicts[0].transitions) == (LATER, 0)
    assert changes == [("degraded", 1.0, 1), ("healthy", 301.0, 2), ("unhealthy", 303.0, 3)]


def test_flapping_readings_do_not_flap_the_state() -> None:
    verdicts = follow([Look(float(at), {"remap_pending": float(at % 2)}) for at in range(1, 600)])
    assert {verdict.transitions for verdict in verdicts} == {0}


def test_a_stale_gap_is_no_clean_time() -> None:
    looks = [*fields(remap_pending=1), *(Look(float(at), sampled=2) for at in range(6, 400)), *every(400, 690)]
    assert follow(looks)[-1].state == "degraded"
    assert follow([*looks, *every(691, 701)])[-1].state == "healthy"


def test_a_missing_signal_is_no_clean_signal() -> None:
    """Each in turn: a finding does not leave while what showed it cannot be read."""
    shows = {"remap_pending": 1.0, "remap_failure": 1.0, "recovery_action": 3.0}
    for name, value in shows.items():
        verdict = follow([*fields(**{name: value}), *every(3, 2000, 3, values={name: NAN})])[-1]
        assert verdict.state in ("degraded", "unhealthy"), name


def test_a_source_that_lags_is_no_reset() -> None:
    """dcgm-exporter's counters are older than NVML's: lower numbers from it mean nothing."""
    looks = [Look(0, xids=(48,)), Look(1), *every(2, 900, 2, source="dcgm", values={"energy": 5.0})]
    assert follow(looks)[-1].state == "unhealthy"


def test_freshness_is_the_caller_s_to_set() -> None:
    looks = [Look(0), Look(14, sampled=0)]
    assert follow(looks)[-1].state == "unknown"
    assert follow(looks, fresh={"nvml": 15.0})[-1].state == "healthy"


INSTANCE = GpuKey("GPU-1", "5")
OF_INSTANCE = ("memory_used",)


@pytest.mark.parametrize(
    ("board", "looks", "state", "capacity"),
    [
        (None, [Look(0, only=OF_INSTANCE)], "unknown", None),
        (None, [Look(0)], "healthy", 1.0),
        (Verdict("healthy", capacity=0.6), [Look(0, only=OF_INSTANCE)], "healthy", 0.6),
        (Verdict("lost", (("gpu_is_lost", "reboot_node"),), capacity=0.0), [Look(0, only=OF_INSTANCE)], "lost", 0.0),
        (Verdict("unknown"), [Look(0, only=OF_INSTANCE)], "unknown", None),
        (Verdict("healthy", capacity=1.0), [Look(0, only=OF_INSTANCE, xids=(94,))], "degraded", 1.0),
        (Verdict("healthy", capacity=1.0), [Look(0, only=())], "unknown", None),
        (Verdict("degraded", capacity=1.0), [Look(0, only=OF_INSTANCE, xids=(48,))], "unhealthy", 0.0),
    ],
)
def test_a_mig_instance_is_no_better_than_its_board(
    board: Verdict | None, looks: list[Look], state: str, capacity: float | None
) -> None:
    verdict = follow(looks, INSTANCE, board=board)[-1]
    assert (verdict.state, verdict.capacity) == (state, capacity)
    if board and state == board.state:
        assert set(board.reasons) <= set(verdict.reasons)


def test_a_mig_instance_does_not_know_what_its_board_does_not() -> None:
    board = Verdict("healthy", capacity=1.0, unknown=("nvlink", "fabric"))
    assert follow([Look(0, only=OF_INSTANCE)], INSTANCE, board=board)[-1].unknown == ("nvlink", "fabric")


NUMBERS = st.one_of(
    st.sampled_from([0.0, 1.0, 2.0, 3.0, 64.0, 3e9, -5.0, 1e15, NAN]),
    st.floats(allow_nan=False, allow_infinity=False, min_value=-1e18, max_value=1e18),
)
SAID = st.builds(
    Said,
    st.sampled_from([13, 31, 48, 63, 79, 92, 94, 149, 154, 172, 999]),
    st.sampled_from(["nvml", "kmsg", "dcgm"]),
    st.sampled_from(["", "", "fatal", "nonfatal"]),
    st.sampled_from([None, 0, 1, 3]),
    st.sampled_from([0.0, 1.0, 40.0, 9000.0]),
    st.booleans(),
)
LOST = ("gpu_is_lost", "gone_from_inventory", "unknown_error")
NAMES = st.sampled_from([signal.name for signal in SIGNALS])
LOOKS = st.lists(
    st.builds(
        Look,
        at=st.just(0.0),
        values=st.dictionaries(NAMES, NUMBERS, max_size=6),
        xids=st.lists(SAID, max_size=3).map(tuple),
        missing=st.dictionaries(NAMES, st.sampled_from(MISSING_REASONS), max_size=3),
        lost=st.sampled_from(["", "", "", *LOST]),
        sampled=st.none(),
        source=st.sampled_from(["nvml", "nvml", "dcgm"]),
        boot=st.sampled_from(["", "x", "x", "y"]),
        pods=st.sampled_from([(), ("a",), ("a", "b")]),
        only=st.none(),
        contained=st.sampled_from([(), (), (94,)]),
        reset=st.sampled_from([False, False, False, True]),
        beside=st.none(),
    ),
    max_size=20,
)
STEPS = st.lists(st.sampled_from([0.0, 0.5, 1.0, 7.0, 400.0]), min_size=20, max_size=20)


def timed(looks: list[Look], steps: list[float]) -> list[Look]:
    at, placed = 0.0, []
    for look, step in zip(looks, steps, strict=False):
        at += step
        placed.append(look._replace(at=at))
    return placed


@given(LOOKS, STEPS)
def test_any_history_gives_a_verdict_that_holds_together(looks: list[Look], steps: list[float]) -> None:
    known = health.reasons()
    for verdict in follow(timed(looks, steps)):
        assert verdict.state in STATES
        assert (verdict.state == "healthy") == (not verdict.reasons)
        assert set(verdict.reasons) <= set(known.items())
        assert set(verdict.unknown) <= {part.name for part in parts.PARTS}
        if verdict.state in ("lost", "unhealthy"):
            assert verdict.capacity == 0.0
        elif verdict.state == "unknown":
            assert verdict.capacity is None
        else:
            assert verdict.capacity is None or 0.0 <= verdict.capacity <= 1.0
        assert LATER <= verdict.since <= LATER + sum(steps)


@given(LOOKS, STEPS)
def test_the_memory_is_the_same_after_a_restart(looks: list[Look], steps: list[float]) -> None:
    for _, memory in remember(timed(looks, steps)):
        assert again(memory) == memory


@given(LOOKS, STEPS, st.lists(st.sampled_from(["nvml", "kmsg", "dcgm"]), unique=True, min_size=2))
def test_more_witnesses_of_the_same_errors_change_nothing(
    looks: list[Look], steps: list[float], sources: list[str]
) -> None:
    """Told by one, or by each in turn in the same look: the verdicts are the same."""
    placed = timed(looks, [step + 0.1 for step in steps])
    one = [
        look._replace(xids=tuple(said._replace(source=sources[0]) for said in look.xids if isinstance(said, Said)))
        for look in placed
    ]
    # Each error once, else the second of one witness may be taken for the first of another.
    one = [look._replace(xids=tuple({(said.code, said.severity): said for said in look.xids}.values())) for look in one]
    several = [
        look._replace(xids=(*look.xids, *(s._replace(source=other) for other in sources[1:] for s in look.xids)))
        for look in one
    ]
    assert [v.reasons for v in follow(one)] == [v.reasons for v in follow(several)]


#: Signals of which more is never better, each alone on a GPU that is well.
WORSE = (
    "remap_pending", "remap_failure", "sram_threshold_exceeded", "ecc_uncorrected", "throttle_hw_thermal",
    "throttle_hw_power_brake", "pcie_replays", "nvlink_recovery_failed_0", "nvlink_recovery_0", "nvlink_replay_1",
    "nvlink_crc_2", "nvlink_receive_3", "retired_pages_sbe",
)  # fmt: skip
BADNESS = ("healthy", "degraded", "unhealthy")


@given(st.sampled_from(WORSE), st.lists(st.integers(0, 3), min_size=3, max_size=30), st.integers(1, 50), st.data())
def test_more_errors_never_make_a_verdict_better(name: str, grown: list[int], factor: int, data: Any) -> None:
    more = data.draw(st.lists(st.integers(0, 3), min_size=len(grown), max_size=len(grown)))

    def states(increments: Iterable[float]) -> list[int]:
        total, looks = 0.0, [Look(0, {**PAGES, name: 0.0})]
        for n, increment in enumerate(increments):
            total += increment * factor
            looks.append(Look(15.0 * (n + 1), {**PAGES, name: total}))
        return [BADNESS.index(verdict.state) for verdict in follow(looks)]

    fewer = states(grown)
    worse = states(a + b for a, b in zip(grown, more, strict=True))
    assert all(a <= b for a, b in zip(fewer, worse, strict=True))


@given(st.floats(0.0, 1.0), st.floats(0.0, 3e9), st.integers(0, 0x1FF))
def test_what_a_throttled_gpu_can_do_is_its_share_of_the_clock(busy: float, clock: float, reasons: int) -> None:
    values = {"utilization": busy, "clock_sm": clock, "clock_sm_max": 2e9, "throttle_reasons": float(reasons)}
    capacity = rules.capacity(values)
    assert capacity is not None
    assert 0.0 <= capacity <= 1.0
    assert capacity == 1.0 or (reasons & rules.HELD_DOWN and not reasons & rules.IDLE)
    slower = rules.capacity({**values, "clock_sm": clock / 2})
    assert slower is not None
    assert slower <= capacity


def test_the_memory_is_bounded() -> None:
    looks = []
    for at in range(3000):
        codes = (31, 13, 63, 48, 94, 149, 79, 1000 + at)
        values = {"nvlink_crc_0": float(at), "pcie_replays": float(at), "temperature_margin": -9.0 * (at % 3)}
        said = tuple(Said(code, ("kmsg", "dcgm")[at % 2]) for code in codes)
        looks.append(Look(3.0 * at, values, said, pods=(f"p{at % 7}",), contained=(94,), reset=at % 100 == 0))
    sizes = [len(msgspec.msgpack.encode(memory)) for _, memory in remember(looks)]
    assert max(sizes[2000:]) <= max(sizes[:2000]) < 20_000


def test_thresholds_have_units_and_sources() -> None:
    rows = tomllib.loads(Path(findings.__file__).with_name("thresholds.toml").read_text())
    assert set(rows) == set(findings.Thresholds.__struct_fields__)
    for name, row in rows.items():
        assert set(row) == {"value", "unit", "source"}, name
        assert row["unit"], name
        assert row["source"], name
    assert THRESHOLDS.witness_seconds == witness.DCGM_SECONDS
    limits = THRESHOLDS.pcie_replays_per_minute_per_lane
    assert len(limits) == 6
    assert list(limits) == sorted(limits)


def test_the_ways_to_be_lost_are_findings_and_no_source_knows_another() -> None:
    assert all(findings.FINDINGS[reason].state == "lost" for reason in LOST)
    assert {unread((), code).lost for code in range(1000)} == {"", "gpu_is_lost", "unknown_error"}
    boards = [GpuInfo(GpuKey(f"GPU-{n}"), str(n), pci_bus_id=str(n), driver_version="1") for n in range(2)]
    stock, seconds = Inventory(), inventory.SETTLE_SECONDS
    for at, there in ((0.0, boards), (1.0, boards[:1]), (1.0 + seconds, boards[:1])):
        samples = [GpuSample(info, "nvml", at, {}) for info in there]
        stock, missing = inventory.take(stock, samples, at, FRESH_SECONDS)
    assert [sample.lost for sample in missing] == ["gone_from_inventory"]


def test_what_is_asked_seldom_has_to_be_read_twice() -> None:
    """A finding that takes two polls and rests on a row of NVML's that is read at a look only must span two looks."""
    seldom = {row.signal for row in BOARD_ROWS if row.slow} - {"clock_sm_application"}  # sets a limit, shows no fault
    rests = {**rules.NEEDS, "nvlink_down": {f"nvlink_up_{link}" for link in range(NVLINKS)}}
    spans = {findings.FINDINGS[reason].span for reason, signals in rests.items()
             if signals & seldom and findings.FINDINGS[reason].polls > 1}  # fmt: skip
    assert spans == {THRESHOLDS.slow_reading_seconds}
    # A second look is a poll late at most, and that poll may be a second long.
    assert THRESHOLDS.slow_reading_seconds >= LOOK_SECONDS + 2.0


def test_the_memory_tells_whether_the_last_look_saw_a_reset() -> None:
    looks = [*onward(0, 2), Look(3, {"energy": 5.0}), Look(4, {"energy": 6.0}), Look(5, reset=True), Look(6)]
    assert [memory.reset for _, memory in remember(looks)] == [False, False, False, True, False, True, False]


def test_throttle_bits_are_those_of_nvml() -> None:
    """nvml.h: nvmlClocksEventReasons and nvmlClocksThrottleReasons."""
    assert pynvml.nvmlClocksEventReasonGpuIdle == rules.IDLE
    hardware = pynvml.nvmlClocksThrottleReasonHwSlowdown | pynvml.nvmlClocksThrottleReasonHwThermalSlowdown
    brake, software = pynvml.nvmlClocksThrottleReasonHwPowerBrakeSlowdown, pynvml.nvmlClocksEventReasonSwThermalSlowdown
    assert hardware | brake | software == rules.THROTTLED
    assert rules.THROTTLED | pynvml.nvmlClocksEventReasonSwPowerCap == rules.HELD_DOWN
    assert 0x1FF & ~software == rules.EXPLAINED


def test_every_rule_and_part_asks_for_signals_that_exist() -> None:
    names = {signal.name for signal in SIGNALS}
    asked = {name for rule in rules.RULES for name in rule.needs}
    asked |= {name for part in parts.PARTS for way in part.ways for name in way}
    asked |= {name for part in parts.PARTS for name in (part.off, part.unless) if name}
    assert asked <= names
    assert all(row.source for row in findings.TABLE)
    assert all(part.why for part in parts.PARTS)


def test_states_and_actions_are_what_others_build_on() -> None:
    assert health.STATES == ("healthy", "degraded", "unhealthy", "lost", "unknown")
    assert sorted(health.WORST_FIRST) == sorted(STATES)
    assert set(ACTIONS) == {
        "none", "restart_app", "drain", "reset_gpu", "reboot_node", "check_cabling", "rma", "contact_support",
    }  # fmt: skip
