"""core/join.py: sources of one GPU, and an engine's GPUs."""

import functools
import math

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from exporter.core.join import FRESH_SECONDS, gpus_of, merge
from exporter.core.model import GpuInfo, GpuKey, GpuProcess, GpuReading, GpuSample, PodRef
from exporter.core.model_engines import EngineTarget

A, B = GpuKey("GPU-a"), GpuKey("GPU-b")
SLICE, SLICE9 = GpuKey("GPU-b", "2"), GpuKey("GPU-b", "9")


def sample(source, at, values=None, key=A, missing=None, lost="", pods=(), **info):
    return GpuSample(GpuInfo(key, **info), source, at, values or {}, missing or {}, lost, pods)


def only(samples, now=None):
    (merged,) = merge(samples, now)
    return merged


def power(source, at, watts):
    return sample(source, at, {"power": watts})


nvml, demo, dcgm = (functools.partial(power, source) for source in ("nvml", "demo", "dcgm"))

# name, samples, now, expected reading of "power" as (value, at, source)
PRECEDENCE = [
    ("nvml before dcgm", [dcgm(10, 1), nvml(9, 2)], 10, (2, 9, "nvml")),
    ("demo before dcgm", [dcgm(10, 1), demo(9, 2)], 10, (2, 9, "demo")),
    ("nvml before demo", [demo(10, 1), nvml(9, 2)], 10, (2, 9, "nvml")),
    ("a source nobody knows comes last", [power("x", 10, 1), dcgm(9, 2)], 10, (2, 9, "dcgm")),
    ("per signal: dcgm fills what nvml lacks", [sample("nvml", 10, {"energy": 5}), dcgm(9, 2)], 10, (2, 9, "dcgm")),
    ("at the limit nvml is fresh", [nvml(7, 1), dcgm(10, 2)], 10, (1, 7, "nvml")),
    ("past the limit nvml yields", [nvml(6.9, 1), dcgm(8, 2)], 10, (2, 8, "dcgm")),
    ("all stale: the newest", [nvml(50, 1), dcgm(60, 2)], 100, (2, 60, "dcgm")),
    ("all stale: the newest is nvml's", [nvml(61, 1), dcgm(60, 2)], 100, (1, 61, "nvml")),
    ("stale is better than none", [nvml(5, 1), sample("dcgm", 100)], 100, (1, 5, "nvml")),
    ("no now: the newest sample is the present", [nvml(50, 1), dcgm(60, 2)], None, (2, 60, "dcgm")),
    ("two samples of one source: the newer", [nvml(8, 1), nvml(9, 2)], 10, (2, 9, "nvml")),
    ("nan is not had", [nvml(10, math.nan), dcgm(9, 2)], 10, (2, 9, "dcgm")),
    ("inf is not had", [nvml(10, math.inf), dcgm(9, 2)], 10, (2, 9, "dcgm")),
]  # fmt: skip


@pytest.mark.parametrize(
    ("samples", "now", "expected"), [row[1:] for row in PRECEDENCE], ids=[r[0] for r in PRECEDENCE]
)
def test_which_source_a_signal_comes_from(samples, now, expected):
    assert only(samples, now).readings["power"] == GpuReading(*expected)
    assert only(samples[::-1], now).readings["power"] == GpuReading(*expected), "the order of arrival decides nothing"


LOST = [
    ("nvml lost it", [sample("nvml", 10, lost="gpu_is_lost"), dcgm(10, 1)], "gpu_is_lost"),
    ("dcgm alone says it is gone", [sample("nvml", 10), sample("dcgm", 10, lost="gone")], ""),
    ("nvml lost it and hangs since", [sample("nvml", 1, lost="gpu_is_lost"), sample("dcgm", 10)], "gpu_is_lost"),
    ("nvml hangs, dcgm lost it", [sample("nvml", 1), sample("dcgm", 10, lost="gone")], "gone"),
    ("only dcgm, and it lost it", [sample("dcgm", 10, lost="gone")], "gone"),
    ("nobody is fresh, nobody lost it", [sample("nvml", 1), sample("dcgm", -50)], ""),
]  # fmt: skip


@pytest.mark.parametrize(("samples", "lost"), [row[1:] for row in LOST], ids=[row[0] for row in LOST])
def test_lost_is_the_word_of_the_most_trusted_source(samples, lost):
    assert only(samples, 10).lost == lost


