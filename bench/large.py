"""Many servers, and large ones, and ones that mean no good: what they cost an exporter, and whether it stays itself.

The exporter is the real program with default settings and nothing but engines, in a process of its own in which the
event loop's lag is taken as well (every 10 ms: how much later than asked a timer rings). The servers are in another
process (tests/support/engines.py, Farm). A cycle asks all servers, one after the other, and is over when the last has
been read: the oldest reading on the page is never older than the interval, the cycle and the snapshot's own second.
"""

import asyncio
import os
import socket
import sys
import time
from itertools import pairwise
from pathlib import Path
from tempfile import TemporaryDirectory
from types import TracebackType
from typing import Self

import msgspec

from bench.figures import cpu_seconds, distribution, rss_mib
from exporter import app, settings
from exporter.kit import log
from exporter.kit.run import run
from tests.support.engines import MODELS, REASONS, Farm
from tests.support.programs import START_SECONDS, Program, get, samples

WATCH_SECONDS = 20.0
SERVERS = 64
SCALES = (8, 64, 256)
ATTACK = 1_000_000  # label values
PARALLEL = 100
LAG_SECONDS = 0.01
_LAGS = "PLIMSOLL_BENCH_LAGS"


class Watched:
    """An exporter of these servers. `lags()` ends it and tells its loop's lags in seconds."""

    def __init__(self, urls: list[str], *arguments: str, timer: bool = True) -> None:
        self._folder = TemporaryDirectory()
        self._lags = Path(self._folder.name) / "lags.json"
        listed = Path(self._folder.name) / "engines.json"
        listed.write_bytes(msgspec.json.encode(urls))
        quiet = ("--gpu.source=off", "--kmsg.file=off", "--kubelet.socket=off", "--node=box")
        ports = ("--web.listen-address=127.0.0.1:0", "--feed.listen-address=127.0.0.1:0")
        module = "bench.large" if timer else "exporter"  # the timer takes 1 % of a core by itself
        self.program = Program(
            module, f"--engines.file={listed}", *quiet, *ports, *arguments, environ={_LAGS: str(self._lags)}
        )
        self.pid = self.program.process.pid

    def page(self) -> dict[str, float]:
        return samples(get(f"{self.program.web}/metrics", seconds=START_SECONDS)[1])

    def lags(self) -> list[float]:
        self.program.stop(START_SECONDS)
        return msgspec.json.decode(self._lags.read_bytes(), type=list[float])

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.program.__exit__(kind, error, trace)
        self._folder.cleanup()


def main() -> None:
    for part in (cost, large, slow, bombs, attack, scrapes):
        part()


def cost() -> None:
    """CPU for one captured page a server and second at several numbers of servers, and what each one more costs."""
    found: list[tuple[int, float]] = []
    for count in SCALES:
        with Farm(busy=count) as farm, Watched(farm.all, timer=False) as node:
            time.sleep(4.0)  # all have been read, and the label sets are known
            share = _share(node, WATCH_SECONDS)
            errors = _sum(node.page(), "plimsoll_engine_scrape_errors_total")
            each = share * 1000 / count
            found.append((count, share * 1000))
            print(
                f"{count} servers of 48 kB once a second: {share * 100:.2f} % of a core, "
                f"{each:.3f} ms a server and second, RSS {rss_mib(node.pid):.1f} MiB, errors {errors:g}"
            )
    for (few, less), (many, more) in pairwise(found):
        print(f"each server from {few} to {many}: {(more - less) / (many - few):.3f} ms of CPU a second")


def large() -> None:
    """64 servers of 10,000 series each, in two shapes."""
    for kind, shape in (("ranks", "25 engines each"), ("wide", "one engine each")):
        with Farm(**{kind: SERVERS}) as farm, Watched(farm.all) as node:
            time.sleep(4.0)
            cycles, oldest, ended = [], [], time.monotonic() + WATCH_SECONDS
            used = cpu_seconds(node.pid)
            while time.monotonic() < ended:
                time.sleep(1.0)
                page = node.page()
                cycles.append(page['plimsoll_collector_duration_seconds{collector="engines"}'])
                oldest.append(max(age for name, age in page.items() if "engine_reading_age_seconds{" in name))
            share = (cpu_seconds(node.pid) - used) / WATCH_SECONDS
            failed = _sum(page, "plimsoll_engine_scrape_errors_total")
            print(
                f"{SERVERS} servers of 10,000 series, {shape}: {share * 100:.0f} % of a core, "
                f"RSS {rss_mib(node.pid):.1f} MiB, errors {failed:g}"
            )
            print(distribution(f"  slowest fetch and parse, {kind}", cycles))
            print(distribution(f"  age of the oldest reading, {kind} (interval and cycle)", oldest))
            print(distribution(f"  loop lag, {kind}", node.lags()))


