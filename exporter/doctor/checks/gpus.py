"""Each GPU: what of its verdict can be told, by whom, and what it is now.

May not be in here: judging (core/health.py), which part rests on what (core/parts.py).
"""

import functools
from collections.abc import Callable, Iterator, Mapping
from typing import Any, NamedTuple

from exporter.core import drift
from exporter.core import parts as core_parts
from exporter.core.model import Gpu, GpuKey
from exporter.core.parts import Part
from exporter.doctor import machine
from exporter.doctor.look import Check, Look, Said, fail, ok, skipped, split, warn

#: The first driver that has field 230 (NVML API reference, changes between 560 and 565).
RECOVERY_DRIVER = 565
_SICK = "look for Xid errors in the kernel log; reset the GPU or restart the node"
_WITNESSES = {"kmsg": "the kernel log", "both": "nvml, by dcgm"}
#: Why a part cannot be told -> the fix.
_FIXES: Mapping[str, str] = {
    "no_permission": "none: the driver asks for CAP_SYS_ADMIN, which the exporter does without by default",
    "not_supported": "a newer driver may tell it",
    "not_supported_in_mig": "none: the driver does not tell it while MIG is on",
    "blank": "update the driver or dcgm-exporter: it tells a number that means nothing",
    "stale": _SICK,
    "nobody": "let NVML be read (--gpu.source=nvml), or see dcgm.counters",
}


class Told(NamedTuple):
    """Who tells a part of the verdict on a board."""

    known: bool
    source: str  # "nvml" | "dcgm" | "both" | "kmsg" | "demo"; "none": it is not read
    reason: str = ""  # with "none": one of signals.MISSING_REASONS, "stale", or "nobody": no source has it


def boards(look: Look) -> list[Gpu]:
    return [gpu for gpu in look.probe.snapshot.gpus if not gpu.info.key.instance]


def name(look: Look, gpu: Gpu) -> str:
    """By its index; by its UUID where there is none, or two have the same."""
    index, uuid = gpu.info.index, gpu.info.key.uuid
    others = {each.info.key.uuid for each in look.probe.snapshot.gpus if each.info.index == index}
    return f"GPU {index}" if index and others == {uuid} else uuid


def told(gpu: Gpu) -> dict[str, Told]:
    """Part of the verdict -> who tells it."""
    return {part.name: _told(part, gpu) for part in core_parts.PARTS}


def _told(part: Part, gpu: Gpu) -> Told:
    known = part.name not in gpu.verdict.unknown
    whole = next((way for way in part.ways if way <= gpu.readings.keys()), None)
    if whole and known:
        who = {gpu.sources.get(signal, "none") for signal in whole}
        return Told(True, who.pop() if len(who) == 1 else "both")
    return Told(known, "none", "not_supported" if known else _why(part, gpu, was_read=whole is not None))


def _why(part: Part, gpu: Gpu, was_read: bool) -> str:
    """Why a part is not known."""
    if was_read:
        # And does not count: it says 0, where that says nothing, or it is too old.
        return "nobody" if part.above_zero else "stale"
    lacking = sorted(signal for way in part.ways for signal in way - gpu.readings.keys())
    reasons = [gpu.missing.get(signal, "nobody") for signal in lacking]
    return min(reasons, key=lambda reason: reason.startswith("not_supported"))  # what can be mended goes first


def as_rows(look: Look) -> Iterator[dict[str, Any]]:
    """The GPUs as the JSON shows them, MIG instances after their boards."""
    for gpu in look.probe.snapshot.gpus:
        board = not gpu.info.key.instance
        yield {
            "uuid": gpu.info.key.uuid,
            "mig_instance": gpu.info.key.instance,
            "index": gpu.info.index,
            "name": gpu.info.name,
            "state": gpu.verdict.state,
            "reasons": [{"reason": reason, "action": action} for reason, action in gpu.verdict.reasons],
            "parts": {part: each._asdict() for part, each in told(gpu).items()} if board else {},
        }


def _of_boards(check: Callable[[Look, Gpu], Said]) -> Check:
    """A check of every board that is there; where no GPU is seen there is nothing to check."""

    @functools.wraps(check)
    def each(look: Look) -> Iterator[Said]:
        for gpu in boards(look):
            said = skipped("it is lost") if gpu.verdict.state == "lost" else check(look, gpu)
            yield said._replace(subject=name(look, gpu))
        if not boards(look):
            yield _none(look)

    return each


def _none(look: Look) -> Said:
    off = look.settings.gpu_source == "off" and not look.settings.dcgm_url
    return skipped("no GPUs are read (--gpu.source=off)" if off else "no GPU is seen")


def verdict(look: Look) -> Iterator[Said]:
    """Is there a verdict on every GPU, and what is it?"""
    said = [*_judged(look), *_silent(look)]
    yield from said or [_none(look)]


def _judged(look: Look) -> Iterator[Said]:
    """The GPUs that are seen, MIG instances where they differ from their boards."""
    states: dict[GpuKey, str] = {}
    unread = _unread(look)
    for gpu in look.probe.snapshot.gpus:
        key, state = gpu.info.key, gpu.verdict.state
        states[key] = state
        if gpu.info.index in unread:
            continue  # the call that does not return says more than all that follows from it
        if key.instance and state == states.get(GpuKey(key.uuid)):
            continue  # what is said of the board holds for it
        subject = name(look, gpu) + (f" MIG {key.instance}" if key.instance else "")
        reasons = ", ".join(reason for reason, _ in gpu.verdict.reasons)
        actions = dict.fromkeys(action.replace("_", " ") for _, action in gpu.verdict.reasons if action != "none")
        found, fix = f"{state} ({reasons})", ", then ".join(actions)
        if state == "healthy":
            yield ok(state, subject)
        elif state == "degraded":
            yield warn(found, fix, subject)
        elif state == "unknown":
            yield fail(found, "see gpus.parts: what makes it healthy has to be known", subject)
        else:
            yield fail(found, fix, subject)


