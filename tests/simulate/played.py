"""A run under the scaler's own policy or a fixed number of replicas, and what led to each answer."""

import hashlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

from scaler.core.view import Fleet
from scaler.core.view_fleet import fleet
from scaler.simulate.model import Answer, Arrival, Phases, Profile, Run, Scenario, Seen, Trace
from scaler.simulate.product import Product, setting
from scaler.simulate.run import run
from scaler.simulate.traces import cut
from scaler.simulate.traces_csv import parse
from scaler.simulate.traces_packed import decompressed


class Said(NamedTuple):
    seen: Seen
    answer: Answer
    fleet: Fleet


class Watched(Product):
    """It notes down all that it saw and said."""

    def __init__(self, scenario: Scenario, metadata: Mapping[str, str] | None = None) -> None:
        super().__init__(scenario, setting(scenario, dict(metadata or {})))
        self.said: list[Said] = []

    def __call__(self, seen: Seen) -> Answer:
        answer = super().__call__(seen)
        self.said.append(Said(seen, answer, fleet(seen.nodes, self._trigger, seen.now)))
        return answer


class Script:
    """.spec.replicas by the clock: a row holds from its time on."""

    def __init__(self, *rows: tuple[float, int], period: float = 5.0, scrape: float = 5.0, feed: bool = False) -> None:
        self.rows = rows
        self.period, self.scrape, self.feed = period, scrape, feed
        self.seen: list[Seen] = []

    def __call__(self, seen: Seen) -> Answer:
        self.seen.append(seen)
        return Answer([count for at, count in self.rows if at <= seen.now][-1])


def product(scenario: Scenario) -> tuple[Run, list[Said]]:
    watched = Watched(scenario)
    return run(scenario, watched, "plimsoll"), watched.said


def static(scenario: Scenario, replicas: int | None = None) -> Run:
    count = scenario.start if replicas is None else replicas
    return run(scenario._replace(start=count, minimum=0, maximum=count), Script((0.0, count)), "static")


def digest(of: Run) -> str:
    """Of every number of the run."""
    requests = [tuple(getattr(request, name) for name in request.__slots__) for request in of.requests]
    rest: tuple[Any, ...] = (of.ticks, of.changes, of.replica_seconds, of.preemptions, of.events, dict(of.facts))
    return hashlib.sha256(repr((requests, rest)).encode()).hexdigest()


#: A token takes 10 ms whatever else runs; nothing else takes time. Loads for 30 s.
PLAIN = Profile("plain", "", "", 0.01, 0.0, 0.0, 0.0, 0.0, 1 << 30, cold_start=Phases(0.0, 10.0, 15.0, 5.0))


def trace(*arrivals: Arrival, seconds: float = 600.0) -> Trace:
    return Trace("by hand", arrivals, seconds)


def every(gap: float, seconds: float, output: int = 100, prompt: int = 10, begin: float = 0.0) -> list[Arrival]:
    return [Arrival(begin + gap * number, prompt, output) for number in range(int((seconds - begin) / gap))]


def azure(name: str, begin: float, end: float) -> Trace:
    """A piece of an Azure trace of 2023: conv or code."""
    data = (Path(__file__).parents[2] / "bench" / "traces" / f"azure-2023-{name}.csv.xz").read_bytes()
    return cut(parse(decompressed(data, name), name), begin, end)
