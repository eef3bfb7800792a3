"""What our decisions do under a steady load, under faults, without readings, and what the simulator itself takes.

May not be in here: other policies' runs (decisions_sweep.py), what is written about these.
"""

import time
from collections.abc import Callable, Mapping
from functools import partial

from bench.decisions_places import SEED, Place, missed, scenario
from bench.decisions_rows import Blind, Faulty, Key, Row, Steady, Wall
from scaler.simulate import clairvoyant
from scaler.simulate.compare import OWN, STATIC, Task, controller, setup
from scaler.simulate.faults import parse
from scaler.simulate.generators import generate
from scaler.simulate.model import Answer, Controller, Run, Scenario, Seen
from scaler.simulate.product import Product, setting
from scaler.simulate.profiles import profile
from scaler.simulate.run import run

#: Steady: requests/s; the first seconds, in which the fleet finds its size, are not counted.
LOADS, SETTLED, COUNTED = (0.5, 2.0, 6.0, 14.0), 600.0, 7200.0
#: The conversation trace, as in the comparison; faults from its 20th minute on.
CONVERSATION = Place("conversation", "8b-a100", 180.0)
FAULTS = ("throttled@20m:replica=0,factor=4,for=20m", "lost@20m:replica=0", "wedged@20m:replica=0,for=20m")
#: A burst of ten minutes of three times the load, and half of it unseen; BURST_END is the end of that burst.
BURSTS = {"base": 6.0, "factor": 3.0, "every": 1800.0, "length": 600.0, "seconds": 4500.0}
UNSEEN, BURST_END = "blind@52m30s:for=5m", 3600.0
#: Of the HPA, in seconds: so soon an answer can be acted on at all.
SYNC = 15.0
#: The fixed size whose hour is timed.
SIZE = 20.0


def steady(rate: float) -> Steady:
    trace = generate("steady", {"rate": rate, "seconds": SETTLED + COUNTED}, SEED)
    played = _own(_started(Scenario(trace, profile("8b-a100"))))
    changes = sum(change.at >= SETTLED for change in played.changes)
    return Steady(rate, changes, COUNTED / 3600.0, _attainment(played))


def faulty(text: str) -> Faulty:
    """Extra replicas are counted from the fault on: before it the two runs are one."""
    of = scenario(CONVERSATION)
    healthy, ill = _own(of), _own(of._replace(faults=(parse(text),)))
    extra = [one.spec - other.spec for one, other in zip(ill.ticks, healthy.ticks, strict=True)]
    hours = ill.gpu_hours - healthy.gpu_hours
    return Faulty(text, _attainment(ill), _attainment(healthy), max(0, *extra), round(hours, 4))


def blind(text: str) -> Blind:
    fault = parse(text)
    of = _started(Scenario(generate("bursts", BURSTS, SEED), profile("8b-a100"), cold_start=180.0))
    seeing, unseeing = _Heard(of), _Heard(of)
    seen, unseen = run(of, seeing, OWN), run(of._replace(faults=(fault,)), unseeing, OWN)
    until = fault.at + fault.seconds
    answers = [(at, value, seeing.said[at]) for at, value in unseeing.said.items() if at >= until]
    again = [at for at, value, other in answers if value == other]
    apart = [abs((value or 0.0) - (other or 0.0)) for at, value, other in answers if until + SYNC <= at <= BURST_END]
    return Blind(
        text,
        f"bursts of {BURSTS['factor']:g} times {BURSTS['base']:g} requests/s",
        _downs(unseen, fault.at, until),
        min(again) - until if again else None,
        max(apart),
        _downs(unseen, until, BURST_END),
        _downs(seen, until, BURST_END),
        _attainment(unseen),
        _attainment(seen),
    )


def wall(policy: str) -> Wall:
    """The conversation trace is 58 minutes long; the times are for an hour."""
    task = Task(policy, SIZE if policy == STATIC else None)
    of = setup(task, scenario(CONVERSATION))
    by = controller(task, of, {})
    began, worked = time.perf_counter(), time.process_time()
    run(of, by, task.policy, task.knob)
    share = 3600.0 / of.trace.seconds
    wall, cpu = (time.perf_counter() - began) * share, (time.process_time() - worked) * share
    return Wall(policy, len(of.trace.arrivals), 3600.0, round(wall, 2), round(cpu, 2))


class _Heard(Product):
    """Ours; `said` is what it answered when."""

    def __init__(self, of: Scenario) -> None:
        super().__init__(of, setting(of))
        self.said: dict[float, float | None] = {}

    def __call__(self, seen: Seen) -> Answer:
        answer = super().__call__(seen)
        self.said[seen.now] = answer.value
        return answer


def _started(of: Scenario) -> Scenario:
    return of._replace(start=clairvoyant.start(of))


def _own(of: Scenario) -> Run:
    by: Controller = Product(of, setting(of))
    return run(of, by, OWN)


def _downs(played: Run, since: float, until: float) -> int:
    return sum(change.after < change.before and since < change.at <= until for change in played.changes)


def _attainment(played: Run) -> float:
    return round(1.0 - missed(played) / len(played.requests), 6)


#: Name -> its rows' keys, and what measures each.
TRIALS: Mapping[str, tuple[tuple[Key, Callable[[], Row]], ...]] = {
    "steady": tuple((("steady", rate), partial(steady, rate)) for rate in LOADS),
    "faults": tuple((("fault", text), partial(faulty, text)) for text in FAULTS),
    "blind": ((("blind", UNSEEN), partial(blind, UNSEEN)),),
    "wall": tuple((("wall", policy), partial(wall, policy)) for policy in (STATIC, OWN)),
}
NAME_OF: Mapping[type, str] = {Steady: "steady", Faulty: "faults", Blind: "blind", Wall: "wall"}
#: Whose figures do not depend on what else the machine does, and whose do.
SIDE_BY_SIDE, ALONE = ("steady", "faults", "blind"), "wall"
