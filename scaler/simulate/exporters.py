"""The exporters of a simulated cluster: what each would say of its node's engines, by the exporter's own core.

May not be in here: learning, diagnosing or judging anything (exporter.core does it, unchanged), the scaler's decision.

What is made up is what an exporter reads: pages of engines, stamps of Kubernetes, verdicts on GPUs. A lost GPU is seen
as lost and a throttled one as held down by its clocks at the next reading; of an engine that is wedged the GPU says
nothing. A replica's GPUs are shown as one: what strikes one of a tensor-parallel group strikes all.
"""

from collections.abc import Mapping, Sequence
from functools import lru_cache

from exporter.core import rules, serving
from exporter.core.inputs import FRESH_SECONDS, NodeInputs
from exporter.core.model import Gpu, GpuInfo, GpuKey, GpuReading, PodRef, Verdict
from exporter.core.model_engines import Engine, EngineReading, EngineScrape, EngineTarget, Learned, PodFacts, Rates
from scaler.core.view import ColdStartView, EngineView, GpuView, NodeView
from scaler.simulate.cluster import GOING, Cluster, Pod

Readings = Mapping[int, EngineReading]  # by the number of the pod

NAMESPACE, APP, CONTAINER, KIND = "simulation", "model", "vllm", "vllm"
_WELL = Verdict("healthy", capacity=1.0)
_LEARNED = tuple(name for name in Learned.__struct_fields__ if name in EngineView.__struct_fields__)
_RATES = tuple(name for name in Rates.__struct_fields__ if name in EngineView.__struct_fields__)


class Exporters:
    """One exporter a node. `step()` reads all engines; `nodes` is what the scaler has of it."""

    def __init__(self, interval: float) -> None:
        self.nodes: tuple[NodeView, ...] = ()
        self._memories: dict[int, serving.ServingMemory] = {}
        self._last_good: dict[str, EngineScrape] = {}
        self._sequence = 0
        self._fresh = {**FRESH_SECONDS, **dict.fromkeys(("engines", "nvml"), 3 * interval)}

    def step(self, cluster: Cluster, readings: Readings, now: float) -> None:
        """A pod without a reading has no port that answers yet."""
        self._sequence += 1
        # A node that has no pod any more has an exporter still, which remembers how long pods took to start.
        on: dict[int, list[Pod]] = {node: [] for node in self._memories}
        for pod in cluster.pods:
            # Kubernetes calls a pod that goes terminating, and discovery drops it.
            if pod.node is not None and pod.state != GOING:
                on.setdefault(pod.node, []).append(pod)
        known = {_target(pod.name).url for pods in on.values() for pod in pods}
        self._last_good = {url: good for url, good in self._last_good.items() if url in known}
        self.nodes = tuple(self._node(node, pods, cluster, readings, now) for node, pods in sorted(on.items()))

    def _node(self, node: int, pods: Sequence[Pod], cluster: Cluster, readings: Readings, now: float) -> NodeView:
        name = f"node-{node}"
        targets = tuple(_target(pod.name) for pod in pods)
        scrapes = {
            target.url: self._scrape(target, readings.get(pod.number), now)
            for pod, target in zip(pods, targets, strict=True)
        }
        inputs = NodeInputs(
            node=name,
            targets=targets,
            scrapes=scrapes,
            last_good=self._last_good,
            pods={(NAMESPACE, pod.name): _facts(pod, cluster, now) for pod in pods},
            wall=now,
            fresh=self._fresh,
        )
        gpus = {(info := _info(pod.name)).key: _board(info, pod, now) for pod in pods}
        memory = self._memories.get(node, serving.ServingMemory())
        served, self._memories[node] = serving.step(memory, inputs, (), gpus, {}, now)
        return NodeView(
            address=f"{name}:9481",
            since=0.0,
            at=now,
            first=0.0,
            connected=True,
            node=name,
            boot=name,
            sequence=self._sequence,
            engines=tuple(_engine(engine, now) for engine in served.engines),
            engine_ages=tuple(None if engine.at is None else now - engine.at for engine in served.engines),
            gpus=tuple(_gpu(gpu) for gpu in gpus.values()),
            gpu_ages=(0.0,) * len(gpus),
            cold_starts=tuple(
                ColdStartView(start.namespace, start.model, start.phase, start.count, start.p50, start.p90)
                for start in served.cold_starts
            ),
        )

    def _scrape(self, target: EngineTarget, reading: EngineReading | None, now: float) -> EngineScrape:
        if reading is None:
            return EngineScrape(target, now, 0.0, error="refused", message=f"{target.url}: refused")
        good = EngineScrape(target, now, 0.0, KIND, (reading,))
        self._last_good[target.url] = good
        return good


