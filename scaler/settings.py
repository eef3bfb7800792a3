"""The scaler's settings: every option in one table, and the values of one run.

May not be in here: how options are read (kit/config.py), what is done with them (app.py).
"""

import re
from collections.abc import Mapping, Sequence
from typing import Any

from msgspec import Struct

from exporter.kit import log
from exporter.kit.config import ConfigError, Option, choice, integer, listen, load, seconds, string, strings
from exporter.kit.version import VERSION

PROGRAM = "plimsoll-scaler"


class Settings(Struct, frozen=True):
    """The value of every option; its comment is in OPTIONS. Times are seconds, addresses (host, port)."""

    exporters: tuple[str, ...]
    grpc_listen_address: tuple[str, int]
    web_listen_address: tuple[str, int]
    streams_max: int
    stream_lifetime: float
    record_file: str
    log_level: str
    log_format: str


_ADDRESS = re.compile(r"(?:dns:)?(?:\[[0-9a-fA-F:.]+\]|[A-Za-z0-9_.-]+):(?P<port>[0-9]{1,5})")


def exporters(raw: Any) -> tuple[str, ...]:
    """A list of host:port and dns:host:port. Raises ValueError."""
    names = strings(raw)
    for name in names:
        match = _ADDRESS.fullmatch(name)
        if match is None or not 1 <= int(match["port"]) <= 65535:
            raise ValueError(f"{name!r} is not an address; write host:port, or dns:host:port for all of its addresses")
    return names


# fmt: off
# One option a line, so that the table can be scanned.
OPTIONS: tuple[Option, ...] = (
    Option("exporters", exporters, (), "exporters' feeds, with commas: host:port, or dns:host:port for all", many=True),
    Option("grpc.listen-address", listen, ("", 6000), "where KEDA is served (gRPC)"),
    Option("web.listen-address", listen, ("", 9482), "where /metrics, /healthz, /readyz and a status page are served"),
    Option("streams.max", integer(1, 100_000), 256, "most streams (external-push) at a time; nothing else is limited"),
    Option("stream.lifetime", seconds, 300.0, "time after which a stream ends cleanly, so that clients spread again"),
    Option("record.file", string, "", "file that every decision is appended to, as a line of JSON"),
    Option("log.level", choice(*log.LEVELS), "info", "least level that is logged: " + ", ".join(log.LEVELS)),
    Option("log.format", choice(*log.FORMATS), "logfmt", "form of a log line: " + ", ".join(log.FORMATS)),
)
# fmt: on


def read(argv: Sequence[str], environ: Mapping[str, str]) -> Settings:
    """The settings of this run. Raises ConfigError (one line: place, cause, fix); exits on --help and --version."""
    settings = Settings(**load(PROGRAM, VERSION, OPTIONS, argv, environ))
    if not settings.exporters:
        raise ConfigError("option exporters: names no exporter; write --exporters host:9481, or dns:host:9481")
    return settings
