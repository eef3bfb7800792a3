"""The words of inference servers: where they are, what they say, what is made of it. The other words: model.py.

May not be in here: behaviour. The rules of model.py hold: None or absence is missing, times are of the monotonic clock
of this process unless a field says otherwise.
"""

from collections.abc import Mapping

from msgspec import Struct

from exporter.core.model import GpuKey, PodRef


class Access(Struct, frozen=True):
    """How a server wants to be asked. Files are the operator's; "" is not needed."""

    ca_file: str = ""  # PEM; "" trusts the system's
    cert_file: str = ""  # PEM client certificate, and its key
    key_file: str = ""
    server_name: str = ""  # that the certificate must name, where it is not the URL's host
    token_file: str = ""  # holds the bearer token; read again when it changes
    insecure_skip_verify: bool = False


class EngineTarget(Struct, frozen=True):
    """Where an inference server's metrics are, and whose they are.

    The URL's host is a pod's own address or comes from the operator; `access` from the operator alone.
    """

    url: str
    pod: PodRef = PodRef()
    labels: Mapping[str, str] = {}  # the pod's labels, for podSelector
    gpus: tuple[str, ...] = ()  # GPU indices, UUIDs or "UUID/instance" that it runs on; () is not declared
    access: Access = Access()
    weights_bytes: float | None = None  # of the model on all GPUs of one engine, as declared
    kv_bytes_per_token: float | None = None  # of the KV cache on all GPUs of one engine, as declared


class Histogram(Struct, frozen=True):
    """A histogram as a server shows it, counted from the engine's start."""

    edges: tuple[float, ...]  # upper edges, ascending; the last is inf
    counts: tuple[float, ...]  # cumulative, one for each edge; the last is of all
    sum: float | None = None


class EngineReading(Struct, frozen=True):
    """One engine of one model behind one URL: the canonical numbers, whatever its kind calls them.

    Counters count from the start of the engine. Ratios are 0..1, times seconds. None is missing or unknown to its kind.
    """

    model: str
    engine: str  # vLLM's `engine` label ("0", "1", ... with data parallelism); "" where there is none
    waiting: float | None = None  # all that is not scheduled, whatever for
    running: float | None = None
    waiting_by_reason: Mapping[str, float] | None = None  # parts of `waiting`
    max_running: float | None = None  # requests that the server runs at most
    kv_usage: float | None = None
    kv_capacity_tokens: float | None = None
    prompt_tokens_total: float | None = None
    generation_tokens_total: float | None = None
    preemptions_total: float | None = None
    rejections_total: float | None = None
    prefix_queries_total: float | None = None  # tokens looked up in the prefix cache, and found there
    prefix_hits_total: float | None = None
    prefix_hit_ratio: float | None = None  # of servers that tell the ratio and not the counters
    finished: Mapping[str, float] | None = None  # finished_reason -> requests
    ttft: Histogram | None = None  # time to first token
    itl: Histogram | None = None  # between two tokens
    queue_time: Histogram | None = None  # observed when a request ends (vLLM): what waits now is not in it
    e2e: Histogram | None = None
    lora_waiting: float | None = None  # adapters for which requests wait
    sleeping: bool | None = None
    config: Mapping[str, str] = {}  # what the server tells of its configuration: CONFIG_KEYS


#: Keys of EngineReading.config: tokens of a KV block, bytes of the KV cache, share of the GPU's memory that the server
#: reserves, type of the KV cache, whether prefixes are kept.
CONFIG_KEYS = ("block_tokens", "kv_cache_bytes", "gpu_memory_utilization", "cache_dtype", "prefix_caching")


class EngineScrape(Struct, frozen=True):
    """One attempt to read a target. `error` empty: `readings` are what it said at `at`."""

    target: EngineTarget
    at: float
    seconds: float  # how long the attempt took
    kind: str = ""  # a name of kinds.KINDS; "" is not recognised
    readings: tuple[EngineReading, ...] = ()
    lacking: tuple[str, ...] = ()  # families that every server of this kind has and this page has not: names drifted
    error: str = ""  # a reason from exposition.REASONS or fetch.REASONS; "" is none
    message: str = ""  # one line: cause, place, fix


