"""`plimsoll doctor`: arguments -> probe -> checks -> report.

May not be in here: looking and judging.

Exit status: 0 the node can tell all that is essential; 1 a check failed; 2 an argument or a setting cannot be honoured.
"""

import argparse
import logging
import os
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NoReturn

from exporter.doctor import machine
from exporter.kit.config import ConfigError, seconds
from exporter.kit.run import leave, run
from exporter.kit.version import VERSION

PROGRAM = "plimsoll doctor"
#: Bytes that this program takes beside what it shares with a running exporter; 37 MiB were measured with 8 GPUs.
NEEDS = 48 << 20


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        raise ConfigError(f"command line: {message}; see {PROGRAM} --help")


def main(argv: Sequence[str], environ: Mapping[str, str]) -> int:
    """The exit status. Writes the report to stdout, and errors to stderr."""
    try:
        return _main(argv, environ)
    except ConfigError as error:
        sys.stderr.write(f"{PROGRAM}: {error}\n")
        return 2


def _main(argv: Sequence[str], environ: Mapping[str, str]) -> int:
    own, rest = _arguments(argv)
    root = Path(own.root)
    left = machine.memory_left(root)
    if left is not None and left < NEEDS:
        # In the exporter's own container it would not be this program alone that the kernel ends.
        fix = "raise the container's memory limit, or run it in a pod of its own"
        sys.stderr.write(f"{PROGRAM}: {left >> 20} MiB of memory are left here and it takes {NEEDS >> 20}; {fix}\n")
        return 1
    # Loaded after that: they are most of what this program takes.
    from exporter import settings  # noqa: PLC0415 -- see above
    from exporter.doctor import probe, report  # noqa: PLC0415 -- likewise
    from exporter.doctor.checks.gpus import as_rows  # noqa: PLC0415 -- likewise
    from exporter.doctor.look import Look  # noqa: PLC0415 -- likewise
    from exporter.doctor.table import look_at  # noqa: PLC0415 -- likewise

    try:
        values = settings.read(rest, environ)
    except ConfigError as error:
        # The options are the exporter's; the program that was started is this one.
        raise ConfigError(str(error).replace(f"{settings.PROGRAM} --help", f"{PROGRAM} --help")) from None
    logging.disable()  # what the sources would log is in the report
    look = Look(values, run(probe.run(values, own.timeout)), root, environ)
    found = report.Report(VERSION, values.node, look_at(look), tuple(as_rows(look)))
    if own.json:
        sys.stdout.write(report.as_json(found) + "\n")
    else:
        sys.stdout.write(report.as_text(found, colour=sys.stdout.isatty() and "NO_COLOR" not in environ))
    return 0 if found.ok else 1


def _arguments(argv: Sequence[str]) -> tuple[argparse.Namespace, list[str]]:
    """The doctor's own arguments, and those for the exporter's settings. Raises ConfigError."""
    parser = _Parser(prog=PROGRAM, add_help=False, allow_abbrev=False, usage=f"{PROGRAM} [options]")
    parser.description = "What this node can and cannot tell, and why, with the fix."
    parser.epilog = "Beside these the options of plimsoll-exporter, as it is run here:"
    parser.add_argument("--json", action="store_true", help="one JSON object instead of text")
    parser.add_argument("--timeout", default="10s", metavar="VALUE", help="longest time to wait for all (default: 10s)")
    parser.add_argument(
        "--root", default="/", metavar="DIR", help="where the node's /proc, /sys and /dev are (default: /)"
    )
    parser.add_argument("--version", action="version", version=f"{PROGRAM} {VERSION}")
    own, rest = parser.parse_known_args(list(argv))
    if {"-h", "--help"} & set(rest):
        sys.stdout.write(parser.format_help() + "\n")  # the exporter's own follows
    try:
        own.timeout = seconds(own.timeout)
    except ValueError as error:
        raise ConfigError(f"flag --timeout: {error}") from None
    if not os.path.isdir(os.path.join(own.root, "proc")):
        fix = "name the directory that has the node's proc, sys and dev"
        raise ConfigError(f"flag --root: {own.root!r} has no directory proc; {fix}")
    return own, rest


def entry() -> NoReturn:
    leave(lambda: main(sys.argv[1:], os.environ))


if __name__ == "__main__":
    entry()
