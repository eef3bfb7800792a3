"""What a step of the node is made of: all that the sources last said, and the limits of what is published.

May not be in here: deriving anything.
"""

from collections.abc import Mapping, Sequence
from typing import TypeVar

from msgspec import Struct, field

from exporter.core import join
from exporter.core.drift import Standard
from exporter.core.model import GpuSample, KubeletReading, XidEvent
from exporter.core.model_engines import EngineScrape, EngineTarget, PodFacts
from exporter.core.snapshot import Collector

#: How many of a kind are published at most; what is above is left out and counted. Far above what is real (16 boards
#: with 7 MIG instances, 256 targets with 2 engines, vLLM's 5 reasons), far below what would hurt Prometheus.
LIMITS: Mapping[str, int] = {
    "gpu": 256,
    "pod": 64,  # of a GPU: time slices
    "xid": 64,  # codes of a GPU
    "engine": 512,
    "finished_reason": 16,  # of an engine
    "waiting_reason": 16,  # of an engine
    "cold_start": 256,  # models times phases
}

#: Seconds for which a reading counts, by source: three default polls; for engines with the last one's time limit.
FRESH_SECONDS: Mapping[str, float] = {**join.FRESH_SECONDS, "kmsg": 3.0, "kubelet": 18.0, "engines": 5.0}


T = TypeVar("T")


class NodeInputs(Struct, frozen=True):
    """What the sources last said."""

    node: str
    samples: Sequence[GpuSample] = ()
    xids: Sequence[XidEvent] = ()  # new since the last step
    kernel_log: bool = False  # whether it is being read: then every board's Xids would be noticed
    driver_loaded_at: float | None = None  # when it was last seen to be loaded anew, which resets every GPU
    kubelet: KubeletReading | None = None  # its last good answer
    standard: Standard = Standard()
    boot: str = ""  # the boot id; "" is unknown
    targets: Sequence[EngineTarget] = ()  # all that are to be watched now
    scrapes: Mapping[str, EngineScrape] = {}  # url -> last attempt
    last_good: Mapping[str, EngineScrape] = {}  # url -> last attempt that gave readings
    scrape_errors: Mapping[tuple[str, str], int] = {}
    collectors: Sequence[Collector] = ()
    pods: Mapping[tuple[str, str], PodFacts] = {}  # (namespace, pod) -> what Kubernetes tells of it
    containers: Mapping[int, str] = {}  # pid of a process on a GPU -> id of its container, where that can be told
    wall: float | None = None  # Unix seconds at the step, to hold against Kubernetes' stamps; None: not told
    fresh: Mapping[str, float] = field(default_factory=lambda: FRESH_SECONDS)


def first(items: Sequence[T], kind: str, overflow: dict[str, int]) -> Sequence[T]:
    """As many as LIMITS allows; the others are counted."""
    count(len(items), kind, overflow)
    return items[: LIMITS[kind]]


def count(number: int, kind: str, overflow: dict[str, int]) -> None:
    if number > LIMITS[kind]:
        overflow[kind] = overflow.get(kind, 0) + number - LIMITS[kind]
