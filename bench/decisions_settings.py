"""One setting in all scenarios: what each peer's knob comes to if it is not chosen anew for each load.

May not be in here: measuring, each scenario by itself (decisions_table.py).
"""

from collections.abc import Iterable
from typing import NamedTuple

from bench.decisions_places import MARKS, PLACES
from bench.decisions_rows import Played
from bench.decisions_sweep import RIVALS, reaches
from scaler.simulate.compare import OWN

SHOWN = 8


class Setting(NamedTuple):
    """A policy at one knob, in all scenarios."""

    policy: str
    knob: float | None
    marks: int  # that it reached; a run that was given up for its costs is taken to have reached its mark
    gpu_hours: float
    at_least: bool  # some runs were given up, and would have used more

    @property
    def order(self) -> tuple[int, float, str, float]:
        """Most marks first, then the cheapest."""
        return -self.marks, self.gpu_hours, self.policy, self.knob or 0.0


def settings(rows: Iterable[Played]) -> list[Setting]:
    """Of every policy and knob that was played in each scenario, the best first."""
    marks = {place.name: MARKS[place.trace] for place in PLACES}
    of: dict[tuple[str, float | None], dict[str, Played]] = {}
    for row in rows:
        if row.scenario in marks and row.policy in (OWN, *RIVALS):
            of.setdefault((row.policy, row.knob), {})[row.scenario] = row
    found = []
    for (policy, knob), played in of.items():
        if len(played) < len(marks):
            continue
        reached = sum(
            reaches(row, marks[name]) or (row.gave_up is not None and row.attainment >= marks[name])
            for name, row in played.items()
        )
        hours = sum(row.gpu_hours for row in played.values())
        found.append(Setting(policy, knob, reached, hours, any(row.gave_up is not None for row in played.values())))
    return sorted(found, key=lambda one: one.order)


def section(rows: Iterable[Played]) -> str:
    """Markdown; "" while ours is not measured in all scenarios."""
    found = settings(rows)
    ours = next((one for one in found if one.policy == OWN), None)
    if ours is None:
        return ""
    peers = [one for one in found if one.policy != OWN]
    whole = [one for one in peers if one.marks == len(PLACES)]
    lines = [
        "## One setting for all\n",
        f"A knob cannot be chosen after the load was seen. So: each policy with one setting in all {len(PLACES)}"
        " scenarios, those that reach the most marks first. Runs of peers that were given up count with what they had"
        " used by then, and as having reached their mark if they were only dear: a peer is at least as dear as it is"
        " shown.\n",
        "| policy | knob | marks reached | GPU-h in all | plimsoll's over it |",
        "|---|---|---|---|---|",
    ]
    for one in [ours, *peers[:SHOWN]]:
        knob = "" if one.knob is None else f"{one.knob:g}"
        hours = f"{'at least ' if one.at_least else ''}{one.gpu_hours:.1f}"
        ratio = "" if one is ours else f"{'at most ' if one.at_least else ''}{ours.gpu_hours / one.gpu_hours:.2f}"
        lines.append(f"| {one.policy} | {knob} | {one.marks} of {len(PLACES)} | {hours} | {ratio} |")
    if whole:
        least = whole[0]
        lines.append(
            f"\nThe cheapest peer that reaches every mark with one setting is {least.policy} at {least.knob:g}:"
            f" plimsoll takes {ours.gpu_hours / least.gpu_hours:.2f} of its GPU-hours"
            f"{' or less' if least.at_least else ''}, and reaches {ours.marks} of {len(PLACES)}."
        )
    return "\n".join(lines) + "\n"
