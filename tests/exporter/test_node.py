"""core/node.py: what one step makes of what the sources said."""

import math

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from msgspec.structs import replace

from exporter.core.boards import FORGET_SECONDS, MAX_KNOWN
from exporter.core.diagnosis import CAUSES
from exporter.core.health import STATES
from exporter.core.model import GpuInfo, GpuKey, GpuSample, XidEvent, XidSeen
from exporter.core.model_engines import EngineTarget, Learned
from exporter.core.node import NodeMemory, step
from exporter.core.saturation import STALL
from exporter.core.xid_places import MAX_UNPLACED_XIDS
from tests.exporter.build import NODE, START, failure, gpu_key, inputs, reading, sample, scrape, target

A = target(0)
GPU = sample(0)


def first(*scrapes, gpus=(GPU,), **more):
    return step(NodeMemory(), inputs(scrapes, gpus, **more), START)


def one(snapshot):
    (engine,) = snapshot.engines
    return engine


def test_a_snapshot_is_of_its_node_and_moment_and_the_next_has_the_next_number():
    snapshot, memory = first(scrape(A))
    again, _ = step(memory, inputs([scrape(A)], [GPU]), START + 1)
    assert (snapshot.node, snapshot.at, snapshot.sequence) == (NODE, START, 1)
    assert (again.node, again.at, again.sequence) == (NODE, START + 1, 2)


def test_the_same_arguments_give_the_same_result():
    said = inputs([scrape(A)], [GPU], [XidEvent(gpu_key(0), 13, START, "nvml")])
    assert step(NodeMemory(), said, START) == step(NodeMemory(), said, START)


def test_an_engine_carries_what_was_read_of_it():
    snapshot, _ = first(scrape(A))
    engine = one(snapshot)
    assert (engine.target, engine.reading, engine.kind, engine.at) == (A, reading(), "vllm", START)
    assert (engine.error, engine.message, engine.since) == ("", "", START)
    assert (engine.hardware.gpus, engine.hardware.state, engine.capacity) == ((gpu_key(0),), "healthy", 1.0)
    assert engine.cause == "saturated"


def test_a_target_that_was_never_tried_is_there_and_pending():
    engine = one(first(targets=(A,))[0])
    assert (engine.reading.model, engine.at, engine.error) == ("", None, "pending")
    assert A.url in engine.message
    assert (engine.cause, engine.saturation, engine.learned) == ("blind", None, Learned())
    assert engine.reading.waiting is None


def test_a_target_that_never_answered_is_there_with_its_error_until_it_does():
    bad = failure(A, START, "refused")
    snapshot, memory = first(targets=(A,), scrapes={A.url: bad})
    engine = one(snapshot)
    assert (engine.reading.model, engine.at, engine.error, engine.message) == ("", None, "refused", bad.message)
    assert engine.cause == "cold_start"
    snapshot, memory = step(memory, inputs([scrape(A, at=START + 1)], [GPU]), START + 1)
    assert [(e.reading.model, e.error) for e in snapshot.engines] == [(reading().model, "")]
    assert len(memory.serving.engines) == 1


def test_a_target_that_fails_keeps_its_last_reading_which_grows_old():
    _, memory = first(scrape(A))
    good, bad = scrape(A), failure(A, START + 7)
    said = inputs([good], [sample(0, START + 8)], scrapes={A.url: bad})
    engine = one(step(memory, said, START + 8)[0])
    assert (engine.at, engine.error, engine.message) == (START, "timeout", bad.message)
    assert (engine.reading, engine.cause, engine.since) == (reading(), "blind", START)


def test_a_target_that_left_the_list_is_forgotten():
    gone, stays = target(0), target(1)
    _, memory = first(scrape(gone), scrape(stays), gpus=[sample(0), sample(1)])
    both = {t.url: scrape(t) for t in (gone, stays)}
    said = inputs(targets=(stays,), scrapes=both, last_good=both, scrape_errors={(gone.url, "timeout"): 3})
    snapshot, memory = step(memory, said, START + 1)
    assert [engine.target for engine in snapshot.engines] == [stays]
    assert (set(snapshot.scrapes), snapshot.scrape_errors) == ({stays.url}, {})
    assert {key.url for key in memory.serving.engines} == {stays.url}
    back, _ = step(memory, inputs([scrape(gone, at=START + 2)]), START + 2)
    assert one(back).since == START + 2


