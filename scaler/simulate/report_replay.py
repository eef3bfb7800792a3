"""How a replay is told: then against now, in text and for programs.

May not be in here: figures that then_now.py and reanswer.py do not have.
"""

import textwrap
from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Any

from scaler.core.decision import Decision
from scaler.simulate import wording
from scaler.simulate.history import History
from scaler.simulate.model import Run
from scaler.simulate.reanswer import Reanswer
from scaler.simulate.report_text import WIDTH, plain
from scaler.simulate.then_now import Difference, Moment, course, hours
from scaler.simulate.worst import clock

HEAD = ("from", "requests/s", "replicas then", "now", "asked then", "now")
MOST_ANSWERS = 20


def told(history: History, all_: Sequence[Moment], differences: Sequence[Difference]) -> str:
    """The course and where the two differ most."""
    arrivals = sum(interval.arrivals for interval in history.intervals)
    since = datetime.fromtimestamp(history.start, UTC).strftime("%Y-%m-%d %H:%M:%S UTC")
    lines = [f"{plain(history.name)}: {arrivals:.0f} requests in {wording.span(history.seconds)} from {since}"]
    if history.skipped:
        lines += _wrapped(f"{history.skipped} lines could not be read, the first: {history.first_skipped}", "  note: ")
    for note in history.notes:
        lines += _wrapped(note, "  note: ")
    rows = [HEAD, *map(_row, course(all_))]
    widths = [max(len(row[index]) for row in rows) for index in range(len(HEAD))]
    lines += ["  ".join(cell.rjust(width) for cell, width in zip(row, widths, strict=True)) for row in rows]
    then, now = hours(all_)
    if then is None:
        lines.append(f"replica-hours: {now:.2f} now; then is not recorded")
    else:
        change = f" ({now / then - 1:+.0%})" if then > 0 else ""
        lines.append(f"replica-hours: {then:.2f} then, {now:.2f} now{change}")
    if differences:
        lines.append("where they differ most")
    elif then is not None:
        lines.append("both asked for the same all the time")
    for each in differences:
        end = each.at + each.seconds
        lines += _wrapped(
            f"{clock(each.at)} to {clock(end)}: by {each.replica_seconds / 3600:.2f} replica-hours; "
            f"at {clock(each.peak)} {each.then} then, {each.now} now",
            "  ",
        )
        lines += _wrapped(each.why_then, "    then ") + _wrapped(each.why_now, "    now  ")
    return "\n".join(lines) + "\n"


def marked(run: Run, differences: Sequence[Difference]) -> Run:
    """The run with the differences among its events, so that its report shows them."""
    marks = [(each.peak, f"recorded: {each.then} asked for then, {each.now} now") for each in differences]
    return run._replace(events=tuple(sorted([*run.events, *marks])))


def document(history: History, all_: Sequence[Moment], differences: Sequence[Difference]) -> dict[str, Any]:
    """What a replay adds to the report for programs."""
    then, now = hours(all_)
    return {
        "name": history.name,
        "start_unix_seconds": history.start,
        "seconds": history.seconds,
        "skipped_lines": history.skipped,
        "notes": list(history.notes),
        "replica_hours_then": None if then is None else round(then, 6),
        "replica_hours_now": round(now, 6),
        "course": [{key: _rounded(value) for key, value in moment._asdict().items()} for moment in course(all_, 240)],
        "differences": [{key: _rounded(value) for key, value in each._asdict().items()} for each in differences],
    }


def answers(made: Sequence[Reanswer], skipped: int) -> str:
    """Recorded decisions against today's of the same inputs."""
    differing = [each for each in made if each.differs]
    lines = [f"{len(made)} recorded decisions with inputs, {len(differing)} would be answered differently"]
    if skipped:
        lines.append(f"  note: {skipped} without: no replica was known then")
    for each in differing[:MOST_ANSWERS]:
        lines.append(f"{datetime.fromtimestamp(each.then.time, UTC).strftime('%Y-%m-%d %H:%M:%S UTC')}")
        lines += _wrapped(each.then.explanation, "    then ") + _wrapped(why(each), "    now  ")
    if len(differing) > MOST_ANSWERS:
        lines.append(f"and {len(differing) - MOST_ANSWERS} more; --json has them all")
    return "\n".join(lines) + "\n"


def answers_document(made: Sequence[Reanswer]) -> dict[str, Any]:
    return {
        "decisions": len(made),
        "differing": [
            {
                "time_unix_seconds": each.then.time,
                "required_then": each.then.required_replicas,
                "required_now": each.now.required_replicas if isinstance(each.now, Decision) else None,
                "why_then": each.then.explanation,
                "why_now": why(each),
            }
            for each in made
            if each.differs
        ],
    }


def why(each: Reanswer) -> str:
    return each.now.explanation if isinstance(each.now, Decision) else f"no answer: {each.now.reason}"


def _row(moment: Moment) -> tuple[str, ...]:
    then = "-" if moment.replicas_then is None else f"{moment.replicas_then:.1f}"
    asked = ["-" if count is None else str(count) for count in (moment.asked_then, moment.asked_now)]
    return clock(moment.at), f"{moment.load:.3g}", then, f"{moment.replicas_now:.1f}", *asked


def _wrapped(text: str, before: str) -> list[str]:
    return textwrap.wrap(plain(text), WIDTH, initial_indent=before, subsequent_indent=" " * (len(before) + 4))


def _rounded(value: Any) -> Any:
    return round(value, 6) if isinstance(value, float) else value
