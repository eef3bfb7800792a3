"""The report as one page that needs nothing else: no script, no network, readable from a file.

May not be in here: drawing (report_frontier.py, report_course.py), styles (report/page.html), figures of its own. Every
text that a user may have written is escaped.
"""

from collections.abc import Iterable, Iterator
from importlib.resources import files
from string import Template

from scaler.simulate import report_course, report_frontier, wording
from scaler.simulate.comparison import Comparison, Row, attains, dominated, is_own, ranked
from scaler.simulate.model import Run
from scaler.simulate.outcome import summary, timelines
from scaler.simulate.report_svg import text
from scaler.simulate.worst import Window, clock, worst

_PAGE = Template(files("scaler").joinpath("simulate/report/page.html").read_text("utf-8"))


def page(comparison: Comparison, sections: Iterable[str] = ()) -> str:
    """The whole page. sections: what else is to be told, in HTML, before the runs."""
    name = f"{comparison.scenario.trace.name}, simulated"
    parts = [
        f"<header><h1>{text(name)}</h1>",
        f"<p>{text(wording.scenario(comparison.scenario))}</p>",
        f'<p class="verdict">{text(wording.verdict(comparison))}</p></header>',
    ]
    if comparison.rows:
        parts += _comparison(comparison)
    parts += sections
    for run in comparison.runs:
        parts += _run(run, wording.run_label(run, comparison.rows))
    return _PAGE.substitute(title=text(name), body="\n".join(parts))


def _comparison(comparison: Comparison) -> Iterator[str]:
    if chart := report_frontier.frontier(comparison):
        yield '<section><h2>What it costs to be in time</h2><figure><div class="scroll">'
        yield chart + "</div>"
        yield report_frontier.legend(comparison)
        yield (
            "<figcaption>Each mark is one run; a line joins the settings of a policy's knob. Higher is better, further "
            "left is cheaper. The scale stretches towards 100%: 90%, 99% and 99.9% are equally far apart."
            "</figcaption></figure></section>"
        )
    yield "<section><h2>All runs</h2>"
    head = ["policy", "knob", *(_heading(column) for column in wording.COLUMNS), ""]
    rows = [_row(row, comparison) for row in ranked(comparison.rows, comparison.target)]
    caption = (
        f"Best first: those with {wording.percent(comparison.target)} in time by GPU-hours, then the others. "
        "Beaten: another has no fewer in time and no more GPU-hours."
    )
    yield table(caption, head, rows, names=2) + "</section>"


def _heading(column: wording.Column) -> str:
    return f'<abbr title="{text(column.about)}">{text(column.title)}</abbr>'


def _row(row: Row, comparison: Comparison) -> str:
    beaten, ours = dominated(row, comparison.rows), is_own(row.policy, comparison)
    note = "bound" if row.is_bound else "beaten" if beaten else ""
    cells = [f'<th scope="row">{text(row.policy)}</th><td>{text(wording.knob(row))}</td>']
    for index, column in enumerate(wording.COLUMNS):
        # The first figure is the attainment.
        mark = (" good" if attains(row, comparison.target) else " bad") if index == 0 else ""
        cells.append(f'<td class="n{mark}">{column.text(row.summary)}</td>')
    kinds = " ".join(kind for kind, holds in (("ours", ours), ("beaten", beaten or row.is_bound)) if holds)
    return f'<tr class="{kinds}">{"".join(cells)}<td>{note}</td></tr>'


def _run(run: Run, name: str) -> Iterator[str]:
    windows = worst(run)
    yield f"<section><h2>{text(name)}</h2>"
    figures = "".join(f"<dt>{each}</dt><dd>{text(told)}</dd>" for each, told in wording.figures(summary(run)))
    yield f"<dl>{figures}</dl>"
    if chart := report_course.course(run, windows):
        yield f'<figure><div class="scroll">{chart}</div>'
        yield (
            "<figcaption>Red bands: the worst minutes, told below. Red lines: events. "
            "Point at the chart for its figures.</figcaption></figure>"
        )
        yield f"<details><summary>The chart as a table</summary>{_course(run)}</details>"
    yield f"<h3>{'Worst minutes' if windows else 'No request was late'}</h3>"
    for seen in sorted(windows):  # by time, as they lie on the chart
        yield _minute(seen)
    yield "</section>"


def _minute(seen: Window) -> str:
    told = [f'<li class="bad">{text(f"{clock(at)}  {event}")}</li>' for at, event in seen.events]
    told += [f"<li>{text(wording.change(change))}</li>" for change in seen.changes]
    return (
        f'<div class="minute"><p><strong>{clock(seen.at)}: {text(seen.cause)}.</strong></p>'
        f'<p class="dim">{text(wording.window(seen))}</p><ul>{"".join(told)}</ul></div>'
    )


def _course(run: Run) -> str:
    head = ["from", "requests/s", "waiting", "running", "ready", "starting", "asked for", "TTFT p50", "TTFT p95"]
    rows = []
    for point in timelines(run, report_course.POINTS).points:
        waits = (wording.seconds(point.ttft_p50), wording.seconds(point.ttft_p95))
        cells = [f"{point.arrivals:.3g}", *map(str, point[2:7]), *waits]
        cells = [f'<td class="n">{cell}</td>' for cell in cells]
        rows.append(f'<tr><th scope="row">{clock(point.at)}</th>{"".join(cells)}</tr>')
    return table(
        "Most waiting and running, replicas at the end of the stretch, TTFT of what arrived in it.", head, rows, 1
    )


def table(caption: str, head: Iterable[str], rows: Iterable[str], names: int) -> str:
    """Rows are HTML. `names`: so many columns at the left are words, the others figures."""
    cells = [f'<th scope="col"{" class=n" * (index >= names)}>{each}</th>' for index, each in enumerate(head)]
    return (
        f'<div class="scroll"><table><caption>{text(caption)}</caption><thead><tr>{"".join(cells)}</tr></thead>\n'
        f"<tbody>{chr(10).join(rows)}</tbody></table></div>"
    )
