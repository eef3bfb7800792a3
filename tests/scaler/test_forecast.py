"""scaler.core.forecast: the past as slots, the future that is made of it, and the replicas that it asks for."""

import math
import random
from collections.abc import Sequence
from itertools import accumulate

import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from msgspec import structs

from scaler.core import policy
from scaler.core.forecast import SLOT, History, Plan, Shape, late, level, plan, remember, replicas_for

WORTH, AGAIN, TARGET, LEAD = policy.value("worth"), policy.value("again"), 1.4, 75.0
MOST = int(policy.value("history") / SLOT)
OVER, LEAST = round(policy.value("level_over") / SLOT), round(policy.value("level_least") / SLOT)
#: A chat: a tenth of the work is prompts; a full batch holds 4.5 s of work, and half of its step is there anyhow.
CHAT, PLAIN = Shape(0.1, 4.5, 0.5), Shape()


def grown(work: float, lead: float = LEAD) -> float:
    return work * (1 + policy.value("growth") * lead / 60)


def mean(slots: Sequence[float]) -> float:
    return sum(slots[-OVER:]) / len(slots[-OVER:]) if slots else 0.0


# A row of slots.

#: Slots so far, seconds since the newest ended -> slots then, seconds that are left for the next look.
REMEMBERED: list[tuple[str, tuple[float, ...], float, tuple[float, ...], float]] = [
    ("before a slot is over", (1.0,), 4.9, (1.0,), 4.9),
    ("one is over", (1.0,), 5.0, (1.0, 9.0), 0.0),
    ("a rest stays for the next", (1.0,), 7.0, (1.0, 9.0), 2.0),
    ("what nobody looked at was like now", (1.0,), 17.0, (1.0, 9.0, 9.0, 9.0), 2.0),
    ("the oldest go", tuple(map(float, range(MOST))), 10.0, (*map(float, range(2, MOST)), 9.0, 9.0), 0.0),
    ("after a long sleep all are like now", (1.0,), 1e6 + 1, (9.0,) * MOST, 1.0),
]


@pytest.mark.parametrize(
    ("slots", "seconds", "then", "rest"), [row[1:] for row in REMEMBERED], ids=[row[0] for row in REMEMBERED]
)
def test_remember(slots: tuple[float, ...], seconds: float, then: tuple[float, ...], rest: float) -> None:
    after = remember(History(100.0, slots), 9.0, 100.0 + seconds)
    assert after.slots == then
    assert after.until == pytest.approx(100.0 + seconds - rest)


def test_the_first_look_begins_the_first_slot() -> None:
    assert remember(History(), 9.0, 100.0) == History(100.0, ())


@given(st.lists(st.floats(0.1, 30), max_size=60))
def test_as_many_slots_as_time_has_passed_however_it_is_looked_at(gaps: list[float]) -> None:
    history, now = remember(History(), 1.0, 0.0), 0.0
    for gap in gaps:
        now += gap
        history = remember(history, 1.0, now)
    assert len(history.slots) == min(MOST, int(now / SLOT + 1e-6))


# The level.

#: A rise by 8 in a quarter of its window: the level rises by 2.
RISEN = [1.0] * 200 + [9.0] * 15

