"""What the lane does to a real vLLM, in this order, and what the exporter and the server's own page said meanwhile.

idle -> queue -> pressure -> frozen (its engine core is stopped under load) -> thawed -> idle again -> killed

May not be in here: what must have been seen (lane.py).
"""

import contextlib
import os
import signal
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from msgspec import Struct

from tests.support.programs import Program, exporter, get, samples
from tests.vllm.server import NUMBERS, Server

#: Our word -> the exporter's family.
FAMILIES = {
    "waiting": "plimsoll_engine_requests_waiting",
    "running": "plimsoll_engine_requests_running",
    "kv_usage": "plimsoll_engine_kv_cache_usage_ratio",
    "preemptions": "plimsoll_engine_preemptions_total",
    "prompt_tokens": "plimsoll_engine_prompt_tokens_total",
    "generation_tokens": "plimsoll_engine_generation_tokens_total",
    "prefix_queries": "plimsoll_engine_prefix_cache_queries_total",
    "prefix_hits": "plimsoll_engine_prefix_cache_hits_total",
    "finished": "plimsoll_engine_requests_finished_total",  # the sum over its reasons
}
assert FAMILIES.keys() == NUMBERS.keys()

#: Seconds for which each phase may go on until it has shown what it is for.
PATIENCE = 90.0
EVERY = 0.2  # seconds between two looks
#: Clients and the tokens that each asks for. 4 x 190 tokens of context fit into the KV cache, 4 x 940 do not.
QUEUE = (16, 150)
PRESSURE = (16, 900)


class Look(Struct):
    """One look at the exporter's page, and at the server's own just before and after.

    `low` and `high`: what the server's page said over the time in which the exporter's reading was taken; empty where
    it did not answer before and after.
    """

    phase: str
    exporter: dict[str, float]
    series: dict[str, float]  # all plimsoll_engine_* series as they stand on the page
    cause: str
    low: dict[str, float]
    high: dict[str, float]


class Seen(Struct):
    looks: list[Look] = []
    still: dict[str, list[dict[str, float]]] = {}  # phase at a standstill -> what [the server, the exporter] said
    seconds: dict[str, float] = {}  # phase -> how long it went on
    start_seconds: float = 0.0
    exporter_lives: bool = False
    unanswered: int = 0  # looks for which the exporter's page did not come in 5 s


class Watch:
    """Looks at both, always; `phase` is written to each look."""

    def __init__(self, server: Server, node: Program, seen: Seen) -> None:
        self.phase = "idle"
        self.last: Look | None = None
        self._server, self._node, self._seen = server, node, seen
        self._pages: list[tuple[float, dict[str, float]]] = []  # had at, numbers
        self._done = threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._began = time.monotonic()
        self._thread.start()

    def enter(self, phase: str) -> None:
        now = time.monotonic()
        self._seen.seconds[self.phase] = round(now - self._began, 1)
        self.phase, self._began, self.last = phase, now, None

    def until(self, condition: Callable[[Look], Any], patience: float = PATIENCE) -> bool:
        """Whether a look of this phase met the condition in time. lane.py judges what is missing then."""
        deadline = time.monotonic() + patience
        while time.monotonic() < deadline:
            look = self.last
            if look is not None and look.phase == self.phase and condition(look):
                return True
            time.sleep(EVERY / 2)
        return False

    def still(self, name: str) -> None:
        """Both at a standstill: waits until the reading on the exporter's page is from after now, and keeps both."""
        began = time.monotonic()
        after = began + 3.0  # the exporter polls once a second, and its page may be a second old
        self.until(lambda _: time.monotonic() > after)
        _, page = get(f"{self._node.web}/metrics")
        self._seen.still[name] = [self._server.numbers(), ours(samples(page))]

    def stop(self) -> None:
        self._done.set()
        self._thread.join(20.0)
        self.enter("end")

    def _run(self) -> None:
        while not self._done.wait(EVERY):
            phase = self.phase
            self._ask_server()
            at = time.monotonic()
            try:
                status, page = get(f"{self._node.web}/metrics")
            except OSError:  # two cores are vLLM's now and then: the exporter's turn comes
                self._seen.unanswered += 1
                continue
            told = self._ask_server()
            if status != 200:
                continue
            series = {name: value for name, value in samples(page).items() if name.startswith("plimsoll_engine_")}
            look = self._look(phase, series, at, told)
            self._seen.looks.append(look)
            self.last = look

    def _ask_server(self) -> bool:
        """Whether it answered."""
        try:
            numbers = self._server.numbers()
        except OSError:
            return False
        self._pages.append((time.monotonic(), numbers))
        del self._pages[:-100]
        return True

    def _look(self, phase: str, series: dict[str, float], at: float, told: bool) -> Look:
        # The page may have been rendered a second ago, and the reading took its time, too.
        oldest = at - of(series, "plimsoll_engine_reading_age_seconds", 0.0) - 1.5
        before = [number for number, (had, _) in enumerate(self._pages) if had <= oldest]
        pages = [numbers for _, numbers in self._pages[before[-1] :]] if told and before else []
        names = {name for page in pages for name in page}
        causes = [name for name, value in series.items() if "_diagnosis{" in name and value == 1]
        return Look(
            phase=phase,
            exporter=ours(series),
            series=series,
            cause=causes[0].partition('cause="')[2].partition('"')[0] if len(causes) == 1 else "",
            low={name: min(page[name] for page in pages if name in page) for name in names},
            high={name: max(page[name] for page in pages if name in page) for name in names},
        )


