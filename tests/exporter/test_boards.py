"""core/boards.py: histories of a whole node's GPUs, each with a restart of the process after every step.

What one GPU's readings mean is in test_health.py; here is what GPUs, instances, witnesses and the kubelet do to each
other.
"""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import msgspec
import pytest
from msgspec.structs import replace

from exporter.core import boards, drift, join
from exporter.core.boards import Boards, BoardsMemory
from exporter.core.inputs import FRESH_SECONDS, LIMITS, NodeInputs
from exporter.core.model import Allocation, GpuInfo, GpuKey, GpuSample, KubeletReading, PodRef, XidEvent
from exporter.core.model_engines import EngineTarget
from tests.exporter.build import sample

START = 10_000.0
A, B = (GpuKey(f"GPU-00000000-0000-0000-0000-{index:012d}") for index in range(2))
PART = GpuKey(A.uuid, "5")
POD = PodRef("ns", "llama-0", "vllm")


def board(index: int = 0, at: float = 0.0, source: str = "nvml", **values: float) -> GpuSample:
    """A board that is well but for these values, read at `at` seconds after the beginning."""
    whole = sample(index, START + at)
    info = replace(whole.info, key=GpuKey(f"GPU-00000000-0000-0000-0000-{index:012d}"))
    return replace(whole, info=info, source=source, values={**whole.values, "energy": 1e6 + at, **values})


def part(at: float, mig_uuid: str = "MIG-a", **values: float) -> GpuSample:
    info = replace(board().info, key=PART, profile="1g.10gb", mig_uuid=mig_uuid)
    return GpuSample(info, "nvml", START + at, {"memory_used": 1e9, "memory_total": 1e10, **values})


def said(at: float, *samples: GpuSample, xids: Iterable[XidEvent] = (), **more: Any) -> tuple[float, NodeInputs]:
    return START + at, NodeInputs("node", samples, tuple(xids), boot="boot-1", **more)


def xid(code: int, at: float, key: GpuKey = A, source: str = "nvml", **more: Any) -> XidEvent:
    return XidEvent(key, code, START + at, source, **more)


def follow(steps: Sequence[tuple[float, NodeInputs]]) -> list[Boards]:
    memory, seen = BoardsMemory(), []
    for now, inputs in steps:
        made, memory = boards.step(memory, inputs, {}, now)
        memory = msgspec.msgpack.decode(msgspec.msgpack.encode(memory), type=BoardsMemory)
        seen.append(made)
    return seen


def last(steps: Sequence[tuple[float, NodeInputs]]) -> Mapping[GpuKey, Any]:
    return follow(steps)[-1].gpus


def state(steps: Sequence[tuple[float, NodeInputs]], key: GpuKey = A) -> tuple[str, tuple[str, ...]]:
    verdict = last(steps)[key].verdict
    return verdict.state, tuple(reason for reason, _ in verdict.reasons)


def seconds(first: int, last: int, step: int = 1) -> range:
    return range(first, last + 1, step)


# A GPU that says nothing, and one that is gone.


def test_a_board_whose_call_hangs_is_unknown_and_never_gone_and_its_latch_stays() -> None:
    hangs = [said(t, board(0, 1), board(1, t)) for t in seconds(2, 60)]
    back = [said(t, board(0, t), board(1, t)) for t in seconds(61, 500, 3)]
    well = [said(0, board(0, 0), board(1, 0)), said(1, board(0, 1), board(1, 1))]
    assert state([*well, *hangs]) == ("unknown", ("stale",))
    assert state([*well, *hangs, *back[:1]]) == ("healthy", ())
    sick = [well[0], said(1, board(0, 1), board(1, 1), xids=[xid(95, 1)])]
    assert state([*sick, *hangs]) == ("unhealthy", ("xid_95", "stale"))
    assert state([*sick, *hangs, *back]) == ("unhealthy", ("xid_95",)), "that a call came back is no reset"


def test_a_board_that_does_not_come_back_after_a_reboot_is_lost() -> None:
    memory = BoardsMemory(inventory=boards.Inventory((board(0).info, board(1).info)))
    for t in seconds(0, 40):
        made, memory = boards.step(memory, said(t, board(1, t))[1], {}, START + t)
    assert made.gpus[A].verdict.state == "lost"
    assert made.gpus[A].verdict.reasons == (("gone_from_inventory", "reboot_node"),)
    assert made.gpus[B].verdict.state == "healthy"


