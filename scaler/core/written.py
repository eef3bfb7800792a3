"""What a person wrote in a key, an option or a file: a number or a length of time read out of it, and it in an error.

May not be in here: what is allowed where, and what is said of a text that is not.
"""

import difflib
import math
import re
from collections.abc import Iterable

_NUMBER = r"[0-9]{1,9}(?:\.[0-9]{1,9})?"
_UNITS = {"ms": 0.001, "s": 1.0, "m": 60.0, "h": 3600.0}


def number(text: str) -> float:
    """0 or more, in digits; NaN if it is none. Not float(): that takes "nan", "1_0", " 1" and any script's digits."""
    return float(text) if re.fullmatch(_NUMBER, text) else math.nan


def duration(text: str) -> float:
    """Seconds of "15s", "1m30s" or "500ms", as Go writes them; NaN if it is none. A bare number is none: of what?"""
    parts = re.findall(rf"({_NUMBER})(ms|s|m|h)", text)
    if not parts or "".join(count + unit for count, unit in parts) != text:
        return math.nan
    return sum(float(count) * _UNITS[unit] for count, unit in parts)


def seconds(text: str) -> float:
    """Of a duration, or of a bare number where only seconds can be meant; NaN if it is neither."""
    return duration(text) if math.isnan(bare := number(text)) else bare


def quoted(text: str, most: int = 64) -> str:
    """One printable ASCII line of about so many characters, whatever was written."""
    return ascii(text if len(text) <= most else text[: most - 3] + "...")


def bare(text: str, most: int = 200) -> str:
    """The same without quotes, where what stands there cannot be mistaken for our own words."""
    return quoted(text, most)[1:-1]


def near(word: str, known: Iterable[str], called: str = "known") -> str:
    """The fix for a word that is none of those that are known."""
    names = list(known)
    close = difflib.get_close_matches(word.lower()[:64], names, 1)
    return (f"did you mean {close[0]}? " if close else "") + f"{called}: {', '.join(names)}"
