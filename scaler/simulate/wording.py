"""How figures, scenarios and verdicts are written, the same in the terminal and on the page.

May not be in here: layout. What a user named is passed through: whoever shows it escapes it.
"""

import math
from collections.abc import Callable, Iterable
from typing import NamedTuple

from scaler.simulate.comparison import Comparison, Row, attains, best, is_own
from scaler.simulate.model import Change, Run, Scenario
from scaler.simulate.outcome import Summary
from scaler.simulate.worst import Window, clock


class Column(NamedTuple):
    """One figure of a table of runs."""

    short: str  # its heading in the terminal
    title: str
    about: str  # its unit and meaning
    text: Callable[[Summary], str]


def share(value: float | None) -> str:
    """Cut, not rounded: 100% means all."""
    return "-" if value is None else f"{math.floor(value * 10_000 + 1e-6) / 100:.2f}%"


def percent(value: float) -> str:
    """A share that a person chose, without idle digits."""
    return f"{value * 100:g}%"


def seconds(value: float | None) -> str:
    if value is None:
        return "-"
    if math.isinf(value):
        return "never"
    return f"{value:.2f}" if value < 10 else f"{value:.1f}" if value < 100 else f"{value:.0f}"


def with_unit(value: float | None) -> str:
    text = seconds(value)
    return f"{text} s" if text[0].isdigit() else text


def milliseconds(value: float | None) -> str:
    return "-" if value is None else f"{value * 1000:.0f}"


def span(value: float) -> str:
    """A length of time that was chosen: 90 s, 45 min, 2 h."""
    for size, unit in ((3600.0, "h"), (60.0, "min")):
        if value >= 2 * size or value == size:
            return f"{value / size:.3g} {unit}"
    return f"{value:.4g} s"


def knob(row: Row) -> str:
    return "" if row.knob is None else f"{row.knob_name or 'knob'}={row.knob:g}"


def label(row: Row) -> str:
    return f"{row.policy} ({knob(row)})" if row.knob is not None else row.policy


def run_label(run: Run, rows: Iterable[Row] = ()) -> str:
    """As its row is called; a run without one does not know its knob's name."""
    for row in rows:
        if (row.policy, row.knob) == (run.policy, run.knob):
            return label(row)
    return run.policy if run.knob is None else f"{run.policy} ({run.knob:g})"


#: In the order of a table, after the policy and its knob.
COLUMNS: tuple[Column, ...] = (
    Column("in time", "in time", "requests with their first token within the target", lambda s: share(s.attainment)),
    Column("GPU-h", "GPU-hours", "from a pod's creation to its end", lambda s: f"{s.gpu_hours:.2f}"),
    Column("TTFT50", "TTFT p50", "seconds to the first token; never: not by the end", lambda s: seconds(s.ttft_p50)),
    Column("p95", "p95", "of the same", lambda s: seconds(s.ttft_p95)),
    Column("p99", "p99", "of the same", lambda s: seconds(s.ttft_p99)),
    Column("TPOT95", "TPOT p95", "ms a token after a request's first", lambda s: milliseconds(s.between_tokens_p95)),
    Column("E2E95", "E2E p95", "seconds to the last token", lambda s: seconds(s.e2e_p95)),
    Column("mean", "replicas", "mean", lambda s: f"{s.replicas_mean:.1f}"),
    Column("peak", "peak", "most replicas at once", lambda s: str(s.replicas_peak)),
    Column("up/h", "up/h", "scale-ups an hour", lambda s: f"{s.ups_per_hour:.1f}"),
    Column("dn/h", "down/h", "scale-downs an hour", lambda s: f"{s.downs_per_hour:.1f}"),
    Column("rev", "reversals", "a scale-up and a scale-down within 10 min", lambda s: str(s.reversals)),
    Column("queue", "queue", "most requests waiting at once", lambda s: str(s.queue_peak)),
)  # fmt: skip


