r"""A record of the kernel log -> the Xid that it tells of.

May not be in here: reading the log (sources/kmsg.py), what an Xid means (xid.py), who told it first (witness.py).

**A record** of /dev/kmsg is `priority,sequence,microseconds,flags;message` in one line, then lines of ` KEY=value`
(Linux, Documentation/ABI/testing/dev-kmsg). The kernel writes whatever is not printable as \xNN, so that a message
cannot end its own line.

**The message** is the driver's (open-gpu-kernel-modules, kernel_rc.c, krcReportXid): `NVRM: Xid (` address `): ` code
`, pid=` number `, name=` process `, ` text, without pid and name where no process is known. Old drivers write the
address without `PCI:`; under MIG ` GPU-I:05` and maybe ` GPU-CI:00` follow it.

**Whoever runs a process chooses its name**, up to 15 characters, but it stands behind the code: the code is read where
the driver writes it, right behind the closing parenthesis, and what is read of the text is what the driver wrote last.
A line that root writes to /dev/kmsg is taken for the driver's: drills are done so.
"""

import re
from typing import NamedTuple

from exporter.core.model import GpuKey, XidEvent


class DriverLoaded(NamedTuple):
    """The driver was loaded anew: what it told before is void."""

    at: float


#: No record of ours is longer; the kernel cuts at 8192.
MAX_LINE = 8192
#: All that is looked for holds this; a line without it need not be parsed.
MARK = b"NVRM: "

_RECORD = re.compile(r"\d{1,10},(\d{1,19}),(\d{1,18}),[^;]{1,64};NVRM: (.*)", re.ASCII)
_XID = re.compile(
    r"Xid \((?:PCI:)?([0-9a-f:.]{5,16})(?: GPU-I:(\d{1,4}))?(?: GPU-CI:\d{1,4})?\): (\d{1,5})(?:[ ,](.*))?",
    re.ASCII | re.IGNORECASE,
)
_LOADING = re.compile(r"loading NVIDIA UNIX ")
_ADDRESS = re.compile(
    r"(?:PCI:)?(?:([0-9a-f]{1,8}):)?([0-9a-f]{1,2}):([01]?[0-9a-f])(?:\.[0-7])?", re.ASCII | re.IGNORECASE
)

#: The codes of NVLink 5 (NVIDIA, Xid catalogue): their text is unit, severity ("Fatal", the catalogue has
#: "Link Fatal" as well), cross containment, injected, link.
_NVLINK5 = range(144, 151)
_SEVERITY = re.compile(
    r"(?:.*, | *)\w+ +(?:Link +)?(Fatal|Non-?fatal) +XC ?\d+ +i ?\d+ +Link -?\d+(?: +[(\[][^)\]]*[)\]]?)?"
)
#: "GPU recovery action changed from 0x0 (None) to 0x1 (GPU Reset Required)".
_RECOVERY_CHANGED = 154
_RECOVERY = re.compile(
    r"(?:.*, | *)GPU recovery action changed from 0x[0-9a-fA-F]+ \([^()]*\) to 0x([0-9a-fA-F]{1,8}) \([^()]*\)"
)


def parse(line: str, now: float, replayed: bool) -> XidEvent | DriverLoaded | None:
    """What the first line of a record says; None: nothing of ours.

    now: monotonic seconds. replayed: the record was there before anybody looked. Then the time is the record's own
    stamp, which is nearly the monotonic clock (it is not disciplined, so it drifts), but never after now.
    """
    record = _RECORD.fullmatch(line)
    if record is None:
        return None
    sequence, stamp, message = record.groups()
    at = min(int(stamp) / 1e6, now) if replayed else now
    if _LOADING.match(message):
        return DriverLoaded(at)
    told = _XID.fullmatch(message)
    if told is None:
        return None
    address, instance, code, text = told.groups(default="")
    pci, xid = pci_address(address), int(code)
    if not pci or not 0 < xid <= 65535:
        return None
    return XidEvent(
        GpuKey("", str(int(instance)) if instance else ""),
        xid,
        at,
        "kmsg",
        pci,
        _severity(xid, text),
        _recovery(xid, text),
        replayed,
        seq=int(sequence),
    )


def pci_address(text: str) -> str:
    """A PCI address in the one form that is compared: "00000000:1a:00", without the function; "" if it is none.

    Known forms: the kernel's 0000:1a:00.0, NVML's and DCGM's 00000000:1A:00.0, the driver's PCI:0000:1a:00, and
    lspci's 1a:00.0 in domain 0.
    """
    match = _ADDRESS.fullmatch(text)
    if match is None:
        return ""
    domain, bus, device = (int(part or "0", 16) for part in match.groups())
    return f"{domain:08x}:{bus:02x}:{device:02x}"


def _severity(xid: int, text: str) -> str:
    found = _SEVERITY.fullmatch(text) if xid in _NVLINK5 else None
    return found[1].lower().replace("-", "") if found else ""


def _recovery(xid: int, text: str) -> int | None:
    found = _RECOVERY.fullmatch(text) if xid == _RECOVERY_CHANGED else None
    return int(found[1], 16) if found else None
