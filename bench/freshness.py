"""How long from a change of vllm:num_requests_waiting at an engine until GetMetrics answers with it.

Engines, exporter and scaler are real, on loopback, with default settings. Each engine serves a model of its own and
changes its queue at a random moment; a client asks for the plain queue depth every 20 ms until it is there.
"""

import asyncio
import random
import tempfile
import time
from contextlib import AsyncExitStack
from functools import partial
from pathlib import Path

import grpc

from bench.figures import distribution
from bench.peers import engine, node
from scaler.pb import externalscaler_pb2 as pb
from scaler.pb import externalscaler_pb2_grpc as pb_grpc
from tests.nvml.fake import FakeNvml
from tests.support.programs import scaler

ENGINES = 8
CHANGES = 25  # of each engine
ASK_SECONDS = 0.02
GIVE_UP_SECONDS = 10.0


def main() -> None:
    asyncio.run(_main())


async def _main() -> None:
    rng = random.Random(1)  # noqa: S311 -- spreads the moments of change; nothing secret
    async with AsyncExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        nvml = FakeNvml(folder, {"gpus": ENGINES})
        queues = [28] * ENGINES
        urls = [await engine(stack, partial(queues.__getitem__, i), f"m{i}") for i in range(ENGINES)]
        exporter = await node(stack, nvml, urls)
        plimsoll = await asyncio.to_thread(scaler, exporter)
        stack.push_async_callback(asyncio.to_thread, plimsoll.stop)
        channel = await stack.enter_async_context(grpc.aio.insecure_channel(plimsoll.addresses["grpc"]))
        stub = pb_grpc.ExternalScalerStub(channel)
        await asyncio.gather(*(_until(stub, i, 28) for i in range(ENGINES)))
        seconds = await asyncio.gather(*(_changes(stub, queues, i, rng) for i in range(ENGINES)))
        print(distribution("change of waiting to GetMetrics", [s for each in seconds for s in each]))


async def _changes(stub: pb_grpc.ExternalScalerStub, queues: list[int], i: int, rng: random.Random) -> list[float]:
    seconds = []
    for _ in range(CHANGES):
        await asyncio.sleep(rng.uniform(0.2, 1.2))
        queues[i] = queues[i] + 1 if queues[i] < 60 else 5
        changed = time.perf_counter()
        await _until(stub, i, queues[i])
        seconds.append(time.perf_counter() - changed)
    return seconds


async def _until(stub: pb_grpc.ExternalScalerStub, i: int, waiting: int) -> None:
    """Returns when GetMetrics says that model `i` has `waiting` requests waiting."""
    ref = pb.ScaledObjectRef(
        name=f"m{i}", namespace="bench", scalerMetadata={"model": f"m{i}", "metric": "queue-depth"}
    )
    request = pb.GetMetricsRequest(scaledObjectRef=ref, metricName="queue-depth")
    deadline = time.monotonic() + GIVE_UP_SECONDS
    while time.monotonic() < deadline:
        try:
            answer = await stub.GetMetrics(request)
        except grpc.aio.AioRpcError as error:
            if error.code() is not grpc.StatusCode.UNAVAILABLE:
                raise
        else:
            if answer.metricValues[0].metricValue == waiting:
                return
        await asyncio.sleep(ASK_SECONDS)
    raise SystemExit(f"bench freshness: model m{i} never showed {waiting} waiting")


if __name__ == "__main__":
    main()
