"""How fast a vLLM page is read, against prometheus_client's parser on the same bytes in the same run.

Two pages: the captured busy one (48 kB), and the page that a server with 40 such engines would print: each series 40
times with labels of its own, families kept together, so that it is a valid page and both parsers read all of it.
prometheus_client keeps every sample of it; ours keeps the families that the exporter wants of all kinds of servers,
histograms included. What both keep is compared before anything is timed. Our parser remembers names and labels between
pages, as it does in the exporter, where the same servers are read every second; "first sight" is without. No number
stands still: each page differs in all of its numbers from the one before.

Then what reading costs an exporter in all: fetch, parse and readings of 8 real servers once a second.
"""

import asyncio
import re
import sys
import time
from asyncio.subprocess import PIPE
from collections.abc import Callable
from contextlib import AsyncExitStack
from functools import partial
from itertools import cycle
from pathlib import Path
from typing import NamedTuple

from prometheus_client.parser import text_string_to_metric_families

from bench.peers import engine
from exporter.core import engines
from exporter.core.engines import WANTED
from exporter.core.exposition import ExpositionError, parse
from exporter.core.exposition_lines import remembered_labels
from exporter.core.model_engines import EngineTarget
from exporter.kit.fetch import Fetcher
from exporter.sources.engines import EngineSource
from tests.exporter.pages import by_client_library, multiplied, page, said

FIXTURE = "vllm-0.32.0-busy-queue.txt"
COPIES = 40
ENGINES = 8
COST_SECONDS = 10.0

#: Pages that are to be refused at once, whatever they cost to look at.
PATHOLOGICAL = {
    "2 MB line": b'vllm:num_requests_waiting{a="' + b"x" * (2 << 20) + b'"} 1\n',
    "10,000 labels": b"vllm:num_requests_waiting{" + b",".join(b'l%d=""' % i for i in range(10_000)) + b"} 1\n",
    "7,000 labels in 64 kB": b"vllm:num_requests_waiting{" + b",".join(b'l%d=""' % i for i in range(7_000)) + b"} 1\n",
    "1M backslashes": b'vllm:num_requests_waiting{a="' + b"\\" * 1_000_000 + b'"} 1\n',
    "60k backslashes in 64 kB": b'vllm:num_requests_waiting{a="' + b"\\" * 60_000 + b'"} 1\n',
}


class Figures(NamedTuple):
    """Seconds for one page, the best of many."""

    size: int
    samples: int
    wanted: int
    ours: float
    first_sight: float
    readings: float  # parse and what engines.py makes of it
    client_library: float

    @property
    def ratio(self) -> float:
        return self.client_library / self.ours


def measure(body: bytes, rounds: int) -> Figures:
    """Time both parsers on the page, in turns, so that both meet the machine's good and bad moments.

    Raises AssertionError if they do not read the same.
    """
    expected = by_client_library(body, WANTED)
    assert said(parse(body, WANTED)) == expected
    counted = len(expected.series) + sum(len(known.edges) + 2 for known in expected.histograms.values())
    pages = cycle([moved(body, number) for number in range(5)])
    works: dict[str, Callable[[], object]] = {
        "client_library": lambda: _all_of(next(pages)),
        "ours": lambda: parse(next(pages), WANTED),
        "first_sight": lambda: parse(next(pages), WANTED),
        "readings": lambda: engines.read(next(pages)),
    }
    best = dict.fromkeys(works, float("inf"))
    for _ in range(rounds):
        for name, work in works.items():
            for _ in range(1 if name == "client_library" else 10):
                if name == "first_sight":
                    remembered_labels.cache_clear()
                    WANTED.blocks.clear()
                best[name] = min(best[name], _seconds(work))
    samples = sum(1 for line in body.splitlines() if not line.startswith(b"#"))
    return Figures(size=len(body), samples=samples, wanted=counted, **best)


def moved(body: bytes, number: int) -> bytes:
    """The page at another moment: every number that is not 0 is another one, as at a server where all things move."""
    return re.sub(rb" ([1-9][0-9.]*)$", lambda match: b" %.1f" % (float(match[1]) * (1 + number)), body, flags=re.M)


def refusals() -> dict[str, float]:
    """Seconds that it takes to refuse each pathological page, the worst of a few."""
    return {name: max(_seconds(partial(_refused, body)) for _ in range(5)) for name, body in PATHOLOGICAL.items()}


def main() -> None:
    one = page(FIXTURE)
    names = len({entry.family for entry in WANTED.samples.values()})
    print(f"wanted: {names} families, {len(WANTED.histograms)} of them histograms")
    for name, body, rounds in (("as captured", one, 300), (f"x {COPIES}", multiplied(one, COPIES), 15)):
        figures = measure(body, rounds)
        print(f"{name}: {figures.size} bytes, {figures.samples} samples, {figures.wanted} wanted")
        print(f"  prometheus_client {figures.client_library * 1e3:9.3f} ms")
        print(f"  ours              {figures.ours * 1e3:9.3f} ms  {figures.ratio:.0f} times as fast")
        first = figures.client_library / figures.first_sight
        print(f"  ours, first sight {figures.first_sight * 1e3:9.3f} ms  {first:.0f} times as fast")
        print(f"  ours, to readings {figures.readings * 1e3:9.3f} ms")
    for name, seconds in refusals().items():
        print(f"refused, {name}: {seconds * 1e3:.2f} ms")
    share = asyncio.run(_cost())
    print(f"{ENGINES} servers once a second, fetch to readings: {share * 100:.2f} % of a core over {COST_SECONDS:g} s")


def _seconds(work: Callable[[], object]) -> float:
    began = time.perf_counter()
    work()
    return time.perf_counter() - began


def _all_of(body: bytes) -> int:
    return sum(len(family.samples) for family in text_string_to_metric_families(body.decode()))


def _refused(body: bytes) -> None:
    try:
        parse(body, WANTED)
    except ExpositionError:
        return
    raise AssertionError("the page was read")


async def _cost() -> float:
    """CPU of this process for ENGINES servers in another one, as a share of a core."""
    server = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "bench.parser", "serve", stdout=PIPE, cwd=Path(__file__).parents[1]
    )
    fetcher = Fetcher()
    try:
        assert server.stdout is not None
        urls = (await server.stdout.readline()).decode().split()
        targets = [EngineTarget(url) for url in urls]
        source = EngineSource(lambda: targets, fetcher, 1.0, 2.0, lambda: None)
        task = asyncio.create_task(source.run())
        await asyncio.sleep(1.5)
        used, began = time.process_time(), time.monotonic()
        await asyncio.sleep(COST_SECONDS)
        share = (time.process_time() - used) / (time.monotonic() - began)
        task.cancel()
        assert not source.errors, source.errors
        assert len(source.last_good()) == ENGINES
        return share
    finally:
        await fetcher.close()
        server.kill()
        await server.wait()


async def _serve() -> None:
    """The servers of _cost: prints their URLs and serves until it is killed."""
    async with AsyncExitStack() as stack:
        print(*[await engine(stack, lambda: 28) for _ in range(ENGINES)], flush=True)
        await asyncio.Event().wait()


if __name__ == "__main__":
    if sys.argv[1:] == ["serve"]:
        asyncio.run(_serve())
    else:
        main()
