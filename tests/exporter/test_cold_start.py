"""core/cold_start.py and cold_history.py: what a start took, by what was seen of it, and never by a guess."""

import math
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from msgspec.structs import replace

from exporter.core.cold_history import MAX_STARTS, Begun, ModelStarts, News, learn, quantiles
from exporter.core.cold_start import GAP, LONGEST, MAX_MODELS, PHASES, SKEW, YOUNG, Cold, ColdMemory, step
from exporter.core.inputs import LIMITS, NodeInputs
from exporter.core.model import PodRef
from exporter.core.model_engines import ColdStart, EngineReading, EngineScrape, EngineTarget, Histogram, PodFacts

WALL = 1_700_000_000.0  # Unix seconds when the monotonic clock shows 0
POD = EngineTarget("http://10.0.0.1:8000/metrics", PodRef("ns", "llama-0", "vllm"))
BY_HAND = EngineTarget("http://h:8000/metrics")


def unix(**stamps: float) -> dict[str, float]:
    return {name: WALL + at for name, at in stamps.items()}


#: A pod of 0 s: its node came at 60 s, it was scheduled at 90 s, its image was there at 150 s and its container started
#: at 152 s. Below, its port opens at 200 s, and the first token is made at 230 s.
FACTS = PodFacts(
    "ns", "llama-0", "uid-1",
    **unix(node_created=60, created=0, scheduled=90),
    pulling=unix(vllm=100), pulled=unix(vllm=150), started=unix(vllm=152),
    restarts={"vllm": 0}, containers={"vllm": "c" * 64},
)  # fmt: skip


def facts(**changes: Any) -> PodFacts:
    return replace(FACTS, **changes)


class Look(NamedTuple):
    """What a step sees at a time: Kubernetes' word, and the attempt made then."""

    at: float
    reading: EngineReading | str | None  # a reading, the error of a failed attempt, None: no attempt
    facts: PodFacts | None = FACTS
    wall: float | None = 0.0  # what the wall clock is off by


def says(tokens: float | None = 0.0, running: float = 0.0, waiting: float = 0.0, **more: Any) -> EngineReading:
    fields: dict[str, Any] = {"generation_tokens_total": tokens, "running": running, "waiting": waiting, **more}
    return EngineReading("m", "0", **fields)


def ttft(*seconds: float) -> Histogram:
    return Histogram((math.inf,), (float(len(seconds)),), math.fsum(seconds))


IDLE, WORKS, DONE = says(), says(running=1.0), says(tokens=5.0, running=1.0)


def watch(
    looks: Sequence[Look], target: EngineTarget = POD, memory: ColdMemory | None = None
) -> tuple[Cold, ColdMemory]:
    memory, cold = memory or ColdMemory(), Cold({}, ())
    good: dict[str, EngineScrape] = {}
    last: dict[str, EngineScrape] = {}
    for look in looks:
        if isinstance(look.reading, EngineReading):
            good[target.url] = last[target.url] = EngineScrape(target, look.at, 0.01, "vllm", (look.reading,))
        elif look.reading:
            last[target.url] = EngineScrape(target, look.at, 0.01, error=look.reading, message="m")
        inputs = NodeInputs(
            "node",
            targets=(target,),
            scrapes=dict(last),
            last_good=dict(good),
            pods={("ns", "llama-0"): look.facts} if look.facts else {},
            wall=None if look.wall is None else WALL + look.at + look.wall,
        )
        cold, memory = step(memory, inputs, {}, look.at)
    return cold, memory


def phases(looks: Sequence[Look], target: EngineTarget = POD) -> Mapping[str, float]:
    return watch(looks, target)[0].of[target.url]


def load_of(given: PodFacts, at: float = 200.0, wall: float = 0.0) -> list[Look]:
    return [Look(at - 1, "refused", given), Look(at, IDLE, given, wall)]


