"""The other policies that the simulator knows, each with the knob that its users turn.

May not be in here: how one decides (peers_*.py).

A row's `source` is where its rules were read. "From documentation" is said where the code that decides was not found.
Each sweep is wide enough to hold the best setting for fleets of 2 to 40 replicas that run 1 to 30 requests each.
"""

from collections.abc import Callable, Mapping
from typing import NamedTuple

from scaler.simulate import peers_aibrix, peers_hpa, peers_wva
from scaler.simulate.model import Controller, Scenario
from scaler.simulate.peers_aibrix import Aibrix
from scaler.simulate.peers_dynamo import LoadPlanner, ThroughputPlanner
from scaler.simulate.peers_hpa import Keda, slow_steps
from scaler.simulate.peers_knative import Knative
from scaler.simulate.peers_ray import RayServe
from scaler.simulate.peers_readings import kv_usage, running
from scaler.simulate.peers_static import Static


class Knob(NamedTuple):
    name: str
    unit: str
    help: str


class Peer(NamedTuple):
    name: str
    about: str
    source: str
    knob: Knob
    default: float
    sweep: tuple[float, ...]
    make: Callable[[float, Scenario], Controller]  # a fresh one for each run


_QUEUES = (0.2, 0.5, 1.0, 2.0, 5.0, 10.0, 20.0, 50.0)
_IN_FLIGHT = (2.0, 4.0, 8.0, 16.0, 32.0, 64.0, 128.0, 256.0)
_RUNNING = (2.0, 5.0, 8.0, 16.0, 32.0, 64.0, 128.0, 256.0)
_SHARES = (0.02, 0.05, 0.1, 0.15, 0.25, 0.35, 0.5, 0.65, 0.8)


def _operator(running_target: float, tokens_target: float | None, scenario: Scenario) -> Controller:
    return Keda(scenario, peers_hpa.operator(running_target, tokens_target), *slow_steps(60.0))


def _wva(analyzer: peers_wva.Analyzer, scenario: Scenario) -> Controller:
    return Keda(
        scenario, peers_wva.desired_replicas(analyzer, scenario.maximum), peers_wva.BEHAVIOR, peers_wva.BEHAVIOR
    )


