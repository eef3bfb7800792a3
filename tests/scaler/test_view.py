"""scaler.core.view_fleet and view_replicas: which engines are a ScaledObject's replicas, and what a replica is."""

from typing import Any

import pytest

from scaler.core.trigger import parse
from scaler.core.view import ColdStartView, EngineView, Fleet, GpuView, NodeView
from scaler.core.view_fleet import fleet

NOW = 1000.0


def engine(pod: str = "llama-0", **fields: Any) -> EngineView:
    defaults: dict[str, Any] = {
        "endpoint": f"http://{pod or '127.0.0.1'}:8000/metrics",
        "namespace": "default",
        "pod": pod,
        "model": "llama",
        "waiting": 1.0,
        "running": 2.0,
        "kv_usage": 0.25,
        "capacity": 1.0,
        "health": "healthy",
    }
    return EngineView(**(defaults | fields))


def node(*engines: EngineView, ages: tuple[float | None, ...] | None = None, **fields: Any) -> NodeView:
    defaults: dict[str, Any] = {
        "address": "10.0.0.1:9481",
        "since": 0.0,
        "at": NOW - 1,
        "connected": True,
        "node": "node-a",
        "engines": engines,
        "engine_ages": ages if ages is not None else (0.5,) * len(engines),
    }
    return NodeView(**(defaults | fields))


def see(*nodes: NodeView, **metadata: str) -> Fleet:
    return fleet(nodes, parse("default", "llama", metadata), NOW)


def test_data_parallel_engines_are_one_replica_and_summed_never_last_wins() -> None:
    first = engine(engine="0", waiting=3.0, running=4.0, kv_usage=0.2, capacity=1.0, knee_running=8.0, health="healthy")
    second = engine(
        engine="1", waiting=5.0, running=6.0, kv_usage=0.7, capacity=0.5, knee_running=8.0, health="degraded"
    )
    (replica,) = see(node(first, second, ages=(0.5, 2.0))).replicas
    assert (replica.waiting, replica.running, replica.kv_usage) == (8, 10, 0.7)
    assert (replica.capacity, replica.knee_running, replica.engines) == (0.5, 16, 2)
    assert replica.reading_age == 3.0  # the oldest, and the second since the message came
    assert replica.health == "degraded"


def test_a_replicas_pace_is_one_engines_and_its_worst_time_to_first_token_is_its_own() -> None:
    first = engine(
        engine="0", step_seconds=0.01, sequence_seconds=1e-4, prompt_token_seconds=2e-4, pace_seconds=60.0,
        prefix_hit_ratio=0.2, ttft_p95=0.5, preemptions_per_second=1.0,
    )  # fmt: skip
    second = engine(
        engine="1", step_seconds=0.03, sequence_seconds=3e-4, prompt_token_seconds=4e-4, pace_seconds=0.0,
        prefix_hit_ratio=0.4, ttft_p95=2.0, preemptions_per_second=0.5,
    )  # fmt: skip
    (replica,) = see(node(first, second)).replicas
    pace = replica.step_seconds, replica.sequence_seconds, replica.prompt_token_seconds
    assert pace == pytest.approx((0.02, 2e-4, 3e-4))
    assert replica.pace_seconds == 0.0  # one of them borrows
    assert replica.prefix_hit_ratio == pytest.approx(0.3)
    assert (replica.ttft_p95, replica.preemptions_per_second) == (2.0, 1.5)


WHOLES = [
    *("waiting", "running", "kv_usage", "knee_running", "service_rate", "step_seconds", "sequence_seconds"),
    *("prompt_token_seconds", "prefix_hit_ratio", "ttft_p95", "preemptions_per_second"),
]


@pytest.mark.parametrize("name", WHOLES)
def test_a_part_is_never_taken_for_the_whole(name: str) -> None:
    (replica,) = see(node(engine(engine="0", **{name: 5.0}), engine(engine="1", **{name: None}))).replicas
    assert getattr(replica, name) is None


CAPACITIES = [
    ((1.0, 1.0), 1.0),
    ((1.0, 0.0), 0.0),
    ((None, 0.0), 0.0),
    ((None, 0.5), 0.5),
    ((None, 1.0), None),
    ((None, None), None),
]


