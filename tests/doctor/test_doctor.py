"""`plimsoll doctor` as a process, against the C library, a machine laid out in a directory, and real peers."""

import json
import os
import re
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping
from ctypes.util import find_library
from pathlib import Path
from typing import Any

import pytest

from exporter.doctor.table import CHECKS
from exporter.kit.version import VERSION
from tests.doctor.root import lay
from tests.nvml.fake import FakeNvml
from tests.support import apiserver
from tests.support.engines import FakeEngine, fixture
from tests.support.kubelet import FakeKubelet, gpus, pod
from tests.support.programs import eventually, exporter, metrics

ROOT = Path(__file__).parents[2]
DCGM = ROOT / "tests" / "fixtures" / "dcgm"
UUIDS = [f"GPU-00000000-0000-0000-0000-00000000000{index}" for index in range(2)]
#: A user whose files are closed to others.
NOBODY = 65534
#: Of the machine on which the tests run nothing may show.
CLEAN = {
    name: text
    for name, text in os.environ.items()
    if not name.startswith(("NVIDIA_", "KUBERNETES_", "PLIMSOLL_")) and name not in ("container", "NODE_NAME")
}


class Run:
    """One run of the doctor with `--json`."""

    def __init__(self, code: int, out: str, error: str) -> None:
        assert error == "", error
        self.code = code
        self.said: dict[str, Any] = json.loads(out)
        assert self.said["ok"] is (code == 0)

    def of(self, check: str, subject: str | None = None) -> list[dict[str, str]]:
        rows = [row for row in self.said["checks"] if row["id"] == check]
        return [row for row in rows if subject is None or row["subject"] == subject]

    def one(self, check: str, subject: str | None = None) -> tuple[str, str, str]:
        """(status, found, fix) of the one result of the check."""
        (row,) = self.of(check, subject)
        return row["status"], row["found"], row["fix"]

    def failed(self) -> list[str]:
        return [row["id"] for row in self.said["checks"] if row["status"] == "fail"]


class Node:
    """A node to run the doctor on: a driver, a machine's files, a kernel log that is a FIFO."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.nvml = FakeNvml(directory, {"gpus": 2})
        self.root = lay(directory / "root")
        self.kmsg = directory / "kmsg"
        os.mkfifo(self.kmsg)

    def arguments(self, *more: str) -> list[str]:
        return [
            *("--root", str(self.root), "--node", "node-1", "--nvml.interval", "50ms"),
            *("--kmsg.file", str(self.kmsg), "--kubelet.socket", "off"),
            *("--web.listen-address", "127.0.0.1:0", "--feed.listen-address", "127.0.0.1:0"),
            *more,
        ]

    def text(
        self, *more: str, environ: Mapping[str, str] | None = None, program: tuple[str, ...] = ()
    ) -> subprocess.CompletedProcess[str]:
        command = [*(program or (sys.executable, "-m", "exporter.doctor")), *self.arguments(*more)]
        environ = {**CLEAN, **self.nvml.environ, **(environ or {})}
        return subprocess.run(command, check=False, cwd=ROOT, env=environ, capture_output=True, text=True, timeout=40)

    def run(self, *more: str, environ: Mapping[str, str] | None = None, program: tuple[str, ...] = ()) -> Run:
        ran = self.text("--json", *more, environ=environ, program=program)
        return Run(ran.returncode, ran.stdout, ran.stderr)


@pytest.fixture
def node(tmp_path: Path) -> Node:
    return Node(tmp_path)


def steady(text: str, node: Node) -> str:
    """The text without what differs from run to run."""
    text = text.replace(node.nvml.library, "/usr/lib/libnvidia-ml.so.1").replace(str(node.directory), "/tmp/node")
    text = re.sub(r"\b\d+ ms\b", "N ms", text)
    text = re.sub(r"127\.0\.0\.1:\d{2,5}/", "127.0.0.1:PORT/", text)
    return re.sub(r'(plimsoll doctor |"version": ")[0-9][^", ]*', r"\1VERSION", text)


def of_this_node(page: str) -> str:
    """A page of dcgm-exporter with the UUIDs of the tests' driver."""
    text = (DCGM / page).read_text()
    for theirs, ours in zip(dict.fromkeys(re.findall(r"GPU-[0-9a-f-]{36}", text)), UUIDS, strict=True):
        text = text.replace(theirs, ours)
    return text


