"""Who has which GPU, by the kubelet, and how many there are to have.

May not be in here: what a device id looks like (device_ids.py), asking the kubelet (sources/podresources.py), judging,
I/O, clocks.

An id that names no GPU that is seen harms nobody else: it is told by unmatched(). Where it may stand for a GPU all the
same, that GPU's holding is not `certain`: it may have a pod that nobody can name.
"""

from collections.abc import Iterable, Mapping, Sequence

from msgspec import Struct

from exporter.core import device_ids
from exporter.core.model import GpuInfo, GpuKey, KubeletReading, PodRef

#: NVIDIA's DRA driver: the `resource` of an allocation by claim.
DRA_DRIVER = "gpu.nvidia.com"


class Holding(Struct, frozen=True):
    """Who has a GPU, by the kubelet."""

    pods: tuple[PodRef, ...] = ()  # containers, sorted
    shared: bool = False  # time slices or MPS, or a device that several containers were given
    certain: bool = True  # False: there may be others, whose device id does not say which GPU it is


#: Of a GPU that is not in assign()'s answer.
NOBODY = Holding()


def assign(reading: KubeletReading, gpus: Sequence[GpuInfo]) -> Mapping[GpuKey, Holding]:
    """Who has which of `gpus`. A GPU that is not in the answer has NOBODY, for certain."""
    node = device_ids.node(gpus)
    holders: dict[GpuKey, set[PodRef]] = {}
    together: dict[GpuKey, set[PodRef]] = {}  # those who have all of what the key stands for
    shared: set[GpuKey] = set()
    doubtful: set[GpuKey] = set()
    for allocation in reading.allocations:
        name = device_ids.parse(allocation.resource, allocation.device)
        place = device_ids.find(node, name)
        doubtful.update(place.maybe)
        for key in place.surely:
            holders.setdefault(key, set()).add(allocation.pod)
            if name.replica:
                shared.add(key)
            if not place.maybe:
                together.setdefault(key, set()).add(allocation.pod)
    return {
        key: Holding(
            tuple(sorted(holders.get(key, ()))), key in shared or len(together.get(key, ())) > 1, key not in doubtful
        )
        for key in {*holders, *doubtful}
    }


def unmatched(reading: KubeletReading, gpus: Sequence[GpuInfo]) -> tuple[str, ...]:
    """The ids of allocated devices that name no GPU of `gpus`: of an unknown form, or of a GPU that is not seen."""
    node = device_ids.node(gpus)
    return tuple(
        sorted(
            {
                allocation.device
                for allocation in reading.allocations
                if _is_ours(name := device_ids.parse(allocation.resource, allocation.device))
                and not device_ids.find(node, name).surely
            }
        )
    )


def offered(reading: KubeletReading) -> int | None:
    """How many GPUs and MIG instances the kubelet has to give, given or not; replicas of one are one.

    A device that its plugin calls unhealthy is not among them. None: this kubelet does not tell, or claims (DRA) are
    what gives GPUs here: those are offered in ResourceSlices, of which the kubelet knows nothing.
    """
    if reading.allocatable is None:
        return None
    number = _distinct((resource, device, "") for resource, device in reading.allocatable)
    by_claim = any(allocation.resource == DRA_DRIVER for allocation in reading.allocations)
    return None if by_claim and not number else number


def given(reading: KubeletReading) -> int:
    """How many GPUs and MIG instances containers have; replicas of one are one."""
    return _distinct((allocation.resource, allocation.device, allocation.pool) for allocation in reading.allocations)


def _distinct(devices: Iterable[tuple[str, str, str]]) -> int:
    names = ((device_ids.parse(resource, device), pool) for resource, device, pool in devices)
    return len({(name.base, pool) for name, pool in names if _is_ours(name)})


def _is_ours(name: device_ids.Id) -> bool:
    return name.form is None or name.form.ours
