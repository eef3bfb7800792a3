"""scaler.simulate.cluster and nodes: who is scheduled where and when, who goes first, what it costs."""

import math

import pytest

from scaler.simulate.cluster import GOING, LOADING, PENDING, READY, Cluster, Pod, removal_order
from scaler.simulate.model import Phases, Profile, Scenario
from scaler.simulate.nodes import LONG_AGO
from tests.simulate.played import PLAIN, trace


def scenario(profile: Profile = PLAIN, **rest: object) -> Scenario:
    return Scenario(trace(), profile, **rest)  # type: ignore[arg-type] # a test's shorthand


def states(cluster: Cluster) -> list[str]:
    return [pod.state for pod in cluster.pods]


def test_a_pod_is_ready_a_cold_start_after_it_was_scheduled() -> None:
    cluster = Cluster(scenario())
    cluster.scale(1, 100.0)
    assert cluster.advance(100.0) == []
    assert states(cluster) == [LOADING]
    assert cluster.pods[0].started == 110.0
    assert cluster.wakes(100.0) == 130.0
    assert cluster.advance(129.9) == []
    assert [pod.number for pod in cluster.advance(130.0)] == [0]
    assert cluster.wakes(130.0) == math.inf


#: (cold start of the scenario, the profile's phases, phases)
PHASES = [
    (None, Phases(9.0, 10.0, 15.0, 5.0), (10.0, 15.0, 5.0)),
    (60.0, Phases(9.0, 10.0, 15.0, 5.0), (20.0, 30.0, 10.0)),
    (0.0, Phases(0.0, 10.0, 15.0, 5.0), (0.0, 0.0, 0.0)),
    (60.0, Phases(), (0.0, 60.0, 0.0)),
]


@pytest.mark.parametrize(("cold_start", "told", "phases"), PHASES)
def test_the_scenarios_cold_start_has_the_profiles_proportions(
    cold_start: float | None, told: Phases, phases: tuple[float, ...]
) -> None:
    cluster = Cluster(scenario(PLAIN._replace(cold_start=told), cold_start=cold_start))
    assert cluster.phases[1:] == pytest.approx(phases)


def test_the_first_replicas_are_ready_and_began_a_cold_start_ago() -> None:
    cluster = Cluster(scenario(start=2))
    assert [pod.ready_at for pod in cluster.start(2)] == [0.0, 0.0]
    assert [pod.created for pod in cluster.pods] == [-30.0, -30.0]


#: (GPUs of a replica, nodes that there are, replicas, node of each)
PLACES = [
    (1, None, 9, [0] * 8 + [1]),
    (4, None, 3, [0, 0, 1]),
    (3, None, 3, [0, 0, 1]),
    (16, None, 2, [0, 1]),
    (8, 1, 2, [0, None]),
    (1, 0, 1, [None]),
]


@pytest.mark.parametrize(("gpus", "nodes", "replicas", "places"), PLACES)
def test_a_replica_takes_the_first_node_with_room(
    gpus: int, nodes: int | None, replicas: int, places: list[int | None]
) -> None:
    cluster = Cluster(scenario(PLAIN._replace(gpus=gpus), nodes=nodes))
    cluster.scale(replicas, 5.0)
    cluster.advance(5.0)
    assert [pod.node for pod in cluster.pods] == places
    begun = Cluster(scenario(PLAIN._replace(gpus=gpus), nodes=nodes))
    begun.start(replicas)
    assert [pod.node for pod in begun.pods] == places


def test_what_finds_no_gpu_costs_none_and_is_scheduled_when_one_is_free() -> None:
    cluster = Cluster(scenario(PLAIN._replace(gpus=8), nodes=1))
    cluster.start(1)
    cluster.scale(2, 10.0)
    cluster.advance(10.0)
    assert states(cluster) == [READY, PENDING]
    first = cluster.pods[0]
    first.state = GOING
    cluster.end(first, 50.0)
    cluster.advance(50.0)
    assert states(cluster) == [LOADING]
    cluster.close(90.0)
    assert cluster.replica_seconds == 50.0 + 40.0


