"""The lines of a metrics page: numbers, labels and headers as the text format and OpenMetrics want them.

May not be in here: what is on the page (publish.py, publish_gpus.py), what a family means (core/catalog.py).
"""

import math
from collections.abc import Mapping
from functools import cache, lru_cache
from hashlib import blake2s

from exporter.core.catalog import EXPORTER

#: Characters of a label value; a longer one is cut and ends in a digest of the whole, so that two stay two.
MAX_LABEL = 256


class Page:
    """Lines by family. A family that the catalogue lacks is a KeyError here, and a failing test."""

    def __init__(self) -> None:
        self._lines: dict[str, list[str]] = {family.name: [] for family in EXPORTER}

    def add(self, family: str, labels: str, value: float | None) -> None:
        """labels: already written as `name="value",...`. A value that is missing or not finite is no series."""
        if value is None or not math.isfinite(value):
            return
        number = str(int(value)) if value == int(value) and abs(value) < 1e15 else repr(float(value))
        self._lines[family].append(f"{family}{{{labels}}} {number}\n" if labels else f"{family} {number}\n")

    def put(self, family: str, prefix: str, value: float) -> None:
        """prefix: the whole line up to the value. For what is there hundreds of times on a page."""
        if value == value and value not in (math.inf, -math.inf):
            number = str(int(value)) if value == int(value) and abs(value) < 1e15 else repr(float(value))
            self._lines[family].append(f"{prefix}{number}\n")

    def block(self, family: str, lines: str) -> None:
        """Lines that were written before."""
        self._lines[family].append(lines)

    def text(self, openmetrics: bool) -> str:
        headers = _headers(openmetrics)
        return "".join(headers[name] + "".join(lines) for name, lines in self._lines.items() if lines)


@lru_cache(maxsize=8192)
def labels_of(**values: str) -> str:
    """`name="value",...` without the empty ones: to Prometheus an empty label is an absent one."""
    return ",".join(f'{name}="{_escape(value)}"' for name, value in values.items() if value)


def join(labels: str, more: str) -> str:
    return f"{labels},{more}" if labels and more else labels or more


def _escape(value: str) -> str:
    if len(value) > MAX_LABEL:
        value = value[: MAX_LABEL - 9] + "~" + blake2s(value.encode(errors="replace"), digest_size=4).hexdigest()
    return value.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n")


def age(now: float, at: float) -> float:
    return round(max(0.0, now - at), 3)


@cache
def _headers(openmetrics: bool) -> Mapping[str, str]:
    """HELP and TYPE of each family. In OpenMetrics a counter's family name has no _total."""

    def header(name: str, kind: str, text: str) -> str:
        shown = name.removesuffix("_total") if openmetrics and kind == "counter" else name
        text = text.replace("\\", "\\\\").replace("\n", "\\n")
        return f"# HELP {shown} {text}\n# TYPE {shown} {kind}\n"

    return {family.name: header(family.name, family.type, family.help) for family in EXPORTER}
