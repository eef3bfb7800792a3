"""core/serving.py: whole histories of a node, second by second through node.step(): what its engines are found to be,
what they learn, and what they leave behind.

The servers are small queueing simulations (Server) or pages by hand.
"""

import itertools
import random
from collections.abc import Callable, Iterable
from typing import Any

import pytest
from msgspec.structs import replace

from exporter.core import node
from exporter.core.model import GpuSample
from exporter.core.model_engines import Engine, EngineReading, EngineScrape, EngineTarget, Histogram, Learned, PodFacts
from exporter.core.node import NodeMemory
from exporter.core.saturation import STALL, WINDOW
from tests.exporter.build import START, failure, inputs, reading, sample, target
from tests.exporter.histories import TTFT

#: Two pods, by the index of their GPU.
A, B = 0, 1
WALL = 1.8e9
HOT = {"throttle_reasons": float(0x40), "clock_sm": 900.0, "clock_sm_max": 1800.0, "utilization": 0.95}
GONE = {"values": {}, "lost": "gpu_is_lost"}
FROZEN = {"waiting": 2.0, "running": 3.0}
NEW = {"prompt_tokens_total": 0.0, "generation_tokens_total": 0.0, "finished": {"stop": 0.0}}
IDLE = {"waiting": 0.0, "running": 0.0}

Page = Callable[[float], tuple[EngineReading, ...] | str]


class Node:
    """Plays what its servers say, second by second. `causes` are those of the last play(), in the order of time."""

    def __init__(self, memory: NodeMemory | None = None, kind: str = "vllm") -> None:
        self.now, self.memory, self.kind = START, memory or NodeMemory(), kind
        self.good: dict[str, EngineScrape] = {}
        self.causes: list[str] = []

    def play(
        self,
        pages: dict[int, Page],
        seconds: float,
        every: float = 1.0,
        gpus: dict[str, Any] | None = None,
        pods: Iterable[PodFacts] = (),
    ) -> list[Engine]:
        """The engines at the end. pages: by pod; one that is a text is the reason for which there is none."""
        self.causes, engines = [], ()
        for _ in range(round(seconds / every)):
            self.now += every
            targets = tuple(target(index) for index in pages)
            scrapes = {
                of.url: self._scrape(of, page(self.now)) for of, page in zip(targets, pages.values(), strict=True)
            }
            self.good |= {url: one for url, one in scrapes.items() if not one.error}
            snapshot, self.memory = node.step(
                self.memory,
                inputs(
                    samples=[self._gpu(of, gpus or {}) for of in targets],
                    targets=targets,
                    scrapes=scrapes,
                    last_good={of.url: self.good[of.url] for of in targets if of.url in self.good},
                    pods={(pod.namespace, pod.pod): pod for pod in pods},
                    wall=WALL + self.now,
                ),
                self.now,
            )
            engines = snapshot.engines
            self.causes += [engine.cause for engine in engines[:1]]
        return list(engines)

    def _scrape(self, of: EngineTarget, said: tuple[EngineReading, ...] | str) -> EngineScrape:
        if isinstance(said, str):
            return failure(of, self.now, said)
        return EngineScrape(of, self.now, 0.004, self.kind, said)

    def _gpu(self, of: EngineTarget, changes: dict[str, Any]) -> GpuSample:
        gpu = sample(int(of.gpus[0]), self.now)
        if "lost" in changes:
            return replace(gpu, **changes)
        return replace(gpu, values={**gpu.values, "utilization": 0.6, **changes})


