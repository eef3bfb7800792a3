"""A GPU breaks under the real ctypes path: the C fake of NVML, the exporter and the scaler as processes."""

import json
import re
import time
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from tests.nvml.fake import FakeNvml
from tests.support.engines import FakeEngine, Row, vllm
from tests.support.feed import listen
from tests.support.keda import KedaClient
from tests.support.kubelet import FakeKubelet, gpus, pod
from tests.support.programs import Program, eventually, exporter, get, metrics, scaler, value

#: The promise is about a second; the rest is for a loaded machine.
PROMPT_SECONDS = 5.0
PODS = ("chat-0", "chat-1")  # each on the GPU of its number
METADATA = {"podSelector": "app=chat"}


class Bench:
    def __init__(self, nvml: FakeNvml, node: Program, plimsoll: Program, keda: KedaClient) -> None:
        self.nvml = nvml
        self.node = node
        self.plimsoll = plimsoll
        self.keda = keda

    def page(self) -> str:
        return metrics(self.node)

    def state(self, gpu: str, state: str) -> None:
        assert value(self.page(), "plimsoll_gpu_health_state", gpu=gpu, state=state) == 1


def needed(explanation: str) -> float:
    """Replicas that the work needs, before any hold."""
    found = re.search(r"needs ([0-9.]+)", explanation)
    assert found, explanation
    return float(found[1])


@pytest.fixture
def bench(tmp_path: Path) -> Iterator[Bench]:
    nvml = FakeNvml(tmp_path, {"gpus": 2})
    with ExitStack() as stack:
        engines = [stack.enter_context(FakeEngine(vllm(Row(waiting=0, running=3)))) for _ in PODS]
        targets = [
            {"url": engine.url, "namespace": "test", "pod": pod, "labels": {"app": "chat"}, "gpus": [str(index)]}
            for index, (pod, engine) in enumerate(zip(PODS, engines, strict=True))
        ]
        path = tmp_path / "engines.json"
        path.write_text(json.dumps(targets))
        arguments = ("--engines.file", str(path), "--nvml.library", nvml.library)
        node = stack.enter_context(exporter(*arguments, gpu="nvml", environ=nvml.environ))
        plimsoll = stack.enter_context(scaler(node))
        keda = stack.enter_context(KedaClient(plimsoll.addresses["grpc"]))
        yield Bench(nvml, node, plimsoll, keda)


def test_an_xid_79_takes_its_replica_out_of_the_supply(bench: Bench) -> None:
    for gpu in ("0", "1"):
        eventually(lambda gpu=gpu: bench.state(gpu, "healthy"))
    before = eventually(lambda: bench.keda.poll("chat", **METADATA))
    assert "2 supplying" in before.explanation

    fired = time.monotonic()
    bench.nvml.xid(gpu=1, code=79)
    eventually(lambda: bench.state("1", "lost"), PROMPT_SECONDS)

    def taken_out() -> float:
        polled = bench.keda.poll("chat", **METADATA)
        assert "1 dead" in polled.explanation
        assert "1 supplying" in polled.explanation
        assert "pod chat-1" in polled.explanation
        assert "xid_79" in polled.explanation
        return needed(polled.explanation)

    after = eventually(taken_out, PROMPT_SECONDS)
    assert time.monotonic() - fired < PROMPT_SECONDS
    # It takes a place and carries nothing. (The answer is held at 2: the scaler has only just started.)
    assert needed(before.explanation) < 1 < after

    bench.state("0", "healthy")
    page = bench.page()
    assert value(page, "plimsoll_gpu_xid_errors_total", gpu="1", xid="79") == 1
    assert value(page, "plimsoll_gpu_capacity_ratio", gpu="1") == 0
    assert value(page, "plimsoll_gpu_health_reason", gpu="1", reason="xid_79") == 1
    assert value(page, "plimsoll_engine_capacity_ratio", pod="chat-1") == 0
    # Its server still answers 200: it is hardware at once, and wedged once its counters are seen to stand still.
    causes = [value(page, "plimsoll_engine_diagnosis", pod="chat-1", cause=cause) for cause in ("hardware", "wedged")]
    assert sum(causes) == 1
    heard = {gpu.index: gpu for gpu in listen(bench.node.addresses["feed"]).gpus}
    assert heard["1"].state == "lost"
    assert dict(heard["1"].xids) == {79: 1}
    assert heard["0"].state == "healthy"


