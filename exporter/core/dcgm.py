"""dcgm-exporter's page -> samples of its GPUs, and the Xids that its sticky gauge gives away.

May not be in here: fetching, names of fields (core/signals.py), sentinels (core/blanks.py), judging.

What dcgm-exporter does its own way, by version 4.5:

* Under MIG every row is there once an instance, board values too: these go to the board, memory to the instance.
* DCGM_FI_DEV_XID_ERRORS holds the last code for ever: only a change of it is an event, and never the first sight.
* Label values are not escaped: a page that cannot be parsed for that is mended and parsed once more.
* Behind a Prometheus the pod's labels are exported_pod and so on, and plain `pod` is dcgm-exporter's own.
"""

import re
from collections.abc import Mapping
from typing import NamedTuple

from exporter.core import blanks, signals
from exporter.core.exposition import ExpositionError, Wanted, parse
from exporter.core.model import GpuInfo, GpuKey, GpuSample, PodRef, XidEvent

XID_FIELDS = ("DCGM_FI_DEV_XID_ERROR", "DCGM_FI_DEV_XID_ERRORS")

_FIELDS = frozenset(field for signal in signals.SIGNALS for field in signal.dcgm) | frozenset(XID_FIELDS)
#: A value below zero is for core/blanks.py to drop, not for the parser to refuse the page.
_WANTED = Wanted(sorted(_FIELDS), signed=_FIELDS)

#: What DCGM measures of a MIG instance; all else is the board's.
_OF_INSTANCE = frozenset(("memory_total", "memory_used", "memory_free", "memory_reserved"))

#: Our name of a fact -> dcgm-exporter's labels for it.
_INFO: Mapping[str, tuple[str, ...]] = {
    "index": ("gpu",),
    "name": ("modelName", "model_name"),
    "pci_bus_id": ("pci_bus_id",),
    "driver_version": ("DCGM_FI_DRIVER_VERSION", "driver_version"),
}
_UUID = ("UUID", "gpu_uuid", "uuid")
_INSTANCE = ("GPU_I_ID", "gpu_i_id")
_PROFILE = ("GPU_I_PROFILE", "gpu_i_profile")
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

    rows = [row for family in families.values() for row in family.samples]
    pod_labels = _EXPORTED_POD if any("exported_pod" in row[1] for row in rows) else _POD
    gpus: dict[GpuKey, _Gpu] = {}
    for signal in signals.SIGNALS:
        for field in signal.dcgm:  # newest name first: the first that has a value counts
            for _, labels, raw in families[field].samples if field in families else ():
                gpu = _gpu_of(gpus, signal.name, labels, pod_labels)
                value = blanks.value(signal.name, raw, signal.factor)
                if gpu is None:
                    continue
                if value is None:
                    gpu.blank.add(signal.name)
                else:
                    gpu.values.setdefault(signal.name, value)
    last_xids: dict[GpuKey, int] = {}
    for field in XID_FIELDS:
        for _, labels, raw in families[field].samples if field in families else ():
            uuid = _label(labels, _UUID)
            if uuid and raw not in blanks.SENTINELS and 0 <= raw <= 65535:
                last_xids.setdefault(GpuKey(uuid), int(raw))
    return Scrape(tuple(gpu.sample(at) for _, gpu in sorted(gpus.items())), last_xids)


def xid_edges(before: Mapping[GpuKey, int], after: Mapping[GpuKey, int], at: float) -> list[XidEvent]:
    """The Xids that came between two scrapes' `last_xids`. The same code twice in a row cannot be seen."""
    return [
        XidEvent(key, code, at, "dcgm") for key, code in after.items() if key in before and code not in (0, before[key])
    ]


def _gpu_of(
    gpus: dict[GpuKey, _Gpu], signal: str, labels: Mapping[str, str], pod_labels: tuple[tuple[str, ...], ...]
) -> _Gpu | None:
    """The GPU that a row's value belongs to; None: the row does not say. Its instance and its pod are noted too."""
    uuid, instance = _label(labels, _UUID), _label(labels, _INSTANCE)
    if not uuid:
        return None
    facts = {name: _label(labels, known) for name, known in _INFO.items()}
    board = gpus.setdefault(GpuKey(uuid), _Gpu(GpuInfo(GpuKey(uuid), **facts)))
    holder = board
    if instance:
        key = GpuKey(uuid, instance)
        profile = _label(labels, _PROFILE)
        holder = gpus.setdefault(key, _Gpu(GpuInfo(key, **facts, profile=profile)))
    pod = PodRef(*(_label(labels, known) for known in pod_labels))
    if pod.pod:
        holder.pods.add(pod)
    return holder if signal in _OF_INSTANCE else board


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
