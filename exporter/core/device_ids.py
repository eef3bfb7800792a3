"""Device ids, as the kubelet writes them: what kind of id one is, and which GPUs of the node it names.

May not be in here: who was given a device (devices.py), I/O, clocks.

Left out on purpose: `GPU-<uuid>-N` (HAMi and other schedulers of their own). It numbers a slot; which GPU the pod gets
is decided elsewhere, and the kubelet does not know it.
"""

import re
from collections.abc import Callable, Mapping, Sequence
from functools import lru_cache
from typing import NamedTuple

from exporter.core.model import GpuInfo, GpuKey


class Place(NamedTuple):
    """Where a device is."""

    surely: tuple[GpuKey, ...] = ()
    maybe: tuple[GpuKey, ...] = ()  # it is a part of one of these, and nobody can tell of which


_NOWHERE = Place()


class Node(NamedTuple):
    """The node's GPUs by what an id may call them. Made by node()."""

    gpus: Sequence[GpuInfo]
    whole: Mapping[str, tuple[GpuKey, ...]]  # a board's UUID -> all of it: the board's key and its instances'
    minor: Mapping[str, str]  # -> the board's UUID
    number: Mapping[str, str]  # NVML's index
    pci: Mapping[str, str]
    mig: Mapping[str, GpuKey]


Find = Callable[[Node, tuple[str, ...]], Place]


def _uuid(node: Node, parts: tuple[str, ...]) -> Place:
    """A board that was given whole stands for all its instances."""
    return Place(node.whole.get(parts[0], ()))


def _minor(node: Node, parts: tuple[str, ...]) -> Place:
    if parts[0] in node.minor:
        return Place(node.whole[node.minor[parts[0]]])
    return Place(maybe=tuple(gpu.key for gpu in node.gpus if not gpu.minor))


def _index(node: Node, parts: tuple[str, ...]) -> Place:
    if parts[0] in node.number:
        return Place(node.whole[node.number[parts[0]]])
    return Place(maybe=tuple(gpu.key for gpu in node.gpus if not gpu.index))


def _pci(node: Node, parts: tuple[str, ...]) -> Place:
    return Place(node.whole.get(node.pci.get(_slot(parts[0]), ""), ()))


def _mig_uuid(node: Node, parts: tuple[str, ...]) -> Place:
    if parts[0] in node.mig:
        return Place((node.mig[parts[0]],))
    # The sources tell one UUID a GPU instance; this may be another compute instance of it.
    keys = tuple(gpu.key for gpu in node.gpus)
    return Place(maybe=tuple(key for key in keys if key.instance) or keys)


def _uuid_instance(node: Node, parts: tuple[str, ...]) -> Place:
    return _only(Place(node.whole.get(parts[0], ())), parts[1])


def _minor_instance(node: Node, parts: tuple[str, ...]) -> Place:
    return _only(_minor(node, parts), parts[1])


def _only(board: Place, instance: str) -> Place:
    return Place(tuple(key for key in board.surely if key.instance == instance), board.maybe)


def _minor_part(node: Node, parts: tuple[str, ...]) -> Place:
    """NVIDIA's DRA driver names an instance by profile and placement, NVML by a number that follows from neither."""
    return _part(node, _minor(node, parts), parts[1].partition("-")[0])


def _index_part(node: Node, parts: tuple[str, ...]) -> Place:
    """The place of an instance in NVML's list of them is not its number."""
    return _part(node, _index(node, parts), "")


def _part(node: Node, board: Place, profile: str) -> Place:
    """An instance of a board. profile: as "1g10gb"; anything that is not one leaves all instances possible.

    The only instance that it can be has it; else the board's key has it, and each instance may.
    """
    if not board.surely:
        return board
    instances = [gpu for gpu in node.gpus if gpu.key in board.surely and gpu.key.instance]
    fitting = [gpu.key for gpu in instances if gpu.profile.replace(".", "") == profile] if "g" in profile else []
    possible = tuple(fitting or [gpu.key for gpu in instances])
    if len(possible) == 1:
        return Place(possible)
    return Place(tuple(key for key in board.surely if not key.instance), possible)


def _elsewhere(node: Node, parts: tuple[str, ...]) -> Place:
    return _NOWHERE


class Form(NamedTuple):
    """What a device id may look like, once replica and CDI prefix are off."""

    name: str
    pattern: str  # must match the whole id; its groups go to `find`
    find: Find
    source: str
    resource: str = ""  # pattern for the resource; "" is any
    ours: bool = True  # False: a virtual machine has this GPU, and so this node's driver does not


_HEX = r"[0-9a-fA-F]"
_UUID = rf"{_HEX}{{8}}-{_HEX}{{4}}-{_HEX}{{4}}-{_HEX}{{4}}-{_HEX}{{12}}"
_BUS = rf"(?:{_HEX}{{4}}|{_HEX}{{8}}):{_HEX}{{2}}:{_HEX}{{2}}\.[0-7]"
#: Resources of boards that virtual machines get: nvidia.com/pgpu, nvidia.com/GA102GL_A10, ...
_VM = r"nvidia\.com/(?!gpu$|gpu\.shared$).*"
_PLUGIN, _GKE, _DRA = "NVIDIA/k8s-device-plugin", "GKE's container-engine-accelerators", "NVIDIA/k8s-dra-driver-gpu"
_KUBEVIRT, _CDI_NAMES = "NVIDIA/kubevirt-gpu-device-plugin", "nvidia-ctk's CDI names"