# The whole output.


def test_a_healthy_node_reads_as_it_always_did(node: Node, golden: Callable[[str, str], None]) -> None:
    ran = node.text()
    assert (ran.returncode, ran.stderr) == (0, "")
    golden("doctor/doctor-healthy.txt", steady(ran.stdout, node))


def test_the_json_of_a_healthy_node_is_as_it_always_was(node: Node, golden: Callable[[str, str], None]) -> None:
    ran = node.text("--json")
    assert (ran.returncode, ran.stderr) == (0, "")
    shown = json.loads(steady(ran.stdout, node))
    golden("doctor/doctor-healthy.json", json.dumps(shown, indent=1) + "\n")


def test_a_node_with_a_lost_gpu_a_default_dcgm_and_engines_reads_as_it_always_did(
    node: Node, golden: Callable[[str, str], None]
) -> None:
    node.nvml.set({"gpu1.call.nvmlDeviceGetFieldValues": "GPU_IS_LOST"})
    with (
        FakeEngine(of_this_node("dcgm-exporter-2gpu-mig.prom")) as dcgm,
        FakeEngine(fixture("vllm-0.32.0-busy-queue.txt")) as engine,
    ):
        ran = node.text("--dcgm.url", dcgm.url, "--engines", f"{engine.url},http://127.0.0.1:1/metrics")
    assert (ran.returncode, ran.stderr) == (1, "")
    golden("doctor/doctor-lost.txt", steady(ran.stdout, node))


def test_every_check_is_in_the_manual_with_its_question_and_no_other() -> None:
    manual = (ROOT / "docs" / "doctor.md").read_text()
    rows = dict(re.findall(r"^\| `(\w+\.\w+)` \| ([^|]+?) \|", manual, re.MULTILINE))
    assert rows == {row.id: (row.check.__doc__ or "") for row in CHECKS}


def test_every_check_says_something_on_every_node(node: Node) -> None:
    for run in (node.run(), node.run("--gpu.source", "off", "--kmsg.file", "off")):
        assert list(dict.fromkeys(row["id"] for row in run.said["checks"])) == [row.id for row in CHECKS]
        assert all(row["found"] for row in run.said["checks"])


# The driver.


def test_a_lost_gpu_fails_and_the_other_is_told_of(node: Node) -> None:
    node.nvml.set({"gpu1.all": "GPU_IS_LOST"})
    run = node.run()
    assert run.code == 1
    assert run.one("gpus.verdict", "GPU 0")[:2] == ("ok", "healthy")
    assert run.one("gpus.verdict", "GPU 1") == ("fail", "lost (gpu_is_lost)", "reboot node")
    assert [(gpu["index"], gpu["state"]) for gpu in run.said["gpus"]] == [("0", "healthy"), ("1", "lost")]
    assert run.said["gpus"][1]["reasons"] == [{"reason": "gpu_is_lost", "action": "reboot_node"}]
    assert run.said["gpus"][1]["parts"]["sensor"] == {"known": False, "source": "none", "reason": "gpu_is_lost"}


def test_a_driver_that_refuses_is_told_with_the_fix(node: Node) -> None:
    node.nvml.set({"init": "NO_PERMISSION"})
    run = node.run()
    assert run.failed() == ["driver.nvml"]
    status, found, fix = run.one("driver.nvml")
    assert (status, found) == ("fail", "NVML: Insufficient Permissions")
    assert "/dev/nvidiactl" in fix


def test_a_part_that_is_refused_is_told_with_its_fix(node: Node) -> None:
    node.nvml.set({"gpu0.call.nvmlDeviceGetSramEccErrorStatus": "NO_PERMISSION"})
    run = node.run()
    assert run.code == 0
    status, found, fix = run.one("gpus.parts", "GPU 0")
    assert status == "warn"
    assert "not known: sram (no_permission)" in found
    assert "CAP_SYS_ADMIN" in fix
    assert "root" not in fix
    parts = run.said["gpus"][0]["parts"]
    assert parts["sram"] == {"known": False, "source": "none", "reason": "no_permission"}
    assert parts["memory_errors"] == {"known": True, "source": "nvml", "reason": ""}


