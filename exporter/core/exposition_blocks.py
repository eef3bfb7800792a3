"""Blocks of a page that were read before: a TYPE line and the samples after it, as a template for their numbers.

May not be in here: what is legal. A block is learned only after exposition_page.py has read it line by line, and one
that differs from its template in anything but plain decimal numbers goes there again.

A server's page has the same names and labels at every scrape. To fill the template with what stands in the numbers'
places, and to compare that with the block, proves in two steps of C that nothing else has changed.
"""

from collections.abc import Mapping
from typing import NamedTuple

from exporter.core.exposition_errors import Limits
from exporter.core.exposition_histograms import Folded, Series, Shape, read_all, shapes
from exporter.core.exposition_lines import remembered_labels

#: Bounds of what is remembered, for each allow-list: blocks, and what they take in all, as _size() estimates it. The
#: servers of a node share their blocks where they serve the same model; 256 that share none need some 6 MB.
MAX_BLOCKS = 8192
MAX_BYTES = 8 << 20

_INF = float("inf")
_HEAD = 4  # words of a TYPE line
_NUMERIC = b"0123456789.eE+-"

#: A wanted sample: name, labels, value.
Sample = tuple[str, Mapping[str, str], float]


class Family(NamedTuple):
    """One wanted family.

    complete: something follows it in the body, or "# EOF" was seen. An incomplete family may lack samples, since
    the body can have been cut at the end of a line: nothing may be folded over its samples.
    """

    name: str  # as it was wanted, whichever format declared it
    type: str  # as declared; "untyped" if it was not
    samples: list[Sample]  # none for a family that was wanted as a histogram
    histograms: list[Folded]  # those that are whole and consistent; the others are left out
    complete: bool


class _Block(NamedTuple):
    """A block without its numbers."""

    template: bytes  # the text, with %b for each number
    numbers: slice  # their places among the text's words
    limits: Limits  # under which it was read
    least: float
    family: str
    type: str
    series: tuple[Series, ...]  # () for histograms
    shapes: tuple[Shape, ...]


#: First word after the TYPE line, words in all: what servers of one kind and model have in common.
_Key = tuple[bytes, int]


class Blocks:
    """The templates. The oldest gives way."""

    def __init__(self) -> None:
        self._known: dict[_Key, _Block] = {}
        self.bytes = 0  # that all take, as _size() estimates it

    def __len__(self) -> int:
        return len(self._known)

    def clear(self) -> None:
        self._known.clear()
        self.bytes = 0

    def read(self, text: bytes, limits: Limits) -> Family | None:
        """What the text says; None: it is not known to be sound, and has to be read line by line."""
        words = text.split()
        if len(words) <= _HEAD:
            return None
        known = self._known.get((words[_HEAD], len(words)))
        if known is None:
            return None
        template, places, under, least, family, kind, series, whole = known
        if len(series) == 1:  # as most families are: the same with one number, in half the time
            number = words[places.start]
            if template % number != text or number.translate(None, _NUMERIC) or under is not limits:
                return None
            try:
                value = float(number)
            except ValueError:
                return None
            return Family(family, kind, [(*series[0], value)], [], True) if least <= value < _INF else None
        numbers = tuple(words[places])
        joined = b"".join(numbers)
        if template % numbers != text or joined.translate(None, _NUMERIC) or under is not limits:
            return None
        try:
            values = tuple(map(float, numbers))
        except ValueError:
            return None
        # A sum shows an infinity, and is one for no more than what nobody counts; without a minus none is negative.
        if not sum(values) < _INF or (b"-" in joined and min(values) < least):
            return None
        if not series:
            return Family(family, kind, [], read_all(whole, values), True)
        return Family(family, kind, [(*one, value) for one, value in zip(series, values, strict=True)], [], True)

    def learn(self, text: bytes, family: Family, least: float, limits: Limits) -> None:
        """Remember a text that was found, under these limits, to be sound and to say this family, one sample a line.

        A text with anything in it but names, labels and plain numbers (timestamps, exemplars, more blanks than
        needed) is not remembered. least: what no number of it may be below.
        """
        samples = family.samples
        head, *rows = text[1:].split(b"\n")
        if len(head.split()) != _HEAD or len(rows) != len(samples):
            return
        parts, places, words = [_literal(b"\n" + head)], [], _HEAD
        for row, (sample, labels, value) in zip(rows, samples, strict=True):
            prefix, _, number = row.rpartition(b" ")
            if not _is_plain(prefix, sample, labels) or not _is_number(number, value):
                return
            parts.append(_literal(b"\n" + prefix) + b" %b")
            words += len(prefix.split())
            places.append(words)
            words += 1
        step = places[1] - places[0] if len(places) > 1 else 1
        numbers = slice(places[0], places[-1] + 1, step)
        if places != list(range(numbers.start, numbers.stop, step)):
            return
        series = tuple((name, labels) for name, labels, _ in samples)
        folded = tuple(shapes(series)) if family.type == "histogram" else ()
        series = () if family.type == "histogram" else series
        block = _Block(b"".join(parts), numbers, limits, least, family.name, family.type, series, folded)
        self._keep((text.split(None, _HEAD + 1)[_HEAD], words), block)

    def _keep(self, key: _Key, block: _Block) -> None:
        taken = _size(block)
        if taken > MAX_BYTES // 4:
            return
        self._forget(key)
        while self._known and (self.bytes + taken > MAX_BYTES or len(self._known) >= MAX_BLOCKS):
            self._forget(next(iter(self._known)))
        self._known[key] = block
        self.bytes += taken

    def _forget(self, key: _Key) -> None:
        block = self._known.pop(key, None)
        self.bytes -= _size(block) if block else 0


def _size(block: _Block) -> int:
    """Bytes that a block takes at most, by how CPython lays out what it holds; its key is part of its template."""
    labels = [labels for _, labels in block.series] + [shape.labels for shape in block.shapes]
    texts = sum(220 + len(name.encode()) + len(text.encode()) for of in labels for name, text in of.items())
    edges = sum(len(shape.edges) for shape in block.shapes)
    return 600 + 2 * len(block.template) + 500 * len(labels) + texts + 32 * edges


def _literal(text: bytes) -> bytes:
    return text.replace(b"%", b"%%")


def _is_plain(prefix: bytes, sample: str, labels: Mapping[str, str]) -> bool:
    """Whether a line's text before its number is nothing but the sample's name and these labels."""
    name, brace, rest = prefix.partition(b"{")
    if name != sample.encode():
        return False
    try:
        return remembered_labels(rest).values == labels if brace else not labels
    except ValueError:
        return False


def _is_number(text: bytes, value: float) -> bool:
    return text != b"" and not text.translate(None, _NUMERIC) and float(text) == value
