"""What the exporter itself needs of this machine: ports, a place for its state, memory.

May not be in here: what it reads (the other checks).
"""

import os
import stat
from collections.abc import Iterator
from pathlib import Path

from exporter.doctor import machine
from exporter.doctor.look import Look, Said, fail, ok, skipped, warn

MIB = 1 << 20
#: Bytes. With 8 GPUs and 8 engines it was measured to take 59 MiB (docs/benchmarks.md); MIG instances take more.
MEMORY = 100 * MIB

#: Bytes that the file of its state takes, with room to spare: with 8 GPUs 31 KiB were measured.
STATE = 64 << 10


def ports(look: Look) -> Iterator[Said]:
    """Can it listen, or does an exporter run here already?"""
    for port in look.probe.ports:
        subject = port.option.partition(".")[0]
        if port.state == "free":
            yield ok(f"{port.place} is free", subject)
        elif port.state == "ours":
            yield ok(f"{port.place} is that of the exporter which runs here", subject)
        else:
            yield fail(f"{port.place}: {port.cause}", f"choose another address with --{port.option}", subject)


def state(look: Look) -> Iterator[Said]:
    """Can it keep its verdicts over a restart?"""
    if not look.settings.state_file:
        yield skipped("off: verdicts and Xid counts begin anew at every start (--state.file)")
        return
    file = Path(look.settings.state_file)
    wrong = _in_its_place(file)
    room = machine.free_bytes(file.parent)
    if not file.parent.is_dir():
        yield fail(f"{file.parent} is no directory", "mount one there that outlives the pod, or change --state.file")
    elif wrong:
        # A link is no more than a surprise: the file that it leads to is read once and never written.
        yield (warn if file.is_symlink() else fail)(wrong, "remove it, or name another file with --state.file")
    elif not os.access(file.parent, os.W_OK | os.X_OK) or (file.exists() and not os.access(file, os.R_OK)):
        yield fail(f"{file} cannot be written", f"let user {os.geteuid()} write into {file.parent}")
    elif room is not None and room < STATE:
        yield fail(f"{file.parent} has {room} bytes left", f"make room: the file takes up to {STATE >> 10} KiB")
    else:
        yield ok(f"{file} can be written")


def _in_its_place(file: Path) -> str:
    """What stands where the file is to be, "" if it is itself, or nothing. It is written beside, and then renamed."""
    beside = Path(f"{file}.tmp")
    try:
        mode = file.lstat().st_mode
    except OSError:
        mode = stat.S_IFREG  # not there; or what is wrong is for the others to say
    if stat.S_ISDIR(mode):
        return f"{file} is a directory"
    if stat.S_ISLNK(mode):
        return f"{file} is a link: it would be replaced"
    if not stat.S_ISREG(mode):
        return f"{file} is a device, a socket or a pipe"
    # Anything else there is removed.
    return f"{beside} is a directory" if beside.is_dir() and not beside.is_symlink() else ""


def boot(look: Look) -> Iterator[Said]:
    """Can a reboot be told from a restart?"""
    if machine.boot_id(look.root):
        yield ok("the boot id is read")
    else:
        found = "/proc/sys/kernel/random/boot_id cannot be read: what it kept is void at every start"
        yield warn(found, "let /proc/sys be read in this container")


def memory(look: Look) -> Iterator[Said]:
    """Is its memory limit high enough?"""
    limit = machine.memory_limit(look.root)
    if limit is None:
        yield ok("no limit")
    elif limit < MEMORY:
        yield warn(f"the limit is {limit // MIB} MiB", f"allow {MEMORY // MIB} MiB, or the kernel may end the exporter")
    else:
        yield ok(f"the limit is {limit // MIB} MiB")
