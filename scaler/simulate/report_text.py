"""The reports for a terminal: a table of runs, and one run's account.

May not be in here: characters beyond ASCII (a name that has some is escaped), lines wider than WIDTH, printing.
"""

import textwrap
from collections.abc import Sequence

from scaler.simulate import wording
from scaler.simulate.comparison import Row, attains, dominated, ranked
from scaler.simulate.model import Run
from scaler.simulate.outcome import summary
from scaler.simulate.worst import clock, worst

WIDTH = 110
#: Marks before a row, and what they mean.
_BOUND, _BEATEN, _MISSED, _GOOD = "=", "-", " ", "+"
_LEGEND = (
    "+ attains {target}   - beaten: another has no fewer in time and no more GPU-hours   = a bound, not a policy\n"
    "TTFT, E2E in s, TPOT in ms; never: no first token by the end; rev: up and down within 10 min"
)


def table(rows: Sequence[Row], target: float) -> str:
    """Best first, aligned, at most WIDTH wide. `target`: the attainment that is wanted, 0 to 1."""
    if not rows:
        return "no runs\n"
    order = ranked(rows, target)
    head = ["", "policy", "knob", *(column.short for column in wording.COLUMNS)]
    lines = [[_mark(row, rows, target), plain(row.policy), plain(wording.knob(row)), *_cells(row)] for row in order]
    widths = [max(len(line[at]) for line in [head, *lines]) for at in range(len(head))]
    # Names give way to the figures.
    spare = WIDTH - sum(widths[3:]) - len(widths) + 1 - widths[0]
    widths[2] = min(widths[2], max(spare - widths[1], spare // 3))
    widths[1] = min(widths[1], spare - widths[2])
    return (
        "\n".join([_line(line, widths) for line in [head, *lines]] + [_LEGEND.format(target=wording.percent(target))])
        + "\n"
    )


def _mark(row: Row, rows: Sequence[Row], target: float) -> str:
    if row.is_bound:
        return _BOUND
    if dominated(row, rows):
        return _BEATEN
    return _GOOD if attains(row, target) else _MISSED


def _cells(row: Row) -> list[str]:
    return [column.text(row.summary) for column in wording.COLUMNS]


def _line(cells: Sequence[str], widths: Sequence[int]) -> str:
    names = [_cut(cells[0], widths[0]), _cut(cells[1], widths[1]), _cut_knob(cells[2], widths[2])]
    names = [name.ljust(width) for name, width in zip(names, widths[:3], strict=True)]
    return " ".join([*names, *(cell.rjust(width) for cell, width in zip(cells[3:], widths[3:], strict=True))]).rstrip()


def _cut(text: str, width: int) -> str:
    return text if len(text) <= width else text[: max(0, width - 1)] + "~"


def _cut_knob(text: str, width: int) -> str:
    """Its name gives way to its value."""
    name, equals, value = text.rpartition("=")
    if len(text) <= width or not equals:
        return _cut(text, width)
    room = width - len(value) - 1
    return _cut(name, room) + equals + value if room > 0 else _cut(value, width)


def account(run: Run) -> str:
    """One run: its figures, and its worst minutes with what led to them."""
    lines = wrapped(f"{wording.run_label(run)} over {wording.scenario(run.scenario)}", "")
    lines += [f"  {name:<12}{text}" for name, text in wording.figures(summary(run))]
    windows = worst(run)
    lines.append("worst minutes" if windows else "no request was late")
    for seen in windows:
        lines += wrapped(f"{clock(seen.at)}  {wording.window(seen)}", "  ")
        lines += wrapped(f"because {seen.cause}", "    ")
        lines += [line for at, text in seen.events for line in wrapped(f"event {clock(at)}  {text}", "    ")]
        lines += [line for made in seen.changes for line in wrapped(f"policy {wording.change(made)}", "    ")]
    return "\n".join(lines) + "\n"


def wrapped(text: str, before: str) -> list[str]:
    """The text in lines; what stands before it is not wrapped."""
    return textwrap.wrap(plain(text), WIDTH, initial_indent=before, subsequent_indent=" " * (len(before) + 4))


def columns(rows: Sequence[Sequence[str]]) -> list[str]:
    """Figures below each other, the first row their headings."""
    widths = [max(len(row[at]) for row in rows) for at in range(len(rows[0]))]
    return ["  ".join(cell.rjust(width) for cell, width in zip(row, widths, strict=True)) for row in rows]


def plain(text: str) -> str:
    """Printable ASCII: what else is in a user's text becomes an escape, so that a terminal does not obey it."""
    return "".join(each if " " <= each <= "~" else each.encode("unicode_escape").decode("ascii") for each in text)
