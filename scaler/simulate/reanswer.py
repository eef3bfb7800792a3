"""Recorded inputs, put to today's decide() as they were: no cluster follows the answers.

May not be in here: a load made of the record (history.py), files.

A record holds what a decision was made from. What it does not hold is the decisions between two records (one is written
when the answer changes, and every 15 s): what those would have remembered is missing to the later ones.
"""

import math
from collections.abc import Mapping, Sequence
from typing import NamedTuple

from scaler.core.decision import Decision, Memory, Unknown, decide
from scaler.core.record import Record
from scaler.core.trigger import HIDDEN, Trigger, parse
from scaler.core.view import Fleet


class Reanswer(NamedTuple):
    """One recorded decision, and today's of the same."""

    then: Record
    now: Decision | Unknown

    @property
    def differs(self) -> bool:
        """Whether it is another number of replicas, or an answer where there was none."""
        return _whole(self.then.required_replicas) != _whole(
            self.now.required_replicas if isinstance(self.now, Decision) else None
        )


def settings(recorded: Mapping[str, str]) -> dict[str, str]:
    """The settings of a recorded trigger that can be used again: not what came from the environment, nor whom it
    scaled, and not advisory: what it would do is what one wants to see."""
    return {
        key: value for key, value in recorded.items() if value != HIDDEN and key not in ("podSelector", "model", "mode")
    }


def reanswered(records: Sequence[Record], metadata: Mapping[str, str]) -> list[Reanswer]:
    """Today's answer to each record that has inputs, in their order, with one memory. Raises TriggerError."""
    if not records:
        return []
    trigger: Trigger = parse(records[0].namespace, records[0].name, metadata)
    memory, made = Memory(), []
    for record in records:
        if not record.replicas:
            continue  # the scaler knew of no replica: of why, only the sentence is recorded
        fleet = Fleet(
            replicas=record.replicas,
            gateway_waiting=record.gateway_waiting,
            spec_replicas=record.spec_replicas,
            unheard=record.unheard,
            cold_start=record.cold_start,
        )
        now, memory = decide(trigger, fleet, memory, record.time)
        made.append(Reanswer(record, now))
    return made


def _whole(required: float | None) -> int | None:
    return None if required is None else math.ceil(required)
