"""The fake cluster: a pod loads once, whoever looks meanwhile, and pods go only when fewer are wanted."""

import asyncio
from pathlib import Path

import pytest

from scaler.demo.cluster import GPUS, Cluster
from scaler.demo.engine import Engine
from scaler.demo.traffic import Gateway
from scaler.simulate.hpa import Scale


@pytest.fixture
def said() -> list[str]:
    return []


@pytest.fixture
def cluster(tmp_path: Path, said: list[str]) -> Cluster:
    return Cluster(tmp_path, Gateway(lambda _: 1.0, 1, 0.0), 60.0, said.append)


async def test_a_pod_becomes_ready_once_though_two_tasks_look(cluster: Cluster, said: list[str]) -> None:
    await cluster.scale(1, 0.0)
    await asyncio.gather(cluster.tick(60.0), cluster.tick(60.0), cluster.scale(2, 60.0))
    assert said == ["chat-1 is ready on GPU 0"]
    assert cluster.scale_now.ready == 1
    await cluster.close()


async def test_a_pod_that_is_removed_while_it_loads_gets_no_requests(cluster: Cluster) -> None:
    await cluster.scale(2, 0.0)
    await asyncio.gather(cluster.tick(60.0), cluster.scale(1, 60.0))
    engines = {pod.name: pod.engine for pod in cluster.pods}
    assert cluster._gateway._replicas == engines
    assert all(isinstance(engine, Engine) for engine in engines.values())
    await cluster.close()


async def test_with_no_gpu_free_the_pods_there_are_stay(cluster: Cluster) -> None:
    cluster.break_gpu(2, 79)
    await cluster.scale(GPUS, 0.0, cold_start=0.0)
    assert cluster.scale_now == Scale(GPUS, GPUS - 1, GPUS - 1)
    assert 2 not in {pod.gpu for pod in cluster.pods}
    await cluster.close()