def test_engines_and_models_behind_one_url_stay_apart():
    rows = [("a", "0", 1.0), ("a", "1", 2.0), ("b", "0", 4.0)]
    said = scrape(A, *(reading(model=m, engine=e, waiting=w) for m, e, w in rows))
    snapshot, memory = first(said)
    assert [(e.reading.model, e.reading.engine, e.reading.waiting) for e in snapshot.engines] == rows
    assert len(memory.serving.engines) == 3
    shrunk = replace(said, at=START + 1, readings=said.readings[:1])
    snapshot, memory = step(memory, inputs([shrunk], [GPU]), START + 1)
    assert [(e.reading.model, e.reading.engine) for e in snapshot.engines] == [("a", "0")]
    assert len(memory.serving.engines) == 1


def test_a_target_that_is_listed_twice_is_one():
    snapshot, _ = first(scrape(A), targets=(A, A))
    assert len(snapshot.engines) == 1


def test_the_target_is_the_one_of_the_list_not_the_one_of_the_scrape():
    renamed = replace(A, labels={"app": "other"})
    snapshot, _ = first(scrape(A), targets=(renamed,))
    assert one(snapshot).target.labels == {"app": "other"}


def test_a_reading_is_learned_from_once_however_often_it_is_seen():
    _, once = first(scrape(A))
    often = once
    for tenth in range(1, 10):
        _, often = step(often, inputs([scrape(A)], [GPU]), START + tenth / 10)
    assert often.serving.engines == once.serving.engines


def test_what_an_engine_shows_over_time_is_learned_and_told():
    memory = NodeMemory()
    for second in range(30):
        now = START + second
        finished, tokens = {"stop": 2.0 * second}, 100.0 * second
        said = scrape(A, reading(finished=finished, generation_tokens_total=tokens, running=8.0), at=now)
        snapshot, memory = step(memory, inputs([said], [sample(0, now)]), now)
    engine = one(snapshot)
    assert engine.rates.requests_per_second == pytest.approx(2.0)
    assert engine.rates.tokens_per_second == pytest.approx(100.0)
    assert engine.learned.knee_running == pytest.approx(8.0)
    assert engine.saturation is not None
    assert engine.saturation > 1, "a queue stands"


def test_a_wedged_engine_counts_for_nothing_though_its_gpu_is_well():
    memory, now = NodeMemory(), START
    while now <= START + STALL + 2:
        moved = reading(generation_tokens_total=1.0 if now == START else 2.0)
        snapshot, memory = step(memory, inputs([scrape(A, moved, at=now)], [sample(0, now)]), now)
        now += 1
    engine = one(snapshot)
    assert (engine.cause, engine.hardware.state, engine.capacity) == ("wedged", "healthy", 0.0)


SICK = {"recovery_action": 1.0}
HOT = {"throttle_reasons": float(0x40), "clock_sm": 990e6, "clock_sm_max": 1980e6, "utilization": 1.0}
CAPPED = {**HOT, "throttle_reasons": float(0x4)}
LOST = {"values": {}, "lost": "gpu_is_lost"}
BLIND = {"values": {"power": 1.0}}

# name, what is special of each GPU of the engine, worst state, capacity
WORST = [
    ("all well", [{}, {}], "healthy", 1.0),
    ("one sick", [{}, SICK], "unhealthy", 0.0),
    ("one lost", [LOST, {}], "lost", 0.0),
    ("lost is worse than sick", [SICK, LOST], "lost", 0.0),
    ("one of which nothing is known", [{}, BLIND], "unknown", None),
    ("sick is worse than unknown, and 0 is certain", [BLIND, SICK], "unhealthy", 0.0),
    ("throttled", [{}, HOT], "healthy", 0.5),
    ("capped by power: what it carried it carried on these clocks", [{}, CAPPED], "healthy", 1.0),
    ("throttled and capped", [CAPPED, {**HOT, "throttle_reasons": float(0x44)}], "healthy", 0.5),
    ("unknown is worse than throttled", [HOT, BLIND], "unknown", None),
]


@pytest.mark.parametrize(("gpus", "state", "capacity"), [row[1:] for row in WORST], ids=[row[0] for row in WORST])
def test_an_engine_is_what_its_worst_gpu_is(gpus, state, capacity):
    samples = []
    for index, special in enumerate(gpus):
        plain = sample(index)
        changes = special if special in (LOST, BLIND) else {"values": {**plain.values, **special}}
        samples.append(replace(plain, **changes))
    everywhere = EngineTarget(A.url, A.pod, gpus=tuple(str(index) for index in range(len(gpus))))
    engine = one(first(scrape(everywhere), gpus=samples)[0])
    assert (engine.hardware.state, engine.capacity) == (state, capacity)


