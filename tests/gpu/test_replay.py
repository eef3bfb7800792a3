"""Captures of real NVML (tests/fixtures/nvml/) through the core, and the lane that makes them, on the C library."""

import ctypes
import json
import os
import re
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from exporter.core.health import STATES
from exporter.core.signals import BY_NAME, MISSING_REASONS
from tests.gpu import replay
from tests.gpu.capture import FORMAT, name_of
from tests.gpu.tracer import Names
from tests.nvml.fake import FakeNvml

ROOT = Path(__file__).parents[2]
COMMITTED = sorted((ROOT / "tests" / "fixtures" / "nvml").glob("*.json"))
ONE_INSTANCE = "1,0,MIG-11111111-2222-3333-4444-555555555555,NVIDIA H100 80GB HBM3 MIG 1g.10gb,10200547328,1048576"
#: Whatever tells one board from another.
PRIVATE = re.compile(r"[0-9a-fA-F]{8}-[0-9a-fA-F]{4}-|[0-9a-fA-F]{4,8}:[0-9a-fA-F]{2}:[0-9a-fA-F]{2}")


def make(*arguments: str, environ: Mapping[str, str]) -> subprocess.CompletedProcess[str]:
    """`make test-gpu` with the environment as it is; -o: nothing is to be installed for it."""
    command = ["make", "--no-print-directory", "-o", ".venv/.dev", f"BIN={Path(sys.executable).parent}", "test-gpu"]
    return subprocess.run(
        [*command, *arguments],
        check=False,
        cwd=ROOT,
        env={**os.environ, **environ},
        capture_output=True,
        text=True,
        timeout=50,
    )


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> tuple[subprocess.CompletedProcess[str], Path]:
    """The lane's run against the C library with a board as it comes and one in MIG mode, and the capture."""
    directory = tmp_path_factory.mktemp("capture")
    state = {"gpus": 2, "gpu1.mig_mode": 1, "gpu1.mig0": ONE_INSTANCE, "gpu0.field.82": "NOT_SUPPORTED"}
    nvml = FakeNvml(directory, state)
    ran = make(f"ARGS={directory}", environ=nvml.environ)
    assert ran.returncode == 0, ran.stdout + ran.stderr
    (path,) = directory.glob("*.json")
    return ran, path


@pytest.fixture(params=[None, *COMMITTED], ids=["made here", *(path.stem for path in COMMITTED)])
def path(request: pytest.FixtureRequest, made: tuple[Any, Path]) -> Path:
    return request.param or made[1]


def test_every_sample_of_a_capture_is_made_of_our_signals(path: Path) -> None:
    captured = replay.read(path)
    assert captured["format"] == FORMAT
    assert path.name == name_of(captured)
    for sample in replay.samples(captured):
        assert set(sample.values) | set(sample.missing) <= set(BY_NAME)
        assert set(sample.missing.values()) <= set(MISSING_REASONS)
        assert sample.values.keys().isdisjoint(sample.missing)


def test_the_core_makes_a_verdict_of_a_capture(path: Path) -> None:
    captured = replay.read(path)
    last = list(replay.snapshots(captured))[-1]
    assert {gpu.info.key for gpu in last.gpus} == {sample.info.key for sample in replay.samples(captured)}
    for gpu in last.gpus:
        assert gpu.verdict.state in STATES
        assert gpu.verdict.reasons or gpu.verdict.state == "healthy"
        assert gpu.verdict.state != "unknown" or not replay.must_be_known(gpu), gpu.verdict


def test_nothing_in_a_capture_names_a_board(path: Path) -> None:
    text = path.read_text(encoding="utf-8")
    assert not PRIVATE.search(text)
    assert not re.search(r'"nvmlDeviceGetSerial".*"value": "(?!SERIAL-)', text)


def test_the_lane_is_green_on_the_c_library(made: tuple[subprocess.CompletedProcess[str], Path]) -> None:
    ran, path = made
    first, *_, passed, last = ran.stdout.splitlines()
    assert re.fullmatch(
        r"test-gpu: 2 GPUs, driver [0-9.]+: \d+ calls, poll p99 \d+\.\d\d ms of \d+, slowest call nvml\w+ \d+\.\d\d ms",
        first,
    )
    assert last == f"test-gpu: wrote {path}"
    assert re.search(r"\b\d+ passed", passed)
    assert not re.search("skipped|failed", passed)


def test_what_was_seen_of_a_sick_machine_is_not_kept_among_the_fixtures(tmp_path: Path) -> None:
    nvml = FakeNvml(tmp_path, {"gpus": 1, "gpu0.temperature": 200})
    kept = tmp_path / "kept"
    ran = make(f"ARGS={kept}", environ=nvml.environ)
    assert ran.returncode != 0
    assert not kept.exists()
    said = re.fullmatch(
        r"test-gpu: not kept, since the lane failed: what was seen is in (.+)", ran.stdout.splitlines()[-1]
    )
    assert said, ran.stdout
    left = Path(said[1])
    assert replay.read(left)["samples"]
    left.unlink()
    left.parent.rmdir()


