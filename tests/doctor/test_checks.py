"""Each check, row by row, on a node that is given: no process, no driver."""

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
from msgspec.structs import replace

from exporter import settings
from exporter.core.model import GpuKey, GpuSample, KubeletReading
from exporter.core.node import NodeMemory, step
from exporter.core.snapshot import Collector
from exporter.doctor.look import Look
from exporter.doctor.ports import Port
from exporter.doctor.probe import Probe
from exporter.doctor.table import CHECKS, look_at
from tests.doctor.root import lay, pci
from tests.exporter.build import START, inputs, sample

BY_ID = {row.id: row.check for row in CHECKS}
POD = {"KUBERNETES_SERVICE_HOST": "10.0.0.1"}
OPEN = Collector("nvml", True, 0.01, START)


def board(index: int) -> Collector:
    return Collector(f"nvml-{index}", True, 0.001, START)


def probe(
    *samples: GpuSample,
    collectors: tuple[Collector, ...] | None = None,
    beside: tuple[Collector, ...] = (),
    kubelet: KubeletReading | None = None,
    **more: Any,
) -> Probe:
    """What comes of these samples, taken twice. collectors: all of them; beside: with NVML's, which are well."""
    if collectors is None:
        collectors = (OPEN, *map(board, sorted({int(each.info.index) for each in samples})), *beside)
    memory = NodeMemory()
    for at in (START, START + 1.0):
        said = inputs(samples=[replace(each, at=at) for each in samples], collectors=collectors, kubelet=kubelet)
        snapshot, memory = step(memory, said, at)
    seen = {(each.source, each.info.key): each for each in samples}
    return Probe(**{"seconds": 1.0, "snapshot": snapshot, "samples": seen, "kubelet": kubelet, "watching": False,
                    "targets": (), "ports": (), **more})  # fmt: skip


@pytest.fixture
def root(tmp_path: Path) -> Path:
    return lay(tmp_path)


def ask(
    check: str, found: Probe, root: Path, environ: Mapping[str, str] | None = None, *arguments: str
) -> list[tuple[str, str]]:
    """(status, found) of each of the check's results."""
    look = Look(settings.read(arguments, {}), found, root, environ or {})
    return [(said.status, said.found) for said in BY_ID[check](look)]


def without(*signals: str, **missing: str) -> GpuSample:
    """A GPU that is well, of which these are not read; missing: signal -> why."""
    whole = sample()
    gone = {*signals, *missing}
    return replace(whole, values={name: v for name, v in whole.values.items() if name not in gone}, missing=missing)


def having(**values: float) -> GpuSample:
    whole = sample()
    return replace(whole, values={**whole.values, **values})


SHUT = Collector("nvml", False, 0.1, None, "NVML: Unknown Error; nvidia-smi must work here")


@pytest.mark.parametrize(
    ("environ", "is_open", "status", "words"),
    [
        ({}, True, "skipped", "not in a container"),
        ({}, False, "skipped", "not in a container"),
        (POD, True, "ok", "CDI"),
        (POD, False, "ok", "CDI"),
        ({**POD, "NVIDIA_VISIBLE_DEVICES": "all"}, True, "ok", "NVIDIA_VISIBLE_DEVICES=all"),
        ({**POD, "NVIDIA_VISIBLE_DEVICES": "all"}, False, "ok", "NVIDIA_VISIBLE_DEVICES=all"),
        # Where CDI brings the GPUs the runtime is told to bring none.
        ({**POD, "NVIDIA_VISIBLE_DEVICES": "void"}, True, "ok", "NVIDIA_VISIBLE_DEVICES=void, and NVML is open"),
        ({**POD, "NVIDIA_VISIBLE_DEVICES": "none"}, True, "ok", "NVML is open"),
        ({**POD, "NVIDIA_VISIBLE_DEVICES": ""}, True, "ok", "NVML is open"),
        ({**POD, "NVIDIA_VISIBLE_DEVICES": "void"}, False, "fail", "was given no GPU"),
        ({**POD, "NVIDIA_VISIBLE_DEVICES": "none"}, False, "fail", "was given no GPU"),
        ({**POD, "NVIDIA_VISIBLE_DEVICES": ""}, False, "fail", "was given no GPU"),
        ({**POD, "NVIDIA_VISIBLE_DEVICES": "0,1"}, True, "warn", "other GPUs of the node"),
        ({**POD, "NVIDIA_VISIBLE_DEVICES": "all", "NVIDIA_DRIVER_CAPABILITIES": "compute"}, True, "ok", "all"),
        ({"container": "x", "NVIDIA_VISIBLE_DEVICES": "all", "NVIDIA_DRIVER_CAPABILITIES": "compute"}, False, "fail",
         "without utility"),
        ({**POD, "NVIDIA_VISIBLE_DEVICES": "void", "NVIDIA_DRIVER_CAPABILITIES": "compute"}, True, "ok", "open"),
        ({**POD, "NVIDIA_VISIBLE_DEVICES": "all", "NVIDIA_DRIVER_CAPABILITIES": "compute,utility"}, True, "ok", "all"),
        ({**POD, "NVIDIA_VISIBLE_DEVICES": "all", "NVIDIA_DRIVER_CAPABILITIES": "compute,utility"}, False, "ok", "all"),
    ],
)  # fmt: skip
def test_what_a_container_was_given(
    root: Path, environ: dict[str, str], is_open: bool, status: str, words: str
) -> None:
    seen = probe(sample(0), sample(1)) if is_open else probe(collectors=(SHUT,))
    ((said, found),) = ask("driver.container", seen, root, environ)
    assert said == status
    assert words in found