@pytest.mark.parametrize(("given", "expected"), CAPACITIES, ids=str)
def test_capacity_is_the_lowest_and_unknown_is_not_whole(
    given: tuple[float | None, float | None], expected: float | None
) -> None:
    engines = [engine(engine=str(i), capacity=capacity) for i, capacity in enumerate(given)]
    assert see(node(*engines)).replicas[0].capacity == expected


def test_an_engine_that_sleeps_carries_nothing() -> None:
    assert see(node(engine(sleeping=True))).replicas[0].capacity == 0


def test_never_read_stays_never_read() -> None:
    (replica,) = see(node(engine(model=""), ages=(None,))).replicas
    assert replica.reading_age is None


SELECTION = [
    ("model", {"model": "llama"}, ["a", "b"]),
    ("podSelector", {"podSelector": "tier=gold"}, ["a", "c"]),
    ("both", {"podSelector": "tier=gold", "model": "llama"}, ["a"]),
]


@pytest.mark.parametrize(("metadata", "pods"), [row[1:] for row in SELECTION], ids=[row[0] for row in SELECTION])
def test_the_trigger_selects_by_model_and_labels(metadata: dict[str, str], pods: list[str]) -> None:
    seen = see(
        node(
            engine("a", labels={"tier": "gold"}),
            engine("b"),
            engine("c", model="qwen", labels={"tier": "gold"}),
            engine("d", model="qwen"),
            engine("e", namespace="other", labels={"tier": "gold"}),
        ),
        **metadata,
    )
    assert [replica.pod for replica in seen.replicas] == pods


def test_several_models_behind_one_url_stay_apart() -> None:
    both = node(engine(model="llama", waiting=3.0), engine(model="qwen", waiting=50.0))
    assert see(both, model="llama").replicas[0].waiting == 3


def test_without_a_selection_the_one_model_of_the_fleet_is_meant() -> None:
    assert len(see(node(engine("a"), engine("b"), engine("new", model="", waiting=None))).replicas) == 3


PROBLEMS = [
    ("two models", [node(engine("a"), engine("b", model="qwen"))], {}, ["llama, qwen", "key model"]),
    ("no such model", [node(engine("a"))], {"model": "gpt"}, ["model gpt", "llama"]),
    ("no such label", [node(engine("a"))], {"podSelector": "x=y"}, ["podSelector x=y"]),
    ("other namespace", [node(engine("a", namespace="prod"))], {"model": "llama"}, ["namespace default", "prod"]),
    ("no engine", [node()], {}, ["no engine is seen"]),
    ("no exporter", [], {}, ["--exporters"]),
    ("unheard", [NodeView("x:1", 0.0, error="refused")], {}, ["x:1 (refused)", "--exporters"]),
]


@pytest.mark.parametrize(
    ("nodes", "metadata", "words"), [row[1:] for row in PROBLEMS], ids=[row[0] for row in PROBLEMS]
)
def test_what_cannot_be_told_is_said_with_its_fix(
    nodes: list[NodeView], metadata: dict[str, str], words: list[str]
) -> None:
    seen = see(*nodes, **metadata)
    assert not seen.replicas
    assert all(word in seen.problem for word in words), seen.problem
    assert "\n" not in seen.problem


def test_a_model_from_the_environment_is_not_told() -> None:
    assert "s3cret" not in see(node(engine()), modelFromEnv="s3cret").problem


def test_a_scaler_that_has_just_started_waits_for_all_exporters() -> None:
    young = NodeView("y:1", since=NOW - 5)
    assert "1 of 2 exporters" in see(node(engine(), since=NOW - 5), young).problem
    # Later it goes on without, and says so.
    old = NodeView("y:1", since=NOW - 301)
    assert see(node(engine(), since=NOW - 301), old).unheard == ("y:1 (no answer yet)",)
    # One that is added to a running fleet stops nobody.
    assert not see(node(engine(), since=0.0), young).problem


def test_a_restarted_exporter_replaces_its_old_address() -> None:
    old = node(engine(waiting=9.0), address="10.0.0.1:9481", connected=False, at=NOW - 60)
    new = node(engine(waiting=2.0), address="10.0.0.2:9481", first=NOW - 50)
    (replica,) = see(old, new).replicas
    assert replica.waiting == 2


