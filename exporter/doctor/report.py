"""The doctor's findings as text for a person and as JSON for a program.

May not be in here: how something is found out.
"""

import json
from collections import Counter
from collections.abc import Iterable, Sequence
from itertools import groupby
from typing import Any

from msgspec import Struct

STATUSES = ("ok", "warn", "fail", "skipped")

_WORDS = {"ok": "ok", "warn": "WARN", "fail": "FAIL", "skipped": "skip"}
_COLOURS = {"ok": "32", "warn": "33", "fail": "31", "skipped": "2"}


class Result(Struct, frozen=True):
    """What one check said of one subject."""

    id: str  # "driver.version"; what stands before the dot is the topic
    subject: str  # "GPU 0", a URL; "" is the node as a whole
    status: str  # one of STATUSES
    found: str  # one line
    fix: str = ""  # one line; "" where there is nothing to mend


class Report(Struct, frozen=True):
    """What the doctor found; the JSON has the same names (docs/doctor.md)."""

    version: str
    node: str
    checks: tuple[Result, ...]
    gpus: tuple[dict[str, Any], ...]

    @property
    def ok(self) -> bool:
        return all(result.status != "fail" for result in self.checks)


def as_json(report: Report) -> str:
    """One object on one line; whatever text came from outside, it is valid JSON (ASCII)."""
    rows = [{name: getattr(result, name) for name in Result.__struct_fields__} for result in report.checks]
    shown = {"version": report.version, "node": report.node, "ok": report.ok, "checks": rows, "gpus": report.gpus}
    return json.dumps(shown, allow_nan=False)


def as_text(report: Report, colour: bool = False) -> str:
    """Topic by topic in the order of the checks; the fix stands under what it mends; the last line sums up."""
    lines = [f"plimsoll doctor {_line(report.version)}, node {_line(report.node)}"]
    for topic, results in groupby(report.checks, key=lambda result: result.id.partition(".")[0]):
        said = list(results)
        lines += ["", topic]
        if len({(each.status, each.found) for each in said}) == 1 and said[0].status == "skipped":
            lines.append(f"  {_word('skipped', colour)}  {_line(said[0].found)}")  # the whole topic is
            continue
        rows = _together(said)
        name_width = max(len(_name(result)) for result, _ in rows)
        subject_width = max(len(subject) for _, subject in rows)
        for result, subject in rows:
            columns = [_name(result).ljust(name_width), *([subject.ljust(subject_width)] if subject_width else [])]
            lines.append(f"  {_word(result.status, colour)}  {'  '.join(columns)}  {_line(result.found)}".rstrip())
            if result.fix:
                lines.append(f"        fix: {_line(result.fix)}")
    return "\n".join([*lines, "", _sum(report)]) + "\n"


def _word(status: str, colour: bool) -> str:
    word = _WORDS[status].ljust(4)
    return f"\033[{_COLOURS[status]}m{word}\033[0m" if colour else word


def _sum(report: Report) -> str:
    counts = Counter(result.status for result in report.checks)
    numbers = ", ".join(f"{counts[status]} {status}" for status in STATUSES)
    said = "this node can tell what it must" if report.ok else "something that it must tell it cannot, or a GPU is sick"
    return f"{numbers}: {said}"


def _name(result: Result) -> str:
    return result.id.partition(".")[2]


def _together(results: Sequence[Result]) -> list[tuple[Result, str]]:
    """(result, its subjects): where a check says the same of several subjects, one row stands for them."""
    rows: list[tuple[Result, str]] = []
    seen: dict[tuple[str, str, str, str], list[str]] = {}
    for result in results:
        seen.setdefault((result.id, result.status, result.found, result.fix), []).append(result.subject)
    for (name, status, found, fix), subjects in seen.items():
        rows.append((Result(name, subjects[0], status, found, fix), _subjects([_line(each) for each in subjects])))
    return rows


def _subjects(subjects: Sequence[str]) -> str:
    """["GPU 0", "GPU 1", "GPU 2"] -> "GPU 0-2"."""
    numbers = [each.removeprefix("GPU ") for each in subjects]
    if not all(each.startswith("GPU ") and n.isdigit() for each, n in zip(subjects, numbers, strict=True)):
        return ", ".join(dict.fromkeys(subjects))
    return "GPU " + ",".join(_ranges(sorted({int(number) for number in numbers})))


def _ranges(numbers: Sequence[int]) -> Iterable[str]:
    for _, run in groupby(enumerate(numbers), key=lambda pair: pair[1] - pair[0]):
        ends = [number for _, number in run]
        yield str(ends[0]) if len(ends) == 1 else f"{ends[0]}-{ends[-1]}"


def _line(text: str) -> str:
    """The text on one line: what came from outside may hold anything, escape sequences for terminals too."""
    return "".join(char if char.isprintable() else " " for char in text)
