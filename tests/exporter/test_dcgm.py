"""dcgm-exporter: its page into samples, its sticky Xid gauge into events, and the source over real HTTP."""

import asyncio
import gzip
import itertools
import time
from collections.abc import AsyncIterator, Callable
from pathlib import Path

import pytest
from aiohttp import web

from exporter.core import dcgm, health
from exporter.core.exposition import ExpositionError
from exporter.core.join import merge
from exporter.core.model import GpuKey, GpuSample, PodRef, XidEvent
from exporter.core.signals import MIB, SIGNALS
from exporter.kit.fetch import Fetcher
from exporter.sources import dcgm as dcgm_source
from exporter.sources.dcgm import DcgmSource

FIXTURES = Path(__file__).parents[1] / "fixtures/dcgm"
PAGE = (FIXTURES / "dcgm-exporter-2gpu-mig.prom").read_bytes()
#: One board, with all that DCGM 4.6 has for us.
LONG = (FIXTURES / "dcgm-exporter-4.6-names.prom").read_bytes()
WHOLE = GpuKey("GPU-6f3c1a52-0d7e-4c1b-9a57-3f0e5b8d2c11")
SHARED = GpuKey("GPU-b81d77aa-52c4-4ef0-8d1f-94c6a2e0f7b3")
LARGE, SMALL = GpuKey(SHARED.uuid, "2"), GpuKey(SHARED.uuid, "9")


def by_key(body: bytes, at: float = 7.0) -> dict[GpuKey, GpuSample]:
    return {sample.info.key: sample for sample in dcgm.read(body, at)}


def page(*rows: str) -> bytes:
    return "".join(f"{row}\n" for row in rows).encode()


def row(field: str, value: object, labels: str = 'gpu="0",UUID="GPU-1"') -> str:
    return f"{field}{{{labels}}} {value}"


class Peer:
    """A real HTTP server that answers as the test says, and a source that reads it."""

    def __init__(self, source: DcgmSource) -> None:
        self.source = source
        self.news = asyncio.Event()
        self.answer: Callable[[], web.StreamResponse] = lambda: web.Response(body=PAGE)

    async def next(self) -> None:
        """The end of a reading that began after now."""
        for _ in range(2):
            self.news.clear()
            async with asyncio.timeout(10):
                await self.news.wait()


@pytest.fixture
async def peer() -> AsyncIterator[Peer]:
    async def handle(_: web.Request) -> web.StreamResponse:
        return holder[0].answer()

    app = web.Application()
    app.router.add_get("/metrics", handle)
    runner = web.AppRunner(app)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    fetcher = Fetcher()
    url = f"http://127.0.0.1:{runner.addresses[0][1]}/metrics"
    holder = [Peer(DcgmSource(url, fetcher, interval=0.01))]
    holder[0].source.start(holder[0].news.set)
    yield holder[0]
    await holder[0].source.stop()
    await fetcher.close()
    await runner.cleanup()


# The fixture.


def test_a_whole_gpu() -> None:
    sample = by_key(PAGE)[WHOLE]
    assert sample.values == pytest.approx(
        {
            "utilization": 1.0,
            "memory_used": 74982 * MIB,
            "memory_free": 6011 * MIB,
            "memory_reserved": 566 * MIB,
            "temperature": 84,
            "memory_temperature": 88,
            "power": 538.214,
            "energy": 913377281.145,
            "clock_sm": 1410e6,
            "clock_memory": 2619e6,
            "remapped_correctable": 0,
            "remapped_uncorrectable": 1,
            "remap_failure": 0,
            "pcie_replays": 4,
            "xid_watched": 1.0,
        }
    )
    info = sample.info
    assert (info.index, info.name, info.driver_version) == ("0", "NVIDIA H100 80GB HBM3", "570.133.20")
    assert info.minor == "0"
    assert info.pci_bus_id == "00000000:1A:00.0"
    assert sample.pods == (PodRef("inference", "llama70b-0", "vllm"),)
    assert (sample.at, sample.source, sample.missing) == (7.0, "dcgm", {})


