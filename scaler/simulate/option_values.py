"""What an option's text may be: each reader takes the text and raises ValueError("is wrong; fix").

May not be in here: which options there are (scenario.py).
"""

import math
import re
from collections.abc import Callable
from typing import Any

from scaler.core import written
from scaler.simulate.traces import LONGEST


def seconds(least: float, most: float = LONGEST) -> Callable[[str], float]:
    """Reads "90s", "1m30s" or a bare number of seconds."""

    def read(text: str) -> float:
        length = written.seconds(text)
        if not least <= length <= most:
            example = max(least, min(90, most))
            raise ValueError(f"is not a duration from {least:g}s to {most:.10g}s; write for example {example:g}s")
        return length

    return read


def whole(least: int, most: int) -> Callable[[str], int]:
    def read(text: str) -> int:
        if not re.fullmatch(r"[0-9]{1,9}", text) or not least <= int(text) <= most:
            raise ValueError(f"is not a whole number from {least} to {most}; write one in digits")
        return int(text)

    return read


def number(least: float, most: float) -> Callable[[str], float]:
    def read(text: str) -> float:
        value = written.number(text)
        if not least <= value <= most:
            raise ValueError(f"is not a number from {least:g} to {most:.10g}; write one in digits")
        return value

    return read


def share(text: str) -> float:
    """0.99 or 99%."""
    match = re.fullmatch(r"([0-9]{1,3}(?:\.[0-9]{1,9})?)(%?)", text)
    value = math.nan if match is None else float(match[1]) / (100 if match[2] else 1)
    if not 0 < value <= 1:
        raise ValueError("is no share above 0 and up to 1; write for example 0.99 or 99%")
    return round(value, 12)  # 99.9 / 100 is not 0.999


def or_word(word: str, read: Callable[[str], Any]) -> Callable[[str], Any]:
    def read_or(text: str) -> Any:
        try:
            return None if text == word else read(text)
        except ValueError as error:
            raise ValueError(f"{error}, or {word}") from None

    return read_or