def test_a_board_keeps_its_index_when_another_is_gone() -> None:
    """NVML numbers what is left anew; an engine that was declared on GPU 1 is still on the same one."""
    well = [said(0, board(0, 0), board(1, 0))]
    gone = replace(board(0, 5), values={}, lost="gone_from_inventory")
    left = board(1, 5)
    shifted = replace(left, info=replace(left.info, index="0"))
    (_, after) = follow([*well, said(5, gone, shifted)])
    assert {key: gpu.info.index for key, gpu in after.gpus.items()} == {A: "0", B: "1"}
    for number, key in (("0", A), ("1", B)):
        assert join.gpus_of(EngineTarget("http://10.0.0.9/metrics", gpus=(number,)), after.merged) == (key,)


def test_a_run_that_begins_late_still_knows_what_is_latched() -> None:
    steps = [said(0, board(0)), said(1, board(0, 1), xids=[xid(48, 1)])]
    memory = BoardsMemory()
    for now, inputs in steps:
        _, memory = boards.step(memory, inputs, {}, now)
    hours = 4 * 3600.0
    resumed = boards.resumed(memory, START + hours)
    # The GPU is not identified in the first step.
    _, resumed = boards.step(resumed, said(hours)[1], {}, START + hours)
    made, _ = boards.step(resumed, said(hours, board(0, hours + 1))[1], {}, START + hours + 1)
    assert made.gpus[A].verdict.state == "unhealthy"
    assert made.gpus[A].xids[48].count == 1


# MIG.


def test_what_was_contained_in_an_instance_leaves_its_board_in_use() -> None:
    """Xid 94 names the instance, the count is the board's."""
    steps = [
        said(0, board(), part(0)),
        said(1, board(0, 1, ecc_uncorrected=1.0), part(1), xids=[xid(94, 1, PART)]),
        *(said(t, board(0, t, ecc_uncorrected=1.0), part(t)) for t in seconds(2, 120)),
    ]
    assert state(steps) == ("healthy", ())
    assert state(steps, PART) == ("degraded", ("xid_94",))


def test_the_reset_of_a_board_is_one_of_its_instances() -> None:
    sick = [said(0, board(), part(0)), said(1, board(0, 1), part(1), xids=[xid(109, 1, PART)])]
    assert state(sick, PART) == ("unhealthy", ("xid_109",))
    stays = [said(t, board(0, t), part(t)) for t in seconds(2, 1000, 3)]
    assert state([*sick, *stays], PART) == ("unhealthy", ("xid_109",))
    was_reset = [said(t, board(0, t, energy=10.0 + t), part(t)) for t in seconds(2, 400, 3)]
    assert state([*sick, *was_reset], PART) == ("healthy", ())


@pytest.mark.parametrize("gap", [0, 10], ids=["at once", "after a while"])
def test_an_instance_that_was_made_anew_has_no_past(gap: int) -> None:
    sick = [said(0, board(), part(0)), said(1, board(0, 1), part(1), xids=[xid(109, 1, PART)])]
    without = [said(t, board(0, t)) for t in seconds(2, 1 + gap)]
    anew = [*sick, *without, said(2 + gap, board(0, 2 + gap), part(2 + gap, "MIG-b"))]
    assert state(anew, PART) == ("healthy", ())
    assert last(anew)[PART].xids == {}


# Xids and who tells of them.


def test_a_second_error_counts_and_is_judged_though_another_witness_tells_it() -> None:
    """NVML's registration often does not survive a reset: the first error is told by NVML, the next by the log."""
    slot = board().info.pci_bus_id[:-2]
    steps = [
        said(0, board(), kernel_log=True),
        said(1, board(0, 1), xids=[xid(95, 1)], kernel_log=True),
        *(said(t, board(0, t, energy=t), kernel_log=True) for t in seconds(20, 330)),
        said(331, board(0, 331, energy=331.0), xids=[xid(95, 331, GpuKey(""), "kmsg", pci=slot)], kernel_log=True),
    ]
    assert state(steps[:-1]) == ("healthy", ())
    assert state(steps) == ("unhealthy", ("xid_95",))
    assert last(steps)[A].xids[95].count == 2


def test_one_error_that_three_witnesses_tell_counts_once() -> None:
    slot = board().info.pci_bus_id[:-2]
    steps = [
        said(0, board()),
        said(1, board(0, 1), xids=[xid(79, 1)]),
        said(1.2, board(0, 1), xids=[xid(79, 1.1, GpuKey(""), "kmsg", pci=slot)]),
        said(35, board(0, 35), xids=[xid(79, 35, source="dcgm")]),
    ]
    assert last(steps)[A].xids[79].count == 1


def test_a_page_that_names_another_gpu_in_the_slot_takes_no_xid_from_the_real_one() -> None:
    zombie = GpuSample(replace(board().info, key=GpuKey("GPU-old")), "dcgm", START, {"temperature": 40.0})
    slot = board().info.pci_bus_id[:-2]
    told = [xid(79, 1, GpuKey(""), "kmsg", pci=slot)]
    for samples in ((board(0, 1), zombie), (zombie, board(0, 1))):
        gpus = last([said(1, *samples, xids=told)])
        assert gpus[A].verdict.state == "lost"
        assert gpus[GpuKey("GPU-old")].xids == {}


