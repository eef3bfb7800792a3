"""The demo source: fake GPUs out of a file that changes."""

import asyncio
import json
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import pytest

from exporter.core import health
from exporter.core.join import merge
from exporter.core.model import GpuKey, GpuSample, PodRef
from exporter.core.signals import BY_NAME
from exporter.sources import demo
from exporter.sources.demo import DemoSource, FakeGpu, load, readings

ONE = GpuKey("GPU-1")


class Running:
    def __init__(self, path: Path | None) -> None:
        self._path = path
        self._news = asyncio.Event()
        self.source = DemoSource(str(path) if path else "")

    def start(self) -> None:
        self.source.start(self._news.set)

    def write(self, content: Any) -> None:
        assert self._path is not None
        aside = self._path.with_suffix(".new")
        aside.write_text(content if isinstance(content, str) else json.dumps(content))
        aside.replace(self._path)

    async def until(self, holds: Callable[[], Any]) -> Any:
        async with asyncio.timeout(10):
            while not (result := holds()):
                self._news.clear()
                await self._news.wait()
        return result

    async def sample(self, key: GpuKey = ONE, after: float = 0.0) -> GpuSample:
        def newest() -> GpuSample | None:
            found = self.source.samples().get(key)
            return found if found and found.at > after else None

        sample: GpuSample = await self.until(newest)
        return sample


@pytest.fixture
async def running(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Running]:
    monkeypatch.setattr(demo, "SAMPLE_SECONDS", 0.02)
    monkeypatch.setattr(demo, "LOOK_SECONDS", 0.005)
    one = Running(tmp_path / "gpus.json")
    one.write([{"uuid": "GPU-1"}])
    yield one
    await one.source.stop()


def state_of(sample: GpuSample) -> str:
    (merged,) = merge([sample])
    return health.judge(None, merged, [], sample.at)[0].state


async def test_without_a_file_there_are_two_healthy_gpus() -> None:
    one = Running(None)
    one.start()
    await one.until(lambda: len(one.source.samples()) == 2)
    for sample in one.source.samples().values():
        assert set(sample.values) | set(sample.missing) == set(BY_NAME)
        assert set(sample.missing.values()) == {"not_supported"}, "an H100 retires no pages"
        assert "H100" in sample.info.name
        assert state_of(sample) == "healthy"
    (collector,) = one.source.collectors()
    assert (collector.name, collector.success) == ("demo", True)
    await one.source.stop()


async def test_the_file_is_read_again_when_it_changes(running: Running) -> None:
    running.start()
    idle = await running.sample()
    assert idle.values["throttle_reasons"] == 0x1
    pods = [{"namespace": "n", "pod": "p", "container": "c"}]
    running.write([{"uuid": "GPU-1", "load": 0.9, "index": 3, "name": "Fake", "pods": pods}, {"uuid": "GPU-2"}])
    await running.sample(GpuKey("GPU-2"))
    busy = running.source.samples()[ONE]
    assert busy.values["power"] > idle.values["power"]
    assert (busy.info.index, busy.info.name, busy.pods) == ("3", "Fake", (PodRef("n", "p", "c"),))
    running.write([{"uuid": "GPU-2"}])
    await running.until(lambda: set(running.source.samples()) == {GpuKey("GPU-2")})


#: Either of them tells of uncorrectable errors.
COUNTS = ("ecc_uncorrected", "ecc_uncorrected_lifetime")


@pytest.mark.parametrize(
    ("gpu", "state"),
    [
        ({"lost": "gpu_is_lost"}, "lost"),
        ({"xids": [79]}, "lost"),
        ({"values": {"recovery_action": 1}}, "unhealthy"),
        ({"values": {"remap_pending": 1}}, "degraded"),
        ({"missing": dict.fromkeys(COUNTS, "no_permission")}, "unknown"),
        ({"missing": dict.fromkeys(COUNTS, "not_supported")}, "unknown"),
        ({"missing": dict.fromkeys((*COUNTS, "ecc_enabled"), "not_supported")}, "healthy"),
        ({"throttle": ["sw_power_cap"], "load": 1}, "healthy"),
    ],
    ids=str,
)
async def test_faults(running: Running, gpu: dict[str, Any], state: str) -> None:
    running.write([{"uuid": "GPU-1", **gpu}])
    running.start()
    assert state_of(await running.sample()) == state


async def test_each_xid_is_fired_once(running: Running) -> None:
    running.write([{"uuid": "GPU-1", "xids": [31]}])
    running.start()
    sample = await running.sample(after=(await running.sample()).at)
    assert [(e.key, e.xid, e.source) for e in running.source.take_xids()] == [(ONE, 31, "demo")]
    running.write([{"uuid": "GPU-1", "xids": [31, 31, 48]}])
    await running.until(lambda: len(running.source._xids) == 2)
    assert [event.xid for event in running.source.take_xids()] == [31, 48]
    running.write([{"uuid": "GPU-1", "xids": [13]}])
    await running.until(lambda: running.source._xids)
    assert [event.xid for event in running.source.take_xids()] == [13]
    assert sample.at > 0


