"""Histories of Xids and the verdict at their end: who tells them, which of them are over, whose fault they are.

What a single code means is in test_health.py and test_xid.py. Histories are followed as there: through the witnesses,
and with a restart of the process after each look.
"""

from typing import NamedTuple

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from exporter.core import containment, history
from exporter.core.containment import CONTAINED, Containment, Told, weigh
from exporter.core.findings import THRESHOLDS
from exporter.core.health import judge
from exporter.core.history import History
from exporter.core.join import merge
from exporter.core.model import GpuKey, PodRef, Verdict, XidEvent
from tests.exporter.test_health import BOARD, LATER, Look, Said, again, blanked, every, follow, in_mig, sample

NO_ACTION = blanked("recovery_action")


def late(code: int, ago: float = 3600.0, severity: str = "") -> Said:
    """As the kernel's log tells what was there before anybody looked."""
    return Said(code, "kmsg", severity, ago=ago, replayed=True)


def told(code: int, severity: str = "") -> Said:
    return Said(code, "kmsg", severity)


def with_energy(joules: float) -> dict[str, float]:
    return blanked("recovery_action", energy=joules)


class Row(NamedTuple):
    name: str
    looks: list[Look]
    state: str
    reasons: tuple[str, ...] = ()


RESET = {"energy": 5.0}
CONTAINED_IN_INSTANCE = in_mig(1, 4.0)._replace(contained=(CONTAINED,))
ROWS = [
    # Who told it first is said by the witnesses alone.
    Row("an Xid after the reset is another one, though only another witness tells it",
        [Look(0), Look(1, xids=(95,)), *every(2, 20), *every(21, 50, values=RESET),
         Look(60, RESET, (told(95),)), *every(61, 700, 5, values=RESET)], "unhealthy", ("xid_95",)),
    Row("two errors in a minute, each told by another witness, are two: the first one's reset ends not the second",
        [Look(0, xids=(74,)), *every(1, 30), Look(31, RESET), Look(40, RESET, (told(74),)),
         *every(41, 400, 5, values=RESET)], "unhealthy", ("xid_74",)),
    Row("dcgm-exporter tells within its lag what a reset has ended",
        [Look(0, xids=(74,)), *every(1, 30), Look(31, RESET), Look(40, RESET, (Said(74, "dcgm"),)),
         *every(41, 400, 5, values=RESET)], "healthy"),
    Row("a second telling knows that it was fatal", [Look(0, xids=(149,)), Look(1, xids=(told(149, "fatal"),))],
        "unhealthy", ("xid_149_fatal", "xid_149")),
    Row("a second telling does not know that it was fatal",
        [Look(0, xids=(told(149, "fatal"),)), Look(1, xids=(149,))], "unhealthy", ("xid_149_fatal",)),
    Row("a second telling knows what the driver wants",
        [Look(0, NO_ACTION, (154,)), Look(1, NO_ACTION, (Said(154, "kmsg", recovery=2),))], "unhealthy",
        ("recovery_reboot_node",)),
    Row("what is nothing is fatal where the driver says so", [Look(0, xids=(told(148, "fatal"),))], "unhealthy",
        ("xid_148_fatal",)),
    # Replayed and live.
    Row("a log that is opened late tells again what came live, and the driver wants nothing",
        [Look(0, xids=(95,)), Look(4, xids=(late(95, ago=4),))], "unhealthy", ("xid_95",)),
    Row("and of an earlier one, which is over",
        [Look(0, xids=(95,)), Look(30, xids=(late(95),))], "unhealthy", ("xid_95",)),
    Row("nor does an earlier one count again after the reset",
        [Look(0, xids=(95,)), *every(1, 20), Look(21, RESET), Look(30, RESET, (late(95),)),
         *every(31, 400, 5, values=RESET)], "healthy"),
    Row("the log calls it replayed, and the driver's event says that it is not",
        [Look(0, xids=(late(95, ago=1),)), Look(2, xids=(95,))], "unhealthy", ("xid_95",)),
    Row("dcgm-exporter's gauge is late, and says no such thing",
        [Look(0, xids=(late(95, ago=20),)), Look(2, xids=(Said(95, "dcgm"),))], "healthy"),
    # Replayed and over, by the energy counter.
    Row("replayed, and the board has used less since than an idle one would",
        [Look(0, with_energy(17_000), (late(95),))], "healthy"),
    Row("replayed, and it has used that and more", [Look(0, with_energy(19_000), (late(95),))], "unhealthy",
        ("xid_95",)),
    Row("it becomes known later",
        [Look(0, with_energy(float("nan")), (late(95),)), Look(1, with_energy(17_000))], "healthy"),
    Row("the newest one decides", [Look(0, with_energy(17_000), (late(95), late(95, ago=100)))], "unhealthy",
        ("xid_95",)),
    Row("a replayed memory error", [Look(0, with_energy(9_000), (late(48),)), Look(200, with_energy(9e4))], "healthy"),
    Row("a replayed degraded one, which counts whatever the driver wants",
        [Look(0, with_energy(4_000), (late(63, ago=1000),))], "healthy"),
    Row("a replayed degraded one of a board that was not reset", [Look(0, xids=(late(63, ago=1000),))], "degraded",
        ("xid_63",)),
    Row("what the driver wanted before the reset",
        [Look(0, with_energy(17_000), (Said(154, "kmsg", recovery=1, ago=3600, replayed=True),))], "healthy"),
    Row("what the driver wants and no reset has ended",
        [Look(0, with_energy(1e6), (Said(154, "kmsg", recovery=1, ago=3600, replayed=True),))], "unhealthy",
        ("recovery_reset",)),
    Row("a live one is not over however little was used", [Look(0, with_energy(0.0), (95,)),
        *every(1, 400, 5, values=with_energy(0.0))], "unhealthy", ("xid_95",)),
    Row("a lost GPU's last reading says nothing", [Look(0, with_energy(1.0), (late(79),), lost="gpu_is_lost")], "lost",
        ("gpu_is_lost", "xid_79")),
    Row("dcgm-exporter's counter is older than it looks",
        [Look(0, with_energy(1_000), (late(95, ago=250),), source="dcgm")], "unhealthy", ("xid_95",)),
    Row("but not by much", [Look(0, with_energy(1_000), (late(95, ago=350),), source="dcgm")], "healthy"),
    # MIG: the instance's Xid 94 and what the board counts.
    Row("an Xid 94 of an instance explains the count of its board, and is no finding there",
        [in_mig(0, 3.0), CONTAINED_IN_INSTANCE, *(in_mig(at, 4.0) for at in range(2, 60))], "healthy"),
    Row("it explains the board's Xid 48 as well",
        [in_mig(0, 3.0), CONTAINED_IN_INSTANCE._replace(xids=(48, 171)), *(in_mig(at, 4.0) for at in range(2, 60))],
        "healthy"),
    Row("also when it comes a little later",
        [in_mig(0, 3.0), in_mig(1, 4.0, (48,)), CONTAINED_IN_INSTANCE._replace(at=4.0),
         *(in_mig(at, 4.0) for at in range(5, 60))], "healthy"),
    Row("not those of an hour later", [in_mig(0, 3.0), CONTAINED_IN_INSTANCE, in_mig(3600, 4.0, (48,))], "unhealthy",
        ("xid_48",)),
    Row("nor what Xid 95 calls uncontained",
        [in_mig(0, 3.0), CONTAINED_IN_INSTANCE._replace(xids=(48, 95)), *(in_mig(at, 4.0) for at in range(2, 60))],
        "unhealthy", ("xid_95",)),
]  # fmt: skip


