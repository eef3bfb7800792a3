"""The inference servers that the operator names: a list, or a file that is read again when it changes; and how the pods
that are discovered are asked.

May not be in here: asking them (engines.py), discovering them (kubernetes.py).
"""

import logging
from collections.abc import Callable, Mapping
from typing import Any, TypeVar
from urllib.parse import urlsplit

from exporter.core import quantity
from exporter.core.model import PodRef
from exporter.core.model_engines import Access, EngineTarget
from exporter.core.pods import Grant
from exporter.kit.config import ConfigError, shown
from exporter.kit.small_file import stamp

log = logging.getLogger("exporter.engines")

#: More targets than a node can hold are a mistake in the list.
MAX_TARGETS = 256


class TargetFile:
    """The targets of a file, read again when the file has changed; a bad file keeps the last good list.

    Call it to have them. Raises ConfigError on construction only.
    """

    def __init__(self, path: str) -> None:
        self._path = path
        self._stamp = stamp(path)
        self._targets = load_targets(path)

    def __call__(self) -> tuple[EngineTarget, ...]:
        now = stamp(self._path)
        if now != self._stamp:
            self._stamp = now
            try:
                self._targets = load_targets(self._path)
            except ConfigError as error:
                log.error("%s; the list of before stays", error)
            else:
                log.info("file %s: read again, %d targets", self._path, len(self._targets))
        return self._targets


def load_targets(path: str) -> tuple[EngineTarget, ...]:
    """The targets that a YAML or JSON file lists. Raises ConfigError naming the file, the entry and the fix."""
    return _load(path, "engines.file", "a list of URLs or of mappings with url", targets)


T = TypeVar("T")


def _load(path: str, option: str, form: str, parse: Callable[[Any], tuple[T, ...]]) -> tuple[T, ...]:
    from exporter.kit import yaml_file  # noqa: PLC0415 -- PyYAML is 3 MB of RSS

    content = yaml_file.load(path, option, form)
    if content is None:
        raise ConfigError(f"file {path}: is empty; write [] for no engines")
    try:
        return parse(content)
    except ValueError as error:
        raise ConfigError(f"file {path}: {error}") from None


def targets(raw: Any) -> tuple[EngineTarget, ...]:
    """Targets from URLs in a text with commas, or a list of URLs and of mappings. Raises ValueError("...; fix")."""
    entries = [text.strip() for text in raw.split(",") if text.strip()] if isinstance(raw, str) else raw
    if not isinstance(entries, list | tuple):
        raise ValueError(f"holds a {type(raw).__name__}; write a list of URLs or of mappings with url")
    if len(entries) > MAX_TARGETS:
        raise ValueError(f"{len(entries)} entries; at most {MAX_TARGETS} are allowed, one for each server of this node")
    found: dict[str, EngineTarget] = {}
    for number, entry in enumerate(entries, start=1):
        try:
            target = _target({"url": entry} if isinstance(entry, str) else entry)
            if target.url in found:
                raise ValueError(f"{target.url} is there twice; remove one of them")
        except ValueError as error:
            raise ValueError(f"entry {number}: {error}") from None
        found[target.url] = target
    return tuple(found.values())


_POD_KEYS = ("namespace", "pod", "container", "labels", "gpus")
ACCESS_KEYS = tuple(Access.__struct_fields__)
_SIZE_KEYS = ("weights_bytes", "kv_bytes_per_token")
_KEYS = ("url", *_POD_KEYS, *ACCESS_KEYS, *_SIZE_KEYS)


def _target(entry: Any) -> EngineTarget:
    if not isinstance(entry, dict):
        raise ValueError(
            f"{shown(entry)} is neither a URL nor a mapping; write a URL, or a mapping with {', '.join(_KEYS)}"
        )
    _known(entry, _KEYS)
    pod = PodRef(*(_text(entry, key) for key in ("namespace", "pod", "container")))
    gpus = entry.get("gpus") or []
    if not isinstance(gpus, list) or not all(_is_scalar(gpu) for gpu in gpus):
        raise ValueError('key gpus is no list; write indices or UUIDs, for example gpus: ["0", "1"]')
    url, access = _url(_text(entry, "url")), _access(entry)
    if access.token_file and not url.startswith("https:"):
        raise ValueError(
            f"key token_file: a token is not sent over plain http; write {url.replace('http', 'https', 1)}"
        )
    return EngineTarget(
        url=url,
        pod=pod,
        labels=_labels(entry),
        gpus=tuple(str(gpu) for gpu in gpus),
        access=access,
        weights_bytes=_bytes(entry, "weights_bytes"),
        kv_bytes_per_token=_bytes(entry, "kv_bytes_per_token"),
    )


