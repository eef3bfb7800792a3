"""The GPUs that this node is known to have: one that is not there any more after a restart or a reboot is lost.

May not be in here: judging, I/O, clocks.

A GPU that has died does not come back after a reboot; it is then simply not enumerated, the count just drops, and a
node that had eight GPUs looks like a healthy one with seven. What the sources themselves saw go away they report lost;
this is for what was gone before they first looked.
"""

from collections.abc import Iterable, Mapping, Sequence

from msgspec import Struct

from exporter.core.join import is_fresh
from exporter.core.model import GpuInfo, GpuKey, GpuSample

#: Seconds for which a source must have told of the same boards before one is called missing: after a driver load they
#: appear one after the other.
SETTLE_SECONDS = 30.0
#: The source whose word counts: it enumerates the boards itself.
SOURCE = "nvml"


class Inventory(Struct, frozen=True):
    boards: tuple[GpuInfo, ...] = ()  # as last agreed on, sorted by key
    present: tuple[GpuKey, ...] = ()  # as last seen
    since: float = 0.0  # since when these are the ones that are seen


def take(
    old: Inventory, samples: Iterable[GpuSample], now: float, fresh: Mapping[str, float]
) -> tuple[Inventory, Sequence[GpuSample]]:
    """(the inventory, a sample of each missing board that says so).

    As many boards as before, or more: they are the inventory, whoever they are; a board was replaced, or a VM was
    started on another host. Fewer: those that are not seen are missing, unless another board sits in their PCI slot.
    """
    seen = {sample.info.key: sample for sample in samples if sample.source == SOURCE and not sample.info.key.instance}
    # One that hangs is there: its sample grows old. That any is fresh shows that the driver is asked at all.
    heard = any(is_fresh(sample.at, SOURCE, now, fresh) for sample in seen.values())
    # A board that has not said yet who it is has no driver version either.
    if not heard or not all(sample.info.driver_version for sample in seen.values()):
        return old, ()
    present = tuple(sorted(seen))
    since = old.since if present == old.present else now
    if len(present) >= len(old.boards):
        # While one is lost the driver may have numbered the others anew: they keep the index that they had.
        before = {info.key: info for info in old.boards} if any(sample.lost for sample in seen.values()) else {}
        return Inventory(tuple(before.get(key, seen[key].info) for key in present), present, since), ()
    if now - since < SETTLE_SECONDS:
        return Inventory(old.boards, present, since), ()
    slots = {sample.info.pci_bus_id for sample in seen.values()}
    missing = [info for info in old.boards if info.key not in seen and info.pci_bus_id not in slots]
    kept = {info.key: info for info in (*missing, *(sample.info for sample in seen.values()))}
    gone = [GpuSample(info, SOURCE, now, {}, {}, "gone_from_inventory") for info in missing]
    return Inventory(tuple(kept[key] for key in sorted(kept)), present, since), gone