def test_under_mig_board_values_are_the_board_s() -> None:
    samples = by_key(PAGE)
    assert set(samples) == {WHOLE, SHARED, LARGE, SMALL}
    assert samples[LARGE].values == {
        "memory_used": 30976 * MIB, "memory_free": 9120 * MIB, "memory_reserved": 64 * MIB,
    }  # fmt: skip
    assert samples[SMALL].values["memory_used"] == 12 * MIB
    assert (samples[LARGE].info.profile, samples[SMALL].info.profile) == ("3g.40gb", "1g.10gb")
    assert samples[LARGE].pods == (PodRef("inference", "qwen7b-5d9c-x2k", "vllm"),)
    assert samples[SMALL].pods == samples[SHARED].pods == ()
    assert samples[SHARED].values["temperature"] == 55
    assert not {"memory_used", "utilization"} & set(samples[SHARED].values)


def test_the_default_set_cannot_vouch_for_a_gpu() -> None:
    for merged in merge(dcgm.read(PAGE, 7.0)):
        verdict, _ = health.judge(None, merged, [], 7.0)
        if merged.info.key.instance:
            continue
        assert verdict.state == "unknown"
        assert ("ecc_not_read", "none") in verdict.reasons
        assert verdict.capacity is None


def test_with_a_long_set_dcgm_tells_what_nvml_would() -> None:
    (sample,) = dcgm.read(LONG, 7.0)
    # Not with a meaning of its own in DCGM: processes, lifetime PCIe bytes, the margins at which something happens.
    untold = {s.name for s in SIGNALS} - set(sample.values) - set(sample.missing)
    assert {name for name in untold if not name.startswith("nvlink_")} == {
        "margin_shutdown", "margin_slowdown", "margin_memory_max", "margin_gpu_max",
        "pcie_bytes_sent", "pcie_bytes_received", "processes", "processes_memory",
    }  # fmt: skip
    assert sample.missing == dict.fromkeys(("retired_pages_dbe", "retired_pages_pending", "retired_pages_sbe"), "blank")
    assert {name: sample.values[name] for name in ("temperature_margin", "throttle_sw_power_cap", "fabric_health")} == {
        "temperature_margin": 24, "throttle_sw_power_cap": pytest.approx(84113.4), "fabric_health": 170,
    }  # fmt: skip
    info = sample.info
    assert (info.index, info.minor, info.driver_version) == ("3", "3", "580.95.05")


# Names.


@pytest.mark.parametrize(("field", "signal"), [(f, s.name) for s in SIGNALS for f in s.dcgm])
def test_every_name_of_a_field_is_known(field: str, signal: str) -> None:
    (sample,) = dcgm.read(page(row(field, 1)), 0.0)
    # 1 MiB, 1 MHz, 1 % and so on: what is 1 in DCGM's unit is within every signal's range.
    factor = next(s.factor for s in SIGNALS if s.name == signal)
    assert sample.values == pytest.approx({signal: factor})


#: As DCGM's own table of deprecated names has them (dcgm_fields.py of 4.6).
RENAMED = [
    ("GPU_TEMP", "GPU_TEMP_CELSIUS"),
    ("MEMORY_TEMP", "MEMORY_TEMP_CELSIUS"),
    ("GPU_TEMP_LIMIT", "GPU_TEMP_MARGIN_CELSIUS"),
    ("SLOWDOWN_TEMP", "GPU_TEMP_SLOWDOWN_CELSIUS"),
    ("SHUTDOWN_TEMP", "GPU_TEMP_SHUTDOWN_CELSIUS"),
    ("POWER_USAGE", "BOARD_POWER_WATTS"),
    ("POWER_MGMT_LIMIT_DEF", "BOARD_POWER_LIMIT_DEFAULT_WATTS"),
    ("ENFORCED_POWER_LIMIT", "BOARD_POWER_LIMIT_ENFORCED_WATTS"),
    ("CLOCK_THROTTLE_REASONS", "CLOCKS_EVENT_REASONS"),
    ("PERSISTENCE_MODE", "GPU_PERSISTENCE_MODE"),
    ("PCIE_REPLAY_COUNTER", "PCIE_REPLAY_TOTAL"),
    ("ECC_CURRENT", "ECC_MODE"),
    ("THRESHOLD_SRM", "SRAM_EXCEEDED"),
    ("BANKS_REMAP_ROWS_AVAIL_MAX", "BANK_REMAP_AVAIL_MAX"),
    ("BANKS_REMAP_ROWS_AVAIL_NONE", "BANK_REMAP_AVAIL_NONE"),
    ("RETIRED_SBE", "PAGE_RETIRED_SBE_TOTAL"),
    ("RETIRED_DBE", "PAGE_RETIRED_DBE_TOTAL"),
    ("RETIRED_PENDING", "PAGE_RETIRED_PENDING"),
    ("UNCORRECTABLE_REMAPPED_ROWS", "ROW_REMAP_UNCORRECTABLE_TOTAL"),
    ("CORRECTABLE_REMAPPED_ROWS", "ROW_REMAP_CORRECTABLE_TOTAL"),
    ("ROW_REMAP_FAILURE", "ROW_REMAP_FAILED"),
    ("NVLINK_REPLAY_ERROR_COUNT_L0", "NVLINK_REPLAY_ERROR_L0_TOTAL"),
    ("NVLINK_RECOVERY_ERROR_COUNT_L12", "NVLINK_RECOVERY_ERROR_L12_TOTAL"),
    ("NVLINK_CRC_FLIT_ERROR_COUNT_L17", "NVLINK_CRC_FLIT_ERROR_L17_TOTAL"),
    ("GET_GPU_RECOVERY_ACTION", "GPU_RECOVERY_ACTION"),
]


