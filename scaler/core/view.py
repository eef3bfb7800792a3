"""What the scaler sees: nodes as their feeds told them, replicas, and the fleet of one ScaledObject.

May not be in here: how a feed is read (sources/feed.py), which engines are whose replicas (view_fleet.py,
view_replicas.py), what follows from a fleet (decision.py).
"""

from collections.abc import Mapping

from msgspec import Struct


class GpuView(Struct, frozen=True):
    uuid: str
    instance: str = ""
    index: str = ""
    name: str = ""
    state: str = "unknown"
    reasons: tuple[tuple[str, str], ...] = ()  # (reason, action), worst first
    capacity: float | None = None


class EngineView(Struct, frozen=True):
    """One engine of one model behind one URL, as the feed has it (proto/signals.proto). None: missing."""

    endpoint: str
    namespace: str = ""
    pod: str = ""
    container: str = ""
    model: str = ""
    engine: str = ""
    kind: str = ""
    labels: Mapping[str, str] = {}
    seen_seconds: float = 0.0
    error: str = ""
    waiting: float | None = None
    running: float | None = None
    kv_usage: float | None = None
    kv_capacity_tokens: float | None = None
    prompt_tokens_total: float | None = None
    generation_tokens_total: float | None = None
    requests_finished_total: float | None = None
    preemptions_total: float | None = None
    rejections_total: float | None = None
    sleeping: bool | None = None
    gpus: tuple[str, ...] = ()  # "UUID" or "UUID/instance"
    health: str = "unknown"
    capacity: float | None = None
    saturation: float | None = None
    cause: str = ""
    requests_per_second: float | None = None
    tokens_per_second: float | None = None
    knee_running: float | None = None
    service_rate: float | None = None
    queued_seconds: float = 0.0  # 0: what was learned is the model's on its node, not its own
    knee_tokens: float | None = None
    token_rate: float | None = None
    rejections_per_second: float | None = None
    preemptions_per_second: float | None = None
    prompt_tokens_per_second: float | None = None
    prefix_hit_ratio: float | None = None
    ttft_p50: float | None = None  # seconds, over the exporter's window
    ttft_p95: float | None = None
    itl_p50: float | None = None
    itl_p95: float | None = None
    queue_time_p95: float | None = None
    why: str = ""  # the diagnosis in a sentence
    max_running: float | None = None
    kv_peak: float | None = None
    step_seconds: float | None = None  # of a step, and more for each sequence and each prompt token in it: all or none
    sequence_seconds: float | None = None
    prompt_token_seconds: float | None = None
    pace_seconds: float = 0.0  # 0: the three are the model's on its node, not its own


class ColdStartView(Struct, frozen=True):
    """How long cold starts of a model took on one node, one phase of them."""

    namespace: str
    model: str
    phase: str
    count: int
    p50: float  # seconds
    p90: float


class NodeView(Struct, frozen=True):
    """What one exporter said last. All ages are those at `at`: they grow with the time since."""

    address: str  # of the exporter
    since: float  # when the address was first listed
    at: float | None = None  # when its newest message arrived; None: it never answered
    first: float | None = None  # when its first message arrived
    connected: bool = False
    error: str = ""  # why it is not connected
    node: str = ""
    boot: str = ""
    sequence: int = 0
    engines: tuple[EngineView, ...] = ()
    engine_ages: tuple[float | None, ...] = ()  # one for each engine; None: never read
    gpus: tuple[GpuView, ...] = ()
    gpu_ages: tuple[float | None, ...] = ()
    cold_starts: tuple[ColdStartView, ...] = ()


class Replica(Struct, frozen=True):
    """One replica as far as it is known. Times are seconds, counters count from its start, None is missing."""

    pod: str  # its endpoint where no pod is known
    node: str = ""
    namespace: str = ""
    model: str = ""
    kind: str = ""
    engines: int = 1
    ready: bool | None = None
    age: float = 0.0  # since it was first seen
    reading_age: float | None = None  # of its oldest reading; None: never read
    error: str = ""  # of the last attempt to read it
    waiting: float | None = None
    running: float | None = None
    max_running: float | None = None  # requests that it runs at most, as it says
    kv_usage: float | None = None
    kv_capacity_tokens: float | None = None
    prompt_tokens_total: float | None = None
    generation_tokens_total: float | None = None
    requests_finished_total: float | None = None
    preemptions_total: float | None = None
    sleeping: bool | None = None
    health: str = "unknown"
    capacity: float | None = None  # 0..1 of a whole replica
    cause: str = ""  # the exporter's diagnosis
    why: str = ""  # it, as a sentence
    knee_running: float | None = None
    service_rate: float | None = None
    queued_seconds: float = 0.0  # 0: the two above are the model's on its node, not its own
    preemptions_per_second: float | None = None  # over the exporter's window, as the next two
    prefix_hit_ratio: float | None = None  # mean over its engines
    ttft_p95: float | None = None  # the highest of its engines
    step_seconds: float | None = None  # of one of its engines, as the next two
    sequence_seconds: float | None = None
    prompt_token_seconds: float | None = None
    pace_seconds: float = 0.0  # of the least watched; 0: the three are the model's on its node, not its own
    gpus: tuple[GpuView, ...] = ()

    @property
    def id(self) -> str:
        return f"{self.node}/{self.namespace}/{self.pod}"  # an endpoint may be the loopback of several nodes


class Fleet(Struct, frozen=True):
    """The replicas of one ScaledObject. `problem` is not empty: nothing can be said, and why, in one line."""

    replicas: tuple[Replica, ...] = ()
    gateway_waiting: float | None = None
    spec_replicas: int | None = None
    nameless: tuple[Replica, ...] = ()  # never read, so of no known model: ours only if we have seen them before
    unheard: tuple[str, ...] = ()  # exporters that are listed and never answered: what they see is missing here
    cold_start: float | None = None  # seconds from a new pod to its first token, as seen; None: not seen
    problem: str = ""
