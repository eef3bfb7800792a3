"""NVIDIA Dynamo's planner, for aggregated workers (prefill and decode in one): by load, and by throughput.

May not be in here: its SLA mode, which fits every forward pass' wall time; an engine's metrics do not tell that.

Source: ai-dynamo/dynamo components/src/dynamo/planner/core (load_scaling.py, throughput_scaling.py, state_machine.py).
"""

from math import ceil

from scaler.simulate.model import Answer, PodSeen, Scenario, Seen
from scaler.simulate.peers_readings import bounded, finished, prefilled, prompt_tokens, values

LOAD_EVERY = 5.0  # load_adjustment_interval
DOWN_TO_UP = 0.6  # _DECODE_THROUGHPUT_SCALE_DOWN of 0.6 to ..._UP of 1.0
THROUGHPUT_EVERY = 180.0  # throughput_adjustment_interval
SCRAPE = 15.0


class LoadPlanner:
    """_agg_easy_decision: one more if any worker's tokens, with those that wait for prefill, exceed `up` of its KV
    cache; one less if all are below 0.6 of that; nothing while workers come or go.

    Its workers report the tokens that wait; here they are the requests that wait times the mean prompt so far.
    """

    period = LOAD_EVERY
    scrape = LOAD_EVERY
    feed = False

    def __init__(self, scenario: Scenario, up: float) -> None:
        self._scenario = scenario
        self._up = up

    def __call__(self, seen: Seen) -> Answer:
        workers, spec = seen.ready, seen.spec
        if workers != spec or len(seen.pods) != spec:
            return Answer(spec, None, f"{workers} of {spec} workers are ready", "scaling")
        loads = [load for pod in seen.pods if (load := self._load(pod, seen)) is not None]
        if workers == 0 or len(loads) != workers:
            return Answer(spec, None, f"{len(loads)} of {workers} workers told their load", "unknown")
        step = 0
        if max(loads) > self._up:
            step = 1
        elif workers > 1 and max(loads) < self._up * DOWN_TO_UP:
            step = -1
        replicas = bounded(self._scenario, workers + step)
        return Answer(replicas, max(loads), f"the fullest worker is at {max(loads):.0%} of its KV cache", "load")

    def _load(self, pod: PodSeen, seen: Seen) -> float | None:
        reading = pod.reading
        if reading is None or reading.kv_usage is None or not reading.kv_capacity_tokens or reading.waiting is None:
            return None
        prompts, requests = sum(values(seen.pods, prompt_tokens)), sum(values(seen.pods, prefilled))
        mean = prompts / requests if requests else 0.0
        return reading.kv_usage + reading.waiting * mean / reading.kv_capacity_tokens


class ThroughputPlanner:
    """ceil(predicted rate / a worker's rate) every 180 s, predicted by its constant predictor: the last interval's.

    It counts the requests that its frontend answered; here those that the workers finished. `rate` is requests a second
    that profiling found a worker to do within the SLA: given, not found.
    """

    period = SCRAPE
    scrape = SCRAPE
    feed = False

    def __init__(self, scenario: Scenario, rate: float) -> None:
        self._scenario = scenario
        self._rate = rate
        self._due = THROUGHPUT_EVERY
        self._counted: dict[str, float] = {}
        self._requests = 0.0
        self._heard = self._begun = False

    def __call__(self, seen: Seen) -> Answer:
        for pod in seen.pods:
            total = finished(pod.reading) if pod.reading is not None else None
            if total is not None:
                self._requests += max(0.0, total - self._counted.get(pod.name, 0.0))
                self._counted[pod.name] = total
                self._heard = True
        if seen.now < self._due:
            return Answer(seen.spec, None, "between two decisions", "interval")
        requests, heard = self._requests, self._heard
        self._requests, self._heard, self._due = 0.0, False, seen.now + THROUGHPUT_EVERY
        self._begun = self._begun or requests > 0  # predictors leave the zeros before the first request out
        if not heard or not self._begun:
            return Answer(seen.spec, None, "no requests were counted", "unknown")
        demand = requests / THROUGHPUT_EVERY
        replicas = bounded(self._scenario, max(1, ceil(demand / self._rate)))
        return Answer(replicas, demand, f"{demand:.3g} requests/s, {self._rate:g} a worker", "throughput")
