"""How long GetMetrics takes: 8 replicas, 200 calls a second, open loop, on loopback.

Open loop: calls start when their time has come, whether or not earlier ones were answered; so a scaler that stalls is
charged for all that came meanwhile. Never fails by time: it prints.

Run: python -m bench.getmetrics
"""

import asyncio
import re
import sys
import time
from collections.abc import Awaitable, Callable

from bench.figures import distribution
from exporter.pb import signals_pb2 as pb
from tests.scaler.fakes import FakeExporter, Keda, engine, signals

REPLICAS = 8
CALLS_PER_SECOND = 200
SECONDS = 5.0


async def measure(seconds: float = SECONDS) -> dict[str, list[float]]:
    """The time of each call in s: of GetMetrics, and of GetMetricSpec, which shows what gRPC alone takes."""
    exporter = FakeExporter()
    await exporter.start()
    exporter.send(_load(0))
    arguments = ["--exporters", exporter.address, "--grpc.listen-address", "127.0.0.1:0"]
    arguments += ["--web.listen-address", "127.0.0.1:0"]
    scaler = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "scaler", *arguments, stderr=asyncio.subprocess.PIPE
    )
    try:
        keda = Keda(await _port(scaler), {"model": "llama"})
        await keda.until_value()
        feeding = asyncio.create_task(_feed(exporter))
        times = {
            "GetMetrics": await _open_loop(keda.metrics, seconds),
            "GetMetricSpec, for comparison": await _open_loop(keda.spec, seconds),
        }
        feeding.cancel()
        await keda.channel.close()
        return times
    finally:
        scaler.terminate()
        await scaler.communicate()
        await exporter.stop()


async def _port(scaler: asyncio.subprocess.Process) -> int:
    """The port in the scaler's ready line."""
    if scaler.stderr is not None:
        async for line in scaler.stderr:
            if found := re.search(rb"listening grpc=\S*:(\d+)", line):
                return int(found[1])
    raise SystemExit("the scaler did not start")


async def _open_loop(call: Callable[[], Awaitable[object]], seconds: float) -> list[float]:
    async def timed() -> float:
        sent = time.perf_counter()
        await call()
        return time.perf_counter() - sent

    start = time.perf_counter()
    calls = []
    for number in range(int(seconds * CALLS_PER_SECOND)):
        await asyncio.sleep(max(0.0, start + number / CALLS_PER_SECOND - time.perf_counter()))
        calls.append(asyncio.create_task(timed()))
    return list(await asyncio.gather(*calls))


async def _feed(exporter: FakeExporter) -> None:
    """The node's state changes ten times a second, so that decisions are made and not only repeated."""
    number = 0
    while True:
        number += 1
        exporter.send(_load(number))
        await asyncio.sleep(0.1)


def _load(number: int) -> pb.NodeSignals:
    pods = [
        engine(f"llama-{i}", waiting=float((number + i) % 30), running=float(i), kv_usage=0.1 * i)
        for i in range(REPLICAS)
    ]
    return signals(*pods, sequence=number)


def main() -> None:
    print(f"{REPLICAS} replicas, {CALLS_PER_SECOND} calls/s of each, open loop")
    for name, seconds in asyncio.run(measure()).items():
        print(distribution(name, seconds))


if __name__ == "__main__":
    main()
