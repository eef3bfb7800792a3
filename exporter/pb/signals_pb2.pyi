from google.protobuf.internal import containers as _containers
from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from collections.abc import Iterable as _Iterable, Mapping as _Mapping
from typing import ClassVar as _ClassVar, Optional as _Optional, Union as _Union

DESCRIPTOR: _descriptor.FileDescriptor

class WatchRequest(_message.Message):
    __slots__ = ("client",)
    CLIENT_FIELD_NUMBER: _ClassVar[int]
    client: str
    def __init__(self, client: _Optional[str] = ...) -> None: ...

class NodeSignals(_message.Message):
    __slots__ = ("node", "boot", "sequence", "unchanged", "engines", "gpus", "engine_age_seconds", "gpu_age_seconds", "cold_starts")
    NODE_FIELD_NUMBER: _ClassVar[int]
    BOOT_FIELD_NUMBER: _ClassVar[int]
    SEQUENCE_FIELD_NUMBER: _ClassVar[int]
    UNCHANGED_FIELD_NUMBER: _ClassVar[int]
    ENGINES_FIELD_NUMBER: _ClassVar[int]
    GPUS_FIELD_NUMBER: _ClassVar[int]
    ENGINE_AGE_SECONDS_FIELD_NUMBER: _ClassVar[int]
    GPU_AGE_SECONDS_FIELD_NUMBER: _ClassVar[int]
    COLD_STARTS_FIELD_NUMBER: _ClassVar[int]
    node: str
    boot: str
    sequence: int
    unchanged: bool
    engines: _containers.RepeatedCompositeFieldContainer[Engine]
    gpus: _containers.RepeatedCompositeFieldContainer[Gpu]
    engine_age_seconds: _containers.RepeatedScalarFieldContainer[float]
    gpu_age_seconds: _containers.RepeatedScalarFieldContainer[float]
    cold_starts: _containers.RepeatedCompositeFieldContainer[ColdStart]
    def __init__(self, node: _Optional[str] = ..., boot: _Optional[str] = ..., sequence: _Optional[int] = ..., unchanged: _Optional[bool] = ..., engines: _Optional[_Iterable[_Union[Engine, _Mapping]]] = ..., gpus: _Optional[_Iterable[_Union[Gpu, _Mapping]]] = ..., engine_age_seconds: _Optional[_Iterable[float]] = ..., gpu_age_seconds: _Optional[_Iterable[float]] = ..., cold_starts: _Optional[_Iterable[_Union[ColdStart, _Mapping]]] = ...) -> None: ...

