"""The kernel log: one row for each form of line that drivers were seen to write, and the source over real files."""

import asyncio
import logging
import os
import re
import time
from collections import Counter
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from exporter.core.kmsg import DriverLoaded, parse, pci_address
from exporter.core.model import GpuKey, XidEvent
from exporter.core.xid_flood import Saying, Waiting
from exporter.sources.kmsg import KmsgSource

HEX6 = "(0x021425c6 0x00000000 0x00000000 0x00000000 0x00000000 0x00000000)"
CHANGED = "154, GPU recovery action changed from"


def record(message: str, seq: int = 7, stamp: int = 5_000_000, head: str = "3,{seq},{stamp},-") -> str:
    return head.format(seq=seq, stamp=stamp) + ";" + message


def read(message: str) -> XidEvent | None:
    event = parse(record(message), 100.0, False)
    assert not isinstance(event, DriverLoaded)
    return event


# Lines as drivers write them. (message after "NVRM: Xid (", address, instance, code, severity, recovery). Sources:
# open-gpu-kernel-modules (kernel_rc.c and its issues 421, 1150, 1151), NVIDIA's A100 memory error management guide,
# the tests of gpud, NVSentinel and datadog-agent, dra-driver-nvidia-gpu issue 904, akash-network/support issue 244,
# Bumblebee issue 677, forum posts of 2010 to 2026.
LINES = [
    ("PCI:0000:01:00): 79, pid=1234, name=python, GPU has fallen off the bus.", "01:00", "", 79, "", None),
    ("PCI:0000:05:00): 79, pid='<unknown>', name=<unknown>, GPU has fallen off the bus.", "05:00", "", 79, "", None),
    ("PCI:0000:01:00): 79, pid=1122, GPU has fallen off the bus.", "01:00", "", 79, "", None),
    ("PCI:0000:01:00): 79, GPU has fallen off the bus.", "01:00", "", 79, "", None),
    ("PCI:0000:01:00): 79, ", "01:00", "", 79, "", None),
    ("PCI:0000:00:1e): 31", "00:1e", "", 31, "", None),
    ("0000:03:00): 14, Channel 00000001", "03:00", "", 14, "", None),
    ("0000:03:00): 13, 0003 00000000 00008297 00001098 00000000 00000044", "03:00", "", 13, "", None),
    ("0000:01:00): 16, Head 00000000 Count 00006e2e", "01:00", "", 16, "", None),
    ("PCI:0000:01:00): 32, Channel ID 00000000 intr 00004000", "01:00", "", 32, "", None),
    ("PCI:0000:01:00): 31, Ch 00000003, engmask 00000101, intr 10000000", "01:00", "", 31, "", None),
    ("PCI:0000:00:05): 43, pid=1045242, name=pt_main_thread, Ch 00000008", "00:05", "", 43, "", None),
    ("PCI:0009:01:00): 43, pid=3188489, name=trigger_xid, channel 0x0b00000a", "9/01:00", "", 43, "", None),
    (
        "PCI:0000:00:07): 31, pid=2512125, name=python3.10, Ch 00000008, intr 00000000. MMU Fault: ENGINE GRAPHICS"
        " GPCCLIENT_T1_8 faulted @ 0x73ac_1c000000. Fault is of type FAULT_PDE ACCESS_TYPE_VIRT_WRITE",
        "00:07", "", 31, "", None,
    ),
    (
        "PCI:0000:cb:00): 13, pid='<unknown>', name=<unknown>, Graphics SM Warp Exception on (GPC 7, TPC 7, SM 0):"
        " Illegal Instruction Parameter",
        "cb:00", "", 13, "", None,
    ),
    (
        "PCI:0000:cb:00): 109, pid=1797828, name=pt_main_thread, Ch 00000008, errorString CTX SWITCH TIMEOUT,"
        " Info 0x58005",
        "cb:00", "", 109, "", None,
    ),
    (
        "PCI:0000:dc:00): 45, pid=1818990, name=python3, Ch 00000001 caused by previous Xid 149",
        "dc:00", "", 45, "", None,
    ),
    (
        "PCI:0000:00:08): 94, pid='<unknown>', name=<unknown>, Contained: SM (0x1). RST: No, D-RST: No",
        "00:08", "", 94, "", None,
    ),
    (
        "PCI:0000:01:00 GPU-I:05): 94, pid=7194, Contained: CE User Channel (0x9). RST: No, D-RST: No",
        "01:00", "5", 94, "", None,
    ),
    ("PCI:0000:3b:00 GPU-I:01 GPU-CI:02): 13, pid=9, name=a, Graphics Exception", "3b:00", "1", 13, "", None),
    ("PCI:0000:3b:00 GPU-I:00 GPU-CI:00): 63, pid=12345, name=python, Retiring page...", "3b:00", "0", 63, "", None),
    ("PCI:0000:3b:00 GPU-I:13): 79, GPU has fallen off the bus.", "3b:00", "13", 79, "", None),
    ("PCI:0000:01:00): 95, pid=7062, Uncontained: LTC TAG (0x2,0x0). RST: Yes, D-RST: No", "01:00", "", 95, "", None),
    (
        "PCI:0000:00:1e): 63, Row Remapper: New row (0x000000000000abcd) marked for remapping, reset gpu to activate.",
        "00:1e", "", 63, "", None,
    ),
    (
        "PCI:0000:00:1e): 48, pid='<unknown>', name=<unknown>, An uncorrectable double bit error (DBE) has"
        " been detected",
        "00:1e", "", 48, "", None,
    ),
    (
        "PCI:0000:17:00.0): 119, pid=77, name=nvidia-smi, Timeout after 6s of waiting for RPC response from GPU0 GSP!",
        "17:00", "", 119, "", None,
    ),
    ("PCI:00000000:17:00.0): 120, GSP task exception: unhandled interrupt", "17:00", "", 120, "", None),
    ("PCI:10000:e1:00): 61, pid=1, 0cde(3098) 00000000 00000000", "10000/e1:00", "", 61, "", None),
    (
        "PCI:A1B2:00:00): 74, NVLink: fatal error detected on link 2(0x0, 0x0, 0x10000, 0x0, 0x0, 0x0, 0x0)",
        "a1b2/00:00", "", 74, "", None,
    ),
    (f"PCI:0009:01:00): 149, NETIR_LINK_EVT  Fatal   XC0 i0 Link 01 {HEX6}", "9/01:00", "", 149, "fatal", None),
    (f"PCI:0018:01:00): 149, NETIR_BER_EVENT Nonfatal XC0 i0 Link 03 {HEX6}", "18/01:00", "", 149, "nonfatal", None),
    (f"PCI:0019:01:00): 149, NETIR Fatal XC0 i0 Link -1 {HEX6}", "19/01:00", "", 149, "fatal", None),
    (
        f"PCI:0018:01:00): 145, pid=876767, name=ray::WorkerDict, RLW_RXPIPE Nonfatal XC0 i0 Link 13 {HEX6}",
        "18/01:00", "", 145, "nonfatal", None,
    ),
    (
        "PCI:0000:00:1e): 145, pid=4, name=<unknown>, RLW_SRC_TRACK Fatal XC0 i1 Link 00 (0x00000001 0x00000002)",
        "00:1e", "", 145, "fatal", None,
    ),
    (f"PCI:0000:01:00): 144, SAW_MVB Non-fatal XC0 i0 Link 0 {HEX6}", "01:00", "", 144, "nonfatal", None),
    ("PCI:0000:00:1e): 149, NETIR_LINK_EVT Fatal XC 1 i 2 Link 01 [0x0000000a]", "00:1e", "", 149, "fatal", None),
    ("PCI:0000:00:1e): 148, NVLPW_CTRL Fatal XC0 i0 Link 05", "00:1e", "", 148, "fatal", None),
    (f"PCI:0008:01:00): 149, NETIR_LINK_EVT Link Fatal XC0 i0 Link 15 {HEX6}", "8/01:00", "", 149, "fatal", None),
    ("PCI:0000:00:1e): 145, driver-specific detail", "00:1e", "", 145, "", None),
    ("PCI:0000:00:1e): 149, NETIR_LINK_EVT Fatal", "00:1e", "", 149, "", None),
    (f"PCI:0008:01:00): {CHANGED} 0x0 (None) to 0x1 (GPU Reset Required)", "8/01:00", "", 154, "", 1),
    (f"PCI:0000:02:00): {CHANGED} 0x0 (None) to 0x2 (Node Reboot Required)", "02:00", "", 154, "", 2),
    (f"PCI:0000:01:00): {CHANGED} 0x0 (None) to 0x2 (OS Reboot)", "01:00", "", 154, "", 2),
    (f"PCI:0000:0d:00): {CHANGED} 0x0 (None) to 0x1 (PF FLR)", "0d:00", "", 154, "", 1),
    (f"PCI:0000:0d:00): {CHANGED} 0x2 (Node Reboot Required) to 0x0 (None)", "0d:00", "", 154, "", 0),
    (
        f"PCI:0000:0d:00): {CHANGED.replace('154, ', '154, pid=1, name=x, ')} 0x0 (None) to 0x4 (Drain and Reset)",
        "0d:00", "", 154, "", 4,
    ),
    ("PCI:0000:00:1e): 154, GPU recovery action changed", "00:1e", "", 154, "", None),
    ("PCI:0000:00:1e): 160, Marking Channel 3 in FBPA 2 for repair; Node Reboot Required", "00:1e", "", 160, "", None),
    ("PCI:0000:00:1e): 999, pid=5, name=<unknown>, future driver detail", "00:1e", "", 999, "", None),
]  # fmt: skip


