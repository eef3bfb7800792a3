"""Files that a person names on a command line: read up to a limit, checked before a long run, written.

May not be in here: what they hold.
"""

import os
from pathlib import Path

from scaler.commands import FAILED, CommandError

LARGEST = 256 << 20  # bytes


def read(path: str, option: str) -> bytes:
    """Raises CommandError."""
    try:
        with open(path, "rb") as file:
            data = file.read(LARGEST + 1)
    except (OSError, ValueError) as error:  # ValueError: a NUL in the name
        raise CommandError(
            f"{option} {path}: cannot be read ({_cause(error)}); name a file that is there", FAILED
        ) from None
    if len(data) > LARGEST:
        raise CommandError(f"{option} {path}: holds more than {LARGEST >> 20} MiB; cut it into parts", FAILED)
    return data


def check(path: str | None, option: str) -> None:
    """That it can probably be written, before anybody waits for what is to be in it. Raises CommandError."""
    if path is None:
        return
    target = Path(path)
    try:
        if target.is_dir():
            cause = "is a folder"
        elif target.exists():
            cause = "" if os.access(target, os.W_OK) else "may not be written"
        elif not target.parent.is_dir():
            cause = f"has no folder {target.parent}"
        else:
            cause = "" if os.access(target.parent, os.W_OK) else f"cannot be made in {target.parent}"
    except ValueError as error:
        cause = _cause(error)
    if cause:
        raise CommandError(f"{option} {path}: {cause}; name a file that this user may write", FAILED)


def write(path: str | None, option: str, text: str | bytes) -> None:
    """Raises CommandError."""
    if path is None:
        return
    try:
        Path(path).write_bytes(text if isinstance(text, bytes) else text.encode("utf-8"))
    except OSError as error:
        raise CommandError(
            f"{option} {path}: cannot be written ({_cause(error)}); name a file that this user may write", FAILED
        ) from None


def _cause(error: Exception) -> str:
    return getattr(error, "strerror", None) or str(error)
