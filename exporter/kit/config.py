"""Options of a program: flag, environment, file and default, in that order of precedence.

May not be in here: any one program's options (settings.py of each has its table).

An option `web.listen-address` is the flag `--web.listen-address`, the variable
`PLIMSOLL_WEB_LISTEN_ADDRESS` and the key `web.listen-address` of the YAML file named by `--config.file`.
Whatever cannot be honoured is a ConfigError: one line that names the place, the key and the fix.
"""

import argparse
import difflib
import math
import os
import re
import reprlib
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, NamedTuple, NoReturn


class ConfigError(Exception):
    """A setting that cannot be honoured. str() is the one line to print."""


def cannot_listen(option: str, place: str, error: Exception) -> ConfigError:
    """The error of an address that cannot be bound, with the operating system's own word for why."""
    code = getattr(error, "errno", None) or 0  # a name that cannot be resolved has a negative one
    cause = os.strerror(code) if code > 0 else str(error)
    return ConfigError(f"option {option}: cannot listen on {place} ({cause}); choose a free address")


class Option(NamedTuple):
    """One setting. `parse` turns text, or what YAML made of it, into the value; it raises ValueError("fix")."""

    name: str
    parse: Callable[[Any], Any]
    default: Any  # as `parse` would return it
    help: str
    many: bool = False  # a repeated flag adds to the list instead of replacing the value


CONFIG_FILE = "config.file"

_SHORT = reprlib.Repr()
_SHORT.maxstring = _SHORT.maxother = 200


def load(
    program: str, version: str, options: Sequence[Option], argv: Sequence[str], environ: Mapping[str, str]
) -> dict[str, Any]:
    """The value of every option, by its name with "." and "-" as "_".

    Raises ConfigError; exits (argparse) on --help and --version.
    """
    parser = _Parser(prog=program, allow_abbrev=False)
    parser.add_argument("--version", action="version", version=f"{program} {version}")
    parser.add_argument(
        f"--{CONFIG_FILE}", metavar="PATH", default=None, help="YAML file with the options below as keys"
    )
    for option in options:
        default = "" if option.default in (None, "", ()) else f" (default: {_text(option.default)})"
        # Text of the table may hold "%", which argparse would take for a format.
        text = (option.help + default).replace("%", "%%")
        parser.add_argument(
            f"--{option.name}",
            dest=option.name,
            default=argparse.SUPPRESS,
            action="append",
            metavar="VALUE",
            help=text,
        )
    given = vars(parser.parse_args(list(argv)))

    path = given[CONFIG_FILE] or environ.get(_variable(CONFIG_FILE))
    from_file = _read(path, options) if path else {}
    values: dict[str, Any] = {}
    for option in options:
        if option.name in given:
            raw, place = given[option.name], f"flag --{option.name}"
            raw = ",".join(raw) if option.many or option.parse is strings else raw[-1]
        elif _variable(option.name) in environ:
            raw, place = environ[_variable(option.name)], f"environment {_variable(option.name)}"
        elif option.name in from_file:
            raw, place = from_file[option.name], f"file {path}: key {option.name}"
        else:
            values[_field(option.name)] = option.default
            continue
        try:
            values[_field(option.name)] = option.parse(raw)
        except ValueError as error:
            raise ConfigError(f"{place}: {error}") from None
    return values


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        unknown = re.match(r"unrecognized arguments: (--[^ =]+)", message)
        close = difflib.get_close_matches(unknown.group(1), self._option_string_actions, 1) if unknown else []
        hint = f"; did you mean {close[0]}?" if close else f"; see {self.prog} --help"
        raise ConfigError(f"command line: {' '.join(message.split())}{hint}")


def _read(path: str, options: Iterable[Option]) -> Mapping[str, Any]:
    from exporter.kit import yaml_file  # noqa: PLC0415 -- PyYAML is 3 MB of RSS

    content = yaml_file.load(path, CONFIG_FILE, "YAML with one option a line")
    if content is None:
        return {}
    if not isinstance(content, dict):
        raise ConfigError(f"file {path}: holds a {type(content).__name__}; write `option: value`, one option a line")
    names = [option.name for option in options]
    for key in content:
        if key not in names:
            close = difflib.get_close_matches(str(key), names, 1)
            fix = f"did you mean {close[0]}?" if close else f"known keys: {', '.join(names)}"
            name = key if isinstance(key, str) and key.isprintable() and len(key) <= 200 else shown(key)
            raise ConfigError(f"file {path}: key {name}: unknown; {fix}")
    return content


