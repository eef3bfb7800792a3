"""Commands of `plimsoll` that read and write files: how each begins and ends.

May not be in here: what a command does, imports that `plimsoll --help` would wait for.

Exit status: 0 done; 1 what was asked for broke on its way (a worker was killed); 2 it cannot be done as it was asked
for: an argument is wrong, a file or an address cannot be read or written, or what is in it cannot be used; 130
interrupted (SIGINT), 143 told to end (SIGTERM), as a shell has them.
"""

import os
import signal
import sys
import threading
from collections.abc import Callable, Sequence
from types import FrameType

WRONG, FAILED = 2, 1


class CommandError(Exception):
    """str() is the one line to print: cause, place, fix."""

    def __init__(self, text: str, status: int = WRONG) -> None:
        super().__init__(text)
        self.status = status


class _Terminated(BaseException):
    """SIGTERM came. Not an Exception: nothing handles it on its way out but what cleans up."""


def main(name: str, argv: Sequence[str]) -> int:
    """Runs the command; returns its exit status. Prints errors as one line."""
    if threading.current_thread() is threading.main_thread():
        signal.signal(signal.SIGTERM, _terminated)
    try:
        status = _command(name)(argv)
        sys.stdout.flush()
    except CommandError as error:
        # A path may hold what no terminal can show.
        text = " ".join(str(error).split()).encode("utf-8", "backslashreplace").decode("utf-8")
        sys.stderr.write(f"plimsoll {name}: {text}\n")
        return error.status
    except BrokenPipeError:
        # Whoever reads has had enough, as in `plimsoll simulate | head`; Python would complain of it again at its end.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except KeyboardInterrupt:
        return 128 + signal.SIGINT
    except _Terminated:
        return 128 + signal.SIGTERM
    return status


def _command(name: str) -> Callable[[Sequence[str]], int]:
    from scaler.commands import replay, simulate  # noqa: PLC0415 -- see above

    return {"replay": replay.run, "simulate": simulate.run}[name]


def _terminated(number: int, frame: FrameType | None) -> None:
    raise _Terminated
