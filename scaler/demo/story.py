"""The story of one run, second by second: what KEDA asks and the HPA does, what breaks, what is seen of it.

May not be in here: starting and ending programs (app.py), models (engine.py, traffic.py), KEDA's arithmetic (keda.py).
"""

import asyncio
import re
import time

import aiohttp

from scaler.demo.cluster import DEPLOYMENT, GPUS, NAMESPACE, Cluster
from scaler.demo.keda import Answer, Keda
from scaler.demo.processes import ProgramError
from scaler.demo.report import Report, duration, quantile
from scaler.demo.scenarios import Scenario
from scaler.demo.screen import GREEN, RED, YELLOW, Row, Screen
from scaler.demo.traffic import Gateway
from scaler.demo.watch import Gpu, Seen, look
from scaler.simulate.hpa import POLLING_INTERVAL, SYNC_PERIOD, Scale, ScaledObject

#: Demo seconds that pass in a real one: the HPA's sync of 15 s comes every second.
SPEED = 15.0
TICK = 0.05  # real seconds between two steps of the models
READY_SECONDS = 60.0  # real seconds that exporter and scaler may take to know the engines, on a busy machine
LOOK = 0.25  # real seconds between two readings of the exporter's page
COLD_START = 60.0  # demo seconds: an 8B model whose weights are on the node
WARM_UP = 120.0  # demo seconds that the engines have served for when the programs start
SPEC = ScaledObject(minimum=1, maximum=GPUS)
#: The programs live in real time, so what they are told of times is real.
METADATA = {
    "podSelector": f"app={DEPLOYMENT}",
    "queueTarget": "20",  # a replica works these off in well under a real second
    "coldStart": f"{COLD_START / SPEED:g}s",
    "drainWithin": "4s",
    "staleAfter": "3s",
}
SICK_GPU, XID = 2, 79


