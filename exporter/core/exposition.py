"""Metrics text (Prometheus 0.0.4 and 1.0.0, OpenMetrics) -> the samples of the few families that are wanted.

May not be in here: what any metric means, and tolerance. A page that is not whole, or whose wanted part is not
beyond doubt, is refused as a whole with one ExpositionError that names a reason; lines that are not wanted are
not looked at. Only a histogram that contradicts itself is left out and refuses nothing.

This is the exporter's hot path. An engine's page has some 600 lines of which 17, and 100 of histograms, are wanted.
exposition_wanted.py compiles one regular expression that stops at wanted lines only: no other line ever becomes a
Python object. exposition_page.py reads these line by line, by the grammar of exposition_lines.py; what it has found
sound once exposition_blocks.py keeps as a template, so that at the next scrape only numbers are read.
"""

from exporter.core.exposition_blocks import Family, Sample
from exporter.core.exposition_errors import LIMITS, REASONS, ExpositionError, Limits, line_number
from exporter.core.exposition_histograms import Folded
from exporter.core.exposition_page import Page
from exporter.core.exposition_wanted import Wanted

__all__ = ["LIMITS", "REASONS", "ExpositionError", "Family", "Folded", "Limits", "Sample", "Wanted", "parse"]


def parse(body: bytes, wanted: Wanted, limits: Limits = LIMITS) -> dict[str, Family]:
    """The wanted families that the body declares or has samples of, by name. Raises ExpositionError, nothing else."""
    _check(body, limits)
    return Page(b"\n" + body, wanted, limits).read()


def _check(body: bytes, limits: Limits) -> None:
    """What can be told without a look at any line. Raises ExpositionError."""
    if len(body) > limits.body:
        raise ExpositionError("body_too_large", f"the page has {len(body)} bytes, {limits.body} are allowed")
    if body[:256].lstrip()[:1] == b"<":
        raise ExpositionError("html", "the page is HTML or XML")
    # An answer without a length that is cut short is no error in HTTP: only the last newline tells.
    if not body.endswith(b"\n"):
        raise ExpositionError("truncated", "the page ends inside a line" if body else "the page is empty")
    start = 0
    while len(body) - start > limits.line:
        newline = body.rfind(b"\n", start, start + limits.line + 1)
        if newline < 0:
            raise ExpositionError("line_too_long", f"line {line_number(body, start)} has more than {limits.line} bytes")
        start = newline + 1
    # The shortest sample has four bytes. Lines that are no samples have a limit too, as they cost time as well.
    if len(body) > 4 * limits.samples:
        lines = body.count(b"\n")
        comments = body.count(b"\n#") + body.startswith(b"#") if lines > limits.samples else 0
        if lines - comments > limits.samples or lines > 4 * limits.samples:
            raise ExpositionError("too_many_samples", f"the page has more than {limits.samples} samples")
    if not body.isascii():
        try:
            body.decode()
        except UnicodeDecodeError as error:
            raise ExpositionError("not_utf8", f"line {line_number(body, error.start)} is not UTF-8 text") from None
