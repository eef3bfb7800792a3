"""A thread that asks NVML, of which there is never a second one while an earlier one hangs in the driver.

May not be in here: NVML, what the thread does.
"""

import threading
from collections.abc import Callable

HANGS_FROM_BEFORE = (
    "a call from before NVML was opened again has not returned; look for Xid errors in the kernel log; "
    "reset the GPU or restart the node"
)


class Worker:
    """`error` is one line, cause and fix, while the thread cannot be started; "" else."""

    def __init__(self, name: str, target: Callable[[], None], stop: threading.Event) -> None:
        self.error = ""
        self.thread: threading.Thread | None = None
        self._name = name
        self._target = target
        self._stop = stop

    @property
    def alive(self) -> bool:
        return self.thread is not None and self.thread.is_alive()

    @property
    def died(self) -> bool:
        """It has ended, and nobody asked it to."""
        return self.thread is not None and not self.thread.is_alive() and not self._stop.is_set()

    def start(self, before: "Worker | None") -> None:
        """Start the thread if it does not run. before: the one that did the same work last, in whatever opening."""
        if self.alive:
            return
        if before and before.alive:
            self.error = HANGS_FROM_BEFORE
            return
        thread = threading.Thread(target=self._target, name=self._name, daemon=True)
        try:
            thread.start()
        except RuntimeError as error:
            self.error = f"{error}; allow this process more threads (pids.max of its cgroup, ulimit -u)"
            return
        self.thread, self.error = thread, ""
