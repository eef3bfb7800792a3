"""scaler.simulate.product: the way from the feed to .spec.replicas, and what faults do on it."""

from collections.abc import Mapping

import pytest

from scaler.core.trigger import TriggerError
from scaler.simulate import product as module
from scaler.simulate.faults import parse
from scaler.simulate.generators import generate
from scaler.simulate.hpa import POLLING_INTERVAL, SYNC_PERIOD, Fallback, Metric, ScaledObject
from scaler.simulate.model import Run, Scenario, Trace
from scaler.simulate.outcome import summary
from scaler.simulate.product import Product, Setting, setting
from scaler.simulate.profiles import profile
from scaler.simulate.run import run
from tests.simulate.played import PLAIN, Said, Watched, every, product, trace


def steady(rate: float = 4.0, seconds: float = 1800.0) -> Trace:
    return generate("steady", {"rate": rate, "seconds": seconds}, 1)


@pytest.mark.parametrize("interval", [1.0, 5.0, 7.0])
def test_keda_polls_every_30_s_and_the_hpa_syncs_every_15(interval: float, monkeypatch: pytest.MonkeyPatch) -> None:
    polls: list[float] = []
    syncs: list[float] = []
    real_poll, real_sync = module.poll, module.sync
    monkeypatch.setattr(module, "poll", lambda *given: (polls.append(given[-1]), real_poll(*given))[1])
    monkeypatch.setattr(module, "sync", lambda *given: (syncs.append(given[-1]), real_sync(*given))[1])
    of = Scenario(steady(seconds=300.0), profile("8b-l40s"), start=2, interval=interval)
    product(of)
    for times, period in ((polls, POLLING_INTERVAL), (syncs, SYNC_PERIOD)):
        assert len(times) == 300 / period
        # The first look at or after each multiple of the period.
        assert all(0 <= at - period * number < interval + 1 for number, at in enumerate(times))


def test_metadata_that_the_scaler_refuses_is_refused_here() -> None:
    of = Scenario(steady(), profile("8b-l40s"))
    with pytest.raises(TriggerError, match="queueTarget"):
        Product(of, setting(of, {"queueTarget": "many"}))


def test_a_scaled_object_may_go_to_zero_when_it_was_idle_for_keda_s_cooldown() -> None:
    of = Scenario(trace(*every(0.7, 60.0), seconds=1800.0), PLAIN, start=1, minimum=0, maximum=3)
    played, _ = product(of)
    gone = [change for change in played.changes if change.after == 0]
    assert len(gone) == 1
    assert gone[0].at == 361.0  # the poll at 31 s was the last to find work; at 331 s the 300 s are not over yet
    assert played.ticks[-1].ready == 0


def told_nothing(of: Scenario, spec: ScaledObject) -> Run:
    return run(of, Product(of, Setting({}, spec)), "plimsoll")


#: (fallback, replicas while the scaler cannot answer)
FALLBACKS = [
    (None, 2),
    (Fallback(3, 5), 5),
    (Fallback(3, 5, "currentReplicas"), 2),
    (Fallback(3, 1, "currentReplicasIfHigher"), 2),
]


@pytest.mark.parametrize(("fallback", "replicas"), FALLBACKS)
def test_when_nothing_is_seen_the_scaled_objects_fallback_counts(fallback: Fallback | None, replicas: int) -> None:
    of = Scenario(steady(seconds=900.0), profile("8b-l40s"), start=2, maximum=9, faults=(parse("blind@100:for=800s"),))
    played = told_nothing(of, ScaledObject(minimum=1, maximum=9, fallback=fallback))
    assert played.ticks[-1].spec == replicas


def test_the_hpa_is_told_what_keda_makes_of_the_value(monkeypatch: pytest.MonkeyPatch) -> None:
    metrics: list[Metric] = []
    real = module.sync

    def sync(*given):  # type: ignore[no-untyped-def] # as the HPA's
        metrics.extend(given[2])
        return real(*given)

    monkeypatch.setattr(module, "sync", sync)
    of = Scenario(steady(seconds=120.0), profile("8b-l40s"), start=2)
    _, said = product(of)
    asked = [each.answer.value for each in said][::3]
    assert [metric.value for metric in metrics] == asked
    assert {metric.target for metric in metrics} == {1.0}
    metrics.clear()
    run(of, Watched(of, {"metric": "queue-depth", "queueTarget": "2.5"}), "plimsoll")
    assert {metric.target for metric in metrics} == {2.5}


# Faults: a fleet that has just what it needs, and loses one replica's work.


def played_with(*faults: str, load: Mapping[str, float] | None = None) -> tuple[Run, list[Said]]:
    """Three replicas that carry a steady load well; a start takes a minute."""
    of = Scenario(
        generate("steady", load or {"rate": 12.0, "seconds": 1500.0}, 1),
        profile("8b-a100"),
        start=3,
        maximum=9,
        cold_start=60.0,
        faults=tuple(map(parse, faults)),
    )
    return product(of)


def most(played: Run) -> int:
    return max(tick.spec for tick in played.ticks)


@pytest.mark.parametrize("fault", ["throttled@642:replica=1,factor=4", "lost@642:replica=1", "wedged@642:replica=1"])
def test_one_sick_replica_costs_two_points_and_one_more_replica_at_most(fault: str) -> None:
    healthy, _ = played_with()
    sick, said = played_with(fault)
    well, ill = summary(healthy).attainment, summary(sick).attainment
    assert well is not None
    assert ill is not None
    assert well > 0.99
    assert ill >= well - 0.02
    assert most(sick) <= most(healthy) + 1
    reasons = {each.answer.reason for each in said if each.seen.now > 690.0}
    assert "lost_capacity" in reasons


@pytest.mark.parametrize("begin", [1190, 1225])  # just before the crowd, and while it rises
def test_five_minutes_without_data_remove_nothing_and_the_first_answer_after_them_acts(begin: int) -> None:
    of = Scenario(
        generate("flash_crowd", {"base": 8, "factor": 4, "at": 1200, "rise": 30, "fall": 900, "seconds": 1700}, 1),
        profile("8b-a100"),
        start=3,
        maximum=20,
        cold_start=60.0,
        faults=(parse(f"blind@{begin}:for=5m"),),
    )
    played, said = product(of)
    end = begin + 300.0
    assert [change for change in played.changes if begin <= change.at < end and change.after < change.before] == []
    quiet = [each for each in said if begin + 20 <= each.seen.now < end]
    assert all(each.answer.value is None and each.answer.reason == "unknown" for each in quiet)
    first = next(change for change in played.changes if change.at >= end)
    assert first.after > first.before
    assert first.at <= end + SYNC_PERIOD + 1.0
    assert next(each.answer for each in said if each.seen.now > end).value is not None
