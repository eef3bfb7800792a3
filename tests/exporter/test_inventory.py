"""core/inventory.py: which board is missing, and which was only replaced."""

from collections.abc import Sequence
from typing import NamedTuple

import pytest

from exporter.core.inventory import SETTLE_SECONDS, Inventory, take
from exporter.core.model import GpuInfo, GpuKey, GpuSample

NOW = 5000.0
FRESH = {"nvml": 3.0, "dcgm": 15.0}


def board(name: str, slot: str, driver: str = "570.133.20") -> GpuInfo:
    return GpuInfo(GpuKey(f"GPU-{name}"), "0", "H100", f"00000000:{slot}:00.0", driver)


A, B, C = board("a", "01"), board("b", "02"), board("c", "03")
NEW_IN_B = board("new", "02")
NAMELESS = GpuInfo(GpuKey("gpu-index-1"), "1")


class Row(NamedTuple):
    why: str
    had: Sequence[GpuInfo]
    sees: Sequence[GpuInfo]
    missing: Sequence[GpuInfo]
    has: Sequence[GpuInfo]
    source: str = "nvml"
    age: float = 0.0
    settled: bool = True


ROWS = [
    Row("the first look makes the inventory", (), (A, B), (), (A, B)),
    Row("all are there", (A, B), (A, B), (), (A, B)),
    Row("one is gone: it is lost, and stays in the inventory", (A, B), (A,), (B,), (A, B)),
    Row("two are gone", (A, B, C), (B,), (A, C), (A, B, C)),
    Row("one more", (A,), (A, B), (), (A, B)),
    Row("replaced in its slot", (A, B), (A, NEW_IN_B), (), (A, NEW_IN_B)),
    Row("replaced in its slot while another is gone", (A, B, C), (A, NEW_IN_B), (C,), (A, C, NEW_IN_B)),
    Row("a VM on another host: other boards, as many", (A, B), (C, NEW_IN_B), (), (C, NEW_IN_B)),
    Row("just after the driver was loaded nothing is missing yet", (A, B), (A,), (), (A, B), settled=False),
    Row("no word from the driver says nothing", (A, B), (), (), (A, B)),
    Row("a stale word says nothing", (A, B), (A,), (), (A, B), age=4.0),
    Row("dcgm-exporter does not enumerate: its word says nothing", (A, B), (A,), (), (A, B), source="dcgm"),
    Row("a board that has not said who it is may be the missing one", (A, B), (A, NAMELESS), (), (A, B)),
]


@pytest.mark.parametrize("row", ROWS, ids=lambda row: row.why)
def test_who_is_missing(row: Row) -> None:
    present = tuple(sorted(info.key for info in row.sees))
    old = Inventory(tuple(row.had), present if row.settled else (), NOW - SETTLE_SECONDS)
    samples = [GpuSample(info, row.source, NOW - row.age, {"temperature": 50.0}) for info in row.sees]
    new, missing = take(old, samples, NOW, FRESH)
    assert [(sample.info, sample.lost) for sample in missing] == [(info, "gone_from_inventory") for info in row.missing]
    assert set(new.boards) == set(row.has)


def test_a_missing_board_is_told_once_the_others_have_settled_and_until_it_is_back() -> None:
    inventory, told = Inventory((A, B)), []
    for second in range(int(SETTLE_SECONDS) + 3):
        inventory, missing = take(inventory, [GpuSample(A, "nvml", NOW + second, {})], NOW + second, FRESH)
        told.append(len(missing))
    assert told == [0] * int(SETTLE_SECONDS) + [1] * 3
    both = [GpuSample(info, "nvml", NOW + 40, {}) for info in (A, B)]
    inventory, missing = take(inventory, both, NOW + 40, FRESH)
    assert not missing


def test_mig_instances_are_no_boards() -> None:
    part = GpuInfo(GpuKey("GPU-a", "3"), "0", "H100", "00000000:01:00.0", "570.133.20")
    inventory, missing = take(Inventory((A,)), [GpuSample(i, "nvml", NOW, {}) for i in (A, part)], NOW, FRESH)
    assert (inventory.boards, list(missing)) == ((A,), [])