def test_a_library_of_another_version_than_the_kernel_module_is_told_by_both(tmp_path: Path) -> None:
    node = Node(tmp_path)
    node.nvml.set({"init": "LIB_RM_VERSION_MISMATCH"})
    lay(tmp_path / "root2", driver="570.133.20")
    library = tmp_path / "libnvidia-ml.so.580.82.07"
    library.symlink_to(node.nvml.library)
    copied = tmp_path / "lib" / "libnvidia-ml.so.580.82.07"
    copied.parent.mkdir()
    copied.write_bytes(Path(node.nvml.library).read_bytes())
    run = node.run("--root", str(tmp_path / "root2"), "--nvml.library", str(copied))
    assert run.failed() == ["driver.nvml", "driver.version"]
    _, found, fix = run.one("driver.version")
    assert found == "library 580.82.07, kernel module 570.133.20: the driver refuses every call (NVML error 18)"
    assert "reboot" in fix


@pytest.mark.parametrize("name", ["my driver/libnvidia-ml.so.1", "driver.so", "deep er/driver.so"])
def test_a_library_with_a_space_in_its_path_or_a_name_of_its_own_is_found(node: Node, name: str) -> None:
    library = node.directory / name
    library.parent.mkdir(exist_ok=True)
    library.write_bytes(Path(node.nvml.library).read_bytes())
    run = node.run("--nvml.library", str(library))
    assert run.code == 0
    assert run.one("driver.library")[:2] == ("ok", str(library))
    node.nvml.set({"init": "NO_PERMISSION"})
    refused = node.run("--nvml.library", str(library))
    assert refused.failed() == ["driver.nvml"]


def test_a_container_to_which_cdi_gave_its_gpus_is_well(node: Node) -> None:
    cdi = {"KUBERNETES_SERVICE_HOST": "x", "NVIDIA_VISIBLE_DEVICES": "void", "NVIDIA_DRIVER_CAPABILITIES": "compute"}
    run = node.run(environ=cdi)
    assert run.code == 0
    assert run.one("driver.container")[0] == "ok"


def test_a_driver_that_hangs_does_not_hang_the_doctor(node: Node) -> None:
    node.nvml.set({"hang.nvmlInitWithFlags": 30})
    run = node.run("--timeout", "1s", "--nvml.deadline", "20s")
    assert run.failed() == ["driver.nvml"]
    assert run.one("driver.nvml")[1] == "has not opened within 1 s"


def test_a_gpu_that_hangs_at_its_first_poll_is_told_by_the_call(node: Node) -> None:
    node.nvml.set({"gpu1.hang.nvmlDeviceGetPowerUsage": 30})
    run = node.run("--nvml.deadline", "300ms")
    assert run.failed() == ["gpus.verdict"]
    _, found, fix = run.one("gpus.verdict", "GPU 1")
    assert re.match(r"nvmlDeviceGetPowerUsage has not returned for \d+ s", found)
    assert "reset the GPU" in fix
    assert run.one("gpus.verdict", "GPU 0")[:2] == ("ok", "healthy")


def test_without_any_driver_the_fix_is_to_say_so(tmp_path: Path) -> None:
    node = Node(tmp_path)
    (tmp_path / "empty" / "proc").mkdir(parents=True)
    absent = ("--nvml.library", str(tmp_path / "none.so"), "--root", str(tmp_path / "empty"))
    run = node.run(*absent)
    assert run.code == 1
    assert "driver.library" in run.failed()
    assert "--nvml.library" in run.one("driver.library")[2]
    assert run.one("driver.version")[2].endswith("or start with --gpu.source=off if there is none here")
    off = node.run(*absent, "--gpu.source", "off")
    assert off.code == 0
    assert {row["status"] for row in off.said["checks"] if row["id"].startswith(("driver.", "gpus."))} == {"skipped"}