# One form a row: a wrapped table cannot be scanned. The first that fits counts.
# fmt: off
FORMS: tuple[Form, ...] = (
    Form("board uuid", rf"(GPU-{_UUID})", _uuid, _PLUGIN),
    Form("mig uuid", rf"(MIG-{_UUID})", _mig_uuid, f"{_PLUGIN}, drivers from 470"),
    # The board, the GPU instance, the compute instance.
    Form("old mig uuid", rf"MIG-(GPU-{_UUID})/([0-9]+)/[0-9]+", _uuid_instance, f"{_PLUGIN}, drivers before 470"),
    Form("gke", r"nvidia([0-9]+)", _minor, f"{_GKE}: /dev/nvidiaN"),
    Form("gke mig", r"nvidia([0-9]+)/gi([0-9]+)", _minor_instance, f"{_GKE}: its mig package"),
    # By minor number; in 2024 it was still the index, which differs on few nodes.
    Form("dra", r"gpu-([0-9]+)", _minor, f"{_DRA}: CanonicalName"),
    # <profile>-<profile id>-<start>; before 2026 <profile id>-<start>-<size>.
    Form("dra mig", r"gpu-([0-9]+)-mig-([0-9a-z.-]+)", _minor_part, f"{_DRA}: CanonicalName"),
    Form("dra vfio", r"gpu-vfio-[0-9]+", _elsewhere, f"{_DRA}: CanonicalName", ours=False),
    Form("iommu group", r"[0-9]+", _elsewhere, f"{_KUBEVIRT}: its issue 152", _VM, ours=False),
    Form("index", r"([0-9]+)", _index, f"{_CDI_NAMES} (nvidia.com/gpu=0); device plugins of one's own"),
    Form("index of mig", r"([0-9]+):[0-9]+", _index_part, f"{_CDI_NAMES} (nvidia.com/gpu=0:1)"),
    Form("bus address", rf"({_BUS})", _pci, "device plugins of one's own"),
)

#: What several containers have of one device: `::N` from NVIDIA's plugin (time slices, MPS), `/vgpuN` from GKE's.
_REPLICA = re.compile(r"(.+?)(?:::[0-9]+|/vgpu[0-9]+)", re.DOTALL)
#: CDI names: nvidia.com/gpu=X, k8s.device-plugin.nvidia.com/gpu=X; of DRA k8s.gpu.nvidia.com/device=X, /claim=<uid>-X.
_CDI = re.compile(rf"(?:[a-z0-9.-]+\.)?nvidia\.com/[a-z]+=(?:{_UUID}-)?(.+)", re.DOTALL)
# fmt: on
_COMPILED = tuple((re.compile(form.resource), re.compile(form.pattern), form) for form in FORMS)


class Id(NamedTuple):
    base: str  # the device without the replica's number
    replica: bool
    form: Form | None
    parts: tuple[str, ...]


@lru_cache(maxsize=8192)  # ids stay the same from one step to the next; a node has some hundreds at most
def parse(resource: str, device: str) -> Id:
    """What kind of id it is, whatever the node has."""
    cdi = _CDI.fullmatch(device)
    if cdi:
        device = cdi[1]
    replica = _REPLICA.fullmatch(device)
    base = replica[1] if replica else device
    for whose, pattern, form in _COMPILED:
        match = pattern.fullmatch(base)
        if match and (not form.resource or whose.fullmatch(resource)):
            return Id(base, bool(replica), form, match.groups())
    return Id(base, bool(replica), None, ())


def find(node: Node, name: Id) -> Place:
    """The GPUs that an id names. An id of an unknown form may be any."""
    if name.form is None:
        return Place(maybe=tuple(gpu.key for gpu in node.gpus))
    return name.form.find(node, name.parts)


def node(gpus: Sequence[GpuInfo]) -> Node:
    """The table that find() looks into."""
    whole: dict[str, tuple[GpuKey, ...]] = {}
    for gpu in gpus:
        whole[gpu.key.uuid] = (*whole.get(gpu.key.uuid, ()), gpu.key)
    return Node(
        gpus,
        whole,
        {gpu.minor: gpu.key.uuid for gpu in gpus if gpu.minor},
        {gpu.index: gpu.key.uuid for gpu in gpus if gpu.index},
        {_slot(gpu.pci_bus_id): gpu.key.uuid for gpu in gpus if gpu.pci_bus_id},
        {gpu.mig_uuid: gpu.key for gpu in gpus if gpu.mig_uuid},
    )


def _slot(pci: str) -> str:
    """NVML writes the domain with eight digits, the kernel with four."""
    domain, _, rest = pci.lower().partition(":")
    return f"{domain.lstrip('0')}:{rest}"
