"""What the node's own files say: /proc, /sys, /dev and the cgroup, all below one root.

May not be in here: what is to be thought of it (checks/), NVML.

A file that is not there, or may not be read, is None or empty: what that means is for the check to say.
"""

import os
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import NamedTuple

from exporter.core.kmsg import pci_address

#: Bytes of a file that are looked at.
_LIMIT = 1 << 18
NVIDIA = "0x10de"
#: PCI classes of GPUs: a display controller (boards with a display output) and a 3D controller (those without).
_GPU_CLASSES = ("0x0300", "0x0302")
#: capability.h: reading the kernel log where kernel.dmesg_restrict is 1.
CAP_SYSLOG = 34


class PciGpu(NamedTuple):
    address: str  # as kmsg.pci_address() writes it
    driver: str  # the kernel driver it is bound to, "" if none


def text(path: Path) -> str | None:
    """The beginning of a file; None if it cannot be read."""
    try:
        with open(path, "rb") as file:
            return file.read(_LIMIT).decode(errors="replace")
    except OSError:
        return None


def kernel_module(root: Path) -> str:
    """The version of the NVIDIA kernel module that is loaded, "" if none is (or it cannot be told).

    The line is "NVRM version: NVIDIA UNIX x86_64 Kernel Module  570.133.20  ..." or, of the open module,
    "NVRM version: NVIDIA UNIX Open Kernel Module for x86_64  580.82.07  ...".
    """
    found = re.search(r"Kernel Module(?: for \S+)? +(\d+(?:\.\d+)+)", text(root / "proc/driver/nvidia/version") or "")
    return found[1] if found else ""


def bound_gpus(root: Path) -> Mapping[str, str]:
    """The GPUs that the NVIDIA kernel module drives: PCI address -> the N of /dev/nvidiaN ("" if it is not told)."""
    gpus: dict[str, str] = {}
    for directory in _entries(root / "proc/driver/nvidia/gpus"):
        minor = re.search(r"^Device Minor:\s*(\d+)", text(directory / "information") or "", re.MULTILINE)
        gpus[pci_address(directory.name)] = minor[1] if minor else ""
    return gpus


def pci_gpus(root: Path) -> tuple[PciGpu, ...]:
    """NVIDIA's GPUs on the PCI bus. Virtual functions of a GPU are none."""
    gpus = []
    for device in _entries(root / "sys/bus/pci/devices"):
        if (text(device / "vendor") or "").strip() != NVIDIA or (device / "physfn").exists():
            continue
        if (text(device / "class") or "").startswith(_GPU_CLASSES):
            driver = device / "driver"
            gpus.append(PciGpu(pci_address(device.name), driver.resolve().name if driver.exists() else ""))
    return tuple(gpus)


def mapped(library: str) -> str:
    """The file of a library that this process has loaded, "" if it has not.

    library: the beginning of the file's name, or its path. Paths may hold spaces: proc(5), /proc/pid/maps, has the path
    after five columns, followed by " (deleted)" where the file was replaced since.
    """
    path = os.path.realpath(library) if library.startswith("/") else ""
    for line in (text(Path("/proc/self/maps")) or "").splitlines():
        file = (line.split(maxsplit=5)[5:] or [""])[0].removesuffix(" (deleted)")
        if file.startswith("/") and (file == path or (not path and os.path.basename(file).startswith(library))):
            return file
    return ""


def in_container(root: Path, environ: Mapping[str, str]) -> bool:
    marks = (root / ".dockerenv", root / "run/.containerenv")
    return in_kubernetes(environ) or "container" in environ or any(mark.exists() for mark in marks)


def in_kubernetes(environ: Mapping[str, str]) -> bool:
    """Whether this is a pod: the kubelet gives every container this variable."""
    return "KUBERNETES_SERVICE_HOST" in environ


def restricts_kernel_log(root: Path) -> bool:
    return (text(root / "proc/sys/kernel/dmesg_restrict") or "").strip() == "1"


def has_capability(root: Path, number: int) -> bool:
    """Whether this process has the capability of this number now."""
    found = re.search(r"^CapEff:\s*([0-9a-f]+)$", text(root / "proc/self/status") or "", re.MULTILINE)
    return bool(found and int(found[1], 16) >> number & 1)


def free_bytes(directory: Path) -> int | None:
    """Bytes that a user without privileges may still write there; None: the file system does not say."""
    try:
        said = os.statvfs(directory)
    except OSError:
        return None
    if said.f_files and not said.f_favail:
        return 0  # no file can be made
    return said.f_bavail * said.f_frsize if said.f_blocks else None


def boot_id(root: Path) -> str:
    return (text(root / "proc/sys/kernel/random/boot_id") or "").strip()


def memory_limit(root: Path) -> int | None:
    """Bytes that this process's cgroup may use; None: as many as there are, or it cannot be told."""
    return min((limit for limit, _ in _memory(root)), default=None)


def memory_left(root: Path) -> int | None:
    """Bytes that are left of that limit; None likewise. What files take in memory is given back where it is needed."""
    return min((limit - used for limit, used in _memory(root)), default=None)


def _memory(root: Path) -> Iterator[tuple[int, int]]:
    """(limit, used without the file cache) of the cgroup and of those above it that have a limit.

    Version 2: memory.max. Version 1: memory.limit_in_bytes, of which only the group itself is looked at.
    """
    groups = dict(re.findall(r"^\d+:([^:]*):/(.*)$", text(root / "proc/self/cgroup") or "", re.MULTILINE))
    own = next((path for names, path in groups.items() if "memory" in names.split(",")), "")
    top = root / "sys/fs/cgroup"
    # In a container the path may be the node's: then the group is mounted at the top.
    rows = [(top / "memory" / path, "memory.limit_in_bytes", "memory.usage_in_bytes", "cache") for path in {own, ""}]
    group = top / groups.get("", "")
    while group.is_relative_to(top):
        rows.append((group, "memory.max", "memory.current", "file"))
        group = group.parent
    for directory, limit_file, used_file, cache in rows:
        limit = _number(text(directory / limit_file))
        found = re.search(rf"^{cache} (\d+)$", text(directory / "memory.stat") or "", re.MULTILINE)
        if limit is not None and limit < 1 << 60:  # version 1 writes "no limit" as the highest number of pages
            used = _number(text(directory / used_file)) or 0
            yield limit, max(0, used - int(found[1] if found else 0))


def _number(said: str | None) -> int | None:
    said = (said or "").strip()
    return int(said) if said.isascii() and said.isdigit() else None


def _entries(directory: Path) -> list[Path]:
    try:
        return sorted(directory.iterdir())
    except OSError:
        return []


def may_use(path: Path) -> bool:
    """Whether this process may read and write the file, by its mode. It is not opened: that would wake a GPU."""
    return os.access(path, os.R_OK | os.W_OK)
