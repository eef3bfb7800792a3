"""How long one decision takes: decide() for a ScaledObject with 200 replicas, in the middle of a noisy load.

The fleet is told as exporters tell it. It has been looked at in each slot of 5 s of half an hour, as the scaler's desk
does it; then there is a decision each second, as with exporters' news: one in five looks at what came and plans, the
others go by the plan that there is. Never fails by time: it prints.

Run: python -m bench.decide
"""

import math
import time
from collections.abc import Iterator, Sequence
from random import Random
from typing import NamedTuple

from bench.figures import distribution
from scaler.core.decision import Decision, Memory, decide, recall
from scaler.core.trigger import parse
from scaler.core.view import EngineView, GpuView, NodeView
from scaler.core.view_fleet import fleet

NODES, GPUS = 25, 8  # one replica a GPU
WARM_SECONDS, CALLS = 1800, 2500
SLOT = 5
SEED = 1

#: A request's mean tokens: the Azure 2023 conversation trace (1154.7 and 211.1).
PROMPT, OUTPUT = 1155.0, 211.0
#: Requests a second that a replica gets in the mean: two thirds of what its pace lets it serve.
RATE = 4.5


class Timed(NamedTuple):
    """Seconds of each call."""

    fleet: list[float]
    planning: list[float]
    between: list[float]


class Load:
    """What 200 replicas have done by each second: requests come in waves of an hour, with noise that lasts minutes."""

    def __init__(self, seed: int) -> None:
        self._dice = Random(seed)  # noqa: S311 -- a load, not a secret
        self._drift = 0.0
        self._finished = [0.0] * (NODES * GPUS)
        self._running = [0.0] * (NODES * GPUS)

    def second(self, now: float) -> tuple[NodeView, ...]:
        dice = self._dice
        self._drift = 0.995 * self._drift + dice.gauss(0.0, 0.02)
        rate = RATE * max(0.1, 1.0 + 0.3 * math.sin(now * math.tau / 3600) + self._drift)
        for place in range(len(self._finished)):
            came = max(0.0, round(dice.gauss(rate, math.sqrt(rate))))
            self._finished[place] += came
            self._running[place] = max(0.0, 0.8 * self._running[place] + came + round(dice.gauss(0.0, 1.0)))
        return tuple(self._node(node, now) for node in range(NODES))

    def _node(self, node: int, now: float) -> NodeView:
        places = range(node * GPUS, (node + 1) * GPUS)
        return NodeView(
            address=f"10.0.0.{node}:9481",
            since=0.0,
            at=now - self._dice.random(),
            first=0.0,
            connected=True,
            node=f"node-{node}",
            boot=f"boot-{node}",
            sequence=int(now),
            engines=tuple(self._engine(place, now) for place in places),
            engine_ages=(0.1,) * GPUS,
            gpus=tuple(GpuView(f"GPU-{place}", state="healthy", capacity=1.0) for place in places),
            gpu_ages=(0.1,) * GPUS,
        )

    def _engine(self, place: int, now: float) -> EngineView:
        finished, running = self._finished[place], self._running[place]
        odd = 1.0 + 0.02 * math.sin(place)  # no two engines have learned the same
        return EngineView(
            endpoint=f"http://10.1.0.{place}:8000/metrics",
            namespace="default",
            pod=f"llama-{place}",
            container="vllm",
            model="llama",
            engine="0",
            kind="vllm",
            labels={"app": "llama"},
            seen_seconds=now,
            waiting=float(self._dice.random() < 0.1),
            running=running,
            kv_usage=min(1.0, running * (PROMPT + OUTPUT / 2) / 400_000),
            kv_capacity_tokens=400_000.0,
            prompt_tokens_total=finished * PROMPT,
            generation_tokens_total=finished * OUTPUT,
            requests_finished_total=finished,
            preemptions_total=0.0,
            gpus=(f"GPU-{place}",),
            health="healthy",
            capacity=1.0,
            cause="healthy",
            why="requests run and no queue stands",
            prefix_hit_ratio=0.0,
            ttft_p95=0.2,
            step_seconds=0.01 * odd,
            sequence_seconds=6e-5 * odd,
            prompt_token_seconds=1e-4 * odd,
            pace_seconds=now,
        )


def measure(calls: int = CALLS) -> Timed:
    """Of the decisions after WARM_SECONDS."""
    trigger = parse("default", "llama", {"model": "llama", "coldStart": "180s"})
    memory, times = Memory(), Timed([], [], [])
    for now, views in _seconds(WARM_SECONDS + calls):
        plans = now % SLOT == 0
        if now < WARM_SECONDS and not plans:
            continue
        begin = time.perf_counter()
        seen = recall(fleet(views, trigger, now), memory)
        seen_at = time.perf_counter()
        result, memory = decide(trigger, seen, memory, now)
        end = time.perf_counter()
        assert isinstance(result, Decision), result
        if now >= WARM_SECONDS:
            times.fleet.append(seen_at - begin)
            (times.planning if plans else times.between).append(end - seen_at)
    return times


def _seconds(count: int) -> Iterator[tuple[float, Sequence[NodeView]]]:
    load = Load(SEED)
    for second in range(count):
        yield float(second), load.second(float(second))


def main() -> None:
    times = measure()
    print(f"{NODES * GPUS} replicas on {NODES} nodes, {WARM_SECONDS} s of history, a decision each second")
    print(distribution("decide(), all", times.planning + times.between))
    print(distribution("decide() that plans, each 5 s", times.planning))
    print(distribution("decide() by the plan that there is", times.between))
    print(distribution("fleet(), before each", times.fleet))


if __name__ == "__main__":
    main()
