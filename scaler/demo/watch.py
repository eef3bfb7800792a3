"""What the exporter says, read as Prometheus reads it: from its page.

May not be in here: printing.
"""

from collections import Counter
from collections.abc import Mapping
from typing import NamedTuple

import aiohttp
from prometheus_client.parser import text_string_to_metric_families


class Gpu(NamedTuple):
    state: str
    reasons: tuple[tuple[str, str], ...] = ()  # (reason, action)


class Seen(NamedTuple):
    """One reading of the page."""

    waiting: float
    running: float
    gpus: Mapping[str, Gpu]  # index -> verdict
    engines: int  # that were read

    def summary(self) -> str:
        """As `7 healthy 1 lost`."""
        count = Counter(gpu.state for gpu in self.gpus.values())
        return " ".join(f"{number} {state}" for state, number in count.most_common())


async def look(session: aiohttp.ClientSession, url: str) -> Seen | None:
    """The page's numbers; None if it could not be read."""
    try:
        async with session.get(url) as reply:
            reply.raise_for_status()
            return read(await reply.text())
    except (aiohttp.ClientError, TimeoutError, ValueError):
        return None


def read(page: str) -> Seen:
    """Raises ValueError on what is no exposition."""
    waiting = running = 0.0
    engines = 0
    states: dict[str, str] = {}
    reasons: dict[str, list[tuple[str, str]]] = {}
    for family in text_string_to_metric_families(page):
        for sample in family.samples:
            labels = sample.labels
            if sample.name == "plimsoll_engine_requests_waiting":
                waiting += sample.value
            elif sample.name == "plimsoll_engine_requests_running":
                running += sample.value
                engines += 1
            elif sample.name == "plimsoll_gpu_health_state" and sample.value == 1:
                states[labels["gpu"]] = labels["state"]
            elif sample.name == "plimsoll_gpu_health_reason":
                reasons.setdefault(labels["gpu"], []).append((labels["reason"], labels["action"]))
    gpus = {gpu: Gpu(state, tuple(reasons.get(gpu, ()))) for gpu, state in states.items()}
    return Seen(waiting, running, gpus, engines)