def test_an_engine_on_a_gpu_that_nobody_has_seen_is_unknown():
    engine = one(first(scrape(replace(A, gpus=("0", "GPU-never"))))[0])
    assert (engine.hardware.state, engine.capacity) == ("unknown", None)
    assert GpuKey("GPU-never") in engine.hardware.gpus


def test_an_engine_whose_gpus_are_not_known_is_unknown_not_healthy():
    engine = one(first(scrape(replace(A, gpus=())))[0])
    assert (engine.hardware.gpus, engine.hardware.state, engine.capacity) == ((), "unknown", None)


def test_a_throttled_board_throttles_the_engine_on_its_instance():
    board = replace(GPU, values={**GPU.values, **HOT})
    mig = GpuSample(GpuInfo(GpuKey(gpu_key(0).uuid, "2"), "0"), "nvml", START, {"memory_used": 1.0})
    on_mig = replace(A, gpus=(f"{gpu_key(0).uuid}/2",))
    snapshot, _ = first(scrape(on_mig), gpus=[mig, board])
    assert [gpu.info.key.instance for gpu in snapshot.gpus] == ["", "2"]
    assert (one(snapshot).hardware.gpus, one(snapshot).cause) == ((mig.info.key,), "throttled")


def test_a_sick_board_makes_its_instances_sick():
    board = replace(GPU, values={**GPU.values, **SICK})
    mig = GpuSample(GpuInfo(GpuKey(gpu_key(0).uuid, "2"), "0"), "nvml", START, {"memory_used": 1.0})
    # Whatever order they come in.
    for gpus in ([board, mig], [mig, board]):
        snapshot, _ = first(gpus=gpus)
        assert {gpu.verdict.state for gpu in snapshot.gpus} == {"unhealthy"}


BOARD, SLICE, OTHER = gpu_key(0), GpuKey(gpu_key(0).uuid, "2"), GpuKey(gpu_key(0).uuid, "9")

# name, GPUs that are seen, GPU that the event names, GPUs that it is counted for
PLACES = [
    ("the GPU itself", [BOARD], BOARD, [BOARD]),
    ("the instance itself", [BOARD, SLICE], SLICE, [SLICE]),
    ("no such instance: its board", [BOARD, SLICE], OTHER, [BOARD]),
    ("no board is seen: all its instances", [SLICE, OTHER], BOARD, [SLICE, OTHER]),
    ("another GPU", [BOARD], gpu_key(1), []),
]


@pytest.mark.parametrize(("seen", "named", "counted"), [row[1:] for row in PLACES], ids=[row[0] for row in PLACES])
def test_an_xid_is_counted_for_the_gpu_it_names(seen, named, counted):
    gpus = [GpuSample(GpuInfo(key, "0"), "nvml", START, {"temperature": 40.0}) for key in seen]
    snapshot, _ = first(gpus=gpus, xids=[XidEvent(named, 63, START, "nvml")])
    assert [gpu.info.key for gpu in snapshot.gpus if gpu.xids == {63: XidSeen(1, START)}] == counted
    assert all(not gpu.xids for gpu in snapshot.gpus if gpu.info.key not in counted)


def test_an_xid_before_its_gpu_is_seen_waits_for_it_and_is_counted_once():
    fatal = XidEvent(gpu_key(0), 79, START, "nvml")
    _, memory = first(gpus=(), xids=[fatal])
    snapshot, memory = step(memory, inputs((), [sample(0, START + 1)]), START + 1)
    assert snapshot.gpus[0].xids == {79: XidSeen(1, START)}
    assert snapshot.gpus[0].verdict.state == "lost"
    snapshot, memory = step(memory, inputs((), [sample(0, START + 2)]), START + 2)
    assert snapshot.gpus[0].xids == {79: XidSeen(1, START)}
    assert memory.boards.unplaced == ()


def test_xids_that_never_find_a_gpu_do_not_pile_up():
    events = [XidEvent(gpu_key(1), code, START, "nvml") for code in range(MAX_UNPLACED_XIDS + 10)]
    _, memory = first(xids=events)
    assert memory.boards.unplaced == tuple(events[10:])