# Of pods by their names, which are the same at every reading.
@lru_cache(maxsize=1024)
def _target(pod: str) -> EngineTarget:
    url = f"http://{pod}:8000/metrics"
    return EngineTarget(url, PodRef(NAMESPACE, pod, CONTAINER), {"app": APP}, (_info(pod).key.uuid,))


@lru_cache(maxsize=1024)
def _info(pod: str) -> GpuInfo:
    return GpuInfo(GpuKey(f"GPU-{pod}"), index="0")


def _facts(pod: Pod, cluster: Cluster, now: float) -> PodFacts:
    """Stamps as Kubernetes writes them, to the nanosecond; those that it has by now."""
    assert pod.scheduled is not None and pod.node is not None  # noqa: S101, PT018 -- only pods on nodes are looked at
    pulled = pod.scheduled + cluster.phases.image_pull
    return PodFacts(
        NAMESPACE,
        pod.name,
        uid=pod.name,
        node_created=cluster.nodes.created(pod.node),
        created=pod.created,
        scheduled=pod.scheduled,
        initialized=pod.scheduled,
        pulling={CONTAINER: pod.scheduled},
        pulled={CONTAINER: pulled} if pulled <= now else {},
        started={CONTAINER: pod.started} if pod.started <= now else {},
        restarts={CONTAINER: pod.restarts},
        containers={CONTAINER: f"{pod.name}/{pod.restarts}"},
        ready=pod.ready_at if pod.ready_at <= now else None,
    )


def _board(info: GpuInfo, pod: Pod, now: float) -> Gpu:
    fault = pod.fault
    mask, verdict = 0.0, _WELL
    if fault is not None and fault.kind == "lost":
        verdict = Verdict("lost", (("gpu_is_lost", "reboot_node"),), fault.at, 1, 0.0)
    elif fault is not None and fault.kind == "throttled":
        mask = float(rules.bits("hw_thermal_slowdown"))
        verdict = Verdict("degraded", (("hw_thermal_slowdown", "drain"),), fault.at, 1, 1.0 / fault.factor)
    return Gpu(
        info=info,
        readings={"throttle_reasons": GpuReading(mask, now, "nvml")},
        missing={},
        sources={},
        xids={},
        pods=(),
        shared=False,
        verdict=verdict,
        drift={},
        unowned_memory=None,
        at=now,
    )


def _gpu(gpu: Gpu) -> GpuView:
    verdict = gpu.verdict
    return GpuView(
        gpu.info.key.uuid,
        index=gpu.info.index,
        state=verdict.state,
        reasons=verdict.reasons,
        capacity=verdict.capacity,
    )


def _engine(engine: Engine, now: float) -> EngineView:
    """As exporter/feed.py and sources/feed.py have it on the wire between them."""
    target, reading = engine.target, engine.reading
    return EngineView(
        endpoint=target.url,
        namespace=target.pod.namespace,
        pod=target.pod.pod,
        container=target.pod.container,
        model=reading.model,
        engine=reading.engine,
        kind=engine.kind,
        labels=target.labels,
        seen_seconds=now - engine.since,
        error=engine.error,
        waiting=reading.waiting,
        running=reading.running,
        kv_usage=reading.kv_usage,
        kv_capacity_tokens=reading.kv_capacity_tokens,
        prompt_tokens_total=reading.prompt_tokens_total,
        generation_tokens_total=reading.generation_tokens_total,
        requests_finished_total=None if reading.finished is None else sum(reading.finished.values()),
        preemptions_total=reading.preemptions_total,
        rejections_total=reading.rejections_total,
        sleeping=reading.sleeping,
        gpus=tuple(key.uuid for key in engine.hardware.gpus),
        health=engine.hardware.state,
        capacity=engine.capacity,
        saturation=engine.saturation,
        cause=engine.cause,
        why=engine.diagnosis.why,
        max_running=reading.max_running,
        kv_peak=engine.kv_peak,
        **{name: getattr(engine.rates, name) for name in _RATES},
        **{name: getattr(engine.learned, name) for name in _LEARNED},
    )