@pytest.mark.parametrize("row", ROWS, ids=lambda row: row.name)
def test_histories_of_xids(row: Row) -> None:
    verdict = follow(row.looks)[-1]
    assert (verdict.state, tuple(reason for reason, _ in verdict.reasons)) == (row.state, row.reasons)


@given(st.floats(10.0, 1e5), st.floats(9.0, 700.0), st.floats(0.0, 1e5), st.sampled_from(["nvml", "dcgm"]))
def test_no_board_that_goes_on_is_taken_for_reset(ago: float, watts: float, before: float, source: str) -> None:
    """The driver was loaded before the Xid, and the board has used at least what an idle one does since."""
    lag = 30.0 if source == "dcgm" else 0.0
    joules = max(0.0, watts * (before + ago - lag))
    looks = [Look(0, with_energy(joules), (late(95, ago=ago),), source=source)]
    assert follow(looks)[-1].state == "unhealthy"


# Containment alone: several Xids 94, of the board and of its instances.


def test_an_earlier_xid_94_explains_what_is_told_after_a_later_one() -> None:
    """Two instances had one each; the first one's count is read last."""
    _, _, memory = weigh(Containment(), [Told(0.0, "nvml"), Told(30.0, "nvml")], [], "ecc", 30.0)
    counts, back, memory = weigh(memory, [], [("ecc", Told(5.0, "nvml"))], "ecc", 31.0)
    assert (counts, back, memory.pending) == (set(), {"ecc"}, {})