@pytest.mark.skipif(bool(find_library("nvidia-ml")), reason="this machine's loader finds a driver's library")
def test_a_container_without_the_library_is_told_of_the_runtime(node: Node) -> None:
    run = node.run(environ={"KUBERNETES_SERVICE_HOST": "x", "LD_LIBRARY_PATH": ""})
    _, found, fix = run.one("driver.library")
    assert found == "the kernel module is loaded, the library is not in this container"
    assert "runtimeClassName: nvidia" in fix


def test_device_files_that_may_not_be_used_are_named(node: Node) -> None:
    closed, program = node.root / "dev/nvidiactl", [sys.executable, "-m", "exporter.doctor"]
    closed.chmod(0o600 if os.geteuid() == 0 else 0)
    if os.geteuid() == 0:  # for whom no file is closed, as long as it may override
        os.chown(closed, NOBODY, NOBODY)
        program = ["setpriv", "--bounding-set=-dac_override,-dac_read_search", *program]
    run = node.run(program=tuple(program))
    assert run.failed() == ["driver.devices"]
    assert run.one("driver.devices")[1] == "no access to /dev/nvidiactl"


# The other sources.


@pytest.mark.parametrize(
    ("path", "code", "status", "words"),
    [("off", 0, "skipped", "off"), ("/nonexistent/kmsg", 1, "fail", "No such file"), ("/proc", 1, "fail", "neither")],
)
def test_a_kernel_log_that_was_asked_for_must_be_read(
    node: Node, path: str, code: int, status: str, words: str
) -> None:
    run = node.run("--kmsg.file", path)
    assert run.code == code
    said = run.one("kmsg.log")
    assert said[0] == status
    assert words in said[1]
    assert "before the exporter's start are not seen" in said[1]


def test_the_kubelet_is_asked_and_what_it_offers_is_held_against_the_driver(node: Node) -> None:
    path = node.directory / "kubelet.sock"
    with FakeKubelet(path, [pod("llm", "llama-0", engine=gpus(UUIDS[0]))]) as kubelet:
        kubelet.allocatable = {"nvidia.com/gpu": UUIDS}
        good = node.run("--kubelet.socket", str(path))
        kubelet.allocatable = {"nvidia.com/gpu": UUIDS[:1]}
        kubelet.pods = [pod("llm", "llama-0", engine=gpus("GPU-12345678-0000-0000-0000-000000000000"))]
        bad = node.run("--kubelet.socket", str(path))
    assert good.one("kubelet.socket")[:2] == ("ok", "answers; it has given 1 GPU devices to containers")
    assert good.one("kubelet.offers")[:2] == ("ok", "it offers 2, the driver has 2")
    assert good.one("kubelet.devices")[:2] == ("ok", "all 1 are of GPUs that are seen")
    assert bad.one("kubelet.offers")[:2] == ("warn", "it offers 1, the driver has 2")
    assert bad.one("kubelet.devices")[0] == "warn"
    assert "GPU-12345678" in bad.one("kubelet.devices")[1]
    gone = node.run("--kubelet.socket", str(path))
    assert gone.failed() == ["kubelet.socket"]


def test_a_default_dcgm_exporter_leaves_parts_unknown_and_its_counters_are_named(node: Node) -> None:
    with FakeEngine((DCGM / "dcgm-exporter-2gpu-mig.prom").read_text()) as dcgm:
        run = node.run("--gpu.source", "off", "--dcgm.url", dcgm.url)
    assert run.code == 1
    assert run.one("gpus.verdict", "GPU 0")[0] == "fail"
    status, found, fix = run.one("dcgm.counters")
    assert status == "warn"
    assert "memory_errors" in found
    assert "DCGM_FI_DEV_ECC_DBE_VOL_TOTAL" in fix
    assert "DCGM_FI_DEV_CLOCKS_EVENT_REASONS" in fix


