"""Every policy over its knob in one scenario, each run only as long as it can still matter.

May not be in here: which scenarios are measured when, what is written about them.

A peer's sweep is coarse, so it is refined by bisection around its best knob, to both sides. A run is given up once it
has missed MISSES times what the mark allows, or used COST times the GPU-hours of the best peer that reaches the mark.
"""

import itertools
import math
from collections.abc import Callable, Collection, Iterable

from bench.decisions_places import MARKS, MAXIMUM, Place, missed, scenario
from bench.decisions_rows import Played
from scaler.simulate import clairvoyant, compare
from scaler.simulate.compare import BOUND, OWN, STATIC, Task
from scaler.simulate.peers import PEERS
from scaler.simulate.run import SoFar, run

#: Beyond what could be the best by these factors a run is given up: near misses are still real figures.
MISSES, COST = 2.0, 1.25
#: Runs of the bisection to each side of the best knob.
STEPS = 3
#: Likely the best peer and its knob, played first: so the others are held against a good one from the start.
FIRST, FIRST_KNOB = "keda-in-flight", 32.0
RIVALS = (FIRST, *(name for name in PEERS if name not in (STATIC, FIRST)))
#: Beyond the clairvoyant's own sweep, if that does not hold its cheapest: by so much, down to and up to.
STRETCH, LEAST_UTILISATION, MOST_UTILISATION = 1.1, 0.2, 3.0


class Allowance:
    """Up to how many misses and GPU-hours a run goes on. `gave_up` says what it had come to when it did not."""

    def __init__(self, misses: float, gpu_hours: float, gpus: int) -> None:
        self.gave_up: SoFar | None = None
        self._misses, self._replica_seconds = misses, gpu_hours * 3600.0 / gpus

    def __call__(self, so_far: SoFar) -> bool:
        if so_far.missed > self._misses or so_far.replica_seconds > self._replica_seconds:
            self.gave_up = so_far
        return self.gave_up is not None


