"""One run of the demo: starts everything, says where it is, ends everything.

May not be in here: what happens in between (story.py).
"""

import asyncio
import contextlib
import signal
import tempfile
from collections.abc import Iterator
from pathlib import Path

import aiohttp

from scaler.demo.cluster import DEPLOYMENT, GPUS, MODEL, NAMESPACE, Cluster
from scaler.demo.processes import Program
from scaler.demo.scenarios import SCENARIOS
from scaler.demo.screen import BOLD, Screen
from scaler.demo.story import COLD_START, METADATA, SPEED, Story, keda
from scaler.simulate.hpa import DOWNSCALE_WINDOW, SYNC_PERIOD


async def run(name: str, duration: float, seed: int, screen: Screen) -> None:
    """Plays a scenario; ends when `duration` (seconds) is over, or on SIGINT or SIGTERM, with the summary.

    Raises ProgramError when exporter or scaler does not start, or ends by itself.
    """
    told_to = asyncio.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        asyncio.get_running_loop().add_signal_handler(number, told_to.set)
    screen.line(f"plimsoll demo, {name}: {SCENARIOS[name].about}", BOLD)
    for line in _setting(SCENARIOS[name].replicas):
        screen.line(line)
    story = Story(SCENARIOS[name], duration, seed, screen)

    playing = asyncio.create_task(_play(story, SCENARIOS[name].replicas, screen))
    stopping = asyncio.create_task(told_to.wait())
    await asyncio.wait({playing, stopping}, return_when=asyncio.FIRST_COMPLETED)
    for task in (playing, stopping):
        task.cancel()
    with contextlib.suppress(asyncio.CancelledError):
        await playing
    screen.line()
    for line in story.summary():
        screen.line(line)


async def _play(story: Story, replicas: int, screen: Screen) -> None:
    """Everything that has to be ended again, around the story."""
    async with contextlib.AsyncExitStack() as stack:
        directory = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="plimsoll-demo-")))
        cluster = Cluster(directory, story.gateway, COLD_START, story.say)
        stack.push_async_callback(cluster.close)
        await cluster.scale(replicas, 0.0, cold_start=0.0)
        ticking = asyncio.create_task(story.tick(cluster))
        stack.callback(ticking.cancel)

        exporter = Program("exporter", _exporter_arguments(cluster))
        stack.push_async_callback(exporter.stop)
        await exporter.start()
        scaler = Program("scaler", _scaler_arguments(exporter.addresses["feed"]))
        stack.push_async_callback(scaler.stop)
        await scaler.start()
        node, web = exporter.addresses["web"], scaler.addresses["web"]
        screen.line(f"  meanwhile: exporter http://{node}/ and http://{node}/metrics, scaler http://{web}/")
        screen.line(f"  and: plimsoll explain {NAMESPACE}/{DEPLOYMENT} --scaler http://{web}\n")

        session = await stack.enter_async_context(aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(2.0)))
        scaled = keda(scaler.addresses["grpc"])
        stack.push_async_callback(scaled.close)
        work = (story.tell(cluster, scaled), story.watch(session, f"http://{node}/metrics"))
        tasks = {ticking, *map(asyncio.create_task, (*work, exporter.died(), scaler.died()))}
        for task in tasks:
            stack.callback(task.cancel)
        done, _ = await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
        for task in done:
            task.result()  # raises what ended it


def _setting(replicas: int) -> Iterator[str]:
    yield (
        f"  one fake node with {GPUS} GPUs, {replicas} fake vLLM servers of {MODEL}, the real exporter and scaler; "
        "all on 127.0.0.1"
    )
    spans = {"HPA sync": SYNC_PERIOD, "cold start": COLD_START, "down window": DOWNSCALE_WINDOW}
    yield f"  the clock of load, engines, KEDA and HPA runs {SPEED:g}x: " + ", ".join(
        f"{name} {seconds:g} s = {seconds / SPEED:g} s" for name, seconds in spans.items()
    )
    yield "  needed is the scaler's answer to KEDA; replicas +2 means that two more are loading their model"
    yield "  trigger metadata, in real time: " + " ".join(f"{key}={value}" for key, value in METADATA.items())


def _exporter_arguments(cluster: Cluster) -> list[str]:
    return [
        "--gpu.source=demo",
        f"--demo.file={cluster.gpus_file}",
        f"--engines.file={cluster.engines_file}",
        "--engines.interval=500ms",
        "--kmsg.file=off",
        "--kubelet.socket=off",
        "--node=demo-node",
        "--web.listen-address=127.0.0.1:0",
        "--feed.listen-address=127.0.0.1:0",
    ]


def _scaler_arguments(feed: str) -> list[str]:
    return [f"--exporters={feed}", "--grpc.listen-address=127.0.0.1:0", "--web.listen-address=127.0.0.1:0"]
