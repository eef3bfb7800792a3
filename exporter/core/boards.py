"""One step of a node's GPUs: samples, Xids, the kubelet's word and the standard become judged GPUs.

May not be in here: judging (health.py), whose a device is (devices.py), what counts as drift (drift.py), which GPU an
Xid is of (xid_places.py) and who told it first (witness.py), engines (node.py), I/O, clocks.
"""

from collections.abc import Mapping, Sequence
from typing import NamedTuple

from msgspec import Struct
from msgspec.structs import replace

from exporter.core import devices, drift, health, inventory, join, witness, xid_places
from exporter.core.health import HealthMemory
from exporter.core.inputs import LIMITS, NodeInputs, count, first
from exporter.core.inventory import Inventory
from exporter.core.join import MergedGpu, is_fresh
from exporter.core.model import Gpu, GpuKey, GpuReading, KubeletReading, XidEvent, XidSeen

#: Seconds after which a GPU that no source tells of is forgotten, with its latches and counts: after a restart of this
#: program the GPUs come one after the other. And for which a kubelet that is silent is believed: while it is down no
#: device changes hands, and an engine on a dead GPU must not come back to life because of it.
FORGET_SECONDS = 600.0
#: GPUs remembered; those that were not seen for the longest time give way. A page of random UUIDs cannot fill memory.
MAX_KNOWN = 2 * LIMITS["gpu"]


class KnownGpu(Struct, frozen=True):
    """What is remembered of one GPU."""

    health: HealthMemory
    xids: Mapping[int, XidSeen]
    unowned: drift.Since = drift.Since()
    seen: float = 0.0  # when a source told of it last
    mig_uuid: str = ""


class BoardsMemory(Struct, frozen=True):
    """All that a step leaves to the next one, and a process to the one that follows it (state.py)."""

    known: Mapping[GpuKey, KnownGpu] = {}
    inventory: Inventory = Inventory()
    witnesses: witness.Witnesses = witness.Witnesses()
    unplaced: tuple[XidEvent, ...] = ()  # Xids of GPUs that no source has shown yet
    mismatch: drift.Mismatch = drift.Mismatch()
    driver_loaded_at: float | None = None  # the last load of the driver that was taken note of


class Boards(NamedTuple):
    merged: Sequence[MergedGpu]
    gpus: Mapping[GpuKey, Gpu]
    node_gpus: Mapping[str, int]
    node_drift: Mapping[str, bool]


class _Around(NamedTuple):
    """What a GPU is judged by, beside its own readings."""

    inputs: NodeInputs
    holdings: Mapping[GpuKey, devices.Holding] | None  # None: the kubelet was not heard for long
    heard: bool  # the kubelet's word is fresh
    tellings: Mapping[GpuKey, Sequence[XidEvent]]
    counted: Mapping[GpuKey, Sequence[XidEvent]]
    driver_loaded: bool  # since the last step


def resumed(memory: BoardsMemory, now: float) -> BoardsMemory:
    """What an earlier run left, for a run that begins at `now`: however long nobody looked, no GPU is forgotten yet."""
    return replace(memory, known={key: replace(one, seen=now) for key, one in memory.known.items()})


def step(memory: BoardsMemory, inputs: NodeInputs, overflow: dict[str, int], now: float) -> tuple[Boards, BoardsMemory]:
    """The GPUs at `now` (monotonic seconds) and the memory for the next step. overflow: kind -> left out; added to."""
    stock, missing = inventory.take(memory.inventory, inputs.samples, now, inputs.fresh)
    merged = _published(join.merge((*inputs.samples, *missing), now, inputs.fresh), overflow)
    reading = inputs.kubelet if inputs.kubelet and now - inputs.kubelet.at <= FORGET_SECONDS else None
    heard = reading is not None and is_fresh(reading.at, "kubelet", now, inputs.fresh)
    holdings = devices.assign(reading, [gpu.info for gpu in merged]) if reading else None
    numbers = {info.key.uuid: info.index for info in stock.boards}
    merged = [_watched(_held(_numbered(gpu, numbers), holdings), inputs, now) for gpu in merged]

    events, unplaced = xid_places.resolve((*memory.unplaced, *inputs.xids), merged)
    counted, judged, witnesses = witness.sift(memory.witnesses, events)
    keys = {gpu.info.key for gpu in merged}
    loaded_at = inputs.driver_loaded_at
    driver_loaded = loaded_at is not None and loaded_at != memory.driver_loaded_at
    if loaded_at is not None and driver_loaded:
        judged = [event for event in judged if event.at >= loaded_at]  # what was before is void
    around = _Around(
        inputs=inputs,
        holdings=holdings,
        heard=heard,
        tellings=xid_places.place(judged, keys),
        counted=xid_places.place(counted, keys),
        driver_loaded=driver_loaded,
    )
    gpus: dict[GpuKey, Gpu] = {}
    known = _remembered(memory.known, merged, inputs, now)
    # Boards first: the verdict on a MIG instance asks for its board's.
    for gpu in sorted(merged, key=lambda gpu: bool(gpu.info.key.instance)):
        key, board = gpu.info.key, GpuKey(gpu.info.key.uuid)
        is_part = key.instance and board in gpus
        gpus[key], known[key] = _judged(
            gpu,
            known.get(key),
            gpus[board] if is_part else None,
            around.driver_loaded or (bool(is_part) and known[board].health.reset),
            around,
            overflow,
            now,
        )
    if len(known) > MAX_KNOWN:
        known = dict(sorted(known.items(), key=lambda item: item[1].seen)[-MAX_KNOWN:])
    counts = _numbers(merged, reading if heard else None)
    mismatch = drift.mismatch(memory.mismatch, reading if heard else None, counts.get("driver"), now)
    boards = Boards(merged, gpus, counts, drift.of_node(mismatch, now))
    return boards, BoardsMemory(known, stock, witnesses, unplaced, mismatch, loaded_at)