def test_missing_keeps_the_most_trusted_reason_and_only_where_nobody_has_a_reading():
    merged = only(
        [
            sample("dcgm", 10, {"power": 1}, missing={"ecc_corrected": "blank"}),
            sample("nvml", 10, missing={"power": "timeout", "ecc_corrected": "no_permission"}),
        ]
    )
    assert merged.missing == {"ecc_corrected": "no_permission"}
    assert set(merged.readings) == {"power"}


def test_why_something_is_missing_is_told_by_the_fresh_and_by_the_stale_only_among_themselves():
    stale = sample("nvml", 10, missing={"power": "reset_required"})
    assert only([stale, sample("dcgm", 50, {"energy": 1}, missing={"power": "blank"})], 50).missing == {
        "power": "blank"
    }
    assert only([stale, sample("dcgm", 50, {"energy": 1})], 50).missing == {}
    assert only([stale, sample("dcgm", 50, {"energy": 1})], 500).missing == {"power": "reset_required"}


def test_who_tells_a_signal_now():
    told = only([sample("nvml", 10, {"power": 1, "energy": 2}), sample("dcgm", 9, {"power": 1, "temperature": 3})], 10)
    assert told.sources == {"power": "both", "energy": "nvml", "temperature": "dcgm"}
    stale = only([sample("nvml", 1, {"power": 1}), sample("dcgm", 9, {"temperature": 3})], 10)
    assert stale.sources == {"temperature": "dcgm"}
    assert (told.rank, only([dcgm(9, 1)]).rank) == (0, 2)


def listing(source, at, *pids):
    processes = None if pids == (None,) else tuple(GpuProcess(pid, 1.0) for pid in pids)
    return GpuSample(GpuInfo(A), source, at, {}, processes=processes)


# name, samples at 10 s, pids that count (None: not told)
PROCESSES = [
    ("whoever lists them", [listing("nvml", 10, 41, 42), listing("dcgm", 10, None)], [41, 42]),
    ("a list of none is told", [listing("nvml", 10)], []),
    ("nobody tells", [listing("nvml", 10, None), listing("dcgm", 10, None)], None),
    ("the most trusted first, even with none", [listing("dcgm", 10, 43), listing("nvml", 10)], []),
    ("past the limit a list is not of now", [listing("nvml", 6.9, 41)], None),
]


@pytest.mark.parametrize(("samples", "pids"), [row[1:] for row in PROCESSES], ids=[row[0] for row in PROCESSES])
def test_which_processes_count(samples, pids):
    merged = only(samples, 10)
    assert merged.processes == (None if pids is None else tuple(GpuProcess(pid, 1.0) for pid in pids))


def test_identity_is_pieced_together_and_pods_are_united():
    pod, other = PodRef("ns", "a", "c"), PodRef("ns", "b", "c")
    merged = only(
        [
            sample("dcgm", 12, pods=(pod, other), index="7", name="H100", profile="1g.10gb"),
            sample("nvml", 10, pods=(pod,), index="0", driver_version="570"),
        ]
    )
    assert merged.info == GpuInfo(A, index="0", name="H100", driver_version="570", profile="1g.10gb")
    assert merged.pods == (pod, other)
    assert merged.at == 12


def test_instances_are_not_their_board_and_gpus_come_in_their_order_on_the_node():
    keys = [SLICE, GpuKey("GPU-z"), B, A]
    indices = {A: "10", B: "9", SLICE: "9", GpuKey("GPU-z"): ""}
    merged = merge([sample("nvml", 1, key=key, index=indices[key]) for key in keys])
    assert [gpu.info.key for gpu in merged] == [B, SLICE, A, GpuKey("GPU-z")]


finite = st.floats(allow_nan=False, allow_infinity=False)
samples_of_one_gpu = st.lists(
    st.builds(
        sample,
        st.sampled_from([*FRESH_SECONDS, "other"]),
        st.floats(0, 100),
        st.dictionaries(st.sampled_from(["power", "energy"]), st.floats()),
        lost=st.sampled_from(["", "gpu_is_lost"]),
    ),
    min_size=1,
)


@settings(max_examples=200)
@given(samples_of_one_gpu, st.floats(0, 200))
def test_a_merged_reading_was_said_by_somebody_and_is_finite(samples, now):
    merged = only(samples, now)
    for name, reading in merged.readings.items():
        assert math.isfinite(reading.value)
        assert any(s.at == reading.at and s.values.get(name) == reading.value for s in samples)
        # Nothing fresh is passed over for something stale.
        fresh = [
            s
            for s in samples
            if now - s.at <= FRESH_SECONDS.get(s.source, 0) and math.isfinite(s.values.get(name, math.nan))
        ]
        assert not fresh or now - reading.at <= FRESH_SECONDS.get(reading.source, 0)
    assert set(merged.readings).isdisjoint(merged.missing)
    assert merged.at == max(s.at for s in samples)


