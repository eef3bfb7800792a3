"""Appends decision records to a file, in a thread of its own: a slow disk never delays an answer.

May not be in here: what a record holds (core/record.py), when one is made (decisions.py).
"""

import logging
import queue
import threading
import time

from exporter.kit.config import ConfigError

log = logging.getLogger("journal")

#: Lines that may wait for the disk; about 10 MB at 10 replicas a record. Beyond, records are dropped and counted.
MOST_WAITING = 4096


class Journal:
    """An append-only file of JSON lines. Raises ConfigError when it cannot be opened."""

    def __init__(self, path: str) -> None:
        try:
            self._file = open(path, "ab", buffering=0)  # noqa: SIM115 -- the thread closes it
        except OSError as error:
            raise ConfigError(
                f"flag --record.file: {path} cannot be opened ({error.strerror}); name a file in a folder "
                "that this user may write to"
            ) from None
        self._path = path
        self._lines: queue.Queue[bytes | None] = queue.Queue(MOST_WAITING)
        self._dropped = 0
        self._thread = threading.Thread(target=self._run, name="journal", daemon=True)
        self._thread.start()

    def write(self, line: bytes) -> None:
        """Hand over one line, newline included. Never waits, never raises."""
        try:
            self._lines.put_nowait(line)
        except queue.Full:
            self._dropped += 1
            if self._dropped == 1:
                log.error("%s: the disk is too slow; records are dropped; check the disk", self._path)

    def close(self, timeout: float) -> None:
        """Write what waits, for `timeout` seconds at most: the thread ends with the process."""
        deadline = time.monotonic() + timeout
        try:
            self._lines.put(None, timeout=timeout)
        except queue.Full:
            return
        self._thread.join(max(0.0, deadline - time.monotonic()))

    def _run(self) -> None:
        failing = False
        with self._file:
            while (line := self._lines.get()) is not None:
                try:
                    self._file.write(line)
                    failing = False
                except OSError as error:
                    if not failing:
                        log.error(
                            "%s: cannot be written (%s); records are lost; free space", self._path, error.strerror
                        )
                    failing = True
