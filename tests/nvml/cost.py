"""What the NVML source costs: `python -m tests.nvml.cost [GPUS SECONDS]` prints CPU per poll and share of a core.

The fake driver's own time is in it; a real driver's calls go to the kernel and cost more, which no reader can save.
"""

import asyncio
import os
import sys
import tempfile
import time
from pathlib import Path

from exporter.sources.nvml import NvmlSource
from tests.nvml.fake import FakeNvml


async def measure(gpus: int, seconds: float, interval: float = 1.0) -> float:
    """CPU seconds of this process per second of wall time, with so many GPUs polled at the interval."""
    with tempfile.TemporaryDirectory() as directory:
        nvml = FakeNvml(Path(directory), {"gpus": gpus})
        os.environ.update(nvml.environ)
        source = NvmlSource(nvml.library, interval)
        source.start(lambda: None)
        await asyncio.sleep(2.0)  # what is asked once is asked
        assert len(source.samples()) == gpus
        cpu, wall = time.process_time(), time.monotonic()
        await asyncio.sleep(seconds)
        share = (time.process_time() - cpu) / (time.monotonic() - wall)
        await source.stop()
    return share


def main() -> None:
    gpus, seconds = (int(sys.argv[1]), float(sys.argv[2])) if sys.argv[2:] else (8, 10.0)
    share = asyncio.run(measure(gpus, seconds))
    sys.stdout.write(f"{gpus} GPUs at 1 s: {share:.3%} of a core, {share / gpus * 1e6:.0f} us CPU per poll\n")


if __name__ == "__main__":
    main()