def ours(series: dict[str, float]) -> dict[str, float]:
    """The exporter's numbers by our words; what is not on the page is not in it."""
    found: dict[str, float] = {}
    for name, family in FAMILIES.items():
        values = [value for shown, value in series.items() if shown.startswith(family + "{")]
        if values:
            found[name] = sum(values)
    return found


def of(series: dict[str, float], family: str, otherwise: float, having: str = "") -> float:
    """The family's one series that has the text, or `otherwise`."""
    found = [value for name, value in series.items() if name.startswith(family + "{") and having in name]
    return found[0] if len(found) == 1 else otherwise


@contextlib.contextmanager
def _stopped(pid: int) -> Iterator[None]:
    os.kill(pid, signal.SIGSTOP)
    try:
        yield
    finally:
        os.kill(pid, signal.SIGCONT)


def run(programs: Path, model: Path, log: Path) -> Seen:
    """Raises NoStart."""
    seen = Seen()
    with Server(programs, model, log) as server:
        seen.start_seconds = round(server.wait(), 1)
        # Its first answer takes longest, and gauges may lag behind it.
        with server.load(clients=1, tokens=20):
            time.sleep(1.0)
        with exporter("--engines", server.url, "--engines.timeout=5s") as node:
            watch = Watch(server, node, seen)
            try:
                _phases(server, watch)
            finally:
                watch.stop()
            seen.exporter_lives = node.process.poll() is None
    return seen


def _phases(server: Server, watch: Watch) -> None:
    watch.until(lambda look: look.cause == "idle")
    watch.still("idle")
    with server.load(*QUEUE):
        watch.enter("queue")
        watch.until(_has_learned)
        watch.enter("drained")
    with server.load(*PRESSURE):
        watch.enter("pressure")
        watch.until(lambda look: look.cause == "kv_pressure")
        watch.until(lambda look: look.exporter.get("preemptions", 0.0) > 10)
        with _stopped(server.core()):
            watch.enter("frozen")
            watch.still("frozen")
            watch.until(lambda look: look.cause == "wedged")
        watch.enter("thawed")
        watch.until(lambda look: look.cause in ("saturated", "kv_pressure"))
        watch.enter("drained again")
    watch.enter("idle again")
    watch.until(lambda look: look.cause == "idle")
    watch.still("idle again")
    watch.enter("killed")
    os.kill(server.core(), signal.SIGKILL)
    watch.until(lambda look: "waiting" not in look.exporter)


def _has_learned(look: Look) -> bool:
    """Long enough for a knee, and for rates over more than a moment."""
    return of(look.series, "plimsoll_engine_learned_queue_seconds", 0.0) > 10.0