@pytest.mark.parametrize(("line", "where", "instance", "xid", "severity", "recovery"), LINES)
def test_every_form_that_a_driver_writes(
    line: str, where: str, instance: str, xid: int, severity: str, recovery: int | None
) -> None:
    domain, _, slot = where.rpartition("/")
    assert read(f"NVRM: Xid ({line}") == XidEvent(
        GpuKey("", instance), xid, 100.0, "kmsg", f"{domain:0>8}:{slot}", severity, recovery, False, seq=7
    )


@pytest.mark.parametrize(
    "message",
    [
        "NVRM: Xid: 31",
        "NVRM: Xid error: xyz, invalid data",
        "NVRM: Xid (PCI:0000:65:00): invalid",
        "NVRM: Xid (PCI:0000:65:00)",
        "NVRM: Xid (PCI:0000:65:00): 0, none",
        "NVRM: Xid (PCI:0000:65:00): 65536, none",
        "NVRM: Xid (PCI:0000:65:00): 99999, none",
        "NVRM: Xid (PCI:0000:65:00): 79x, none",
        "NVRM: Xid (PCI:0000:65:20): 79, no device has this number",
        "NVRM: Xid (0001:00): 13, drivers before 180 name no domain",
        "NVRM: Xid (PCI:0000:65:00 GPU-X:1): 79, what is that",
        "NVRM: GPU at PCI:0000:00:05: GPU-efbdfde9-5798-a6e7-4c46-12518fa15375",
        "NVRM: GPU 0000:01:00.0: GPU has fallen off the bus.",
        "NVRM: The NVIDIA GPU 0000:b3:00.0\\x0aNVRM: (PCI ID: 10de:26b5) installed in this system has",
        "nvidia-nvswitch0: SXid (PCI:0000:c1:00.0): 12028, Non-fatal, Link 32 egress non-posted PRIV error",
        "audit: NVRM: Xid (PCI:0000:65:00): 79, told by somebody else",
        " NVRM: Xid (PCI:0000:65:00): 79, indented",
        "",
    ],
)
def test_what_is_no_xid_is_none(message: str) -> None:
    assert read(message) is None


