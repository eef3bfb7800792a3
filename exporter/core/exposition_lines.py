"""The grammar of one line: labels and number of a sample, and the labels that were met before.

May not be in here: names of families, order of lines, limits of a page (exposition_page.py).
"""

import re
from collections.abc import Mapping
from functools import lru_cache
from typing import NamedTuple

_NUMBER = rb"[+-]?(?:[0-9]++(?:\.[0-9]*+)?|\.[0-9]++)(?:[eE][+-]?[0-9]++)?"
_TIMESTAMP = rb"(?:[ \t]++-?[0-9]++(?:\.[0-9]++)?)?"
_VALUE = re.compile(rb"[ \t]*+(%s)%s[ \t]*" % (_NUMBER, _TIMESTAMP))
NOT_FINITE = re.compile(rb"[ \t]*+[+-]?(?:nan|inf|infinity)%s[ \t]*" % _TIMESTAMP, re.IGNORECASE)

_TEXT = r'[^"\\\n]*+(?:\\[\\"n][^"\\\n]*+)*+'
_LABEL = rf'([a-zA-Z_][a-zA-Z0-9_]*+|"{_TEXT}")[ \t]*+=[ \t]*+"({_TEXT})"'
_PAIR = re.compile(_LABEL)
#: Labels from after "{" up to "}".
_LABELS = re.compile(rf"[ \t]*+(?:{_LABEL}(?:[ \t]*+,[ \t]*+{_LABEL})*+[ \t]*+,?[ \t]*+)?\}}")
EXEMPLAR = re.compile(rb" # \{%s[ \t]++%s%s[ \t]*$" % (_LABELS.pattern.encode(), _NUMBER, _TIMESTAMP))
NAMED = re.compile(rb"([a-zA-Z_:][a-zA-Z0-9_:]*+)[ \t]*+(\{?+)(.*)")
#: {"name",label="value"} of format 1.0.0: the name, and the rest after the comma or from the brace on.
QUOTED_NAME = re.compile(rb'\{[ \t]*+"([^"\\]*+)"[ \t]*+(?:,|(?=\}))(.*)')

#: Bytes of the longest label text that is remembered: with 1,024 of them, some 10 MB at the very worst.
REMEMBERED = 2048


class Labels(NamedTuple):
    values: Mapping[str, str]
    series: frozenset[tuple[str, str]]  # a frozenset remembers its hash
    longest: int  # bytes of the longest name or value


def parse_labels(raw: bytes) -> Labels:
    text = raw.decode()
    if _LABELS.fullmatch(text) is None:
        raise ValueError
    pairs: list[tuple[str, str]] = _PAIR.findall(text)
    if "\\" in text or text.count('"') > 2 * len(pairs):
        pairs = [(_unescaped(name[1:-1] if name[0] == '"' else name), _unescaped(value)) for name, value in pairs]
    values = dict(pairs)
    if len(values) != len(pairs):
        raise ValueError
    parts = [*values, *values.values()]
    longest = max(map(len, parts if text.isascii() else map(str.encode, parts)), default=0)
    return Labels(values, frozenset(pairs), longest)


remembered_labels = lru_cache(maxsize=1024)(parse_labels)


def _unescaped(text: str) -> str:
    """What escapes stand for. A run of backslashes begins with a whole pair, so the text can be split at pairs."""
    return "\\".join(part.replace(r"\"", '"').replace(r"\n", "\n") for part in text.split(r"\\"))


def split(rest: bytes) -> tuple[Labels, bytes]:
    """Labels and number of a sample from after its "{". Raises ValueError."""
    end = rest.rfind(b"}") + 1
    number = _VALUE.fullmatch(rest, end)
    if number is None:
        raise ValueError
    return remembered_labels(rest[:end]) if end <= REMEMBERED else parse_labels(rest[:end]), number[1]