def scenario(given: Scenario) -> str:
    """One sentence."""
    trace, profile = given.trace, given.profile
    count = len(trace.arrivals)
    cold = sum(profile.cold_start) if given.cold_start is None else given.cold_start
    parts = [
        f"{trace.name}: {count} {'request' if count == 1 else 'requests'} in {span(trace.seconds)}",
        f"on {profile.name} ({profile.gpus} {'GPU' if profile.gpus == 1 else 'GPUs'} a replica)",
        f"{given.minimum} to {given.maximum} replicas, {given.start} at the start",
        f"cold start {span(cold)}",
        f"first token wanted within {span(given.ttft_target)}",
    ]
    if given.nodes is not None:
        parts.append(f"{given.nodes} {'node' if given.nodes == 1 else 'nodes'} of 8 GPUs")
    if given.faults:
        kinds = ", ".join(f"{fault.kind} at {clock(fault.at)}" for fault in given.faults)
        parts.append(f"faults: {kinds}")
    return ", ".join(parts) + f", seed {given.seed}."


def verdict(comparison: Comparison) -> str:
    """One or two sentences: who attains the target with the fewest GPU-hours, and how the best of ours and of the
    others stand to each other."""
    rows = [row for row in comparison.rows if not row.is_bound]
    target, goal = comparison.target, percent(comparison.target)
    winner = best(rows, target)
    if winner is None:
        return "Nothing was compared."
    if not attains(winner, target):
        return f"None attains {goal} in time; nearest is {_standing(winner)}."
    said = (
        f"{label(winner)} attains {goal} in time with the fewest GPU-hours: {winner.summary.gpu_hours:.2f}, "
        f"with {share(winner.summary.attainment)} in time."
    )
    camp = is_own(winner.policy, comparison)
    rival = best([row for row in rows if is_own(row.policy, comparison) != camp], target)
    if rival is None:
        return said
    other = "other policies" if camp else "ours"
    if not attains(rival, target):
        return f"{said} Of {other} none attains it; nearest is {_standing(rival)}."
    more = rival.summary.gpu_hours / winner.summary.gpu_hours - 1 if winner.summary.gpu_hours > 0 else 0.0
    return f"{said} The best of {other}, {label(rival)}, needs {rival.summary.gpu_hours:.2f}, {more:.0%} more."


def _standing(row: Row) -> str:
    return f"{label(row)}, {share(row.summary.attainment)} in time with {row.summary.gpu_hours:.2f} GPU-hours"


def change(made: Change) -> str:
    value = "" if made.value is None else f", value {made.value:.4g}"
    reason = f" ({made.reason}{value})" if made.reason else value.replace(", ", " ", 1)
    return f"{clock(made.at)}  {made.before} -> {made.after}{reason}" + (f": {made.why}" if made.why else "")


def window(seen: Window) -> str:
    """What stood there, in one line."""
    before = "" if seen.load_before is None else f" (minute before {seen.load_before:.3g})"
    return (
        f"{seen.missed} of {seen.requests} requests late, TTFT p95 {with_unit(seen.ttft_p95)}; "
        f"load {seen.load:.3g}/s{before}; up to {seen.waiting} waiting; "
        f"{seen.ready} ready, {seen.starting} starting, spec {seen.spec}"
    )


def figures(counted: Summary) -> list[tuple[str, str]]:
    """All of a run's figures as (name, text)."""
    late = f"{share(counted.attainment)}: {counted.missed} were late, {counted.unfinished} not finished at the end"
    reversed_ = f"{counted.reversals} reversed within 10 min"
    return [
        ("requests", str(counted.requests)),
        ("in time", late),
        ("GPU-hours", f"{counted.gpu_hours:.2f}"),
        ("TTFT", _three(counted)),
        (
            "TPOT",
            f"p50 {milliseconds(counted.between_tokens_p50)} ms, p95 {milliseconds(counted.between_tokens_p95)} ms",
        ),
        ("E2E", f"p95 {with_unit(counted.e2e_p95)}"),
        ("replicas", f"mean {counted.replicas_mean:.1f}, peak {counted.replicas_peak}"),
        ("changes", f"{counted.ups_per_hour:.1f} up and {counted.downs_per_hour:.1f} down an hour, {reversed_}"),
        ("queue", f"{counted.queue_peak} at most"),
        ("begun anew", f"{counted.restarts}; {counted.preemptions} preempted"),
    ]


def _three(counted: Summary) -> str:
    parts = (("p50", counted.ttft_p50), ("p95", counted.ttft_p95), ("p99", counted.ttft_p99))
    return ", ".join(f"{name} {with_unit(value)}" for name, value in parts)
