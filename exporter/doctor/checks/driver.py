"""The driver: library, kernel module, device files, and whether all GPUs of the machine are seen.

May not be in here: what a single GPU tells (gpus.py).
"""

import os
import re
from collections.abc import Iterator

from exporter.core.kmsg import pci_address
from exporter.doctor import machine
from exporter.doctor.look import Look, Said, fail, no_nvml, ok, skipped, split, warn

LIBRARY = "libnvidia-ml.so"
NONE_HERE = "or start with --gpu.source=off if there is none here"
_RUNTIME = "give the pod NVIDIA's runtime (runtimeClassName: nvidia) and NVIDIA_VISIBLE_DEVICES=all"


def _loaded(look: Look) -> str:
    """The file of NVML's library that this process has loaded, "" if it has not. The operator's may have any name."""
    asked = look.settings.nvml_library
    return machine.mapped(LIBRARY) or (machine.mapped(os.path.realpath(asked)) if asked else "")


@no_nvml
def library(look: Look) -> Iterator[Said]:
    """Is NVML's library found, and where?"""
    path = _loaded(look)
    cause, fix = split(look.nvml.message or "NVML's library is not loaded")
    if path or look.nvml.success:
        # An open NVML has a library, whatever can be seen of it.
        yield ok(path or look.settings.nvml_library or "found by the loader")
    elif look.settings.nvml_library:
        yield fail(cause, fix)
    elif machine.in_container(look.root, look.environ):
        loaded = "the kernel module is loaded, the library is not in this container" * bool(look.module)
        yield fail(loaded or cause, f"{_RUNTIME}, {NONE_HERE}")
    else:
        yield fail(cause, f"install the NVIDIA driver, name the file with --nvml.library, {NONE_HERE}")


@no_nvml
def nvml(look: Look) -> Iterator[Said]:
    """Does NVML open?"""
    boards = len(look.probe.boards())
    if look.nvml.success:
        yield ok(f"opened in {look.nvml.seconds * 1e3:.0f} ms: {boards} {'GPU' if boards == 1 else 'GPUs'}")
    elif not _loaded(look):
        yield skipped("there is no library to open it with")
    elif not look.nvml.seconds:
        fix = "look for Xid errors and hung tasks in the kernel log; reset the GPU or restart the node"
        yield fail(f"has not opened within {look.probe.seconds:.0f} s", fix)
    else:
        yield fail(*split(look.nvml.message))


@no_nvml
def version(look: Look) -> Iterator[Said]:
    """Are the library and the kernel module of one version?"""
    file = re.search(r"\.so\.(\d+\.\d+(?:\.\d+)?)$", os.path.realpath(_loaded(look)))
    ours = look.driver_version or (file[1] if file else "")
    if not look.module:
        if look.nvml.success:
            yield skipped(f"driver {ours}; /proc/driver/nvidia/version is not to be seen here")
        else:
            yield fail("no NVIDIA kernel module is loaded", f"load it (modprobe nvidia), {NONE_HERE}")
    elif not ours:
        yield skipped(f"kernel module {look.module}; the library does not say its version")
    elif ours == look.module:
        yield ok(f"driver {ours}")
    else:
        found = f"library {ours}, kernel module {look.module}: the driver refuses every call (NVML error 18)"
        fix = "the driver was updated under a loaded module: drain and reboot the node, or reload the module"
        yield fail(found, fix)


@no_nvml
def devices(look: Look) -> Iterator[Said]:
    """Are the device files there, and may they be used?"""
    minors = {minor for minor in machine.bound_gpus(look.root).values() if minor}
    names = ["nvidiactl", *(f"nvidia{minor}" for minor in sorted(minors, key=int))]
    paths = [look.root / "dev" / name for name in names]
    missing = [name for name, path in zip(names, paths, strict=True) if not path.exists()]
    denied = [name for name, path in zip(names, paths, strict=True) if path.exists() and not machine.may_use(path)]
    contained = machine.in_container(look.root, look.environ)
    if not look.module and not look.nvml.success:
        yield skipped("no NVIDIA kernel module is loaded")
    elif denied:
        fix = "run as a user who may read and write them (their mode is set by NVreg_DeviceFileMode of the module)"
        yield fail(f"no access to {_listed(denied)}", fix)
    elif "nvidiactl" in missing and look.nvml.success:
        yield skipped("NVML works; its device files are not to be seen here")
    elif "nvidiactl" in missing:
        yield fail(f"{_listed(missing)}: not there", _device_fix(contained))
    elif missing:
        yield warn(f"{_listed(missing)}: not there; those GPUs are not seen", _device_fix(contained))
    else:
        yield ok(_listed(names))


