"""An engine's history, second by second, played through what the exporter makes of readings: what tests of the
diagnosis are told in.

A history is a row of phases. In each the engine does one thing for a while; its counters and histograms go on from
phase to phase, as a server's do.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

from exporter.core import saturation, usual
from exporter.core.evidence import Facts
from exporter.core.model import GpuKey
from exporter.core.model_engines import EngineReading, Hardware, Histogram, Learned, Rates, Usual

INF = float("inf")
#: vLLM's edges (0.32).
TTFT = (0.001, 0.005, 0.01, 0.02, 0.04, 0.06, 0.08, 0.1, 0.25, 0.5, 0.75, 1.0, 2.5, 5.0, 7.5, 10.0, 20.0, 40.0, INF)
ITL = (0.01, 0.025, 0.05, 0.075, 0.1, 0.15, 0.2, 0.3, 0.4, 0.5, 0.75, 1.0, 2.5, INF)
GPU = GpuKey("GPU-0000")

Told = float | None
#: A number, or what it is so many readings into the phase.
Course = Told | Callable[[int], Told]


class Phase(NamedTuple):
    """What an engine and its GPU do for `seconds`. Rates are per second; None: not told."""

    seconds: float
    every: float = 1.0  # seconds between readings
    # What comes and how it goes.
    requests: float = 2.0
    errors: float = 0.0
    rejections: float = 0.0
    preemptions: float = 0.0
    prompt: float = 500.0  # tokens of a request
    answer: float = 100.0
    ttft: Told = 0.2
    itl: Told = 0.02
    # What the page shows.
    waiting: Course = 0.0
    running: Course = 8.0
    kv: Course = 0.4
    max_running: Told = None
    by_reason: Mapping[str, float] | None = None
    asleep: bool | None = False
    lacking: tuple[str, ...] = ()
    error: str = ""  # nothing is read
    silent: bool = False  # no attempt is made: the source hangs
    # What it runs on.
    state: str = "healthy"
    capacity: Told = 1.0
    throttled: Callable[[int], bool] | bool = False
    utilization: Course = 0.6
    xids: tuple[tuple[int, float], ...] = ()  # code, seconds since
    started: Told = None  # seconds before the phase began that the container was started


def _at(course: Course, index: int) -> Told:
    return course(index) if callable(course) else course


class Player:
    """Plays phases. `seen` holds the facts after each attempt."""

    def __init__(self) -> None:
        self.now = 0.0
        self.seen: list[Facts] = []
        self._totals = dict.fromkeys(("prompt", "answer", "stop", "error", "rejected", "preempted"), 0.0)
        self._ttft, self._itl = [0.0] * len(TTFT), [0.0] * len(ITL)
        self._reading: EngineReading | None = None
        self._lacking: tuple[str, ...] = ()
        self._memory: saturation.EngineMemory | None = None
        self._watched: usual.UsualMemory | None = None

    def play(self, phases: Sequence[Phase]) -> Facts:
        """The facts at the end."""
        for phase in phases:
            began = self.now
            for index in range(round(phase.seconds / phase.every)):
                self.now += phase.every
                self._step(phase, index, began)
        return self.seen[-1]

    def _step(self, phase: Phase, index: int, began: float) -> None:
        throttled = phase.throttled(index) if callable(phase.throttled) else phase.throttled
        on = Hardware(
            gpus=(GPU,),
            state=phase.state,
            capacity=phase.capacity,
            throttled=throttled,
            utilization=_at(phase.utilization, index),
            xids=tuple((code, ago + self.now - began) for code, ago in phase.xids),
        )
        if not phase.error and not phase.silent:
            self._read(phase, index, on)
        memory, watched = self._memory, self._watched
        learned = memory.learned if memory else Learned()
        rates = saturation.rates(memory, self.now) if memory else Rates()
        self.seen.append(
            Facts(
                now=self.now,
                reading=self._reading,
                kind="vllm" if memory else "",
                lacking=self._lacking,
                error=phase.error,
                memory=memory,
                rates=rates,
                usual=watched.usual if watched else Usual(),
                ailments=watched.ailments if watched else usual.Ailments(),
                learned=learned,
                saturation=saturation.ratio(self._reading, learned, rates) if self._reading else None,
                hardware=on,
                capacity=on.capacity,
                age=self.now,
                started=None if phase.started is None else phase.started + self.now - began,
            )
        )

    def _read(self, phase: Phase, index: int, on: Hardware) -> None:
        reading = self._page(phase, index)
        self._reading, self._lacking = reading, phase.lacking
        self._memory = saturation.observe(self._memory, reading, self.now)
        rates = saturation.rates(self._memory, self.now)
        load = saturation.ratio(reading, self._memory.learned, rates)
        self._watched = usual.observe(self._watched, reading, rates, on, load, self.now)

    def _page(self, phase: Phase, index: int) -> EngineReading:
        done = phase.requests * phase.every
        failed = phase.errors * phase.every
        grown = {
            "prompt": (done + failed) * phase.prompt,
            "answer": done * phase.answer,
            "stop": done,
            "error": failed,
            "rejected": phase.rejections * phase.every,
            "preempted": phase.preemptions * phase.every,
        }
        for name, more in grown.items():
            self._totals[name] += more
        _observed(self._ttft, TTFT, phase.ttft, done)
        _observed(self._itl, ITL, phase.itl, done * phase.answer)
        t = self._totals
        return EngineReading(
            "m",
            "0",
            waiting=_at(phase.waiting, index),
            running=_at(phase.running, index),
            waiting_by_reason=phase.by_reason,
            max_running=phase.max_running,
            kv_usage=_at(phase.kv, index),
            kv_capacity_tokens=100_000.0,
            prompt_tokens_total=t["prompt"],
            generation_tokens_total=t["answer"],
            preemptions_total=t["preempted"],
            rejections_total=t["rejected"],
            finished={"stop": t["stop"], "error": t["error"]},
            ttft=None if phase.ttft is None else Histogram(TTFT, tuple(self._ttft)),
            itl=None if phase.itl is None else Histogram(ITL, tuple(self._itl)),
            sleeping=phase.asleep,
        )


def _observed(counts: list[float], edges: Sequence[float], value: Told, times: float) -> None:
    for place, edge in enumerate(edges):
        if value is not None and value <= edge:
            counts[place] += times


def play(*phases: Phase) -> Facts:
    return Player().play(phases)


def course(*phases: Phase) -> list[Facts]:
    """The facts after each attempt."""
    player = Player()
    player.play(phases)
    return player.seen


def still(seconds: float, **changes: Any) -> Phase:
    """Counters that do not move."""
    return Phase(seconds, requests=0.0, **changes)


def rest(seconds: float, **changes: Any) -> Phase:
    return still(seconds, **{"running": 0.0, "kv": 0.0, "utilization": 0.0, **changes})


#: Ten minutes of good service: the usual is known after it.
GOOD = Phase(600.0, every=5.0)
