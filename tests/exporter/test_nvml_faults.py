"""Every fault on every NVML call that the source makes, and sequences of faults at random.

What is expected of a verdict follows from the sample by the rules below, which are health.py's in the tests' own words.
"""

import logging
import random
import threading
import time
from collections.abc import Iterator, Mapping
from itertools import pairwise
from pathlib import Path
from typing import NamedTuple

import pytest
from msgspec.structs import replace

from exporter.core.model import GpuKey, GpuSample
from exporter.core.signals import MISSING_REASONS
from exporter.sources import nvml
from tests.nvml.fake import called
from tests.nvml.running import KEYS, PATIENCE, UUIDS, Running, Start, starting, verdict


@pytest.fixture
def start(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Start]:
    yield from starting(tmp_path, monkeypatch)


INTERVAL = 0.05
#: On one GPU alone these are that GPU's trouble, whatever the call.
BROKEN = ("UNINITIALIZED", "DRIVER_NOT_LOADED")
ERRORS = ("NOT_SUPPORTED", "GPU_IS_LOST", "RESET_REQUIRED", "UNKNOWN", "SENTINEL", *BROKEN)
REASONS = {
    "NOT_SUPPORTED": "not_supported",
    "GPU_IS_LOST": "gpu_is_lost",
    "RESET_REQUIRED": "reset_required",
    "UNKNOWN": "unknown_error",
    "SENTINEL": "blank",
}

# Three kinds of GPU, which together are asked by every call: as new as can be, cut into instances, with a driver that
# knows no fields and no second versions.
NEWER = ("nvmlDeviceGetFieldValues", "nvmlDeviceGetTemperatureV", "nvmlDeviceGetMemoryInfo_v2",
         "nvmlDeviceGetCurrentClocksEventReasons", "nvmlDeviceGetComputeRunningProcesses_v3")  # fmt: skip
KINDS: Mapping[str, Mapping[str, object]] = {
    "new": {},
    "mig": {"mig_mode": 1, "mig0": "2,0,MIG-a,NVIDIA H100 80GB HBM3 MIG 3g.40gb,42949672960,1073741824"},
    "old": {f"call.{name}": "FUNCTION_NOT_FOUND" for name in NEWER},
}
ON_INSTANCE = " on an instance"

#: Without these it is not known who the GPU is.
IDENTIFYING = ("nvmlDeviceGetHandleByIndex_v2", "nvmlDeviceGetUUID")
#: These tell what is only shown.
DESCRIBING = ("nvmlDeviceGetName", "nvmlDeviceGetPciInfo_v3", "nvmlDeviceGetMinorNumber")
#: These are for the event set.
WATCHING = ("nvmlDeviceGetSupportedEventTypes", "nvmlDeviceRegisterEvents")
#: These look for instances.
LOOKING = ("nvmlDeviceGetMaxMigDeviceCount", "nvmlDeviceGetMigDeviceHandleByIndex", "nvmlDeviceGetGpuInstanceId",
           "nvmlDeviceGetGpuInstanceId on an instance", "nvmlDeviceGetUUID on an instance",
           "nvmlDeviceGetName on an instance")  # fmt: skip
#: These read, once (what is fixed) or always.
READ_ONCE = ("nvmlDeviceGetTemperatureThreshold", "nvmlDeviceGetPowerManagementDefaultLimit",
             "nvmlDeviceGetMaxClockInfo", "nvmlDeviceGetMaxPcieLinkGeneration",
             "nvmlDeviceGetMaxPcieLinkWidth")  # fmt: skip
