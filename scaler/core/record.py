"""A decision as it is kept: what was asked, what was seen, what was answered.

May not be in here: where records are kept (decisions.py, journal.py).
"""

import math
from collections.abc import Mapping

import msgspec
from msgspec import Struct, structs

from scaler.core.decision import Decision, Unknown
from scaler.core.trigger import Trigger
from scaler.core.view import Fleet, Replica


class Record(Struct, frozen=True, omit_defaults=True):
    """One line of the record file. From `trigger` on: what was asked and seen; the short form is without it.

    A line may lack what a later version added: every field but the first five has a default.
    """

    time: float  # Unix time
    namespace: str
    name: str
    reason: str  # "unknown" where there is no answer
    explanation: str
    required_replicas: float | None = None
    active: bool | None = None
    terms: Mapping[str, float] = {}
    vetoes: tuple[str, ...] = ()
    trigger: Mapping[str, str] = {}
    replicas: tuple[Replica, ...] = ()
    gateway_waiting: float | None = None
    spec_replicas: int | None = None
    unheard: tuple[str, ...] = ()  # exporters that never answered
    cold_start: float | None = None  # seconds, as the nodes saw it


def record(trigger: Trigger, fleet: Fleet, result: Decision | Unknown, wall: float) -> Record:
    """wall: Unix time of the decision. Everything but that is an input or output of decide()."""
    if isinstance(result, Unknown):
        answer = Record(wall, trigger.namespace, trigger.name, "unknown", result.reason)
    else:
        answer = Record(
            time=wall,
            namespace=trigger.namespace,
            name=trigger.name,
            reason=result.reason,
            explanation=result.explanation,
            required_replicas=result.required_replicas,
            active=result.active,
            terms=result.terms,
            vetoes=result.vetoes,
        )
    return structs.replace(
        answer,
        trigger=trigger.shown,
        replicas=fleet.replicas,
        gateway_waiting=fleet.gateway_waiting,
        spec_replicas=fleet.spec_replicas,
        unheard=fleet.unheard,
        cold_start=fleet.cold_start,
    )


def short(full: Record) -> bytes:
    """JSON without the inputs: what the ring of the last records holds."""
    return msgspec.json.encode(
        structs.replace(
            full,
            trigger={},
            replicas=(),
            gateway_waiting=None,
            spec_replicas=None,
            unheard=(),
            cold_start=None,
        )
    )


def line(full: Record) -> bytes:
    """JSON with everything, as one line."""
    return msgspec.json.encode(full) + b"\n"


def differs(before: Decision | Unknown | None, after: Decision | Unknown) -> bool:
    """Whether the answer is another one, in whole replicas; other numbers behind the same answer are no news."""
    if not isinstance(before, Decision) or not isinstance(after, Decision):
        return type(before) is not type(after)
    return _answer(before) != _answer(after)


def _answer(decision: Decision) -> tuple[int, bool, str, bool]:
    return math.ceil(decision.required_replicas), decision.active, decision.reason, bool(decision.vetoes)
