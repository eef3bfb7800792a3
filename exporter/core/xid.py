"""What an Xid error code says of the GPU: the table xid.tsv, read once.

May not be in here: judging a GPU by its history of Xids (health.py).
"""

from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

#: lost: the GPU is gone. critical: it must not be used until it was reset. degraded: to be looked into; counts for a
#: while. application: a process's fault, counts only when it repeats across pods. info: is no fault of the GPU.
CLASSES = ("lost", "critical", "degraded", "application", "info")


class Xid(NamedTuple):
    code: int
    name: str
    kind: str  # one of CLASSES
    action: str  # one of health.ACTIONS
    reason: str  # one sentence for a person
    source: str  # whose word the row rests on


def load(text: str) -> Mapping[int, Xid]:
    """The rows of a table with the columns code, name, class, action, reason, source. Raises ValueError."""
    head, *lines = text.splitlines()
    if head.split("\t") != ["code", "name", "class", "action", "reason", "source"]:
        raise ValueError(f"xid.tsv: the head {head!r} is not the expected one")
    rows: dict[int, Xid] = {}
    for line in lines:
        code, *rest = line.split("\t")
        row = Xid(int(code), *rest)
        if row.kind not in CLASSES or row.code in rows:
            raise ValueError(f"xid.tsv: row {row.code} has class {row.kind!r} or stands there twice")
        rows[row.code] = row
    return rows


XIDS = load(Path(__file__).with_name("xid.tsv").read_text(encoding="utf-8"))

#: A code that the table does not have is a driver's newer than the table: not known to be harmless.
UNLISTED = Xid(-1, "unlisted", "degraded", "contact_support", "A code that is not in the table", "no source")


def of(code: int) -> Xid:
    return XIDS.get(code, UNLISTED)
