"""Which runs a comparison consists of, and what becomes of them.

May not be in here: running them, how the outcome is shown (comparison.py, report_*.py).

Beside the policies stand two that tell where they are: the clairvoyant's schedule (a bound: it knows the trace), and
the best fixed size, which needs no policy but somebody who knows the trace.
"""

import math
from collections.abc import Iterable, Mapping, Sequence
from typing import NamedTuple

from scaler.core.written import near, quoted
from scaler.simulate import clairvoyant
from scaler.simulate.comparison import Row, ranked
from scaler.simulate.model import Controller, Run, Scenario
from scaler.simulate.outcome import summary
from scaler.simulate.peers import PEERS
from scaler.simulate.product import Product, setting
from scaler.simulate.scenario import ScenarioError

OWN, BOUND, STATIC = "plimsoll", "clairvoyant", "static"
ALL = "all"
MOST_KNOB = 1e6


class Task(NamedTuple):
    """One run: a policy, and where its knob stands."""

    policy: str
    knob: float | None = None


def single(text: str) -> Task:
    """NAME or NAME=KNOB; without, the knob's default. Raises ScenarioError."""
    name, equals, told = text.partition("=")
    if name == OWN:
        if equals:
            raise ScenarioError(f"--policy {quoted(text)}: {OWN} has no knob; use --set KEY=VALUE")
        return Task(OWN)
    _known(name, "--policy", (OWN, *PEERS, BOUND))
    default = clairvoyant.USUAL if name == BOUND else PEERS[name].default
    try:
        knob = float(told) if equals else default
    except ValueError:
        knob = math.nan
    if not 0 < knob <= MOST_KNOB:
        raise ScenarioError(f"--policy {quoted(text)}: the knob is no number above 0; write for example {default:g}")
    return Task(name, knob)


def peers(text: str, option: str) -> tuple[str, ...]:
    """The peers of "all" or "NAME,NAME", but for those that stand in every comparison. Raises ScenarioError."""
    if text == ALL:
        return tuple(name for name in PEERS if name != STATIC)
    names = [_known(name.strip(), option, (*PEERS, OWN, BOUND)) for name in text.split(",")]
    return tuple(dict.fromkeys(name for name in names if name not in (OWN, BOUND, STATIC)))


def tasks(names: Iterable[str], scenario: Scenario, sweep: bool) -> tuple[Task, ...]:
    """Ours, the bound and all fixed sizes, and these peers at their defaults, or over their sweeps."""
    sizes = {max(scenario.minimum, min(scenario.maximum, int(size))) for size in PEERS[STATIC].sweep}
    rivals = [Task(name, knob) for name in names for knob in (PEERS[name].sweep if sweep else (PEERS[name].default,))]
    return (
        Task(OWN),
        *rivals,
        *(Task(STATIC, float(size)) for size in sorted(sizes)),
        *(Task(BOUND, knob) for knob in clairvoyant.SWEEP),
    )


def controller(task: Task, scenario: Scenario, metadata: Mapping[str, str]) -> Controller:
    """A fresh one. metadata: of our own trigger."""
    if task.policy == OWN:
        return Product(scenario, setting(scenario, dict(metadata)))
    assert task.knob is not None, "only ours has none"  # noqa: S101 -- for the type
    if task.policy == BOUND:
        return clairvoyant.controller(scenario, task.knob)
    return PEERS[task.policy].make(task.knob, scenario)


def setup(task: Task, scenario: Scenario) -> Scenario:
    """As the scenario begins for this policy: a fixed size is there from the start."""
    if task.policy != STATIC or task.knob is None:
        return scenario
    return scenario._replace(start=max(scenario.minimum, min(scenario.maximum, int(task.knob))))


def row(task: Task, run: Run) -> Row:
    name = "" if task.knob is None else "utilisation" if task.policy == BOUND else PEERS[task.policy].knob.name
    return Row(task.policy, task.knob, name, summary(run), is_bound=task.policy == BOUND)


def condensed(rows: Sequence[Row], target: float) -> list[Row]:
    """Without the fixed sizes and the bound's settings but for the best of each."""
    kept = [row for row in rows if row.policy not in (STATIC, BOUND)]
    for policy in (STATIC, BOUND):
        kept += ranked([row for row in rows if row.policy == policy], target)[:1]
    return kept


def _known(name: str, option: str, known: Sequence[str]) -> str:
    if name not in known:
        raise ScenarioError(f"{option}: policy {quoted(name)} is unknown; {near(name, known)}")
    return name
