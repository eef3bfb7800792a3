"""What is read of the node's own files, case by case."""

import _ctypes
import ctypes
from pathlib import Path

import pytest

from exporter.doctor import machine
from tests.doctor.root import VERSION, VERSION_CLOSED, lay, pci, write
from tests.nvml.fake import build

MIB = 1 << 20


@pytest.mark.parametrize(
    ("text", "version"),
    [
        (VERSION.format("580.82.07"), "580.82.07"),
        (VERSION_CLOSED.format("570.133.20"), "570.133.20"),
        (VERSION_CLOSED.format("470.82"), "470.82"),
        ("NVRM version: something else\n", ""),
        ("", ""),
    ],
)
def test_the_version_of_the_kernel_module(tmp_path: Path, text: str, version: str) -> None:
    write(tmp_path / "proc/driver/nvidia/version", text)
    assert machine.kernel_module(tmp_path) == version


def test_a_machine_without_any_of_the_files_says_nothing(tmp_path: Path) -> None:
    assert machine.kernel_module(tmp_path) == ""
    assert machine.bound_gpus(tmp_path) == {}
    assert machine.pci_gpus(tmp_path) == ()
    assert machine.memory_limit(tmp_path) is None
    assert machine.boot_id(tmp_path) == ""
    assert not machine.restricts_kernel_log(tmp_path)
    assert not machine.has_capability(tmp_path, machine.CAP_SYSLOG)


def test_gpus_of_the_bus_are_neither_switches_nor_virtual_functions_nor_of_others(tmp_path: Path) -> None:
    lay(tmp_path, gpus=2)
    pci(tmp_path, "0000:41:00.0", kind="0x030000", driver="vfio-pci")
    virtual = pci(tmp_path, "0000:00:00.4")
    (virtual / "physfn").symlink_to(tmp_path / "sys/bus/pci/devices/0000:00:00.0")
    assert [(gpu.address, gpu.driver) for gpu in machine.pci_gpus(tmp_path)] == [
        ("00000000:00:00", "nvidia"),
        ("00000000:01:00", "nvidia"),
        ("00000000:41:00", "vfio-pci"),
    ]
    assert machine.bound_gpus(tmp_path) == {"00000000:00:00": "0", "00000000:01:00": "1"}


@pytest.mark.parametrize(
    ("cgroup", "files", "limit"),
    [
        ("0::/\n", {"memory.max": "max"}, None),
        ("0::/\n", {"memory.max": str(96 * MIB)}, 96 * MIB),
        ("0::/kubepods/pod1/c1\n", {"kubepods/pod1/c1/memory.max": str(128 * MIB)}, 128 * MIB),
        # The least of the groups above counts.
        (
            "0::/kubepods/pod1/c1\n",
            {"kubepods/pod1/c1/memory.max": "max", "kubepods/pod1/memory.max": str(64 * MIB)},
            64 * MIB,
        ),
        (
            "5:cpu,cpuacct:/a\n3:memory:/docker/x\n",
            {"memory/docker/x/memory.limit_in_bytes": str(80 * MIB)},
            80 * MIB,
        ),
        # In a container of version 1 the path is the node's, and the group is mounted itself.
        ("3:memory:/docker/x\n", {"memory/memory.limit_in_bytes": str(80 * MIB)}, 80 * MIB),
        ("3:memory:/\n", {"memory/memory.limit_in_bytes": "9223372036854771712"}, None),
        ("0::/\n", {"memory.max": "garbage"}, None),
        ("", {}, None),
    ],
)
def test_the_memory_limit_of_the_cgroup(tmp_path: Path, cgroup: str, files: dict[str, str], limit: int | None) -> None:
    write(tmp_path / "proc/self/cgroup", cgroup)
    for name, text in files.items():
        write(tmp_path / "sys/fs/cgroup" / name, f"{text}\n")
    assert machine.memory_limit(tmp_path) == limit


def test_what_is_left_of_the_limit_does_not_count_what_files_take(tmp_path: Path) -> None:
    write(tmp_path / "proc/self/cgroup", "0::/a\n")
    group = tmp_path / "sys/fs/cgroup/a"
    assert machine.memory_left(tmp_path) is None
    for name, said in {"max": 128 * MIB, "current": 100 * MIB, "stat": f"anon 1\nfile {40 * MIB}"}.items():
        write(group / f"memory.{name}", f"{said}\n")
    assert machine.memory_left(tmp_path) == 68 * MIB
    # The group above has less left.
    write(tmp_path / "sys/fs/cgroup/memory.max", f"{200 * MIB}\n")
    write(tmp_path / "sys/fs/cgroup/memory.current", f"{190 * MIB}\n")
    assert machine.memory_left(tmp_path) == 10 * MIB


@pytest.mark.parametrize(("mask", "has"), [("0000000400000000", True), ("000001ffffffffff", True), ("0", False)])
def test_a_capability_is_a_bit_of_the_effective_set(tmp_path: Path, mask: str, has: bool) -> None:
    write(tmp_path / "proc/self/status", f"Name:\tx\nCapPrm:\tffffffffffffffff\nCapEff:\t{mask}\n")
    assert machine.has_capability(tmp_path, machine.CAP_SYSLOG) is has


@pytest.mark.parametrize(
    ("environ", "mark", "contained"),
    [
        ({}, "", False),
        ({"KUBERNETES_SERVICE_HOST": "10.0.0.1"}, "", True),
        ({"container": "podman"}, "", True),
        ({}, ".dockerenv", True),
        ({}, "run/.containerenv", True),
    ],
)
def test_a_container_is_known_by_its_marks(tmp_path: Path, environ: dict[str, str], mark: str, contained: bool) -> None:
    if mark:
        write(tmp_path / mark, "")
    assert machine.in_container(tmp_path, environ) is contained


def test_a_library_is_known_by_the_file_that_this_process_has_mapped() -> None:
    assert Path(machine.mapped("libc.so")).name.startswith("libc.so")
    assert machine.mapped("libnobody-has-this.so") == ""


@pytest.mark.parametrize("name", ["my driver/libnvidia-ml.so.1", "lib of mine.so", "libnvidia-ml.so.1"])
def test_the_path_of_a_library_may_hold_spaces_and_it_may_have_any_name(tmp_path: Path, name: str) -> None:
    path = tmp_path / name
    path.parent.mkdir(exist_ok=True)
    path.write_bytes(build().read_bytes())
    assert machine.mapped(str(path)) == ""
    library = ctypes.CDLL(str(path))
    try:
        assert machine.mapped(str(path)) == str(path)
        assert machine.mapped(f"{path.parent}/libnvidia") == ""
        path.rename(path.with_name("moved"))
        path.with_name("moved").unlink()
        assert machine.mapped(str(path.with_name("moved"))) == str(path.with_name("moved"))  # an update has replaced it
    finally:
        _ctypes.dlclose(library._handle)


def test_what_a_file_system_does_not_tell_of_its_room_is_not_taken_for_none(tmp_path: Path) -> None:
    assert machine.free_bytes(tmp_path / "none") is None
    assert machine.free_bytes(Path("/proc")) is None  # it has no blocks at all
    assert machine.free_bytes(tmp_path)