@pytest.mark.parametrize("environ", [{}, POD])
@pytest.mark.parametrize("library", ["", "/opt/my driver/nvml"])
def test_an_open_nvml_has_a_library_wherever_it_is(root: Path, library: str, environ: dict[str, str]) -> None:
    # This process has none loaded, so that its file is not to be seen.
    ((said, found),) = ask("driver.library", probe(sample()), root, environ, "--nvml.library", library)
    assert (said, found) == ("ok", library or "found by the loader")


def test_a_library_that_is_not_there_is_never_told_of_without_a_word(root: Path) -> None:
    mute = probe(collectors=(Collector("nvml", False, 0.1, None, ""),))
    for environ in ({}, POD):
        for library in ("", "/opt/nvml"):
            ((said, found),) = ask("driver.library", mute, root / "none", environ, "--nvml.library", library)
            assert (said, found) == ("fail", "NVML's library is not loaded")


def test_gpus_on_the_bus_against_those_of_nvml(tmp_path: Path) -> None:
    two = probe(sample(0), sample(1))
    assert ask("driver.gpus", two, lay(tmp_path / "a")) == [("ok", "2 by NVML, 2 on the PCI bus")]
    three = lay(tmp_path / "b", gpus=3)
    lost = [("fail", "NVML has 2, the PCI bus 3: 00000000:02:00 is missing")]
    assert ask("driver.gpus", two, three) == lost
    # A container that was given some of them cannot tell whether the others are well.
    assert ask("driver.gpus", two, three, {"NVIDIA_VISIBLE_DEVICES": "0,1"})[0][0] == "warn"
    # Nor one of which the runtime has made device files for a part alone (CDI). On the node itself they are not gone.
    assert ask("driver.gpus", two, lay(tmp_path / "d", gpus=3, without=["dev/nvidia2"]), POD)[0][0] == "warn"
    assert ask("driver.gpus", two, lay(tmp_path / "e", gpus=3, without=["dev/nvidia2"]))[0][0] == "fail"
    assert ask("driver.gpus", two, three, POD) == lost
    handed = lay(tmp_path / "c")
    pci(handed, "0000:41:00.0", driver="vfio-pci")
    assert ask("driver.gpus", two, handed) == [("ok", "2 by NVML, 2 on the PCI bus; 1 bound to vfio-pci")]
    assert ask("driver.gpus", two, tmp_path / "none")[0][0] == "skipped"


def test_device_files_that_are_not_there(tmp_path: Path) -> None:
    two = probe(sample(0), sample(1))
    shut = probe(collectors=(SHUT,))
    one = lay(tmp_path / "a", without=["dev/nvidia1"])
    none = lay(tmp_path / "b", without=["dev/nvidiactl", "dev/nvidia0", "dev/nvidia1"])
    assert ask("driver.devices", two, one) == [("warn", "/dev/nvidia1: not there; those GPUs are not seen")]
    assert ask("driver.devices", shut, none) == [("fail", "/dev/nvidiactl, /dev/nvidia0, /dev/nvidia1: not there")]
    assert ask("driver.devices", two, none)[0][0] == "skipped"  # NVML works: they are only not to be seen
    assert ask("driver.devices", shut, tmp_path / "c")[0] == ("skipped", "no NVIDIA kernel module is loaded")


