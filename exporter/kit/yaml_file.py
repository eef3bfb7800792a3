"""A YAML or JSON file of the operator's, read with care: what it says is bounded by its size.

May not be in here: what any file means. Imported only where a file is given: PyYAML is 3 MB of RSS.
"""

import errno
import os
import stat
from typing import Any

import yaml

from exporter.kit.config import ConfigError

#: Bytes. 256 engines with their labels are about 100 kB.
LARGEST = 1 << 20


class _Loader(yaml.SafeLoader):
    """YAML without what hurts: aliases (nine lines can stand for a billion values) and keys that are there twice."""

    def compose_node(self, parent: Any, index: Any) -> Any:
        if self.check_event(yaml.AliasEvent):
            mark = self.peek_event().start_mark  # type: ignore[no-untyped-call] # the stubs leave it out
            raise yaml.MarkedYAMLError(problem="an alias", problem_mark=mark)
        return super().compose_node(parent, index)

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> Any:
        seen = set()
        for key, _ in node.value:
            if not isinstance(key, yaml.ScalarNode):
                continue  # no text: whoever reads the mapping refuses it
            if key.value in seen:
                raise yaml.MarkedYAMLError(problem="a key that is there twice", problem_mark=key.start_mark)
            seen.add(key.value)
        return super().construct_mapping(node, deep)

    def construct_scalar(self, node: Any) -> Any:
        text = super().construct_scalar(node)
        if not _is_utf8(text):
            raise yaml.MarkedYAMLError(problem="half a character", problem_mark=node.start_mark)
        return text


def load(path: str, option: str, form: str) -> Any:
    """What the file holds; None if it is empty. Raises ConfigError naming the file, the line and the fix.

    option: the flag that named the file. form: what is to be written, as "YAML with one option a line".
    """
    try:
        content, size = _read(path)
    except (OSError, ValueError) as error:  # ValueError: a NUL in the path
        cause = getattr(error, "strerror", None) or error
        raise ConfigError(
            f"file {path if path.isprintable() else ascii(path)}: cannot be read ({cause}); check --{option}"
        ) from None
    if size > LARGEST:
        raise ConfigError(f"file {path}: has {size} bytes, {LARGEST} are allowed; check --{option}")
    try:
        return yaml.load(content, _Loader)  # noqa: S506 -- a SafeLoader
    except Exception as error:  # PyYAML raises almost anything on values that do not fit their tag
        mark = getattr(error, "problem_mark", None)
        where = f" line {mark.line + 1} column {mark.column + 1}:" if mark else ""
        what = getattr(error, "problem", None) or "it is not YAML text"
        raise ConfigError(f"file {path}:{where} {what}; write {form}") from None


def _read(path: str) -> tuple[bytes, int]:
    """(content, bytes that it has): one more than LARGEST is read at most. Raises OSError, ValueError.

    A link is followed: Kubernetes mounts a ConfigMap's keys as such. A FIFO or a device never ends, or never begins.
    """
    _regular(os.stat(path))  # before it is opened: of a device even that may have an effect
    file = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC)
    with open(file, "rb") as source:
        found = os.fstat(file)
        _regular(found)  # it may be another one by now
        content = source.read(LARGEST + 1)
    return content, max(found.st_size, len(content))


def _regular(found: os.stat_result) -> None:
    """Raises OSError if it is not a regular file."""
    if stat.S_ISDIR(found.st_mode):
        raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR))
    if not stat.S_ISREG(found.st_mode):
        raise OSError(errno.EINVAL, "not a regular file")


def _is_utf8(text: object) -> bool:
    try:
        str(text).encode()
    except UnicodeEncodeError:
        return False
    return True