NODE_AND_IMAGE = {"node_provisioning": 90.0, "image_pull": 50.0}
UP = {**NODE_AND_IMAGE, "model_load": 48.0}
UNTIL_UP = [Look(160, "refused"), Look(199, "refused"), Look(200, IDLE)]
WARMED = [*UNTIL_UP, Look(210, WORKS), Look(229, WORKS), Look(230, DONE)]
AGAIN = facts(restarts={"vllm": 1}, started=unix(vllm=300), pulling=unix(vllm=298), pulled=unix(vllm=299))
SECOND = facts(
    uid="uid-2", **unix(created=400, scheduled=401), pulling={}, pulled=unix(vllm=402), started=unix(vllm=402)
)
THIRD = facts(restarts={"vllm": 2}, started=unix(vllm=400))
NO_NODE = {"image_pull": 50.0, "model_load": 48.0}
NO_IMAGE = {"node_provisioning": 90.0, "model_load": 48.0}
OLD = facts(created=WALL - YOUNG, node_created=WALL - YOUNG + 1, scheduled=WALL - YOUNG + 90)

# name, what is seen, the phases that are told at the end
PODS: list[tuple[str, list[Look], dict[str, float]]] = [
    ("all four", WARMED, {**UP, "warm_up": 20.0}),
    ("nothing yet", [Look(10, None, facts(scheduled=None, pulling={}, pulled={}, started={}))], {}),
    ("as far as they are over: scheduled",
     [Look(95, None, facts(pulling={}, pulled={}, started={}))], {"node_provisioning": 90.0}),
    ("as far as they are over: pulling",
     [Look(120, "unreachable", facts(pulled={}, started={}))], {"node_provisioning": 90.0}),
    ("as far as they are over: loading", UNTIL_UP[:2], NODE_AND_IMAGE),
    ("as far as they are over: up", UNTIL_UP, UP),
    ("a pod that never becomes ready", [Look(at, "refused") for at in range(160, 3000, 60)], NODE_AND_IMAGE),
    ("no Kubernetes", [Look(look.at, look.reading, None) for look in WARMED], {"warm_up": 20.0}),
    ("Kubernetes is heard late", [*(Look(look.at, look.reading, None) for look in UNTIL_UP), Look(201, IDLE)], UP),
    # The node.
    ("the node was there before the pod", load_of(facts(node_created=WALL - 5)), {**UP, "node_provisioning": 0.0}),
    ("the node is not told", load_of(facts(node_created=None)), NO_NODE),
    ("scheduled a little before it was created",
     load_of(facts(scheduled=WALL - SKEW)), {**UP, "node_provisioning": 0.0}),
    ("scheduled long before it was created", load_of(facts(scheduled=WALL - SKEW - 1)), NO_NODE),
    ("a stamp that is no number", load_of(facts(scheduled=math.nan)), NO_NODE),
    # The image.
    ("the image was there", load_of(facts(pulling={})), {**UP, "image_pull": 0.0}),
    ("no events", load_of(facts(pulling={}, pulled={})), NO_IMAGE),
    ("an init container's image before it",
     load_of(facts(pulling=unix(init=95, vllm=110), pulled=unix(init=105, vllm=150))), UP),
    ("two images at a time count once",
     load_of(facts(pulling=unix(init=100, vllm=100), pulled=unix(init=140, vllm=150))), UP),
    ("a sidecar's image after it",
     load_of(facts(pulling=unix(vllm=100, proxy=150), pulled=unix(vllm=150, proxy=180))), UP),
    ("a sidecar's image that does not come", load_of(facts(pulling=unix(vllm=100, proxy=150))), UP),
    ("the event of the pull's begin is lost, another's is there",
     load_of(facts(pulling=unix(init=95), pulled=unix(init=105, vllm=106))), {**UP, "image_pull": 10.0}),
    ("pulled long before it was pulled", load_of(facts(pulling=unix(vllm=155))), NO_IMAGE),
    # The load.
    ("up before this program came: an hour old", [Look(200, IDLE, OLD)], {}),
    ("up before this program came: young", [Look(200, IDLE)], NODE_AND_IMAGE),
    ("found late, and slow to answer", [Look(190, "timeout"), Look(200, IDLE)], NODE_AND_IMAGE),
    ("an old pod that is seen to start", load_of(OLD), UP),
    ("the last refusal was long ago", [Look(190 - 1, "refused"), Look(200, IDLE)], NODE_AND_IMAGE),
    ("it was up as soon as it was found", [Look(152 + GAP, IDLE)], {**NODE_AND_IMAGE, "model_load": GAP}),
    ("the wall clock is not told", [Look(199, "refused"), Look(200, IDLE, FACTS, None)], NODE_AND_IMAGE),
    ("the wall clock jumps afterwards", [*UNTIL_UP, Look(201, IDLE, FACTS, 5000.0)], UP),
    ("the wall clock is set back to the start of an engine that was found up",
     [Look(3800, IDLE), Look(3900, IDLE, FACTS, -3640.0)], NODE_AND_IMAGE),
    ("clocks differ a little", load_of(facts(started=unix(vllm=201))), {**UP, "model_load": 0.0}),
    ("clocks differ", load_of(facts(started=unix(vllm=203))), NODE_AND_IMAGE),
    ("a load of more than a day", load_of(FACTS, wall=LONGEST), NODE_AND_IMAGE),
    # Warm-up.
    ("idle for an hour, then a request", [*UNTIL_UP, Look(3800, WORKS), Look(3806, DONE)], {**UP, "warm_up": 6.0}),
    ("idle, and the token came between two looks", [*UNTIL_UP, Look(3800, DONE)], UP),
    ("it waits: work is held", [*UNTIL_UP, Look(210, says(waiting=2.0)), Look(230, DONE)], {**UP, "warm_up": 20.0}),
    ("nothing is shown at the first load: the server's own word",
     [*UNTIL_UP, Look(219, IDLE), Look(220, says(5.0, ttft=ttft(9.5)))], {**UP, "warm_up": 9.5}),
    ("the mean of the first requests", [*UNTIL_UP, Look(220, says(5.0, ttft=ttft(9.0, 10.0)))], {**UP, "warm_up": 9.5}),
    ("a first token that would be older than the port",
     [*UNTIL_UP, Look(205, WORKS), Look(210, says(5.0, ttft=ttft(50.0)))],
     {**UP, "warm_up": 5.0}),
    ("a histogram without a sum",
     [*UNTIL_UP, Look(205, WORKS), Look(210, says(5.0, ttft=Histogram((math.inf,), (1.0,))))],
     {**UP, "warm_up": 5.0}),
    ("a token at the first answer",
     [Look(199, "refused"), Look(200, says(5.0, ttft=ttft(0.5)))], {**UP, "warm_up": 0.5}),
    ("a token before this program came", [Look(200, says(5.0, ttft=ttft(0.5)))], NODE_AND_IMAGE),
    ("the first request is aborted, the second ends",
     [*UNTIL_UP, Look(205, says(None, 1.0, finished={})), Look(210, says(None, 1.0, finished={"abort": 1.0})),
      Look(220, says(None, finished={"abort": 1.0, "stop": 1.0}))], {**UP, "warm_up": 15.0}),
    ("no token is told, the first request that ends is",
     [*UNTIL_UP, Look(210, says(None, running=1.0, finished={"stop": 0.0})), Look(216, says(None,
     finished={"stop": 1.0}))],
     {**UP, "warm_up": 6.0}),
    ("a server that tells of neither", [*UNTIL_UP, Look(210, says(None, running=1.0))], UP),
    ("it is told once", [*WARMED, Look(300, IDLE), Look(310, WORKS), Look(390, DONE)], {**UP, "warm_up": 20.0}),
    # Restarts.
    ("a restart: a load, no node and no image",
     [*WARMED, Look(305, "refused", AGAIN), *load_of(AGAIN, 330.0)], {"model_load": 30.0}),
    ("a restart that is not up yet: its last answer was another's",
     [*UNTIL_UP, Look(300.5, IDLE), Look(301, None, AGAIN)], {}),
    ("a restart that is not started yet", [*WARMED, Look(300, None, facts(restarts={"vllm": 1}, started={}))], {}),
    ("events of a restart come before it is told",
     [*UNTIL_UP, Look(301, "refused", facts(pulling=AGAIN.pulling, pulled=AGAIN.pulled))], UP),
    ("restarts that never come up, then one that does",
     [*WARMED, Look(305, "refused", AGAIN), *load_of(THIRD, 420.0)], {"model_load": 20.0}),
    ("started anew, though it is not counted",
     [*WARMED, *load_of(facts(started=unix(vllm=300)), 330.0)],
     {"node_provisioning": 90.0, "image_pull": 50.0, "model_load": 30.0}),
    ("another pod of that name",
     [*WARMED, *load_of(SECOND, 420.0)],
     {"node_provisioning": 0.0, "image_pull": 0.0, "model_load": 18.0}),
    ("another pod of that name, with the same stamps", [*WARMED, Look(231, None, facts(uid="uid-2"))], NODE_AND_IMAGE),
    ("the port refuses for a moment, and nothing was restarted", [*WARMED, Look(240, "refused"), Look(241, DONE)],
     {**UP, "warm_up": 20.0}),
    ("the container's stamp is gone for a while",
     [*WARMED, Look(240, DONE, facts(started={}))], {**UP, "warm_up": 20.0}),
]  # fmt: skip