@pytest.mark.parametrize(("old", "new"), RENAMED)
def test_a_field_says_the_same_by_its_old_and_its_new_name(old: str, new: str) -> None:
    before, after = (dcgm.read(page(row(f"DCGM_FI_DEV_{name}", 1)), 0.0) for name in (old, new))
    assert before == after
    assert len(before[0].values) == 1


LINK = 'nvlink="{}",gpu="0",gpu_uuid="GPU-1"'


@pytest.mark.parametrize(("kind", "field"), [(k, f) for k, fields in dcgm.LINK_FIELDS.items() for f in fields])
def test_a_row_with_a_link_is_that_link_s(kind: str, field: str) -> None:
    (sample,) = dcgm.read(page(row(field, 0, LINK.format(3)), row(field, 1, LINK.format(17))), 0.0)
    assert sample.values == {f"nvlink_{kind}_3": 0, f"nvlink_{kind}_17": 1}


@pytest.mark.parametrize("link", ["18", "-1", "03", "x", ""])
def test_a_link_that_no_gpu_has_is_left_out(link: str) -> None:
    assert dcgm.read(page(row("DCGM_FI_DEV_NVLINK_RX_ERROR_TOTAL", 1, LINK.format(link))), 0.0) == ()


def test_the_sum_over_links_is_no_link_s() -> None:
    fields = [field for fields in dcgm.LINK_FIELDS.values() for field in fields]
    assert dcgm.read(page(*(row(field, 1) for field in fields)), 0.0) == ()


@pytest.mark.parametrize(("raw", "up"), [(0, 0.0), (1, 1.0), (2, 1.0), (3, None), (0x7FFFFFF0, None)])
def test_a_link_that_sleeps_is_up(raw: int, up: float | None) -> None:
    (sample,) = dcgm.read(page(row("DCGM_FI_DEV_NVLINK_GET_STATE", raw, LINK.format(0))), 0.0)
    assert sample.values.get("nvlink_up_0") == up
    assert sample.missing == ({} if up is not None else {"nvlink_up_0": "blank"})


@pytest.mark.parametrize(
    ("raw", "values"),
    [
        (0, {"fabric_state": 0}),
        (1, {"fabric_state": 1}),
        (2, {"fabric_state": 2}),
        (3, {"fabric_state": 3, "fabric_status": 0}),
        (4, {"fabric_state": 3, "fabric_status": 999}),
        (5, {}),
        (6, {}),
        (0x7FFFFFFFFFFFFFF0, {}),
    ],
)
def test_the_fabric_manager_s_status_is_nvml_s_state_and_status(raw: int, values: dict[str, float]) -> None:
    (sample,) = dcgm.read(page(row(dcgm.FABRIC_FIELD, raw)), 0.0)
    assert sample.values == values
    assert sample.missing == ({} if values else {"fabric_state": "blank"})


@pytest.mark.parametrize("host", ["Hostname", "hostname"])
def test_whatever_the_host_s_label_is_called(host: str) -> None:
    assert by_key(PAGE.replace(b"hostname=", host.encode() + b"=")) == by_key(PAGE)


