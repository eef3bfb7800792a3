"""The `plimsoll` command: tools for people.

May not be in here: what a tool does beyond its arguments and its exit status.

Exit status: 0 done; 1 the scaler cannot be asked or does not know the object; 2 wrong arguments;
3 (explain) the scaler has no answer for KEDA, and the account says why. The doctor, simulate and replay have their own
(exporter/doctor, scaler/commands).
"""

import argparse
import json
import os
import sys
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Sequence
from typing import Any

from exporter.kit.version import VERSION
from scaler import explain

SCALER = "http://127.0.0.1:9482"
TIMEOUT = 5.0  # s
LARGEST_ANSWER = 16 * 1024 * 1024  # bytes; 1,000 replicas take about 1 MB


class Failure(Exception):
    """str() is the one line to print."""


def main(argv: Sequence[str] | None = None) -> int:
    """Runs one command; returns its exit status (see above)."""
    arguments = list(sys.argv[1:] if argv is None else argv)
    if arguments[:1] == ["demo"]:
        # Its modules are loaded only for it, and it has arguments of its own.
        from scaler.demo import main as demo  # noqa: PLC0415 -- see above

        return demo(arguments[1:])
    if arguments[:1] in (["simulate"], ["replay"]):
        from scaler.commands import main as command  # noqa: PLC0415 -- likewise

        return command(arguments[0], arguments[1:])
    if arguments[:1] == ["doctor"]:
        # The exporter's own program, in this process's place: a driver library that crashes harms nobody else.
        # -P: else -m takes code from the directory that it was started in before the program's own.
        os.execv(sys.executable, [sys.executable, "-P", "-m", "exporter.doctor", *arguments[1:]])  # noqa: S606 -- no shell is wanted
    parser = argparse.ArgumentParser(prog="plimsoll", description="The load line for LLM serving on GPUs.")
    parser.add_argument("--version", action="version", version=f"plimsoll {VERSION}")
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    commands.add_parser("demo", help="play a story without GPU, cluster or network", add_help=False)
    commands.add_parser("doctor", help="what this node can and cannot tell, and why, with the fix", add_help=False)
    commands.add_parser("simulate", help="play a load on a simulated fleet, under our policy or others", add_help=False)
    commands.add_parser("replay", help="play a fleet's recorded load under today's policy and settings", add_help=False)
    asks = commands.add_parser("explain", help="why a ScaledObject gets the replicas it gets")
    asks.add_argument("object", metavar="NAMESPACE/NAME", help="the ScaledObject")
    asks.add_argument("--scaler", default=SCALER, metavar="URL", help=f"the scaler's web address (default: {SCALER})")
    chosen = parser.parse_args(arguments)
    try:
        shown = _ask(chosen.object, chosen.scaler)
    except Failure as error:
        print(f"plimsoll explain: {error}", file=sys.stderr)  # noqa: T201 -- a command line prints
        return 1
    except ValueError as error:
        parser.error(str(error))
    print(explain.render(shown))  # noqa: T201 -- likewise
    return 0 if shown.get("answer") else 3


def _ask(name: str, scaler: str) -> dict[str, Any]:
    """What /debug/decision says. Raises Failure, and ValueError for arguments that cannot be meant."""
    namespace, slash, bare = name.partition("/")
    if not (namespace and slash and bare) or "/" in bare:
        raise ValueError(f"{name!r} is not NAMESPACE/NAME, as in default/llama")
    if urllib.parse.urlsplit(scaler).scheme not in ("http", "https"):
        raise ValueError(f"--scaler {scaler!r} is not a URL; write for example {SCALER}")
    query = urllib.parse.urlencode({"namespace": namespace, "name": bare})
    url = f"{scaler.rstrip('/')}/debug/decision?{query}"
    try:
        with urllib.request.urlopen(url, timeout=TIMEOUT) as response:  # noqa: S310 -- the scheme was checked
            shown = json.loads(response.read(LARGEST_ANSWER))
    except urllib.error.HTTPError as error:
        raise Failure(_refusal(error, scaler)) from None
    except (OSError, urllib.error.URLError) as error:
        cause = getattr(error, "reason", error)
        raise Failure(f"{scaler}: cannot be reached ({cause}); name the scaler's web port with --scaler") from None
    except ValueError:
        raise Failure(f"{scaler}: did not answer with JSON; is it the web port of a plimsoll-scaler?") from None
    if not isinstance(shown, dict) or "records" not in shown:
        raise Failure(f"{scaler}: is no plimsoll-scaler; name the scaler's web port with --scaler")
    return shown


def _refusal(error: urllib.error.HTTPError, scaler: str) -> str:
    try:
        shown = json.loads(error.read(LARGEST_ANSWER))
        known = ", ".join(shown["known"]) or "none"
        return f"{scaler}: {shown['error']}; it asks for: {known}"
    except (ValueError, KeyError, TypeError, OSError):
        return f"{scaler}: answered {error.code}; is it the web port of a plimsoll-scaler?"


if __name__ == "__main__":
    sys.exit(main())
