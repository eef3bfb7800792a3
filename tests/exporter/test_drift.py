"""The node standard: what is told of it, what not, and after how long."""

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from exporter.core import drift
from exporter.core.devices import Holding
from exporter.core.drift import Mismatch, Since, Standard
from exporter.core.model import Allocation, GpuInfo, GpuKey, KubeletReading, PodRef
from exporter.core.signals import BY_NAME

KEY = GpuKey("GPU-a")
INFO = GpuInfo(KEY, "0", "NVIDIA H100 80GB HBM3", driver_version="570.133.20")
MIB, GIB = 2.0**20, 2.0**30
NOBODY, SOMEBODY = Holding(), Holding((PodRef("llm", "llama-0", "engine"),))

#: what, standard, readings, drift
DECLARED = [
    ("nothing", Standard(), {"ecc_enabled": 1.0, "power_limit": 700.0}, {}),
    ("driver, whole", Standard(driver_version="570.133.20"), {}, {"driver_version": False}),
    ("driver, its beginning", Standard(driver_version="570.133"), {}, {"driver_version": False}),
    ("driver, its branch", Standard(driver_version="570"), {}, {"driver_version": False}),
    ("driver, not up to a dot", Standard(driver_version="570.13"), {}, {"driver_version": True}),
    ("driver, more than there is", Standard(driver_version="570.133.20.1"), {}, {"driver_version": True}),
    ("driver, another", Standard(driver_version="580"), {}, {"driver_version": True}),
    ("ecc as declared", Standard(ecc=True), {"ecc_enabled": 1.0}, {"ecc": False}),
    ("ecc off", Standard(ecc=True), {"ecc_enabled": 0.0}, {"ecc": True}),
    ("ecc on, declared off", Standard(ecc=False), {"ecc_enabled": 1.0}, {"ecc": True}),
    ("ecc off, as declared", Standard(ecc=False), {"ecc_enabled": 0.0}, {"ecc": False}),
    ("ecc unknown", Standard(ecc=True), {}, {}),
    ("mig as declared", Standard(mig=False), {"mig_enabled": 0.0}, {"mig": False}),
    ("mig on", Standard(mig=False), {"mig_enabled": 1.0}, {"mig": True}),
    ("mig unknown", Standard(mig=False), {}, {}),
    ("power as declared", Standard(power_limit=600.0), {"power_limit": 600.0}, {"power_limit": False}),
    ("power, rounded", Standard(power_limit=600.0), {"power_limit": 599.2}, {"power_limit": False}),
    ("power, a watt is within", Standard(power_limit=600.0), {"power_limit": 601.0}, {"power_limit": False}),
    ("power, lower", Standard(power_limit=600.0), {"power_limit": 598.9}, {"power_limit": True}),
    ("power, higher", Standard(power_limit=600.0), {"power_limit": 700.0}, {"power_limit": True}),
    ("power unknown", Standard(power_limit=600.0), {"power_limit_default": 700.0}, {}),
    (
        "power at the board's own",
        Standard(power_limit="default"),
        {"power_limit": 700.0, "power_limit_default": 700.0},
        {"power_limit": False},
    ),
    (
        "power below the board's own",
        Standard(power_limit="default"),
        {"power_limit": 500.0, "power_limit_default": 700.0},
        {"power_limit": True},
    ),
    ("power, the board's own unknown", Standard(power_limit="default"), {"power_limit": 700.0}, {}),
    ("clock as declared", Standard(clock_sm=1980e6), {"clock_sm_application": 1980e6}, {"clock_sm": False}),
    ("clock between two steps", Standard(clock_sm=1974e6), {"clock_sm_application": 1980e6}, {"clock_sm": False}),
    ("clock one step lower", Standard(clock_sm=1980e6), {"clock_sm_application": 1965e6}, {"clock_sm": True}),
    ("clock unknown", Standard(clock_sm=1980e6), {"clock_sm": 1980e6}, {}),
]


@pytest.mark.parametrize(("what", "standard", "values", "expected"), DECLARED, ids=[row[0] for row in DECLARED])
def test_what_is_declared_and_known_is_told(
    what: str, standard: Standard, values: dict[str, float], expected: dict[str, bool]
) -> None:
    assert drift.of_gpu(standard, INFO, values, Since(), 0.0) == expected


def test_a_driver_that_is_not_known_is_not_told() -> None:
    assert drift.of_gpu(Standard(driver_version="570"), GpuInfo(KEY), {}, Since(), 0.0) == {}


def test_the_signals_that_are_asked_for_are_signals() -> None:
    assert set(drift.SIGNALS) <= set(BY_NAME)
    assert set(drift.SIGNALS) == {name for _, _, values, _ in DECLARED for name in values if name != "clock_sm"} | {
        "memory_used"
    }


def test_every_number_has_its_unit_and_source() -> None:
    assert all(number.unit and number.source and number.value > 0 for number in drift.NUMBERS.values())