# A process chooses its name: 15 characters, of any kind but what the kernel escapes.
NAMES = [
    "x): 79, GPU",
    "Xid (PCI:0000:0",
    "a, X Fatal XC0",
    "GPU-I:05): 79,",
    "to 0x2 (Reboot)",
    "\\x0aNVRM: Xid (P",
    "",
]


@pytest.mark.parametrize("name", NAMES)
def test_a_process_cannot_forge_a_field_by_its_name(name: str) -> None:
    told = read(f"NVRM: Xid (PCI:0000:3b:00): 145, pid=1, name={name}, RLW_CTRL Nonfatal XC0 i0 Link 1 {HEX6}")
    assert told is not None
    assert (told.xid, told.pci, told.key.instance, told.severity) == (145, "00000000:3b:00", "", "nonfatal")
    told = read(f"NVRM: Xid (PCI:0000:3b:00): 43, pid=1, name={name}, Ch 00000008")
    assert told is not None
    assert (told.xid, told.pci, told.key.instance, told.severity, told.recovery) == (43, "00000000:3b:00", "", "", None)
    told = read(f"NVRM: Xid (PCI:0000:3b:00): 154, pid=1, name={name}, {CHANGED[5:]} 0x0 (None) to 0x1 (GPU Reset)")
    assert told is not None
    assert (told.xid, told.recovery) == (154, 1)


