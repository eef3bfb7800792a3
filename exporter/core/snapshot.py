"""All that is known of a node at one moment, in the words of model.py and model_engines.py.

May not be in here: behaviour.
"""

from collections.abc import Mapping

from msgspec import Struct

from exporter.core.model import Gpu
from exporter.core.model_engines import ColdStart, Engine, EngineScrape


class Collector(Struct, frozen=True):
    """How a source is doing, whatever it reads."""

    name: str  # "nvml", "nvml-0" (of the GPU of that index), "xid", "kmsg", "dcgm", "kubelet", "kubernetes", "engines"
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
    cold_starts: tuple[ColdStart, ...] = ()  # quantiles by model and phase