INSTANCE = GpuInfo(GpuKey("GPU-a", "3"), "0", "NVIDIA H100 80GB HBM3")
#: what, who it is, readings, holding, bytes, what is remembered at 100.0
UNOWNED = [
    ("weights", INFO, {"memory_used": 40 * GIB}, NOBODY, 40 * GIB, Since(100.0, True)),
    ("an idle driver", INFO, {"memory_used": 512 * MIB}, NOBODY, 0.0, Since(None, True)),
    ("nothing at all", INFO, {"memory_used": 0.0}, NOBODY, 0.0, Since(None, True)),
    ("a pod has it", INFO, {"memory_used": 40 * GIB}, SOMEBODY, None, Since(None, True)),
    ("a pod may have it", INFO, {"memory_used": 40 * GIB}, Holding(certain=False), None, Since()),
    ("the kubelet is not heard", INFO, {"memory_used": 40 * GIB}, None, None, Since()),
    ("the memory is not known", INFO, {}, NOBODY, None, Since()),
    ("a board whose instances tell", INFO, {"memory_used": 40 * GIB, "mig_enabled": 1.0}, NOBODY, None, Since()),
    ("without MIG", INFO, {"memory_used": 40 * GIB, "mig_enabled": 0.0}, NOBODY, 40 * GIB, Since(100.0, True)),
    # dcgm-exporter repeats the board's values on its instances.
    ("an instance", INSTANCE, {"memory_used": 9 * GIB, "mig_enabled": 1.0}, NOBODY, 9 * GIB, Since(100.0, True)),
    ("of the kernel", GpuInfo(KEY, name="NVIDIA GH200 480GB"), {"memory_used": 9 * GIB}, NOBODY, None, Since()),
    ("of the kernel's", GpuInfo(KEY, name="NVIDIA GB200"), {"memory_used": 9 * GIB}, NOBODY, None, Since()),
    ("B200", GpuInfo(KEY, name="NVIDIA B200"), {"memory_used": 9 * GIB}, NOBODY, 9 * GIB, Since(100.0, True)),
]


@pytest.mark.parametrize(
    ("what", "info", "values", "holding", "expected", "since"), UNOWNED, ids=[row[0] for row in UNOWNED]
)
def test_memory_that_no_pod_has(
    what: str, info: GpuInfo, values: dict[str, float], holding: Holding | None, expected: object, since: Since
) -> None:
    assert drift.unowned_memory(Since(), info, values, holding, 100.0) == (expected, since)


#: (seconds, bytes that are used, whether a pod has it; None is that the kubelet is not heard) -> drift at that time
HISTORIES = [
    ("held for a minute", [(0, 9, False, False), (59, 9, False, False), (60, 9, False, True), (500, 9, False, True)]),
    ("freed in time", [(0, 9, False, False), (59, 0, False, False), (61, 0, False, False)]),
    ("freed after all", [(0, 9, False, False), (60, 9, False, True), (61, 0, False, False)]),
    ("a pod was listed late", [(0, 9, False, False), (50, 9, True, False), (200, 9, True, False)]),
    ("the pod's end counts anew", [(0, 9, True, False), (500, 9, False, False), (560, 9, False, True)]),
    ("not heard in between", [(0, 9, False, False), (50, 9, None, None), (70, 9, False, False), (130, 9, False, True)]),
    ("a new clock", [(900, 9, False, False), (10, 9, False, False), (69, 9, False, False), (70, 9, False, True)]),
]  # fmt: skip


@pytest.mark.parametrize(("what", "history"), HISTORIES, ids=[row[0] for row in HISTORIES])
def test_a_leak_counts_after_it_held(what: str, history: list[tuple[float, float, bool | None, bool | None]]) -> None:
    since = Since()
    for at, gib, owned, expected in history:
        holding = None if owned is None else SOMEBODY if owned else NOBODY
        _, since = drift.unowned_memory(since, INFO, {"memory_used": gib * GIB}, holding, at)
        assert drift.of_gpu(Standard(), INFO, {}, since, at).get("unowned_memory") is expected, f"at {at}"


def kubelet(offered: int | None, by_claim: bool = False) -> KubeletReading:
    claims = (Allocation(PodRef("llm", "llama-0", "engine"), "gpu.nvidia.com", "gpu-0", "n"),) if by_claim else ()
    offers = None if offered is None else tuple(("nvidia.com/gpu", f"GPU-{n}") for n in range(offered))
    return KubeletReading(0.0, claims, offers)


#: (seconds, what the kubelet says, what the driver has, drift); None: not heard, not known, not told
NODES = [
    ("the same", [(0, kubelet(8), 8, False), (900, kubelet(8), 8, False)]),
    ("one is unhealthy", [(0, kubelet(7), 8, False), (299, kubelet(7), 8, False), (300, kubelet(7), 8, True)]),
    ("it came back", [(0, kubelet(7), 8, False), (300, kubelet(7), 8, True), (301, kubelet(8), 8, False)]),
    ("the driver lost one", [(0, kubelet(8), 7, False), (300, kubelet(8), 7, True)]),
    ("at boot the plugin is late", [(0, kubelet(0), 8, None), (200, kubelet(0), 8, None), (210, kubelet(8), 8, False)]),
    ("the plugin is gone", [(0, kubelet(8), 8, False), (10, kubelet(0), 8, False), (310, kubelet(0), 8, True)]),
    (
        "the kubelet was started again and the plugin did not notice",
        [(0, kubelet(8), 8, False), (10, None, 8, None), (40, kubelet(0), 8, False), (340, kubelet(0), 8, True)],
    ),
    ("the driver is not known", [(0, kubelet(7), 8, False), (300, kubelet(7), None, None)]),
    ("a kubelet that does not tell", [(0, kubelet(None), 8, None), (900, kubelet(None), 8, None)]),
    ("claims alone", [(0, kubelet(0, True), 8, None), (900, kubelet(0), 8, None)]),
    ("plugin, then claims", [(0, kubelet(8), 8, False), (10, kubelet(0, True), 8, None), (900, kubelet(0), 8, None)]),
]  # fmt: skip