@pytest.mark.parametrize(
    ("line", "seq"),
    [
        ("3,4471,3023054882,-;NVRM: Xid (PCI:0000:3b:00): 79, x", 4471),
        ("11,0,0,c;NVRM: Xid (PCI:0000:3b:00): 79, x", 0),
        ("6,12,1,-,caller=T1234;NVRM: Xid (PCI:0000:3b:00): 79, x", 12),
        ("3,18446744073709551,9,-,new=field,other=1;NVRM: Xid (PCI:0000:3b:00): 79, x", 18446744073709551),
        ("NVRM: Xid (PCI:0000:3b:00): 79, x", None),
        ("3,1,2;NVRM: Xid (PCI:0000:3b:00): 79, x", None),
        ("3,,2,-;NVRM: Xid (PCI:0000:3b:00): 79, x", None),
        ("3,-1,2,-;NVRM: Xid (PCI:0000:3b:00): 79, x", None),
        ("3,١,2,-;NVRM: Xid (PCI:0000:3b:00): 79, x", None),  # a digit, but not the kernel's
        (f"3,{'9' * 400},2,-;NVRM: Xid (PCI:0000:3b:00): 79, x", None),
        (" SUBSYSTEM=pci;NVRM: Xid (PCI:0000:3b:00): 79, x", None),
    ],
)
def test_the_head_of_a_record(line: str, seq: int | None) -> None:
    event = parse(line, 9.0, False)
    assert (event.seq if isinstance(event, XidEvent) else None) == seq


@pytest.mark.parametrize(
    ("now", "replayed", "at"),
    [(100.0, False, 100.0), (100.0, True, 5.0), (4.0, True, 4.0)],
    ids=["news-is-now", "what-was-there-has-its-stamp", "never-after-now"],
)
def test_when_it_was(now: float, replayed: bool, at: float) -> None:
    event = parse(record("NVRM: Xid (PCI:0000:3b:00): 79, x", stamp=5_000_000), now, replayed)
    assert isinstance(event, XidEvent)
    assert (event.at, event.replayed) == (at, replayed)


@pytest.mark.parametrize(
    "message",
    [
        "NVRM: loading NVIDIA UNIX x86_64 Kernel Module  535.183.01  Sun May 12 19:39:15 UTC 2024",
        "NVRM: loading NVIDIA UNIX Open Kernel Module for x86_64  570.158.01  Release Build  (dvs-builder@U22)",
        "NVRM: loading NVIDIA UNIX aarch64 Kernel Module  580.95.05",
    ],
)
def test_the_driver_was_loaded(message: str) -> None:
    assert parse(record(message), 100.0, True) == DriverLoaded(5.0)


