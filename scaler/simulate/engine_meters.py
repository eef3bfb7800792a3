"""What a simulated engine counts from its start, as vLLM does, with vLLM's bucket edges.

May not be in here: when something happens (engine_batch.py), what a page would say of the moment (engine.py).
"""

from bisect import bisect_left
from itertools import accumulate
from math import inf

from exporter.core.model_engines import Histogram

#: vLLM's own edges, in seconds (0.10.2 to 0.33.0, vllm/v1/metrics/loggers.py; the exporter's tests hold its output).
# fmt: off
TTFT = (
    0.001, 0.005, 0.01, 0.02, 0.04, 0.06, 0.08, 0.1, 0.25, 0.5, 0.75, 1.0, 2.5, 5.0, 7.5, 10.0, 20.0, 40.0, 80.0,
    160.0, 640.0, 2560.0, inf,
)
ITL = (
    0.01, 0.025, 0.05, 0.075, 0.1, 0.15, 0.2, 0.3, 0.4, 0.5, 0.75, 1.0, 2.5, 5.0, 7.5, 10.0, 20.0, 40.0, 80.0, inf,
)
REQUEST = (
    0.3, 0.5, 0.8, 1.0, 1.5, 2.0, 2.5, 5.0, 10.0, 15.0, 20.0, 30.0, 40.0, 50.0, 60.0, 120.0, 240.0, 480.0, 960.0,
    1920.0, 7680.0, inf,
)
# fmt: on


class Buckets:
    """A histogram that grows."""

    __slots__ = ("counts", "edges", "sum")

    def __init__(self, edges: tuple[float, ...]) -> None:
        self.edges = edges
        self.counts = [0.0] * len(edges)  # of each bucket alone: whole numbers, as a page shows them
        self.sum = 0.0

    def observe(self, value: float) -> None:
        self.counts[bisect_left(self.edges, value)] += 1
        self.sum += value

    def observe_rising(self, first: float, rise: float, steps: int, times: int) -> None:
        """`steps` values, each `rise` above the one before, each seen `times` times.

        Every value goes into its own bucket, as if it were observed alone, so what was counted of a run's beginning
        is never taken back when more of the run is known: counters only rise.
        """
        edges, counts = self.edges, self.counts
        place, longest = bisect_left(edges, first), first + rise * (steps - 1)
        if longest <= edges[place]:
            counts[place] += times * steps
        else:
            last, done = bisect_left(edges, longest), 0
            while place < last:
                upto = min(steps, int((edges[place] - first) / rise) + 1)
                while upto > done and first + rise * (upto - 1) > edges[place]:
                    upto -= 1
                while upto < steps and first + rise * upto <= edges[place]:
                    upto += 1
                counts[place] += times * (upto - done)
                done, place = upto, place + 1
            counts[last] += times * (steps - done)
        self.sum += times * (steps * first + rise * (steps * (steps - 1) // 2))

    def copy(self) -> "Buckets":
        twin = Buckets(self.edges)
        twin.counts = list(self.counts)
        twin.sum = self.sum
        return twin

    def shown(self) -> Histogram:
        return Histogram(self.edges, tuple(accumulate(self.counts)), self.sum)


class Meters:
    """The counters and histograms, of what is over."""

    __slots__ = (
        *("e2e", "generated", "hits", "itl", "preemptions", "prompt_tokens", "queries", "queue_time", "stopped"),
        *("ttft", "worked"),
    )

    def __init__(self) -> None:
        self.generated = 0  # tokens
        self.prompt_tokens = 0  # when a prompt is computed, once for each request
        self.queries = 0  # prompt tokens of the admitted, and those of them that were cached; once for each request
        self.hits = 0
        self.preemptions = 0
        self.stopped = 0  # requests
        self.worked = 0.0  # seconds
        self.ttft = Buckets(TTFT)
        self.itl = Buckets(ITL)
        self.queue_time = Buckets(REQUEST)
        self.e2e = Buckets(REQUEST)