@pytest.mark.parametrize(("what", "history"), NODES, ids=[row[0] for row in NODES])
def test_what_the_kubelet_offers_against_what_the_driver_has(
    what: str, history: list[tuple[float, KubeletReading | None, int | None, bool | None]]
) -> None:
    memory = Mismatch()
    for at, reading, driver, expected in history:
        memory = drift.mismatch(memory, reading, driver, at)
        assert drift.of_node(memory, at).get("allocatable") is expected, f"at {at}"


#: parser, what is written, the value
WRITTEN = [
    (drift.driver_version, "570", "570"),
    (drift.driver_version, 570, "570"),
    (drift.driver_version, "570.133.20", "570.133.20"),
    (drift.driver_version, "", ""),
    (drift.driver_version, None, ""),
    (drift.on_off, "on", True),
    (drift.on_off, "OFF", False),
    (drift.on_off, True, True),
    (drift.on_off, False, False),
    (drift.on_off, "", None),
    (drift.on_off, None, None),
    (drift.power_limit, "600", 600.0),
    (drift.power_limit, 600, 600.0),
    (drift.power_limit, 312.5, 312.5),
    (drift.power_limit, "default", "default"),
    (drift.power_limit, "", None),
    (drift.megahertz, "1980", 1980e6),
    (drift.megahertz, 1980, 1980e6),
    (drift.megahertz, None, None),
]


@pytest.mark.parametrize(("parse", "raw", "expected"), WRITTEN)
def test_a_standard_as_it_is_written(parse: object, raw: object, expected: object) -> None:
    value = parse(raw)  # type: ignore[operator]
    assert value == expected
    assert type(value) is type(expected)


#: parser, what is written, the fix
WRONG = [
    (drift.driver_version, 570.1, "write it in quotes, as '570.133'"),
    (drift.driver_version, True, "write for example 570 or 570.133.20"),
    (drift.driver_version, "latest", "write for example 570 or 570.133.20"),
    (drift.driver_version, "570.", "write for example 570 or 570.133.20"),
    (drift.on_off, "maybe", "write on or off"),
    (drift.on_off, 2, "write on or off"),
    (drift.power_limit, "600W", "write for example 600 or default"),
    (drift.power_limit, "0", "write for example 600 or default"),
    (drift.power_limit, "-1", "write for example 600 or default"),
    (drift.power_limit, "nan", "write for example 600 or default"),
    (drift.power_limit, True, "write for example 600 or default"),
    (drift.power_limit, [600], "write for example 600 or default"),
    (drift.megahertz, "default", "write for example 1980"),
    (drift.megahertz, "1980MHz", "write for example 1980"),
    (drift.megahertz, "9" * 400, "write for example 1980"),
]


@pytest.mark.parametrize(("parse", "raw", "fix"), WRONG)
def test_what_makes_no_sense_is_refused_with_a_fix(parse: object, raw: object, fix: str) -> None:
    with pytest.raises(ValueError, match=r".") as refused:
        parse(raw)  # type: ignore[operator]
    assert str(refused.value).endswith(fix)
    assert len(str(refused.value)) < 200


anything = st.dictionaries(st.sampled_from(drift.SIGNALS), st.floats(allow_nan=True, allow_infinity=True))


@given(
    st.builds(
        Standard,
        st.sampled_from(["", "570", "570.133.20"]),
        st.sampled_from([None, True, False]),
        st.sampled_from([None, True, False]),
        st.sampled_from([None, "default", 700.0]),
        st.sampled_from([None, 1980e6]),
    ),
    anything,
    st.sampled_from([None, NOBODY, SOMEBODY, Holding(certain=False)]),
    st.floats(0, 1e9),
)
def test_any_readings_tell_only_of_what_was_declared(
    standard: Standard, values: dict[str, float], holding: Holding | None, now: float
) -> None:
    held, since = drift.unowned_memory(Since(), INFO, values, holding, now)
    told = drift.of_gpu(standard, INFO, values, since, now)
    declared = {name for name in Standard.__struct_fields__ if getattr(standard, name) not in ("", None)}
    assert set(told) <= declared | {"unowned_memory"}
    assert all(type(is_so) is bool for is_so in told.values())
    assert held is None or math.isnan(held) or held >= 0.0
    assert ("unowned_memory" in told) <= (holding is not None)
