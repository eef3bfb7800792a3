"""The kubelet: which pod has which GPU, and which GPUs there are to have.

May not be in here: device ids (core/device_ids.py), who has what (core/devices.py).
"""

from collections.abc import Iterator

from exporter.core import devices as core_devices
from exporter.doctor import machine
from exporter.doctor.look import Look, Said, fail, ok, skipped, split, warn

_LOST = "which pod has which GPU is not known"


def socket(look: Look) -> Iterator[Said]:
    """Does the kubelet answer?"""
    asked = look.settings.kubelet_socket
    if asked == "off":
        yield skipped(f"off (--kubelet.socket=off): {_LOST}")
        return
    reading, collector = look.probe.kubelet, look.probe.collector("kubelet")
    if reading is not None:
        yield ok(f"answers; it has given {core_devices.given(reading)} GPU devices to containers")
        return
    cause, fix = split(collector.message if collector else "")
    if asked != "auto":
        yield fail(f"{cause or 'no answer yet'}: {_LOST}", fix)
    elif machine.in_kubernetes(look.environ):
        yield warn(f"{cause or 'no answer yet'}: {_LOST}", fix)
    else:
        yield skipped("there is no kubelet here")


def _silent(look: Look) -> Said:
    """What the other checks say where the first has found no kubelet that answers."""
    first = next(socket(look))
    return skipped(first.found if first.status == "skipped" else "the kubelet gives no answer")


def offers(look: Look) -> Iterator[Said]:
    """Does the kubelet offer as many GPUs as the driver has?"""
    reading, has = look.probe.kubelet, look.probe.snapshot.node_gpus.get("driver")
    number = core_devices.offered(reading) if reading else None
    if reading is None:
        yield _silent(look)
    elif number is None:
        yield skipped("this kubelet does not tell what it offers (claims, or GetAllocatableResources is off)")
    elif has is None:
        yield skipped(f"it offers {number}; how many the driver has is not known")
    elif number == has:
        yield ok(f"it offers {number}, the driver has {has}")
    elif not number:
        fix = "start NVIDIA's device plugin on this node and read its log"
        yield warn(f"it offers no GPU, the driver has {has}", fix)
    else:
        fix = (
            "read the device plugin's log: it withdraws GPUs that it calls unhealthy and needs a restart to return them"
        )
        yield warn(f"it offers {number}, the driver has {has}", fix)


def devices(look: Look) -> Iterator[Said]:
    """Is every device that the kubelet gave away a GPU that is seen?"""
    reading = look.probe.kubelet
    if reading is None:
        yield _silent(look)
    elif strange := core_devices.unmatched(reading, [gpu.info for gpu in look.probe.snapshot.gpus]):
        shown = ", ".join(strange[:4]) + (f" and {len(strange) - 4} more" if len(strange) > 4 else "")
        fix = "see that all GPUs are seen (driver.gpus), and that --kubelet.resources names nothing that is no GPU"
        yield warn(f"no GPU that is seen: {shown}", fix)
    elif not reading.allocations:
        yield ok("no container has a GPU now")
    else:
        yield ok(f"all {len(reading.allocations)} are of GPUs that are seen")
