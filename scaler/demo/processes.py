"""The real programs, run as processes that cannot outlive the demo.

May not be in here: what the programs are told (app.py).
"""

import asyncio
import contextlib
import ctypes
import os
import re
import signal
import sys
from collections import deque
from collections.abc import Sequence

#: How long a program may take to say that it listens (half a second; the rest is for a slow, busy machine), and to end.
START_SECONDS = 60.0
STOP_SECONDS = 5.0
_PR_SET_PDEATHSIG = 1  # linux/prctl.h


class ProgramError(Exception):
    """A program did not start, or ended by itself. str() is one line with the program's last words."""


class Program:
    """`python -m module arguments`, with its stderr read and its addresses known once it listens."""

    def __init__(self, module: str, arguments: Sequence[str]) -> None:
        self.module = module
        self.addresses: dict[str, str] = {}  # "web" -> "127.0.0.1:40123"
        self._arguments = arguments
        self._last_lines: deque[str] = deque(maxlen=5)
        self._listening = asyncio.Event()
        self._process: asyncio.subprocess.Process | None = None
        self._reader: asyncio.Task[None] | None = None

    async def start(self) -> None:
        """Returns when the program listens. Raises ProgramError."""
        parent = os.getpid()
        self._process = await asyncio.create_subprocess_exec(
            sys.executable,
            "-P",  # nothing that lies in the current directory is a part of it
            "-m",
            self.module,
            *self._arguments,
            stdin=asyncio.subprocess.DEVNULL,
            stdout=asyncio.subprocess.DEVNULL,
            stderr=asyncio.subprocess.PIPE,
            limit=2**20,  # bytes in a line
            start_new_session=True,  # Ctrl-C is for the demo, which then ends this in order
            preexec_fn=lambda: _die_with(parent),
        )
        assert self._process.stderr is not None  # noqa: S101 -- PIPE, above
        self._reader = asyncio.create_task(self._read(self._process.stderr))
        listening = asyncio.create_task(self._listening.wait())
        await asyncio.wait({listening, self._reader}, timeout=START_SECONDS, return_when=asyncio.FIRST_COMPLETED)
        listening.cancel()
        if not self._listening.is_set():
            await self.stop()
            raise ProgramError(f"{self.module} did not start: {self.last_words()}")

    async def died(self) -> None:
        """Returns never, or raises ProgramError when the program ends by itself."""
        if self._process is not None and self._reader is not None:
            code = await self._process.wait()
            await asyncio.wait({self._reader}, timeout=1.0)
            raise ProgramError(f"{self.module} ended with code {code}: {self.last_words()}")

    def last_words(self) -> str:
        """The last line that says something: of a traceback, the exception."""
        return next((line.strip() for line in reversed(self._last_lines) if line.strip()), "it said nothing")

    async def stop(self) -> None:
        """SIGTERM, and SIGKILL if that is not enough. May be called again, and before the start."""
        process, self._process = self._process, None
        if process is None:
            return
        with contextlib.suppress(ProcessLookupError):
            process.terminate()
        try:
            await asyncio.wait_for(process.wait(), STOP_SECONDS)
        except TimeoutError:
            process.kill()
            await process.wait()
        if self._reader is not None:
            await asyncio.wait({self._reader}, timeout=1.0)

    async def _read(self, stderr: asyncio.StreamReader) -> None:
        async for raw in stderr:
            line = raw.decode(errors="replace").rstrip()
            self._last_lines.append(line)
            if not self._listening.is_set() and "listening " in line:
                self.addresses = dict(re.findall(r"\b(\w+)=([^\s\"=]+:\d+)", line.partition("listening ")[2]))
                self._listening.set()


def _die_with(parent: int) -> None:
    """In the child, before the program: let the kernel end it when the demo dies, however it dies (Linux alone)."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGTERM)
        if os.getppid() != parent:
            os._exit(1)