def _silent(look: Look) -> Iterator[Said]:
    """The boards that NVML counts and nobody has read."""
    seen = {gpu.info.index for gpu in look.probe.snapshot.gpus} - _unread(look)
    for board in look.probe.boards():
        index = board.name.removeprefix("nvml-")
        if index not in seen:
            cause, fix = split(board.message) if board.message else (f"no answer in {look.probe.seconds:.0f} s", _SICK)
            # Who it is stands before the colon.
            yield fail(cause.split(": ", 1)[-1], fix, f"GPU {index}")


def _unread(look: Look) -> set[str]:
    """Indices of the GPUs of which nothing was read, by those whose collector says why."""
    why = {board.name.removeprefix("nvml-") for board in look.probe.boards() if board.message}
    silent = (gpu for gpu in look.probe.snapshot.gpus if all(r.source == "kmsg" for r in gpu.readings.values()))
    return {gpu.info.index for gpu in silent if gpu.verdict.state == "unknown"} & why


@_of_boards
def parts(look: Look, gpu: Gpu) -> Said:
    """Which parts of the verdict can be told, by whom, and why not?"""
    said = told(gpu)
    sources = sorted({each.source for each in said.values()} - {"none"})
    counts = [f"{source} {sum(each.source == source for each in said.values())}" for source in sources]
    found = f"{sum(each.known for each in said.values())} of {len(said)} known ({', '.join(counts) or 'none told'})"
    if absent := [part for part, each in said.items() if each.known and each.source == "none"]:
        found += f"; the card has no {', '.join(absent)}"
    unknown = {part: each.reason for part, each in said.items() if not each.known}
    if not unknown:
        return ok(found)
    fixes = dict.fromkeys(_FIXES.get(reason, _SICK) for reason in unknown.values())
    shown = ", ".join(f"{part} ({reason})" for part, reason in unknown.items())
    return warn(f"{found}; not known: {shown}", "; ".join(fixes))


@_of_boards
def xids(look: Look, gpu: Gpu) -> Said:
    """Would an Xid of every GPU be noticed?"""
    reading, source = gpu.readings.get("xid_watched"), gpu.sources.get("xid_watched", "")
    also = " and by the kernel log" if look.probe.watching and source != "kmsg" else ""
    if reading is not None and reading.value > 0:
        return ok(f"watched by {_WITNESSES.get(source, source)}{also}")
    reason = gpu.missing.get("xid_watched", "")
    found = f"nobody would tell{f' ({reason})' if reason else ''}"
    return warn(found, "let the kernel log be read (kmsg.log), or let NVML be read")


@_of_boards
def recovery(_: Look, gpu: Gpu) -> Said:
    """Does the driver tell its own recovery action?"""
    reading, reason = gpu.readings.get("recovery_action"), gpu.missing.get("recovery_action", "")
    major = gpu.info.driver_version.partition(".")[0]
    if reading is not None:
        return ok(f"told: {reading.value:.0f}{'' if reading.value else ' (none)'}")
    if reason == "not_supported" and major.isdecimal() and int(major) >= RECOVERY_DRIVER:
        return skipped("this card has none")
    if reason == "not_supported":
        return warn(f"not told by driver {gpu.info.driver_version}", f"driver {RECOVERY_DRIVER} and newer tell it")
    return warn(f"not told ({reason or 'nobody'})", _FIXES.get(reason or "nobody", _SICK))


@_of_boards
def processes(look: Look, gpu: Gpu) -> Said:
    """Are the processes on the GPU seen?"""
    running, used, mode = (gpu.readings.get(signal) for signal in ("processes", "memory_used", "mig_enabled"))
    if running is None:
        return skipped(f"not told ({gpu.missing.get('processes', 'nobody')})")
    idle = used is None or used.value <= drift.NUMBERS["idle"].value
    if running.value or used is None or idle or (mode and mode.value):
        return ok(f"{running.value:.0f} seen")
    found = f"none seen, though {used.value / 2**30:.1f} GiB are held"
    if machine.in_container(look.root, look.environ):
        fix = "set hostPID: true for the exporter's pod: the driver may hide those of other PID namespaces"
        return warn(found, fix)
    return warn(found, "nvidia-smi shows who holds it; what is held by nobody is freed by a reset")


@_of_boards
def mig(look: Look, gpu: Gpu) -> Said:
    """Where MIG is on: are there instances, and are they seen?"""
    mode, reason = gpu.readings.get("mig_enabled"), gpu.missing.get("mig_enabled", "nobody")
    keys = [each.info for each in look.probe.snapshot.gpus if each.info.key.uuid == gpu.info.key.uuid]
    instances = [info for info in keys if info.key.instance]
    if mode is None:
        return skipped("this card has none" if reason == "not_supported" else f"not told ({reason})")
    if not mode.value:
        return ok("off")
    if not instances:
        return warn("on, and no instance is there: nothing can run on it", "make some: nvidia-smi mig -cgi PROFILES -C")
    profiles = sorted({info.profile for info in instances if info.profile})
    return ok(f"on, {len(instances)} instances seen: {', '.join(profiles) or 'profiles not told'}")
