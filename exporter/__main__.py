"""`plimsoll-exporter`: arguments -> settings -> app.

May not be in here: anything else.
"""

import os
import sys
from typing import NoReturn

from exporter import settings
from exporter.kit import log
from exporter.kit.config import ConfigError
from exporter.kit.run import leave, run


def main() -> int:
    """The exit code: 0 after SIGTERM or SIGINT, 1 when it cannot go on, 2 when a setting cannot be honoured."""
    try:
        values = settings.read(sys.argv[1:], os.environ)
        log.setup(values.log_level, values.log_format)
        # gRPC's core would print its own view of a failure in a form of its own; it reads this when it is loaded.
        os.environ.setdefault("GRPC_VERBOSITY", "NONE")
        from exporter import app  # noqa: PLC0415 -- see above

        return run(app.run(values))
    except ConfigError as error:
        sys.stderr.write(f"{settings.PROGRAM}: {error}\n")
        return 2


def entry() -> NoReturn:
    """The console script."""
    leave(main)


if __name__ == "__main__":
    entry()