READING: Mapping[str, tuple[str, ...]] = {
    "new": (
        *READ_ONCE, *NEWER, "nvmlDeviceGetMarginTemperature", "nvmlDeviceGetUtilizationRates",
        "nvmlDeviceGetPowerUsage", "nvmlDeviceGetEnforcedPowerLimit", "nvmlDeviceGetClockInfo",
        "nvmlDeviceGetApplicationsClock",
        "nvmlDeviceGetMemoryErrorCounter", "nvmlDeviceGetSramEccErrorStatus", "nvmlDeviceGetRowRemapperHistogram",
        "nvmlDeviceGetCurrPcieLinkGeneration", "nvmlDeviceGetCurrPcieLinkWidth", "nvmlDeviceGetGpuFabricInfoV",
        "nvmlDeviceGetMigMode", "nvmlDeviceGetPersistenceMode",
    ),
    "mig": (
        "nvmlDeviceGetMigMode", "nvmlDeviceGetMemoryInfo_v2 on an instance",
        "nvmlDeviceGetComputeRunningProcesses_v3 on an instance", "nvmlDeviceGetTotalEccErrors on an instance",
        "nvmlDeviceGetMemoryErrorCounter on an instance",
    ),
    "old": (
        "nvmlDeviceGetTemperature", "nvmlDeviceGetMemoryInfo", "nvmlDeviceGetCurrentClocksThrottleReasons",
        "nvmlDeviceGetComputeRunningProcesses_v2", "nvmlDeviceGetEccMode", "nvmlDeviceGetTotalEccErrors",
        "nvmlDeviceGetTotalEnergyConsumption", "nvmlDeviceGetPcieReplayCounter", "nvmlDeviceGetRemappedRows",
        "nvmlDeviceGetRetiredPages", "nvmlDeviceGetRetiredPagesPendingStatus", "nvmlDeviceGetNvLinkState",
        "nvmlDeviceGetNvLinkErrorCounter",
    ),
}  # fmt: skip
#: These are about no GPU.
OF_THE_NODE = ("nvmlInitWithFlags", "nvmlSystemGetDriverVersion", "nvmlDeviceGetCount_v2", "nvmlEventSetCreate",
               "nvmlEventSetWait_v2", "nvmlEventSetFree", "nvmlShutdown")  # fmt: skip


class Case(NamedTuple):
    kind: str
    call: str

    def key(self, fault: str) -> str:
        """fault: "call" or "hang"."""
        of = "mig" if self.call.endswith(ON_INSTANCE) else ""
        return f"{of}{fault}.{self.call.removesuffix(ON_INSTANCE)}"


CASES = (
    *(Case("new", call) for call in (*IDENTIFYING, *DESCRIBING, *WATCHING)),
    *(Case("mig", call) for call in LOOKING if call != "nvmlDeviceGetGpuInstanceId"),
    *(Case(kind, call) for kind, calls in READING.items() for call in calls),
)
#: A node's GPUs: the cases, and in the last places one well GPU of each kind.
PLACES = 16 - len(KINDS)
BATCHES = tuple(CASES[first : first + PLACES] for first in range(0, len(CASES), PLACES))
WELL = {kind: KEYS[PLACES + place] for place, kind in enumerate(KINDS)}
INSTANCE = "2"


def node(cases: tuple[Case, ...]) -> dict[str, object]:
    """The state of a node with the cases' GPUs, without faults yet, and the well ones."""
    places = [*enumerate(case.kind for case in cases), *((PLACES + i, kind) for i, kind in enumerate(KINDS))]
    kinds = {f"gpu{place}.{name}": value for place, kind in places for name, value in KINDS[kind].items()}
    return {"gpus": 16, **kinds}


def expected_state(sample: GpuSample) -> str:
    """What a verdict on this sample alone must be."""
    values, missing = sample.values, sample.missing
    if sample.lost:
        return "unknown" if sample.lost == "unknown_error" else "lost"  # that it takes two polls to say
    if "reset_required" in missing.values():
        return "unhealthy"
    no_ecc = values.get("ecc_enabled") == 0 or missing.get("ecc_enabled") == "not_supported"
    counts = ("ecc_uncorrected", "ecc_uncorrected_lifetime")
    none = all(missing.get(count) == "not_supported" for count in counts)
    memory = any(count in values for count in counts) or (no_ecc and none)
    sensor = "temperature" in values or "clock_sm" in values
    watched = values.get("xid_watched") == 1 or "recovery_action" in values
    return "healthy" if memory and sensor and watched else "unknown"


def fresh_within_two_intervals(running: Running, key: GpuKey) -> bool:
    """The GPU is polled as often as ever.

    A hiccup of the machine that the test runs on is none of the source's: it passes, and a poll that waits for another
    GPU does not. So six polls in a row are looked for, and one of their gaps may be long.
    """
    polls = [running.sample(key, after=time.monotonic()).at]
    until = polls[0] + PATIENCE
    while polls[-1] < until:
        polls.append(running.sample(key, after=polls[-1]).at)
        gaps = sorted(late - early for early, late in pairwise(polls[-6:]))
        if len(gaps) == 5 and gaps[-2] <= 2 * INTERVAL:
            return True
    return False


