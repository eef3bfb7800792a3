"""The verdict: histories of one GPU and what is to be thought of it at their end, each with its source."""

import tomllib
from collections.abc import Iterable, Mapping
from itertools import pairwise
from pathlib import Path
from typing import Any, NamedTuple

import pytest
from hypothesis import given
from hypothesis import strategies as st

from exporter.core import findings, health
from exporter.core.health import ACTIONS, STATES, HealthMemory, judge
from exporter.core.join import merge
from exporter.core.model import GpuInfo, GpuKey, GpuSample, PodRef, Verdict, XidEvent

BOARD = GpuKey("GPU-1")
LATER = 10_000.0  # when the histories begin
WELL = {
    "temperature": 60.0, "utilization": 0.5, "memory_used": 7e10, "power": 400.0,
    "clock_sm": 1980e6, "clock_sm_max": 1980e6, "throttle_reasons": 0.0, "energy": 1e6,
    "throttle_hw_thermal": 0.0, "throttle_hw_power_brake": 0.0,
    "ecc_corrected": 0.0, "ecc_uncorrected": 0.0, "remap_pending": 0.0, "remap_failure": 0.0, "recovery_action": 0.0,
}  # fmt: skip
#: What dcgm-exporter's default set has of the above.
DCGM_DEFAULT = ("temperature", "utilization", "memory_used", "power", "clock_sm", "energy", "remap_failure")


class Look(NamedTuple):
    """One look at the GPU, `at` seconds after the beginning."""

    at: float
    values: Mapping[str, float] = {}  # over WELL; a value of nan is left out
    xids: tuple[int, ...] = ()
    missing: Mapping[str, str] = {}
    lost: str = ""
    pods: tuple[str, ...] = ("a",)
    sampled: float | None = None  # when the sample was taken, if not now
    source: str = "nvml"
    only: tuple[str, ...] | None = None  # the signals that the source has; None: all


NAN = float("nan")


def sample(look: Look, key: GpuKey = BOARD) -> GpuSample:
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
        look.missing,
        look.lost,
        tuple(PodRef("ns", pod) for pod in look.pods),
    )


def follow(looks: Iterable[Look], key: GpuKey = BOARD, **more: Any) -> list[Verdict]:
    memory: HealthMemory | None = None
    verdicts = []
    for look in looks:
        now = LATER + look.at
        events = [XidEvent(key, code, now, look.source) for code in look.xids]
        (merged,) = merge([sample(look, key)], now)
        verdict, memory = judge(memory, merged, events, now, **more)
        verdicts.append(verdict)
    return verdicts


def every(first: int, last: int, step: int = 1, **look: Any) -> list[Look]:
    return [Look(float(at), **look) for at in range(first, last + 1, step)]


def hot(first: int, last: int, share: float, name: str = "throttle_hw_thermal", step: int = 1) -> list[Look]:
    """The slowdown's counter of seconds grows by this share of the time."""
    return [Look(float(at), {name: share * (at - first)}) for at in range(first, last + 1, step)]


def fields(**values: float) -> list[Look]:
    """Two polls that show these values."""
    return [Look(0), Look(1, values), Look(2, values)]


BUSY = {"utilization": 0.95}
SLOW = {"clock_sm": 1000e6}


class Row(NamedTuple):
    name: str
    source: str
    looks: list[Look]
    state: str
    reasons: tuple[str, ...] = ()  # in their order; () is none
    capacity: float | None = 1.0


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
    Row("ECC is not supported, says NVML: a consumer GPU", "NVML NOT_SUPPORTED",
        [Look(0, missing={"ecc_uncorrected": "not_supported"})], "healthy"),
    Row("corrected errors are no fault", "NVIDIA: Xid 92 IGNORE", fields(ecc_corrected=1000), "healthy"),
    # Unknown.
    Row("dcgm-exporter's default set cannot vouch for a GPU", "dcgm-exporter default-counters.csv",
        [Look(0, source="dcgm", only=DCGM_DEFAULT)], "unknown",
        ("ecc_not_read", "recovery_action_not_read", "throttling_not_read"), None),
    Row("dcgm-exporter with the ECC counter can", FACTS,
        [Look(0, source="dcgm", only=(*DCGM_DEFAULT, "ecc_uncorrected"))], "healthy"),
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
    *(Row(f"Xid {code} latches", "xid.tsv: critical", [Look(0, xids=(code,)), *every(1, 4000, 60)], "unhealthy",
          (f"xid_{code}",), 0.0) for code in (46, 48, 62, 64, 74, 95, 119, 120, 140, 158, 167)),
    Row("an Xid latch ends with the reset", FACTS,
        [Look(0, xids=(48,)), *every(1, 500), *every(501, 801, values={"energy": 5.0})], "healthy"),
    Row("and not before five clean minutes", FACTS,
        [Look(0, xids=(48,)), *every(1, 500), *every(501, 799, values={"energy": 5.0})], "unhealthy", ("xid_48",), 0.0),
    Row("or when the driver withdraws its action", FACTS,
        [Look(0), Look(1, {"recovery_action": 1}, (48,)), Look(2, {"recovery_action": 1}), *every(3, 303)], "healthy"),
    Row("remap failure: replace the board", "NVIDIA RMA policy", fields(remap_failure=1), "unhealthy",
        ("row_remap_failure",), 0.0),
    Row("NVML error 16", "NVML RESET_REQUIRED", [Look(0), Look(1, missing={"power": "reset_required"})], "unhealthy",
        ("reset_required",), 0.0),
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
    Row("Xid 94 counts for an hour", FACTS, [Look(0, xids=(94,)), *every(1, 3599, 2)], "degraded", ("xid_94",)),
    Row("and no longer", FACTS, [Look(0, xids=(94,)), *every(1, 3601, 2)], "healthy"),
    Row("an Xid that no table knows", "Plimsoll: not harmless", [Look(0, xids=(999,))], "degraded", ("xid_unlisted",)),
    Row("an Xid of class info is no fault", "NVIDIA: IGNORE", [Look(0, xids=(92, 154))], "healthy"),
    Row("HW thermal slowdown in a fifth of 5 min", "gpud: HW slowdown, 6 of 10 min", hot(0, 301, 0.21), "degraded",
        ("hw_thermal_slowdown",)),
    Row("HW thermal slowdown in less", FACTS, hot(0, 2000, 0.19), "healthy"),
    Row("a counter that jumps is no time", FACTS,
        [Look(0), Look(1, {"throttle_hw_thermal": 1e6}), *every(2, 9, values={"throttle_hw_thermal": 1e6})], "healthy"),
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
]  # fmt: skip