@pytest.mark.parametrize(("looks", "expected"), [row[1:] for row in PODS], ids=[row[0] for row in PODS])
def test_what_a_start_took(looks: list[Look], expected: dict[str, float]) -> None:
    assert phases(looks) == pytest.approx(expected)


# name, what is seen, the phases that are told at the end: an engine of which no pod is known
BARE: list[tuple[str, list[Look], dict[str, float]]] = [
    ("up when this program came", [Look(0, IDLE)], {}),
    ("not up when this program came: who knows since when", [Look(0, "refused"), Look(60, IDLE)], {}),
    ("it went and came",
     [Look(0, DONE), Look(10, "refused"), Look(40, "refused"), Look(41, IDLE)], {"model_load": 31.0}),
    ("and warmed up", [Look(0, DONE), Look(10, "refused"), Look(41, IDLE), Look(50, WORKS), Look(58, DONE)],
     {"model_load": 31.0, "warm_up": 8.0}),
    ("it went and is not back", [Look(0, DONE), Look(10, "refused"), Look(40, "refused")], {}),
    ("the port refused for a moment, and nothing was restarted",
     [Look(0, DONE), Look(10, "refused"), Look(11, DONE)], {}),
    ("it was slow for a while", [Look(0, DONE), Look(10, "timeout"), Look(30, IDLE)], {}),
    ("twice: the last start is told",
     [Look(0, DONE), Look(10, "refused"), Look(41, IDLE), Look(50, "refused"), Look(55, IDLE)],
     {"model_load": 5.0}),
]  # fmt: skip