def test_the_cases_are_every_call_that_the_source_makes(start: Start) -> None:
    before = called()
    running = start(node(()), interval=INTERVAL, inventory=0.0)
    for key in WELL.values():
        running.sample(key, after=running.sample(key).at)
    running.sample(GpuKey(WELL["mig"].uuid, INSTANCE))
    running.stop()
    made = {name for name, count in called().items() if count > before.get(name, 0)}
    assert made - {case.call for case in CASES} - set(OF_THE_NODE) - {"nvmlDeviceGetGpuInstanceId"} == set()
    # What only another driver or card is asked is in the table too; all else of the table was asked.
    assert {*OF_THE_NODE, *(case.call for case in CASES)} - made <= {"nvmlDeviceGetGpuInstanceId"}


@pytest.mark.parametrize("cases", BATCHES, ids=lambda cases: cases[0].call)
@pytest.mark.parametrize("fault", ERRORS)
def test_an_error_on_a_call(start: Start, fault: str, cases: tuple[Case, ...]) -> None:
    faults = {f"gpu{place}.{case.key('call')}": fault for place, case in enumerate(cases)}
    running = start({**node(cases), **faults}, interval=INTERVAL)
    well = {kind: running.read(key) for kind, key in WELL.items()}
    well_instance = running.read(GpuKey(WELL["mig"].uuid, INSTANCE))
    assert fresh_within_two_intervals(running, WELL["new"])
    assert verdict(running.read(WELL["new"])).state == verdict(running.read(WELL["old"])).state == "healthy"
    opened = running.nvml.calls("nvmlInitWithFlags")
    for place, case in enumerate(cases):
        sick = next(s for s in running.source.samples().values() if s.info.index == str(place) and not s.info.profile)
        usual = well[case.kind]
        if fault in BROKEN:
            assert (sick.values, set(sick.missing.values()), sick.lost) == ({}, {"unknown_error"}, ""), case
            assert verdict(sick).state == "unknown", case
            continue
        if case.call.endswith(ON_INSTANCE):
            found = running.source.samples().get(GpuKey(UUIDS[place], INSTANCE))
            if found is None:  # it could not be told that there is an instance
                assert case.call in LOOKING
                continue
            assert (sick.values, sick.missing) == (usual.values, usual.missing)  # the board is not harmed
            sick, usual = found, well_instance
        _check(fault, case, sick, usual, well["old"])
    assert running.nvml.calls("nvmlInitWithFlags") == opened


def _check(fault: str, case: Case, sick: GpuSample, usual: GpuSample, old: GpuSample) -> None:
    state = verdict(sick).state
    new = {signal: reason for signal, reason in sick.missing.items() if signal not in usual.missing}
    about = f"{case} {fault}: {state} {sick.lost} {new}"
    # No wrong value: what is read is what a well GPU reads, or what it would in the older way.
    for signal, value in sick.values.items():
        assert value in (usual.values[signal], old.values.get(signal)), f"{about} {signal}={value}"
    assert set(sick.missing.values()) <= set(MISSING_REASONS), about
    if case.kind != "mig":
        assert state == expected_state(sick), about
    if case.call in IDENTIFYING:
        unknown = dict.fromkeys(("NOT_SUPPORTED", "UNKNOWN"), "unknown")
        # A handle is given in any case; a UUID that is no text is none.
        nonsense = "unknown" if case.call == "nvmlDeviceGetUUID" else "healthy"
        of_fault = {**unknown, "RESET_REQUIRED": "unhealthy", "SENTINEL": nonsense}
        assert (sick.info.key == GpuKey(f"gpu-index-{sick.info.index}")) == (of_fault.get(fault) != "healthy"), about
        assert state == of_fault.get(fault, "lost"), about
        if fault == "UNKNOWN":  # lost is who answers so twice
            assert verdict(sick, replace(sick, at=sick.at + INTERVAL)).state == "lost", about
    elif case.call in DESCRIBING or case.call in LOOKING:
        assert (new, state) == ({}, verdict(usual).state), about
    elif case.call in WATCHING:
        reason = REASONS[fault]
        assert new == ({} if fault == "SENTINEL" else {"xid_watched": reason}), about
        assert state == ("unhealthy" if fault == "RESET_REQUIRED" else "healthy"), about
    elif fault == "GPU_IS_LOST":
        assert (sick.lost, sick.values, state) == ("gpu_is_lost", {}, "lost"), about
    else:
        assert not sick.lost, about
        assert set(new.values()) <= {REASONS[fault]}, about
        # An older way may stand in for what is not supported; an error is never papered over.
        assert new or fault == "NOT_SUPPORTED", about
        assert (state == "unhealthy") == (fault == "RESET_REQUIRED"), about


