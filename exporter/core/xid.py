"""What an Xid error code says of the GPU: the table xid.tsv, read once.

May not be in here: judging a GPU by its history of Xids (xid_past.py).
"""

from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

#: lost: the GPU is gone. critical: it must not be used until it was reset. memory: critical, unless an Xid 94 says that
#: the error stayed in one process. degraded: to be looked into; counts for a while. application: a process's fault,
#: counts only when it repeats across pods. info: is no fault of the GPU.
CLASSES = ("lost", "critical", "memory", "degraded", "application", "info")

COLUMNS = ("code", "name", "class", "action", "fatal_class", "fatal_action", "meaning", "because", "source")


class Xid(NamedTuple):
    code: int
    name: str
    kind: str  # one of CLASSES
    action: str  # one of findings.ACTIONS
    fatal_kind: str  # the class and the action if the kernel's line says "fatal" (NVLink 5); "": it makes no difference
    fatal_action: str
    meaning: str  # one sentence for a person
    because: str  # why this class and action, where the agents disagree
    source: str  # whose word that rests on, and who says otherwise

    def under(self, severity: str) -> tuple[str, str, str]:
        """(reason, class, action) of an event of this code: severity is "fatal", "nonfatal" or "" (not known)."""
        reason = "xid_unlisted" if self is UNLISTED else f"xid_{self.code}"
        if severity == "fatal" and self.fatal_kind:
            return f"{reason}_fatal", self.fatal_kind, self.fatal_action
        return reason, self.kind, self.action


def load(text: str) -> Mapping[int, Xid]:
    """The rows of a table with COLUMNS. Raises ValueError."""
    head, *lines = text.splitlines()
    if tuple(head.split("\t")) != COLUMNS:
        raise ValueError(f"xid.tsv: the head {head!r} is not the expected one")
    rows: dict[int, Xid] = {}
    for line in lines:
        code, *rest = line.split("\t")
        if len(rest) != len(COLUMNS) - 1:
            raise ValueError(f"xid.tsv: row {code} has {len(rest) + 1} columns, not {len(COLUMNS)}")
        row = Xid(int(code), *rest)
        if row.kind not in CLASSES or row.fatal_kind not in ("", *CLASSES) or row.code in rows:
            raise ValueError(f"xid.tsv: row {row.code} has no class of {CLASSES} or stands there twice")
        rows[row.code] = row
    return rows


XIDS = load(Path(__file__).with_name("xid.tsv").read_text(encoding="utf-8"))

#: A code that the table does not have is a driver's newer than the table: not known to be harmless.
UNLISTED = Xid(
    -1,
    "unlisted",
    "degraded",
    "contact_support",
    "",
    "",
    "A code that is not in the table",
    "nobody has said yet that it is harmless",
    "Plimsoll",
)


def of(code: int) -> Xid:
    return XIDS.get(code, UNLISTED)
