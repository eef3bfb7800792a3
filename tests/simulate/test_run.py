"""scaler.simulate.run and readings: the order of things, what a policy is shown and when, faults, what a run counts."""

import math
import os
import subprocess
import sys

import pytest

from scaler.simulate.faults import parse
from scaler.simulate.generators import generate
from scaler.simulate.model import Arrival, Run, Scenario, Seen, Trace
from scaler.simulate.profiles import profile
from scaler.simulate.run import run
from tests.simulate.played import PLAIN, Script, digest, every, product, static, trace


def scenario(load: Trace, faults: tuple[str, ...] = (), **rest: object) -> Scenario:
    return Scenario(load, PLAIN, faults=tuple(map(parse, faults)), minimum=0, **rest)  # type: ignore[arg-type] # a test's shorthand


def scripted(
    load: Trace, *rows: tuple[float, int], faults: tuple[str, ...] = (), scrape: float = 5.0, **rest: object
) -> tuple[Run, list[Seen]]:
    script = Script(*rows, scrape=scrape, feed=True)
    return run(scenario(load, faults, start=rows[0][1], **rest), script, "script"), script.seen


# What is shown, and when.


#: (interval, scrape, period) -> the ages that readings may have when a policy sees them
AGES = [
    (5.0, 5.0, 5.0, {1.0}),
    (5.0, 15.0, 15.0, {1.0}),
    (5.0, 15.0, 5.0, {1.0, 6.0, 11.0}),
    (7.0, 5.0, 7.0, {1.0}),
    (0.5, 0.5, 5.0, {1.0}),
    (4.0, 4.0, 3.0, {1.0, 2.0, 3.0, 4.0}),
    (7.0, 15.0, 5.0, None),
]


@pytest.mark.parametrize(("interval", "scrape", "period", "ages"), AGES)
def test_a_policy_sees_the_newest_scrape_that_is_old_enough(
    interval: float, scrape: float, period: float, ages: set[float] | None
) -> None:
    script = Script((0.0, 1), period=period, scrape=scrape, feed=True)
    run(scenario(trace(*every(1.0, 200.0), seconds=200.0), interval=interval), script, "script")
    seen = {round(seen.now - pod.at, 9) for seen in script.seen for pod in seen.pods if pod.at is not None}
    assert all(pod.at is not None for seen in script.seen for pod in seen.pods)
    assert min(seen) >= 1.0
    assert max(seen) <= scrape + interval + 1.0
    if ages is not None:
        assert seen == ages
    feeds = {round(seen.now - view.at, 9) for seen in script.seen for view in seen.nodes if view.at is not None}
    assert min(feeds) >= 1.0
    assert max(feeds) <= interval + 1.0


def test_a_pod_is_shown_when_it_is_there_and_its_reading_when_it_was_read() -> None:
    _, seen = scripted(trace(seconds=100.0), (0.0, 1), (20.0, 2), scrape=15.0)
    newest = {each.now: each.pods[-1] for each in seen if len(each.pods) == 2}
    assert (newest[26.0].ready, newest[26.0].reading) == (False, None)
    assert (newest[56.0].ready, newest[56.0].reading) == (True, None)  # ready at 51
    assert newest[61.0].at == 60.0
    assert seen[-1].ready == 2


def test_how_busy_it_was_is_of_the_interval_before() -> None:
    _, seen = scripted(trace(Arrival(11.0, 1, 300), seconds=40.0), (0.0, 1))
    busy = {each.now: each.pods[0].busy for each in seen}
    assert busy == {
        now: pytest.approx(share, abs=1e-6)
        for now, share in ((1, 0), (6, 0), (11, 0), (16, 0.6), (21, 0), (26, 0), (31, 0), (36, 0))
    }


def test_while_blind_nothing_is_seen_and_the_feed_grows_old() -> None:
    load = trace(*every(1.0, 100.0, output=450), seconds=100.0)
    _, seen = scripted(load, (0.0, 1), faults=("blind@32:for=30s",), scrape=15.0)
    read = {each.now: each.pods[0].at for each in seen}
    assert {now: at for now, at in read.items() if now >= 31} == {
        **dict.fromkeys((31.0, 36.0, 41.0), 30.0),  # what Prometheus has stays until it scrapes again
        **dict.fromkeys((46.0, 51.0, 56.0), None),
        **dict.fromkeys((61.0, 66.0, 71.0), None),
        **dict.fromkeys((76.0, 81.0, 86.0), 75.0),
        **dict.fromkeys((91.0, 96.0), 90.0),
    }
    told = {each.now: each.nodes[0].at for each in seen}
    assert [told[now] for now in (31.0, 36.0, 61.0, 66.0, 71.0)] == [30.0, 30.0, 30.0, 65.0, 70.0]
    busy = {each.now: each.pods[0].busy for each in seen}
    assert busy[76.0] == pytest.approx(1.0)  # of five seconds, not of all that was missed


