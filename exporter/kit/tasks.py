"""A task that is to run as long as the program does.

May not be in here: what any task does.
"""

import asyncio
from collections.abc import Awaitable, Callable

#: Seconds before a task that crashed is started again.
RESTART_SECONDS = 1.0


async def keep_running(run: Callable[[], Awaitable[None]], crashed: Callable[[Exception], None]) -> None:
    """Run until cancelled. An exception, or an end, is a fault in this program: it is told and tried again."""
    while True:
        try:
            await run()
            raise RuntimeError("it ended by itself")
        except Exception as error:
            crashed(error)
        await asyncio.sleep(RESTART_SECONDS)


def crash_message(name: str, error: Exception) -> str:
    """The one line for it: cause, place, fix."""
    return f"{name}: crashed ({type(error).__name__}: {error}); started again; please report it with the log"