class Learned(Struct, frozen=True):
    """What an engine has shown it can carry before a queue forms (saturation.py learns it). None: not shown yet.

    The pace (pace.py learns it): a step takes step_seconds, and sequence_seconds more for each sequence and
    prompt_token_seconds for each prompt token in it. All three or none.
    """

    knee_running: float | None = None  # requests in flight when a queue forms
    knee_tokens: float | None = None  # tokens that the KV cache then holds
    service_rate: float | None = None  # requests finished per second while a queue stands
    token_rate: float | None = None  # tokens generated per second while a queue stands
    queued_seconds: float = (
        0.0  # how long it was watched queueing: the weight of the above. 0: the model's, not its own
    )
    step_seconds: float | None = None
    sequence_seconds: float | None = None
    prompt_token_seconds: float | None = None
    pace_seconds: float = 0.0  # how long it was watched at work: the weight of these three. 0: the model's, not its own


class Rates(Struct, frozen=True):
    """What an engine did over the last window (saturation.WINDOW). None: too little was seen, or it does not tell."""

    requests_per_second: float | None = None  # finished, however
    errors_per_second: float | None = None  # finished with an error
    rejections_per_second: float | None = None
    preemptions_per_second: float | None = None
    prompt_tokens_per_second: float | None = None
    tokens_per_second: float | None = None  # generated
    prefix_hit_ratio: float | None = None
    ttft_p50: float | None = None  # seconds
    ttft_p95: float | None = None
    itl_p50: float | None = None
    itl_p95: float | None = None
    queue_time_p95: float | None = None
    e2e_p95: float | None = None


class Usual(Struct, frozen=True):
    """What an engine does when nothing ails it (usual.py learns it). None: not known yet."""

    ttft_p50: float | None = None  # seconds
    itl_p50: float | None = None
    requests_per_second: float | None = None
    prompt_tokens: float | None = None  # of a request, mean
    seconds: float = 0.0  # how long it was watched so


class Hardware(Struct, frozen=True):
    """What an engine runs on, summed up."""

    gpus: tuple[GpuKey, ...] = ()  # () is unknown
    state: str = "unknown"  # the worst verdict
    capacity: float | None = None  # 0..1; None is unknown
    throttled: bool | None = None  # clocks of one are held down; None: of none that tells, and not all tell
    utilization: float | None = None  # 0..1, of the busiest
    xids: tuple[tuple[int, float], ...] = ()  # (code, seconds since it was last seen), newest first


class Diagnosis(Struct, frozen=True):
    """What an engine suffers from, and the numbers that it rests on."""

    cause: str = "blind"  # one of diagnosis.CAUSES
    why: str = ""  # one sentence
    evidence: Mapping[str, float | str | bool | None] = {}  # name of a number -> what it was; None: missing


class PodFacts(Struct, frozen=True):
    """What Kubernetes tells of a pod and of its start.

    Times here are Unix seconds by Kubernetes' clocks (whole seconds mostly): only their differences are used. None: not
    yet, or not told.
    """

    namespace: str
    pod: str
    uid: str = ""
    node_created: float | None = None  # creationTimestamp of its node
    created: float | None = None
    scheduled: float | None = None  # PodScheduled became true
    initialized: float | None = None  # init containers are done
    pulling: Mapping[str, float] = {}  # container -> when its image began to be pulled (event Pulling)
    pulled: Mapping[str, float] = {}  # container -> when its image was there (event Pulled)
    started: Mapping[str, float] = {}  # container -> when the container that runs now was started
    restarts: Mapping[str, int] = {}
    containers: Mapping[str, str] = {}  # container -> container id, without its runtime's prefix
    ready: float | None = None  # Ready became true


class ColdStart(Struct, frozen=True):
    """How long cold starts of a model took on this node, one phase (cold_start.PHASES)."""

    namespace: str
    model: str
    phase: str
    count: int
    p50: float  # seconds
    p90: float


class Engine(Struct, frozen=True):
    """An engine with everything that is known of it now."""

    target: EngineTarget
    reading: EngineReading
    kind: str
    at: float | None  # of the last good reading; None: never read
    error: str  # of the last attempt; "" if it was good
    message: str
    since: float  # first seen
    hardware: Hardware
    capacity: float | None  # 0..1: what is left of a whole replica; None is unknown
    saturation: float | None  # 1 = at the knee; None is unknown
    diagnosis: Diagnosis
    learned: Learned
    rates: Rates = Rates()
    usual: Usual = Usual()
    kv_peak: float | None = None  # highest kv_usage of the last day
    memory_bytes: Mapping[str, float] = {}  # engine_memory.KINDS -> bytes over its GPUs; absent is unknown
    cold_start: Mapping[str, float] = {}  # cold_start.PHASES -> seconds of its own start, as far as they are over

    @property
    def cause(self) -> str:
        return self.diagnosis.cause