@pytest.mark.parametrize(("looks", "expected"), [row[1:] for row in BARE], ids=[row[0] for row in BARE])
def test_what_a_start_took_of_an_engine_without_a_pod(looks: list[Look], expected: dict[str, float]) -> None:
    assert phases([Look(look.at, look.reading, None) for look in looks], BY_HAND) == pytest.approx(expected)


@pytest.mark.parametrize(
    ("given", "expected"),
    [(FACTS, UP), (facts(containers={"vllm": "c", "proxy": "d"}, started=unix(vllm=152, proxy=153)), {})],
    ids=["the pod has one container", "nobody says which is the engine's"],
)
def test_a_container_that_is_not_named_is_the_pod_s_only_one(given: PodFacts, expected: dict[str, float]) -> None:
    target = EngineTarget(POD.url, PodRef("ns", "llama-0"))
    assert phases(load_of(given), target) == pytest.approx(expected)


def test_a_pod_is_told_from_another_of_its_name_though_nobody_tells_its_uid() -> None:
    assert phases(load_of(facts(uid=""))) == pytest.approx(UP)


def test_an_answer_from_before_the_port_was_closed_is_no_start() -> None:
    """The memory is new, the source's is not."""
    inputs = NodeInputs(
        "node",
        targets=(POD,),
        scrapes={POD.url: EngineScrape(POD, 160.0, 0.01, error="refused", message="m")},
        last_good={POD.url: EngineScrape(POD, 155.0, 0.01, "vllm", (IDLE,))},
        pods={("ns", "llama-0"): FACTS},
        wall=WALL + 160,
    )
    cold, _ = step(ColdMemory(), inputs, {}, 160.0)
    assert cold.of[POD.url] == pytest.approx(NODE_AND_IMAGE)


# --- by model -------------------------------------------------------------------------------------------------------


def test_the_quantiles_are_of_starts_that_were_seen() -> None:
    cold, memory = watch(WARMED)
    for restart in range(1, 5):
        begin = 1000.0 * restart
        given = facts(restarts={"vllm": restart}, started=unix(vllm=begin))
        looks = [Look(begin + restart * 10 - 1, "refused", given), Look(begin + restart * 10, IDLE, given)]
        cold, memory = watch(looks, memory=memory)
    assert cold.starts == (
        ColdStart("ns", "m", "node_provisioning", 1, 90.0, 90.0),
        ColdStart("ns", "m", "image_pull", 1, 50.0, 50.0),
        ColdStart("ns", "m", "model_load", 5, pytest.approx(30.0), pytest.approx(48.0)),
        ColdStart("ns", "m", "warm_up", 1, 20.0, 20.0),
    )


