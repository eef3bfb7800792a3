"""scaler.core.work: what came, by what was finished and what is held, and what it costs."""

import math
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec import structs

from scaler.core import policy
from scaler.core.forecast import Shape
from scaler.core.work import LEAST, Cost, Flow, Look, Mix, came, cost, look, request_seconds, shape
from tests.scaler.fleets import COST, MIX, PACED, counting, replica

HALF = {"waiting": 10.0, "running": 5.0, "requests_finished_total": 100.0, "prompt_tokens_total": 10_000.0}

#: What is seen 5 s after HALF was -> requests and prompt tokens that came per second. The mean prompt is 100 tokens.
ARRIVALS: list[tuple[str, dict[str, Any], float, float]] = [
    ("nothing happens", {}, 0, 0),
    ("what was finished had come", {"requests_finished_total": 110.0, "prompt_tokens_total": 11_000.0}, 2, 200),
    ("what waits more has come", {"waiting": 20.0}, 2, 200),
    ("what runs more has come", {"running": 15.0, "prompt_tokens_total": 11_000.0}, 2, 200),
    ("a queue that is worked off came before",
     {"waiting": 0.0, "requests_finished_total": 110.0, "prompt_tokens_total": 11_000.0}, 0, 0),
    ("more finished than the queue lost",
     {"waiting": 5.0, "requests_finished_total": 110.0, "prompt_tokens_total": 11_000.0}, 1, 100),
    ("what gave up is no negative arrival", {"waiting": 0.0, "running": 0.0}, 0, 0),
    ("a counter that fell began again from 0",
     {"requests_finished_total": 25.0, "prompt_tokens_total": 2_500.0}, 5, 500),
    ("... and lost what it held", {"requests_finished_total": 25.0, "prompt_tokens_total": 2_500.0, "waiting": 0.0,
     "running": 0.0}, 2, 300),
]  # fmt: skip


@pytest.mark.parametrize(("after", "requests", "prompts"), [r[1:] for r in ARRIVALS], ids=[r[0] for r in ARRIVALS])
def test_arrivals(after: dict[str, Any], requests: float, prompts: float) -> None:
    first = look(Flow(mix=MIX), [counting(**HALF)], 100.0)
    (seen,) = look(first, [counting(**(HALF | after))], 105.0).of.values()
    assert (seen.requests, seen.prompts) == (pytest.approx(requests), pytest.approx(prompts))
    assert seen.at == 104.5  # of the reading, not of the look


def test_the_first_look_knows_nothing_of_what_came() -> None:
    flow = look(Flow(), [counting(**HALF)], 100.0)
    assert came(flow, COST) == 0
    assert flow.mix == Mix()


def test_rates_are_of_the_time_between_readings_and_the_same_reading_twice_changes_nothing() -> None:
    first = look(Flow(), [counting(**HALF)], 100.0)
    more = HALF | {"requests_finished_total": 110.0}
    second = look(first, [counting(**more, reading_age=2.5)], 104.5)
    (seen,) = second.of.values()
    assert seen.requests == pytest.approx(10 / 2.5)
    again = look(second, [counting(**more, reading_age=7.5)], 109.5)
    assert again.of == second.of


def test_a_long_time_between_two_looks_is_no_quiet_one() -> None:
    first = look(Flow(), [counting(**HALF)], 100.0)
    after = look(first, [counting(**(HALF | {"requests_finished_total": 700.0}))], 400.0)
    assert sum(one.requests for one in after.of.values()) == pytest.approx(2)


def test_who_goes_is_forgotten_and_who_comes_counts_from_its_second_look() -> None:
    old, new = counting("old", **HALF), counting("new", **HALF)
    flow = look(Flow(), [old], 100.0)
    flow = look(flow, [new], 105.0)
    assert [one.requests for one in flow.of.values()] == [0]
    busy = structs.replace(new, requests_finished_total=110.0)
    flow = look(flow, [busy, old], 110.0)
    assert [one.requests for one in flow.of.values()] == [2, 0]


