"""What the demo prints: a header, a line a second, events between them, a summary.

May not be in here: measuring, deciding.
"""

import os
from typing import NamedTuple, TextIO

BOLD, RED, GREEN, YELLOW = "1", "31", "32", "33"


class Row(NamedTuple):
    """One second of the story. Text is what is not known, or how it is to be shown."""

    time: float  # real seconds since the start
    load: float  # requests/s of demo time
    waiting: str
    running: str
    ttft: str
    gpus: str
    needed: str
    replicas: str
    why: str


#: Column -> width; the last takes the rest.
COLUMNS = (
    ("time", 5), ("load", 7), ("waiting", 7), ("running", 7), ("ttft p95", 8),
    ("gpus", 16), ("needed", 6), ("replicas", 10), ("why", 0),
)  # fmt: skip


class Screen:
    """Lines on a stream: no cursor movement, so that a pipe, a log and a terminal show the same."""

    def __init__(self, out: TextIO, colour: bool) -> None:
        self._out = out
        self._colour = colour and out.isatty() and "NO_COLOR" not in os.environ
        self._width = os.get_terminal_size(out.fileno()).columns if out.isatty() else 0

    def line(self, text: str = "", style: str = "") -> None:
        self._out.write(f"\x1b[{style}m{text}\x1b[0m\n" if self._colour and style else f"{text}\n")
        self._out.flush()

    def heading(self) -> None:
        self.line(" ".join(_cell(name, width, index < 2) for index, (name, width) in enumerate(COLUMNS)), BOLD)

    def row(self, row: Row) -> None:
        cells = (f"{row.time:.0f} s", f"{row.load:.1f}/s", *row[2:])
        pairs = zip(cells, COLUMNS, strict=True)
        text = " ".join(_cell(cell, width, index < 2) for index, (cell, (_, width)) in enumerate(pairs)).rstrip()
        # A row that wraps is no table any more.
        self.line(text[: self._width - 3] + "..." if self._width and len(text) > self._width else text)

    def event(self, at: float, text: str, style: str = YELLOW) -> None:
        self.line(f"{at:4.1f} s > {text}", style)


def _cell(text: str, width: int, right: bool) -> str:
    return text.rjust(width) if right else text.ljust(width)
