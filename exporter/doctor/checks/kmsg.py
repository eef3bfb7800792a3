"""The kernel log as the second witness of Xids.

May not be in here: other sources.
"""

from collections.abc import Iterator

from exporter.doctor import machine
from exporter.doctor.look import Look, Said, fail, ok, skipped, split, warn

_LOST = "Xids from before the exporter's start are not seen, and none of a GPU that NVML has lost"


def log(look: Look) -> Iterator[Said]:
    """Is the kernel log read?"""
    asked = look.settings.kmsg_file
    if asked == "off":
        yield skipped(f"off (--kmsg.file=off): {_LOST}")
        return
    if look.settings.gpu_source == "off" and not look.settings.dcgm_url:
        yield skipped("no GPUs are read: there is nobody whose Xids it could tell")
        return
    if look.probe.watching:
        yield ok("read: Xids from before the start and lines of MIG instances are seen")
        return
    collector = look.probe.collector("kmsg")
    cause, fix = split(collector.message if collector else "not opened")
    if machine.restricts_kernel_log(look.root) and not machine.has_capability(look.root, machine.CAP_SYSLOG):
        cause = f"{cause} (kernel.dmesg_restrict is 1 and this process has no CAP_SYSLOG)"
    # Who named a file wants it read; "auto" takes what there is.
    yield (warn if asked == "auto" else fail)(f"{cause}: {_LOST}", fix)
