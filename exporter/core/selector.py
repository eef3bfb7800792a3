"""Kubernetes label selectors: text -> requirements, and whether a pod's labels meet them.

May not be in here: where labels come from.

Syntax and meaning are those of `kubectl get -l`: "a=b", "a==b", "a!=b", "a in (b,c)", "a notin (b,c)", "a", "!a",
joined by commas; all must hold. As there, `!=` and `notin` also hold where the label is absent.
"""

import re
from collections.abc import Mapping

from msgspec import Struct

LONGEST = 1024  # characters; a selector of a ScaledObject is rarely over a hundred

_KEY = r"(?:[A-Za-z0-9][A-Za-z0-9.-]{0,252}/)?[A-Za-z0-9](?:[A-Za-z0-9._-]{0,61}[A-Za-z0-9])?"
_VALUE = r"(?:[A-Za-z0-9](?:[A-Za-z0-9._-]{0,61}[A-Za-z0-9])?)?"
_TERM = re.compile(
    rf"\s*(?:!\s*(?P<absent>{_KEY})"
    rf"|(?P<set>{_KEY})\s+(?P<operator>in|notin)\s*\((?P<members>[^()]*)\)"
    rf"|(?P<key>{_KEY})\s*(?P<sign>==|=|!=)\s*(?P<value>{_VALUE})"
    rf"|(?P<present>{_KEY}))\s*(?P<end>,|$)"
)


class Requirement(Struct, frozen=True):
    """What one label must be: one of `values`, or with `negate` none of them; `absent_ok`: it may be absent."""

    key: str
    values: tuple[str, ...]
    negate: bool = False
    absent_ok: bool = False

    def holds(self, labels: Mapping[str, str]) -> bool:
        found = labels.get(self.key)
        if found is None:
            return self.absent_ok
        return (found in self.values) is not self.negate


def parse(text: str) -> tuple[Requirement, ...]:
    """The requirements. Raises ValueError("what is wrong; fix")."""
    if len(text) > LONGEST:
        raise ValueError(f"is longer than {LONGEST} characters; select by fewer labels")
    requirements = []
    position = 0
    while True:
        match = _TERM.match(text, position)
        if match is None:
            raise ValueError("is not a label selector; write for example app=llama, or: tier in (a,b), !canary")
        requirements.append(_requirement(match))
        position = match.end()
        if match["end"] != ",":
            return tuple(requirements)


def _requirement(match: re.Match[str]) -> Requirement:
    if match["absent"]:
        return Requirement(match["absent"], (), absent_ok=True)
    if match["present"]:
        return Requirement(match["present"], (), negate=True)
    if match["set"]:
        members = tuple(member.strip() for member in match["members"].split(","))
        if not all(re.fullmatch(_VALUE, member) for member in members):
            raise ValueError("has a member that no label can be; write for example: tier in (a,b)")
        negate = match["operator"] == "notin"
        return Requirement(match["set"], members, negate=negate, absent_ok=negate)
    negate = match["sign"] == "!="
    return Requirement(match["key"], (match["value"],), negate=negate, absent_ok=negate)


def meets(requirements: tuple[Requirement, ...], labels: Mapping[str, str]) -> bool:
    return all(requirement.holds(labels) for requirement in requirements)