_ROWS = (
    Peer(
        "static",
        "a fixed number of replicas",
        "a Deployment without an autoscaler",
        Knob("replicas", "replicas", "that run all the time"),
        4.0,
        (1.0, 2.0, 4.0, 8.0, 12.0, 16.0, 24.0, 32.0, 40.0),
        lambda knob, scenario: Static(scenario, knob),
    ),
    Peer(
        "keda-waiting",
        "KEDA on the sum of waiting requests, vLLM production-stack's example",
        "vllm-project/production-stack docs/source/use_cases/autoscaling-keda.rst (threshold 5, pollingInterval 15); "
        "kedacore/keda pkg/scalers/prometheus_scaler.go",
        Knob("threshold", "waiting requests a replica", "the trigger's threshold, AverageValue"),
        5.0,
        _QUEUES,
        lambda knob, scenario: Keda(scenario, peers_hpa.queue(knob)),
    ),
    Peer(
        "keda-in-flight",
        "KEDA on the sum of waiting and running requests",
        "kedacore/keda pkg/scalers/prometheus_scaler.go; the query is a common one of vLLM's users",
        Knob("target", "requests a replica", "waiting and running, AverageValue"),
        16.0,
        _IN_FLIGHT,
        lambda knob, scenario: Keda(scenario, peers_hpa.concurrency(knob)),
    ),
    Peer(
        "hpa-gpu",
        "the HPA on the mean GPU utilisation of the pods (DCGM)",
        "kubernetes/kubernetes pkg/controller/podautoscaler/replica_calculator.go (calcPlainMetricReplicas)",
        Knob("target", "per cent", "GPU utilisation that the HPA aims at"),
        80.0,
        (20.0, 30.0, 40.0, 50.0, 60.0, 70.0, 80.0, 90.0, 95.0),
        lambda knob, scenario: Keda(scenario, peers_hpa.gpu_utilization(knob)),
    ),
    Peer(
        "kv-waiting",
        "KEDA on KV cache usage and on waiting requests (5 a replica); the larger proposal wins",
        "from documentation: kserve/website autoscaling_llm (both metrics as KEDA triggers); kubernetes/kubernetes "
        "pkg/controller/podautoscaler/horizontal.go (computeReplicasForMetrics)",
        Knob("target", "share of the KV cache", "KV cache usage a replica, AverageValue"),
        0.65,
        _SHARES,
        lambda knob, scenario: Keda(scenario, peers_hpa.kv_or_queue(knob, 5.0)),
    ),
    Peer(
        "keda-gpu-scaler",
        "its profiles vllm-inference (VRAM in use, 80 %: constant, as vLLM allocates all at its start) and "
        "vllm-queue-depth (the queue of one replica)",
        "pmady/keda-gpu-scaler pkg/profiles/profiles.go, pkg/scaler/server.go, "
        "deploy/examples/vllm-queue-depth-scaledobject.yaml",
        Knob("threshold", "waiting requests", "targetValue of vllm-queue-depth"),
        5.0,
        _QUEUES,
        lambda knob, scenario: Keda(scenario, peers_hpa.gpu_scaler(knob)),
    ),
    Peer(
        "production-stack-operator",
        "vLLM production-stack's operator with its default triggers: running requests, and 100 tokens/s a pod of "
        "prompts and of generation, which a loaded vLLM exceeds many times; one pod in 60 s",
        "vllm-project/production-stack operator/api/v1alpha1/vllmruntime_types.go (thresholds and policies); the "
        "queries from documentation",
        Knob("requestsRunningThreshold", "running requests a replica", "the first trigger; the others stay at 100"),
        5.0,
        _RUNNING,
        lambda knob, scenario: _operator(knob, 100.0, scenario),
    ),
    Peer(
        "production-stack-running",
        "the same operator with its triggers on tokens set out of reach",
        "vllm-project/production-stack operator/api/v1alpha1/vllmruntime_types.go",
        Knob("requestsRunningThreshold", "running requests a replica", "the one trigger that is left"),
        5.0,
        _RUNNING,
        lambda knob, scenario: _operator(knob, None, scenario),
    ),
    Peer(
        "kaito",
        "keda-kaito-scaler's composite mode on the mean queue: one more over the threshold when all replicas are "
        "ready, one less under it, 300 s apart",
        "kaito-project/keda-kaito-scaler pkg/scaledobject/builder.go, pkg/aggregator/service_avg_aggregator.go; "
        "the default is README.md's example",
        Knob("threshold", "waiting requests a replica", "its up-threshold and down-threshold"),
        10.0,
        _QUEUES,
        lambda knob, scenario: Keda(scenario, peers_hpa.kaito(knob), *slow_steps(300.0, 60.0)),
    ),
    Peer(
        "wva-v1",
        "llm-d's workload variant autoscaler, saturation by KV usage and queue, followed by an HPA",
        "llm-d-incubation/workload-variant-autoscaler internal/saturation/analyzer.go, internal/engines/saturation/"
        "engine.go, charts/workload-variant-autoscaler/values.yaml",
        Knob("kvCacheThreshold", "share of the KV cache", "from which a replica is saturated"),
        peers_wva.KV,
        (0.12, 0.15, 0.2, 0.3, 0.4, 0.5, 0.65, 0.8, 0.95),
        lambda knob, scenario: _wva(peers_wva.v1(knob), scenario),
    ),
    Peer(
        "wva-v2",
        "llm-d's workload variant autoscaler, tokens in demand against tokens that a replica carries",
        "llm-d/llm-d-workload-variant-autoscaler internal/engines/analyzers/saturation_v2/analyzer.go, "
        "internal/engines/pipeline/cost_aware_optimizer.go",
        Knob("scaleUpThreshold", "share of what replicas carry", "the boundary down stays at 0.70 / 0.85 of it"),
        0.85,
        (0.1, 0.15, 0.2, 0.25, 0.3, 0.4, 0.6, 0.85, 0.95),
        lambda knob, scenario: _wva(peers_wva.v2(knob, scenario.profile), scenario),
    ),
    Peer(
        "aibrix-kpa",
        "AIBrix's KPA on the KV usage that the mean pod shows, as its sample has it. It takes mean / target for the "
        "number of pods, so a fleet stays small",
        "vllm-project/aibrix pkg/controller/podautoscaler/algorithm/kpa.go, podautoscaler_controller.go, "
        "samples/autoscaling/kpa.yaml",
        Knob("targetValue", "share of the KV cache", "of the mean pod"),
        0.5,
        (0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 0.9),
        lambda knob, scenario: Aibrix(scenario, kv_usage, knob, peers_aibrix.kpa),
    ),
    Peer(
        "aibrix-apa",
        "AIBrix's APA on the KV usage of the mean pod, as its sample has it",
        "vllm-project/aibrix pkg/controller/podautoscaler/algorithm/apa.go, podautoscaler_controller.go, "
        "samples/autoscaling/apa.yaml",
        Knob("targetValue", "share of the KV cache", "of the mean pod"),
        0.5,
        _SHARES,
        lambda knob, scenario: Aibrix(scenario, kv_usage, knob, peers_aibrix.apa),
    ),
    Peer(
        "aibrix-apa-running",
        "AIBrix's APA on running requests of the mean pod",
        "vllm-project/aibrix pkg/controller/podautoscaler/algorithm/apa.go, podautoscaler_controller.go",
        Knob("targetValue", "running requests", "of the mean pod"),
        16.0,
        (1.0, 2.0, 3.0, 4.0, 6.0, 8.0, 16.0, 32.0, 64.0),
        lambda knob, scenario: Aibrix(scenario, running, knob, peers_aibrix.apa),
    ),
    Peer(
        "knative",
        "Knative's KPA on concurrency: mean of 60 s, panic at twice what is ready; aims at 70 % of its target",
        "knative/serving pkg/autoscaler/scaling/autoscaler.go, pkg/autoscaler/aggregation/bucketing.go, "
        "pkg/reconciler/autoscaling/resources/target.go",
        Knob("target", "requests a replica", "autoscaling.knative.dev/target"),
        100.0,
        (2.0, 4.0, 8.0, 16.0, 32.0, 64.0, 100.0, 200.0, 360.0),
        lambda knob, scenario: Knative(scenario, knob),
    ),
    Peer(
        "ray-serve",
        "Ray Serve on ongoing requests: mean of 30 s, up after 30 s, down after 600 s",
        "ray-project/ray python/ray/serve/autoscaling_policy.py, python/ray/serve/_private/autoscaling_state.py",
        Knob("target_ongoing_requests", "requests a replica", "waiting and running"),
        2.0,
        (1.0, *_IN_FLIGHT),
        lambda knob, scenario: RayServe(scenario, knob),
    ),
    Peer(
        "dynamo-load",
        "NVIDIA Dynamo's planner by load: one worker more or less by the fullest KV cache, waiting prompts counted",
        "ai-dynamo/dynamo components/src/dynamo/planner/core/load_scaling.py (_agg_easy_decision), state_machine.py",
        Knob("up", "share of the KV cache", "1.0 is its target 'throughput', 0.4 is 'latency'; less below 0.6 of it"),
        1.0,
        (0.05, 0.1, 0.15, 0.2, 0.3, 0.4, 0.6, 1.0, 1.5),
        lambda knob, scenario: LoadPlanner(scenario, knob),
    ),
    Peer(
        "dynamo-throughput",
        "NVIDIA Dynamo's planner by throughput, with its constant predictor and a profiled rate",
        "ai-dynamo/dynamo components/src/dynamo/planner/core/throughput_scaling.py (_throughput_agg), "
        "components/src/dynamo/planner/config/defaults.py",
        Knob("rate", "requests/s", "that profiling found one worker to do within the SLA"),
        1.0,
        (0.1, 0.2, 0.5, 1.0, 2.0, 4.0, 8.0, 16.0, 32.0),
        lambda knob, scenario: ThroughputPlanner(scenario, knob),
    ),
)

PEERS: Mapping[str, Peer] = {peer.name: peer for peer in _ROWS}
