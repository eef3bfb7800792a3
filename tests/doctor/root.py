"""A machine's /proc, /sys, /dev and cgroup as files in a directory, for `--root`."""

from collections.abc import Sequence
from pathlib import Path

DRIVER = "570.133.20"
VERSION = (
    "NVRM version: NVIDIA UNIX Open Kernel Module for x86_64  {}  Release Build  (dvs-builder@U22)\n"
    "GCC version:  gcc version 12.3.0\n"
)
VERSION_CLOSED = "NVRM version: NVIDIA UNIX x86_64 Kernel Module  {}  Fri Jan 31 01:02:03 UTC 2025\n"


def write(path: Path, text: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)


def pci(root: Path, address: str, kind: str = "0x030200", vendor: str = "0x10de", driver: str = "nvidia") -> Path:
    """A device on the PCI bus."""
    device = root / "sys/bus/pci/devices" / address
    write(device / "vendor", f"{vendor}\n")
    write(device / "class", f"{kind}\n")
    if driver:
        home = root / "sys/bus/pci/drivers" / driver
        home.mkdir(parents=True, exist_ok=True)
        (device / "driver").symlink_to(home)
    return device


def lay(root: Path, gpus: int = 2, driver: str = DRIVER, without: Sequence[str] = ()) -> Path:
    """A machine with so many GPUs, at the addresses that tests/nvml tells. without: files to leave out."""
    write(root / "proc/driver/nvidia/version", VERSION.format(driver))
    write(root / "proc/sys/kernel/random/boot_id", "1b4e28ba-2fa1-11d2-883f-0016d3cca427\n")
    write(root / "proc/sys/kernel/dmesg_restrict", "1\n")
    write(root / "proc/self/cgroup", "0::/\n")
    write(root / "proc/self/status", "Name:\tpython\nCapEff:\t0000000000000000\n")
    write(root / "sys/fs/cgroup/memory.max", f"{128 << 20}\n")
    write(root / "dev/nvidiactl", "")
    for index in range(gpus):
        address = f"0000:{index:02x}:00.0"
        write(root / "proc/driver/nvidia/gpus" / address / "information", f"Model: \t\t X\nDevice Minor: \t {index}\n")
        write(root / f"dev/nvidia{index}", "")
        pci(root, address)
    pci(root, "0000:f0:00.0", kind="0x020000", vendor="0x15b3", driver="mlx5_core")  # a network card
    pci(root, "0000:f1:00.0", kind="0x068000", driver="")  # an NVSwitch
    for name in without:
        (root / name).unlink()
    return root
