"""What the benchmarks run against: engines over real HTTP, whose numbers move with every scrape, and an exporter."""

import asyncio
import contextlib
from collections.abc import Callable, Sequence
from contextlib import AsyncExitStack
from pathlib import Path

from aiohttp import web

from tests.nvml.fake import FakeNvml
from tests.support.programs import Program, exporter

FIXTURE = Path(__file__).parents[1] / "tests/fixtures/engines/vllm-0.32.0-busy-queue.txt"
DRIPPED_BYTES = 60  # a byte a second


async def engine(
    stack: AsyncExitStack, waiting: Callable[[], int], model: str = "tiny", stuck: asyncio.Event | None = None
) -> str:
    """Starts a server of the captured exposition with this model and queue; once `stuck`, it drips. Returns its URL."""
    text, scrapes = FIXTURE.read_text().replace('model_name="tiny"', f'model_name="{model}"'), 0
    labels = f'{{engine="0",model_name="{model}"}}'

    async def metrics(request: web.Request) -> web.StreamResponse:
        nonlocal scrapes
        scrapes += 1
        if stuck is not None and stuck.is_set():
            return await _drip(request, text)
        body = text.replace(f"num_requests_waiting{labels} 28.0", f"num_requests_waiting{labels} {waiting()}.0")
        tokens = f"generation_tokens_total{labels}"
        return web.Response(text=body.replace(f"{tokens} 1349.0", f"{tokens} {1349 + scrapes}.0"))

    app = web.Application()
    app.router.add_get("/metrics", metrics)
    runner = web.AppRunner(app, access_log=None, shutdown_timeout=0.1)
    await runner.setup()
    stack.push_async_callback(runner.cleanup)
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    return f"http://127.0.0.1:{runner.addresses[0][1]}/metrics"


async def node(stack: AsyncExitStack, nvml: FakeNvml, urls: Sequence[str]) -> Program:
    """Starts an exporter with default settings on the fake driver and these engines."""
    program = await asyncio.to_thread(
        exporter,
        f"--engines={','.join(urls)}",
        f"--nvml.library={nvml.library}",
        gpu="nvml",
        environ=nvml.environ,
    )
    stack.push_async_callback(asyncio.to_thread, program.stop)
    return program


async def _drip(request: web.Request, text: str) -> web.StreamResponse:
    response = web.StreamResponse()
    await response.prepare(request)
    with contextlib.suppress(ConnectionError):  # the exporter has had enough
        for byte in text[:DRIPPED_BYTES].encode():
            await response.write(bytes([byte]))
            await asyncio.sleep(1)
    return response
