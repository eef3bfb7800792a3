"""How long from an Xid in the driver until it is on /metrics, in the feed and in GetMetrics' explanation.

Exporter and scaler are real processes with default settings. Each of 16 GPUs serves a model of its own and falls off
the bus at a random moment; the three are asked every 10 ms.
"""

import asyncio
import json
import random
import tempfile
import time
from collections.abc import Awaitable, Callable
from contextlib import AsyncExitStack
from functools import partial
from pathlib import Path

import aiohttp
import grpc

from bench.figures import distribution
from bench.peers import engine
from exporter.pb import signals_pb2 as feed_pb
from exporter.pb.signals_pb2_grpc import SignalsStub
from scaler.pb import externalscaler_pb2 as pb
from scaler.pb.externalscaler_pb2_grpc import ExternalScalerStub
from tests.nvml.fake import FakeNvml
from tests.support.programs import exporter, scaler

GPUS = 16
ASK_SECONDS = 0.01
GIVE_UP_SECONDS = 10.0


def main() -> None:
    asyncio.run(_main())


async def _main() -> None:
    rng = random.Random(1)  # noqa: S311 -- spreads the moments; nothing secret
    async with AsyncExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        nvml = FakeNvml(folder, {"gpus": GPUS})
        targets = [
            {"url": await engine(stack, lambda: 3, f"m{i}"), "namespace": "bench", "pod": f"p{i}", "gpus": [str(i)]}
            for i in range(GPUS)
        ]
        listed = folder / "engines.json"
        listed.write_text(json.dumps(targets))
        arguments = ("--engines.file", str(listed), "--nvml.library", nvml.library)
        node = await asyncio.to_thread(exporter, *arguments, gpu="nvml", environ=nvml.environ)
        stack.push_async_callback(asyncio.to_thread, node.stop)
        plimsoll = await asyncio.to_thread(scaler, node)
        stack.push_async_callback(asyncio.to_thread, plimsoll.stop)
        session = await stack.enter_async_context(aiohttp.ClientSession())
        feed = SignalsStub(await stack.enter_async_context(grpc.aio.insecure_channel(node.addresses["feed"])))
        keda = ExternalScalerStub(
            await stack.enter_async_context(grpc.aio.insecure_channel(plimsoll.addresses["grpc"]))
        )
        places = {
            "/metrics": partial(_on_page, session, f"{node.web}/metrics"),
            "the feed": partial(_in_feed, feed),
            "GetMetrics' explanation": partial(_explained, keda),
        }
        await asyncio.gather(*(_until(partial(_answered, keda, i)) for i in range(GPUS)))
        seconds: dict[str, list[float]] = {place: [] for place in places}
        for gpu in range(GPUS):
            await asyncio.sleep(rng.uniform(0.2, 1.2))
            nvml.xid(gpu=gpu, code=79)
            fired = time.perf_counter()
            ends = await asyncio.gather(*(_until(partial(told, gpu)) for told in places.values()))
            for place, end in zip(places, ends, strict=True):
                seconds[place].append(end - fired)
        for place, each in seconds.items():
            print(distribution(f"Xid 79 to {place}", each))


async def _until(told: Callable[[], Awaitable[bool]]) -> float:
    """The moment at which it is told."""
    deadline = time.monotonic() + GIVE_UP_SECONDS
    while time.monotonic() < deadline:
        if await told():
            return time.perf_counter()
        await asyncio.sleep(ASK_SECONDS)
    raise SystemExit("bench xid: an Xid never arrived")


async def _on_page(session: aiohttp.ClientSession, url: str, gpu: int) -> bool:
    async with session.get(url) as response:
        page = await response.text()
    lost = (
        line for line in page.splitlines() if line.startswith("plimsoll_gpu_health_state") and 'state="lost"' in line
    )
    return any(f'gpu="{gpu}"' in line and line.endswith(" 1") for line in lost)


async def _in_feed(feed: SignalsStub, gpu: int) -> bool:
    call = feed.Watch(feed_pb.WatchRequest(client="bench"))
    message = await call.read()
    call.cancel()
    return any(one.index == str(gpu) and one.state == "lost" for one in message.gpus)


async def _answered(keda: ExternalScalerStub, gpu: int) -> bool:
    return bool(await _explanation(keda, gpu))


async def _explained(keda: ExternalScalerStub, gpu: int) -> bool:
    return "xid_79" in await _explanation(keda, gpu)


async def _explanation(keda: ExternalScalerStub, gpu: int) -> str:
    """What GetMetrics says beside its number; "" if it does not answer yet."""
    ref = pb.ScaledObjectRef(name=f"m{gpu}", namespace="bench", scalerMetadata={"model": f"m{gpu}"})
    call = keda.GetMetrics(pb.GetMetricsRequest(scaledObjectRef=ref, metricName="required-replicas"))
    try:
        await call
    except grpc.aio.AioRpcError as error:
        if error.code() is not grpc.StatusCode.UNAVAILABLE:
            raise
        return ""
    return str(dict(await call.trailing_metadata()).get("plimsoll-explanation", ""))


if __name__ == "__main__":
    main()
