"""What 56 MIG instances cost: 8 boards with 7 each, the fullest a node can be.

The driver is tests/nvml's library behind the real ctypes path, the exporter a real process with default intervals.
"""

import asyncio
import tempfile
from contextlib import AsyncExitStack
from pathlib import Path

import aiohttp

from bench.figures import cpu_seconds, distribution, rss_mib
from bench.peers import engine, node
from bench.scrape import latencies, size
from tests.nvml import cost
from tests.nvml.fake import FakeNvml

BOARDS, INSTANCES = 8, 7
POLL_SECONDS = IDLE_SECONDS = 15.0


def main() -> None:
    print(cost.shown(asyncio.run(cost.measure(BOARDS, POLL_SECONDS, INSTANCES))))
    asyncio.run(_exporter())


async def _exporter() -> None:
    async with AsyncExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        nvml = FakeNvml(folder, {"gpus": BOARDS, **cost.instances(BOARDS, INSTANCES)})
        urls = [await engine(stack, lambda: 20) for _ in range(BOARDS)]
        exporter = await node(stack, nvml, urls)
        pid = exporter.process.pid
        session = await stack.enter_async_context(aiohttp.ClientSession())
        url = f"http://{exporter.addresses['web']}/metrics"
        await asyncio.sleep(3)  # every source has been read
        used = cpu_seconds(pid)
        await asyncio.sleep(IDLE_SECONDS)
        print(f"CPU at default intervals: {(cpu_seconds(pid) - used) / IDLE_SECONDS * 100:.2f} % of a core")
        series, length = await size(session, url)
        print(f"exposition: {series} series, {length} bytes")
        print(distribution("scrape", await latencies(session, url)))
        print(f"RSS: {rss_mib(pid):.1f} MiB")


if __name__ == "__main__":
    main()
