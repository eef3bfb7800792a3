"""What must hold on a machine with GPUs: `make test-gpu` runs this on the capture that it has just made.

Not called test_*.py, so that `make test` does not collect it: there is nothing to skip on a machine without a GPU.
"""

import os
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from exporter.core.model import GpuInfo, GpuSample
from exporter.core.snapshot import Snapshot
from tests.gpu import replay

SLOW_CALL = 1_000_000  # microseconds


@pytest.fixture(scope="module")
def captured() -> dict[str, Any]:
    return replay.read(Path(os.environ["PLIMSOLL_CAPTURE"]))


@pytest.fixture(scope="module")
def last(captured: Mapping[str, Any]) -> Snapshot:
    return list(replay.snapshots(captured))[-1]


@pytest.fixture(scope="module")
def newest(captured: Mapping[str, Any]) -> dict[str, GpuSample]:
    """The last sample of each board, by its index."""
    return {s.info.index: s for s in replay.samples(captured) if not s.info.key.instance}


def test_every_gpu_gives_samples_and_no_collector_fails(captured: dict[str, Any], newest: dict[str, GpuSample]) -> None:
    failing = [each["message"] for each in captured["collectors"] if not each["success"]]
    assert not failing
    boards = sorted(each["name"] for each in captured["collectors"] if re.fullmatch(r"nvml-\d+", each["name"]))
    assert boards
    assert sorted(f"nvml-{index}" for index in newest) == boards
    assert not [sample.lost for sample in newest.values() if sample.lost]


@pytest.mark.parametrize(
    ("signal", "low", "high"),
    [
        ("temperature", 5.0, 110.0),  # Celsius
        ("power", 1.0, 2500.0),  # W
        ("memory_total", 1e9, 1e12),  # bytes
        ("memory_used", 0.0, 1e12),
        ("clock_sm", 1e8, 4e9),  # Hz
        ("clock_sm_max", 5e8, 4e9),
    ],
)
def test_what_every_board_has_is_plausible(newest: dict[str, GpuSample], signal: str, low: float, high: float) -> None:
    for sample in newest.values():
        if signal not in sample.values:  # a board may say that it has no such sensor; it may not fail to answer
            assert sample.missing[signal].startswith("not_supported"), (sample.info.name, sample.missing)
        else:
            assert low <= sample.values[signal] <= high, sample.info.name


def test_no_board_uses_more_than_it_has(newest: dict[str, GpuSample]) -> None:
    for sample in newest.values():
        values = sample.values
        assert values.get("memory_used", 0.0) <= values.get("memory_total", float("inf"))
        assert values.get("clock_sm", 0.0) <= 1.05 * values.get("clock_sm_max", float("inf"))


def test_no_thread_has_died(captured: dict[str, Any], newest: dict[str, GpuSample]) -> None:
    assert captured["died"] == []
    expected = {"nvml-control", "nvml-xid", *(f"nvml-gpu-{index}" for index in newest)}
    assert expected <= set(captured["threads"])


def test_every_gpu_gets_a_verdict_and_a_data_centre_card_a_known_one(last: Snapshot) -> None:
    assert last.gpus
    for gpu in last.gpus:
        assert gpu.verdict.state != "unknown" or not replay.must_be_known(gpu), (gpu.info.name, gpu.verdict)


def test_xids_of_every_board_are_watched(captured: dict[str, Any], newest: dict[str, GpuSample]) -> None:
    assert {"xid": True}.items() <= {each["name"]: each["success"] for each in captured["collectors"]}.items()
    for sample in newest.values():
        assert sample.values.get("xid_watched") == 1.0, sample.info.name


def test_boards_in_mig_mode_show_their_instances(captured: dict[str, Any], newest: dict[str, GpuSample]) -> None:
    handles = {row["of"] for row in captured["calls"] if row["call"] == "nvmlDeviceGetGpuInstanceId"}
    for index, sample in newest.items():
        seen: set[GpuInfo] = {s.info for s in replay.samples(captured) if s.info.key.instance and s.info.index == index}
        asked = {of for of in handles if of.startswith(f"gpu {index} mig")}
        assert bool(seen) == bool(asked), (sample.info.name, asked)
        assert all(info.profile and info.mig_uuid for info in seen)


def test_no_call_takes_a_second(captured: dict[str, Any]) -> None:
    assert not [call for call in replay.calls(captured) if call[2] >= SLOW_CALL]
