"""dcgm-exporter's page -> samples of its GPUs, and the Xids that its sticky gauge gives away.

May not be in here: fetching, names of fields (core/signals.py), sentinels (core/blanks.py), judging.

What dcgm-exporter does its own way, by version 4.5:

* Under MIG every row is there once an instance, board values too: these go to the board, memory to the instance.
* DCGM_FI_DEV_XID_ERRORS holds the last code for ever: only a change of it is an event, and never the first sight. It
  goes back to 0 when DCGM is started anew. Where it is, an Xid would be noticed.
* What is measured of one NVLink is in a field of its own for each link, or in rows with the label `nvlink`; the same
  field without that label is the sum of all links.
* Label values are not escaped: a page that cannot be parsed for that is mended and parsed once more.
* Behind a Prometheus the pod's labels are exported_pod and so on, and plain `pod` is dcgm-exporter's own.
"""

import re
from collections.abc import Iterable, Iterator, Mapping
from typing import NamedTuple

from exporter.core import blanks, signals
from exporter.core.exposition import ExpositionError, Family, Wanted, parse
from exporter.core.model import GpuInfo, GpuKey, GpuSample, PodRef, XidEvent

#: Names are as in core/signals.py: DCGM 4.6's, those before, and dcgm-exporter 1.x's.
XID_FIELDS = ("DCGM_FI_DEV_XID_ERROR", "DCGM_FI_DEV_XID_ERRORS", "dcgm_xid_errors")
#: Part of our signal's name (nvlink_..._3) -> fields with the label `nvlink`, newest name first.
LINK_FIELDS: Mapping[str, tuple[str, ...]] = {
    "up": ("DCGM_FI_DEV_NVLINK_GET_STATE",),
    "replay": ("DCGM_FI_DEV_NVLINK_REPLAY_ERROR_PER_LINK_TOTAL",),
    "recovery": (
        "DCGM_FI_DEV_NVLINK_RECOVERY_ERROR_PER_LINK_TOTAL",
        "DCGM_FI_DEV_NVLINK_RECOVERY_SUCCESSFUL_TOTAL",
        "DCGM_FI_DEV_NVLINK_COUNT_LINK_RECOVERY_SUCCESSFUL_EVENTS",
    ),
    "recovery_failed": (
        "DCGM_FI_DEV_NVLINK_RECOVERY_FAILED_TOTAL",
        "DCGM_FI_DEV_NVLINK_COUNT_LINK_RECOVERY_FAILED_EVENTS",
    ),
    "crc": ("DCGM_FI_DEV_NVLINK_CRC_FLIT_ERROR_PER_LINK_TOTAL",),
    "receive": ("DCGM_FI_DEV_NVLINK_RX_ERROR_TOTAL", "DCGM_FI_DEV_NVLINK_COUNT_RX_ERRORS"),
}
_LINKS = frozenset(str(link) for link in range(signals.NVLINKS))
#: NVML field 165: 0 inactive, 1 active, 2 asleep to save power, which is up.
_UP: Mapping[float, float] = {0: 0.0, 1: 1.0, 2: 1.0}

FABRIC_FIELD = "DCGM_FI_DEV_FABRIC_MANAGER_STATUS"
#: dcgmFabricManagerStatus_t -> NVML's state and status, of which DCGM makes it (DcgmCacheManager.cpp,
#: GetFMStatusFromStruct): completed without an error is 3, with one 4. Which error is lost: NVML's word for that is
#: 999. 5 (a state that DCGM does not know) and 6 (NVML is too old) say nothing.
_FABRIC: Mapping[float, Mapping[str, float]] = {
    0: {"fabric_state": 0.0},
    1: {"fabric_state": 1.0},
    2: {"fabric_state": 2.0},
    3: {"fabric_state": 3.0, "fabric_status": 0.0},
    4: {"fabric_state": 3.0, "fabric_status": 999.0},
}

_FIELDS = frozenset(
    (
        *(field for signal in signals.SIGNALS for field in signal.dcgm),
        *(field for fields in LINK_FIELDS.values() for field in fields),
        *XID_FIELDS,
        FABRIC_FIELD,
    )
)
#: A value below zero is for core/blanks.py to drop, not for the parser to refuse the page.
_WANTED = Wanted(sorted(_FIELDS), signed=_FIELDS)

