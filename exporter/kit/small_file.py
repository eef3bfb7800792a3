"""A small file of the operator's (certificate, key, token): read whole, or not at all.

May not be in here: what any file means.
"""

import errno
import os
import stat

Stamp = tuple[int, ...]


def stamp(path: str) -> Stamp:
    """What differs when the file was written or replaced: time of change, inode, size. Links are followed, as
    Kubernetes mounts secrets as such. () if it is not there, or is no regular file.
    """
    try:
        found = os.stat(path)
    except (OSError, ValueError):  # ValueError: a NUL in the path
        return ()
    return (found.st_mtime_ns, found.st_ino, found.st_size) if stat.S_ISREG(found.st_mode) else ()


def read(path: str, largest: int) -> bytes:
    """Its content. Raises OSError: also if it has more than `largest` bytes, or is a FIFO, a device or a directory,
    which may never end, or never begin.
    """
    try:
        _regular(os.stat(path))  # before it is opened: of a device even that may have an effect
        file = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC)
    except ValueError as error:
        raise OSError(errno.EINVAL, str(error)) from None
    with open(file, "rb") as source:
        _regular(os.fstat(file))  # it may be another one by now
        content = source.read(largest + 1)
    if len(content) > largest:
        raise OSError(errno.EFBIG, f"it has more than {largest} bytes")
    return content


def _regular(found: os.stat_result) -> None:
    if not stat.S_ISREG(found.st_mode):
        raise OSError(errno.EINVAL, "it is no regular file")
