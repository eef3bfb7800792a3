"""A bar on a terminal for what takes long: runs that are done, how far the one under way is, the time to go.

May not be in here: colours, anything for a log or a pipe.
"""

import time
from collections.abc import Callable, Sequence
from typing import TextIO

AFTER = 0.5  # s; what is over by then needs none
EVERY = 0.1  # s between two pictures
WIDTH = 24


class Bar:
    """`tell()` as often as one likes; `close()` takes the line away."""

    def __init__(self, total: int, out: TextIO, clock: Callable[[], float] = time.monotonic) -> None:
        self._total = total
        self._out = out
        self._clock = clock
        self._on = out.isatty()
        self._begun = clock()
        self._next = self._begun + AFTER
        self._shown = False

    def tell(self, shares: Sequence[float]) -> None:
        """shares: of each run, 0..1, how far it is."""
        if not self._on or (now := self._clock()) < self._next:
            return
        self._next = now + EVERY
        self._shown = True
        self._out.write("\r\x1b[K" + line(shares, self._total, now - self._begun))
        self._out.flush()

    def close(self) -> None:
        if self._shown:
            self._out.write("\r\x1b[K")
            self._out.flush()


def line(shares: Sequence[float], total: int, seconds: float) -> str:
    """seconds: since the begin."""
    done = sum(share >= 1 for share in shares)
    under_way = max((share for share in shares if share < 1), default=0.0)
    whole = sum(shares) / total
    bar = ("#" * int(whole * WIDTH)).ljust(WIDTH, ".")
    left = f"{_span(seconds * (1 - whole) / whole)} to go" if whole > 0 else ""
    present = f", this one {under_way:.0%}" if done < total else ""
    return f"[{bar}] {done}/{total} {'run' if total == 1 else 'runs'}{present}, {left}".rstrip(", ")


def _span(seconds: float) -> str:
    return f"{seconds:.0f} s" if seconds < 90 else f"{seconds / 60:.0f} min"