@pytest.mark.parametrize(
    ("text", "address"),
    [
        ("0000:1a:00.0", "00000000:1a:00"),
        ("00000000:1A:00.0", "00000000:1a:00"),
        ("PCI:0000:1a:00", "00000000:1a:00"),
        ("1a:00.0", "00000000:1a:00"),
        ("10000:e1:1f.7", "00010000:e1:1f"),
        ("A1B2C3D4:00:02.0", "a1b2c3d4:00:02"),
        ("", ""),
        ("GPU-6f3c1a52", ""),
        ("0000:1a:20.0", ""),
        ("0000:1a:00.8", ""),
        ("0000:1a:00.0\n", ""),
        ("123456789:1a:00.0", ""),
        ("00:1a:00:00", ""),
    ],
)
def test_an_address_has_one_form(text: str, address: str) -> None:
    assert pci_address(text) == address
    assert pci_address(address) == address


@given(st.text() | st.from_regex(r"3,1,2,-;NVRM: Xid \(PCI:0000:[0-9a-f]{2}:00.*", fullmatch=True))
def test_no_line_does_harm(line: str) -> None:
    event = parse(line, 1.0, True)
    if isinstance(event, XidEvent):
        assert pci_address(event.pci) == event.pci != ""
        assert 0 < event.xid <= 65535


def test_a_line_that_is_made_to_be_slow_is_not() -> None:
    began = time.process_time()
    for text in (
        ", " * 4000,
        "a " * 4000,
        "x" * 8000,
        ", a Fatal XC0" * 600,
        "GPU recovery action changed from 0x0 (" * 200,
    ):
        for code in (145, 154):
            read(f"NVRM: Xid (PCI:0000:3b:00): {code}, {text}")
    assert time.process_time() - began < 1.0


# The source, over real files.


def xid_line(code: int, seq: int, bus: str = "3b") -> bytes:
    return f"3,{seq},{seq}000,-;NVRM: Xid (PCI:0000:{bus}:00): {code}, x\n SUBSYSTEM=pci\n DEVICE=+pci:x\n".encode()


LOADED = b"5,9,9000,-;NVRM: loading NVIDIA UNIX x86_64 Kernel Module  535.183.01\n"


class Reader:
    def __init__(self, source: KmsgSource) -> None:
        self.source = source
        self._loop = asyncio.get_running_loop()
        self._news = asyncio.Event()
        self.seen: list[tuple[int, bool]] = []

    def notify(self) -> None:
        self._loop.call_soon_threadsafe(self._news.set)

    async def next(self) -> None:
        self._news.clear()
        async with asyncio.timeout(10):
            await self._news.wait()

    async def until(self, is_so: Callable[[], bool]) -> None:
        async with asyncio.timeout(10):
            while True:
                self._news.clear()
                self.seen += [(event.xid, event.replayed) for event in self.source.take_xids()]
                if is_so():
                    return
                await self._news.wait()


@asynccontextmanager
async def reading(path: Path | str, required: bool = True) -> AsyncIterator[Reader]:
    reader = Reader(KmsgSource(str(path), required, retry=0.02, wait=0.02))
    reader.source.start(reader.notify)
    try:
        yield reader
    finally:
        await reader.source.stop()
    assert not reader.source.watching


@pytest.fixture
def fifo(tmp_path: Path) -> Path:
    path = tmp_path / "kmsg"
    os.mkfifo(path)
    return path


async def test_what_comes_is_told_at_once(fifo: Path) -> None:
    async with reading(fifo) as reader:
        await reader.until(lambda: reader.source.watching)
        (state,) = reader.source.collectors()
        assert (state.name, state.success, state.message) == ("kmsg", True, "")
        with fifo.open("wb", buffering=0) as writer:
            for seq, code in enumerate((79, 31)):
                began = time.monotonic()
                writer.write(b"6,1,1,-;usb 1-1: new device\n" + xid_line(code, seq))
                await reader.until(lambda code=code: (code, False) in reader.seen)
                assert time.monotonic() - began < 1.0
        assert reader.source.samples() == {}
        # The writer has gone; another one comes.
        with fifo.open("wb", buffering=0) as writer:
            writer.write(xid_line(43, 5))
            await reader.until(lambda: len(reader.seen) == 3)


