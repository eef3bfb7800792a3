"""The words every part of the exporter speaks: GPUs, engines, pods, readings, snapshot.

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


class EngineTarget(Struct, frozen=True):
    """Where an inference server's metrics are, and whose they are. Comes from the operator alone."""

    url: str
    pod: PodRef = PodRef()
    labels: Mapping[str, str] = {}  # the pod's labels, for podSelector
    gpus: tuple[str, ...] = ()  # GPU indices, UUIDs or "UUID/instance" that it runs on; () is not declared


class EngineReading(Struct, frozen=True):
    """One engine of one model behind one URL: the canonical numbers, whatever its kind calls them.

    Counters count from the engine's start. KV usage is 0..1. None is missing.
    """

    model: str
    engine: str  # vLLM's `engine` label ("0", "1", ... with data parallelism); "" where there is none
    waiting: float | None = None
    running: float | None = None
    kv_usage: float | None = None
    kv_capacity_tokens: float | None = None
    prompt_tokens_total: float | None = None
    generation_tokens_total: float | None = None
    preemptions_total: float | None = None
    rejections_total: float | None = None
    finished: Mapping[str, float] | None = None  # finished_reason -> requests
    sleeping: bool | None = None


class EngineScrape(Struct, frozen=True):
    """One attempt to read a target. `error` empty: `readings` are what it said at `at`."""

    target: EngineTarget
    at: float
    seconds: float  # how long the attempt took
    kind: str = ""  # "vllm"; "" is not recognised
    readings: tuple[EngineReading, ...] = ()
    error: str = ""  # a reason from exposition.REASONS or fetch.REASONS; "" is none
    message: str = ""  # one line: cause, place, fix


class Learned(Struct, frozen=True):
    """What an engine has shown it can carry (exporter.core.saturation learns it). None: not shown yet."""

    knee_running: float | None = None  # requests in flight when a queue forms
    service_rate: float | None = None  # requests finished per second while a queue stands
    queued_seconds: float = 0.0  # how long it was watched queueing: the weight of the above


class Engine(Struct, frozen=True):
    """An engine with everything that is known of it now."""

    target: EngineTarget
    reading: EngineReading
    kind: str
    at: float | None  # of the last good reading; None: never read
    error: str  # of the last attempt; "" if it was good
    message: str
    since: float  # first seen
    gpus: tuple[GpuKey, ...]  # () is unknown
    health: str  # the worst state of its GPUs, "unknown" if they are not known
    capacity: float | None  # 0..1: what is left of a whole replica; None is unknown
    saturation: float | None  # 1 = at the knee; None is unknown
    cause: str  # one of diagnosis.CAUSES
    learned: Learned
    requests_per_second: float | None  # finished, over the last window
    tokens_per_second: float | None  # generated, over the last window


class Collector(Struct, frozen=True):
    """How a source is doing, whatever it reads."""

    name: str  # "nvml", "nvml-0" (the GPU of that index), "xid", "kmsg", "dcgm", "kubelet", "engines", "demo"
    success: bool
    seconds: float  # of the last attempt
    last_success: float | None  # None: never
    message: str = ""  # one line: cause, place, fix; "" if it succeeded


class Snapshot(Struct, frozen=True):
    """All that is known of this node at one moment. /metrics and the feed are made of nothing else."""

    node: str
    at: float
    sequence: int
    gpus: tuple[Gpu, ...]
    engines: tuple[Engine, ...]
    collectors: tuple[Collector, ...]
    scrape_errors: Mapping[tuple[str, str], int]  # (endpoint url, reason) -> count
    scrapes: Mapping[str, EngineScrape]  # endpoint url -> last attempt
    fresh: Mapping[str, float] = {}  # source -> seconds after which its reading is stale and not published
    overflow: Mapping[str, int] = {}  # kind of thing -> how many were left out because a limit was reached
    node_gpus: Mapping[str, int] = {}  # "driver" | "allocatable" | "allocated" -> how many; absent is unknown
    node_drift: Mapping[str, bool] = {}  # like Gpu.drift, of the node as a whole
