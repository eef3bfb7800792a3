"""How a program ends: within its time, whatever a thread of it still waits for.

May not be in here: what a program does.

asyncio.run() and the interpreter both wait for the threads in which names are looked up, and a resolver that is out
takes half a minute to say so. Kubernetes kills what does not end in time, in the middle of its streams.
"""

import asyncio
import logging
import os
import sys
from collections.abc import Callable, Coroutine
from typing import Any, NoReturn, TypeVar

T = TypeVar("T")


def run(main: Coroutine[Any, Any, T]) -> T:
    """asyncio.run() without waiting for the executor's threads."""
    loop = asyncio.new_event_loop()
    asyncio.set_event_loop(loop)
    try:
        return loop.run_until_complete(main)
    finally:
        left = asyncio.all_tasks(loop)
        for task in left:
            task.cancel()
        loop.run_until_complete(asyncio.gather(*left, return_exceptions=True))
        loop.run_until_complete(loop.shutdown_asyncgens())
        asyncio.set_event_loop(None)
        loop.close()


def leave(main: Callable[[], int]) -> NoReturn:
    """Run `main` as the process's last act and exit with its code, without waiting for threads."""
    code = 1
    try:
        code = main()
    except SystemExit as asked:  # argparse, after --help and --version
        code = asked.code if isinstance(asked.code, int) else int(asked.code is not None)
    except BaseException:
        logging.getLogger("exit").exception("the program failed; please report it with this")
    logging.shutdown()
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)
