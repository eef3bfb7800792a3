"""The arguments of `simulate` and `replay`: parsers made of the tables, profiles and settings that both take.

May not be in here: what an option's text may be (simulate/scenario.py).
"""

import argparse
import difflib
import re
from collections.abc import Iterable, Mapping
from typing import Any, NoReturn

from scaler.commands import CommandError, files
from scaler.simulate.model import Profile
from scaler.simulate.profiles import PROFILES, ProfileError, parse
from scaler.simulate.scenario import RESULT, Option


class Parser(argparse.ArgumentParser):
    """Raises CommandError instead of printing its usage."""

    def error(self, message: str) -> NoReturn:
        unknown = re.match(r"unrecognized arguments: (--[^ =]+)", message)
        close = difflib.get_close_matches(unknown.group(1), self._option_string_actions, 1) if unknown else []
        hint = f"; did you mean {close[0]}?" if close else f"; see {self.prog} --help"
        # What a person typed stands in it: one printable line, whatever that was.
        raise CommandError(ascii(" ".join(message.split()))[1:-1] + hint)


def parser(command: str, about: str) -> Parser:
    return Parser(prog=f"plimsoll {command}", description=about, allow_abbrev=False)


def add(to: argparse.ArgumentParser, title: str, options: Iterable[Option]) -> None:
    group = to.add_argument_group(title)
    for option in options:
        default = f" (default: {option.default})" if option.default else ""
        group.add_argument(
            f"--{option.name}",
            dest=option.name,
            metavar=option.placeholder,
            action="append" if option.many else "store",
            help=(option.help + default).replace("%", "%%"),
        )


def add_ours(to: argparse.ArgumentParser) -> None:
    """What every command has beside the tables."""
    ours = to.add_argument_group("our own policy")
    ours.add_argument(
        "--set", action="append", default=[], metavar="KEY=VALUE", help="a setting of the trigger, such as headroom=0.2"
    )
    to.add_argument("--profiles", metavar="FILE.toml", help="further profiles; docs/simulate.md has their form")
    add(to, "what is wanted", RESULT)
    out = to.add_argument_group("output")
    out.add_argument("--html", metavar="FILE", help="the report as one page")
    out.add_argument("--json", metavar="FILE", help="the report for programs")


def paths(chosen: Mapping[str, Any], names: Iterable[str]) -> dict[str, str | None]:
    """By option, for files.check()."""
    return {f"--{name}": chosen[name] for name in names}


def profiles(path: str | None) -> Mapping[str, Profile]:
    """Ours, and those of the file. Raises CommandError."""
    if path is None:
        return PROFILES
    data, place = files.read(path, "--profiles"), f"--profiles {files.shown(path)}"
    try:
        return {**PROFILES, **parse(data.decode("utf-8-sig"), place)}
    except UnicodeDecodeError as error:
        raise CommandError(f"{place}: byte {error.start} is no UTF-8; save it as UTF-8") from None
    except ProfileError as error:
        raise CommandError(str(error)) from None