class Engine(_message.Message):
    __slots__ = ("endpoint", "namespace", "pod", "container", "model", "engine", "kind", "labels", "seen_seconds", "error", "waiting", "running", "kv_usage", "kv_capacity_tokens", "prompt_tokens_total", "generation_tokens_total", "requests_finished_total", "preemptions_total", "rejections_total", "sleeping", "gpus", "health", "capacity", "saturation", "cause", "requests_per_second", "tokens_per_second", "knee_running", "service_rate", "queued_seconds", "knee_tokens", "token_rate", "rejections_per_second", "preemptions_per_second", "prompt_tokens_per_second", "prefix_hit_ratio", "ttft_p50", "ttft_p95", "itl_p50", "itl_p95", "queue_time_p95", "why", "max_running", "kv_peak", "step_seconds", "sequence_seconds", "prompt_token_seconds", "pace_seconds")
    class LabelsEntry(_message.Message):
        __slots__ = ("key", "value")
        KEY_FIELD_NUMBER: _ClassVar[int]
        VALUE_FIELD_NUMBER: _ClassVar[int]
        key: str
        value: str
        def __init__(self, key: _Optional[str] = ..., value: _Optional[str] = ...) -> None: ...
    ENDPOINT_FIELD_NUMBER: _ClassVar[int]
    NAMESPACE_FIELD_NUMBER: _ClassVar[int]
    POD_FIELD_NUMBER: _ClassVar[int]
    CONTAINER_FIELD_NUMBER: _ClassVar[int]
    MODEL_FIELD_NUMBER: _ClassVar[int]
    ENGINE_FIELD_NUMBER: _ClassVar[int]
    KIND_FIELD_NUMBER: _ClassVar[int]
    LABELS_FIELD_NUMBER: _ClassVar[int]
    SEEN_SECONDS_FIELD_NUMBER: _ClassVar[int]
    ERROR_FIELD_NUMBER: _ClassVar[int]
    WAITING_FIELD_NUMBER: _ClassVar[int]
    RUNNING_FIELD_NUMBER: _ClassVar[int]
    KV_USAGE_FIELD_NUMBER: _ClassVar[int]
    KV_CAPACITY_TOKENS_FIELD_NUMBER: _ClassVar[int]
    PROMPT_TOKENS_TOTAL_FIELD_NUMBER: _ClassVar[int]
    GENERATION_TOKENS_TOTAL_FIELD_NUMBER: _ClassVar[int]
    REQUESTS_FINISHED_TOTAL_FIELD_NUMBER: _ClassVar[int]
    PREEMPTIONS_TOTAL_FIELD_NUMBER: _ClassVar[int]
    REJECTIONS_TOTAL_FIELD_NUMBER: _ClassVar[int]
    SLEEPING_FIELD_NUMBER: _ClassVar[int]
    GPUS_FIELD_NUMBER: _ClassVar[int]
    HEALTH_FIELD_NUMBER: _ClassVar[int]
    CAPACITY_FIELD_NUMBER: _ClassVar[int]
    SATURATION_FIELD_NUMBER: _ClassVar[int]
    CAUSE_FIELD_NUMBER: _ClassVar[int]
    REQUESTS_PER_SECOND_FIELD_NUMBER: _ClassVar[int]
    TOKENS_PER_SECOND_FIELD_NUMBER: _ClassVar[int]
    KNEE_RUNNING_FIELD_NUMBER: _ClassVar[int]
    SERVICE_RATE_FIELD_NUMBER: _ClassVar[int]
    QUEUED_SECONDS_FIELD_NUMBER: _ClassVar[int]
    KNEE_TOKENS_FIELD_NUMBER: _ClassVar[int]
    TOKEN_RATE_FIELD_NUMBER: _ClassVar[int]
    REJECTIONS_PER_SECOND_FIELD_NUMBER: _ClassVar[int]
    PREEMPTIONS_PER_SECOND_FIELD_NUMBER: _ClassVar[int]
    PROMPT_TOKENS_PER_SECOND_FIELD_NUMBER: _ClassVar[int]
    PREFIX_HIT_RATIO_FIELD_NUMBER: _ClassVar[int]
    TTFT_P50_FIELD_NUMBER: _ClassVar[int]
    TTFT_P95_FIELD_NUMBER: _ClassVar[int]
    ITL_P50_FIELD_NUMBER: _ClassVar[int]
    ITL_P95_FIELD_NUMBER: _ClassVar[int]
    QUEUE_TIME_P95_FIELD_NUMBER: _ClassVar[int]
    WHY_FIELD_NUMBER: _ClassVar[int]
    MAX_RUNNING_FIELD_NUMBER: _ClassVar[int]
    KV_PEAK_FIELD_NUMBER: _ClassVar[int]
    STEP_SECONDS_FIELD_NUMBER: _ClassVar[int]
    SEQUENCE_SECONDS_FIELD_NUMBER: _ClassVar[int]
    PROMPT_TOKEN_SECONDS_FIELD_NUMBER: _ClassVar[int]
    PACE_SECONDS_FIELD_NUMBER: _ClassVar[int]
    endpoint: str
    namespace: str
    pod: str
    container: str
    model: str
    engine: str
    kind: str
    labels: _containers.ScalarMap[str, str]
    seen_seconds: float
    error: str
    waiting: float
    running: float
    kv_usage: float
    kv_capacity_tokens: float
    prompt_tokens_total: float
    generation_tokens_total: float
    requests_finished_total: float
    preemptions_total: float
    rejections_total: float
    sleeping: bool
    gpus: _containers.RepeatedScalarFieldContainer[str]
    health: str
    capacity: float
    saturation: float
    cause: str
    requests_per_second: float
    tokens_per_second: float
    knee_running: float
    service_rate: float
    queued_seconds: float
    knee_tokens: float
    token_rate: float
    rejections_per_second: float
    preemptions_per_second: float
    prompt_tokens_per_second: float
    prefix_hit_ratio: float
    ttft_p50: float
    ttft_p95: float
    itl_p50: float
    itl_p95: float
    queue_time_p95: float
    why: str
    max_running: float
    kv_peak: float
    step_seconds: float
    sequence_seconds: float
    prompt_token_seconds: float
    pace_seconds: float
    def __init__(self, endpoint: _Optional[str] = ..., namespace: _Optional[str] = ..., pod: _Optional[str] = ..., container: _Optional[str] = ..., model: _Optional[str] = ..., engine: _Optional[str] = ..., kind: _Optional[str] = ..., labels: _Optional[_Mapping[str, str]] = ..., seen_seconds: _Optional[float] = ..., error: _Optional[str] = ..., waiting: _Optional[float] = ..., running: _Optional[float] = ..., kv_usage: _Optional[float] = ..., kv_capacity_tokens: _Optional[float] = ..., prompt_tokens_total: _Optional[float] = ..., generation_tokens_total: _Optional[float] = ..., requests_finished_total: _Optional[float] = ..., preemptions_total: _Optional[float] = ..., rejections_total: _Optional[float] = ..., sleeping: _Optional[bool] = ..., gpus: _Optional[_Iterable[str]] = ..., health: _Optional[str] = ..., capacity: _Optional[float] = ..., saturation: _Optional[float] = ..., cause: _Optional[str] = ..., requests_per_second: _Optional[float] = ..., tokens_per_second: _Optional[float] = ..., knee_running: _Optional[float] = ..., service_rate: _Optional[float] = ..., queued_seconds: _Optional[float] = ..., knee_tokens: _Optional[float] = ..., token_rate: _Optional[float] = ..., rejections_per_second: _Optional[float] = ..., preemptions_per_second: _Optional[float] = ..., prompt_tokens_per_second: _Optional[float] = ..., prefix_hit_ratio: _Optional[float] = ..., ttft_p50: _Optional[float] = ..., ttft_p95: _Optional[float] = ..., itl_p50: _Optional[float] = ..., itl_p95: _Optional[float] = ..., queue_time_p95: _Optional[float] = ..., why: _Optional[str] = ..., max_running: _Optional[float] = ..., kv_peak: _Optional[float] = ..., step_seconds: _Optional[float] = ..., sequence_seconds: _Optional[float] = ..., prompt_token_seconds: _Optional[float] = ..., pace_seconds: _Optional[float] = ...) -> None: ...

