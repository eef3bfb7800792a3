"""Why a page of metrics is refused, and what one may hold at most.

May not be in here: reading (exposition.py).
"""

from collections.abc import Mapping
from typing import NamedTuple

_REPORT = "report it to the server's makers, with the page"

#: Every reason for which a page is refused, and what to do about it.
REASONS: Mapping[str, str] = {
    "body_too_large": "point the URL at one server's metrics page",
    "line_too_long": "point the URL at a metrics page",
    "too_many_samples": "point the URL at one server's metrics page",
    "too_many_labels": "drop labels of this metric at the server",
    "label_too_long": "shorten the label's value at the server",
    "not_utf8": "point the URL at a metrics page",
    "html": "point the URL at the metrics page, not at a web page",
    "truncated": "look for a proxy or a server that ends its answers early",
    "syntax": _REPORT,
    "order": _REPORT,
    "duplicate": _REPORT,
    "negative": _REPORT,
    "not_finite": _REPORT,
    "too_many_engines": "point the URL at one server's metrics page",
    "gateway": "point the URL at each engine's own page",
    "blind": "start the server with its metrics on (vLLM: without --disable-log-stats), or update this program",
}


class ExpositionError(Exception):
    """A page that gives no numbers. `reason` is a key of REASONS; str() is one line: place, cause, fix."""

    def __init__(self, reason: str, cause: str) -> None:
        super().__init__(f"{cause}; {REASONS[reason]}")
        self.reason = reason


class Limits(NamedTuple):
    """What a page may hold at most; a breach refuses it. Sizes are bytes.

    `*_info` families put a server's configuration into the labels of one sample (vLLM 0.32's cache_config_info
    has 37, among them lists of layers), so they have limits of their own; the line's limit holds for them too.
    """

    body: int = 8 << 20
    line: int = 64 << 10
    samples: int = 50_000
    wanted: int = 50_000  # samples of wanted families: each costs some 20 us where it is new
    labels: int = 32
    label_bytes: int = 256
    info_labels: int = 128
    info_label_bytes: int = 4096


LIMITS = Limits()


def clip(raw: bytes) -> str:
    """What an error may show of a page: short, printable, one line."""
    return ascii(raw[:40].decode(errors="replace").strip(" \t")) + ("..." if len(raw) > 40 else "")


def line_number(text: bytes, position: int) -> int:
    return text.count(b"\n", 0, position) + 1