LOCAL = "http://127.0.0.1:8000/metrics"
REMOTE = "http://10.1.2.3:8000/metrics"
BOARD0 = sample("nvml", 1, key=A, index="0")
BOARD1 = sample("nvml", 1, key=B, index="1")
MIG2 = sample("nvml", 1, key=SLICE, index="1", mig_uuid="MIG-x", profile="3g.40gb")
MIG9 = sample("nvml", 1, key=SLICE9, index="1", mig_uuid="MIG-y")
OWNED = sample("dcgm", 1, key=A, index="0", pods=(PodRef("ns", "vllm-0", "vllm"),))
POD = PodRef("ns", "vllm-0", "vllm")
NO_POD = PodRef()


def target(url=REMOTE, pod=NO_POD, gpus=()):
    return EngineTarget(url, pod, gpus=gpus)


GPUS_OF = [
    ("declared by index", target(gpus=("1",)), [BOARD0, BOARD1], (B,)),
    ("declared by UUID", target(gpus=("GPU-a",)), [BOARD0, BOARD1], (A,)),
    ("declared twice, sorted, once each", target(gpus=("1", "GPU-a", "0")), [BOARD0, BOARD1], (A, B)),
    ("declared by UUID/instance", target(gpus=("GPU-b/2",)), [BOARD0, BOARD1, MIG2, MIG9], (SLICE,)),
    ("declared by MIG UUID", target(gpus=("MIG-x",)), [BOARD1, MIG2, MIG9], (SLICE,)),
    ("a board stands for its instances", target(gpus=("1",)), [BOARD1, MIG2, MIG9], (B,)),
    ("instances stand for a board that is not seen", target(gpus=("1",)), [MIG2, MIG9], (SLICE, SLICE9)),
    ("likewise by UUID", target(gpus=("GPU-b",)), [MIG2, MIG9], (SLICE, SLICE9)),
    ("declared and never seen", target(gpus=("GPU-x", "7")), [BOARD0], (GpuKey("7"), GpuKey("GPU-x"))),
    ("an instance that is not there", target(gpus=("GPU-b/3",)), [BOARD1, MIG2], (GpuKey("GPU-b", "3"),)),
    ("declared wins over the pod", target(pod=POD, gpus=("1",)), [OWNED, BOARD1], (B,)),
    ("by pod", target(pod=POD), [OWNED, BOARD1], (A,)),
    ("by pod without container", target(pod=PodRef("ns", "vllm-0")), [OWNED, BOARD1], (A,)),
    ("by pod without namespace", target(pod=PodRef(pod="vllm-0")), [OWNED, BOARD1], (A,)),
    ("another namespace's pod of that name", target(pod=PodRef("x", "vllm-0")), [OWNED, BOARD1], ()),
    ("another container", target(pod=PodRef("ns", "vllm-0", "sidecar")), [OWNED, BOARD1], ()),
    ("no pod is no match", target(), [sample("dcgm", 1, pods=(PodRef(),)), BOARD1], ()),
    ("single GPU, loopback", target(LOCAL), [BOARD0], (A,)),
    ("single GPU, localhost", target("http://localhost:8000/metrics"), [BOARD0], (A,)),
    ("single GPU, ::1", target("http://[::1]:8000/metrics"), [BOARD0], (A,)),
    ("single GPU, this node by name", target("http://NODE-1:8000/metrics"), [BOARD0], (A,)),
    ("single GPU, another host", target(REMOTE), [BOARD0], ()),
    ("two GPUs, loopback", target(LOCAL), [BOARD0, BOARD1], ()),
    ("single board with MIG, loopback", target(LOCAL), [BOARD1, MIG2], ()),
    ("single instance, loopback", target(LOCAL), [MIG2], ()),
    ("no GPU", target(LOCAL), [], ()),
    ("a URL that is none", target("http://[::1/metrics"), [BOARD0], ()),
]  # fmt: skip


@pytest.mark.parametrize(("engine", "samples", "keys"), [row[1:] for row in GPUS_OF], ids=[row[0] for row in GPUS_OF])
def test_gpus_of_an_engine(engine, samples, keys):
    assert gpus_of(engine, merge(samples), node="node-1") == keys