class Story:
    """`tick()` moves the models and `watch()` reads the exporter, both without end; `tell()` plays the scenario."""

    def __init__(self, scenario: Scenario, duration: float, seed: int, screen: Screen) -> None:
        self._report = Report()
        self.began: float | None = None  # monotonic; None: the programs are still starting
        self._scenario = scenario
        self._duration = duration
        self._screen = screen
        self._clock = time.monotonic() - WARM_UP / SPEED  # when demo time was 0
        self._seen: Seen | None = None
        self._gpus: dict[str, Gpu] = {}
        self._fired: float | None = None  # when the GPU broke
        self._rowed = 0  # requests that were finished before the last row
        # Even until the story begins: else the programs would find what chance has at the moment when they are up.
        self.gateway = Gateway(self._rate, seed, 0.0, even=True)

    @property
    def now(self) -> float:
        """Demo seconds."""
        return (time.monotonic() - self._clock) * SPEED

    @property
    def at(self) -> float:
        """Real seconds of the story."""
        return 0.0 if self.began is None else time.monotonic() - self.began

    @property
    def load(self) -> float:
        """Requests per second of demo time."""
        return self._rate(self.now)

    def say(self, text: str, style: str = YELLOW) -> None:
        """An event: now, and again in the summary."""
        if self.began is not None:
            self._report.events.append((self.at, text))
            self._screen.event(self.at, text, style)

    async def tick(self, cluster: Cluster) -> None:
        """The models' time, in small steps."""
        before = self.now
        while True:
            now = self.now
            self.gateway.advance(now)
            await cluster.tick(now)
            if self.began is not None:
                self._report.step(self.gateway.waiting, cluster.spec, now - before)
            before = now
            await asyncio.sleep(TICK)

    async def watch(self, session: aiohttp.ClientSession, url: str) -> None:
        """The exporter's page, and what changes on it."""
        while True:
            self._seen = await look(session, url)
            for index, gpu in (self._seen.gpus if self._seen else {}).items():
                if index in self._gpus and self._gpus[index].state != gpu.state:
                    self._verdict(index, gpu)
                self._gpus[index] = gpu
            await asyncio.sleep(LOOK)

    async def tell(self, cluster: Cluster, keda: Keda) -> None:
        """Begins when exporter and scaler know what there is; a line a second until the duration is over."""
        for _ in range(round(READY_SECONDS / LOOK)):
            answer = await keda.ask()
            if answer.value is not None and self._all_seen(cluster):
                break
            await asyncio.sleep(LOOK)
        else:
            raise ProgramError(f"{self._unknown(answer, cluster)} after {READY_SECONDS:g} s")
        self.began = time.monotonic()
        self.gateway.advance(self.now)
        self.gateway.scatter()
        self._rowed = len(self.gateway.finished)
        self._report.begin(self.gateway)
        keda.remember(cluster.spec, self.now)
        self._screen.heading()
        load, second = self.load, 0
        while self.at < self._duration:
            if self.load != load:
                self.say(f"load {load:.1f} -> {self.load:.1f} requests/s")
                load = self.load
            self._break(cluster)
            answer = await keda.ask()
            await self._rescale(answer, cluster, keda, second)
            self._row(answer, cluster.scale_now)
            second += 1
            await asyncio.sleep(max(0.0, self.began + second - time.monotonic()))

    def summary(self) -> list[str]:
        """What was measured, line by line."""
        if self.began is None:
            return ["ended before the story began"]
        return self._report.lines(self.gateway)

    def _rate(self, now: float) -> float:
        """Requests per second at this demo second; before the story begins, those that it begins with."""
        since = 0.0 if self.began is None else now / SPEED - (self.began - self._clock)
        return self._scenario.rate(min(1.0, max(0.0, since / self._duration)))

    def _all_seen(self, cluster: Cluster) -> bool:
        """Whether the exporter's page has all that there is."""
        return self._seen is not None and (len(self._seen.gpus), self._seen.engines) == (GPUS, cluster.scale_now.ready)

    def _unknown(self, answer: Answer, cluster: Cluster) -> str:
        """What is missing before the story can begin."""
        if answer.value is None:
            return f"scaler knew nothing: {answer.text}"
        seen = f"{len(self._seen.gpus)} GPUs and {self._seen.engines} engines" if self._seen else "nothing"
        return f"exporter showed {seen} of {GPUS} GPUs and {cluster.scale_now.ready} engines"

    def _break(self, cluster: Cluster) -> None:
        part = self._scenario.xid_at
        if part is not None and self._fired is None and self.at >= part * self._duration:
            self._fired = self.at
            self.say(f"GPU {SICK_GPU}: Xid {XID}. Its engine makes no progress and still answers 200", RED)
            cluster.break_gpu(SICK_GPU, XID)

    def _verdict(self, index: str, gpu: Gpu) -> None:
        text = f"GPU {index}: {gpu.state}"
        if gpu.reasons:
            actions = dict.fromkeys(action for _, action in gpu.reasons)
            text += f" ({', '.join(reason for reason, _ in gpu.reasons)}), action {', '.join(actions)}"
        if self._fired is not None:
            text += f", {self.at - self._fired:.1f} s after the Xid"
        self.say(text, GREEN if gpu.state == "healthy" else RED)

    async def _rescale(self, answer: Answer, cluster: Cluster, keda: Keda, second: int) -> None:
        """KEDA's poll and the HPA's sync, each at its own pace."""
        before, wanted = cluster.spec, cluster.spec
        if second % round(POLLING_INTERVAL / SPEED) == 0:
            wanted = keda.poll(answer, wanted, self.now)
        if second % round(SYNC_PERIOD / SPEED) == 0:
            scale = cluster.scale_now
            wanted = keda.hpa(answer, Scale(wanted, scale.status, scale.ready), self.now)
            if self._seen is not None:
                self._report.asked(answer.value, self._seen.waiting)
        if wanted != before:
            self.say(f"HPA: {before} -> {wanted} replicas")
            await cluster.scale(wanted, self.now)

    def _row(self, answer: Answer, scale: Scale) -> None:
        finished = self.gateway.finished[self._rowed :]
        waits = sorted(each.first_token - each.arrived for each in finished if each.first_token is not None)
        self._rowed += len(finished)
        starting = scale.status - scale.ready
        self._screen.row(
            Row(
                time=self.at,
                load=self.load,
                waiting=f"{self._seen.waiting:.0f}" if self._seen else "?",
                running=f"{self._seen.running:.0f}" if self._seen else "?",
                ttft=duration(quantile(waits, 0.95)) if waits else "none",
                gpus=self._seen.summary() if self._seen else "?",
                needed=f"{answer.value:.1f}" if answer.value is not None else "?",
                replicas=f"{scale.ready} ready" + (f" +{starting}" if starting else ""),
                why=_short(answer),
            )
        )


def _short(answer: Answer) -> str:
    """Of an explanation the reason and the pods that ail; of an error all."""
    reason = re.search(r"\((\w+)\)", answer.text) if answer.value is not None else None
    if reason is None:
        return answer.text
    ailing = re.findall(r"pod ([a-z0-9-]+):", answer.text)
    return reason[1].replace("_", " ") + (f" ({', '.join(ailing)})" if ailing else "")


def keda(address: str) -> Keda:
    """KEDA with the demo's ScaledObject."""
    return Keda(address, NAMESPACE, DEPLOYMENT, METADATA, SPEC)
