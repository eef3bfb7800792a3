"""scaler.core.record: a line says all that a decision rested on, and lines of older versions can be read."""

import msgspec
import pytest
from msgspec import structs

from scaler.core.decision import Decision, Memory, Unknown, decide
from scaler.core.record import Record, differs, line, record, short
from scaler.core.trigger import parse
from scaler.core.view import Fleet
from tests.scaler.fleets import LOST, NOW, PACED, Step, past, played, replica, several, trigger

SEEN = structs.replace(
    several({"waiting": 200.0, "running": 4.0, "kv_usage": None}, {"capacity": 0.0, "gpus": (LOST,)}, PACED),
    gateway_waiting=3.0,
    spec_replicas=5,
    unheard=("10.0.0.9:9481 (refused)",),
    cold_start=90.0,
)


def read(text: bytes) -> Record:
    return msgspec.json.decode(text, type=Record)


def again(of: Record) -> Fleet:
    """The fleet as the line has it."""
    return Fleet(
        of.replicas,
        gateway_waiting=of.gateway_waiting,
        spec_replicas=of.spec_replicas,
        unheard=of.unheard,
        cold_start=of.cold_start,
    )


def test_a_line_has_every_input_and_the_answer() -> None:
    chosen = trigger(headroom="0.2")
    result, _ = decide(chosen, SEEN, past(2), NOW)
    assert isinstance(result, Decision)
    kept = read(line(record(chosen, SEEN, result, 1.5e9)))
    assert again(kept) == SEEN
    assert parse(kept.namespace, kept.name, kept.trigger) == chosen
    answered = (kept.required_replicas, kept.active, kept.reason, kept.vetoes, kept.explanation, kept.terms)
    assert answered == (
        *(result.required_replicas, result.active, result.reason),
        *(result.vetoes, result.explanation, result.terms),
    )
    assert kept.time == 1.5e9


def test_decisions_can_be_made_anew_from_their_lines() -> None:
    """Ages travel and clocks do not: only the time between two lines counts."""
    lives = played([Step(5.0, finished=1.5, running=9.0, waiting=float(i)) for i in range(130)], 2)
    lines = [line(record(trigger(), fleet, result, 1.5e9 + now)) for result, _, fleet, now in lives]
    memory = Memory()
    for text, (result, *_) in zip(lines, lives, strict=True):
        kept = read(text)
        redone, memory = decide(trigger(), again(kept), memory, kept.time)
        assert isinstance(redone, Decision)
        assert isinstance(result, Decision)
        assert redone.required_replicas == pytest.approx(result.required_replicas, abs=0.002)
        assert (redone.reason, redone.vetoes) == (result.reason, result.vetoes)


def test_no_answer_is_a_line_with_its_cause() -> None:
    fleet = several({"reading_age": 60.0})
    result, _ = decide(trigger(), fleet, None, NOW)
    kept = read(line(record(trigger(), fleet, result, 1.5e9)))
    assert (kept.reason, kept.required_replicas, kept.active) == ("unknown", None, None)
    assert "not read for 60 s" in kept.explanation
    assert kept.replicas == fleet.replicas


#: As version 0.1 wrote them: without what came later, and with a number that nobody tells any more.
OLD = [
    b'{"time":1.5e9,"namespace":"a","name":"b","reason":"unknown","explanation":"x"}',
    b'{"time":1.5e9,"namespace":"a","name":"b","reason":"running","explanation":"x","required_replicas":1.1,'
    b'"active":true,"terms":{"waiting":0,"running":10,"trend_per_second":0},"trigger":{"model":"llama"},'
    b'"replicas":[{"pod":"llama-0","reading_age":0.5,"waiting":0,"running":10,"knee":10}]}',
]


@pytest.mark.parametrize("text", OLD, ids=["no answer", "an answer"])
def test_old_lines_can_be_read(text: bytes) -> None:
    kept = read(text)
    assert (kept.spec_replicas, kept.unheard, kept.cold_start) == (None, (), None)
    if kept.replicas:
        assert kept.replicas == (structs.replace(replica(), node="", namespace="", model="", running=10.0,
                                                 kv_usage=None, capacity=None, health="unknown"),)  # fmt: skip


def test_the_short_form_has_the_answer_and_none_of_the_inputs() -> None:
    result, _ = decide(trigger(), SEEN, past(2), NOW)
    full = record(trigger(), SEEN, result, 1.5e9)
    bare = read(short(full))
    assert again(bare) == Fleet()
    assert bare.trigger == {}
    assert (bare.explanation, bare.terms, bare.vetoes) == (full.explanation, full.terms, full.vetoes)


def test_another_answer_is_one_in_whole_replicas() -> None:
    one, _ = decide(trigger(), several({"running": 4.0}), past(0), NOW)
    same, _ = decide(trigger(), several({"running": 5.0}), past(0), NOW)
    more, _ = decide(trigger(), several({"running": 15.0}), past(0), NOW)
    assert not differs(one, same)
    assert differs(one, more)
    assert differs(None, one)
    assert differs(one, Unknown("x"))
    assert not differs(Unknown("x"), Unknown("y"))
