"""Then against now: differences, hours, and the profile and settings that a record holds."""

# ruff: noqa: E501 -- one row a case: a wrapped table cannot be scanned

from typing import Any

import pytest

from scaler.core.record import Record
from scaler.core.view import GpuView, Replica
from scaler.simulate.history import History, Interval
from scaler.simulate.model import Phases, Profile, Run, Scenario, Tick, Trace
from scaler.simulate.profiles import PROFILES
from scaler.simulate.reanswer import settings
from scaler.simulate.recorded_profile import recorded
from scaler.simulate.then_now import course, differences, hours, moments


def _replica(step: float | None, **fields: Any) -> Replica:
    pace = {"step_seconds": step, "sequence_seconds": 1e-4, "prompt_token_seconds": 2e-5, "pace_seconds": 60.0}
    return Replica(pod="a", **({"kv_capacity_tokens": 5000.0} | pace | fields))


def _record(*replicas: Replica, **fields: Any) -> Record:
    return Record(0.0, "default", "llama", "running", "", replicas=replicas, **fields)


def test_a_profile_is_what_was_learned() -> None:
    base = PROFILES["8b-l40s"]
    gpus = (GpuView("GPU-1"), GpuView("GPU-2"))
    records = [
        _record(_replica(0.02, gpus=gpus, max_running=64.0), cold_start=80.0),
        _record(_replica(0.04, gpus=gpus), _replica(0.03, gpus=gpus)),
    ]
    made = recorded(records, base)
    assert made is not None
    assert (made.step, made.per_sequence, made.per_prompt_token) == (0.03, 1e-4, 2e-5)
    assert (made.kv_tokens, made.gpus, made.max_num_seqs, made.cold_start) == (5000, 2, 64, Phases(model_load=80.0))


@pytest.mark.parametrize(
    "replica",
    [_replica(None), _replica(0.02, kv_capacity_tokens=None), _replica(0.02, pace_seconds=0.0), _replica(0.02, kv_capacity_tokens=3.0)],
    ids=["no pace", "no cache", "borrowed", "no block"],
)  # fmt: skip
def test_no_profile_where_nothing_was_learned(replica: Replica) -> None:
    assert recorded([_record(replica)], PROFILES["8b-l40s"]) is None


def test_settings_are_those_that_can_be_used_again() -> None:
    shown = {
        "model": "llama",
        "podSelector": "a=b",
        "mode": "advisory",
        "headroom": "0.1",
        "queueTargetFromEnv": "(from the environment)",
    }
    assert settings(shown) == {"headroom": "0.1"}


def _history(*answers: tuple[int | None, float | None]) -> History:
    """(replicas, required) of each 15 s."""
    rows = enumerate(answers)
    return History(
        "h", 100.0, tuple(Interval(15.0 * i, 15.0, 30.0, None, None, seen, need, "") for i, (seen, need) in rows)
    )


def _run(*pods: int) -> Run:
    scenario = Scenario(Trace("h", (), 15.0 * len(pods)), Profile("p", "", "", 0.01, 0, 0, 0, 0, 1000))
    ticks = [Tick(15.0 * (index + 1), 0, 0, 0, count, 0, 0, count) for index, count in enumerate(pods)]
    return Run(scenario, "plimsoll", None, [], ticks, [], 0.0, 0)


def _decided(start: float, *required: float | None) -> list[Record]:
    return [
        Record(start + 15.0 * (i + 1), "n", "m", "", f"because {need}", required_replicas=need)
        for i, need in enumerate(required)
    ]


#: (then: (seen, required), now: (pods, required), differences as (from, seconds, replica-seconds, then, now))
DIFFERENCES = [
    ("the same", [(2, 1.5), (2, 2.0)], [(2, 2.0), (2, 1.2)], []),
    ("more now", [(2, 2.0), (2, 2.0), (2, 2.0)], [(2, 2.0), (3, 3.0), (5, 4.2)], [(15, 30, 60, 2, 5)]),
    ("more, then fewer: two", [(2, 2.0), (2, 2.0)], [(3, 3.0), (1, 1.0)], [(0, 15, 15, 2, 3), (15, 15, 15, 2, 1)]),
    ("no answer then is no difference", [(2, None), (2, 2.0)], [(4, 4.0), (3, 3.0)], [(15, 15, 15, 2, 3)]),
    ("nor is none now", [(2, 2.0), (2, 2.0)], [(2, None), (3, 3.0)], [(15, 15, 15, 2, 3)]),
]  # fmt: skip


@pytest.mark.parametrize(
    ("then", "now", "expected"), [row[1:] for row in DIFFERENCES], ids=[row[0] for row in DIFFERENCES]
)
def test_differences(then: Any, now: Any, expected: Any) -> None:
    history, decided = _history(*then), _decided(0.0, *(need for _, need in now))
    records = _decided(100.0, *(need for _, need in then))
    all_ = moments(history, _run(*(pods for pods, _ in now)), decided)
    found = differences(all_, history, records, decided)
    assert [(each.at, each.seconds, each.replica_seconds, each.then, each.now) for each in found] == expected
    for each in found:
        index = round(each.peak / 15) - 1
        assert (each.why_then, each.why_now) == (f"because {then[index][1]}", f"because {now[index][1]}")


def test_hours_and_course() -> None:
    history = _history((2, 2.0), (2, 2.0), (4, 4.0), (4, None))
    all_ = moments(history, _run(1, 1, 3, 5), _decided(0.0, 1.0, 1.0, 3.0, 5.0))
    assert hours(all_) == (pytest.approx(12 * 15 / 3600), pytest.approx(10 * 15 / 3600))
    assert [(row.at, row.seconds, row.load, row.replicas_then, row.replicas_now, row.asked_then, row.asked_now) for row in course(all_, 2)] == [
        (0.0, 30.0, 2.0, 2.0, 1.0, 2, 1), (30.0, 30.0, 2.0, 4.0, 4.0, None, 5),
    ]  # fmt: skip
    missing = moments(_history((2, 2.0), (None, None)), _run(1, 1), [])
    assert hours(missing) == (None, pytest.approx(30 / 3600))
