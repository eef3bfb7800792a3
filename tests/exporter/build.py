"""Values for tests of what is made of a snapshot: a node with eight GPUs and eight engines, and parts of it."""

from collections.abc import Iterable, Mapping
from typing import Any

from exporter.core.inputs import NodeInputs
from exporter.core.model import GpuInfo, GpuKey, GpuSample, PodRef, XidEvent
from exporter.core.model_engines import EngineReading, EngineScrape, EngineTarget
from exporter.core.node import NodeMemory, step
from exporter.core.signals import NVLINKS, SIGNALS
from exporter.core.snapshot import Collector, Snapshot

START = 1000.0
NODE = "node-1"


def gpu_key(index: int) -> GpuKey:
    return GpuKey(f"GPU-{index:04d}")


#: What a GPU that is well says, where 0 would be no such value.
WELL = {
    "ecc_enabled": 1.0, "persistence": 1.0, "xid_watched": 1.0, "mig_enabled": 0.0,
    "temperature_margin": 40.0, "margin_slowdown": -2.0, "margin_shutdown": -8.0, "temperature_slowdown": 90.0,
    "pcie_generation": 5.0, "pcie_generation_max": 5.0, "pcie_width": 16.0, "pcie_width_max": 16.0,
    "fabric_state": 3.0, "fabric_status": 0.0, "fabric_health": float(0x1AA), "fabric_summary": 1.0,
    **{f"nvlink_up_{link}": 1.0 for link in range(NVLINKS)},
}  # fmt: skip
#: Begin of signals that are 0 where all is well.
QUIET = ("ecc", "sram", "remap", "retired", "throttle", "recovery", "pcie_replays", "nvlink")


def sample(index: int = 0, at: float = START, **changes: Any) -> GpuSample:
    """Every signal of a GPU that is well: errors and throttling 0."""
    values = {s.name: 0.0 if s.name.startswith(QUIET) else 10.0 + index for s in SIGNALS} | WELL
    info = GpuInfo(gpu_key(index), str(index), "NVIDIA H100 80GB HBM3", f"00000000:{index:02X}:00.0", "570.133.20")
    fields: dict[str, Any] = {"info": info, "source": "nvml", "at": at, "values": values, **changes}
    return GpuSample(**fields)


def target(index: int = 0) -> EngineTarget:
    pod = PodRef("inference", f"llama-{index}", "vllm")
    return EngineTarget(f"http://10.0.0.{index}:8000/metrics", pod, {"app": "llama"}, (str(index),))


def reading(**changes: Any) -> EngineReading:
    fields: dict[str, Any] = {
        "model": "meta-llama/Llama-3.1-8B",
        "engine": "0",
        "waiting": 3.0,
        "running": 7.0,
        "kv_usage": 0.25,
        "kv_capacity_tokens": 100000.0,
        "prompt_tokens_total": 12345.0,
        "generation_tokens_total": 67890.0,
        "preemptions_total": 1.0,
        "rejections_total": 0.0,
        "finished": {"stop": 100.0, "length": 5.0, "abort": 1.0},
        "sleeping": False,
        **changes,
    }
    return EngineReading(**fields)


def scrape(of: EngineTarget, *readings: EngineReading, at: float = START) -> EngineScrape:
    return EngineScrape(of, at, 0.004, "vllm", readings or (reading(),))


def failure(of: EngineTarget, at: float, error: str = "timeout") -> EngineScrape:
    return EngineScrape(of, at, 2.0, error=error, message=f"{of.url}: no answer in 2 s; is the server up?")


def inputs(
    good_scrapes: Iterable[EngineScrape] = (),
    samples: Iterable[GpuSample] = (),
    xids: Iterable[XidEvent] = (),
    **more: Any,
) -> NodeInputs:
    """What the sources say when the scrapes are the newest of their targets; `more` sets fields of NodeInputs."""
    good: Mapping[str, EngineScrape] = {one.target.url: one for one in good_scrapes}
    fields: dict[str, Any] = {
        "samples": tuple(samples),
        "xids": tuple(xids),
        "targets": tuple(one.target for one in good.values()),
        "scrapes": good,
        "last_good": good,
        **more,
    }
    return NodeInputs(NODE, **fields)


def full(count: int = 8, at: float = START) -> Snapshot:
    """A node at work: `count` GPUs and engines, each reading there is."""
    said = inputs(
        [scrape(target(index), at=at) for index in range(count)],
        [sample(index, at) for index in range(count)],
        [XidEvent(gpu_key(0), 79, at, "nvml"), XidEvent(gpu_key(0), 13, at, "nvml")],
        scrape_errors={(target(0).url, "timeout"): 2},
        collectors=(
            Collector("nvml", True, 0.011, at),
            Collector("engines", False, 0.5, None, "engines: no server answers; look at the errors below"),
        ),
    )
    return step(NodeMemory(), said, at)[0]