#: What DCGM measures of a MIG instance; all else is the board's.
_OF_INSTANCE = frozenset(("memory_total", "memory_used", "memory_free", "memory_reserved"))

#: Our name of a fact -> dcgm-exporter's labels for it.
_INFO: Mapping[str, tuple[str, ...]] = {
    "index": ("gpu",),
    "name": ("modelName", "model_name"),
    "pci_bus_id": ("pci_bus_id",),
    "driver_version": ("DCGM_FI_SYSTEM_DRIVER_VERSION", "DCGM_FI_DRIVER_VERSION", "driver_version"),
}
_UUID = ("UUID", "gpu_uuid", "uuid")
_INSTANCE = ("GPU_I_ID", "gpu_i_id")
_PROFILE = ("GPU_I_PROFILE", "gpu_i_profile")
_DEVICE = re.compile(r"nvidia([0-9]{1,4})")
#: (namespace, pod, container), the oldest names last.
_POD = (("namespace", "pod_namespace"), ("pod", "pod_name"), ("container", "container_name"))
_EXPORTED_POD = (("exported_namespace",), ("exported_pod",), ("exported_container",))


class Scrape(NamedTuple):
    samples: tuple[GpuSample, ...]
    last_xids: Mapping[GpuKey, int]  # by board; 0: none yet


class _Gpu:
    """A GPU while its rows are collected."""

    def __init__(self, info: GpuInfo) -> None:
        self.info = info
        self.values: dict[str, float] = {}
        self.blank: set[str] = set()
        self.pods: set[PodRef] = set()

    def sample(self, at: float) -> GpuSample:
        missing = dict.fromkeys(sorted(self.blank - self.values.keys()), "blank")
        return GpuSample(self.info, "dcgm", at, self.values, missing, pods=tuple(sorted(self.pods)))


class _Page:
    """The rows of a page, and the GPUs that they make."""

    def __init__(self, families: Mapping[str, Family]) -> None:
        self._families = families
        exported = any("exported_pod" in row[1] for family in families.values() for row in family.samples)
        self._pod_labels = _EXPORTED_POD if exported else _POD
        self._gpus: dict[GpuKey, _Gpu] = {}

    def rows(self, fields: Iterable[str]) -> Iterator[tuple[Mapping[str, str], float]]:
        """Labels and value of each row, in the order of the fields: the first of a GPU that has a value counts."""
        for field in fields:
            for _, labels, raw in self._families[field].samples if field in self._families else ():
                yield labels, raw

    def note(self, labels: Mapping[str, str], signal: str, value: float | None) -> None:
        """value None: the row is there and says nothing. A row that names no GPU is left out."""
        gpu = self._gpu(labels, signal)
        if gpu is None:
            return
        if value is None:
            gpu.blank.add(signal)
        else:
            gpu.values.setdefault(signal, value)

    def samples(self, at: float) -> tuple[GpuSample, ...]:
        return tuple(gpu.sample(at) for _, gpu in sorted(self._gpus.items()))

    def _gpu(self, labels: Mapping[str, str], signal: str) -> _Gpu | None:
        """The GPU that a row's value belongs to; None: the row does not say. Its instance and its pod are noted too."""
        uuid, instance = _label(labels, _UUID), _label(labels, _INSTANCE)
        if not uuid:
            return None
        facts = {name: _label(labels, known) for name, known in _INFO.items()}
        device = _DEVICE.fullmatch(labels.get("device", ""))
        facts["minor"] = device[1] if device else ""
        board = self._gpus.setdefault(GpuKey(uuid), _Gpu(GpuInfo(GpuKey(uuid), **facts)))
        holder = board
        if instance:
            key = GpuKey(uuid, instance)
            profile = _label(labels, _PROFILE)
            holder = self._gpus.setdefault(key, _Gpu(GpuInfo(key, **facts, profile=profile)))
        pod = PodRef(*(_label(labels, known) for known in self._pod_labels))
        if pod.pod:
            holder.pods.add(pod)
        return holder if signal in _OF_INSTANCE else board