#: Slots -> the level a cold start of 75 s ahead.
LEVELS: list[tuple[str, Sequence[float], float]] = [
    ("nothing known", [], 0.0),
    ("one slot", [3.0], grown(3)),
    ("fewer than its window", [3.0] * 10 + [1.0] * 10, grown(2)),
    ("its window", [9.0] * 100 + [3.0] * (OVER // 2) + [1.0] * (OVER // 2), grown(2)),
    ("what is older counts for nothing", [9.0] * 100 + [1.0] * OVER, grown(1)),
    ("a rise goes on: by as much as within the last 75 s", [1.0] * MOST + [9.0] * 15, 3 + 2),
    ("... which began before them", [i / 60 for i in range(MOST)], 329.5 / 60 + 15 / 60),
    (
        "... in a short past by as much as over a third of it, for as much longer as a start takes",
        [1.0] * (LEAST - 1) + [9.0] * 15,
        158 / 38 + (158 / 38 - 50 / 26) * 15 / 12,
    ),
    ("... of which two minutes tell nothing", [1.0] * 20 + [9.0] * 14, grown(146 / 34)),
    ("a wave that rose before keeps half of its rise", [*RISEN, *[1.0] * 145], 1 + 2 * AGAIN),
    ("... while it does not rise by more now", [*RISEN, *[1.0] * 130, *[3.0] * 15], 1.5 + 2 * AGAIN),
    ("... after which that goes on", [*RISEN, *[1.0] * 130, *[7.0] * 15], 2.5 + 1.5),
    ("... unless that is less than any load may grow by", [*[1.0] * 200, *[1.03] * 15, *[1.0] * 145], grown(1)),
]


@pytest.mark.parametrize(("slots", "expected"), [row[1:] for row in LEVELS], ids=[row[0] for row in LEVELS])
def test_the_level_is_the_mean_over_its_window_and_what_it_may_grow_by(slots: Sequence[float], expected: float) -> None:
    history = History(0.0, tuple(slots))
    assert level(history, plan(history, LEAD, TARGET, PLAIN), LEAD) == pytest.approx(expected)


def test_a_rise_goes_on_for_twice_as_long_as_it_was_seen_at_most() -> None:
    """48 slots: it was seen over 16 of them, and a start of 300 s takes 60."""
    history = History(0.0, (*[1.0] * 32, *[3.0] * 16))
    assert level(history, plan(history, 300.0, TARGET, PLAIN), 300.0) == pytest.approx(80 / 48 + 2 * (80 / 48 - 1))


@pytest.mark.parametrize("lead", [0.0, 60.0, 75.0, 600.0, 86_400.0])
def test_it_may_grow_over_the_lead(lead: float) -> None:
    history = History(0.0, (2.0,) * MOST)
    assert level(history, plan(history, lead, TARGET, PLAIN), lead) == pytest.approx(grown(2, lead))


LOADS = st.lists(st.one_of(st.just(0.0), st.floats(0, 10)), min_size=1, max_size=60)


@given(LOADS, st.integers(0, 59), st.floats(0, 30), st.floats(0, 30))
def test_the_level_never_falls_with_what_came_last(slots: list[float], filled: int, more: float, rise: float) -> None:
    """`more` came in the last slots: as many as one look fills. The plan is made before it, whatever it says."""
    begin = max(0, len(slots) - 1 - filled)
    heavier = (*slots[:begin], *(work + more for work in slots[begin:]))
    of = Plan(rise=rise)
    assert level(History(0.0, heavier), of, LEAD) >= level(History(0.0, tuple(slots)), of, LEAD) - 1e-9


#: Slots -> the most that the level rose over 75 s.
RISES: list[tuple[str, Sequence[float], float]] = [
    ("nothing known", [], 0.0),
    ("a wave", [*RISEN, *[1.0] * 145], 2.0),
    ("the highest of two", [*RISEN, *[1.0] * 60, *[5.0] * 15, *[1.0] * 70], 2.0),
    ("a load that only falls", [9.0] * LEAST + [1.0] * OVER, 0.0),
    ("a past that is too short", [1.0] * LEAST + [9.0] * 14, 0.0),
    ("... by a slot", [1.0] * LEAST + [9.0] * 15, (15 * 9 + LEAST) / (LEAST + 15) - 1),
]


@pytest.mark.parametrize(("slots", "rise"), [row[1:] for row in RISES], ids=[row[0] for row in RISES])
def test_the_most_that_the_level_rose_over_a_lead(slots: Sequence[float], rise: float) -> None:
    assert plan(History(0.0, tuple(slots)), LEAD, TARGET, PLAIN).rise == pytest.approx(rise)


@given(st.lists(st.floats(0, 100), max_size=120), st.floats(0, 900))
def test_a_rise_is_between_two_levels_a_lead_apart(slots: list[float], lead: float) -> None:
    found = plan(History(0.0, tuple(slots)), lead, TARGET, PLAIN)
    apart = max(1, round(lead / SLOT))
    rises = [mean(slots[: at + apart]) - mean(slots[:at]) for at in range(LEAST, len(slots) - apart + 1)]
    assert found.rise == pytest.approx(max([0.0, *rises]), abs=1e-9)


# The errors.


@given(st.lists(st.floats(0, 100), max_size=120))
def test_errors_are_what_each_slot_was_off_the_mean_before_it(slots: list[float]) -> None:
    found = plan(History(0.0, tuple(slots)), LEAD, TARGET, CHAT)
    before = [slots[max(0, at - OVER) : at] for at in range(LEAST, len(slots))]
    naive = [slot - math.fsum(each) / len(each) for slot, each in zip(slots[LEAST:], before, strict=True)]
    if not slots:
        assert found == Plan()
        return
    # What too short a past does not tell is taken to be steady.
    steady = max(0, OVER - len(naive))
    assert found.errors == pytest.approx([0.0] * steady + naive, abs=1e-9)
    assert found.weights == pytest.approx([mean(slots)] * steady + slots[LEAST:])
    assert found.shape == CHAT


def test_nothing_known_asks_for_nothing() -> None:
    assert plan(History(), LEAD, TARGET, CHAT) == Plan()
    assert replicas_for(Plan(), 0.0, TARGET) == 0
    assert replicas_for(Plan(), 5.0, TARGET) == 0  # without a future nothing is told of it


# Replicas that a past asks for.

CHANCE = random.Random(7)  # noqa: S311 -- a fixed load
NOISE = [max(0.0, CHANCE.gauss(4, 1)) for _ in range(MOST)]

#: A past -> replicas that it asks for, a cold start ahead, of a plain queue and of a chat.
ASKED: list[tuple[str, Sequence[float], int, int]] = [
    ("nothing came", [0.0] * MOST, 0, 0),
    ("what fills two replicas takes a third: it may grow", [2.0] * MOST, 3, 3),
    ("a little less does not", [1.9] * MOST, 2, 2),
    ("as many hundreds: likewise", [100.0] * MOST, math.ceil(grown(100)), math.ceil(grown(100))),
    ("too short a past to tell errors: as if it were steady", [2.0] * 20, 3, 3),
    ("... or told it a single one", [2.0] * (LEAST + 1), 3, 3),
    (
        "a burst each five minutes is prepared for, and a chat's batches take a part of it",
        [10.0 if i % 60 >= 54 else 1.0 for i in range(MOST)],
        11,
        10,
    ),
    ("one burst of 15 s in half an hour buys no fleet", [20.0 if 200 <= i < 203 else 1.0 for i in range(MOST)], 2, 2),
    (
        "bursts of a slot, five times of what goes on: batches take half",
        [5.0 if i % 12 == 0 else 1.0 for i in range(MOST)],
        4,
        3,
    ),
    ("what was is over", [5.0] * 50 + [0.0] * OVER, 0, 0),
]


@pytest.mark.parametrize(("slots", "plain", "chat"), [row[1:] for row in ASKED], ids=[row[0] for row in ASKED])
def test_replicas_that_a_past_asks_for(slots: Sequence[float], plain: int, chat: int) -> None:
    history = History(0.0, tuple(slots))
    plans = [plan(history, LEAD, TARGET, shape) for shape in (PLAIN, CHAT)]
    assert [replicas_for(of, level(history, of, LEAD), TARGET) for of in plans] == [plain, chat]


# Lateness.

SHAPES = st.builds(
    Shape,
    prompts=st.one_of(st.sampled_from([0.0, 1.0]), st.floats(0, 1)),
    batch=st.one_of(st.sampled_from([0.0, 1e9]), st.floats(0, 60)),
    step=st.one_of(st.sampled_from([0.0, 0.9995, 1.0]), st.floats(0, 1)),
)


def queue_after(path: Sequence[float], rate: float) -> list[float]:
    """A fluid queue, by what came since the moment at which it has been empty last (Lindley's equation, unrolled)."""
    sums = (0.0, *accumulate(path))
    return [
        max(0.0, *((sums[i + 1] - sums[j] - (i + 1 - j) * rate) * SLOT for j in range(i + 1))) for i in range(len(path))
    ]


@given(LOADS, st.integers(0, 12), st.floats(0.1, 60), st.floats(0, 1), st.floats(0, 60))
def test_prompts_alone_are_a_plain_queue(
    path: list[float], replicas: int, target: float, step: float, batch: float
) -> None:
    """Late is the work of slots that end with a queue of more than the target, whatever a batch would hold."""
    queues = queue_after(path, replicas)
    if any(abs(queue - replicas * target) < 1e-6 for queue in queues):
        return  # a rounding error decides
    expected = sum(work for work, queue in zip(path, queues, strict=True) if queue > replicas * target) / len(path)
    assert late(path, path, replicas, target, Shape(1.0, batch, step)) == pytest.approx(expected)


#: Work slot by slot, a shape -> the slots that are late before one replica, which may keep 1.4 s of work waiting.
TOLD: list[tuple[str, list[float], Shape, list[int]]] = [
    ("what fits a slot is in time", [1.0] * 4, PLAIN, []),
    ("a plain queue of 1.5 s is late, until it is worked off", [1.3, 0.9, 0.9, 0.9], PLAIN, [0]),
    ("a batch takes the same burst", [1.3, 0.9, 0.9, 0.9], Shape(0.0, 4.5, 0.5), []),
    ("... and a larger one, as far as it holds: 4.5 + 1.4 s", [2.17], Shape(0.0, 4.5, 0.0), []),
    ("... and no more", [2.19], Shape(0.0, 4.5, 0.0), [0]),
    ("a batch that holds nothing is a plain queue", [1.3, 0.9, 0.9], Shape(0.0, 0.0, 0.5), [0]),
    ("... what waits for it waits until there is room", [3.0, 0.0, 0.0], Shape(0.0, 4.5, 0.0), [0]),
    ("prompts go first: in their slot nothing is generated", [1.0, 1.0, 1.6], Shape(0.9, 3.0, 0.0), [2]),
    ("while prompts take all the time the batch stays as it is", [0.9, 0.0], Shape(0.5, 1e9, 0.0), []),
    ("a batch that is nearly empty goes slowly where its step is fixed", [0.0, *[1.0] * 40], Shape(0.0, 1.0, 1.0), []),
    ("no work is never late", [0.0] * 5, CHAT, []),
]


@pytest.mark.parametrize(("path", "shape", "expected"), [row[1:] for row in TOLD], ids=[row[0] for row in TOLD])
def test_which_slots_are_late(path: list[float], shape: Shape, expected: list[int]) -> None:
    alone = [[1.0 if i == at else 0.0 for i in range(len(path))] for at in range(len(path))]
    assert [at for at, weight in enumerate(alone) if late(path, weight, 1, TARGET, shape)] == expected


@given(LOADS, SHAPES)
def test_before_nobody_all_work_is_late(path: list[float], shape: Shape) -> None:
    begun = next((at for at, work in enumerate(path) if work > 1e-300), len(path))
    assert late(path, path, 0, TARGET, shape) == pytest.approx(sum(path[begun:]) / len(path))


@given(LOADS, st.integers(0, 12), SHAPES, st.floats(0, 60))
def test_what_never_is_more_than_the_replicas_do_is_in_time(
    path: list[float], spare: int, shape: Shape, target: float
) -> None:
    assert late(path, path, math.ceil(max(path) + 1e-9) + spare, target, shape) == 0


@given(
    st.lists(st.tuples(*[st.one_of(st.just(0.0), st.floats(0, 10), st.floats(0, 1e5))] * 2), min_size=1, max_size=60),
    st.integers(1, 12),
    SHAPES,
    st.floats(0, 60),
)
@example([(1.1998, 0.0002)], 1, Shape(0.0, 1.0, 1.0), 0.0003)  # just as a batch is full
def test_more_work_is_never_less_late_and_more_replicas_never_more(
    steps: list[tuple[float, float]], replicas: int, shape: Shape, target: float
) -> None:
    path, heavier = [work for work, _ in steps], [work + more for work, more in steps]
    # A hair of patience, so that no rounding error decides.
    stricter, laxer = target * (1 - 1e-9) - 1e-9, target * (1 + 1e-9) + 1e-9
    assert late(heavier, path, replicas, max(0.0, stricter), shape) >= late(path, path, replicas, laxer, shape)
    assert late(path, path, replicas + 1, laxer, shape) <= late(path, path, replicas, max(0.0, stricter), shape)


@given(LOADS, st.integers(0, 12), SHAPES, st.floats(0, 12))
def test_a_limit_changes_nothing_below_it_and_nothing_above_but_how_much(
    path: list[float], replicas: int, shape: Shape, limit: float
) -> None:
    whole, found = (late(path, path, replicas, TARGET, shape, most) for most in (math.inf, limit))
    if whole * len(path) <= limit * len(path):
        assert found == whole
    else:
        assert limit <= found <= whole
        assert found <= limit + max(path) / len(path) + 1e-9  # it stops there


# What is tolerated, and the replicas for it.


@given(LOADS, st.floats(0, 30), SHAPES)
def test_replicas_for_is_the_fewest_that_are_in_time(slots: list[float], expected: float, shape: Shape) -> None:
    found = plan(History(0.0, tuple(slots)), LEAD, TARGET, shape)
    path = [max(0.0, expected + error) for error in found.errors]
    replicas = replicas_for(found, expected, TARGET)
    if replicas > 0:
        assert late(path, found.weights, replicas, TARGET, shape) <= found.tolerated + 1e-9
    if replicas > 1:
        assert late(path, found.weights, replicas - 1, TARGET, shape) > found.tolerated + 1e-9
    assert (replicas == 0) == (not any(path))


@given(LOADS, st.floats(0, 30), st.one_of(st.floats(0, 1), st.floats(0, 30)), SHAPES)
def test_replicas_for_never_falls_with_what_is_expected(
    slots: list[float], expected: float, more: float, shape: Shape
) -> None:
    found = plan(History(0.0, tuple(slots)), LEAD, TARGET, shape)
    assert replicas_for(found, expected + more, TARGET) >= replicas_for(found, expected, TARGET)


@given(
    st.one_of(
        st.lists(st.floats(0, 10), min_size=LEAST + 1, max_size=80),
        st.lists(st.floats(0, 300), min_size=LEAST + 1, max_size=80),
        st.lists(st.sampled_from([0.0, 1.0, 100.0]), min_size=LEAST + 1, max_size=80),
    ),
    st.floats(0.1, 10),
    SHAPES,
)
@example([16.0] * 30, 0.25, PLAIN)
@example([5.0] * 50 + [0.0] * OVER, 1.4, PLAIN)  # what was is over: nothing is tolerated for its sake
def test_what_is_tolerated_is_what_is_late_when_no_further_replica_is_worth_it(
    slots: list[float], target: float, shape: Shape
) -> None:
    history = History(0.0, tuple(slots))
    found = plan(history, LEAD, target, shape)
    path = [max(0.0, mean(slots) + error) for error in found.errors]
    delays = [late(path, found.weights, n, target, shape) for n in range(math.ceil(max(path)) + 1)]
    prices = [delay + WORTH * n for n, delay in enumerate(delays)]
    chosen = min(price for price, delay in zip(prices, delays, strict=True) if delay == found.tolerated)
    assert chosen == pytest.approx(min(prices))


@given(LOADS, LOADS, SHAPES, SHAPES)
def test_the_plan_of_before_changes_nothing(
    slots: list[float], others: list[float], shape: Shape, another: Shape
) -> None:
    history = History(0.0, tuple(slots) * 3)
    before = plan(History(0.0, tuple(others) * 3), LEAD, TARGET, another)
    found, alone = plan(history, LEAD, TARGET, shape, before), plan(history, LEAD, TARGET, shape)
    spare = {"spare": 0.0}
    assert structs.replace(found, tolerated=0.0, **spare) == structs.replace(alone, tolerated=0.0, **spare)
    # Of several that cost the same either may be found.
    assert found.tolerated + WORTH * (mean(history.slots) + found.spare) == pytest.approx(
        alone.tolerated + WORTH * (mean(history.slots) + alone.spare)
    )


#: Pasts and futures beyond all measure.
WILD: list[tuple[str, Sequence[float], float]] = [
    ("no work", [0.0] * MOST, 0.0),
    ("next to no work", [5e-324] * MOST, 5e-324),
    ("all that is let in, once", [1.0] * 200 + [1e5] + [1.0] * 159, 1e5),
    ("all that is let in", [1e5] * MOST, 1e5),
    ("heavy tails", [min(1e5, CHANCE.paretovariate(0.3)) for _ in range(MOST)], 1e3),
    ("a quiet past, and all that is let in, a day ahead", NOISE, 1e5 * (1 + policy.value("growth") * 1440)),
]
SOME = (PLAIN, CHAT, Shape(0.0, 4.5, 1.0), Shape(0.0, 4.5, 0.0), Shape(0.5, 0.0, 0.5), Shape(0.1, 1e12, 0.5))


@pytest.mark.parametrize("shape", SOME, ids=str)
@pytest.mark.parametrize(("slots", "expected"), [row[1:] for row in WILD], ids=[row[0] for row in WILD])
def test_the_search_is_short_however_much_comes(
    slots: Sequence[float], expected: float, shape: Shape, monkeypatch: pytest.MonkeyPatch
) -> None:
    tries = 0

    def counted(*arguments: object) -> float:
        nonlocal tries
        tries += 1
        return late(*arguments)  # type: ignore[arg-type]  # passed on as they are

    monkeypatch.setattr("scaler.core.forecast.late", counted)
    found = plan(History(0.0, tuple(slots)), LEAD, TARGET, shape)
    assert math.isfinite(found.tolerated)
    planned, tries = tries, 0
    assert 0 <= replicas_for(found, expected, TARGET) <= 2 * expected + 2 * max(slots) + 1
    assert planned <= 400
    assert tries <= 60