def test_nodes_that_are_asked_for_come_a_provisioning_later_as_many_as_are_needed() -> None:
    cluster = Cluster(scenario(PLAIN._replace(gpus=4), node_provisioning=120.0, nodes=3, start=1))
    cluster.start(1)
    cluster.scale(9, 10.0)
    cluster.advance(10.0)
    assert states(cluster) == [READY, LOADING] + [PENDING] * 7
    assert cluster.nodes.coming == [130.0, 130.0]  # the third node is the last
    assert cluster.wakes(40.0) == 40.0  # the second replica
    cluster.advance(40.0)
    cluster.advance(130.0)
    assert states(cluster)[2:] == [LOADING] * 4 + [PENDING] * 3
    assert (cluster.nodes.created(0), cluster.nodes.created(1)) == (LONG_AGO, 130.0)
    assert cluster.nodes.coming == []


def test_while_gpus_are_barred_nothing_is_scheduled() -> None:
    cluster = Cluster(scenario())
    cluster.bar(60.0)
    cluster.bar(30.0)  # a shorter one does not end it
    cluster.scale(1, 10.0)
    cluster.advance(10.0)
    assert (states(cluster), cluster.wakes(10.0)) == ([PENDING], 60.0)
    cluster.advance(60.0)
    assert states(cluster) == [LOADING]


def pod(number: int, state: str = READY, node: int | None = 0, age: float = 1000.0, uid: float = 0.5) -> Pod:
    """`age`: since it was ready, or else since it was created, at 10,000 s."""
    made = Pod(number, 10_000.0 - age, uid)
    made.state, made.node = state, node
    if node is not None:
        made.scheduled = made.started = made.created
    made.ready_at = 10_000.0 - age if state == READY else 10_100.0
    return made


#: What Kubernetes' rule says -> pods, the first of which goes first.
REMOVALS = {
    "not scheduled before scheduled": [pod(0, PENDING, None), pod(1, LOADING), pod(2)],
    "not ready before ready, however old": [pod(0, LOADING, age=5000), pod(1, age=1)],
    "on the fuller node, however old": [pod(0, age=5000, uid=0.1), pod(1, node=1, age=1), pod(2, age=5001)],
    "younger by a power of two": [pod(0, age=100, uid=0.9), pod(1, age=1000, uid=0.1)],
    "of one power the lower UID": [pod(0, age=1000, uid=0.1), pod(1, age=990, uid=0.2)],
    "of those that load the restarted one": [pod(0, LOADING, age=5000), pod(1, LOADING, age=1)],
}
REMOVALS["of those that load the restarted one"][0].restarts = 1


@pytest.mark.parametrize("rule", REMOVALS)
def test_who_is_removed_first(rule: str) -> None:
    pods = REMOVALS[rule]
    assert removal_order(pods, 10_000.0)[0] is pods[0]
    assert removal_order(pods[::-1], 10_000.0)[0] is pods[0]


def test_a_pod_whose_image_is_pulled_goes_before_one_that_loads() -> None:
    pulling, loading = pod(0, LOADING, age=3000), pod(1, LOADING, age=1)
    pulling.started = 10_010.0
    assert removal_order([loading, pulling], 10_000.0) == [pulling, loading]


def test_those_that_serve_go_slowly_and_the_others_at_once() -> None:
    cluster = Cluster(scenario())
    cluster.start(2)
    cluster.scale(3, 10.0)
    cluster.advance(10.0)
    going = cluster.scale(1, 25.0)
    assert len(going) == 1
    assert sorted(states(cluster)) == [GOING, READY]
    assert cluster.replica_seconds == 15.0
    cluster.scale(2, 30.0)  # one that goes does not come back
    assert len(cluster.pods) == 3
    cluster.advance(30.0)
    cluster.end(going[0], 40.0)
    cluster.close(100.0)
    assert cluster.replica_seconds == 15.0 + 40.0 + 100.0 + 70.0


def test_a_restart_loads_again_without_a_pull() -> None:
    cluster = Cluster(scenario())
    cluster.start(1)
    one = cluster.pods[0]
    cluster.restart(one, 50.0)
    assert (one.state, one.started, one.ready_at, one.restarts) == (LOADING, 50.0, 70.0, 1)
    assert cluster.advance(70.0) == [one]