def read(body: bytes, at: float) -> tuple[GpuSample, ...]:
    """The samples of a page read at `at` (monotonic seconds). Raises ExpositionError."""
    return scrape(body, at).samples


def scrape(body: bytes, at: float) -> Scrape:
    """The samples and the last Xids of a page read at `at`. Raises ExpositionError."""
    try:
        families = parse(body, _WANTED)
    except ExpositionError as error:
        if error.reason != "syntax":
            raise
        families = parse(_mended(body), _WANTED)

    page = _Page(families)
    for signal in signals.SIGNALS:
        for labels, raw in page.rows(signal.dcgm):
            page.note(labels, signal.name, blanks.value(signal.name, raw, signal.factor))
    for kind, fields in LINK_FIELDS.items():
        for labels, raw in page.rows(fields):
            if labels.get("nvlink") in _LINKS:
                name = f"nvlink_{kind}_{labels['nvlink']}"
                page.note(labels, name, _UP.get(raw) if kind == "up" else blanks.value(name, raw, 1.0))
    for labels, raw in page.rows((FABRIC_FIELD,)):
        for name, value in _FABRIC.get(raw, {"fabric_state": None}).items():
            page.note(labels, name, value)
    last_xids: dict[GpuKey, int] = {}
    for labels, raw in page.rows(XID_FIELDS):
        uuid = _label(labels, _UUID)
        if uuid and raw not in blanks.SENTINELS and 0 <= raw <= 65535:
            last_xids.setdefault(GpuKey(uuid), int(raw))
            page.note(labels, "xid_watched", 1.0)
    return Scrape(page.samples(at), last_xids)


def xid_edges(before: Mapping[GpuKey, int], after: Mapping[GpuKey, int], at: float) -> list[XidEvent]:
    """The Xids that came between two scrapes' `last_xids`. The same code twice in a row cannot be seen."""
    return [
        XidEvent(key, code, at, "dcgm") for key, code in after.items() if key in before and code not in (0, before[key])
    ]


def _label(labels: Mapping[str, str], names: tuple[str, ...]) -> str:
    return next((labels[name] for name in names if labels.get(name)), "")


_SAMPLE = re.compile(rb"([a-zA-Z_:][a-zA-Z0-9_:]*)\{(.*)\}([ \t]+[^ \t{}\"]+(?:[ \t]+-?[0-9]+)?)[ \t]*")
_BORDER = re.compile(rb'(?:^|(?<=",))([a-zA-Z_][a-zA-Z0-9_]*)="')
_ESCAPED = re.compile(rb'(?:[^"\\\n]|\\[\\"n])*')


def _mended(body: bytes) -> bytes:
    """The page with the label values of the wanted rows escaped.

    A value ends where `",name="` or the end of the labels follows. Rows that are no rows even then (a newline in a
    value) are left out, with what followed the newline.
    """
    names = frozenset(field.encode() for field in _FIELDS)
    lines = []
    for line in body.split(b"\n"):
        if line.startswith(b"# TYPE "):
            lines.append(line)
        elif (row := _SAMPLE.fullmatch(line)) and row[1] in names and (labels := _escaped(row[2])) is not None:
            lines.append(b"%s{%s}%s" % (row[1], labels, row[3]))
    return b"\n".join(lines) + b"\n"


def _escaped(labels: bytes) -> bytes | None:
    """The labels of a row with their values escaped; None if they are no labels."""
    borders = list(_BORDER.finditer(labels))
    if not borders or borders[0].start() or not labels.endswith(b'"'):
        return None
    ends = [border.start() - 2 for border in borders[1:]] + [len(labels) - 1]
    pairs = []
    for border, end in zip(borders, ends, strict=True):
        value = labels[border.end() : end]
        if not _ESCAPED.fullmatch(value):
            value = value.replace(b"\\", b"\\\\").replace(b'"', b'\\"')
        pairs.append(b'%s="%s"' % (border[1], value))
    return b",".join(pairs)
