"""A ScaledObject's trigger metadata -> Trigger, or a TriggerError that names the key and the fix.

May not be in here: what a setting does (decision.py), anything that the fleet has a say in.

Every key is a row of KEYS. `keyFromEnv` is the same key with a value that KEDA resolved from the target's environment:
it is honoured, but its value is shown nowhere. An endpoint can never be named here: those are the operator's alone.
"""

import difflib
import re
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

from msgspec import Struct

from exporter.core import selector
from scaler.core import policy, written
from scaler.core.written import quoted

REQUIRED_REPLICAS, QUEUE_DEPTH = METRICS = ("required-replicas", "queue-depth")
MODES = ("active", "advisory")
AUTO = "auto"

#: KEDA's own keys of an external trigger: they tell it how to reach us, and are passed on with the rest.
KEDA_KEYS = frozenset(
    {"scalerAddress", "enableTLS", "unsafeSsl", "caCert", "tlsClientCert", "tlsClientKey", "tlsCertFile"}
)
FROM_ENV = "FromEnv"
HIDDEN = "(from the environment)"


class TriggerError(Exception):
    """Metadata that cannot be honoured. str() is one line: place, key, cause, fix."""


class Trigger(Struct, frozen=True):
    """What a ScaledObject asks for. None: not given."""

    namespace: str
    name: str
    pod_selector: tuple[selector.Requirement, ...] = ()
    model: str = ""
    queue_target: float | None = None  # waiting requests tolerated per replica
    kv_cache_target: float = policy.value("kv_cache_target")  # 0..1
    headroom: float | None = None  # share on top of what is planned
    ttft_target: float = policy.value("ttft_target")  # s
    cold_start: float | None = None  # s; None: auto
    drain_within: float = policy.value("drain_within")  # s
    stale_after: float = policy.value("stale_after")  # s
    max_replicas: int | None = None
    metric: str = REQUIRED_REPLICAS
    mode: str = "active"
    shown: Mapping[str, str] = {}  # the metadata as it may be printed


# What a value may be. Each takes the text and raises ValueError("is wrong; fix"), without repeating the value.


def _number(least: float, most: float) -> Callable[[str], float]:
    def parse(text: str) -> float:
        number = written.number(text)
        if not least <= number <= most:
            raise ValueError(
                f"is not a number from {least:g} to {most:g}; write for example {max(least, min(5, most)):g}"
            )
        return number

    return parse


def _whole(least: int, most: int) -> Callable[[str], int]:
    def parse(text: str) -> int:
        if not re.fullmatch(r"[0-9]{1,9}", text) or not least <= int(text) <= most:
            raise ValueError(f"is not a whole number from {least} to {most}; write for example {least}")
        return int(text)

    return parse


def _duration(least: float, most: float) -> Callable[[str], float]:
    def parse(text: str) -> float:
        length = written.duration(text)
        if not least <= length <= most:
            raise ValueError(f"is not a duration from {least:g}s to {most:g}s; write for example 15s or 2m")
        return length

    return parse


def _auto_or(parse: Callable[[str], float]) -> Callable[[str], float | None]:
    def parse_or_auto(text: str) -> float | None:
        try:
            return None if text == AUTO else parse(text)
        except ValueError as error:
            raise ValueError(f"{error}, or {AUTO}") from None

    return parse_or_auto


def _one_of(*allowed: str) -> Callable[[str], str]:
    def parse(text: str) -> str:
        if text not in allowed:
            raise ValueError(f"is not one of {', '.join(allowed)}; write one of them")
        return text

    return parse


def _model(text: str) -> str:
    if not text.strip() or len(text) > 256:
        raise ValueError("is not a model's name; write the model_name of the engine's metrics, or drop the key")
    return text


class Key(NamedTuple):
    """One key of the metadata: its field in Trigger, and what its value may be."""

    name: str
    field: str
    parse: Callable[[str], Any]
    help: str
    unit: str = ""


