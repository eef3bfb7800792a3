"""Runs the exporter's own NVML source against this machine's driver and keeps all that it saw, as JSON.

tests/fixtures/nvml/README.md has the format. In a process of its own: `make test-gpu`.
"""

import asyncio
import json
import queue
import re
import threading
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import msgspec
import pynvml

from tests.gpu.tracer import Names, Tracer

FORMAT = 1
POLLS = 5
INTERVAL = 0.5  # s
#: So long NVML may take to open, and the polls beyond their own time: a GPU without persistence mode takes seconds to
#: wake.
PATIENCE = 30.0  # s
NO_GPU = (pynvml.NVML_ERROR_LIBRARY_NOT_FOUND, pynvml.NVML_ERROR_DRIVER_NOT_LOADED)


class NoGpu(Exception):
    """There is nothing to capture here. str() says why."""


class Refused(Exception):
    """There is a driver, but NVML cannot be opened. str() says why."""


def look(patience: float = PATIENCE) -> tuple[str, str]:
    """NVML's version and the driver's. Raises NoGpu and Refused, the latter too if that takes longer than `patience`.

    A thread that hangs in the driver is left behind.
    """
    came: queue.Queue[tuple[str, str] | Exception] = queue.Queue()

    def ask() -> None:
        try:
            came.put(_look())
        except Exception as error:
            came.put(error)

    threading.Thread(target=ask, name="look", daemon=True).start()
    try:
        said = came.get(timeout=patience)
    except queue.Empty:
        fix = "look for Xid errors and hung tasks in the kernel log; nvidia-smi must work here"
        raise Refused(f"NVML has not opened within {patience:g} s; {fix}") from None
    if isinstance(said, Exception):
        raise said
    return said


def _look() -> tuple[str, str]:
    try:
        pynvml.nvmlInit()
        count = pynvml.nvmlDeviceGetCount()
    except pynvml.NVMLError as error:
        if error.value in NO_GPU:
            raise NoGpu(f"no NVIDIA driver here (libnvidia-ml.so.1: {error})") from None
        raise Refused(f"NVML cannot be opened ({error}); nvidia-smi must work here") from None
    if not count:
        raise NoGpu("the NVIDIA driver has no GPU here")
    said = _text("nvmlSystemGetNVMLVersion"), _text("nvmlSystemGetDriverVersion")
    pynvml.nvmlShutdown()
    return said


def capture(polls: int = POLLS, interval: float = INTERVAL, patience: float = PATIENCE) -> dict[str, Any]:
    """All that the source saw in so many polls of each GPU. Raises NoGpu and Refused.

    patience: seconds that NVML has to open, and that the polls may take beyond their own time.
    Only in a process in which exporter.sources was not imported yet.
    """
    nvml, driver = look(patience)
    tracer = Tracer()
    tracer.install()
    from exporter.sources.nvml import NvmlSource

    died: list[str] = []
    threading.excepthook = lambda hook: died.append(f"{hook.thread and hook.thread.name}: {hook.exc_value!r}")
    news = threading.Event()
    source = NvmlSource(interval=interval)
    source.start(news.set)
    seen: dict[Any, list[Any]] = {}  # GPU -> its samples, one a poll
    seconds: dict[str, list[float]] = {}
    began = time.monotonic()
    while time.monotonic() - began < polls * interval + patience:
        news.wait(interval)
        news.clear()
        for key, sample in source.samples().items():
            samples = seen.setdefault(key, [])
            if not samples or samples[-1].at != sample.at:
                samples.append(sample)
                board = f"nvml-{sample.info.index}"
                took = [each.seconds for each in source.collectors() if each.name == board]
                seconds.setdefault(board, []).extend(took if not key.instance else [])
        boards = [each.name for each in source.collectors() if re.fullmatch(r"nvml-\d+", each.name)]
        if boards and all(len(seconds.get(board, [])) >= polls for board in boards):
            break
    collectors = [msgspec.to_builtins(each) for each in source.collectors()]
    threads = sorted(thread.name for thread in threading.enumerate() if thread.name.startswith("nvml"))
    asyncio.run(source.stop())

    at = [sample.at for samples in seen.values() for sample in samples]
    return _public(
        {
            "format": FORMAT,
            "driver": driver,
            "nvml": nvml,
            "interval": interval,
            "collectors": [{**each, "last_success": each["last_success"] is not None} for each in collectors],
            "threads": threads,
            "died": died,
            "poll_seconds": {board: [round(each, 6) for each in took] for board, took in sorted(seconds.items())},
            "samples": [
                {**msgspec.to_builtins(sample), "at": round(sample.at - min(at), 3)}
                for key in sorted(seen)
                for sample in seen[key]
            ],
            "calls": tracer.calls(),
        },
        tracer.names,
    )


def name_of(captured: Mapping[str, Any]) -> str:
    """The name of the capture's file."""
    boards = [sample["info"] for sample in captured["samples"] if not sample["info"]["key"].get("instance")]
    name = next((board["name"] for board in boards if board.get("name")), "gpu")
    mig = "-mig" if any(sample["info"]["key"].get("instance") for sample in captured["samples"]) else ""
    text = f"{name}{mig}-{captured['driver']}"
    return re.sub(r"[^a-z0-9.]+", "-", text.lower()).strip("-") + ".json"


def write(captured: Mapping[str, Any], directory: Path) -> Path:
    """Write the capture into the directory, one row a line."""
    directory.mkdir(parents=True, exist_ok=True)
    path = directory / name_of(captured)
    lines = [f"{json.dumps(key)}: {_rows(value)}" for key, value in captured.items()]
    path.write_text("{\n" + ",\n".join(lines) + "\n}\n", encoding="utf-8")
    return path


def percentile(values: list[float], share: float) -> float:
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, int(share * len(ordered)))]


def summary(captured: Mapping[str, Any]) -> str:
    """One line for a person."""
    polls = [took for board in captured["poll_seconds"].values() for took in board[1:]]  # the first asks for everything
    waits = "nvmlEventSetWait"
    calls = [(us, row["call"]) for row in captured["calls"] for us in row["microseconds"] if waits not in row["call"]]
    slowest = max(calls, default=(0, "none"))
    return (
        f"{len(captured['poll_seconds'])} GPUs, driver {captured['driver']}: {len(calls)} calls, "
        f"poll p99 {percentile(polls, 0.99) * 1e3 if polls else 0:.2f} ms of {len(polls)}, "
        f"slowest call {slowest[1]} {slowest[0] / 1e3:.2f} ms"
    )


def _rows(value: Any) -> str:
    if not isinstance(value, list) or not value:
        return json.dumps(value)
    return "[\n" + ",\n".join("  " + json.dumps(row) for row in value) + "\n]"


def _public(captured: Any, names: Names) -> Any:
    """The capture with every name of a board replaced. Raises ValueError if one should be left."""

    def plain(value: Any) -> Any:
        if isinstance(value, dict):
            return {key: plain(item) for key, item in value.items()}
        if isinstance(value, list):
            return [plain(item) for item in value]
        return names.text(value) if isinstance(value, str) else value

    public = plain(captured)
    if left := names.left_in(json.dumps(public)):
        raise ValueError(f"the capture still names {left[:3]}; mend tests/gpu/tracer.py before it is published")
    return public


def _text(call: str) -> str:
    try:
        return str(getattr(pynvml, call)())
    except pynvml.NVMLError:
        return ""
