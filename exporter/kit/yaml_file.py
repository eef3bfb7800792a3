"""A YAML or JSON file of the operator's, read with care: what it says is bounded by its size.

May not be in here: what any file means. Imported only where a file is given: PyYAML is 3 MB of RSS.
"""

from pathlib import Path
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
        content = Path(path).read_bytes()
    except (OSError, ValueError) as error:  # ValueError: a NUL in the path
        cause = getattr(error, "strerror", None) or error
        raise ConfigError(
            f"file {path if path.isprintable() else ascii(path)}: cannot be read ({cause}); check --{option}"
        ) from None
    if len(content) > LARGEST:
        raise ConfigError(f"file {path}: has {len(content)} bytes, {LARGEST} are allowed; check --{option}")
    try:
        return yaml.load(content, _Loader)  # noqa: S506 -- a SafeLoader
    except Exception as error:  # PyYAML raises almost anything on values that do not fit their tag
        mark = getattr(error, "problem_mark", None)
        where = f" line {mark.line + 1} column {mark.column + 1}:" if mark else ""
        what = getattr(error, "problem", None) or "it is not YAML text"
        raise ConfigError(f"file {path}:{where} {what}; write {form}") from None


def _is_utf8(text: object) -> bool:
    try:
        str(text).encode()
    except UnicodeEncodeError:
        return False
    return True
