"""The allow-list of families, and the pattern that finds their lines in a page.

May not be in here: what a line says, and whether it may be where it is (exposition_page.py).
"""

import re
import sys
from collections.abc import Iterable
from typing import NamedTuple

from exporter.core.exposition_blocks import Blocks


class Entry(NamedTuple):
    """What is to be done with a wanted sample."""

    family: str
    sample: str
    least: float
    info: bool


LOWEST = -sys.float_info.max
SIMPLE = frozenset(("counter", "gauge", "info", "stateset", "untyped", "unknown"))
#: Of a family that is wanted as a histogram. A summary (old TGI) has no buckets, so no histogram comes of it.
_FOLDED = frozenset(("histogram", "summary"))
#: What OpenMetrics takes off a family's name in TYPE, and the type that it must have then.
_SHORTENED = (("_total", frozenset(("counter",))), ("_info", frozenset(("info",))))
_NAME_ENDS = rb"(?![a-zA-Z0-9_:])"


class Wanted:
    """The allow-list: families by the name that the text format 0.0.4 gives them. Built once, used often.

    histograms: families whose samples are _bucket, _count and _sum. signed: families that may be below zero.
    """

    def __init__(self, families: Iterable[str], histograms: Iterable[str] = (), signed: Iterable[str] = ()) -> None:
        plain, folded, negative = tuple(families), tuple(histograms), frozenset(signed)
        names = [(name, name) for name in plain]
        names += [(name, name + suffix) for name in folded for suffix in ("_bucket", "_count", "_sum")]
        #: By what a sample's line starts with, the newline before it included.
        self.samples = {
            b"\n" + sample.encode(): Entry(
                family, sample, LOWEST if family in negative else 0.0, family.endswith("_info")
            )
            for family, sample in names
        }
        self.histograms = folded
        #: Name in a TYPE line -> the family, and the types that it may have.
        self.declarations = {name.encode(): (name, SIMPLE) for name in plain}
        self.declarations |= {name.encode(): (name, _FOLDED) for name in folded}
        for name in plain:
            for suffix, types in _SHORTENED:
                if name.endswith(suffix):
                    self.declarations.setdefault(name.removesuffix(suffix).encode(), (name, types))
        # One look at a line's first letters leaves it, wanted or not: names and declarations are one tree, without a
        # group. It may stop at more than is wanted, never at less. The last branches are for what is legal but rare:
        # blanks where none need be, quoted names; or neither: control characters and letters before a name.
        starts = [start[1:] for start in self.samples]
        self.scan = re.compile(
            rb"\n(?:# TYPE )?+%s" % _any_of([*starts, *self.declarations], rb"[^!#-z|}~\n]|# (?:EOF|[ \t]|TYPE\t)|#\t")
        )
        #: Blocks that pages had before.
        self.blocks = Blocks()


def _any_of(names: Iterable[bytes], rest: bytes = b"") -> bytes:
    """A pattern for any of the names as a whole, as a tree: a line is left at the first letter that no name has."""
    tree: dict[bytes, list[bytes]] = {}
    for name in sorted(set(names)):
        tree.setdefault(name[:1], []).append(name[1:])
    branches = [re.escape(first) + _any_of(after) if first else _NAME_ENDS for first, after in tree.items()]
    branches += [rest] if rest else []
    return b"(?:%s)" % b"|".join(branches) if len(branches) > 1 else b"".join(branches)