def grants(raw: Any) -> tuple[Grant, ...]:
    """How discovered pods are asked, from a list of mappings. Raises ValueError("...; fix")."""
    if not isinstance(raw, list):
        raise ValueError(f"holds a {type(raw).__name__}; write a list of mappings with namespace, labels and ca_file")
    if len(raw) > MAX_TARGETS:
        raise ValueError(f"{len(raw)} entries; at most {MAX_TARGETS} are allowed")
    found = []
    for number, entry in enumerate(raw, start=1):
        try:
            if not isinstance(entry, dict):
                raise ValueError(f"{shown(entry)} is no mapping; write {', '.join(_GRANT_KEYS)}")
            _known(entry, _GRANT_KEYS)
            grant = Grant(_access(entry), _text(entry, "namespace"), _labels(entry))
            if grant.access.token_file and grant.access.insecure_skip_verify and not grant.namespace:
                raise ValueError(
                    "key token_file: with insecure_skip_verify every pod of the cluster could have itself sent the "
                    "token; write ca_file, or namespace"
                )
            found.append(grant)
        except ValueError as error:
            raise ValueError(f"entry {number}: {error}") from None
    return tuple(found)


_GRANT_KEYS = ("namespace", "labels", *ACCESS_KEYS)


def load_grants(path: str) -> tuple[Grant, ...]:
    """What a YAML or JSON file says of discovered pods. Raises ConfigError naming the file, the entry and the fix."""
    return _load(path, "kubernetes.access-file", "a list of mappings", grants)


def _known(entry: Mapping[Any, Any], keys: tuple[str, ...]) -> None:
    for key in entry:
        if key not in keys:
            raise ValueError(f"key {shown(key)} is unknown; known keys: {', '.join(keys)}")


def _labels(entry: Mapping[str, Any]) -> Mapping[str, str]:
    labels = entry.get("labels") or {}
    if not isinstance(labels, dict) or not all(_is_scalar(part) for pair in labels.items() for part in pair):
        raise ValueError("key labels is no mapping of texts; write for example labels: {app: llama}")
    return {str(key): str(value) for key, value in labels.items()}


def _access(entry: Mapping[str, Any]) -> Access:
    """Whether the files can be read is seen when the server is asked: that one fails, and no other."""
    skip = entry.get("insecure_skip_verify")
    if skip is not None and not isinstance(skip, bool):
        raise ValueError("key insecure_skip_verify is neither true nor false")
    texts = {key: _text(entry, key) for key in ACCESS_KEYS if key != "insecure_skip_verify"}
    for key, text in texts.items():
        if not text.isprintable() or (text and key != "server_name" and not text.startswith("/")):
            raise ValueError(f"key {key}: {shown(text)} is no absolute path; write for example /etc/plimsoll/ca.crt")
    if bool(texts["cert_file"]) < bool(texts["key_file"]):
        raise ValueError("key key_file is there without cert_file; name the certificate as well")
    return Access(**texts, insecure_skip_verify=bool(skip))


def _bytes(entry: Mapping[str, Any], key: str) -> float | None:
    value = entry.get(key)
    if value is None:
        return None
    if isinstance(value, bool) or not isinstance(value, int | float | str):
        raise ValueError(f"key {key} is no number of bytes; write for example 16060522496 or 14.9Gi")
    try:
        return quantity.parse(str(value))
    except ValueError as error:
        raise ValueError(f"key {key}: {error}") from None


def _text(entry: Mapping[str, Any], key: str) -> str:
    value = entry.get(key)
    if value is not None and not _is_scalar(value):
        raise ValueError(f"key {key} is no text; write one value")
    return "" if value is None else str(value)


def _is_scalar(value: Any) -> bool:
    return isinstance(value, str | int) and not isinstance(value, bool)


def _url(text: str) -> str:
    """The URL with /metrics where it has no path. Raises ValueError."""
    fix = "write http://host:port/metrics"
    try:
        parts = urlsplit(text)
        port_is_good = parts.port != 0
    except ValueError:
        raise ValueError(f"{shown(text)} is no URL; {fix}") from None
    if parts.scheme not in ("http", "https") or not parts.hostname or not port_is_good:
        raise ValueError(f"{shown(text)} is no http or https URL with a host; {fix}")
    if parts.username is not None or parts.password is not None:
        # It would be on every page and in every log line.
        raise ValueError(f"the URL of {parts.hostname} holds credentials; {fix} without them")
    if parts.fragment or not text.isprintable() or " " in text:
        raise ValueError(f"{shown(text)} has a fragment, a blank or a control character; {fix}")
    return parts._replace(path="/metrics").geturl() if parts.path in ("", "/") else text
