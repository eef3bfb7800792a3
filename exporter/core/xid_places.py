"""Which GPU an Xid is of, and how often each code was seen there.

May not be in here: who told of it first (witness.py), what it means (xid.py), I/O, clocks.
"""

from collections.abc import Iterable, Mapping, Sequence, Set

from msgspec.structs import replace

from exporter.core import kmsg
from exporter.core.inputs import first
from exporter.core.join import MergedGpu
from exporter.core.model import GpuKey, XidEvent, XidSeen

#: Xids of a GPU that no source has shown yet wait for it; the oldest give way.
MAX_UNPLACED_XIDS = 64


def resolve(events: Iterable[XidEvent], gpus: Sequence[MergedGpu]) -> tuple[list[XidEvent], tuple[XidEvent, ...]]:
    """(events of boards that are known, with their UUID; the others, which wait)."""
    # In a slot sits whom the most trusted source sees there now; a page that lags behind may still name the one before.
    in_slots = sorted(gpus, key=lambda gpu: (-gpu.rank, not gpu.lost, gpu.at))
    slots = {kmsg.pci_address(gpu.info.pci_bus_id): gpu.info.key.uuid for gpu in in_slots if gpu.info.pci_bus_id}
    uuids = {gpu.info.key.uuid for gpu in gpus}
    known, unplaced = [], []
    for event in events:
        uuid = event.key.uuid or slots.get(event.pci, "")
        if uuid in uuids:
            known.append(event if event.key.uuid else replace(event, key=GpuKey(uuid, event.key.instance)))
        else:
            unplaced.append(event)
    return known, tuple(unplaced[-MAX_UNPLACED_XIDS:])


def place(events: Iterable[XidEvent], keys: Set[GpuKey]) -> dict[GpuKey, list[XidEvent]]:
    """Each event to the GPU it names, else to its board, else to all instances of the board."""
    placed: dict[GpuKey, list[XidEvent]] = {}
    for event in events:
        named = [key for key in (event.key, GpuKey(event.key.uuid)) if key in keys][:1]
        for key in named or [key for key in keys if key.uuid == event.key.uuid]:
            placed.setdefault(key, []).append(event)
    return placed


def counted(before: Mapping[int, XidSeen], xids: Iterable[XidEvent], overflow: dict[str, int]) -> Mapping[int, XidSeen]:
    """How often each code was seen, and when last. overflow: kind -> left out; added to."""
    counts = dict(before)
    for event in xids:
        old = counts.get(event.xid, XidSeen(0, event.at))
        counts[event.xid] = XidSeen(old.count + 1, max(old.at, event.at))
    return dict(first(list(counts.items()), "xid", overflow))  # in the order of first sight
