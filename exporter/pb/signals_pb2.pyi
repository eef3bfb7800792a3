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
    __slots__ = ("node", "boot", "sequence", "unchanged", "engines", "gpus", "engine_age_seconds", "gpu_age_seconds")
    NODE_FIELD_NUMBER: _ClassVar[int]
    BOOT_FIELD_NUMBER: _ClassVar[int]
    SEQUENCE_FIELD_NUMBER: _ClassVar[int]
    UNCHANGED_FIELD_NUMBER: _ClassVar[int]
    ENGINES_FIELD_NUMBER: _ClassVar[int]
    GPUS_FIELD_NUMBER: _ClassVar[int]
    ENGINE_AGE_SECONDS_FIELD_NUMBER: _ClassVar[int]
    GPU_AGE_SECONDS_FIELD_NUMBER: _ClassVar[int]
    node: str
    boot: str
    sequence: int
    unchanged: bool
    engines: _containers.RepeatedCompositeFieldContainer[Engine]
    gpus: _containers.RepeatedCompositeFieldContainer[Gpu]
    engine_age_seconds: _containers.RepeatedScalarFieldContainer[float]
    gpu_age_seconds: _containers.RepeatedScalarFieldContainer[float]
    def __init__(self, node: _Optional[str] = ..., boot: _Optional[str] = ..., sequence: _Optional[int] = ..., unchanged: _Optional[bool] = ..., engines: _Optional[_Iterable[_Union[Engine, _Mapping]]] = ..., gpus: _Optional[_Iterable[_Union[Gpu, _Mapping]]] = ..., engine_age_seconds: _Optional[_Iterable[float]] = ..., gpu_age_seconds: _Optional[_Iterable[float]] = ...) -> None: ...

class Engine(_message.Message):
    __slots__ = ("endpoint", "namespace", "pod", "container", "model", "engine", "kind", "labels", "seen_seconds", "error", "waiting", "running", "kv_usage", "kv_capacity_tokens", "prompt_tokens_total", "generation_tokens_total", "requests_finished_total", "preemptions_total", "rejections_total", "sleeping", "gpus", "health", "capacity", "saturation", "cause", "requests_per_second", "tokens_per_second", "knee_running", "service_rate", "queued_seconds")
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
    def __init__(self, endpoint: _Optional[str] = ..., namespace: _Optional[str] = ..., pod: _Optional[str] = ..., container: _Optional[str] = ..., model: _Optional[str] = ..., engine: _Optional[str] = ..., kind: _Optional[str] = ..., labels: _Optional[_Mapping[str, str]] = ..., seen_seconds: _Optional[float] = ..., error: _Optional[str] = ..., waiting: _Optional[float] = ..., running: _Optional[float] = ..., kv_usage: _Optional[float] = ..., kv_capacity_tokens: _Optional[float] = ..., prompt_tokens_total: _Optional[float] = ..., generation_tokens_total: _Optional[float] = ..., requests_finished_total: _Optional[float] = ..., preemptions_total: _Optional[float] = ..., rejections_total: _Optional[float] = ..., sleeping: _Optional[bool] = ..., gpus: _Optional[_Iterable[str]] = ..., health: _Optional[str] = ..., capacity: _Optional[float] = ..., saturation: _Optional[float] = ..., cause: _Optional[str] = ..., requests_per_second: _Optional[float] = ..., tokens_per_second: _Optional[float] = ..., knee_running: _Optional[float] = ..., service_rate: _Optional[float] = ..., queued_seconds: _Optional[float] = ...) -> None: ...

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
