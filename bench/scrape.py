"""What an exporter of 8 GPUs and 8 engines costs, and how fast it answers, also when its sources hang.

The exporter is a real process with default intervals; the GPUs are tests/nvml's library behind the real
ctypes path, the engines real HTTP servers with a captured exposition whose numbers move.
"""

import asyncio
import itertools
import tempfile
import time
from contextlib import AsyncExitStack
from pathlib import Path

import aiohttp

from bench.figures import cpu_seconds, distribution, rss_mib
from bench.peers import engine, node
from tests.nvml.fake import FakeNvml

GPUS = ENGINES = 8
SCRAPES = 1000
PER_SECOND = 50.0  # so that the scrapes meet about 20 snapshots: one in fifty is the first of its snapshot
IDLE_SECONDS = 20.0


def main() -> None:
    asyncio.run(_main())


async def _main() -> None:
    async with AsyncExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        nvml = FakeNvml(folder, {"gpus": GPUS})
        stuck, beat = asyncio.Event(), itertools.count()
        urls = [await engine(stack, lambda: 20 + next(beat) % 9) for _ in range(ENGINES)]
        urls.append(await engine(stack, lambda: 3, stuck=stuck))
        exporter = await node(stack, nvml, urls)
        pid = exporter.process.pid
        session = await stack.enter_async_context(aiohttp.ClientSession())
        url = f"http://{exporter.addresses['web']}/metrics"
        await asyncio.sleep(3)  # every source has been read

        used, began = cpu_seconds(pid), time.monotonic()
        await asyncio.sleep(IDLE_SECONDS)
        share = (cpu_seconds(pid) - used) / (time.monotonic() - began)
        series, length = await size(session, url)
        print(f"exposition: {series} series, {length} bytes")
        print(f"CPU at default intervals, nobody scraping: {share * 100:.2f} % of a core over {IDLE_SECONDS:g} s")
        print(f"RSS: {rss_mib(pid):.1f} MiB")

        print(distribution("scrape, all well", await latencies(session, url)))
        nvml.set({f"gpu{i}.hang.nvmlDeviceGetPowerUsage": 30 for i in range(GPUS)})
        print(distribution("scrape, NVML hangs for 30 s", await latencies(session, url)))
        nvml.clear(*(f"gpu{i}.hang.nvmlDeviceGetPowerUsage" for i in range(GPUS)))
        stuck.set()
        print(distribution("scrape, an engine drips a byte a second", await latencies(session, url)))
        print(f"RSS after {3 * SCRAPES} scrapes: {rss_mib(pid):.1f} MiB")


async def size(session: aiohttp.ClientSession, url: str) -> tuple[int, int]:
    async with session.get(url) as response:
        body = await response.read()
    return sum(1 for line in body.splitlines() if not line.startswith(b"#")), len(body)


async def latencies(session: aiohttp.ClientSession, url: str) -> list[float]:
    """Latencies of SCRAPES requests, sent on a fixed beat whether or not the one before was slow."""
    began, seconds = time.monotonic(), []

    async def once(at: float) -> None:
        await asyncio.sleep(began + at - time.monotonic())
        sent = time.perf_counter()
        async with session.get(url) as response:
            await response.read()
        seconds.append(time.perf_counter() - sent)

    await asyncio.gather(*(once(i / PER_SECOND) for i in range(SCRAPES)))
    return seconds


if __name__ == "__main__":
    main()