async def test_a_hung_gpu_grows_old(running: Running) -> None:
    running.write([{"uuid": "GPU-1"}, {"uuid": "GPU-2"}])
    running.start()
    await running.sample()
    running.write([{"uuid": "GPU-1", "hung": True}, {"uuid": "GPU-2", "load": 0.5}])
    # The other GPU's load shows that the file has been read.
    await running.until(lambda: running.source.samples()[GpuKey("GPU-2")].values["utilization"] > 0)
    last = running.source.samples()[ONE]
    await running.sample(GpuKey("GPU-2"), after=running.source.samples()[GpuKey("GPU-2")].at)
    assert running.source.samples()[ONE] is last


async def test_counters_count_up(running: Running) -> None:
    running.write([{"uuid": "GPU-1", "load": 0.5, "throttle": ["hw_thermal_slowdown", "sw_power_cap"]}])
    running.start()
    first = await running.sample()
    second = await running.sample(after=first.at)
    passed = second.at - first.at
    assert second.values["throttle_hw_thermal"] - first.values["throttle_hw_thermal"] == pytest.approx(passed)
    assert second.values["throttle_sw_power_cap"] - first.values["throttle_sw_power_cap"] == pytest.approx(passed)
    assert second.values["throttle_hw_power_brake"] == 0
    watts = (second.values["energy"] - first.values["energy"]) / passed
    assert watts == pytest.approx(second.values["power"])


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ("[{", "truncated"),
        ("{}", "array"),
        ('[{"index": 1}]', "uuid"),
        ('[{"uuid": ""}]', "uuid"),
        ('[{"uuid": "GPU-1", "load": 1.5}]', "load"),
        ('[{"uuid": "GPU-1", "laod": 0.5}]', "laod"),
        ('[{"uuid": "GPU-1", "xids": [0]}]', "xids"),
        ('[{"uuid": "GPU-1", "throttle": ["heat"]}]', "'heat' is not one of gpu_idle"),
        ('[{"uuid": "GPU-1", "values": {"temp": 90}}]', "'temp' is not one of utilization"),
        ('[{"uuid": "GPU-1", "missing": {"power": "gone"}}]', "'gone' is not a reason"),
        ('[{"uuid": "GPU-1"}, {"uuid": "GPU-1"}]', "same uuid"),
        (b"\xff".decode("latin1"), "malformed"),
    ],
)
async def test_a_bad_file_leaves_the_gpus_as_they_were(
    running: Running, content: str, words: str, caplog: pytest.LogCaptureFixture
) -> None:
    running.write([{"uuid": "GPU-1", "load": 0.5}])
    running.start()
    first = await running.sample()
    running.write(content)
    await running.until(lambda: not running.source.collectors()[0].success)
    (collector,) = running.source.collectors()
    assert words in collector.message
    assert "gpus.json" in collector.message
    assert "\n" not in collector.message
    again = await running.sample(after=(await running.sample(after=first.at)).at)
    assert again.values["utilization"] > 0.3
    assert [record.getMessage() for record in caplog.records].count(collector.message) == 1
    running.write([{"uuid": "GPU-1"}])
    await running.until(lambda: running.source.collectors()[0].success)


async def test_a_file_that_is_not_there_yet(running: Running, tmp_path: Path) -> None:
    (tmp_path / "gpus.json").unlink()
    running.start()
    await running.until(lambda: "cannot be read" in running.source.collectors()[0].message)
    assert running.source.samples() == {}
    running.write([{"uuid": "GPU-1"}])
    await running.sample()


def test_values_are_plausible_and_depend_on_time_alone() -> None:
    for gpu in (FakeGpu("a"), FakeGpu("a", load=0.01), FakeGpu("a", load=1.0, throttle=("hw_power_brake",))):
        for at in range(0, 100, 7):
            values = readings(gpu, at)
            assert values == readings(gpu, at)
            assert 0 <= values["utilization"] <= 1
            assert 30 <= values["temperature"] <= 90
            assert 60 <= values["power"] <= values["power_limit"]
            assert 0 < values["clock_sm"] <= values["clock_sm_max"]
            assert values["memory_free"] + values["memory_used"] + values["memory_reserved"] == values["memory_total"]
    moving = {readings(FakeGpu("a", load=0.5), at)["utilization"] for at in range(50)}
    assert len(moving) > 10


def test_the_example_in_the_module_s_head_is_a_file_with_every_key() -> None:
    example = (demo.__doc__ or "").split("left out:\n\n", 1)[1].split("\n\n", 1)[0]
    (gpu,) = load(example.encode())
    assert gpu.xids == (79,)
    (keys,) = json.loads(example)
    assert set(keys) == set(FakeGpu.__struct_fields__)
