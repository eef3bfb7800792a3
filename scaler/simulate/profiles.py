"""The engine profiles that the simulator comes with, and how a file of profiles is read.

May not be in here: numbers of a profile (profiles.toml), what is made of them (engine.py), finding a user's file.
"""

import tomllib
from collections.abc import Callable, Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any, NamedTuple

from scaler.core.written import near
from scaler.simulate.model import Phases, Profile


class ProfileError(ValueError):
    """A profile that there is not or that cannot be used. str() is the one line to print."""


class _Key(NamedTuple):
    """A key of a profile. `read` takes what TOML had there and raises ValueError("is wrong; fix")."""

    name: str
    read: Callable[[Any], Any]
    required: bool = True


def _text(value: Any) -> str:
    if not isinstance(value, str) or not value.strip():
        raise ValueError('is no text; write what it is in "..."')
    return value


def _seconds(value: Any) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise ValueError("is no number; write seconds, for example 1.2e-3")
    if not 0 <= value <= 1e6:  # NaN is not, either
        raise ValueError("is not from 0 to 1e6; write seconds, for example 1.2e-3")
    return float(value)


def _some_seconds(value: Any) -> float:
    if not (seconds := _seconds(value)) >= 1e-6:
        raise ValueError(f"{value!r} takes no time; write seconds from 1e-6, for example 1.2e-2")
    return seconds


def _count(value: Any) -> int:
    if isinstance(value, bool) or not isinstance(value, int) or not 1 <= value <= 10**9:
        raise ValueError("is not a whole number from 1 to 1000000000; write one")
    return value


def _phases(value: Any) -> Phases:
    if not isinstance(value, dict):
        raise ValueError("is no table; write { model_load = 94.0, warm_up = 200.0 }")
    for name in value:
        if name not in Phases._fields:
            raise ValueError(f"has an unknown phase {_shown(name)}; {near(name, Phases._fields)}")
    phases = {}
    for name, seconds in value.items():
        try:
            phases[name] = _seconds(seconds)
        except ValueError as error:
            raise ValueError(f"phase {name} {error}") from None
    return Phases(**phases)


KEYS = (
    _Key("about", _text),
    _Key("source", _text),
    _Key("step", _some_seconds),
    _Key("per_sequence", _seconds),
    _Key("per_context_token", _seconds),
    _Key("per_prompt_token", _seconds),
    _Key("per_prompt_token_squared", _seconds),
    _Key("kv_tokens", _count),
    _Key("gpus", _count, required=False),
    _Key("block_tokens", _count, required=False),
    _Key("max_num_seqs", _count, required=False),
    _Key("max_num_batched_tokens", _count, required=False),
    _Key("cold_start", _phases, required=False),
)
_READ = {key.name: key for key in KEYS}


def parse(text: str, place: str) -> Mapping[str, Profile]:
    """The profiles in a TOML text, by name. `place` is what errors call it: the file. Raises ProfileError."""
    try:
        tables = tomllib.loads(text)
    except (tomllib.TOMLDecodeError, RecursionError) as error:
        raise ProfileError(f"{place}: is no TOML ({_line(error)}); write a table for each profile") from None
    if not tables:
        raise ProfileError(f"{place}: has no profile; write a table for each, for example [my-model]")
    return MappingProxyType({name: _profile(place, name, table) for name, table in tables.items()})


def _profile(place: str, name: str, table: Any) -> Profile:
    if not isinstance(table, dict):
        raise ProfileError(
            f"{place}: key {_shown(name)}: stands outside a profile; write it below a line like [my-model]"
        )
    where = f"{place}: profile {_shown(name)}"
    values: dict[str, Any] = {}
    for key, value in table.items():
        if key not in _READ:
            raise ProfileError(f"{where}: key {_shown(key)}: is unknown; {near(key, _READ)}")
        try:
            values[key] = _READ[key].read(value)
        except ValueError as error:
            raise ProfileError(f"{where}: key {key}: {error}") from None
    for row in KEYS:
        if row.required and row.name not in values:
            raise ProfileError(
                f"{where}: key {row.name}: is missing; write it, see the profiles that plimsoll comes with"
            )
    profile = Profile(name=name, **values)
    if profile.max_num_batched_tokens < profile.max_num_seqs:  # vLLM does not start with such
        raise ProfileError(
            f"{where}: key max_num_batched_tokens: {profile.max_num_batched_tokens} is less than max_num_seqs "
            f"{profile.max_num_seqs}; make it as large or larger"
        )
    if profile.kv_tokens < profile.block_tokens:
        raise ProfileError(
            f"{where}: key kv_tokens: {profile.kv_tokens} is less than one block of {profile.block_tokens} tokens; "
            "make it larger"
        )
    return profile


def _shown(name: str) -> str:
    """A name as one printable line, whatever was written."""
    return name if name.isprintable() and 0 < len(name) <= 64 else ascii(name[:64])


def _line(error: Exception) -> str:
    return " ".join(str(error).split())[:200]


#: Those that the simulator comes with.
PROFILES = parse(Path(__file__).with_name("profiles.toml").read_text(encoding="utf-8"), "profiles.toml")


def profile(name: str, profiles: Mapping[str, Profile] = PROFILES) -> Profile:
    """The profile of this name. Raises ProfileError, which names those that there are."""
    if name not in profiles:
        raise ProfileError(f"profile {_shown(name)}: is unknown; {near(name, profiles)}")
    return profiles[name]