def test_a_driver_that_hangs_is_a_failure_in_one_line_and_not_waited_for(tmp_path: Path) -> None:
    nvml = FakeNvml(tmp_path, {"gpus": 1, "hang.nvmlInitWithFlags": 600})
    ran = make(f"ARGS=--patience 0.3 {tmp_path}", environ=nvml.environ)
    assert ran.returncode != 0
    assert ran.stderr.startswith("test-gpu: NVML has not opened within 0.3 s; look for Xid errors ")


def test_a_capture_holds_every_call_with_its_answers_and_times(made: tuple[Any, Path]) -> None:
    captured = replay.read(made[1])
    calls = {(row["of"], row["call"], row["arguments"]): row for row in captured["calls"]}
    power = calls["gpu 0", "nvmlDeviceGetPowerUsage", ""]
    assert power["answers"] == [{"value": 312000}]
    polls = len(captured["poll_seconds"]["nvml-0"])
    assert polls >= 5
    assert len(power["microseconds"]) >= polls
    assert calls["gpu 1 mig 0", "nvmlDeviceGetUUID", ""]["answers"] == [{"value": "MIG-1-0"}]
    recovery = calls["gpu 1", "nvmlDeviceGetFieldValues", "field 230"]
    assert recovery["answers"][0]["value"] == 0
    refused = calls["gpu 0", "nvmlDeviceGetFieldValues", "field 82"]
    assert refused["answers"] == [{"error": "NOT_SUPPORTED", "number": 3}]
    assert calls["event set", "nvmlEventSetWait_v2", "1000"]["answers"] == [{"error": "TIMEOUT", "number": 10}]
    instances = {sample.info.key: sample.info for sample in replay.samples(captured) if sample.info.key.instance}
    assert [(info.key.uuid, info.mig_uuid, info.profile) for info in instances.values()] == [
        ("GPU-1", "MIG-1-0", "1g.10gb")
    ]


def test_without_a_gpu_the_lane_says_so_in_one_line_and_succeeds(tmp_path: Path) -> None:
    try:
        ctypes.CDLL("libnvidia-ml.so.1")
    except OSError:
        environ = {}
    else:  # this machine has a driver: one without a GPU stands before it
        environ = FakeNvml(tmp_path, {"gpus": 0}).environ
    ran = make(f"ARGS={tmp_path}", environ=environ)
    assert ran.returncode == 0, ran.stderr
    assert re.fullmatch(
        r"test-gpu: skipped: (no NVIDIA driver here \(libnvidia-ml\.so\.1: .+\)|.+ no GPU here)\n", ran.stdout
    )
    assert not list(tmp_path.glob("*.json"))


@pytest.mark.parametrize(
    ("state", "line"),
    [
        ({"gpus": 0}, "test-gpu: skipped: the NVIDIA driver has no GPU here"),
        (
            {"driver": "DRIVER_NOT_LOADED"},
            "test-gpu: skipped: no NVIDIA driver here (libnvidia-ml.so.1: Driver Not Loaded)",
        ),
    ],
)
def test_a_driver_without_a_gpu_is_skipped_too(tmp_path: Path, state: dict[str, object], line: str) -> None:
    ran = make(f"ARGS={tmp_path}", environ=FakeNvml(tmp_path, state).environ)
    assert (ran.returncode, ran.stdout) == (0, line + "\n")


def test_a_driver_that_refuses_is_no_reason_to_skip(tmp_path: Path) -> None:
    nvml = FakeNvml(tmp_path, {"init": "LIB_RM_VERSION_MISMATCH"})
    ran = make(f"ARGS={tmp_path}", environ=nvml.environ)
    assert ran.returncode != 0
    assert ran.stderr.startswith("test-gpu: NVML cannot be opened (")
    assert "nvidia-smi must work here" in ran.stderr


def test_a_name_that_was_left_in_is_found() -> None:
    names = Names()
    names.of("SERIAL", "1324523012345", "gpu 0")
    assert names.text("GPU-8c4a1b2c-0000-1111-2222-333344445555 at 00000000:3B:00.0", "gpu 0") == "GPU-0 at PCI-0"
    assert names.text("0000:3b:00.0") == "PCI-0"
    assert names.text("MIG-GPU-8c4a1b2c-0000-1111-2222-333344445556/1/0", "gpu 1 mig 0") == "GPU-1-0/1/0"
    assert names.left_in(json.dumps({"a": "1324523012345", "b": "GPU-0"})) == ["1324523012345"]
    assert names.left_in("MIG-8c4a1b2c-0000-1111-2222-333344445555") == ["MIG-8c4a1b2c-0000-1111-2222-333344445555"]