def slow() -> None:
    """64 servers of which 32 drip: how old the readings of the others are, on the page, at any moment."""
    with Farm(busy=SERVERS // 2, drip=SERVERS // 2) as farm, Watched(farm.all) as node:
        time.sleep(4.0)
        ages, ended = [], time.monotonic() + WATCH_SECONDS
        while time.monotonic() < ended:
            page = node.page()
            ages += [age for name, age in page.items() if "_reading_age_seconds{" in name and "/busy/" in name]
            time.sleep(0.05)
        print(distribution(f"age of the healthy half's readings, {SERVERS // 2} of {SERVERS} drip", ages))
        print(f"  errors of the healthy half: {_sum(page, 'plimsoll_engine_scrape_errors_total', '/busy/'):g}")


def bombs() -> None:
    """1 GiB in a gzip, bodies without an end, redirects: what they add to the exporter's memory."""
    for count in (1, 16):
        with Farm(busy=8, bomb=count, endless=count, redirect=count) as farm, Watched(farm.urls["busy"]) as node:
            time.sleep(4.0)
            before = _peak_mib(node.pid)
            node.program.stop()
            with Watched(farm.all) as hit:
                time.sleep(WATCH_SECONDS)
                page = hit.page()
                reasons = {
                    kind: sorted(
                        name.partition('reason="')[2].rstrip('"}')
                        for name in page
                        if name.startswith("plimsoll_engine_scrape_errors_total") and f"/{kind}/0" in name
                    )
                    for kind in ("bomb", "endless", "redirect")
                }
                print(
                    f"{count} each of bombs, endless bodies, redirects: peak RSS {before:.1f} -> "
                    f"{_peak_mib(hit.pid):.1f} MiB; {reasons}"
                )
                print(distribution("  loop lag", hit.lags()))


def attack() -> None:
    """A million label values: servers whose models and reasons are new at each scrape, five times a second."""
    with Farm(attack=SERVERS) as farm, Watched(farm.all, "--engines.interval=0.2") as node:
        while True:
            time.sleep(10.0)
            values = farm.asked() * (MODELS + REASONS)
            page = node.page()
            kept = sum(value for name, value in page.items() if name.startswith("plimsoll_overflow_total"))
            print(
                f"{values:8d} label values: {len(page)} series on the page, {kept:.0f} things left out, "
                f"RSS {rss_mib(node.pid):.1f} MiB",
                flush=True,
            )
            if values > ATTACK:
                break
        print(distribution("  loop lag under attack", node.lags()))


def scrapes() -> None:
    """100 parallel scrapes of a page of 10,000 series of ours."""
    with Farm(ranks=16) as farm, Watched(farm.all) as node:
        time.sleep(4.0)
        series = len(node.page())
        seconds = asyncio.run(_parallel(node.program.addresses["web"]))
        print(distribution(f"{PARALLEL} parallel scrapes of {series} series", seconds))


async def _parallel(address: str) -> list[float]:
    """Seconds of ten times PARALLEL requests at once, by bare sockets: a client library costs more than the server."""
    loop = asyncio.get_running_loop()
    host, _, port = address.rpartition(":")
    buffers = [bytearray(1 << 18) for _ in range(PARALLEL)]

    async def once(buffer: bytearray) -> float:
        sent = time.perf_counter()
        with socket.socket() as client:
            client.setblocking(False)
            await loop.sock_connect(client, (host, int(port)))
            await loop.sock_sendall(client, b"GET /metrics HTTP/1.1\r\nHost: bench\r\nConnection: close\r\n\r\n")
            while await loop.sock_recv_into(client, buffer):
                pass
        return time.perf_counter() - sent

    found: list[float] = []
    for _ in range(10):
        found += await asyncio.gather(*map(once, buffers))
        await asyncio.sleep(0.7)  # so that they meet several snapshots
    return found


def _share(node: Watched, seconds: float) -> float:
    used, began = cpu_seconds(node.pid), time.monotonic()
    time.sleep(seconds)
    return (cpu_seconds(node.pid) - used) / (time.monotonic() - began)


def _sum(page: dict[str, float], family: str, having: str = "") -> float:
    return sum(value for name, value in page.items() if name.startswith(family + "{") and having in name)


def _peak_mib(pid: int) -> float:
    """The most memory that a process has ever had resident, in MiB (Linux)."""
    status = Path(f"/proc/{pid}/status").read_text()
    return next(int(line.split()[1]) for line in status.splitlines() if line.startswith("VmHWM")) / 1024


def _exporter() -> int:
    """The program itself, with a timer beside it; its lags are written when it ends."""
    lags: list[float] = []

    async def sample() -> None:
        while True:
            asked = time.monotonic()
            await asyncio.sleep(LAG_SECONDS)
            lags.append(max(0.0, time.monotonic() - asked - LAG_SECONDS))

    async def both() -> int:
        timer = asyncio.create_task(sample())
        code = await app.run(values)
        timer.cancel()
        return code

    values = settings.read(sys.argv[1:], os.environ)
    log.setup(values.log_level, values.log_format)
    code = run(both())
    Path(os.environ[_LAGS]).write_bytes(msgspec.json.encode(lags))
    return code


if __name__ == "__main__":
    sys.exit(_exporter() if _LAGS in os.environ else main())