@pytest.mark.parametrize(
    "name",
    ["reading_age", "waiting", "running", "prompt_tokens_total", "generation_tokens_total", "requests_finished_total"],
)
def test_what_misses_a_number_is_not_counted_in_part(name: str) -> None:
    assert look(Flow(), [counting(**(HALF | {name: None}))], 100.0).of == {}


@pytest.mark.parametrize("name", ["prompt_tokens_total", "generation_tokens_total", "requests_finished_total"])
def test_to_one_that_counts_no_more_comes_what_came_last_and_it_is_made_up_for(name: str) -> None:
    flow = look(Flow(mix=MIX), [counting(**HALF)], 100.0)
    busy = HALF | {"requests_finished_total": 110.0, "prompt_tokens_total": 11_000.0}
    flow = look(flow, [counting(**busy)], 105.0)
    silent = look(flow, [counting(**(busy | {name: None}))], 110.0)
    assert silent.of == flow.of
    later = look(silent, [counting(**(busy | {"requests_finished_total": 140.0}))], 115.0)
    (seen,) = later.of.values()
    assert seen.requests == pytest.approx(3)  # over the ten seconds
    assert look(flow, [], 110.0).of == {}  # one that is gone


def test_a_mix_outlives_a_quiet_weekend() -> None:
    flow = look(Flow(0.0, {}, Mix(500.0, 50_000.0, 25_000.0)), [], 3e5)
    for hours in range(60):
        flow = look(flow, [], 3e5 + hours * 3600.0)
    assert flow.mix.requests == pytest.approx(LEAST)
    assert flow.mix.mean_prompt == pytest.approx(100)
    assert flow.mix.mean_output == pytest.approx(50)
    # ... and counts for nothing against the first that is finished then.
    flow = look(flow, [counting()], 6e5)
    done = {"requests_finished_total": 1.0, "prompt_tokens_total": 7.0, "generation_tokens_total": 9.0}
    flow = look(flow, [counting(**done)], 6e5 + 5)
    assert flow.mix.mean_prompt == pytest.approx(7, rel=0.02)


def test_less_than_a_request_tells_no_mean() -> None:
    assert (Mix(1e-300, 1e20, 1e20).mean_prompt, Mix(1e-300, 1e20, 1e20).mean_output) == (None, None)


def test_the_mix_is_of_what_was_finished_and_fades() -> None:
    flow = look(Flow(), [counting()], 100.0)
    done = {"requests_finished_total": 10.0, "prompt_tokens_total": 1000.0, "generation_tokens_total": 500.0}
    flow = look(flow, [counting(**done)], 105.0)
    assert (flow.mix.mean_prompt, flow.mix.mean_output) == (100, 50)
    later = {"requests_finished_total": 20.0, "prompt_tokens_total": 5000.0, "generation_tokens_total": 4500.0}
    flow = look(flow, [counting(**later)], 105.0 + policy.value("mix_memory"))
    faded = 1 / math.e
    assert flow.mix.requests == pytest.approx(10 + 10 * faded)
    assert flow.mix.mean_prompt == pytest.approx((4000 + 1000 * faded) / (10 + 10 * faded))


FAST, SLOW = {"step_seconds": 0.02}, {"step_seconds": 0.4}
FULL = policy.value("kv_full")