class Sweep:
    """The runs of one scenario. known: rows that were played before; note: told each new one.

    A run that is known is not played again, so an interrupted sweep that is begun anew goes the same way.
    """

    def __init__(self, place: Place, known: Iterable[Played], note: Callable[[Played], None]) -> None:
        self.scenario = scenario(place)
        self.rows: dict[tuple[str, float | None], Played] = {}
        self._known = {(row.policy, row.knob): row for row in known}
        self._name, self._mark, self._note = place.name, MARKS[place.trace], note
        self._allowed = (1.0 - self._mark) * len(self.scenario.trace.arrivals)

    def best(self, *policies: str) -> Played | None:
        return best([row for row in self.rows.values() if row.policy in policies], self._mark)

    def rivals(self, names: Collection[str]) -> None:
        """The peers of these names; the others' rows are taken as they are known."""
        self._take(name for name in RIVALS if name not in names)
        for name in (name for name in RIVALS if name in names):
            for knob in _first(PEERS[name].sweep):
                self._peer(Task(name, knob))
            self._between(name, self._peer)
            self._around(name, self._peer)

    def static(self) -> None:
        """The smallest size that reaches the mark, and its neighbours: a larger one is never worse."""
        low, high, size = 0, MAXIMUM + 1, self.scenario.start
        while high - low > 1:
            if reaches(self._static(size), self._mark):
                high = size
            else:
                low = size
            step = max(1, size // 4)
            size = min(MAXIMUM, low + step) if high > MAXIMUM else (low + high) // 2 if low else max(1, high - step)
        if high < MAXIMUM:
            self._static(high + 1)

    def bound(self) -> None:
        """The clairvoyant: its sweep, beyond it if need be, and around its cheapest."""
        for knob in clairvoyant.SWEEP:
            self._bound(Task(BOUND, knob))
        most, least = max(clairvoyant.SWEEP), min(clairvoyant.SWEEP)
        while most < MOST_UTILISATION and (best := self.best(BOUND)) is not None and best.knob == most:
            most = _rounded(most * STRETCH)
            self._bound(Task(BOUND, most))
        while least > LEAST_UTILISATION and self.best(BOUND) is None:
            least = _rounded(least / STRETCH)
            self._bound(Task(BOUND, least))
        self._around(BOUND, self._bound)

    def own(self) -> None:
        """Ours, which has no knob; then each peer's run that was given up before one could say whether it beats it."""
        ours = self._play(Task(OWN), math.inf, math.inf)
        self._take(RIVALS)
        for row in list(self.rows.values()):
            if row.policy in RIVALS and row.gave_up is not None and may_beat(row, ours):
                self._play(Task(row.policy, row.knob), ours.missed, ours.gpu_hours, again=True)

    def _take(self, names: Iterable[str]) -> None:
        wanted = set(names)
        self.rows |= {key: row for key, row in self._known.items() if row.policy in wanted and key not in self.rows}

    def _peer(self, task: Task) -> Played:
        return self._within(task, self.best(*RIVALS))

    def _bound(self, task: Task) -> Played:
        return self._within(task, self.best(BOUND))

    def _static(self, size: int) -> Played:
        return self._play(Task(STATIC, float(size)), MISSES * self._allowed, math.inf)

    def _within(self, task: Task, best: Played | None) -> Played:
        hours = math.inf if best is None else best.gpu_hours
        before = self._before(task)
        again = before is not None and is_dear(before, self._mark) and before.gpu_hours < hours
        return self._play(task, MISSES * self._allowed, COST * hours, again)

    def _play(self, task: Task, misses: float, gpu_hours: float, again: bool = False) -> Played:
        """One run, if it was not played before or shall be `again`, for so many misses and GPU-hours at most."""
        before = self._before(task)
        if before is not None and not again:
            self.rows[task.policy, task.knob] = before
            return before
        of = compare.setup(task, self.scenario)
        allowance = Allowance(misses, gpu_hours, of.profile.gpus)
        played = run(of, compare.controller(task, of, {}), task.policy, task.knob, enough=allowance)
        over = allowance.gave_up
        row = Played(
            self._name,
            task.policy,
            task.knob,
            len(of.trace.arrivals),
            missed(played) if over is None else over.missed,
            round(played.gpu_hours, 4),
            len(played.changes),
            None if over is None else over.at,
        )
        self.rows[task.policy, task.knob] = row
        self._note(row)
        return row

    def _before(self, task: Task) -> Played | None:
        place = task.policy, task.knob
        return self.rows.get(place) or self._known.get(place)

    def _between(self, name: str, play: Callable[[Task], Played]) -> None:
        """While none reaches the mark: between a knob that is too dear and one next to it that is too late."""
        for ends in map(list, itertools.pairwise(sorted(self._knobs(name)))):
            for _ in range(STEPS):
                dear = [is_dear(self.rows[name, knob], self._mark) for knob in ends]
                middle = _rounded(math.sqrt(ends[0] * ends[1]))
                if self.best(name) is not None or dear[0] == dear[1] or middle in ends:
                    break
                ends[dear.index(is_dear(play(Task(name, middle)), self._mark))] = middle

    def _around(self, name: str, play: Callable[[Task], Played]) -> None:
        """From the best knob towards the next one on each side, by bisection."""
        for upwards in (False, True):
            best = self.best(name)
            if best is None or best.knob is None:
                return
            beyond = [knob for knob in self._knobs(name) if (knob > best.knob if upwards else knob < best.knob)]
            if not beyond:
                continue
            far = min(beyond) if upwards else max(beyond)
            for _ in range(STEPS):
                middle = _rounded(math.sqrt(best.knob * far))
                if middle in (best.knob, far):
                    break
                play(Task(name, middle))
                better = self.best(name)
                assert better is not None and better.knob is not None  # noqa: PT018 -- for the type: there was one
                if better.knob == middle:
                    best = better
                else:
                    far = middle

    def _knobs(self, name: str) -> list[float]:
        return [knob for policy, knob in self.rows if policy == name and knob is not None]


def reaches(row: Played, mark: float) -> bool:
    return row.gave_up is None and row.attainment >= mark


def is_dear(row: Played, mark: float) -> bool:
    """Whether it was given up for its costs: it might have reached the mark."""
    return row.gave_up is not None and row.attainment >= mark


def best(rows: Iterable[Played], mark: float) -> Played | None:
    """The cheapest that reaches the mark."""
    found = [row for row in rows if reaches(row, mark)]
    return min(found, key=lambda row: (row.gpu_hours, -row.attainment, row.policy, row.knob or 0.0), default=None)


def may_beat(row: Played, ours: Played) -> bool:
    """Whether it has no fewer in time and no more GPU-hours, one of them better. Of a run that was given up: whether
    that could have come of it."""
    no_worse = row.missed <= ours.missed and row.gpu_hours <= ours.gpu_hours
    return no_worse and (row.gave_up is not None or row.missed < ours.missed or row.gpu_hours < ours.gpu_hours)


def _first(knobs: Iterable[float]) -> list[float]:
    return sorted(knobs, key=lambda knob: (knob != FIRST_KNOB, knob))


def _rounded(knob: float) -> float:
    return float(f"{knob:.3g}")