def test_what_another_witness_told_before_explains_nothing_more() -> None:
    instance = GpuKey("GPU-1", "5")
    first = XidEvent(instance, CONTAINED, 1.0, "nvml")
    events = [first, XidEvent(instance, CONTAINED, 60.0, "dcgm", again=True), XidEvent(instance, 13, 2.0, "nvml")]
    assert containment.contained(events) == [Told(1.0, "nvml")]


@given(st.lists(st.floats(0.0, 1e5), max_size=60).map(sorted))
def test_how_many_xids_94_are_remembered_is_bounded(times: list[float]) -> None:
    memory = Containment()
    for at in times:
        _, _, memory = weigh(memory, [Told(at, "dcgm")], [], "ecc", at)
        assert len(memory.contained) <= 16
        assert all(at - one.at <= 2 * THRESHOLDS.witness_seconds for one in memory.contained)
    assert msgspec.msgpack.decode(msgspec.msgpack.encode(memory), type=Containment) == memory


def test_a_look_takes_the_instances_xids_94_for_its_board_s_errors_and_for_nothing_else() -> None:
    seen, past = set[str](), History()
    inside = XidEvent(GpuKey("GPU-1", "5"), CONTAINED, LATER + 1.05, "kmsg")
    for at, xids, contained in ((0.0, (), ()), (1.0, (48,), (inside,)), (40.0, (), ())):
        (merged,) = merge([sample(Look(at, {"ecc_uncorrected": float(at > 0)}))], LATER + at)
        values = {name: reading.value for name, reading in merged.readings.items()}
        events = [XidEvent(BOARD, code, LATER + at, "kmsg") for code in xids]
        found, _, past = history.look(past, merged, values, events, LATER + at, contained=contained)
        seen |= {finding.reason for finding in found.found}
    assert seen == set()


# Application Xids: the GPU's fault, or a pod's.


def pods(*names: str) -> tuple[PodRef, ...]:
    """namespace/pod/container"""
    return tuple(PodRef(*name.split("/")) for name in names)


def episodes(*on_it: tuple[PodRef, ...], code: int = 31) -> Verdict:
    """The verdict after an application Xid under these pods each, 1000 s apart."""
    memory = None
    for n, holders in enumerate(on_it):
        at = LATER + 1000.0 * n
        taken = msgspec.structs.replace(sample(Look(1000.0 * n)), pods=holders)
        (merged,) = merge([taken], at)
        verdict, memory = judge(memory, merged, [XidEvent(BOARD, code, at, "nvml")], at)
        memory = again(memory)
    return verdict