def test_two_exporters_with_one_node_name_are_two() -> None:
    lost = node(engine("a"), connected=False, at=NOW - 60, first=NOW - 100)
    there = node(engine("b"), address="b:1", first=NOW - 90)
    assert [(replica.pod, replica.reading_age) for replica in see(lost, there).replicas] == [("a", 60.5), ("b", 1.5)]


def test_a_lost_node_keeps_its_replicas_with_growing_age() -> None:
    lost = node(engine("a"), connected=False, at=NOW - 60)
    seen = see(lost, node(engine("b"), address="b:1", node="node-b"))
    assert [(replica.pod, replica.reading_age) for replica in seen.replicas] == [("a", 60.5), ("b", 1.5)]


def test_a_pod_that_moved_is_counted_once_where_it_was_read_last() -> None:
    before = node(engine("a", waiting=9.0), connected=False, at=NOW - 60)
    after = node(engine("a", waiting=1.0), address="b:1", node="node-b")
    (replica,) = see(before, after).replicas
    assert (replica.waiting, replica.node) == (1, "node-b")


def test_without_pods_an_endpoint_is_a_replica_and_loopback_is_each_nodes_own() -> None:
    def bare(endpoint: str) -> EngineView:
        return engine("", namespace="", endpoint=endpoint)

    here = node(bare("http://127.0.0.1:8000/metrics"), bare("http://10.9.9.9:8000/metrics"))
    there = node(
        bare("http://127.0.0.1:8000/metrics"), bare("http://10.9.9.9:8000/metrics"), address="b", node="node-b"
    )
    seen = see(here, there).replicas
    assert sorted(replica.pod for replica in seen) == [
        "http://10.9.9.9:8000/metrics",
        "http://127.0.0.1:8000/metrics",
        "http://127.0.0.1:8000/metrics",
    ]
    assert len({replica.id for replica in seen}) == 3


def test_a_replica_knows_its_gpus() -> None:
    gpus = (GpuView("GPU-1", state="lost"), GpuView("GPU-2"), GpuView("GPU-3", instance="7"))
    (replica,) = see(node(engine(gpus=("GPU-1", "GPU-3/7", "GPU-9")), gpus=gpus, gpu_ages=(0, 0, 0))).replicas
    assert [gpu.uuid for gpu in replica.gpus] == ["GPU-1", "GPU-3"]


def test_one_that_lost_its_model_is_kept_apart() -> None:
    """Its exporter restarted and has not read it since: only who has seen it before can tell that it is ours."""
    seen = see(node(engine("a"), engine("b", model="", waiting=None), ages=(0.5, None)), model="llama")
    assert [replica.pod for replica in seen.replicas] == ["a"]
    assert [replica.pod for replica in seen.nameless] == ["b"]


def start(phase: str, count: int, p50: float, model: str = "llama", namespace: str = "default") -> ColdStartView:
    return ColdStartView(namespace, model, phase, count, p50, p50)


LEADS: list[tuple[str, list[tuple[ColdStartView, ...]], float | None]] = [
    ("nobody saw one", [()], None),
    ("the phases follow one another", [(start("image_pull", 1, 40.0), start("model_load", 1, 80.0))], 120.0),
    ("nodes count by what they saw", [(start("model_load", 3, 60.0),), (start("model_load", 1, 100.0),)], 70.0),
    ("without the load nothing is known", [(start("image_pull", 9, 40.0),)], None),
    ("another model's is none of ours", [(start("model_load", 1, 60.0, model="qwen"),)], None),
    ("nor another namespace's", [(start("model_load", 1, 60.0, namespace="other"),)], None),
    ("a box without Kubernetes has no namespace", [(start("model_load", 1, 60.0, namespace=""),)], 60.0),
]


@pytest.mark.parametrize(("name", "seen", "lead"), LEADS, ids=[row[0] for row in LEADS])
def test_the_lead_time_is_what_the_nodes_saw(
    name: str, seen: list[tuple[ColdStartView, ...]], lead: float | None
) -> None:
    nodes = [
        node(engine(f"llama-{i}"), address=f"10.0.0.{i}:9481", node=f"node-{i}", cold_starts=starts)
        for i, starts in enumerate(seen)
    ]
    assert see(*nodes).cold_start == lead