#: Replicas -> what a request of 100 prompt and 100 output tokens costs. COST: 0.1 s its prompt, 0.9 s its output.
COSTS: list[tuple[str, list[dict[str, Any]], Cost]] = [
    ("a pace and a limit", [PACED], COST),
    ("a KV cache that holds fewer: 150 tokens each", [PACED | {"kv_capacity_tokens": 600 / FULL}],
     Cost(0.001, 0.015, 0, 4, 0.04)),
    ("a KV cache that holds more than the engine runs", [PACED | {"kv_capacity_tokens": 1e6}], COST),
    ("a KV cache that holds not one", [PACED | {"kv_capacity_tokens": 10.0}], Cost(0.001, 0.045, 0, 1, 0.04)),
    ("no limit told: vLLM's default", [PACED | {"max_running": None}], Cost(0.001, 0.005 + 0.04 / 256, 0, 256, 0.04)),
    ("half of the prompts in the prefix cache", [PACED | {"prefix_hit_ratio": 0.5}], Cost(0.0005, 0.009, 0, 10, 0.04)),
    ("two engines do twice as much with twice the batch", [PACED | {"engines": 2, "max_running": 20.0}],
     Cost(0.0005, 0.0045, 0, 20, 0.04)),
    ("... each at most its default", [PACED | {"engines": 2, "max_running": None}],
     Cost(0.0005, 0.0025 + 0.04 / 512, 0, 512, 0.04)),
    ("a typical one: the median", [PACED, PACED | FAST, PACED | SLOW], COST),
    ("a throttled one shows another pace", [PACED, *[PACED | SLOW | {"capacity": 0.5}] * 2], COST),
    ("an unknown capacity is taken for whole", [PACED | {"capacity": None}], COST),
    ("what is borrowed has no vote", [PACED, *[PACED | SLOW | {"pace_seconds": 0.0}] * 2], COST),
    ("what is borrowed is better than nothing", [PACED | {"pace_seconds": 0.0}], COST),
    ("a part of a pace is none: what a full one served", [PACED | {"step_seconds": None}], Cost(0, 0, 0.5, 10)),
    ("all are throttled: likewise", [PACED | {"capacity": 0.5}], Cost(0, 0, 0.5, 256)),
]  # fmt: skip


@pytest.mark.parametrize(("each", "expected"), [row[1:] for row in COSTS], ids=[row[0] for row in COSTS])
def test_cost(each: list[dict[str, Any]], expected: Cost) -> None:
    found = cost([replica(f"llama-{i}", **fields) for i, fields in enumerate(each)], MIX, 2.0)
    assert found is not None
    assert structs.astuple(found)[:5] == pytest.approx(structs.astuple(expected)[:5])


#: What was told of a batch before, and now -> how many run in one.
BATCHES: list[tuple[str, dict[str, Any], dict[str, Any], float]] = [
    ("a limit that is told no more stays known", {}, {"max_running": None}, 10),
    ("... until another one is told", {}, {"max_running": 64.0}, 64),
    ("a KV cache that is told no more stays known", {"kv_capacity_tokens": 600 / FULL}, {}, 4),
    ("... until another one is told", {"kv_capacity_tokens": 600 / FULL}, {"kv_capacity_tokens": 1200 / FULL}, 8),
    ("neither was ever told", {"max_running": None}, {"max_running": None}, 256),
]


@pytest.mark.parametrize(("before", "now", "batch"), [r[1:] for r in BATCHES], ids=[r[0] for r in BATCHES])
def test_a_batch_stays_known(before: dict[str, Any], now: dict[str, Any], batch: float) -> None:
    told = cost([replica(**(PACED | before))], MIX, None)
    found = cost([replica(**(PACED | now))], MIX, None, told)
    assert found is not None
    assert found.batch == pytest.approx(batch)
    # By what a full one served as well, where the pace is gone too.
    served = cost([replica(**(PACED | now | {"step_seconds": None}))], MIX, 2.0, told)
    assert served is not None
    assert (served.limit, served.cache) == (found.limit, found.cache)


@pytest.mark.parametrize("mix", [Mix(5.0, 0.0, 0.0), Mix(5.0, 100.0, 0.0)], ids=["no token", "prompts only"])
def test_requests_that_generate_nothing_have_a_cost(mix: Mix) -> None:
    found = cost([replica(**PACED, kv_capacity_tokens=1e6)], mix, None)
    assert found is not None
    assert found.batch == 10
    assert shape(found, mix) == Shape()


