"""`plimsoll demo`: exporter and scaler as real programs among fake GPUs, fake engines and a small KEDA.

May not be in here: the story itself (app.py).
"""

import argparse
import asyncio
import os
import sys
from collections.abc import Sequence

from scaler.demo.scenarios import SCENARIOS

DEFAULT_SECONDS = 60.0
DEFAULT_SEED = 5  # with it chance brings no burst that needs a replica before a story's own event; the tests check it
LONGEST_SECONDS = 3600.0  # every request that was served is kept for the summary


def main(argv: Sequence[str]) -> int:
    """Runs the demo; returns the exit code. Prints its errors as one line."""
    options = _parser().parse_args(list(argv))
    from scaler.demo.app import run  # noqa: PLC0415 -- `--help` need not wait for aiohttp and gRPC
    from scaler.demo.processes import ProgramError  # noqa: PLC0415 -- it imports no more, and belongs to the above
    from scaler.demo.screen import Screen  # noqa: PLC0415 -- likewise

    screen = Screen(sys.stdout, colour=not (options.no_color or options.plain))
    try:
        asyncio.run(run(options.scenario, options.duration, options.seed, screen))
    except BrokenPipeError:
        # Whoever reads has had enough, as in `plimsoll demo | head`; Python would complain of it again at its end.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    except (ProgramError, OSError) as error:
        sys.stderr.write(f"plimsoll demo: {error}\n")
        return 1
    return 0


def _parser() -> argparse.ArgumentParser:
    stories = "; ".join(f"{name}: {scenario.about}" for name, scenario in SCENARIOS.items())
    parser = argparse.ArgumentParser(
        prog="plimsoll demo",
        description="Plays a story without GPU, cluster or network: real exporter and scaler, fake everything else.",
        allow_abbrev=False,
    )
    parser.add_argument("--scenario", choices=sorted(SCENARIOS), default="burst", help=f"{stories} (default: burst)")
    parser.add_argument(
        "--duration",
        type=_seconds,
        default=DEFAULT_SECONDS,
        metavar="SECONDS",
        help="length of the story (default: 60)",
    )
    parser.add_argument(
        "--seed", type=int, default=DEFAULT_SEED, help=f"of the generated load (default: {DEFAULT_SEED})"
    )
    parser.add_argument("--no-color", action="store_true", help="no colours (also with NO_COLOR set, or in a pipe)")
    parser.add_argument("--plain", action="store_true", help="the same, for scripts")
    return parser


def _seconds(text: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = 0.0
    if not 5.0 <= value <= LONGEST_SECONDS:
        raise argparse.ArgumentTypeError(f"{text!r} is not a number of seconds from 5 to 3600; write for example 30")
    return value
