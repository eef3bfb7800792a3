"""What the NVML source costs: `python -m tests.nvml.cost [GPUS SECONDS [INSTANCES_PER_GPU]]` prints CPU and wall time.

The fake driver's own time is in it; a real driver's calls go to the kernel and cost more, which no reader can save.
"""

import asyncio
import os
import sys
import tempfile
import time
from pathlib import Path
from typing import NamedTuple

from exporter.sources.nvml import NvmlSource
from tests.nvml.fake import FakeNvml


class Cost(NamedTuple):
    gpus: int
    instances: int  # of each
    share: float  # CPU seconds of this process per second of wall time
    poll_p50: float  # seconds of one board's poll, its instances with it
    poll_p99: float
    round_p50: float  # seconds from a tick until every board and instance has been read
    round_max: float
    rounds: int


def instances(gpus: int, each: int) -> dict[str, object]:
    """The fake's state of a node whose boards are cut into so many MIG instances; 0: MIG is off."""
    made: dict[str, object] = {}
    for gpu in range(gpus if each else 0):
        made[f"gpu{gpu}.mig_mode"] = 1
        for i in range(each):
            made[f"gpu{gpu}.mig{i}"] = f"{i + 7},0,MIG-{gpu}-{i},NVIDIA H100 80GB HBM3 MIG 1g.10gb,{10 << 30},{9 << 30}"
    return made


async def measure(gpus: int, seconds: float, each: int = 0, interval: float = 1.0) -> Cost:
    """Polls the GPUs, each with so many MIG instances, at the interval for so long. Changes os.environ for good."""
    with tempfile.TemporaryDirectory() as directory:
        nvml = FakeNvml(Path(directory), {"gpus": gpus, **instances(gpus, each)})
        os.environ.update(nvml.environ)
        news = [0.0]

        def note() -> None:
            news[0] = time.monotonic()

        source = NvmlSource(nvml.library, interval)
        source.start(note)
        await asyncio.sleep(2.0)  # what is asked once is asked
        assert len(source.samples()) == gpus * (1 + each)
        polls, rounds = [], []
        cpu, wall = time.process_time(), time.monotonic()
        while time.monotonic() - wall < seconds:
            # Halfway between two ticks everything has been read.
            await asyncio.sleep(interval - (time.monotonic() + interval / 2) % interval)
            polls += [one.seconds for one in source.collectors() if one.name.startswith("nvml-")]
            rounds.append(news[0] - min(sample.at for sample in source.samples().values()))
        share = (time.process_time() - cpu) / (time.monotonic() - wall)
        await source.stop()
    polls.sort()
    rounds.sort()
    p99 = polls[min(len(polls) - 1, int(0.99 * len(polls)))]
    return Cost(gpus, each, share, polls[len(polls) // 2], p99, rounds[len(rounds) // 2], rounds[-1], len(rounds))


def shown(cost: Cost) -> str:
    node = f"{cost.gpus} GPUs" + (f" with {cost.instances} MIG instances each" if cost.instances else "")
    return (
        f"{node} at 1 s: {cost.share:.3%} of a core, {cost.share / cost.gpus * 1e6:.0f} us CPU per poll of a board\n"
        f"poll of a board: p50 {cost.poll_p50 * 1e3:.2f} ms, p99 {cost.poll_p99 * 1e3:.2f} ms\n"
        f"round over all: p50 {cost.round_p50 * 1e3:.2f} ms, worst of {cost.rounds} {cost.round_max * 1e3:.2f} ms"
    )


def main() -> None:
    gpus, seconds = (int(sys.argv[1]), float(sys.argv[2])) if sys.argv[2:] else (8, 10.0)
    each = int(sys.argv[3]) if sys.argv[3:] else 0
    sys.stdout.write(shown(asyncio.run(measure(gpus, seconds, each))) + "\n")


if __name__ == "__main__":
    main()