# fmt: off
# One row a key: a wrapped table cannot be scanned.
KEYS: dict[str, Key] = {key.name: key for key in (
    Key("model", "model", _model, "model_name of the engines that this object scales"),
    Key("podSelector", "pod_selector", selector.parse, "labels of the pods that this object scales"),
    Key("queueTarget", "queue_target", _number(0.01, 1e6), "waiting requests tolerated per replica"),
    Key("kvCacheTarget", "kv_cache_target", _number(0.05, 1), "share of the KV cache that may be held"),
    Key("headroom", "headroom", _number(0, 10), "share kept free on top of what is planned"),
    Key("ttftTarget", "ttft_target", _duration(0.1, 600), "time to the first token that is to be kept", "s"),
    Key("coldStart", "cold_start", _auto_or(_duration(1, 86400)), "time until a new replica serves", "s"),
    Key("drainWithin", "drain_within", _duration(1, 3600), "time in which a queue is to be worked off", "s"),
    Key("staleAfter", "stale_after", _duration(2, 600), "age at which a reading is no longer believed", "s"),
    Key("maxReplicas", "max_replicas", _whole(1, 100_000), "most replicas that are ever asked for"),
    Key("metric", "metric", _one_of(*METRICS), "what the HPA is told"),
    Key("mode", "mode", _one_of(*MODES), "advisory: decide and record, but change nothing"),
)}
# fmt: on

#: Words of the interface that this version cannot honour yet, and what to do instead.
NOT_YET = {
    "gateway": "no gateway is configured in this scaler; drop the key (the engines' own queues are read)",
}

_NAME = re.compile(r"[a-z0-9](?:[a-z0-9.-]{0,251}[a-z0-9])?")


def parse(namespace: str, name: str, metadata: Mapping[str, str]) -> Trigger:
    """What the metadata asks for. Raises TriggerError on whatever cannot be honoured."""
    check_names(namespace, name)
    place = f"ScaledObject {namespace}/{name}: trigger metadata key"
    values: dict[str, Any] = {}
    shown: dict[str, str] = {}
    for given, text in sorted(metadata.items()):
        bare = given.removesuffix(FROM_ENV)
        if given in KEDA_KEYS or (bare != given and bare not in KEYS) or (bare != given and bare in metadata):
            continue  # KEDA's business, or a secret that is none of ours
        key = KEYS.get(bare)
        if key is None:
            raise TriggerError(f"{place} {quoted(given)}: {_unknown(given)}")
        try:
            values[key.field] = key.parse(text)
        except ValueError as error:
            value = HIDDEN if bare != given else quoted(text)
            raise TriggerError(f"{place} {given}: {value} {error}") from None
        shown[given] = HIDDEN if bare != given else text
    return Trigger(namespace, name, shown=shown, **values)


def check_names(namespace: str, name: str) -> None:
    """Raises TriggerError on what cannot be the name of a Kubernetes object."""
    for word, text in (("namespace", namespace), ("name", name)):
        if not _NAME.fullmatch(text):
            raise TriggerError(f"scaledObjectRef.{word} {quoted(text)}: no Kubernetes name; write a-z, 0-9, - and .")


def settings(trigger: Trigger) -> dict[str, str | float | None]:
    """Every key with the value in force, as it may be printed. None: not given, and worked out where it is used."""
    found: dict[str, str | float | None] = {}
    for key in KEYS.values():
        value = getattr(trigger, key.field)
        shown = trigger.shown.get(key.name + FROM_ENV, trigger.shown.get(key.name))
        if shown == HIDDEN or isinstance(value, tuple):
            value = shown
        found[key.name] = f"{value:g}{key.unit}" if key.unit and isinstance(value, float) else value
    return found


def metric_spec(metadata: Mapping[str, str]) -> tuple[str, float]:
    """(metric name, AverageValue target). Never raises: without a spec KEDA's fallback cannot fire (keda #8056)."""
    if metadata.get("metric", metadata.get("metric" + FROM_ENV)) != QUEUE_DEPTH:
        return REQUIRED_REPLICAS, 1.0
    text = metadata.get("queueTarget", metadata.get("queueTarget" + FROM_ENV, ""))
    try:
        return QUEUE_DEPTH, float(KEYS["queueTarget"].parse(text))
    except ValueError:
        return QUEUE_DEPTH, policy.value("queue_target")


def _unknown(key: str) -> str:
    if key in NOT_YET:
        return f"not in this version; {NOT_YET[key]}"
    folded = {name.lower(): name for name in KEYS}
    close = difflib.get_close_matches(key.lower()[:64], folded, 2)
    hint = f"did you mean {' or '.join(folded[name] for name in close)}? " if close else ""
    return f"unknown; {hint}known keys: {', '.join(KEYS)}"
