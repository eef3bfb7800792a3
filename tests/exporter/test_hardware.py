"""core/hardware.py: an engine is as good as the worst of its GPUs, and what is not known of one is not known of it.

Capacity through the whole node: test_node.py.
"""

from typing import Any

import pytest

from exporter.core import hardware
from exporter.core.model import Gpu, GpuInfo, GpuKey, GpuReading, Verdict, XidSeen
from exporter.core.model_engines import Hardware

NOW = 1000.0
FRESH = {"nvml": 3.0}
A, B = GpuKey("GPU-a"), GpuKey("GPU-b")
INSTANCE = GpuKey("GPU-a", "2")
#: Bits of NVML's mask of reasons.
IDLE, APPLICATION_CLOCKS, POWER_CAP, HW_SLOWDOWN, SW_THERMAL, HW_THERMAL, POWER_BRAKE = (
    0x1,
    0x2,
    0x4,
    0x8,
    0x20,
    0x40,
    0x80,
)


def gpu(
    key: GpuKey = A,
    state: str = "healthy",
    capacity: float | None = 1.0,
    xids: dict[int, float] | None = None,
    age: float = 0.0,
    **values: float,
) -> Gpu:
    """xids: code -> seconds since. age: of its readings, seconds."""
    return Gpu(
        GpuInfo(key),
        {name: GpuReading(value, NOW - age, "nvml") for name, value in values.items()},
        {},
        {},
        {code: XidSeen(1, NOW - ago) for code, ago in (xids or {}).items()},
        (),
        None,
        Verdict(state, capacity=capacity),
        {},
        None,
        NOW,
    )


def on(*gpus: Gpu, keys: tuple[GpuKey, ...] | None = None) -> Hardware:
    known = {one.info.key: one for one in gpus}
    asked = tuple(known) if keys is None else keys
    return hardware.of(asked, known, hardware.throttled(known, FRESH, NOW), FRESH, NOW)


def test_no_gpu_known_is_nothing_known() -> None:
    assert on() == Hardware() == Hardware((), "unknown", None, None, None, ())


def test_one_gpu_that_is_well() -> None:
    assert on(gpu(utilization=0.4)) == Hardware((A,), "healthy", 1.0, None, 0.4, ())


WORST = [
    (("healthy", 1.0), ("degraded", 1.0), "degraded", 1.0),
    (("degraded", 1.0), ("unknown", None), "unknown", None),
    (("unknown", None), ("unhealthy", 0.0), "unhealthy", 0.0),
    (("unhealthy", 0.0), ("lost", 0.0), "lost", 0.0),
    (("healthy", 1.0), ("healthy", None), "healthy", None),
]


@pytest.mark.parametrize(("one", "other", "state", "capacity"), WORST)
def test_the_worst_gpu_counts(one: Any, other: Any, state: str, capacity: float | None) -> None:
    for first, second in ((one, other), (other, one)):
        found = on(gpu(A, *first), gpu(B, *second))
        assert (found.state, found.capacity) == (state, capacity)


def test_a_gpu_that_nobody_has_seen_is_unknown() -> None:
    found = on(gpu(A, utilization=0.4), keys=(A, B))
    assert (found.gpus, found.state, found.capacity, found.utilization) == ((A, B), "unknown", None, None)


REASONS = [
    (0, False),
    (IDLE, False),
    (APPLICATION_CLOCKS, False),
    (POWER_CAP, False),
    (HW_SLOWDOWN, True),
    (SW_THERMAL, True),
    (HW_THERMAL, True),
    (POWER_BRAKE, True),
    (POWER_CAP | HW_THERMAL, True),
]


@pytest.mark.parametrize(("mask", "held"), REASONS)
def test_held_down_is_what_nobody_asked_for(mask: int, held: bool) -> None:
    found = on(gpu(A, capacity=0.5, throttle_reasons=float(mask)), gpu(B, throttle_reasons=0.0))
    assert (found.throttled, found.capacity) == (held, 0.5 if held else 1.0)


def test_a_mask_that_is_missing_or_old_tells_nothing_and_one_gpu_held_down_is_enough() -> None:
    free, held = gpu(A, throttle_reasons=0.0), gpu(A, throttle_reasons=float(HW_THERMAL))
    assert on(gpu(A, throttle_reasons=float(HW_THERMAL), age=4.0)).throttled is None
    assert on(free).throttled is False
    assert on(free, gpu(B)).throttled is None
    assert on(held, gpu(B)).throttled is True
    assert on(free, keys=(A, B)).throttled is None


def test_a_board_that_is_held_down_holds_its_instances_down() -> None:
    board, instance = gpu(A, throttle_reasons=float(HW_THERMAL)), gpu(INSTANCE, capacity=0.5)
    assert on(board, instance, keys=(INSTANCE,)).throttled
    assert on(gpu(A, throttle_reasons=0.0), instance, keys=(INSTANCE,)).throttled is False
    assert on(gpu(B, throttle_reasons=float(HW_THERMAL)), instance, keys=(INSTANCE,)).throttled is None


def test_the_busiest_gpu_counts_and_only_if_all_are_known_now() -> None:
    assert on(gpu(A, utilization=0.1), gpu(B, utilization=0.7)).utilization == 0.7
    assert on(gpu(A, utilization=0.1), gpu(B)).utilization is None
    assert on(gpu(A, utilization=0.1), gpu(B, utilization=0.7, age=4.0)).utilization is None
    assert on(gpu(A, utilization=0.0)).utilization == 0.0


def test_xids_are_told_newest_first_and_each_code_once() -> None:
    first, second = gpu(A, xids={13: 50.0, 79: 2.0}), gpu(B, xids={13: 5.0, 63: 600.0})
    assert on(first, second).xids == ((79, 2.0), (13, 5.0), (63, 600.0))
    assert on(second, first).xids == on(first, second).xids


def test_an_xid_from_a_moment_ahead_was_now() -> None:
    assert on(gpu(A, xids={79: -0.5})).xids == ((79, 0.0),)


def test_xids_of_gpus_that_are_not_its_own_are_not_told() -> None:
    assert on(gpu(A), gpu(B, xids={79: 1.0}), keys=(A,)).xids == ()
