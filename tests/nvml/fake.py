"""A driver library without a GPU, for tests and benchmarks: builds fake_nvml.c and writes what it is to say.

In a process of its own (end-to-end tests, benchmarks):

    nvml = FakeNvml(tmp_path, {"gpus": 8})
    subprocess.Popen(["plimsoll-exporter", "--nvml.library", nvml.library, ...], env={**os.environ, **nvml.environ})
    nvml.set({"gpu0.temperature": 91, "gpu1.hang.nvmlDeviceGetPowerUsage": 30})   # takes effect at the next call
    nvml.xid(gpu=0, code=79)                                                      # an event, delivered once
    nvml.mig_change(gpu=0)                                                        # another

`environ` also has LD_LIBRARY_PATH, so that a program without --nvml.library finds the library by its SONAME.
In this process: `monkeypatch.setenv("FAKE_NVML_STATE", str(nvml.path))`, then `NvmlSource(library=nvml.library)`.
The state's keys are described at the head of fake_nvml.c. A C compiler (gcc) is needed; the result is kept in build/.
"""

import ctypes
import hashlib
import itertools
import os
import subprocess
import tempfile
from collections.abc import Mapping
from pathlib import Path

SOURCE = Path(__file__).with_name("fake_nvml.c")
CACHE = Path(__file__).parents[2] / "build" / "fake-nvml"
SONAME = "libnvidia-ml.so.1"
FLAGS = ("-shared", "-fPIC", "-O2", "-Wall", "-Wextra", "-Werror", "-fvisibility=hidden", f"-Wl,-soname,{SONAME}")


def build() -> Path:
    """The library, compiled once for each content of fake_nvml.c."""
    digest = hashlib.sha256(SOURCE.read_bytes() + " ".join(FLAGS).encode()).hexdigest()[:16]
    library = CACHE / digest / SONAME
    if not library.exists():
        library.parent.mkdir(parents=True, exist_ok=True)
        # Several test processes may build at once: each its own file, the rename decides.
        with tempfile.TemporaryDirectory(dir=library.parent) as scratch:
            made = Path(scratch) / SONAME
            subprocess.run(["gcc", *FLAGS, "-o", made, SOURCE, "-lpthread"], check=True)
            made.replace(library)
    return library


def calls(name: str, gpu: int = -1) -> int:
    """How often this process made the call (on this GPU; -1: on any)."""
    library = ctypes.CDLL(str(build()))
    library.fake_nvml_calls.restype = ctypes.c_ulong
    return int(library.fake_nvml_calls(name.encode(), gpu))


def called() -> dict[str, int]:
    """NVML call -> how often this process made it."""
    library = ctypes.CDLL(str(build()))
    library.fake_nvml_called.restype = ctypes.c_char_p
    keys = itertools.takewhile(bool, map(library.fake_nvml_called, itertools.count()))
    return {name: calls(name) for name in {key.decode().rpartition(" ")[0] for key in keys}}


class FakeNvml:
    """The state file of one fake driver. Every change is written at once, by rename."""

    def __init__(self, directory: Path, state: Mapping[str, object] | None = None) -> None:
        self.path = directory / "nvml.state"
        self.library = str(build())
        self.environ = {"FAKE_NVML_STATE": str(self.path), "LD_LIBRARY_PATH": str(Path(self.library).parent)}
        self.state: dict[str, object] = dict(state or {})
        self._events: list[str] = []
        self._write()

    def set(self, state: Mapping[str, object]) -> None:
        self.state.update(state)
        self._write()

    def clear(self, *keys: str) -> None:
        for key in keys:
            del self.state[key]
        self._write()

    def xid(self, gpu: int, code: int, gi: int | None = None, ci: int | None = None) -> None:
        """An Xid event. Delivered if the program has registered for the GPU's events by now, else gone."""
        attributed = "" if gi is None else f",{gi},{-1 if ci is None else ci}"
        self._event(f"{gpu},xid,{code}{attributed}")

    def mig_change(self, gpu: int) -> None:
        """The event of a MIG instance that was made or removed. Delivered like an Xid."""
        self._event(f"{gpu},mig")

    def calls(self, name: str, gpu: int = -1) -> int:
        return calls(name, gpu)

    def _event(self, line: str) -> None:
        self._events.append(f"event={line}")
        self._write()

    def _write(self) -> None:
        lines = [f"{key}={value}" for key, value in self.state.items()] + self._events
        handle, scratch = tempfile.mkstemp(dir=self.path.parent)
        with os.fdopen(handle, "w") as file:
            file.write("\n".join(lines) + "\n")
        os.replace(scratch, self.path)