#: Calls that are made once, before the first sample.
ONCE = {*IDENTIFYING, *DESCRIBING, *WATCHING, *READ_ONCE}


@pytest.mark.parametrize("cases", BATCHES, ids=lambda cases: cases[0].call)
def test_a_call_that_hangs(start: Start, cases: tuple[Case, ...]) -> None:
    """All GPUs of the node but the well ones at once."""
    state = node(cases)
    hangs = {f"gpu{place}.{case.key('hang')}": 30 for place, case in enumerate(cases)}
    at_start = {key: hang for (key, hang), case in zip(hangs.items(), cases, strict=True) if case.call in ONCE}
    running = start({**state, **at_start}, interval=INTERVAL, deadline=10 * INTERVAL)
    for place, case in enumerate(cases):
        if case.call not in ONCE:
            running.read(KEYS[place])
    usual = {kind: running.read(key) for kind, key in WELL.items()}
    running.nvml.set(hangs)
    for place, case in enumerate(cases):
        late = running.failure(f"nvml-{place}", "has not returned")
        name = WATCHING[1] if case.call in WATCHING else case.call.removesuffix(ON_INSTANCE)
        assert name.removesuffix("_v2").removesuffix("_v3") in late.message
    for key in WELL.values():
        assert fresh_within_two_intervals(running, key)
        assert running.collectors()[f"nvml-{KEYS.index(key)}"].success
    for place, case in enumerate(cases):
        nameless = case.call in (*IDENTIFYING, *DESCRIBING)
        stuck = running.sample(GpuKey(f"gpu-index-{place}") if nameless else KEYS[place])
        assert (set(stuck.missing.values()) == {"timeout"}) == (case.call in ONCE)
        if case.call in ONCE:
            assert (stuck.values, verdict(stuck).state) == ({}, "unknown")
        else:
            assert verdict(stuck, age=3.5).reasons == (("stale", "none"),)
            assert verdict(stuck, age=3.5).state == "unknown"
    # They come back, and so do the GPUs: all at once, so on a busy machine their first polls may be late once more.
    running.nvml.clear(*hangs)
    cleared = time.monotonic()
    for place, case in enumerate(cases):
        back = running.read(KEYS[place], after=cleared)
        assert (back.values, back.missing) == (usual[case.kind].values, usual[case.kind].missing)
    assert {key.uuid for key in running.source.samples()} == set(UUIDS)


