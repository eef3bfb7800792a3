"""docs/decisions.md: what bench.decisions measured, against the goals.

May not be in here: measuring. Every figure, and whether a goal is reached, is taken from the rows.
"""

from collections.abc import Callable, Iterable, Sequence
from typing import NamedTuple

from bench import decisions_settings, decisions_trials_table
from bench.decisions_places import MARKS, MAXIMUM, PLACES, SCALE, Place
from bench.decisions_rows import About, Played, Row
from bench.decisions_sweep import COST, MISSES, RIVALS, best, may_beat, reaches
from scaler.simulate.compare import BOUND, OWN, STATIC
from scaler.simulate.peers import PEERS

#: Our GPU-hours over the clairvoyant's and over the best peer's, at most.
BOUND_GOAL, PEER_GOAL = 1.30, 0.80

HEAD = f"""\
# Decisions, measured

Written by `make bench-decisions`, which measures everything below anew. `make bench-decisions ARGS="plimsoll"` measures
one policy's rows and writes the page from those and the last ones of the others. All rows are in
[bench/decisions.jsonl](../bench/decisions.jsonl).

{{about}}

## Against the clairvoyant and the peers

Azure's [conversation and code traces](../bench/traces/README.md) of 2023, about an hour each, with {SCALE} times their
requests, on replicas of an 8B model on an A100 or an L40S, with cold starts of 1, 3 and 7 minutes; {MAXIMUM} replicas
at most. All policies begin with the same replicas, enough for what comes first, but for `static`, which has its size
from the start. What is simulated, and what is not: [simulate.md](simulate.md).

- *In time* is the share of requests whose first token came within 2 s; one that never came is not in time. The mark
  that a policy has to reach is {{marks}}.
  Code comes in bursts that are over before a replica could start.
- *GPU-h* counts each pod from the moment it has its GPU, loading included.
- `plimsoll` has one setting, its default, in all scenarios.
- `clairvoyant` is a bound and no policy: it knows every request beforehand. Shown is its cheapest run that reaches the
  mark.
- `static` is the smallest fixed size that reaches the mark. Only who knows the load beforehand can choose it, so it is
  no peer.
- The peers are {len(RIVALS)} policies as [their sources](../scaler/simulate/peers.py) have them, over the sweep of
  their knob, then between the best knob and the next ones; the best of all that counts. That is unfair to us on
  purpose: a knob that is chosen afterwards has seen the load.
- A peer *dominates* us if it has no fewer in time and no more GPU-hours, and is better in one of the two.
- A run is given up once it has missed {MISSES:g} times what the mark allows, or used {COST:g} times the GPU-hours of
  the best peer found so far: it can no longer be the best. Peers' runs that might still dominate us are played on.
"""


class Outcome(NamedTuple):
    """One scenario, as far as it is measured."""

    place: Place
    ours: Played | None
    bound: Played | None
    static: Played | None
    rival: Played | None
    beaten_by: tuple[Played, ...]

    @property
    def mark(self) -> float:
        return MARKS[self.place.trace]

    def over(self, other: Played | None) -> float | None:
        """Our GPU-hours over another's."""
        return None if self.ours is None or other is None else self.ours.gpu_hours / other.gpu_hours

    def reached(self) -> bool:
        return self.ours is not None and reaches(self.ours, self.mark)

    def within(self, other: Played | None, goal: float) -> bool | None:
        """Whether ours reaches the mark with so many times the other's GPU-hours or fewer; None: there is no other."""
        ratio = self.over(other)
        return None if ratio is None else self.reached() and ratio <= goal


def outcome(place: Place, rows: Iterable[Played]) -> Outcome:
    of = [row for row in rows if row.scenario == place.name]
    mark = MARKS[place.trace]
    ours = next((row for row in of if row.policy == OWN), None)
    rivals = [row for row in of if row.policy in RIVALS]
    bound, static = (best([row for row in of if row.policy == name], mark) for name in (BOUND, STATIC))
    beaten_by = () if ours is None else tuple(row for row in rivals if may_beat(row, ours))
    return Outcome(place, ours, bound, static, best(rivals, mark), beaten_by)


def page(rows: Iterable[Row]) -> str:
    kept = list(rows)
    played = [row for row in kept if isinstance(row, Played)]
    outcomes = [outcome(place, played) for place in PLACES if any(row.scenario == place.name for row in played)]
    outcomes.sort(key=lambda one: (list(MARKS).index(one.place.trace), one.place.profile, one.place.cold_start))
    marks = " and ".join(f"{mark:.0%} on {trace}" for trace, mark in MARKS.items()).replace("%", " %")
    parts = [
        HEAD.format(about=_about([row for row in kept if isinstance(row, About)]), marks=marks),
        _comparison(outcomes),
        _goals(outcomes),
        decisions_settings.section(played),
        *decisions_trials_table.sections(kept),
        "## Each peer at its best\n",
        *(_peers(one, [row for row in played if row.scenario == one.place.name]) for one in outcomes),
    ]
    return "\n".join(parts).rstrip() + "\n"