def _variable(name: str) -> str:
    return "PLIMSOLL_" + _field(name).upper()


def _field(name: str) -> str:
    return name.replace(".", "_").replace("-", "_")


def _text(value: Any) -> str:
    if isinstance(value, tuple):
        # An address (host, port), or a list.
        return f"{value[0]}:{value[1]}" if isinstance(value[-1], int) else ",".join(value)
    return f"{value:g}" if isinstance(value, float) else str(value)


def shown(value: object) -> str:
    """A value as an error may show it: short, whatever it is."""
    return _SHORT.repr(value)


# What an option may be. Each takes text (flag, environment) or a YAML value and raises ValueError("... ; fix").


def string(raw: Any) -> str:
    if isinstance(raw, bool | int | float):
        return str(raw)
    if not isinstance(raw, str) or "\0" in raw:
        raise ValueError(f"{shown(raw)} is not text; write one value")
    return raw


def strings(raw: Any) -> tuple[str, ...]:
    """A list: YAML's, or text with commas."""
    items = raw.split(",") if isinstance(raw, str) else raw
    if not isinstance(items, list | tuple) or not all(isinstance(item, str) for item in items):
        raise ValueError(f"{shown(raw)} is not a list of texts; write a YAML list, or text with commas")
    return tuple(item.strip() for item in items if item.strip())


def boolean(raw: Any) -> bool:
    if isinstance(raw, bool):
        return raw
    if str(raw).lower() in ("true", "1", "yes", "on"):
        return True
    if str(raw).lower() in ("false", "0", "no", "off"):
        return False
    raise ValueError(f"{shown(raw)} is neither true nor false")


def integer(least: int, most: int) -> Callable[[Any], int]:
    def parse(raw: Any) -> int:
        if isinstance(raw, bool) or not re.fullmatch(r"[0-9]{1,18}", str(raw)) or not least <= int(raw) <= most:
            raise ValueError(f"{shown(raw)} is not a whole number from {least} to {most}")
        return int(raw)

    return parse


def choice(*allowed: str) -> Callable[[Any], str]:
    def parse(raw: Any) -> str:
        # YAML reads a bare `off` as false.
        text = {True: "on", False: "off"}.get(raw, str(raw)) if isinstance(raw, bool) else str(raw)
        if text not in allowed:
            raise ValueError(f"{shown(text)} is not one of {', '.join(allowed)}")
        return text

    return parse


_UNITS = {"ms": 0.001, "s": 1.0, "m": 60.0, "h": 3600.0}


def seconds(raw: Any) -> float:
    """A Go-like duration ("500ms", "1m30s") or a plain number of seconds; finite and above 0."""
    if isinstance(raw, bool):
        raise ValueError(f"{shown(raw)} is not a duration; write for example 15s")
    text = str(raw)
    if re.fullmatch(r"(?:[0-9]{1,9}(?:\.[0-9]{1,9})?(?:ms|s|m|h))+", text):
        value = sum(float(n) * _UNITS[unit] for n, unit in re.findall(r"([0-9.]+)(ms|s|m|h)", text))
    elif re.fullmatch(r"[0-9]{1,9}(?:\.[0-9]{1,9})?", text):
        value = float(text)
    else:
        raise ValueError(f"{shown(text)} is not a duration; write for example 500ms, 15s or 2m")
    if not value > 0 or not math.isfinite(value):
        raise ValueError(f"{shown(text)} is not above zero; write for example 15s")
    return value


def listen(raw: Any) -> tuple[str, int]:
    """host:port to listen on; ":9480" is every address, "127.0.0.1:0" any free port."""
    text = str(raw)
    host, colon, port = text.rpartition(":")
    if not colon or not re.fullmatch(r"[0-9]{1,5}", port) or int(port) > 65535 or re.search(r"[\s/]", host):
        raise ValueError(f"{shown(text)} is not an address; write host:port or :port, as in :9480")
    return host.strip("[]"), int(port)
