"""dcgm-exporter, where the exporter is to read it.

May not be in here: reading its page (core/dcgm.py), names of its fields (core/signals.py).
"""

import functools
from collections.abc import Iterator, Mapping

from exporter.core import dcgm as core_dcgm
from exporter.core import parts, signals
from exporter.core.model import GpuKey, GpuSample
from exporter.core.parts import Part
from exporter.doctor.look import Check, Look, Said, fail, ok, skipped, split, warn

#: Counters that are read in another way than the table of signals has.
_OTHER: Mapping[str, tuple[str, ...]] = {
    "xid_watched": core_dcgm.XID_FIELDS,
    "fabric_state": (core_dcgm.FABRIC_FIELD,),
    "nvlink_up_0": core_dcgm.LINK_FIELDS["up"],
}


def page(look: Look) -> Iterator[Said]:
    """Does dcgm-exporter answer?"""
    url, collector = look.settings.dcgm_url, look.probe.collector("dcgm")
    if not url:
        yield skipped("not asked for (--dcgm.url)")
    elif collector is not None and collector.success:
        yield ok(f"answers in {collector.seconds * 1e3:.0f} ms", url)
    else:
        cause, fix = split(collector.message if collector else "not read; check --dcgm.url")
        yield fail(cause.removeprefix(f"{url}: "), fix, url)


def _answering(check: Check) -> Check:
    @functools.wraps(check)
    def guarded(look: Look) -> Iterator[Said]:
        if _samples(look):
            yield from check(look)
        else:
            yield skipped("dcgm-exporter tells nothing" if look.settings.dcgm_url else "not asked for (--dcgm.url)")

    return guarded


def _samples(look: Look) -> dict[GpuKey, GpuSample]:
    """The boards of its page."""
    return {
        key: sample for (source, key), sample in look.probe.samples.items() if source == "dcgm" and not key.instance
    }


@_answering
def gpus(look: Look) -> Iterator[Said]:
    """Does it tell of the same GPUs as NVML?"""
    theirs = set(_samples(look))
    ours = {key for source, key in look.probe.samples if source == "nvml" and not key.instance}
    if not ours:
        yield ok(f"{len(theirs)}; NVML is not read")
    elif strange := sorted(key.uuid for key in theirs - ours):
        fix = "name this node's own dcgm-exporter with --dcgm.url"
        yield warn(f"GPUs that NVML has not: {', '.join(strange[:4])}", fix)
    elif lacking := sorted(key.uuid for key in ours - theirs):
        fix = "look at its log: a GPU that it cannot watch is left out, and one that came later"
        yield warn(f"GPUs that it has not: {', '.join(lacking[:4])}", fix)
    else:
        yield ok(f"{len(theirs)}, as NVML")


@_answering
def counters(look: Look) -> Iterator[Said]:
    """Which parts of the verdict does its set of counters leave unknown?"""
    samples = _samples(look)
    lacking = {part.name for sample in samples.values() for part in parts.unknown(sample.values, sample.missing)}
    there = [gpu for gpu in look.probe.snapshot.gpus if gpu.info.key in samples and gpu.verdict.state != "lost"]
    of_node = {part for gpu in there for part in gpu.verdict.unknown}
    number = len(parts.PARTS)
    said = f"it tells {number - len(lacking)} of {number} parts"
    if not lacking:
        yield ok(said)
    elif not lacking & of_node:
        yield ok(f"{said}; the others are told by NVML or the kernel log")
    else:
        unknown = [part for part in parts.PARTS if part.name in lacking & of_node]
        have = set.intersection(*(set(sample.values) for sample in samples.values()))
        names = dict.fromkeys(field for part in unknown for field in _fields(part, have))
        fix = f"add to its counters file: {', '.join(names)}" if names else ""
        never = [part.name for part in unknown if not list(_fields(part, set()))]
        if never:
            fix += ("; " if fix else "") + f"it cannot tell {', '.join(never)}: let NVML be read too"
        yield warn(f"{said}; not known: {', '.join(part.name for part in unknown)}", fix)


def _fields(part: Part, have: set[str]) -> Iterator[str]:
    """The counters that would tell a part and are not there, by the first way of it that dcgm-exporter knows."""
    for way in part.ways:
        if all(map(_counters, way)):
            # The newest names first; which of them a dcgm-exporter knows depends on its DCGM.
            yield from (" or ".join(_counters(signal)) for signal in sorted(way - have))
            return


def _counters(signal: str) -> tuple[str, ...]:
    """The names under which dcgm-exporter tells a signal, without those of version 1; () if it does not."""
    names = _OTHER.get(signal) or signals.BY_NAME[signal].dcgm
    return tuple(name for name in names if name.startswith("DCGM_"))