def test_the_newest_name_counts_where_a_page_has_several() -> None:
    (sample,) = dcgm.read(
        page(row("DCGM_FI_DEV_GPU_TEMP", 60), row("DCGM_FI_DEV_GPU_TEMP_CELSIUS", 61)),
        0.0,
    )
    assert sample.values == {"temperature": 61}
    (sample,) = dcgm.read(
        page(row("DCGM_FI_DEV_GPU_TEMP", 60), row("DCGM_FI_DEV_GPU_TEMP_CELSIUS", 2147483632)),
        0.0,
    )
    assert (sample.values, sample.missing) == ({"temperature": 60}, {})


@pytest.mark.parametrize(
    ("labels", "pods"),
    [
        ('namespace="n",pod="p",container="c"', (PodRef("n", "p", "c"),)),
        ('exported_namespace="n",exported_pod="p",exported_container="c"', (PodRef("n", "p", "c"),)),
        ('pod_namespace="n",pod_name="p",container_name="c"', (PodRef("n", "p", "c"),)),
        ('namespace="mon",pod="dcgm-exporter-x",exported_namespace="n",exported_pod="p"', (PodRef("n", "p"),)),
        ('namespace="n",pod="",container=""', ()),
        ("", ()),
    ],
)
def test_pods(labels: str, pods: tuple[PodRef, ...]) -> None:
    (sample,) = dcgm.read(page(row("DCGM_FI_DEV_GPU_TEMP", 60, f'UUID="GPU-1",{labels}'.rstrip(","))), 0.0)
    assert sample.pods == pods


def test_behind_a_prometheus_an_idle_gpu_is_not_dcgm_exporter_s() -> None:
    """Where one row has exported_pod, plain `pod` is the scrape target's on all rows."""
    own = 'namespace="mon",pod="dcgm-exporter-x"'
    samples = by_key(
        page(
            row("DCGM_FI_DEV_GPU_TEMP", 60, f'UUID="GPU-1",exported_pod="p",exported_namespace="n",{own}'),
            row("DCGM_FI_DEV_GPU_TEMP", 40, f'UUID="GPU-2",{own}'),
        )
    )
    assert samples[GpuKey("GPU-1")].pods == (PodRef("n", "p"),)
    assert samples[GpuKey("GPU-2")].pods == ()


def test_pods_that_share_a_gpu_are_all_there() -> None:
    (sample,) = dcgm.read(
        page(*(row("DCGM_FI_DEV_GPU_TEMP", 60, f'UUID="GPU-1",namespace="n",pod="{pod}"') for pod in "ab")), 0.0
    )
    assert sample.pods == (PodRef("n", "a"), PodRef("n", "b"))
    assert sample.values == {"temperature": 60}


def test_rows_that_name_no_gpu_are_left_out() -> None:
    assert dcgm.read(page(row("DCGM_FI_DEV_GPU_TEMP", 60, 'gpu="0"'), row("DCGM_FI_DEV_GPU_TEMP", 50)), 0.0) == (
        by_key(page(row("DCGM_FI_DEV_GPU_TEMP", 50)), 0.0)[GpuKey("GPU-1")],
    )


def test_a_page_of_something_else_has_no_gpus() -> None:
    assert dcgm.scrape(b"node_load1 0.5\n", 0.0) == ((), {})


# Blanks: missing, never values.

BLANKS = [
    *range(0x7FFFFFF0, 0x7FFFFFF4),
    *range(0x7FFFFFFFFFFFFFF0, 0x7FFFFFFFFFFFFFF4),
    *(f"{140737488355328 + i}.0" for i in range(4)),
    "9223372036854775794",
    "9.223372036854775794e+18",
]


@pytest.mark.parametrize("raw", BLANKS)
@pytest.mark.parametrize(
    "field", ["DCGM_FI_DEV_GPU_TEMP", "DCGM_FI_DEV_FB_USED", "DCGM_FI_DEV_TOTAL_ENERGY_CONSUMPTION"]
)
def test_blanks_are_missing(field: str, raw: object) -> None:
    (sample,) = dcgm.read(page(row(field, raw)), 0.0)
    assert sample.values == {}
    assert list(sample.missing.values()) == ["blank"]


def test_a_value_below_zero_is_missing_alone() -> None:
    (sample,) = dcgm.read(page(row("DCGM_FI_DEV_FB_USED", -1), row("DCGM_FI_DEV_GPU_TEMP_LIMIT", -5)), 0.0)
    assert (sample.values, sample.missing) == ({"temperature_margin": -5}, {"memory_used": "blank"})