@pytest.mark.parametrize(
    ("seen", "verdict", "parts"),
    [
        (sample(), ("ok", "healthy"), ("ok", "11 of 11 known (nvml 11)")),
        (having(remap_pending=1.0), ("warn", "degraded (row_remap_pending)"), ("ok", "11 of 11 known (nvml 11)")),
        (having(remap_failure=1.0), ("fail", "unhealthy (row_remap_failure)"), ("ok", "11 of 11 known (nvml 11)")),
        (
            without("ecc_uncorrected", "ecc_uncorrected_lifetime"),
            ("fail", "unknown (ecc_not_read)"),
            ("warn", "10 of 11 known (nvml 10); not known: memory_errors (nobody)"),
        ),
        # A card that has no such thing says so, and that is known.
        (
            without(**{f"nvlink_up_{link}": "not_supported" for link in range(18)}, fabric_state="not_supported"),
            ("ok", "healthy"),
            ("ok", "11 of 11 known (nvml 9); the card has no nvlink, fabric"),
        ),
        (
            without(sram_threshold_exceeded="no_permission"),
            ("ok", "healthy"),
            ("warn", "10 of 11 known (nvml 10); not known: sram (no_permission)"),
        ),
        (
            having(xid_watched=0.0),
            ("ok", "healthy"),
            ("warn", "10 of 11 known (nvml 10); not known: xid (nobody)"),
        ),
    ],
)
def test_the_verdict_and_its_parts(
    root: Path, seen: GpuSample, verdict: tuple[str, str], parts: tuple[str, str]
) -> None:
    assert ask("gpus.verdict", probe(seen), root) == [verdict]
    assert ask("gpus.parts", probe(seen), root) == [parts]


def test_a_board_that_never_answered_is_told_of(root: Path) -> None:
    line = "GPU 1 GPU-x: nvmlDeviceGetUUID has not returned for 3 s; reset the GPU"
    hung = probe(sample(0), collectors=(OPEN, board(0), Collector("nvml-1", False, 3.0, None, line)))
    assert ask("gpus.verdict", hung, root) == [
        ("ok", "healthy"),
        ("fail", "nvmlDeviceGetUUID has not returned for 3 s"),
    ]
    mute = probe(sample(0), collectors=(OPEN, board(0), board(1)))
    assert ask("gpus.verdict", mute, root)[1] == ("fail", "no answer in 1 s")


@pytest.mark.parametrize(
    ("check", "seen", "status", "words"),
    [
        ("gpus.xids", sample(), "ok", "watched by nvml"),
        ("gpus.xids", having(xid_watched=0.0), "warn", "nobody would tell"),
        ("gpus.xids", without(xid_watched="no_permission"), "warn", "no_permission"),
        ("gpus.recovery", sample(), "ok", "told: 0 (none)"),
        ("gpus.recovery", without(recovery_action="not_supported"), "skipped", "this card has none"),
        ("gpus.recovery", without(recovery_action="unknown_error"), "warn", "unknown_error"),
        ("gpus.processes", having(processes=3.0), "ok", "3 seen"),
        ("gpus.processes", having(processes=0.0, memory_used=1e6), "ok", "0 seen"),
        ("gpus.processes", having(processes=0.0, memory_used=8 * 2.0**30), "warn", "8.0 GiB"),
        ("gpus.processes", without("processes"), "skipped", "nobody"),
        ("gpus.mig", sample(), "ok", "off"),
        ("gpus.mig", having(mig_enabled=1.0), "warn", "no instance"),
        ("gpus.mig", without(mig_enabled="not_supported"), "skipped", "this card has none"),
    ],
)
def test_what_else_a_gpu_tells(root: Path, check: str, seen: GpuSample, status: str, words: str) -> None:
    ((said, found),) = ask(check, probe(seen), root)
    assert said == status
    assert words in found


def test_an_older_driver_is_why_there_is_no_recovery_action(root: Path) -> None:
    seen = without(recovery_action="not_supported")
    old = replace(seen, info=replace(seen.info, driver_version="550.54.15"))
    assert ask("gpus.recovery", probe(old), root) == [("warn", "not told by driver 550.54.15")]


def test_instances_of_a_board_are_counted_and_named_where_they_differ(root: Path) -> None:
    whole = having(mig_enabled=1.0)
    key = GpuKey(whole.info.key.uuid, "3")
    instance = replace(whole, info=replace(whole.info, key=key, profile="1g.10gb"), values={})
    assert ask("gpus.mig", probe(whole, instance), root) == [("ok", "on, 1 instances seen: 1g.10gb")]
    assert ask("gpus.verdict", probe(whole, instance), root)[1][0] == "fail"  # nothing was read of the instance


def test_a_lost_gpu_is_asked_for_nothing_more(root: Path) -> None:
    gone = replace(sample(), values={}, lost="gpu_is_lost")
    assert ask("gpus.parts", probe(gone), root) == [("skipped", "it is lost")]