def _published(merged: Sequence[MergedGpu], overflow: dict[str, int]) -> Sequence[MergedGpu]:
    """As many as LIMITS allows, in their order: those that the most trusted source tells of come before any page's."""
    count(len(merged), "gpu", overflow)
    if len(merged) <= LIMITS["gpu"]:
        return merged
    kept = {gpu.info.key for gpu in sorted(merged, key=lambda gpu: gpu.rank)[: LIMITS["gpu"]]}
    return [gpu for gpu in merged if gpu.info.key in kept]


def _remembered(
    known: Mapping[GpuKey, KnownGpu], merged: Sequence[MergedGpu], inputs: NodeInputs, now: float
) -> dict[GpuKey, KnownGpu]:
    """Without what is over: GPUs that were not seen for long, and MIG instances that their board has no more."""
    there = {gpu.info.key: gpu.info for gpu in merged}
    whole = {gpu.info.key.uuid for gpu in merged if gpu.rank == 0 and not gpu.lost and not gpu.info.key.instance}

    def over(key: GpuKey, one: KnownGpu) -> bool:
        if key.instance and key.uuid in whole:
            info = there.get(key)
            return info is None or bool(one.mig_uuid and info.mig_uuid and one.mig_uuid != info.mig_uuid)
        return now - one.seen > FORGET_SECONDS

    return {key: one for key, one in known.items() if not over(key, one)}


def _numbered(gpu: MergedGpu, numbers: Mapping[str, str]) -> MergedGpu:
    """The GPU with its index of the inventory.

    Once one is gone the driver numbers the others anew; whoever was told "GPU 1" goes on meaning the same one.
    """
    index = numbers.get(gpu.info.key.uuid)
    return gpu if index is None or index == gpu.info.index else replace(gpu, info=replace(gpu.info, index=index))


def _held(gpu: MergedGpu, holdings: Mapping[GpuKey, devices.Holding] | None) -> MergedGpu:
    """The GPU with whoever has it, by the kubelet if it was heard, else by what the sources saw on it."""
    if holdings is not None:
        holding = holdings.get(gpu.info.key, devices.NOBODY)
        return replace(gpu, pods=holding.pods, shared=holding.shared if holding.pods else None)
    return replace(gpu, shared=True) if len(gpu.pods) > 1 else gpu


def _watched(gpu: MergedGpu, inputs: NodeInputs, now: float) -> MergedGpu:
    """The kernel log tells of every board's Xids, whatever the driver's event set does."""
    told = gpu.readings.get("xid_watched")
    told_already = told is not None and told.value > 0 and is_fresh(told.at, told.source, now, inputs.fresh)
    if not inputs.kernel_log or gpu.info.key.instance or not gpu.info.pci_bus_id or told_already:
        return gpu
    readings = {**gpu.readings, "xid_watched": GpuReading(1.0, now, "kmsg")}
    return replace(gpu, readings=readings, sources={**gpu.sources, "xid_watched": "kmsg"})


def _judged(
    gpu: MergedGpu,
    before: KnownGpu | None,
    board: Gpu | None,
    reset: bool,
    around: _Around,
    overflow: dict[str, int],
    now: float,
) -> tuple[Gpu, KnownGpu]:
    """One GPU and what is remembered of it. board: of a MIG instance. reset: it is known to have been reset."""
    inputs, key = around.inputs, gpu.info.key
    parts = () if key.instance else (other for other in around.tellings if other.uuid == key.uuid and other.instance)
    verdict, remembered = health.judge(
        before.health if before else None,
        gpu,
        around.tellings.get(key, ()),
        now,
        inputs.fresh,
        board.verdict if board else None,
        inputs.boot,
        # What was contained in an instance explains what its board counted.
        contained=[event for part in parts for event in around.tellings[part]],
        reset=reset,
    )
    values = {
        name: reading.value
        for name in drift.SIGNALS
        if (reading := gpu.readings.get(name)) and is_fresh(reading.at, reading.source, now, inputs.fresh)
    }
    holding = around.holdings.get(key, devices.NOBODY) if around.heard and around.holdings is not None else None
    unowned, since = drift.unowned_memory(before.unowned if before else drift.Since(), gpu.info, values, holding, now)
    xids = xid_places.counted(before.xids if before else {}, around.counted.get(key, ()), overflow)
    judged = Gpu(
        info=gpu.info,
        readings=gpu.readings,
        missing=gpu.missing,
        sources=gpu.sources,
        xids=xids,
        pods=tuple(first(gpu.pods, "pod", overflow)),
        shared=gpu.shared,
        verdict=verdict,
        drift=drift.of_gpu(inputs.standard, gpu.info, values, since, now),
        unowned_memory=unowned,
        at=gpu.at,
        processes=gpu.processes,
    )
    return judged, KnownGpu(remembered, xids, since, now, gpu.info.mig_uuid)


def _numbers(gpus: Sequence[MergedGpu], reading: KubeletReading | None) -> Mapping[str, int]:
    """How many GPUs and MIG instances the node has by whose word; what is not known is not in it."""
    numbers: dict[str, int] = {}
    there = [gpu for gpu in gpus if not gpu.lost]
    if there:
        divided = {gpu.info.key.uuid for gpu in there if gpu.info.key.instance}
        numbers["driver"] = sum(1 for gpu in there if gpu.info.key.instance or gpu.info.key.uuid not in divided)
    if reading is not None:
        offered = devices.offered(reading)
        if offered is not None:
            numbers["allocatable"] = offered
        numbers["allocated"] = devices.given(reading)
    return numbers