@pytest.mark.parametrize("row", ROWS, ids=lambda row: row.name)
def test_histories(row: Row) -> None:
    verdict = follow(row.looks)[-1]
    assert (verdict.state, tuple(reason for reason, _ in verdict.reasons)) == (row.state, row.reasons)
    assert verdict.capacity == row.capacity
    assert row.source


def test_every_reason_has_an_action_that_exists() -> None:
    pairs = {pair for row in ROWS for verdict in follow(row.looks) for pair in verdict.reasons}
    assert {action for _, action in pairs} <= set(ACTIONS)
    assert dict(pairs)["row_remap_failure"] == "rma"
    assert dict(pairs)["hw_power_brake"] == "check_cabling"
    assert dict(pairs)["xid_94"] == "restart_app"


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
        (None, [Look(0, only=OF_INSTANCE)], "healthy", 1.0),
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


LOOKS = st.lists(
    st.builds(
        Look,
        at=st.just(0.0),
        values=st.dictionaries(st.sampled_from(sorted(WELL)), st.sampled_from([0.0, 1.0, 64.0, 3e9, NAN]), max_size=5),
        xids=st.lists(st.sampled_from([13, 31, 48, 63, 79, 92, 94, 999]), max_size=2).map(tuple),
        missing=st.dictionaries(
            st.sampled_from(sorted(WELL)), st.sampled_from(["not_supported", "reset_required", "blank"]), max_size=2
        ),
        lost=st.sampled_from(["", "", "", "gpu_is_lost"]),
        sampled=st.none(),
    ),
    max_size=30,
)


@given(LOOKS, st.lists(st.sampled_from([0.0, 0.5, 1.0, 7.0, 400.0]), min_size=30, max_size=30))
def test_any_history_gives_a_verdict_that_holds_together(looks: list[Look], steps: list[float]) -> None:
    at = 0.0
    timed = []
    for look, step in zip(looks, steps, strict=False):
        at += step
        timed.append(look._replace(at=at))
    for verdict in follow(timed):
        assert verdict.state in STATES
        assert (verdict.state == "healthy") == (not verdict.reasons)
        assert {action for _, action in verdict.reasons} <= set(ACTIONS)
        if verdict.state in ("lost", "unhealthy"):
            assert verdict.capacity == 0.0
        elif verdict.state == "unknown":
            assert verdict.capacity is None
        else:
            assert verdict.capacity is None or 0.0 <= verdict.capacity <= 1.0
        assert LATER <= verdict.since <= LATER + at


def test_the_memory_is_bounded() -> None:
    looks = [Look(3.0 * at, xids=(31, 13, 63, 48), pods=(f"p{at % 7}",)) for at in range(2000)]
    memory = None
    for look in looks:
        now = LATER + look.at
        (merged,) = merge([sample(look)], now)
        _, memory = judge(memory, merged, [XidEvent(BOARD, code, now, "nvml") for code in look.xids], now)
    assert memory is not None
    assert len(memory.history.episodes) <= 64
    assert all(len(track.buckets) <= 22 for track in memory.history.slowdowns.values())
    assert len(memory.conditions) < 10


def test_thresholds_have_units_and_sources() -> None:
    rows = tomllib.loads(Path(findings.__file__).with_name("thresholds.toml").read_text())
    assert set(rows) == set(findings.Thresholds.__struct_fields__)
    for name, row in rows.items():
        assert set(row) == {"value", "unit", "source"}, name
        assert row["unit"], name
        assert row["source"], name


def test_states_and_actions_are_what_others_build_on() -> None:
    assert health.STATES == ("healthy", "degraded", "unhealthy", "lost", "unknown")
    assert set(health.ACTIONS) == {
        "none", "restart_app", "drain", "reset_gpu", "reboot_node", "check_cabling", "rma", "contact_support",
    }  # fmt: skip
