"""core/cgroups.py and sources/proc.py: which container a process is in."""

import os
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from exporter.core.cgroups import container_of
from exporter.sources import proc
from exporter.sources.proc import ProcSource

ID, OUTER, INNER = "0123456789abcdef" * 4, "a" * 64, "b" * 64
POD = "kubepods-besteffort-pod1c2d3e4f_0000_4000_8000_000000000001.slice"
SLICE = f"/kubepods.slice/kubepods-besteffort.slice/{POD}"

# name, the file, the container ("" none, None no such file)
FORMS = [
    ("v2, systemd, containerd", f"0::{SLICE}/cri-containerd-{ID}.scope\n", ID),
    ("v2, systemd, CRI-O", f"0::{SLICE}/crio-{ID}.scope\n", ID),
    ("v2, CRI-O with a group below", f"0::{SLICE}/crio-{ID}.scope/container\n", ID),
    ("v2, systemd, docker", f"0::{SLICE}/docker-{ID}.scope\n", ID),
    ("v2, cgroupfs", f"0::/kubepods/besteffort/pod1c2d/{ID}\n", ID),
    ("v2, guaranteed", f"0::/kubepods/pod1c2d/{ID}\n", ID),
    ("v2, kubelet and containerd disagree", f"0::/system.slice/containerd.service/{POD}:cri-containerd:{ID}\n", ID),
    ("v2, systemd inside the container", f"0::{SLICE}/cri-containerd-{ID}.scope/init.scope\n", ID),
    ("v2, docker inside the pod", f"0::{SLICE}/cri-containerd-{ID}.scope/docker/{INNER}\n", ID),
    ("v2, a node that is a container", f"0::/docker/{OUTER}/kubelet.slice/kubelet-{POD}/crio-{ID}.scope\n", ID),
    ("v2, from another cgroup namespace", f"0::/../cri-containerd-{ID}.scope\n", ID),
    ("docker without Kubernetes", f"0::/system.slice/docker-{ID}.scope\n", ID),
    ("podman", f"0::/machine.slice/libpod-{ID}.scope/container\n", ID),
    ("v1, cgroupfs", f"12:devices:/kubepods/pod1c2d/{ID}\n11:cpu,cpuacct:/kubepods/pod1c2d/{ID}\n", ID),
    ("v1, named hierarchy", f"1:name=systemd:{SLICE}/cri-containerd-{ID}.scope\n", ID),
    ("v1, a hierarchy without groups", f"3:rdma:/\n2:pids:/kubepods/pod1c2d/{ID}\n", ID),
    ("v1, a hierarchy of the node's own", f"3:rdma:/docker/{OUTER}\n2:pids:/docker/{OUTER}/kubepods/pod1/{ID}\n", ID),
    ("of the node itself", "0::/system.slice/kubelet.service\n", ""),
    ("at the root", "0::/\n", ""),
    ("the pod's own group", f"0::{SLICE}\n", ""),
    ("too short for an id", f"0::/kubepods/pod1c2d/{ID[:-1]}\n", ""),
    ("too long for an id", f"0::/kubepods/pod1c2d/{ID}0\n", ""),
    ("not hex", f"0::/kubepods/pod1c2d/{'g' * 64}\n", ""),
    ("empty", "", None),
    ("another file", "Name:\tpython\nPid:\t41\n", None),
    ("no path", "0::\n", None),
]  # fmt: skip


@pytest.mark.parametrize(("text", "container"), [row[1:] for row in FORMS], ids=[row[0] for row in FORMS])
def test_forms_of_a_cgroup_file(text: str, container: str | None) -> None:
    assert container_of(text) == container


@given(st.text())
def test_any_text_gives_an_id_or_none(text: str) -> None:
    found = container_of(text)
    assert not found or (len(found) == 64 and set(found) <= set("0123456789abcdef"))


class Proc:
    """A /proc of one's own, which notes what is opened in it."""

    def __init__(self, root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        self.root = root
        self.opened: list[str] = []
        really = open

        def noting(path: str, *arguments: object) -> object:
            self.opened.append(os.path.relpath(path, root))
            return really(path, *arguments)  # type: ignore[call-overload]  # as it was called

        monkeypatch.setattr(proc, "open", noting, raising=False)

    def process(self, pid: int, cgroup: str, start: int = 100, name: str = "python") -> None:
        (self.root / str(pid)).mkdir(exist_ok=True)
        (self.root / str(pid) / "cgroup").write_text(cgroup)
        words = " ".join(["S", "1", *["0"] * 17, str(start), *["0"] * 30])
        (self.root / str(pid) / "stat").write_text(f"{pid} ({name}) {words}\n")


@pytest.fixture
def there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Proc:
    return Proc(tmp_path, monkeypatch)


def in_container(container: str) -> str:
    return f"0::{SLICE}/cri-containerd-{container}.scope\n"


def test_processes_are_told_by_their_containers(there: Proc) -> None:
    there.process(41, in_container(ID))
    there.process(42, "0::/system.slice/sshd.service\n")
    there.process(43, in_container(INNER), name="a) (b 1 2")
    (there.root / "44").mkdir()
    assert ProcSource(str(there.root)).container_of([41, 42, 43, 44, 45]) == {41: ID, 42: "", 43: INNER}


@pytest.mark.parametrize("pid", [0, -1])
def test_a_number_that_no_process_has_is_not_looked_up(there: Proc, pid: int) -> None:
    assert ProcSource(str(there.root)).container_of([pid]) == {}
    assert there.opened == []


def test_a_process_is_looked_up_once(there: Proc) -> None:
    there.process(41, in_container(ID))
    source = ProcSource(str(there.root))
    assert source.container_of([41, 41]) == source.container_of([41]) == {41: ID}
    assert there.opened.count("41/cgroup") == 1


def test_a_number_that_is_given_out_again_is_another_process(there: Proc) -> None:
    there.process(41, in_container(ID), start=100)
    source = ProcSource(str(there.root))
    source.container_of([41])
    there.process(41, in_container(INNER), start=200)
    assert source.container_of([41]) == {41: INNER}


def test_a_process_that_ends_while_it_is_looked_up_is_not_told(there: Proc, monkeypatch: pytest.MonkeyPatch) -> None:
    there.process(41, in_container(ID), start=100)
    source = ProcSource(str(there.root))
    noting = proc.open  # type: ignore[attr-defined]  # the fixture put it there

    def swapping(path: str, *arguments: object) -> object:
        if path.endswith("cgroup"):
            there.process(41, in_container(INNER), start=200)
        return noting(path, *arguments)

    monkeypatch.setattr(proc, "open", swapping)
    assert source.container_of([41]) == {}
    assert source.container_of([41]) == {41: INNER}


def test_what_is_not_asked_for_any_more_is_forgotten(there: Proc) -> None:
    for pid in range(1, 20):
        there.process(pid, in_container(ID))
    source = ProcSource(str(there.root))
    source.container_of(range(1, 20))
    source.container_of([7])
    assert len(source._known) == 1


def test_no_more_than_a_limit_are_looked_up(there: Proc, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(proc, "MAX_PIDS", 3)
    for pid in range(1, 10):
        there.process(pid, in_container(ID))
    assert set(ProcSource(str(there.root)).container_of(range(1, 10))) == {1, 2, 3}


def test_this_process_is_found_in_the_machine_s_own_proc() -> None:
    """The kernel's own files, whatever this test runs in."""
    assert set(ProcSource().container_of([os.getpid()])) == {os.getpid()}
