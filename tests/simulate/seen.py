"""What a policy sees, written tersely."""

from collections.abc import Callable, Sequence
from typing import NamedTuple

from exporter.core.model_engines import EngineReading, Histogram
from scaler.simulate.model import Controller, Phases, PodSeen, Profile, Scenario, Seen, Trace

CAPACITY = 10_000.0  # tokens of a KV cache

PROFILE = Profile("small", "", "", 0.01, 0.0, 0.0, 0.0001, 0.0, int(CAPACITY), cold_start=Phases(model_load=60.0))


class P(NamedTuple):
    """A pod and its reading. waiting None: it was not scraped. Counts are from the engine's start."""

    waiting: float | None = 0.0
    running: float | None = 0.0
    kv: float | None = 0.0
    busy: float | None = None
    ready: bool = True
    prompts: float = 0.0  # tokens
    prefilled: float = 0.0  # requests
    tokens: float = 0.0
    finished: float = 0.0
    age: float = 0.0  # of the reading


BLIND = P(waiting=None)
STARTING = P(waiting=None, ready=False)


def scenario(minimum: int = 1, maximum: int = 40, start: int = 1, profile: Profile = PROFILE) -> Scenario:
    return Scenario(Trace("none", (), 0.0), profile, start=start, minimum=minimum, maximum=maximum)


def seen(now: float, *pods: P, spec: int | None = None) -> Seen:
    """spec: as many as there are pods, if it is not given."""
    return Seen(
        now, len(pods) if spec is None else spec, tuple(_pod(number, pod, now) for number, pod in enumerate(pods))
    )


def _pod(number: int, pod: P, now: float) -> PodSeen:
    name = f"replica-{number}"
    if pod.waiting is None:
        return PodSeen(name, 0.0, pod.ready, None, None, pod.busy)
    reading = EngineReading(
        "model",
        "0",
        waiting=pod.waiting,
        running=pod.running,
        kv_usage=pod.kv,
        kv_capacity_tokens=CAPACITY,
        prompt_tokens_total=pod.prompts,
        generation_tokens_total=pod.tokens,
        finished={"stop": pod.finished},
        ttft=Histogram((float("inf"),), (pod.prefilled,)),
    )
    return PodSeen(name, 0.0, pod.ready, now - pod.age, reading, pod.busy)


def play(
    controller: Controller, steps: Sequence[tuple[float, Sequence[P]]], start: int, follow: bool = True
) -> list[int]:
    """Its answers to a history of (seconds, pods). follow: .spec.replicas is its last answer, else the pods' number."""
    spec, answers = start, []
    for now, pods in steps:
        answer = controller(seen(now, *pods, spec=spec if follow else len(pods)))
        spec = answer.replicas
        answers.append(spec)
    return answers


def every(
    seconds: float, until: float, pods: Callable[[float], Sequence[P]], begin: float = 0.0
) -> list[tuple[float, Sequence[P]]]:
    """A history with a row every so many seconds."""
    count = int((until - begin) / seconds) + 1
    return [(begin + seconds * number, pods(begin + seconds * number)) for number in range(count)]