A, B, C = pods("ns/a/main"), pods("ns/b/main"), pods("ns/c/main")
LLAMA = "llama-7c9d5f8b6-"
OF_THE_PODS = [
    ("other pods each time", [A, B, C], True),
    ("one pod, then another for long", [A, B, B], True),
    ("one of many namespaces", [pods("x/a/main"), pods("y/a/main"), pods("x/a/main")], True),
    ("two episodes", [A, B], False),
    ("one pod", [A, A, A, A], False),
    ("time slices: the same three tenants", [(*A, *B, *C)] * 5, False),
    ("time slices: the one that stays", [(*A, *B), (*A, *C), A, (*A, *B, *C)], False),
    ("time slices: nobody stays", [(*A, *B), (*B, *C), (*C, *A), pods("ns/d/main")], True),
    ("two containers of a pod", [pods("ns/a/main"), pods("ns/a/side"), pods("ns/a/main")], False),
    ("its container known and not", [pods("ns/a/main"), pods("ns/a"), pods("ns/a")], False),
    ("one Deployment's pods", [pods(f"ns/{LLAMA}x2k4m"), pods(f"ns/{LLAMA}9vwqz"), pods(f"ns/{LLAMA}bcdfg")], False),
    ("and of its next revision", [pods(f"ns/{LLAMA}x2k4m"), pods("ns/llama-59fdbc4b7c-9vwqz"), A], True),
    ("that alone", [pods(f"ns/{LLAMA}x2k4m"), pods("ns/llama-59fdbc4b7c-9vwqz"), pods(f"ns/{LLAMA}x2k4m")], False),
    ("two Deployments", [pods(f"ns/{LLAMA}x2k4m"), pods("ns/qwen-7c9d5f8b6-x2k4m"), pods(f"ns/{LLAMA}x2k4m")], True),
    ("a StatefulSet's pods", [pods("ns/llama-0"), pods("ns/llama-1"), pods("ns/llama-0")], True),
    ("its one pod made anew", [pods("ns/llama-0")] * 4, False),
    ("a name that looks like a hash", [pods("ns/run-2024a001-first"), pods("ns/run-2024a001-other"), A], True),
    ("pods that nobody knows", [(), A, (), A, ()], False),
    ("a pod without a name", [pods("//"), A, pods("//"), A], False),
]


@pytest.mark.parametrize(("on_it", "is_the_gpu"), [row[1:] for row in OF_THE_PODS], ids=[row[0] for row in OF_THE_PODS])
def test_a_fault_that_follows_a_pod_is_the_pod_s(on_it: list[tuple[PodRef, ...]], is_the_gpu: bool) -> None:
    reasons = [reason for reason, _ in episodes(*on_it).reasons]
    assert reasons == (["application_xids_repeated"] if is_the_gpu else [])


NAMES = st.lists(st.sampled_from(["a", "b", "c", "d"]), min_size=1, max_size=3, unique=True)


@given(st.lists(NAMES, max_size=8), st.sampled_from(["bad", "bad-7c9d5f8b6-x2k4m"]))
def test_one_bad_pod_never_blames_the_gpu_whoever_is_beside_it(others: list[list[str]], bad: str) -> None:
    on_it = [pods(f"ns/{bad}", *(f"ns/{name}" for name in beside)) for beside in others]
    assert not on_it or episodes(*on_it).state == "healthy"


def test_a_late_telling_begins_no_episode_but_its_pods_were_there() -> None:
    """dcgm-exporter tells of it when the next pod has the GPU: which of the two it was cannot be known."""
    looks = [
        Look(0, xids=(31,)), Look(60, xids=(Said(31, "dcgm"),), pods=("b",)),
        Look(1000, xids=(31,), pods=("b",)), Look(1200, pods=("b",)),
        Look(2000, xids=(31,)),
    ]  # fmt: skip
    assert follow(looks)[-1].state == "degraded"  # the last two have no pod in common
    assert follow(looks[:-1])[-1].state == "healthy"
    joined = [*looks[:-1], Look(2000, xids=(31,), pods=("b",))]
    assert follow(joined)[-1].state == "healthy"  # b was there each time
    assert follow([look for look in joined if look.at != 60])[-1].state == "degraded"