def test_a_load_of_the_driver_resets_what_nothing_else_could_clear() -> None:
    """A vGPU guest has neither an energy counter nor a recovery action."""

    def guest(at: float) -> GpuSample:
        whole = board(0, at)
        lacks = ("energy", "recovery_action", "ecc_uncorrected", "ecc_corrected")
        return replace(whole, values={name: value for name, value in whole.values.items() if name not in lacks})

    sick = [said(0, guest(0)), said(1, guest(1), xids=[xid(119, 1)])]
    assert state([*sick, *(said(t, guest(t)) for t in seconds(2, 900, 3))])[0] == "unhealthy"
    loaded = [said(t, guest(t), driver_loaded_at=START + 5, kernel_log=True) for t in seconds(6, 400, 3)]
    assert "xid_119" not in state([*sick, *loaded])[1]


def test_the_kernel_log_watches_where_the_driver_tells_no_events() -> None:
    unwatched = board(0, 0, xid_watched=0.0)
    assert "xid" in last([said(0, unwatched)])[A].verdict.unknown
    watched = last([said(0, unwatched, kernel_log=True)])[A]
    assert "xid" not in watched.verdict.unknown
    assert watched.sources["xid_watched"] == "kmsg"


# Pods.


def gave(at: float, *uuids: str) -> KubeletReading:
    return KubeletReading(START + at, tuple(Allocation(POD, "nvidia.com/gpu", uuid) for uuid in uuids), None)


def test_a_kubelet_that_is_silent_is_believed_for_a_while() -> None:
    spoke = gave(0, A.uuid)
    stale = FRESH_SECONDS["kubelet"] + 60
    assert last([said(0, board(), kubelet=spoke)])[A].pods == (POD,)
    assert last([said(stale, board(0, stale), kubelet=spoke)])[A].pods == (POD,)
    over = boards.FORGET_SECONDS + 1
    assert last([said(over, board(0, over), kubelet=spoke)])[A].pods == ()


def test_memory_on_a_gpu_that_no_pod_has_is_a_leak_while_the_kubelet_is_heard() -> None:
    full = {"memory_used": 7e10}
    held = drift.NUMBERS["unowned"].value
    steps = [said(t, board(0, t, **full), kubelet=gave(t)) for t in seconds(0, int(held))]
    assert (last(steps)[A].unowned_memory, last(steps)[A].drift["unowned_memory"]) == (7e10, True)
    taken = [*steps, said(held + 1, board(0, held + 1, **full), kubelet=gave(held + 1, A.uuid))]
    assert (last(taken)[A].unowned_memory, last(taken)[A].drift["unowned_memory"]) == (None, False)
    silent = [*steps, said(held + 60, board(0, held + 60, **full), kubelet=gave(held))]
    assert last(silent)[A].unowned_memory is None
    assert "unowned_memory" not in last(silent)[A].drift


def test_the_numbers_of_the_node() -> None:
    offers = replace(gave(0, A.uuid), allocatable=(("nvidia.com/gpu", A.uuid),))
    (made,) = follow([said(0, board(0), board(1), kubelet=offers)])
    assert made.node_gpus == {"driver": 2, "allocatable": 1, "allocated": 1}
    (alone,) = follow([said(0, board(0), board(1))])
    assert alone.node_gpus == {"driver": 2}


# Pages that harm.


def test_no_page_pushes_out_what_the_driver_tells() -> None:
    junk = [GpuSample(GpuInfo(GpuKey(f"GPU-junk-{n}"), "0"), "dcgm", START, {"temperature": 40.0}) for n in range(600)]
    overflow: dict[str, int] = {}
    inputs = said(0, *junk, *(board(index) for index in range(8)))[1]
    made, _ = boards.step(BoardsMemory(), inputs, overflow, START)
    assert len(made.gpus) == LIMITS["gpu"]
    assert {board(index).info.key for index in range(8)} <= set(made.gpus)
    assert overflow == {"gpu": 608 - LIMITS["gpu"]}


def test_why_something_could_not_be_read_once_says_nothing_of_now() -> None:
    """NVML was silent before the reset; dcgm-exporter reads the GPU after it."""
    refused = GpuSample(board().info, "nvml", START, {}, {"recovery_action": "reset_required"})

    def exported(at: float) -> GpuSample:
        whole = board(0, at, "dcgm")
        return replace(whole, values={name: v for name, v in whole.values.items() if name != "recovery_action"})

    both = [said(t, refused, exported(t)) for t in seconds(0, 900, 5)]
    assert state(both[:1]) == ("unhealthy", ("reset_required",))
    assert state(both)[0] == "healthy"