def test_xids_add_up_and_a_gpu_without_samples_is_forgotten_in_time():
    app = XidEvent(gpu_key(0), 31, START, "nvml")
    _, memory = first(xids=[app, app])
    snapshot, memory = step(memory, inputs((), [sample(0, START + 1)], [replace(app, at=START + 1)]), START + 1)
    assert snapshot.gpus[0].xids == {31: XidSeen(3, START + 1)}
    snapshot, memory = step(memory, inputs(), START + 2)
    assert snapshot.gpus == ()
    snapshot, memory = step(memory, inputs((), [sample(0, START + 3)]), START + 3)
    assert snapshot.gpus[0].xids == {31: XidSeen(3, START + 1)}
    snapshot, memory = step(memory, inputs(), START + 4 + FORGET_SECONDS)
    assert (snapshot.gpus, memory.boards.known) == ((), {})


def test_gpus_that_are_others_every_time_do_not_pile_up():
    memory = NodeMemory()
    for second in range(5):
        others = [replace(GPU, info=GpuInfo(GpuKey(f"GPU-{second}-{n}")), at=START + second) for n in range(400)]
        _, memory = step(memory, inputs((), others), START + second)
    assert len(memory.boards.known) == MAX_KNOWN
    assert {key.uuid.split("-")[1] for key in memory.boards.known} == {"3", "4"}


numbers = st.one_of(st.none(), st.floats(0, 1e9))
readings = st.builds(
    reading,
    model=st.sampled_from(["", "a", "b"]),
    engine=st.sampled_from(["", "0", "1"]),
    waiting=numbers,
    running=numbers,
    kv_usage=st.one_of(st.none(), st.floats(0, 1)),
    prompt_tokens_total=numbers,
    generation_tokens_total=numbers,
    finished=st.one_of(st.none(), st.dictionaries(st.sampled_from(["stop", "abort", "x"]), st.floats(0, 1e9))),
    sleeping=st.one_of(st.none(), st.booleans()),
)
signal_values = st.dictionaries(
    st.sampled_from(sorted(GPU.values)), st.one_of(st.floats(0, 100), st.sampled_from([0.0, 64.0, math.nan, math.inf]))
)
gpu_samples = st.builds(
    GpuSample,
    st.sampled_from([GpuInfo(BOARD, "0"), GpuInfo(SLICE, "0"), GpuInfo(gpu_key(1), "1")]),
    st.sampled_from(["nvml", "dcgm", "demo", "?"]),
    st.floats(START - 20, START + 20),
    signal_values,
    st.dictionaries(st.sampled_from(sorted(GPU.values)), st.sampled_from(["timeout", "reset_required"])),
    st.sampled_from(["", "", "gpu_is_lost"]),
)
events = st.builds(
    XidEvent,
    st.sampled_from([BOARD, SLICE, gpu_key(1), GpuKey("GPU-x")]),
    st.integers(0, 200),
    st.floats(START - 20, START + 20),
    st.just("nvml"),
)
targets = [replace(A, gpus=gpus) for gpus in ((), ("0",), ("0", "1"), ("GPU-x",))]


@st.composite
def node_inputs(draw):
    of = draw(st.sampled_from(targets))
    at = draw(st.floats(START - 20, START + 20))
    good = {of.url: scrape(of, *draw(st.lists(readings, max_size=3)), at=at)} if draw(st.booleans()) else {}
    last = draw(st.sampled_from([{}, good, {of.url: failure(of, at)}]))
    samples, xids = draw(st.lists(gpu_samples, max_size=5)), draw(st.lists(events, max_size=3))
    return inputs((), samples, xids, targets=(of,), scrapes=last, last_good=good)


@settings(max_examples=150, deadline=None)
@given(st.lists(st.tuples(node_inputs(), st.floats(0, 400)), min_size=1, max_size=6))
def test_whatever_the_sources_say_the_step_is_made_and_nothing_unknown_is_called_healthy(turns):
    memory, now = NodeMemory(), START
    for said, passed in turns:
        now += passed
        snapshot, memory = step(memory, said, now)
        states = {gpu.info.key: gpu.verdict for gpu in snapshot.gpus}
        assert all(verdict.state in STATES for verdict in states.values())
        for engine in snapshot.engines:
            assert engine.cause in CAUSES
            assert engine.capacity is None or 0 <= engine.capacity <= 1
            for value in (engine.saturation, engine.rates.requests_per_second, engine.rates.tokens_per_second):
                assert value is None or (math.isfinite(value) and value >= 0)
            if engine.hardware.state == "healthy":
                assert engine.hardware.gpus
                assert all(states[key].state == "healthy" for key in engine.hardware.gpus)
        for gpu in snapshot.gpus:
            assert all(math.isfinite(reading.value) for reading in gpu.readings.values())