def test_what_dcgm_exporter_does_not_tell_nvml_may(node: Node) -> None:
    with FakeEngine(of_this_node("dcgm-exporter-2gpu-mig.prom")) as dcgm:
        run = node.run("--dcgm.url", dcgm.url)
    assert run.one("dcgm.gpus")[:2] == ("ok", "2, as NVML")
    assert run.one("dcgm.counters")[0] == "ok"
    assert run.said["gpus"][0]["parts"]["sensor"]["source"] == "both"
    assert run.code == 0


def test_a_dcgm_exporter_that_does_not_answer_fails(node: Node) -> None:
    run = node.run("--dcgm.url", "http://127.0.0.1:1/metrics")
    assert run.failed() == ["dcgm.page"]
    assert run.one("dcgm.page")[2] == "check that the server runs and the port"


def test_engines_are_read_and_what_they_lack_is_named(node: Node) -> None:
    lacking = fixture("vllm-0.32.0-busy-queue.txt").replace("vllm:kv_cache_usage_perc", "vllm:kv_other")
    with FakeEngine(fixture("vllm-0.32.0-busy-queue.txt")) as good, FakeEngine(lacking) as poor, FakeEngine("x") as bad:
        listed = node.directory / "engines.json"
        listed.write_text(json.dumps([{"url": good.url, "gpus": ["0"]}, poor.url, bad.url, "http://127.0.0.1:1"]))
        run = node.run("--engines.file", str(listed))
    assert run.one("engines.page", good.url)[0] == "ok"
    assert run.one("engines.page", "http://127.0.0.1:1/metrics")[0] == "warn"
    assert run.one("engines.page", bad.url)[0] == "fail"
    assert run.one("engines.numbers", good.url)[:2] == ("ok", "all")
    assert run.one("engines.numbers", poor.url)[1].startswith("kv_usage missing: ")
    assert "every server of its kind has: vllm:kv_cache_usage_perc" in run.one("engines.numbers", poor.url)[1]
    assert run.one("engines.memory", poor.url)[0] == "skipped"
    # The other engine's GPUs are not known: it may be on the same.
    assert run.one("engines.memory", good.url)[:2] == ("warn", "what its processes hold is not told")
    assert run.one("engines.gpus", good.url)[:2] == ("ok", "1 GPU")
    assert run.one("engines.gpus", poor.url)[0] == "warn"
    assert run.failed() == ["engines.page"]


def test_engines_of_pods_are_discovered_and_waited_for(node: Node) -> None:
    """The kubelet's list of pods, over real HTTP; the pod's own address answers nothing."""
    listed = json.dumps({"kind": "PodList", "items": [apiserver.pod(node="node-1", ip="192.0.2.1")]})
    with FakeEngine(listed) as kubelet:
        url = kubelet.url.replace("/metrics", "/pods")
        asked = ("--kubernetes.pods", "kubelet", "--engines.timeout", "200ms", "--kubernetes.kubelet-url")
        run = node.run(*asked, url)
        lost = node.run(*asked, "http://127.0.0.1:1/pods")
    assert run.one("kubernetes.pods")[:2] == ("ok", "answers (kubelet); 1 engine discovered on node-1")
    assert run.one("engines.page", "http://192.0.2.1:8000/metrics")[0] != "ok"
    assert lost.one("kubernetes.pods")[0] == "fail"
    assert "none is discovered" in lost.one("engines.page")[1]


# The exporter's own needs.


@pytest.fixture
def taken() -> Iterator[int]:
    with socket.create_server(("127.0.0.1", 0)) as server:
        yield server.getsockname()[1]


def test_a_port_that_something_else_has_fails_and_that_of_an_exporter_does_not(node: Node, taken: int) -> None:
    run = node.run("--feed.listen-address", f"127.0.0.1:{taken}")
    assert run.failed() == ["exporter.ports"]
    assert run.one("exporter.ports", "feed")[:2] == ("fail", f"127.0.0.1:{taken}: Address already in use")
    with exporter() as running:
        eventually(lambda: metrics(running))
        web, feed = running.addresses["web"], running.addresses["feed"]
        beside = node.run("--web.listen-address", web, "--feed.listen-address", feed)
    assert beside.one("exporter.ports", "web")[:2] == ("ok", f"{web} is that of the exporter which runs here")
    assert beside.one("exporter.ports", "feed")[0] == "ok"


