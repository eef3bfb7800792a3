"""How long GetMetrics takes: 8 replicas, 200 calls a second, open loop, on loopback.

Open loop: calls start when their time has come, whether or not earlier ones were answered, and are timed from then;
so a scaler that stalls is charged for the calls that queued behind. Never fails by time: it prints.

Run: python -m bench.getmetrics
"""

import asyncio
import re
import sys
import time

from exporter.pb import signals_pb2 as pb
from tests.scaler.fakes import FakeExporter, Keda, engine, signals

REPLICAS = 8
CALLS_PER_SECOND = 200
SECONDS = 5.0
GOAL_MS = 5.0


async def measure(seconds: float = SECONDS) -> list[float]:
    """The time of each call in ms, in order of size."""
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
        calls = []
        start = time.perf_counter()
        for number in range(int(seconds * CALLS_PER_SECOND)):
            due = start + number / CALLS_PER_SECOND
            await asyncio.sleep(max(0.0, due - time.perf_counter()))
            calls.append(asyncio.create_task(_call(keda, due)))
        times = sorted(await asyncio.gather(*calls))
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


async def _call(keda: Keda, due: float) -> float:
    await keda.metrics()
    return (time.perf_counter() - due) * 1000


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
    times = asyncio.run(measure())

    def quantile(q: float) -> float:
        return times[min(len(times) - 1, int(q * len(times)))]

    print(
        f"GetMetrics, {REPLICAS} replicas, {CALLS_PER_SECOND} calls/s open loop, {len(times)} calls: "
        f"p50 {quantile(0.5):.2f} ms, p90 {quantile(0.9):.2f} ms, p99 {quantile(0.99):.2f} ms (goal < {GOAL_MS:g}), "
        f"max {times[-1]:.2f} ms"
    )


if __name__ == "__main__":
    main()