class ColdStart(_message.Message):
    __slots__ = ("namespace", "model", "phase", "count", "p50", "p90")
    NAMESPACE_FIELD_NUMBER: _ClassVar[int]
    MODEL_FIELD_NUMBER: _ClassVar[int]
    PHASE_FIELD_NUMBER: _ClassVar[int]
    COUNT_FIELD_NUMBER: _ClassVar[int]
    P50_FIELD_NUMBER: _ClassVar[int]
    P90_FIELD_NUMBER: _ClassVar[int]
    namespace: str
    model: str
    phase: str
    count: int
    p50: float
    p90: float
    def __init__(self, namespace: _Optional[str] = ..., model: _Optional[str] = ..., phase: _Optional[str] = ..., count: _Optional[int] = ..., p50: _Optional[float] = ..., p90: _Optional[float] = ...) -> None: ...

class Gpu(_message.Message):
    __slots__ = ("uuid", "instance", "index", "name", "state", "reasons", "since_seconds", "capacity", "xids")
    class XidsEntry(_message.Message):
        __slots__ = ("key", "value")
        KEY_FIELD_NUMBER: _ClassVar[int]
        VALUE_FIELD_NUMBER: _ClassVar[int]
        key: int
        value: int
        def __init__(self, key: _Optional[int] = ..., value: _Optional[int] = ...) -> None: ...
    UUID_FIELD_NUMBER: _ClassVar[int]
    INSTANCE_FIELD_NUMBER: _ClassVar[int]
    INDEX_FIELD_NUMBER: _ClassVar[int]
    NAME_FIELD_NUMBER: _ClassVar[int]
    STATE_FIELD_NUMBER: _ClassVar[int]
    REASONS_FIELD_NUMBER: _ClassVar[int]
    SINCE_SECONDS_FIELD_NUMBER: _ClassVar[int]
    CAPACITY_FIELD_NUMBER: _ClassVar[int]
    XIDS_FIELD_NUMBER: _ClassVar[int]
    uuid: str
    instance: str
    index: str
    name: str
    state: str
    reasons: _containers.RepeatedCompositeFieldContainer[Reason]
    since_seconds: float
    capacity: float
    xids: _containers.ScalarMap[int, int]
    def __init__(self, uuid: _Optional[str] = ..., instance: _Optional[str] = ..., index: _Optional[str] = ..., name: _Optional[str] = ..., state: _Optional[str] = ..., reasons: _Optional[_Iterable[_Union[Reason, _Mapping]]] = ..., since_seconds: _Optional[float] = ..., capacity: _Optional[float] = ..., xids: _Optional[_Mapping[int, int]] = ...) -> None: ...

class Reason(_message.Message):
    __slots__ = ("reason", "action")
    REASON_FIELD_NUMBER: _ClassVar[int]
    ACTION_FIELD_NUMBER: _ClassVar[int]
    reason: str
    action: str
    def __init__(self, reason: _Optional[str] = ..., action: _Optional[str] = ...) -> None: ...