def test_a_feed_port_that_something_else_has_fails_beside_an_exporter_too(node: Node, taken: int) -> None:
    with exporter() as running:
        eventually(lambda: metrics(running))
        web = running.addresses["web"]
        beside = node.run("--web.listen-address", web, "--feed.listen-address", f"127.0.0.1:{taken}")
    assert beside.failed() == ["exporter.ports"]
    assert beside.one("exporter.ports", "web")[0] == "ok"
    assert beside.one("exporter.ports", "feed")[0] == "fail"


#: A file system of 128 KiB of its own, full at its beginning: "$0" is where, the rest the program.
FULL = 'mount -t tmpfs -o size=128k none "$0" && head -c 131072 /dev/zero > "$0/other"; exec "$@"'
MAY_MOUNT = subprocess.run(["unshare", "-rm", "true"], check=False, capture_output=True).returncode == 0


@pytest.mark.skipif(not MAY_MOUNT, reason="this machine lets no user mount a file system of their own")
def test_a_state_file_on_a_full_disk_fails(node: Node) -> None:
    disk = node.directory / "disk"
    disk.mkdir()
    program = ("unshare", "-rm", "sh", "-c", FULL, str(disk), sys.executable, "-m", "exporter.doctor")
    run = node.run("--state.file", str(disk / "state"), program=program)
    assert run.failed() == ["exporter.state"]
    status, found, fix = run.one("exporter.state")
    assert (status, found) == ("fail", f"{disk} has 0 bytes left")
    assert "64 KiB" in fix


def test_it_does_not_start_where_it_would_take_the_exporters_memory(node: Node) -> None:
    (node.root / "sys/fs/cgroup/memory.current").write_text(f"{100 << 20}\n")
    ran = node.text()
    assert (ran.returncode, ran.stdout) == (1, "")
    assert ran.stderr.startswith("plimsoll doctor: 28 MiB of memory are left here and it takes 48; raise ")


# Arguments.


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--timeout", "never"], "flag --timeout: 'never' is not a duration"),
        (["--timeout"], "command line: argument --timeout: expected one argument"),
        (["--nvml.intervall", "1s"], "did you mean --nvml.interval?"),
        (["--engines.file", "/nonexistent"], "/nonexistent"),
        (["--root", "/nonexistent"], "flag --root: '/nonexistent' has no directory proc; name "),
        (["--root", "/etc/passwd"], "has no directory proc"),
        (["--root", ""], "has no directory proc"),
        (["--xyzzy-42"], "see plimsoll doctor --help"),
        (["xyzzy"], "see plimsoll doctor --help"),
    ],
)
def test_what_cannot_be_honoured_is_one_line_and_status_2(node: Node, arguments: list[str], words: str) -> None:
    ran = node.text(*arguments)
    assert (ran.returncode, ran.stdout) == (2, "")
    (line,) = ran.stderr.splitlines()
    assert line.startswith("plimsoll doctor: ")
    assert words in line
    assert "plimsoll-exporter" not in line


def test_its_version_is_told_under_its_own_name(node: Node) -> None:
    ran = node.text("--version")
    assert (ran.returncode, ran.stdout, ran.stderr) == (0, f"plimsoll doctor {VERSION}\n", "")


def test_help_names_its_own_options_and_the_exporters(node: Node) -> None:
    ran = node.text("--help")
    assert ran.returncode == 0
    for option in ("--json", "--timeout", "--root", "--kmsg.file", "--engines"):
        assert option in ran.stdout


def test_the_plimsoll_command_runs_it(node: Node) -> None:
    program = (sys.executable, "-m", "scaler.cli", "doctor")
    ran = node.text("--json", program=program)
    assert (ran.returncode, ran.stderr) == (0, "")
    assert json.loads(ran.stdout)["ok"] is True
    node.nvml.set({"init": "NO_PERMISSION"})
    assert node.text(program=program).returncode == 1
    assert node.text("--nonsense", program=program).returncode == 2
