"""The words every part of the exporter speaks: GPUs and pods (engines: model_engines.py; all of a node: snapshot.py).

May not be in here: behaviour. These are frozen values; whoever derives something from them does so
in the module that is named after what it derives.

Two rules hold for every field:

* `None` (or absence from a mapping) means *missing*. It is never 0 and never "healthy".
* Every time is seconds on the monotonic clock of this process, named `at` or `since`.
"""

from collections.abc import Mapping

from msgspec import Struct


class GpuKey(Struct, frozen=True, order=True):
    """What a GPU reading is joined on: the board's UUID and the MIG GPU-instance id on it."""

    uuid: str
    instance: str = ""  # "" is the whole board


class GpuInfo(Struct, frozen=True):
    """Who a GPU (or a MIG instance) is. Empty strings are unknown."""

    key: GpuKey
    index: str = ""  # NVML's index of the board on this node
    name: str = ""
    pci_bus_id: str = ""
    driver_version: str = ""
    profile: str = ""  # MIG profile, as "3g.40gb"
    mig_uuid: str = ""  # "MIG-..." where the source tells it
    minor: str = ""  # the N of the board's /dev/nvidiaN


class PodRef(Struct, frozen=True, order=True):
    """A container in Kubernetes, as far as the source of it could tell."""

    namespace: str = ""
    pod: str = ""
    container: str = ""


class GpuProcess(Struct, frozen=True):
    """A compute process on a GPU, as NVML sees it."""

    pid: int  # in this program's PID namespace
    bytes: float | None  # of the GPU's memory; None: the driver does not say (vGPU, no rights)


class GpuSample(Struct, frozen=True):
    """What one source read of one GPU at one moment.

    values: signal name (exporter.core.signals) -> number in the signal's base unit.
    missing: signal name -> why it could not be read: a name from signals.MISSING_REASONS.
    A signal in neither was not asked for.
    """

    info: GpuInfo
    source: str  # "nvml" | "dcgm" | "demo"
    at: float
    values: Mapping[str, float]
    missing: Mapping[str, str] = {}
    lost: str = (
        ""  # "gpu_is_lost", "gone_from_inventory", "unknown_error": why nothing can be read of it; "": it is there
    )
    pods: tuple[PodRef, ...] = ()  # pods this source saw on the GPU (dcgm-exporter's labels)
    processes: tuple[GpuProcess, ...] | None = None  # None: not told


class XidEvent(Struct, frozen=True):
    """One Xid error as one witness tells of it. The same error may be told by several (core/witness.py)."""

    key: GpuKey  # a uuid of "" is not known yet: `pci` names the board
    xid: int
    at: float
    source: str  # "nvml" | "dcgm" | "kmsg" | "demo"
    pci: str = ""  # the board's address as kmsg.pci_address() writes it
    severity: str = ""  # "fatal" | "nonfatal", where the kernel's line says it (NVLink 5)
    recovery: int | None = None  # Xid 154: the recovery action that the driver wants now (NVML field 230)
    replayed: bool = False  # it is from before this program looked: what came of it since is not known
    again: bool = False  # another witness told of this error before; witness.py says so
    seq: int | None = None  # of the kernel log's record, in this boot: stamps drift, numbers do not


class XidSeen(Struct, frozen=True):
    """An Xid code on one GPU."""

    count: int
    at: float  # when it was seen last


class Allocation(Struct, frozen=True):
    """A device that the kubelet gave to a container, as the kubelet names both."""

    pod: PodRef
    resource: str  # "nvidia.com/gpu", "nvidia.com/mig-1g.10gb", ...; a DRA driver's name for a claim
    device: str  # a device id in any of the forms of core/devices.py
    pool: str = ""  # DRA: the pool of the device


class KubeletReading(Struct, frozen=True):
    """What the kubelet said at `at`: who has which device, and which devices it offers."""

    at: float
    allocations: tuple[Allocation, ...]
    allocatable: tuple[tuple[str, str], ...] | None  # (resource, device id); None: this kubelet does not tell


class GpuReading(Struct, frozen=True):
    """One signal of one GPU after the sources are merged."""

    value: float
    at: float
    source: str


class Verdict(Struct, frozen=True):
    """What is to be thought of one GPU, and what to do about it."""

    state: str  # one of health.STATES
    reasons: tuple[tuple[str, str], ...] = ()  # (reason, action), worst first
    since: float = 0.0
    transitions: int = 0
    capacity: float | None = None  # 0..1; None is unknown
    unknown: tuple[str, ...] = ()  # parts of the verdict that nobody can tell now, whatever the state (parts.PARTS)


class Gpu(Struct, frozen=True):
    """A GPU with everything that is known of it now."""

    info: GpuInfo
    readings: Mapping[str, GpuReading]
    missing: Mapping[str, str]
    sources: Mapping[str, str]  # signal -> "nvml" | "dcgm" | "both" | "demo"; a signal that nobody has is not in it
    xids: Mapping[int, XidSeen]
    pods: tuple[PodRef, ...]
    shared: bool | None  # time slices or MPS: whether several containers may have it; None is unknown
    verdict: Verdict
    drift: Mapping[str, bool]  # what was declared of it -> whether it is otherwise
    unowned_memory: float | None  # bytes that are held though no pod has it; None: a pod has it, or unknown
    at: float  # of the newest sample
    processes: tuple[GpuProcess, ...] | None = None  # None: nobody tells