async def test_a_line_may_come_in_pieces(fifo: Path) -> None:
    async with reading(fifo) as reader:
        with fifo.open("wb", buffering=0) as writer:
            for byte in xid_line(79, 1) + xid_line(94, 2):
                writer.write(bytes((byte,)))
            await reader.until(lambda: reader.seen == [(79, False), (94, False)])


async def test_what_was_there_before_is_replayed_unless_the_driver_was_loaded_since(tmp_path: Path) -> None:
    path = tmp_path / "log"
    path.write_bytes(xid_line(79, 1) + LOADED + xid_line(94, 3) + xid_line(31, 4))
    async with reading(path) as reader:
        await reader.until(lambda: len(reader.seen) == 2)
        assert reader.seen == [(94, True), (31, True)]
        assert reader.source.loaded_at is None  # it was loaded before anybody looked
        with path.open("ab") as writer:
            writer.write(LOADED + xid_line(43, 6))
        await reader.until(lambda: len(reader.seen) == 3)
        assert reader.seen[2] == (43, False)
        assert reader.source.loaded_at is not None


async def test_a_driver_that_is_loaded_anew_is_told_at_once(fifo: Path) -> None:
    async with reading(fifo) as reader:
        await reader.until(lambda: reader.source.watching)
        assert reader.source.loaded_at is None
        moments = []
        with fifo.open("wb", buffering=0) as writer:
            for _ in range(2):
                began, before = time.monotonic(), reader.source.loaded_at
                writer.write(b"6,1,1,-;usb 1-1: new device\n" + LOADED)
                await reader.until(lambda before=before: reader.source.loaded_at != before)
                assert reader.source.loaded_at is not None
                assert began <= reader.source.loaded_at <= time.monotonic()
                moments.append(reader.source.loaded_at)
        assert moments[0] < moments[1]
        assert reader.seen == []


async def test_rubbish_and_floods_are_harmless(fifo: Path) -> None:
    async with reading(fifo) as reader:
        with fifo.open("wb", buffering=0) as writer:
            for rubbish in (b"x" * 300_000, b"\n", b"\0\xff\xfe" * 1000 + b"\n", b"NVRM: " * 20_000 + b"\n"):
                await asyncio.to_thread(writer.write, rubbish)
            # A line that is too long is no line, whatever its beginning.
            await asyncio.to_thread(writer.write, xid_line(13, 1).split(b"\n")[0] + b"y" * 100_000 + b"\n")
            await asyncio.to_thread(writer.write, b"6,1,1,-;other message\n" * 20_000)
            writer.write(xid_line(79, 2))
            await reader.until(lambda: bool(reader.seen))
        assert reader.seen == [(79, False)]


async def test_the_newest_xids_are_kept_when_nobody_takes_them(tmp_path: Path) -> None:
    path = tmp_path / "log"
    path.write_bytes(b"".join(xid_line(code, code) for code in range(1, 5001)))
    async with reading(path) as reader:
        await reader.until(lambda: reader.source.watching)
        assert [code for code, _ in reader.seen] == list(range(5000 - 4095, 5001))


async def test_a_flood_of_one_code_pushes_no_other_out(tmp_path: Path) -> None:
    path = tmp_path / "log"
    flood = [xid_line(31, seq) for seq in range(2, 5000)]
    path.write_bytes(b"".join([xid_line(79, 1), *flood, xid_line(48, 5000), *flood]))
    async with reading(path) as reader:
        await reader.until(lambda: reader.source.watching)
        assert Counter(code for code, _ in reader.seen) == {79: 1, 31: 64, 48: 1}


