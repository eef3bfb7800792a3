"""Logging of both programs: one line an event, logfmt or JSON, on stderr.

May not be in here: decisions on what is worth a line.
"""

import json
import logging
import re
import sys
import time

LEVELS = ("debug", "info", "warning", "error")
FORMATS = ("logfmt", "json")

#: Whose own debugging is not ours.
_LIBRARIES = ("aiohttp", "asyncio", "grpc")
_PLAIN = re.compile(r'[^\s"=\\\x00-\x1f\x7f]+').fullmatch


class Formatter(logging.Formatter):
    """An event as one line. style: one of FORMATS."""

    def __init__(self, style: str) -> None:
        super().__init__()
        self._json = style == "json"

    def format(self, record: logging.LogRecord) -> str:
        stamp = time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(record.created)) + f".{int(record.msecs):03d}Z"
        fields = {"ts": stamp, "level": record.levelname.lower(), "logger": record.name, "msg": record.getMessage()}
        if record.exc_info:
            fields["trace"] = self.formatException(record.exc_info)
        if self._json:
            return json.dumps(fields)
        # json.dumps quotes and escapes as logfmt wants it: a newline in a message stays in its line.
        return " ".join(f"{key}={value if _PLAIN(value) else json.dumps(value)}" for key, value in fields.items())


def setup(level: str, style: str) -> None:
    """level: one of LEVELS; style: one of FORMATS."""
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(Formatter(style))
    logging.basicConfig(level=level.upper(), handlers=[handler], force=True)
    for library in _LIBRARIES:
        logging.getLogger(library).setLevel(logging.WARNING if level in ("debug", "info") else level.upper())