# What becomes of pods and requests.


def test_ticks_come_every_interval_and_count_every_arrival_once() -> None:
    played, _ = scripted(trace(*every(0.3, 60.0), seconds=60.0), (0.0, 1))
    assert [tick.at for tick in played.ticks] == [5.0 * number for number in range(12)]
    assert sum(tick.arrived for tick in played.ticks) == sum(request.arrived < 55.0 for request in played.requests)
    assert len(played.requests) == 200


def test_a_request_of_the_last_moment_arrives() -> None:
    assert len(static(scenario(trace(Arrival(0.0, 1, 1), Arrival(60.0, 1, 1), seconds=60.0))).requests) == 2


def test_a_pod_that_goes_ends_its_requests_and_costs_until_then() -> None:
    load = trace(*every(1.0, 20.0, output=3000), seconds=100.0)  # 30 s each
    played, _ = scripted(load, (0.0, 2), (20.0, 1))
    assert sum(request.restarts for request in played.requests) == 0
    assert [(tick.at, tick.going) for tick in played.ticks if tick.going] == [(at, 1) for at in (25.0, 30, 35, 40, 45)]
    assert played.replica_seconds == 100.0 + 50.0  # its last request came before 20 s


def test_when_its_grace_is_over_its_requests_are_begun_anew() -> None:
    load = trace(*every(1.0, 20.0, output=3000), seconds=100.0)
    played, _ = scripted(load, (0.0, 2), (20.0, 1), grace=12.0)
    restarted = [request for request in played.requests if request.restarts]
    assert restarted
    assert all(request.arrived >= 5.0 for request in restarted)  # the others were done
    assert all(request.first_token is not None and request.first_token >= 35.0 for request in restarted)
    assert played.replica_seconds == 100.0 + 35.0


def test_with_no_replica_requests_wait_and_nothing_is_paid() -> None:
    load = trace(*every(1.0, 20.0), seconds=100.0)
    played, _ = scripted(load, (0.0, 0), (40.0, 1))
    assert [tick.waiting for tick in played.ticks if tick.at in (10.0, 40.0)] == [10, 20]
    assert played.replica_seconds == 100.0 - 41.0
    assert [request.finished for request in played.requests] == [pytest.approx(41.0 + 30.0 + 1.0)] * 20


# Faults. A replica works off 100 requests a minute, each for a second.

LOAD = trace(*every(0.6, 300.0), seconds=300.0)


def finished(played: Run, begin: float, end: float) -> list[float]:
    """Seconds in the system of the requests that arrived then."""
    assert all(request.finished is not None for request in played.requests if request.arrived < 295.0)
    return [
        request.finished - request.arrived
        for request in played.requests
        if begin <= request.arrived < end and request.finished is not None
    ]


def test_throttled_and_well_again() -> None:
    played, _ = scripted(LOAD, (0.0, 1), faults=("throttled@60:factor=4,for=60s",))
    assert finished(played, 61.0, 115.0) == [pytest.approx(4.0, abs=0.05)] * 90
    assert finished(played, 121.0, 290.0)[0] == pytest.approx(1.0, abs=0.05)
    assert played.events == ((60.0, "throttled begins on replica-0"), (120.0, "replica-0 is well again"))


def test_lost_is_found_by_its_silence_and_never_comes_back() -> None:
    played, seen = scripted(LOAD, (0.0, 2), faults=("lost@62:replica=1",))
    assert [text for _, text in played.events] == [
        "lost begins on replica-1",
        "replica-1 made no token for a while: its requests are sent to others",
    ]
    assert played.events[1][0] == 100.0  # its last token was seen at 65
    slow = [request for request in played.requests if request.restarts]
    assert slow
    assert all(request.arrived < 100.0 and (request.first_token or math.inf) >= 100.0 for request in slow)
    readings = [each.pods[1].reading for each in seen if each.now > 70]
    assert len(set(map(id, readings))) == 1  # it answers, with what it last knew
    assert {gpu.state for gpu in seen[-1].nodes[0].gpus} == {"healthy", "lost"}


def test_wedged_for_a_while_is_restarted() -> None:
    played, seen = scripted(LOAD, (0.0, 2), faults=("wedged@62:replica=1,for=90s",))
    assert [event for event in played.events if "restarted" in event[1]] == [(152.0, "replica-1 is restarted")]
    ready = {each.now: each.ready for each in seen}
    assert (ready[151.0], ready[156.0], ready[171.0], ready[176.0]) == (2, 1, 1, 2)
    engines = seen[-1].nodes[0].engines
    assert {engine.cause for engine in engines} <= {"healthy", "idle"}
    assert seen[-1].nodes[0].cold_starts  # of the restart as well
    assert sum(finished(played, 180.0, 290.0)) > 0
    assert {len(each.pods) for each in seen} == {2}