def _about(rows: list[About]) -> str:
    lines = []
    for row in sorted(rows, key=lambda row: (bool(row.names), row.date, row.names)):
        peers = ["all peers"] if set(RIVALS) <= set(row.names) else [name for name in RIVALS if name in row.names]
        what = ", ".join([*peers, *(name for name in row.names if name not in RIVALS)]) or "everything"
        where = f"plimsoll {row.version}, Python {row.python}, {row.machine}"
        lines.append(f"- Measured on {row.date}, {where}: {what}.")
    return "\n".join(lines)


def _comparison(outcomes: Sequence[Outcome]) -> str:
    lines = [
        "| load | GPU | cold start | plimsoll: in time, GPU-h | clairvoyant | static | best peer | over clairvoyant | "
        "over best peer | over static | dominated by |",
        "|---|---|---|---|---|---|---|---|---|---|---|",
    ]
    for one in outcomes:
        ours = "not measured" if one.ours is None else _figures(one.ours)
        if one.ours is not None and not one.reached():
            ours += " (below the mark)"
        cells = [
            one.place.trace,
            one.place.profile.removeprefix("8b-").upper(),
            f"{one.place.cold_start:g} s",
            ours,
            _shown(one.bound, _figures),
            _shown(one.static, lambda row: f"{row.knob:g} replicas: {_figures(row)}"),
            _shown(one.rival, lambda row: f"{row.policy} at {row.knob:g}: {_figures(row)}"),
            *(_ratio(one.over(other)) for other in (one.bound, one.rival, one.static)),
            "" if one.ours is None else _names(one.beaten_by),
        ]
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines) + "\n"


def _goals(outcomes: Sequence[Outcome]) -> str:
    measured = [one for one in outcomes if one.ours is not None]
    if not measured:
        return "plimsoll is not measured.\n"
    checks: tuple[tuple[str, Callable[[Outcome], bool | None]], ...] = (
        ("the mark is reached", Outcome.reached),
        (f"and at most {BOUND_GOAL:.2f} of the clairvoyant's GPU-h", lambda one: one.within(one.bound, BOUND_GOAL)),
        (f"and at most {PEER_GOAL:.2f} of the best peer's GPU-h", lambda one: one.within(one.rival, PEER_GOAL)),
        ("no peer dominates", lambda one: not one.beaten_by),
    )
    lines = ["| goal | reached in | not in |", "|---|---|---|"]
    for goal, check in checks:
        held = [(one.place.name, check(one)) for one in measured]
        missed = [name + ("" if found is False else " (nothing to compare with)") for name, found in held if not found]
        lines.append(f"| {goal} | {len(held) - len(missed)} of {len(held)} | {'; '.join(missed)} |")
    return "\n".join(lines) + "\n"


def _peers(one: Outcome, rows: Sequence[Played]) -> str:
    lines = [
        f"### {one.place.name}: {one.mark:.0%} in time".replace("%", " %"),
        "",
        "| peer | knob | best setting that reaches the mark | runs |",
        "|---|---|---|---|",
    ]
    found = [(name, [row for row in rows if row.policy == name]) for name in RIVALS]
    found.sort(key=lambda each: row.gpu_hours if (row := best(each[1], one.mark)) else float("inf"))
    lines += [f"| {name} | {PEERS[name].knob.name} | {_best(of, one.mark)} | {len(of)} |" for name, of in found if of]
    return "\n".join(lines) + "\n"


def _best(rows: Sequence[Played], mark: float) -> str:
    """One peer's best, or how near it came."""
    if (row := best(rows, mark)) is not None:
        return f"{row.knob:g}: {_figures(row)}"
    whole = [row for row in rows if row.gave_up is None]
    dear = [row.gpu_hours for row in rows if row.gave_up is not None and row.attainment >= mark]
    none = "none reaches it" if not dear else f"none reaches it with less than {min(dear):.2f} GPU-h"
    if not whole:
        most = "" if dear else f", with {_share(max(row.attainment for row in rows))} or less"
        return f"{none}; all were given up{most}"
    nearest = max(whole, key=lambda row: (row.attainment, -row.gpu_hours))
    return f"{none}; best seen {_share(nearest.attainment)} at {nearest.gpu_hours:.2f} GPU-h ({nearest.knob:g})"


def _names(rows: Sequence[Played]) -> str:
    """Of runs that were given up it is not known."""
    told = [f"{row.policy} at {row.knob:g}" + (" (perhaps)" if row.gave_up is not None else "") for row in rows]
    return "; ".join(told) or "none"


def _shown(row: Played | None, words: Callable[[Played], str]) -> str:
    return "none reaches it" if row is None else words(row)


def _figures(row: Played) -> str:
    return f"{_share(row.attainment)}, {row.gpu_hours:.2f}"


def _share(share: float) -> str:
    """Rounded down: 98.999 % does not reach 99 %."""
    return f"{int(share * 10_000 + 1e-6) / 100:.2f} %"


def _ratio(ratio: float | None) -> str:
    return "" if ratio is None else f"{ratio:.2f}"