@pytest.mark.parametrize("fault", [*ERRORS, "hang"])
def test_a_fault_of_a_call_that_is_about_no_gpu(start: Start, fault: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """From the start, and then in the midst of work. What has passed leaves nothing behind."""
    monkeypatch.setattr(nvml, "_JOIN_SECONDS", 0.1)
    for call in OF_THE_NODE:
        key, value = (f"hang.{call}", 30) if fault == "hang" else (f"call.{call}", fault)
        running = start({"gpus": 2, key: value}, retry=0.05, inventory=0.05)
        running.until(lambda running=running: running.source.samples() or not running.collectors()["nvml"].success)
        for _ in range(2):
            running.nvml.clear(key)
            cleared = time.monotonic()
            for gpu in KEYS[:2]:
                assert verdict(running.sample(gpu, after=cleared)).state == "healthy"
            running.nvml.set({key: value})
            running.news()
        running.nvml.set({"driver": "DRIVER_NOT_LOADED"})  # the set is freed and NVML shut down, with the fault
        running.failure("nvml", "")
        running.nvml.clear(key, "driver")
        cleared = time.monotonic()
        for gpu in KEYS[:2]:
            assert verdict(running.sample(gpu, after=cleared)).state == "healthy"
        assert running.stop() < 5
        assert running.source.fatal == ""


# At random.

SEQUENCES = 100
GPUS = 3
MIG_ROW = "{gi},0,MIG-{gi},NVIDIA H100 80GB HBM3 MIG 1g.10gb,10737418240,{used}"


def _step(dice: random.Random, running: Running) -> None:
    """One change of the driver's state."""
    gpu = dice.randrange(GPUS)
    call = dice.choice([case.call.removesuffix(ON_INSTANCE) for case in CASES])
    error = dice.choice((*ERRORS, "NO_PERMISSION", "TIMEOUT", "INVALID_ARGUMENT", "OK"))
    match dice.choice(("call", "call", "field", "hang", "all", "gone", "mig", "cut", "driver", "node", "xid")):
        case "call":
            running.nvml.set({f"gpu{gpu}.{dice.choice(('', 'mig'))}call.{call}": error})
        case "field":
            running.nvml.set({f"gpu{gpu}.field.{dice.choice((1, 4, 91, 161, 165, 194, 230, 269))}": error})
        case "hang":
            running.nvml.set({f"gpu{gpu}.{dice.choice(('', 'mig'))}hang.{call}": 30})
        case "all":
            running.nvml.set({f"gpu{gpu}.all": dice.choice(("GPU_IS_LOST", "UNKNOWN", "RESET_REQUIRED", "OK"))})
        case "gone":
            running.nvml.set({f"gpu{gpu}.gone": dice.randrange(2)})
        case "mig":
            running.nvml.set({f"gpu{gpu}.mig_mode": dice.randrange(2)})
            running.nvml.mig_change(gpu)
        case "cut":
            gi = dice.randrange(7, 14)
            running.nvml.set({f"gpu{gpu}.mig{dice.randrange(7)}": MIG_ROW.format(gi=gi, used=dice.randrange(9))})
        case "driver":
            running.nvml.set({"driver": dice.choice(("DRIVER_NOT_LOADED", "UNINITIALIZED", "OK"))})
        case "node":
            running.nvml.set({f"call.{dice.choice(OF_THE_NODE)}": error})
        case "xid":
            running.nvml.xid(gpu, dice.choice((13, 31, 48, 79, 94)), *dice.choice(((), (7, 0))))


#: What is not asked again until NVML is opened anew, and is no fault.
REFUSED = ("not_supported", "not_supported_in_mig", ("xid_watched", "no_permission"))


def test_sequences_of_faults_at_random_leave_nothing_behind(
    start: Start, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """All GPUs recover once the faults are gone. What was refused is read again after the driver was loaded again."""
    monkeypatch.setattr(nvml, "_JOIN_SECONDS", 0.05)
    crashed: list[threading.ExceptHookArgs] = []
    monkeypatch.setattr(threading, "excepthook", crashed.append)
    clean = {"gpus": GPUS}
    running = start(clean, interval=0.02, deadline=0.06, retry=0.04, inventory=0.04)
    usual = running.sample(KEYS[0]).values
    older = {**usual, "memory_used": usual["memory_used"] + usual["memory_reserved"]}

    def recovered(since: float, refused: tuple[object, ...]) -> bool:
        samples = running.source.samples()
        if set(samples) != set(KEYS[:GPUS]) or not all(sample.at > since for sample in samples.values()):
            return False
        missing = {told for sample in samples.values() for told in sample.missing.items()}
        refusals = [told for told in missing if told[1] in refused or told in refused]
        return len(refusals) == len(missing) and not any(sample.lost for sample in samples.values())

    for seed in range(SEQUENCES):
        dice = random.Random(seed)  # noqa: S311 -- the same sequences every time
        for _ in range(dice.randrange(3, 9)):
            _step(dice, running)
            running.news()
        running.nvml.state = dict(clean)
        running.nvml.clear()
        since = time.monotonic()
        running.until(lambda since=since: recovered(since, REFUSED))
        for sample in running.source.samples().values():
            assert all(value in (usual[name], older[name]) for name, value in sample.values.items()), (seed, sample)
        if seed % 10 == 9:
            running.change({"driver": "DRIVER_NOT_LOADED"})
            running.failure("nvml", "Driver Not Loaded")
            loaded = running.change({"driver": "OK"})
            running.until(lambda since=loaded: recovered(since, ()))
            assert all(sample.values == usual for sample in running.source.samples().values()), seed
        running.source.take_xids()
        assert not crashed, (seed, crashed)
    assert not [record for record in caplog.records if record.levelno >= logging.ERROR]
    assert running.source.fatal == ""