class Server:
    """Continuous batching: at most `most` run, each token of each takes 1/`speed` s, slower by 1 % for each that runs;
    `answer` tokens each; requests come at random, `rate(now)` a second. With `longest`, what is above it in the queue
    is refused.
    """

    def __init__(
        self, rate: Callable[[float], float], most: int = 16, answer: int = 100, longest: float = 1e9, engine: str = "0"
    ) -> None:
        self.rate, self.most, self.answer, self.longest, self.engine = rate, most, answer, longest, engine
        self.random = random.Random(4)  # noqa: S311 -- arrivals, no secret
        self.queue: list[float] = []
        self.batch: list[list[float]] = []  # tokens that are left of each
        self.speed = 50.0
        self.said = dict.fromkeys(("prompt", "tokens", "stop", "refused"), 0.0)
        self.ttft = [0.0] * len(TTFT)
        self.next = 0.0

    def page(self, now: float) -> tuple[EngineReading, ...]:
        """What it says at `now`, a second after the page before."""
        step = 0.02
        for tick in range(50):
            at = now - 1.0 + tick * step
            if self.next < at - 1.0:
                self.next = at
            while (rate := self.rate(at)) > 0 and self.next <= at:
                self.next += self.random.expovariate(rate)
                if len(self.queue) >= self.longest:
                    self.said["refused"] += 1
                else:
                    self.queue.append(at)
            while self.queue and len(self.batch) < self.most:
                waited = at - self.queue.pop(0) + 0.05
                self.said["prompt"] += 500
                self.batch.append([float(self.answer)])
                for place, edge in enumerate(TTFT):
                    self.ttft[place] += waited <= edge
            done = self.speed * step / (1 + 0.01 * len(self.batch))
            for left in self.batch:
                left[0] -= done
                self.said["tokens"] += done
            self.said["stop"] += sum(left[0] <= 0 for left in self.batch)
            self.batch = [left for left in self.batch if left[0] > 0]
        return (
            reading(
                engine=self.engine,
                waiting=float(len(self.queue)),
                running=float(len(self.batch)),
                kv_usage=len(self.batch) / self.most * 0.6,
                prompt_tokens_total=self.said["prompt"],
                generation_tokens_total=self.said["tokens"],
                rejections_total=self.said["refused"],
                preemptions_total=0.0,
                finished={"stop": self.said["stop"]},
                ttft=Histogram(TTFT, tuple(self.ttft)),
            ),
        )

    @property
    def carries(self) -> float:
        """Requests per second at its knee."""
        return self.most * self.speed / (1 + 0.01 * self.most) / self.answer


def says(**changes: Any) -> Page:
    """The same page each time."""
    return lambda now: (reading(**changes),)


def works(begin: float = START, **changes: Any) -> Page:
    """Good service: counters that move."""
    return lambda now: (
        reading(
            **{
                **IDLE,
                "running": 4.0,
                "prompt_tokens_total": 1000 * (now - begin),
                "generation_tokens_total": 200 * (now - begin),
                "finished": {"stop": 2 * (now - begin)},
                **changes,
            }
        ),
    )


def fails(reason: str) -> Page:
    return lambda now: reason


def changes_of(causes: list[str]) -> int:
    return sum(before != after for before, after in itertools.pairwise(causes))


# -- starts and restarts -----------------------------------------------------------------------------------------------


def test_the_first_request_after_a_restart_warms_up_as_the_first_of_all_does() -> None:
    seen = Node()
    seen.play({A: works()}, 1200, every=5.0)
    seen.play({A: fails("refused")}, 90)
    assert seen.causes[-1] == "blind"  # nobody tells that its container is new
    seen.play({A: says(**IDLE, **NEW)}, 60)
    assert seen.causes[-1] == "idle"
    (engine,) = seen.play({A: says(**FROZEN, **NEW)}, STALL + 30)
    assert (set(seen.causes), engine.capacity) == ({"cold_start"}, 1.0)
    (engine,) = seen.play({A: works(seen.now)}, 30)
    assert engine.cause == "healthy"


def test_a_restarted_engine_that_has_worked_again_and_stands_still_is_wedged() -> None:
    seen = Node()
    seen.play({A: works()}, 300)
    seen.play({A: fails("refused")}, 60)
    seen.play({A: works(seen.now)}, 60)
    stopped = works(seen.now)(seen.now + 61)[0]
    (engine,) = seen.play({A: lambda now: (replace(stopped, **FROZEN),)}, STALL + 5)
    assert (engine.cause, engine.capacity) == ("wedged", 0.0)


def test_a_pod_whose_image_was_pulled_for_long_loads_its_model_and_is_not_blind() -> None:
    seen = Node()
    seen.play({A: fails("refused")}, 1200, every=5.0)
    pod = PodFacts("inference", "llama-0", started={"vllm": WALL + seen.now})
    (engine,) = seen.play({A: fails("refused")}, 600, every=5.0, pods=[pod])
    assert (engine.cause, set(seen.causes)) == ("cold_start", {"cold_start"})
    seen.play({A: fails("refused")}, 600, every=5.0, pods=[pod])
    assert seen.causes[-1] == "blind"  # what takes longer does not start