@pytest.mark.parametrize("raw", BLANKS)
def test_a_blank_xid_is_no_xid(raw: object) -> None:
    assert dcgm.scrape(page(row("DCGM_FI_DEV_XID_ERRORS", raw)), 0.0).last_xids == {}


# Label values that are not escaped.


@pytest.mark.parametrize(
    ("written", "read"),
    [
        (rb'NVIDIA "H100"', 'NVIDIA "H100"'),
        (rb"C:\gpus\new", r"C:\gpus\new"),
        (rb'a "quoted", b', 'a "quoted", b'),
        (rb"ends in \ ", "ends in \\ "),
        (rb"well \"escaped\"", 'well "escaped"'),
        (rb"{braces}", "{braces}"),
    ],
)
def test_a_label_that_is_not_escaped_harms_nobody(written: bytes, read: str) -> None:
    samples = by_key(PAGE.replace(b'device="nvidia0",modelName="NVIDIA H100 80GB HBM3"', b'modelName="%s"' % written))
    assert samples[WHOLE].info.name == read
    assert {key: sample.values for key, sample in samples.items()} == {
        key: sample.values for key, sample in by_key(PAGE).items()
    }


def test_a_newline_in_a_label_costs_its_rows_alone() -> None:
    samples = by_key(PAGE.replace(b'device="nvidia0"', b'device="nvi\ndia0"'))
    assert WHOLE not in samples
    assert samples[SHARED].values == by_key(PAGE)[SHARED].values


def test_a_page_that_is_cut_gives_no_wrong_number() -> None:
    """At every byte: an error, or a part of what the whole page says. So it is with labels that need mending."""
    for body in (PAGE, PAGE.replace(b'modelName="NVIDIA H100 80GB HBM3"', b'modelName="a "b""')):
        whole = by_key(body)
        # Every byte of a stretch with samples of both GPUs, HELP and TYPE; elsewhere every 37th.
        for end in [*range(1200, 3400), *range(0, len(body), 37)]:
            try:
                part = by_key(body[:end])
            except ExpositionError:
                continue
            for key, sample in part.items():
                assert sample.values.items() <= whole[key].values.items()


# The sticky Xid gauge.


@pytest.mark.parametrize("field", dcgm.XID_FIELDS)
def test_the_last_xid_is_the_board_s(field: str) -> None:
    mig = row(field, 45, 'UUID="GPU-2",GPU_I_ID="3"'), row(field, 45, 'UUID="GPU-2",GPU_I_ID="4"')
    scrape = dcgm.scrape(page(row(field, 63), *mig), 0.0)
    assert scrape.last_xids == {GpuKey("GPU-1"): 63, GpuKey("GPU-2"): 45}
    assert {s.info.key: s.values for s in scrape.samples if s.values} == {
        GpuKey(uuid): {"xid_watched": 1.0} for uuid in ("GPU-1", "GPU-2")
    }


def test_without_the_gauge_nobody_says_that_xids_are_watched() -> None:
    (sample,) = dcgm.read(page(row("DCGM_FI_DEV_GPU_TEMP", 60)), 0.0)
    assert "xid_watched" not in {*sample.values, *sample.missing}


@pytest.mark.parametrize(
    ("codes", "events"),
    [
        ([63], []),  # first sight: it may be years old
        ([63, 63, 63], []),  # it sticks
        ([0, 79], [79]),
        ([63, 48], [48]),
        ([63, 0], []),  # DCGM was started anew
        ([0, 31, 31, 0, 31], [31, 31]),
        ([79, 0, 79], [79]),
        ([0, None, 79], [79]),  # blank in between
        ([79, None, 79], []),
    ],
)
async def test_only_a_change_is_an_event(peer: Peer, codes: list[int | None], events: list[int]) -> None:
    """Of each of two MIG instances there is a row; the event is the board's, and there once."""
    seen: list[XidEvent] = []
    for code in codes:
        raw = 0x7FFFFFF0 if code is None else code
        body = page(*(row("DCGM_FI_DEV_XID_ERRORS", raw, f'UUID="GPU-1",GPU_I_ID="{i}"') for i in (3, 4)))
        peer.answer = lambda body=body: web.Response(body=body)
        await peer.next()
        seen += peer.source.take_xids()
    assert [event.xid for event in seen] == events
    assert {(event.key, event.source) for event in seen} <= {(GpuKey("GPU-1"), "dcgm")}