def test_no_new_pod_gets_a_gpu_for_a_while() -> None:
    played, _ = scripted(LOAD, (0.0, 1), (30.0, 2), faults=("unschedulable@20:for=60s",))
    states = {tick.at: (tick.ready, tick.starting) for tick in played.ticks}
    assert [states[at] for at in (35.0, 80.0, 105.0, 110.0)] == [(1, 1), (1, 1), (1, 1), (2, 0)]
    assert played.replica_seconds == 300.0 + 220.0
    assert played.events == ((20.0, "unschedulable begins"), (80.0, "unschedulable is over"))


#: (faults, rows, events' words) of what strikes where nothing is to be struck
ODD = [
    (("lost@10",), ((0.0, 0),), ["lost finds no replica that is ready"]),
    (("wedged@10", "throttled@20:factor=2"), ((0.0, 1),), ["throttled finds replica-0 wedged already"]),
    (("lost@10:replica=7",), ((0.0, 2),), ["lost begins on replica-1"]),
    (("throttled@10:factor=2,for=50s",), ((0.0, 1), (20.0, 0)), ["throttled begins on replica-0"]),
    (("throttled@10:factor=2,for=50s", "throttled@30:factor=9,for=50s"), ((0.0, 1),), ["replica-0 is well again"]),
]


@pytest.mark.parametrize(("faults", "rows", "words"), ODD)
def test_faults_that_meet(faults: tuple[str, ...], rows: tuple[tuple[float, int], ...], words: list[str]) -> None:
    played, _ = scripted(trace(Arrival(1.0, 1, 100), seconds=200.0), *rows, faults=faults)
    told = [text for _, text in played.events]
    assert [text for text in told if text in words] == words
    assert told.count("replica-0 is well again") == (1 if "replica-0 is well again" in words else 0)


def test_a_wedged_pod_that_goes_is_gone_when_its_requests_are_taken_from_it() -> None:
    played, _ = scripted(LOAD, (0.0, 2), (65.0, 1), faults=("wedged@60:replica=0", "wedged@60:replica=1"))
    assert played.ticks[-1].going == 0
    assert [tick.at for tick in played.ticks if tick.going][-1] <= 100.0


# The same again.

_DIGEST = """
from scaler.simulate.faults import parse
from scaler.simulate.generators import generate
from scaler.simulate.model import Scenario
from scaler.simulate.profiles import profile
from tests.simulate.played import digest, product
faults = tuple(map(parse, ("throttled@200:factor=3,for=100s", "lost@300", "blind@350:for=60s")))
load = generate("flash_crowd", {"base": 5, "factor": 6, "at": 150, "seconds": 500}, 3)
for router in ("two_choices", "least_loaded"):
    played = Scenario(load, profile("8b-l40s"), 2, 1, 9, cold_start=40.0, router=router, faults=faults, seed=4)
    print(digest(product(played)[0]))
"""


def test_the_same_bytes_whatever_the_hash_seed() -> None:
    told = [
        subprocess.run(
            [sys.executable, "-c", _DIGEST],
            env={**os.environ, "PYTHONHASHSEED": seed},
            capture_output=True,
            text=True,
            check=True,
            timeout=50,
        ).stdout
        for seed in ("0", "1")
    ]
    assert told[0] == told[1]
    assert len(set(told[0].split())) == 2


def test_the_seed_is_in_what_is_drawn() -> None:
    load = generate("steady", {"rate": 6, "seconds": 120}, 1)
    of = Scenario(load, profile("8b-l40s"), start=3, minimum=3, maximum=3, router="random")
    assert digest(static(of)) == digest(static(of))
    assert digest(static(of)) != digest(static(of._replace(seed=1)))


def test_progress_is_told_up_to_the_end() -> None:
    told: list[float] = []
    run(scenario(trace(seconds=60.0)), Script((0.0, 1)), "script", progress=told.append)
    assert told == sorted(told)
    assert told[-1] == 1.0
    assert run(scenario(trace(seconds=0.0)), Script((0.0, 1)), "script").requests == []


def test_answers_are_held_within_the_scenarios_bounds() -> None:
    of = scenario(trace(seconds=60.0), start=2, maximum=3)._replace(minimum=1)
    played = run(of, Script((0.0, 50), (30.0, 0)), "script")
    assert [(change.before, change.after) for change in played.changes] == [(2, 3), (3, 1)]
    assert product(of)[0].changes == []