def test_another_model_behind_the_same_url_begins_from_nothing_and_the_first_is_gone() -> None:
    seen = Node()
    (before,) = seen.play({A: works()}, 900, every=5.0)
    assert before.usual.requests_per_second == pytest.approx(2.0)
    (after,) = seen.play({A: says(model="other", **FROZEN, **NEW)}, STALL + 10)
    assert (after.reading.model, after.cause, after.usual.seconds) == ("other", "cold_start", 0.0)
    assert {key.model for key in seen.memory.serving.engines} == {"other"}


def test_an_engine_that_wakes_has_as_long_as_any_to_begin() -> None:
    seen = Node()
    seen.play({A: works()}, 300)
    last = replace(works()(seen.now)[0], **FROZEN)
    seen.play({A: lambda now: (replace(last, sleeping=True),)}, 600, every=5.0)
    assert set(seen.causes) == {"idle"}
    seen.play({A: lambda now: (last,)}, STALL - 1)
    assert "wedged" not in seen.causes
    seen.play({A: lambda now: (last,)}, 3)
    assert seen.causes[-1] == "wedged"


# -- load --------------------------------------------------------------------------------------------------------------


def test_the_knee_of_bursty_load_is_what_the_server_can_run_and_its_rate_what_it_can_serve() -> None:
    full = Server(lambda at: 0.0).carries
    server = Server(lambda at: 2.5 * full if at % 120 < 30 else 0.4 * full)
    seen = Node()
    (engine,) = seen.play({A: server.page}, 1200)
    assert engine.learned.knee_running == pytest.approx(server.most, rel=0.05)
    assert engine.learned.service_rate == pytest.approx(full, rel=0.15)
    assert set(seen.causes) <= {"idle", "healthy", "saturated"}
    assert changes_of(seen.causes[300:]) <= 4 * 900 / 120


def test_the_ratio_is_the_load_over_the_knee_and_steady_load_keeps_one_cause() -> None:
    full = Server(lambda at: 0.0).carries
    level = [0.0]
    server = Server(lambda at: level[0] * full)
    seen = Node()
    level[0] = 1.5
    seen.play({A: server.page}, 90)
    ratios = []
    for share in (0.3, 0.6, 0.85):
        level[0] = 0.0
        seen.play({A: server.page}, 120)
        level[0] = share
        seen.play({A: server.page}, 60)
        held: list[float] = []
        for _ in range(60):
            (engine,) = seen.play({A: server.page}, 1)
            assert engine.saturation is not None
            held.append(engine.saturation)
        ratios.append(sum(held) / len(held))
    assert ratios == sorted(ratios)
    assert 0.15 < ratios[0] < 0.45 < ratios[1] < 0.8 < ratios[2] < 1.3


def test_a_server_that_is_held_down_under_its_usual_load_is_throttled_and_stays_so() -> None:
    full = Server(lambda at: 0.0).carries
    server = Server(lambda at: 0.7 * full)
    seen = Node()
    seen.play({A: server.page}, 900)
    assert seen.causes[-1] == "healthy"
    server.speed /= 2
    (engine,) = seen.play({A: server.page}, 120, gpus=HOT)
    assert (engine.cause, engine.diagnosis.evidence["throttled"]) == ("throttled", True)
    assert changes_of(seen.causes) <= 2


def test_missed_scrapes_change_no_cause() -> None:
    full = Server(lambda at: 0.0).carries
    server = Server(lambda at: 2 * full, longest=40)
    seen = Node()
    seen.play({A: server.page}, 60)

    def patchy(now: float) -> tuple[EngineReading, ...] | str:
        said = server.page(now)
        return said if round(now) % 4 == 0 else "timeout"

    (engine,) = seen.play({A: patchy}, 120)
    assert set(seen.causes) == {"saturated"}
    assert engine.saturation is not None
    assert engine.saturation > 1


