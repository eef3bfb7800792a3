"""A fake cluster of one node: fake GPUs in a file, a Deployment of fake engines with real ports, a cold start.

May not be in here: printing, the decision how many replicas there shall be.
"""

import asyncio
import json
import os
import socket
from collections.abc import Callable
from pathlib import Path
from typing import Any

from aiohttp import web

from scaler.demo import exposition
from scaler.demo.engine import Engine, Profile
from scaler.demo.traffic import Gateway
from scaler.simulate.hpa import Scale

GPUS = 8
NAMESPACE, DEPLOYMENT, MODEL = "demo", "chat", "llama-3.1-8b"


class Pod:
    """One replica. `engine` is None while it loads: its port refuses, as that of a loading vLLM does."""

    def __init__(self, name: str, gpu: int, ready_at: float) -> None:
        self.name = name
        self.gpu = gpu
        self.ready_at = ready_at
        self.engine: Engine | None = None
        self._socket = socket.socket()
        self._socket.bind(("127.0.0.1", 0))  # bound and not listening: the port is ours, and it refuses
        self._runner: web.AppRunner | None = None
        self.url = f"http://127.0.0.1:{self._socket.getsockname()[1]}/metrics"

    async def load(self, engine: Engine) -> None:
        """The model is loaded: from now on the port answers."""
        application = web.Application()
        application.router.add_get("/metrics", self._metrics)
        application.router.add_get("/health", self._health)
        self._runner = web.AppRunner(application, access_log=None, shutdown_timeout=0.2)
        await self._runner.setup()
        await web.SockSite(self._runner, self._socket).start()
        self.engine = engine

    async def close(self) -> None:
        if self._runner is not None:
            await self._runner.cleanup()
        self._socket.close()

    async def _metrics(self, _: web.Request) -> web.Response:
        assert self.engine is not None  # noqa: S101 -- served only after load()
        headers = {"Content-Type": exposition.CONTENT_TYPE}
        return web.Response(body=exposition.render(self.engine, MODEL).encode(), headers=headers)

    async def _health(self, _: web.Request) -> web.Response:
        return web.Response()


class Cluster:
    """`scale()` sets the Deployment's replicas, `tick()` lets time pass. All times are seconds of demo time."""

    def __init__(self, directory: Path, gateway: Gateway, cold_start: float, say: Callable[[str], None]) -> None:
        self.engines_file = directory / "engines.json"
        self.gpus_file = directory / "gpus.json"
        self.spec = 0
        self.pods: list[Pod] = []
        self.xids: dict[int, int] = {}  # GPU -> Xid
        self._gateway = gateway
        self._cold_start = cold_start
        self._say = say
        self._made = 0
        self._changing = asyncio.Lock()  # a pod loads while other tasks run: none of them may load or remove it as well
        self._write()

    @property
    def scale_now(self) -> Scale:
        return Scale(self.spec, len(self.pods), sum(pod.engine is not None for pod in self.pods))

    async def scale(self, replicas: int, now: float, cold_start: float | None = None) -> None:
        """Adds pods on free GPUs that are well, or removes: those that load first, then the youngest."""
        async with self._changing:
            self.spec = replicas
            cold_start = self._cold_start if cold_start is None else cold_start
            while len(self.pods) < replicas and (free := self._free()) is not None:
                self._made += 1
                self.pods.append(Pod(f"{DEPLOYMENT}-{self._made}", free, now + cold_start))
            by_leaving = sorted(self.pods, key=lambda pod: (pod.engine is not None, -pod.ready_at))
            leaving = by_leaving[: max(0, len(self.pods) - replicas)]  # there may be fewer than wanted: no GPU is free
            self.pods = [pod for pod in self.pods if pod not in leaving]
            self._write()
            for pod in leaving:
                self._gateway.remove(pod.name)
        for pod in leaving:
            await pod.close()
        await self.tick(now)

    async def tick(self, now: float) -> None:
        """Pods whose model is loaded become ready."""
        async with self._changing:
            for pod in self.pods:
                if pod.engine is None and now >= pod.ready_at:
                    await pod.load(Engine(Profile(), now))
                    assert pod.engine is not None  # noqa: S101 -- load() has set it
                    self._gateway.add(pod.name, pod.engine)
                    if now > 0.0:
                        self._say(f"{pod.name} is ready on GPU {pod.gpu}")

    def break_gpu(self, gpu: int, xid: int) -> None:
        """The GPU reports an Xid that it does not survive; the engine on it makes no progress any more."""
        self.xids[gpu] = xid
        for pod in self.pods:
            if pod.gpu == gpu and pod.engine is not None:
                pod.engine.stick()
        self._write()

    async def close(self) -> None:
        await asyncio.gather(*(pod.close() for pod in self.pods))

    def _free(self) -> int | None:
        taken = {pod.gpu for pod in self.pods} | set(self.xids)
        return next((gpu for gpu in range(GPUS) if gpu not in taken), None)

    def _write(self) -> None:
        engines = [
            {
                "url": pod.url,
                **_ref(pod),
                "labels": {"app": DEPLOYMENT},
                "gpus": [str(pod.gpu)],
            }
            for pod in self.pods
        ]
        busy = {pod.gpu for pod in self.pods}
        gpus = [
            {
                "uuid": f"GPU-de300000-0000-4000-8000-00000000000{gpu}",
                "index": gpu,
                "name": "NVIDIA L4",
                "load": 0.9 if gpu in busy else 0.0,
                "xids": [self.xids[gpu]] if gpu in self.xids else [],
                "values": _l4(gpu in busy),
                "pods": [_ref(pod) for pod in self.pods if pod.gpu == gpu],
            }
            for gpu in range(GPUS)
        ]
        _replace(self.engines_file, engines)
        _replace(self.gpus_file, gpus)


def _ref(pod: Pod) -> dict[str, str]:
    return {"namespace": NAMESPACE, "pod": pod.name, "container": "vllm"}


def _l4(busy: bool) -> dict[str, float]:
    """Where an L4 differs from the fake GPUs' default: 24 GiB, 72 W."""
    used = 22.0 if busy else 0.4
    watts = {"power": 70.0 if busy else 13.0, "power_limit": 72.0, "power_limit_default": 72.0}
    gib = {"memory_total": 24.0, "memory_used": used, "memory_free": 23.5 - used, "memory_reserved": 0.5}
    return watts | {name: size * 2**30 for name, size in gib.items()}


def _replace(path: Path, content: Any) -> None:
    """Write so that a reader sees the old file or the new one."""
    aside = path.with_suffix(".new")
    aside.write_text(json.dumps(content, indent=1))
    os.replace(aside, path)