# The source, over HTTP.


async def test_the_source_reads_the_page(peer: Peer) -> None:
    await peer.next()
    samples = peer.source.samples()
    assert set(samples) == {WHOLE, SHARED, LARGE, SMALL}
    assert 0 <= time.monotonic() - samples[WHOLE].at < 5
    (collector,) = peer.source.collectors()
    assert (collector.name, collector.success, collector.message) == ("dcgm", True, "")
    assert peer.source.take_xids() == []


async def test_an_xid_that_comes_is_taken_once(peer: Peer) -> None:
    await peer.next()
    changed = PAGE.replace(b'pod="llama70b-0"} 63\n', b'pod="llama70b-0"} 79\n')
    assert changed != PAGE
    peer.answer = lambda: web.Response(body=changed)
    await peer.next()
    assert [(event.key, event.xid, event.source) for event in peer.source.take_xids()] == [(WHOLE, 79, "dcgm")]
    await peer.next()
    assert peer.source.take_xids() == []


@pytest.mark.parametrize(
    ("status", "body", "headers"),
    [
        (500, b"no", {}),
        (200, b"<html>not metrics</html>\n", {}),
        (200, b"", {}),
        (200, PAGE[:-20], {}),
        (200, b"node_load1 1\n", {}),
        (200, gzip.compress(bytes(64 << 20)), {"Content-Encoding": "gzip"}),
        (302, b"", {"Location": "/elsewhere"}),
        (200, PAGE.replace(b"} 84\n", b"} NaN\n"), {}),
    ],
    ids=["status", "html", "empty", "cut", "other-metrics", "bomb", "redirect", "nan"],
)
async def test_a_bad_answer_leaves_the_readings_to_grow_old(
    peer: Peer, status: int, body: bytes, headers: dict[str, str]
) -> None:
    await peer.next()
    peer.answer = lambda: web.Response(status=status, body=body, headers=headers)
    await peer.next()
    await peer.next()
    (collector,) = peer.source.collectors()
    assert not collector.success
    assert "/metrics" in collector.message
    assert "\n" not in collector.message
    assert collector.last_success is not None
    at = {sample.at for sample in peer.source.samples().values()}
    assert max(at) <= collector.last_success
    # And it mends by itself.
    peer.answer = lambda: web.Response(body=PAGE)
    await peer.next()
    assert peer.source.collectors()[0].success


async def test_instances_that_are_removed_leave_and_boards_grow_old(peer: Peer) -> None:
    await peer.next()
    lines = [line for line in PAGE.split(b"\n") if b'GPU_I_ID="9"' not in line and b"6f3c1a52" not in line]
    peer.answer = lambda: web.Response(body=b"\n".join(lines))
    await peer.next()
    assert set(peer.source.samples()) == {WHOLE, SHARED, LARGE}
    assert peer.source.samples()[WHOLE].at < peer.source.samples()[SHARED].at


async def test_pages_of_ever_other_gpus_do_not_pile_up(peer: Peer, monkeypatch: pytest.MonkeyPatch) -> None:
    pages = itertools.count()

    def others() -> web.Response:
        number = next(pages)
        labels = [f'gpu="{gpu}",UUID="GPU-{number}-{gpu}"' for gpu in range(100)]
        rows = [row(field, number, of) for field in ("DCGM_FI_DEV_GPU_TEMP", "DCGM_FI_DEV_XID_ERRORS") for of in labels]
        return web.Response(body=page(*rows))

    peer.answer = others
    while next(pages) < 12:
        await peer.next()
    kept = {key.uuid.split("-")[1] for key in peer.source.samples()}
    assert len(peer.source.samples()) == 256
    assert len(peer.source._last_xids) == 256
    assert "0" not in kept, "the oldest give way"
    # And without others that push it out, a GPU that is gone is forgotten in time.
    monkeypatch.setattr(dcgm_source, "_FORGET_SECONDS", 0.0)
    peer.answer = lambda: web.Response(body=PAGE)
    await peer.next()
    assert WHOLE in peer.source.samples()
    assert len(peer.source.samples()) < 10
