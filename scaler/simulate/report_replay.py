"""How a replay is told: then against now, in text, on the page and for programs.

May not be in here: figures that then_now.py and reanswer.py do not have.
"""

from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Any

from scaler.core.decision import Decision
from scaler.simulate import report_html, wording
from scaler.simulate.history import History
from scaler.simulate.model import Run
from scaler.simulate.reanswer import Reanswer
from scaler.simulate.report_svg import text
from scaler.simulate.report_text import columns, plain, wrapped
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
        lines += wrapped(f"{history.skipped} lines could not be read, the first: {history.first_skipped}", "  note: ")
    for note in history.notes:
        lines += wrapped(note, "  note: ")
    lines += columns([HEAD, *map(_row, course(all_))])
    lines += _summary(all_, differences)
    for each in differences:
        lines += wrapped(_difference(each), "  ")
        lines += wrapped(each.why_then, "    then ") + wrapped(each.why_now, "    now  ")
    return "\n".join(lines) + "\n"


def section(all_: Sequence[Moment], differences: Sequence[Difference]) -> str:
    """The same for the page of the run (report_html.page)."""
    head = [text(each) for each in HEAD]
    rows = []
    for first, *cells in map(_row, course(all_)):
        figures = "".join(f'<td class="n">{text(cell)}</td>' for cell in cells)
        rows.append(f'<tr><th scope="row">{text(first)}</th>{figures}</tr>')
    caption = "Replicas that were there, in the mean; what was asked for at the end of the stretch."
    told = "".join(f"<p>{text(line)}</p>" for line in _summary(all_, differences))
    minutes = "".join(
        f'<div class="minute"><p><strong>{text(_difference(each))}.</strong></p>'
        f"<ul><li>then: {text(each.why_then)}</li><li>now: {text(each.why_now)}</li></ul></div>"
        for each in differences
    )
    return f"<section><h2>Then and now</h2>{report_html.table(caption, head, rows, names=1)}{told}{minutes}</section>"


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
        lines += wrapped(each.then.explanation, "    then ") + wrapped(why(each), "    now  ")
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


def _summary(all_: Sequence[Moment], differences: Sequence[Difference]) -> list[str]:
    then, now = hours(all_)
    if then is None:
        lines = [f"replica-hours: {now:.2f} now; then is not recorded"]
    else:
        change = f" ({now / then - 1:+.0%})" if then > 0 else ""
        lines = [f"replica-hours: {then:.2f} then, {now:.2f} now{change}"]
    if differences:
        return [*lines, "where they differ most"]
    return lines if then is None else [*lines, "both asked for the same all the time"]


def _difference(each: Difference) -> str:
    return (
        f"{clock(each.at)} to {clock(each.at + each.seconds)}: by {each.replica_seconds / 3600:.2f} replica-hours; "
        f"at {clock(each.peak)} {each.then} then, {each.now} now"
    )


def _row(moment: Moment) -> tuple[str, ...]:
    then = "-" if moment.replicas_then is None else f"{moment.replicas_then:.1f}"
    asked = ["-" if count is None else str(count) for count in (moment.asked_then, moment.asked_now)]
    return clock(moment.at), f"{moment.load:.3g}", then, f"{moment.replicas_now:.1f}", *asked


def _rounded(value: Any) -> Any:
    return round(value, 6) if isinstance(value, float) else value