def test_a_start_counts_once_however_many_engines_and_looks_there_are() -> None:
    cold, _ = watch([*WARMED, *(Look(at, DONE) for at in range(231, 260))])
    assert {one.count for one in cold.starts} == {1}
    both = (IDLE, msgspec.structs.replace(IDLE, engine="1"))
    scrape = EngineScrape(POD, 200.0, 0.01, "vllm", both)
    inputs = NodeInputs(
        "node", targets=(POD, POD), last_good={POD.url: scrape}, pods={("ns", "llama-0"): FACTS}, wall=WALL + 200
    )
    cold, _ = step(ColdMemory(), inputs, {}, 200.0)
    assert [(one.phase, one.count) for one in cold.starts] == [("node_provisioning", 1), ("image_pull", 1)]


def test_what_was_learned_outlives_the_engine_and_this_program_and_is_not_learned_twice() -> None:
    cold, memory = watch(WARMED)
    gone, left = step(memory, NodeInputs("node"), {}, 300.0)
    assert (gone.of, gone.starts, left.starts) == ({}, cold.starts, {})
    kept = msgspec.msgpack.decode(msgspec.msgpack.encode(left), type=ColdMemory)
    again, _ = watch([Look(400, DONE)], memory=ColdMemory(models=kept.models))
    assert again.starts == cold.starts
    assert again.of[POD.url] == pytest.approx(NODE_AND_IMAGE)


def test_the_memory_can_be_written_down_at_any_time() -> None:
    for length in range(len(WARMED) + 1):
        _, memory = watch(WARMED[:length])
        assert msgspec.msgpack.decode(msgspec.msgpack.encode(memory), type=ColdMemory) == memory


def news(model: str, start: str = "s", **seconds: float) -> News:
    return News("ns", model, Begun(start, seconds))


def test_the_last_starts_count() -> None:
    models: tuple[ModelStarts, ...] = ()
    for number in range(MAX_STARTS + 8):
        models, _ = learn(models, [news("m", f"s{number}", warm_up=float(number))], 1)
    assert quantiles(models, PHASES) == (ColdStart("ns", "m", "warm_up", MAX_STARTS, 23.0, 36.0),)


def test_of_more_engines_than_are_remembered_none_drives_out_another() -> None:
    """64 of one model on a node: what is learned of them, and with it the state file, comes to rest."""
    live = [news("m", f"s{number}", model_load=float(number)) for number in range(2 * MAX_STARTS)]
    models, left_out = learn((), live, 1)
    assert (len(models[0].starts), left_out) == (MAX_STARTS, 0)
    assert learn(models, live, 1)[0] == models
    replaced = [news("m", "new", model_load=900.0), *live[1:]]
    models, _ = learn(models, replaced, 1)
    names = [one.start for one in models[0].starts]
    assert (len(names), "s0" in names, "new" in names) == (MAX_STARTS, False, True), "one that is over gives way"
    assert learn(models, replaced, 1)[0] == models


def test_a_start_of_which_less_is_seen_after_a_restart_of_this_program_stays_in_its_place() -> None:
    whole, _ = learn((), [news("m", "a", model_load=1.0, image_pull=0.0), news("m", "b", model_load=2.0)], 1)
    assert learn(whole, [news("m", "a", image_pull=0.0), news("m", "b", model_load=2.0)], 1)[0] == whole


def test_a_phase_that_is_over_later_is_of_the_same_start() -> None:
    models, _ = learn((), [news("m", image_pull=5.0)], 1)
    models, _ = learn(models, [news("m", image_pull=5.0, warm_up=7.0)], 1)
    assert models == (ModelStarts("ns", "m", (Begun("s", {"image_pull": 5.0, "warm_up": 7.0}),)),)


def test_what_is_known_already_changes_nothing() -> None:
    models, _ = learn((), [news("a", warm_up=1.0)], 2)
    models, _ = learn(models, [news("b", warm_up=1.0)], 2)
    assert learn(models, [news("a", warm_up=1.0)], 2)[0] == models