def test_an_xid_79_on_one_of_two_gpus_takes_the_tensor_parallel_replica_out(tmp_path: Path) -> None:
    """The kubelet says which GPUs a pod has: nobody has declared them."""
    nvml = FakeNvml(tmp_path, {"gpus": 4})
    uuids = [f"GPU-00000000-0000-0000-0000-00000000000{index}" for index in range(4)]
    pods = [pod("test", name, vllm=gpus(*uuids[2 * index : 2 * index + 2])) for index, name in enumerate(PODS)]
    with ExitStack() as stack:
        kubelet = stack.enter_context(FakeKubelet(tmp_path / "kubelet.sock", pods))
        engines = [stack.enter_context(FakeEngine(vllm(Row(waiting=0, running=3)))) for _ in PODS]
        targets = [
            {"url": engine.url, "namespace": "test", "pod": name, "labels": {"app": "chat"}}
            for name, engine in zip(PODS, engines, strict=True)
        ]
        path = tmp_path / "engines.json"
        path.write_text(json.dumps(targets))
        arguments = ("--engines.file", str(path), "--nvml.library", nvml.library)
        listens = ("--kubelet.socket", str(kubelet.socket))
        node = stack.enter_context(exporter(*arguments, *listens, gpu="nvml", environ=nvml.environ))
        plimsoll = stack.enter_context(scaler(node))
        keda = stack.enter_context(KedaClient(plimsoll.addresses["grpc"]))

        def both_supply() -> None:
            assert "2 supplying" in keda.poll("chat", **METADATA).explanation
            assert value(metrics(node), "plimsoll_engine_capacity_ratio", pod="chat-1") == 1

        eventually(both_supply)
        nvml.xid(gpu=3, code=79)

        def taken_out() -> None:
            explanation = keda.poll("chat", **METADATA).explanation
            assert "1 dead" in explanation
            assert "1 supplying" in explanation
            assert "xid_79" in explanation

        eventually(taken_out, PROMPT_SECONDS)
        page = metrics(node)
        assert value(page, "plimsoll_gpu_health_state", gpu="2", state="healthy") == 1
        assert value(page, "plimsoll_engine_capacity_ratio", pod="chat-0") == 1
        assert value(page, "plimsoll_engine_capacity_ratio", pod="chat-1") == 0
        owned = {"namespace": "test", "pod": "chat-1", "container": "vllm", "gpu": "3"}
        assert value(page, "plimsoll_gpu_pod", **owned, sharing="exclusive") == 1
        assert value(page, "plimsoll_gpu_pod_health_state", **owned, state="lost") == 1
        assert value(page, "plimsoll_gpu_pod_health_reason", **owned, reason="xid_79", action="reboot_node") == 1
        assert value(page, "plimsoll_node_gpus", kind="allocated") == 4


def test_a_verdict_and_its_counts_outlive_the_exporter(tmp_path: Path) -> None:
    nvml = FakeNvml(tmp_path, {"gpus": 2})
    arguments = ("--nvml.library", nvml.library, "--state.file", str(tmp_path / "exporter.state"))
    with exporter(*arguments, gpu="nvml", environ=nvml.environ) as node:

        def well() -> None:
            assert value(metrics(node), "plimsoll_gpu_health_state", gpu="1", state="healthy") == 1

        eventually(well)
        nvml.xid(gpu=1, code=48)

        def sick(program: Program) -> None:
            page = metrics(program)
            assert value(page, "plimsoll_gpu_health_state", gpu="1", state="unhealthy") == 1
            assert value(page, "plimsoll_gpu_xid_errors_total", gpu="1", xid="48") == 1

        eventually(lambda: sick(node))
        assert node.stop() == 0
    with exporter(*arguments, gpu="nvml", environ=nvml.environ) as again:
        eventually(lambda: sick(again))
        assert value(metrics(again), "plimsoll_gpu_health_reason", gpu="1", reason="xid_48") == 1


def test_a_driver_that_hangs_costs_no_scrape_and_no_end(bench: Bench) -> None:
    eventually(lambda: bench.state("0", "healthy"))
    bench.nvml.set({"gpu0.hang.nvmlDeviceGetPowerUsage": 30})
    # The verdict goes stale, while page and scaler answer as before.
    eventually(lambda: bench.state("0", "unknown"), 20.0)
    slowest = 0.0
    for _ in range(20):
        began = time.perf_counter()
        assert get(f"{bench.node.web}/metrics")[0] == 200
        slowest = max(slowest, time.perf_counter() - began)
    assert slowest < 0.5
    assert "waiting=0 running=6" in bench.keda.poll("chat", **METADATA).explanation
    began = time.monotonic()
    assert bench.node.stop() == 0
    assert time.monotonic() - began < 5.0