async def test_a_live_flood_is_said_once_and_counted(fifo: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    async with reading(fifo) as reader:
        await reader.until(lambda: reader.source.watching)
        with fifo.open("wb", buffering=0) as writer:
            await asyncio.to_thread(writer.write, xid_line(79, 1) + xid_line(31, 2) * 10_000 + xid_line(48, 3))
            # Nobody takes them meanwhile: the last line that was written loaded the driver.
            await asyncio.to_thread(writer.write, LOADED)
            while reader.source.loaded_at is None:
                await reader.next()
        await reader.until(lambda: (48, False) in reader.seen)
    assert Counter(code for code, _ in reader.seen) == {79: 1, 31: 64, 48: 1}
    told = [line.getMessage() for line in caplog.records if "kernel log: GPU" in line.getMessage()]
    assert told == [f"kernel log: GPU at 00000000:3b:00: Xid {code}" for code in (79, 31, 48)]
    (warning,) = [line.getMessage() for line in caplog.records if line.levelno == logging.WARNING]
    assert re.fullmatch(r"kernel log: \d+ Xids came faster than they are counted, and are not", warning)


def event(xid: int, bus: int = 0, instance: str = "", at: float = 0.0) -> XidEvent:
    return XidEvent(GpuKey("", instance), xid, at, "kmsg", f"00000000:{bus:02x}:00")


@given(st.lists(st.tuples(st.sampled_from([31, 79, 94]), st.integers(0, 2), st.sampled_from(["", "1"])), max_size=400))
def test_of_each_code_the_newest_wait_in_their_order(told: list[tuple[int, int, str]]) -> None:
    waiting = Waiting()
    events = [event(*one, at=float(number)) for number, one in enumerate(told)]
    for one in events:
        waiting.put(one)
    groups: dict[object, list[XidEvent]] = {}
    for one in events:
        groups.setdefault((one.pci, one.key.instance, one.xid), []).append(one)
    kept = sorted((one for group in groups.values() for one in group[-64:]), key=lambda one: one.at)
    assert len(waiting) == len(kept)
    assert waiting.lost == len(events) - len(kept)
    assert waiting.take() == kept
    assert not waiting
    assert waiting.take() == []


def test_however_many_codes_there_are_the_number_that_waits_is_bounded() -> None:
    waiting = Waiting()
    for number in range(20_000):
        waiting.put(event(1 + number % 5000, number % 7))
    assert (len(waiting), waiting.lost) == (4096, 20_000 - 4096)
    assert len(waiting._each) <= 4097


def test_what_is_said_of_a_flood() -> None:
    saying = Saying()
    steps = [  # (second, code, said at once, said before it)
        (10, 31, True, []),
        (11, 31, False, []),
        (12, 79, True, []),
        (69, 31, False, []),
        (70, 31, True, [("00000000:00:00", 31, 2)]),
        (131, 43, True, []),
        (132, 31, True, []),
    ]
    for second, code, at_once, before in steps:
        assert saying.due(second) == before
        assert saying.first(event(code), second) == at_once
    assert [code for code in range(1, 2000) if saying.first(event(code, bus=1), 133)] == list(range(1, 255))
    assert saying.due(191) == [("", 0, 1999 - 254)]
    assert saying.due(300) == []


def _renamed(path: Path, content: bytes) -> None:
    path.rename(path.with_suffix(".1"))
    path.write_bytes(content)


def _exchanged(path: Path, content: bytes) -> None:
    new = path.with_suffix(".new")
    new.write_bytes(content)
    new.replace(path)


@pytest.mark.parametrize("rotate", [_renamed, _exchanged, Path.write_bytes], ids=["renamed", "exchanged", "cut"])
async def test_a_file_that_is_rotated_is_followed(tmp_path: Path, rotate: Callable[[Path, bytes], None]) -> None:
    path = tmp_path / "log"
    path.write_bytes(xid_line(79, 1) + xid_line(13, 2))
    async with reading(path) as reader:
        await reader.until(lambda: len(reader.seen) == 2)
        for number, code in enumerate((31, 43, 94)):
            rotate(path, xid_line(code, 10 + number)[: -number or None])  # each shorter than what it takes the place of
            await reader.until(lambda code=code: (code, False) in reader.seen)
            assert reader.source.watching
        with path.open("ab") as writer:
            writer.write(b"\n" + xid_line(48, 20))
        await reader.until(lambda: (48, False) in reader.seen)
    assert [code for code, _ in reader.seen] == [79, 13, 31, 43, 94, 48], "each once"


async def test_a_file_that_is_removed_is_a_failure_until_it_is_there_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("exporter.sources.kmsg._GONE_SECONDS", 0.05)
    path = tmp_path / "log"
    path.touch()
    async with reading(path) as reader:
        await reader.until(lambda: reader.source.watching)
        path.unlink()
        await reader.until(lambda: not reader.source.watching)
        (state,) = reader.source.collectors()
        assert not state.success
        path.write_bytes(xid_line(79, 1))
        await reader.until(lambda: reader.seen == [(79, True)])
        assert reader.source.watching


@pytest.mark.parametrize(
    ("make", "says"),
    [
        (lambda path: None, "No such file or directory; mount the node's /dev/kmsg"),
        (lambda path: path.mkdir(), "neither the kernel log nor a FIFO nor a file"),
        (lambda path: path.symlink_to("/dev/null"), "a device, but not the kernel log"),
        (lambda path: path.symlink_to("/dev/zero"), "a device, but not the kernel log"),
        (lambda path: path.symlink_to(path), "Too many levels of symbolic links"),
    ],
    ids=["nothing", "directory", "null", "zero", "loop"],
)
async def test_a_log_that_cannot_be_read(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, make: Callable[[Path], None], says: str
) -> None:
    caplog.set_level(logging.INFO)
    path = tmp_path / "kmsg"
    make(path)
    async with reading(path) as reader:
        await reader.until(lambda: says in reader.source.collectors()[0].message)
        (state,) = reader.source.collectors()
        assert (state.name, state.success, state.last_success) == ("kmsg", False, None)
        assert state.message.startswith(f"{path}: ")
        assert state.message.endswith("--kmsg.file=off silences this")
        assert not reader.source.watching
        for _ in range(3):  # tried again, told once
            await reader.next()
    told = [line for line in caplog.records if str(path) in line.getMessage()]
    assert [line.levelno for line in told] == [logging.WARNING]


async def test_a_log_that_nobody_asked_for_may_be_missing(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    path = tmp_path / "kmsg"
    async with reading(path, required=False) as reader:
        await reader.until(lambda: any(str(path) in line.getMessage() for line in caplog.records))
        assert reader.source.collectors() == []
        # It comes later, and then there is a collector.
        path.write_bytes(xid_line(79, 1))
        await reader.until(lambda: reader.seen == [(79, True)])
        assert [state.success for state in reader.source.collectors()] == [True]
    assert [line.levelno for line in caplog.records if "not read" in line.getMessage()] == [logging.INFO]


async def test_stopping_takes_no_longer_than_a_wait(fifo: Path) -> None:
    source = KmsgSource(str(fifo), True)
    reader = Reader(source)
    source.start(reader.notify)
    await reader.until(lambda: source.watching)
    began = time.monotonic()
    await source.stop()
    assert time.monotonic() - began < 1.6
    assert not source.watching


async def test_a_source_that_was_never_started_stops() -> None:
    await KmsgSource("/nowhere", True).stop()


def _may_read_kmsg() -> bool:
    try:
        os.close(os.open("/dev/kmsg", os.O_RDONLY | os.O_NONBLOCK))
    except OSError:
        return False
    return True


@pytest.mark.skipif(not _may_read_kmsg(), reason="this machine's kernel log may not be read (CAP_SYSLOG)")
async def test_this_machine_s_own_kernel_log_is_read() -> None:
    async with reading("/dev/kmsg", required=False) as reader:
        await reader.until(lambda: reader.source.watching)
        assert [state.success for state in reader.source.collectors()] == [True]
        assert all(replayed for _, replayed in reader.seen)
