"""Files that a person names on a command line: read up to a limit, checked before a long run, written.

May not be in here: what they hold.
"""

import os
from collections.abc import Mapping
from pathlib import Path

from scaler.commands import CommandError

LARGEST = 256 << 20  # bytes


def read(path: str, option: str) -> bytes:
    """Raises CommandError."""
    try:
        with open(path, "rb") as file:
            data = file.read(LARGEST + 1)
    except (OSError, ValueError) as error:  # ValueError: a NUL in the name
        raise CommandError(
            f"{option} {shown(path)}: cannot be read ({_cause(error)}); name a file that is there"
        ) from None
    if len(data) > LARGEST:
        raise CommandError(f"{option} {shown(path)}: holds more than {LARGEST >> 20} MiB; cut it into parts")
    return data


def check(outputs: Mapping[str, str | None], inputs: Mapping[str, str | None]) -> None:
    """That outputs can probably be written, and none over another or over what is read, before anybody waits for them.

    Paths by the option that names them; None: it was not given. Raises CommandError.
    """
    taken = {_place(path): option for option, path in inputs.items() if path is not None}
    for option, path in outputs.items():
        if path is None:
            continue
        if cause := _obstacle(path):
            raise CommandError(f"{option} {shown(path)}: {cause}; name a file that this user may write")
        if os.path.exists(path) and not os.path.isfile(path):
            continue  # a device or a pipe takes as many as one likes
        if other := taken.get(_place(path)):
            raise CommandError(f"{option} {shown(path)}: is the file of {other}, too; name another")
        taken[_place(path)] = option


def write(path: str | None, option: str, text: str | bytes) -> None:
    """Raises CommandError."""
    if path is None:
        return
    try:
        Path(path).write_bytes(text if isinstance(text, bytes) else text.encode("utf-8"))
    except OSError as error:
        raise CommandError(
            f"{option} {shown(path)}: cannot be written ({_cause(error)}); name a file that this user may write"
        ) from None


def shown(path: str) -> str:
    """A path as it was written, or quoted where that would be taken for something else."""
    return path if path.isprintable() and path and " " not in path else ascii(path)


def _obstacle(path: str) -> str:
    """Why it cannot be written; "": nothing is known to be in the way."""
    target = Path(path)
    try:
        if not path:
            return "is no name"
        if target.is_dir():
            return "is a folder"
        if target.exists():
            return "" if os.access(target, os.W_OK) else "may not be written"
        if not target.parent.is_dir():
            return f"has no folder {shown(str(target.parent))}"
        return "" if os.access(target.parent, os.W_OK) else f"cannot be made in {shown(str(target.parent))}"
    except ValueError as error:
        return _cause(error)


def _place(path: str) -> str:
    try:
        return os.path.realpath(path)
    except ValueError:  # a NUL: it is refused when it is read
        return path


def _cause(error: Exception) -> str:
    return getattr(error, "strerror", None) or str(error)