#: A cost and a mix -> the share of prompts, the seconds of work in a full batch, the share of a step that is fixed.
SHAPES: list[tuple[str, Cost, Mix, Shape]] = [
    ("0.1 s of prompt, 0.9 s of output, of which ten have half before them; 0.04 s of a step of 0.09 s",
     COST, MIX, Shape(0.1, 4.5, 0.04 / 0.09)),
    ("twice the output", COST, Mix(1.0, 100.0, 200.0), Shape(0.1 / 1.9, 9.0, 0.04 / 0.09)),
    ("prompts of the prefix cache are free", Cost(0.0, 0.009, 0.0, 10.0, 0.04), MIX, Shape(0.0, 4.5, 0.04 / 0.09)),
    ("a step that is the sequences' alone", Cost(0.001, 0.009, 0.0, 10.0, 0.0), MIX, Shape(0.1, 4.5, 0.0)),
    ("a step that sequences add nothing to", Cost(0.001, 0.004, 0.0, 10.0, 0.04), MIX, Shape(0.2, 2.0, 1.0)),
    ("no pace: a plain queue", Cost(0.0, 0.0, 0.5, 10.0), MIX, Shape()),
    ("a mean output of 0: a plain queue", COST, Mix(1.0, 100.0, 0.0), Shape()),
    ("nothing was finished: a plain queue", COST, Mix(), Shape()),
]  # fmt: skip


@pytest.mark.parametrize(("of", "mix", "expected"), [row[1:] for row in SHAPES], ids=[row[0] for row in SHAPES])
def test_shape(of: Cost, mix: Mix, expected: Shape) -> None:
    assert structs.astuple(shape(of, mix)) == pytest.approx(structs.astuple(expected))


def test_two_engines_share_a_step_like_one() -> None:
    """The batch is the replica's, a step its engine's: half of the batch is in it."""
    one, two = PACED | {"max_running": 10.0}, PACED | {"max_running": 20.0, "engines": 2}
    shapes = [shape(found, MIX) for each in (one, two) if (found := cost([replica(**each)], MIX, None))]
    assert shapes[1].step == pytest.approx(shapes[0].step)
    assert shapes[1].prompts == pytest.approx(shapes[0].prompts)
    assert shapes[1].batch == pytest.approx(shapes[0].batch)  # twice as many, each in half of a replica's time


@pytest.mark.parametrize("mix", [Mix(), MIX])
def test_what_nobody_has_shown_is_not_known(mix: Mix) -> None:
    assert cost([replica()], mix, None) is None
    assert cost([replica()], mix, 0.0) is None
    assert cost([], mix, None) is None
    if mix == Mix():
        assert cost([replica(**PACED)], mix, None) is None  # no request was finished yet


def test_came_is_the_sum_at_its_cost() -> None:
    shown = Look(0.0, 0.0, 0.0, 0.0, 0.0, 0.0, requests=2.0, prompts=300.0)
    flow = Flow(0.0, {"a": shown, "b": shown}, MIX)
    assert came(flow, COST) == pytest.approx(600 * 0.001 + 4 * 100 * 0.009)
    assert came(flow, Cost(0.0, 0.0, 0.5, 10.0)) == pytest.approx(2)
    assert request_seconds(COST, MIX) == pytest.approx(1.0)


def test_without_a_cost_only_quiet_is_known() -> None:
    quiet, busy = Look(0.0, 0.0, 0.0, 0.0, 0.0, 0.0), Look(0.0, 0.0, 0.0, 0.0, 0.0, 0.0, requests=0.1)
    assert came(Flow(0.0, {"a": quiet}), None) == 0
    assert came(Flow(0.0, {"a": busy}), None) is None


COUNTS = st.floats(0, 1e9)


@given(st.fixed_dictionaries(dict.fromkeys((*HALF, "generation_tokens_total"), COUNTS)), COUNTS, COUNTS)
def test_more_that_is_held_never_means_that_less_came(after: dict[str, Any], waiting: float, running: float) -> None:
    first = look(Flow(mix=MIX), [counting(**HALF)], 100.0)
    light = look(first, [counting(**(HALF | after))], 105.0)
    more = {"waiting": after["waiting"] + waiting, "running": after["running"] + running}
    heavy = look(first, [counting(**(HALF | after | more))], 105.0)
    for lighter, heavier in zip(light.of.values(), heavy.of.values(), strict=True):
        assert heavier.requests >= lighter.requests >= 0
        assert heavier.prompts >= lighter.prompts >= 0
    assert heavy.mix == light.mix