def test_a_model_that_nobody_runs_gives_way_and_one_that_runs_does_not() -> None:
    models, left_out = learn((), [news("old", warm_up=1.0), news("runs", warm_up=1.0)], 2)
    assert left_out == 0
    models, left_out = learn(models, [news("runs", warm_up=1.0), news("new", warm_up=1.0)], 2)
    assert ([one.model for one in models], left_out) == (["runs", "new"], 0)
    models, left_out = learn(models, [news("runs", warm_up=1.0), news("new", warm_up=1.0), news("x", warm_up=1.0)], 2)
    assert ([one.model for one in models], left_out) == (["runs", "new"], 1)


def test_models_that_are_too_many_are_left_out_and_counted() -> None:
    many = MAX_MODELS + 7
    readings = tuple(EngineReading(f"m{number:03}", "0", generation_tokens_total=0.0) for number in range(many))
    overflow: dict[str, int] = {}
    inputs = NodeInputs(
        "node",
        targets=(POD,),
        last_good={POD.url: EngineScrape(POD, 200.0, 0.01, "vllm", readings)},
        pods={("ns", "llama-0"): FACTS},
        wall=WALL + 200,
    )
    cold, memory = step(ColdMemory(), inputs, overflow, 200.0)
    assert len(cold.starts) <= LIMITS["cold_start"]
    assert len(memory.models) == MAX_MODELS
    assert overflow == {"cold_start": 7 * len(PHASES)}


# --- whatever is told -----------------------------------------------------------------------------------------------

stamps = st.one_of(
    st.none(), st.floats(-100, 4000).map(lambda at: WALL + at), st.sampled_from([math.nan, math.inf, -1e300])
)
names = st.sampled_from(["vllm", "init"])
by_name = st.dictionaries(names, stamps.filter(lambda stamp: stamp is not None), max_size=2)
any_facts = st.builds(
    PodFacts,
    st.just("ns"),
    st.just("llama-0"),
    uid=st.sampled_from(["", "a", "b"]),
    node_created=stamps,
    created=stamps,
    scheduled=stamps,
    pulling=by_name,
    pulled=by_name,
    started=by_name,
    restarts=st.dictionaries(names, st.integers(0, 3)),
)
histograms = st.builds(
    lambda number, total: Histogram((math.inf,), (number,), total),
    st.sampled_from([0.0, 1.0, 3.0]),
    st.one_of(st.none(), st.floats(-1, 1e4), st.just(math.nan)),
)
any_readings = st.builds(
    says,
    st.sampled_from([None, 0.0, 5.0]),
    st.sampled_from([0.0, 1.0]),
    ttft=st.one_of(st.none(), histograms),
    finished=st.sampled_from([None, {}, {"stop": 1.0}, {"error": 2.0}]),
)
any_looks = st.builds(
    Look,
    st.floats(0, 4000),
    st.one_of(any_readings, st.sampled_from(["refused", "timeout"]), st.none()),
    st.one_of(st.none(), any_facts),
    st.one_of(st.none(), st.floats(-1e5, 1e5)),
)


@settings(max_examples=150)
@given(st.lists(any_looks, max_size=12), st.sampled_from([POD, BY_HAND]))
def test_no_phase_is_negative_or_endless_and_the_memory_does_not_grow(looks: list[Look], target: EngineTarget) -> None:
    cold, memory = watch(sorted(looks, key=lambda look: look.at), target)
    for seconds in (*cold.of.get(target.url, {}).values(), *(one.p90 for one in cold.starts)):
        assert 0.0 <= seconds <= LONGEST
    assert all(one.p50 <= one.p90 and 1 <= one.count <= MAX_STARTS for one in cold.starts)
    assert set(cold.of.get(target.url, {})) <= set(PHASES)
    assert len(memory.starts) <= 1
    assert len(memory.models) <= 1


@settings(max_examples=100)
@given(st.lists(any_looks, max_size=10))
def test_what_was_told_of_a_start_stays(looks: list[Look]) -> None:
    """By phases and counts: a step more takes no start of a model away."""
    ordered = sorted(looks, key=lambda look: look.at)
    counts: dict[str, int] = {}
    for length in range(1, len(ordered) + 1):
        cold, _ = watch(ordered[:length])
        now = {one.phase: one.count for one in cold.starts}
        assert all(now.get(phase, 0) >= number for phase, number in counts.items())
        counts = now
