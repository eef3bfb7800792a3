"""What a check is given, and the words in which it answers.

May not be in here: any one check.
"""

import functools
from collections.abc import Callable, Iterator, Mapping
from functools import cached_property
from pathlib import Path
from typing import NamedTuple

from exporter.core.snapshot import Collector
from exporter.doctor import machine
from exporter.doctor.probe import Probe
from exporter.settings import Settings


class Said(NamedTuple):
    """A check's word on one subject; report.Result without the check's id."""

    status: str
    found: str
    fix: str = ""
    subject: str = ""


Check = Callable[["Look"], Iterator[Said]]


class Look:
    """All that the checks go by. root: where the node's /proc, /sys and /dev are."""

    def __init__(self, settings: Settings, probe: Probe, root: Path, environ: Mapping[str, str]) -> None:
        self.settings = settings
        self.probe = probe
        self.root = root
        self.environ = environ

    @cached_property
    def nvml(self) -> Collector:
        """How NVML as a whole is doing."""
        return self.probe.collector("nvml") or Collector("nvml", False, 0.0, None, "NVML: not opened yet")

    @cached_property
    def module(self) -> str:
        """The version of the kernel module, "" if none is loaded."""
        return machine.kernel_module(self.root)

    @cached_property
    def driver_version(self) -> str:
        """The version that NVML says, "" if it does not."""
        infos = (sample.info for (source, _), sample in self.probe.samples.items() if source == "nvml")
        return next((info.driver_version for info in infos if info.driver_version), "")


def ok(found: str, subject: str = "") -> Said:
    return Said("ok", found, "", subject)


def warn(found: str, fix: str = "", subject: str = "") -> Said:
    return Said("warn", found, fix, subject)


def fail(found: str, fix: str = "", subject: str = "") -> Said:
    return Said("fail", found, fix, subject)


def skipped(found: str, subject: str = "") -> Said:
    return Said("skipped", found, "", subject)


def split(message: str) -> tuple[str, str]:
    """A line of the house, "cause; fix", as both. A fix may hold semicolons, a cause does not."""
    cause, _, fix = message.partition("; ")
    return cause, fix


def no_nvml(check: Check) -> Check:
    """A check of NVML: where GPUs are not read by it there is nothing to check."""

    @functools.wraps(check)
    def guarded(look: Look) -> Iterator[Said]:
        if look.settings.gpu_source == "nvml":
            yield from check(look)
        else:
            yield skipped(f"GPUs are not read by NVML (--gpu.source={look.settings.gpu_source})")

    return guarded