@pytest.mark.parametrize("engines", [1, 4])
def test_what_a_server_refuses_is_shared_by_its_engines(engines: int) -> None:
    """vLLM counts it once for all engines of data parallelism: the page's first row carries it, the others 0."""
    full = Server(lambda at: 0.0).carries
    servers = [Server(lambda at: 2 * full, longest=20, engine=str(index)) for index in range(engines)]

    def page(now: float) -> tuple[EngineReading, ...]:
        rows = [one for server in servers for one in server.page(now)]
        refused = sum(row.rejections_total or 0.0 for row in rows)
        return tuple(replace(row, rejections_total=0.0 if at else refused) for at, row in enumerate(rows))

    found = Node().play({A: page}, 120)
    assert [engine.cause for engine in found] == ["saturated"] * engines
    assert {engine.diagnosis.evidence["rejections_per_second"] for engine in found} == {
        engine.rates.rejections_per_second for engine in found
    }
    for engine in found:
        assert engine.rates.rejections_per_second == pytest.approx(full, rel=0.2)
        # Twice what it carries comes: a queue of 20 before 16 that run, and as much again is refused.
        assert engine.saturation == pytest.approx(36 / 16 + 1, rel=0.2)
    # What is published of the page stays what the page says.
    assert [engine.reading.rejections_total == 0.0 for engine in found] == [False] + [True] * (engines - 1)


# -- servers that count late -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["tgi", "llamacpp", "trtllm"])
def test_of_a_server_that_counts_at_the_end_still_counters_show_nothing_unless_its_gpu_is_gone(kind: str) -> None:
    seen = Node(kind=kind)
    seen.play({A: works()}, 120)
    last = replace(works()(seen.now)[0], **IDLE | {"running": 2.0})
    (engine,) = seen.play({A: lambda now: (last,)}, STALL + WINDOW)
    assert (engine.cause, engine.capacity) == ("healthy", 1.0)
    assert seen.memory.serving.facts[next(iter(seen.memory.serving.facts))].seconds_without_tokens is None
    (engine,) = seen.play({A: lambda now: (last,)}, 10, gpus=GONE)
    assert (engine.cause, engine.capacity) == ("wedged", 0.0)


# -- lessons -----------------------------------------------------------------------------------------------------------


def test_a_newcomer_borrows_what_its_model_has_shown_and_what_is_borrowed_has_no_weight() -> None:
    full = Server(lambda at: 0.0).carries
    seen = Node()
    seen.play({A: Server(lambda at: 2 * full).page}, 60)
    old, new = seen.play({A: Server(lambda at: 2 * full).page, B: says(**IDLE, **NEW)}, 1)
    assert old.learned.queued_seconds > 0
    assert (new.learned.knee_running, new.learned.queued_seconds) == (old.learned.knee_running, 0.0)
    (stranger,) = seen.play({B: says(**IDLE, **NEW, model="other")}, 1)
    assert stranger.learned == Learned()


def test_what_was_taught_outlives_its_teacher_and_this_program() -> None:
    full = Server(lambda at: 0.0).carries
    seen = Node()
    (old,) = seen.play({A: Server(lambda at: 2 * full).page}, 60)
    seen.play({}, 10)
    assert not seen.memory.serving.engines
    again = Node(node.resumed(node.remembered(seen.memory), START))
    (new,) = again.play({B: says(**IDLE, **NEW)}, 2)
    assert new.learned.knee_running == old.learned.knee_running
    assert new.learned.queued_seconds == 0.0


# -- what is kept ------------------------------------------------------------------------------------------------------


def test_what_is_kept_of_an_engine_does_not_grow() -> None:
    full = Server(lambda at: 0.0).carries
    server = Server(lambda at: full)
    seen = Node()
    sizes = []
    for _ in range(4):
        seen.play({A: server.page}, 150)
        sizes.append(len(repr(seen.memory.serving)))
    assert max(sizes[1:]) < 1.1 * min(sizes[1:])


def test_rates_of_an_engine_that_fell_silent_are_not_those_of_now() -> None:
    seen = Node()
    (engine,) = seen.play({A: works()}, 60)
    assert engine.rates.requests_per_second == pytest.approx(2.0)
    (engine,) = seen.play({A: fails("timeout")}, WINDOW)
    assert engine.rates.requests_per_second == pytest.approx(2.0)
    (engine,) = seen.play({A: fails("timeout")}, 1)
    assert engine.rates.requests_per_second is None
