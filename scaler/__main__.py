"""plimsoll-scaler: arguments -> settings -> run.

May not be in here: anything else.
"""

import os
import sys
from collections.abc import Sequence
from typing import NoReturn

from exporter.kit import log
from exporter.kit.config import ConfigError
from exporter.kit.run import leave, run
from scaler import settings


def main(argv: Sequence[str] | None = None) -> int:
    """Exit status: 0 after SIGTERM or SIGINT, 2 when the settings cannot be honoured."""
    try:
        chosen = settings.read(sys.argv[1:] if argv is None else argv, os.environ)
        log.setup(chosen.log_level, chosen.log_format)
        # gRPC's core would print its own view of a failure in a form of its own; it reads this when it is loaded.
        os.environ.setdefault("GRPC_VERBOSITY", "NONE")
        from scaler import app  # noqa: PLC0415 -- see above

        run(app.run(chosen))
    except ConfigError as error:
        print(f"{settings.PROGRAM}: {error}", file=sys.stderr)  # noqa: T201 -- the log may not be set up
        return 2
    return 0


def entry() -> NoReturn:
    """The console script."""
    leave(main)


if __name__ == "__main__":
    entry()
