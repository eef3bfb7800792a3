"""Which containers the processes on the GPUs are in, from /proc.

May not be in here: what a cgroup file means (core/cgroups.py), whose container it is, whose the memory is.

NVML numbers processes as this program's PID namespace does: without hostPID the others' are not there, or their numbers
are those of other processes. So what is told here counts for a container that Kubernetes knows, and for no other.
The two files that are read for a process are answered by the kernel from memory and do not wait for the process.
"""

import os
from collections.abc import Iterable, Mapping

from exporter.core import cgroups

#: Processes that are looked up at a time: 16 GPUs with as many as are listed of each.
MAX_PIDS = 4096
#: Of a file. A cgroup v1 process has some 13 lines.
MAX_BYTES = 1 << 16

#: Place of the start time among the words of /proc/<pid>/stat after the name (proc(5), field 22).
_START_WORD = 19


class ProcSource:
    """Remembers a process by its number and start time: a number that is given out again is another process."""

    def __init__(self, root: str = "/proc") -> None:
        self._root = root
        self._known: dict[tuple[int, str], str] = {}

    def container_of(self, pids: Iterable[int]) -> Mapping[int, str]:
        """pid -> id of its container, "" for a process in none. What cannot be told is not in it.

        Only the processes that are asked for are remembered until the next time.
        """
        known: dict[tuple[int, str], str] = {}
        found: dict[int, str] = {}
        for pid in sorted(set(pids))[:MAX_PIDS]:
            start = self._start(pid)
            if not start:
                continue
            container = self._known.get((pid, start))
            if container is None:
                container = self._look(pid, start)
            if container is not None:
                known[pid, start] = found[pid] = container
        self._known = known
        return found

    def _look(self, pid: int, start: str) -> str | None:
        container = cgroups.container_of(self._read(pid, "cgroup"))
        # The process may have ended in between, and its number be another's.
        return container if self._start(pid) == start else None

    def _start(self, pid: int) -> str:
        """When the process was started, in the kernel's own count; "" if there is none."""
        # The name is in brackets and may have brackets and spaces in it.
        words = self._read(pid, "stat").rpartition(")")[2].split()
        return words[_START_WORD] if len(words) > _START_WORD else ""

    def _read(self, pid: int, name: str) -> str:
        if pid <= 0:
            return ""
        try:
            with open(os.path.join(self._root, str(pid), name), "rb") as file:
                return file.read(MAX_BYTES).decode("utf-8", "replace")
        except OSError:
            return ""  # it has ended, or is hidden from us