def test_the_capability_for_the_kernel_log_is_named_where_it_is_what_lacks(root: Path) -> None:
    line = "/dev/kmsg: Operation not permitted; give the container the device and CAP_SYSLOG"
    closed = probe(sample(), beside=(Collector("kmsg", False, 0.1, None, line),))
    ((status, found),) = ask("kmsg.log", closed, root)
    assert status == "warn"  # nobody asked for it
    assert "dmesg_restrict is 1 and this process has no CAP_SYSLOG" in found
    assert ask("kmsg.log", closed, root, {}, "--kmsg.file", "/dev/kmsg")[0][0] == "fail"
    assert ask("kmsg.log", probe(sample(), watching=True), root)[0][0] == "ok"


@pytest.mark.parametrize(
    ("arguments", "environ", "status"),
    [
        ((), {}, "skipped"),  # no Kubernetes
        ((), POD, "warn"),
        (("--kubelet.socket", "/run/kubelet.sock"), {}, "fail"),
        (("--kubelet.socket", "off"), POD, "skipped"),
    ],
)
def test_a_kubelet_that_does_not_answer(
    root: Path, arguments: tuple[str, ...], environ: dict[str, str], status: str
) -> None:
    line = "/run/kubelet.sock: No such file or directory; mount the directory"
    silent = probe(sample(), beside=(Collector("kubelet", False, 0.1, None, line),))
    assert [said for said, _ in ask("kubelet.socket", silent, root, environ, *arguments)] == [status]
    assert [said for said, _ in ask("kubelet.offers", silent, root, environ, *arguments)] == ["skipped"]


@pytest.mark.parametrize(
    ("allocatable", "status", "words"),
    [
        (None, "skipped", "does not tell"),
        ((), "warn", "offers no GPU"),
        ((("nvidia.com/gpu", "GPU-0000"), ("nvidia.com/gpu", "GPU-0001")), "ok", "offers 2"),
        ((("nvidia.com/gpu", "GPU-0000"),), "warn", "offers 1, the driver has 2"),
    ],
)
def test_what_the_kubelet_offers(
    root: Path, allocatable: tuple[tuple[str, str], ...] | None, status: str, words: str
) -> None:
    found = probe(sample(0), sample(1), kubelet=KubeletReading(START, (), allocatable))
    ((said, text),) = ask("kubelet.offers", found, root)
    assert said == status
    assert words in text


def test_what_the_exporter_needs(tmp_path: Path, root: Path) -> None:
    found = probe(sample(), ports=(Port("web.listen-address", ":9480", "taken", "Address already in use"),))
    assert ask("exporter.ports", found, root) == [("fail", ":9480: Address already in use")]
    state = "--state.file", str(tmp_path / "state")
    assert ask("exporter.state", found, root, {}, *state) == [("ok", f"{state[1]} can be written")]
    assert not (tmp_path / "state").exists()
    assert ask("exporter.state", found, root, {}, "--state.file", "/nonexistent/state")[0][0] == "fail"
    assert ask("exporter.memory", found, root) == [("ok", "the limit is 128 MiB")]
    (root / "sys/fs/cgroup/memory.max").write_text(f"{64 << 20}\n")
    assert ask("exporter.memory", found, root) == [("warn", "the limit is 64 MiB")]
    assert ask("exporter.boot", found, root)[0][0] == "ok"
    assert ask("exporter.boot", found, tmp_path / "none")[0][0] == "warn"


def test_a_state_file_must_be_a_file_or_nothing_and_its_directory_must_be_there(tmp_path: Path, root: Path) -> None:
    file, beside = tmp_path / "state", tmp_path / "state.tmp"

    def said(path: Path = file) -> tuple[str, str]:
        (one,) = ask("exporter.state", probe(sample()), root, {}, "--state.file", str(path))
        return one

    assert said(tmp_path) == ("fail", f"{tmp_path} is a directory")
    assert said(Path("/dev/null")) == ("fail", "/dev/null is a device, a socket or a pipe")
    os.mkfifo(file)
    assert said() == ("fail", f"{file} is a device, a socket or a pipe")
    file.unlink()
    file.symlink_to(tmp_path / "elsewhere")
    assert said() == ("warn", f"{file} is a link: it would be replaced")
    file.unlink()
    beside.mkdir()
    assert said() == ("fail", f"{beside} is a directory")
    beside.rmdir()
    beside.write_text("of a run that was killed")
    file.write_text("")
    assert said() == ("ok", f"{file} can be written")
    assert said(file / "state") == ("fail", f"{file} is no directory")


def test_a_check_that_crashes_is_a_failure_and_the_others_answer(root: Path) -> None:
    broken = probe(sample())._replace(ports=None)  # type: ignore[arg-type] -- a fault of ours
    results = look_at(Look(settings.read([], {}), broken, root, {}))
    (crashed,) = [result for result in results if "crashed" in result.found]
    assert (crashed.id, crashed.status) == ("exporter.ports", "fail")
    assert crashed.found.startswith("the check crashed (TypeError")
    assert {result.id for result in results} == set(BY_ID)