def _device_fix(contained: bool) -> str:
    return _RUNTIME if contained else "make them with nvidia-modprobe -u -c=0, or start nvidia-persistenced"


def _listed(names: list[str]) -> str:
    shown = ", ".join(f"/dev/{name}" for name in names[:9])
    return f"{shown} and {len(names) - 9} more" if len(names) > 9 else shown


@no_nvml
def container(look: Look) -> Iterator[Said]:
    """In a container: was it given all GPUs, and the driver's utilities?"""
    visible = look.environ.get("NVIDIA_VISIBLE_DEVICES")
    can = look.environ.get("NVIDIA_DRIVER_CAPABILITIES", "utility").split(",")
    none = visible in ("", "none", "void")
    if not machine.in_container(look.root, look.environ):
        yield skipped("not in a container")
    elif visible is None:
        yield ok("NVIDIA_VISIBLE_DEVICES is not set: GPUs come by CDI or mounts, if at all")
    elif none and look.nvml.success:
        # "void" is what NVIDIA's device plugin and container toolkit set where CDI is what brings the GPUs.
        yield ok(f"NVIDIA_VISIBLE_DEVICES={visible}, and NVML is open: GPUs come by CDI or mounts")
    elif none:
        yield fail(f"NVIDIA_VISIBLE_DEVICES={visible}: this container was given no GPU", "set it to all")
    elif not look.nvml.success and not {"utility", "all"} & set(can):
        found = f"NVIDIA_DRIVER_CAPABILITIES={','.join(can)}: without utility there is no NVML"
        yield fail(found, "set NVIDIA_DRIVER_CAPABILITIES=utility")
    elif visible != "all":
        yield warn(f"NVIDIA_VISIBLE_DEVICES={visible}: other GPUs of the node are not seen", "set it to all")
    else:
        yield ok("NVIDIA_VISIBLE_DEVICES=all")


@no_nvml
def gpus(look: Look) -> Iterator[Said]:
    """Does NVML see every NVIDIA GPU of the PCI bus?"""
    if not look.nvml.success:
        yield skipped("NVML is not open")
        return
    seen = {pci_address(gpu.info.pci_bus_id) for gpu in look.probe.snapshot.gpus if not gpu.info.key.instance}
    on_bus = machine.pci_gpus(look.root)
    bound = machine.bound_gpus(look.root)
    # Those that were handed to a virtual machine are not NVML's to see.
    expected = {gpu.address for gpu in on_bus if gpu.driver in ("", "nvidia")} | bound.keys()
    away = [gpu for gpu in on_bus if gpu.driver not in ("", "nvidia")]
    note = f"; {len(away)} bound to {away[0].driver or 'no driver'}" if away else ""
    count = len(look.probe.boards())
    gone = sorted(expected - seen)
    if not expected:
        yield skipped(f"NVML has {count}; the PCI bus is not to be seen here")
    elif len(expected) > count:
        found = f"NVML has {count}, the PCI bus {len(expected)}: {', '.join(gone) or 'one'} is missing"
        if look.environ.get("NVIDIA_VISIBLE_DEVICES", "all") != "all" or _not_given(look, gone):
            yield warn(found + note, "set NVIDIA_VISIBLE_DEVICES=all: this container was given a part of them")
        else:
            fix = "look for Xid 79 in the kernel log; drain the node and power-cycle it"
            yield fail(found + note, fix)
    else:
        yield ok(f"{count} by NVML, {len(expected)} on the PCI bus{note}")


def _not_given(look: Look, addresses: list[str]) -> bool:
    """Whether the GPUs at these addresses are kept from this container: it has none of their device files."""
    minors = machine.bound_gpus(look.root)
    files = [look.root / f"dev/nvidia{minors[address]}" for address in addresses if minors.get(address)]
    hidden = bool(files) and len(files) == len(addresses) and not any(file.exists() for file in files)
    return hidden and machine.in_container(look.root, look.environ)
