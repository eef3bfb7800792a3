"""A capture (capture.py) back through the exporter's core: its samples, and the node that they make."""

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import msgspec

from exporter.core.inputs import NodeInputs
from exporter.core.model import Gpu, GpuKey, GpuSample
from exporter.core.node import NodeMemory, step
from exporter.core.snapshot import Snapshot


def read(path: Path) -> dict[str, Any]:
    captured: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    return captured


def samples(captured: Mapping[str, Any]) -> tuple[GpuSample, ...]:
    """All samples, in the order of their polls."""
    return tuple(sorted(msgspec.convert(captured["samples"], tuple[GpuSample, ...]), key=lambda sample: sample.at))


def snapshots(captured: Mapping[str, Any]) -> Iterator[Snapshot]:
    """The node after each poll of each GPU, as the exporter would have made it."""
    memory, newest = NodeMemory(), dict[GpuKey, GpuSample]()
    for sample in samples(captured):
        newest[sample.info.key] = sample
        snapshot, memory = step(memory, NodeInputs("captured", tuple(newest.values())), sample.at)
        yield snapshot


def must_be_known(gpu: Gpu) -> bool:
    """Whether nothing excuses an unknown verdict: a board that says whether ECC is on has all that one takes."""
    return "ecc_enabled" in gpu.readings and not gpu.info.key.instance


def calls(captured: Mapping[str, Any]) -> Iterator[tuple[str, str, int]]:
    """(call, of what, microseconds) of every call that does not wait by design."""
    for row in captured["calls"]:
        if not row["call"].startswith("nvmlEventSetWait"):
            for microseconds in row["microseconds"]:
                yield row["call"], row["of"], microseconds
