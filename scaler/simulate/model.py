"""The words of the simulator: requests, traces, engine profiles, scenarios, what a policy sees and what a run leaves.

May not be in here: behaviour. Times are seconds of the simulation from its start, lengths are tokens.
"""

from collections.abc import Mapping, Sequence
from typing import NamedTuple, Protocol

from exporter.core.model_engines import EngineReading
from scaler.core.view import NodeView


class Arrival(NamedTuple):
    """One request of a trace."""

    at: float
    prompt: int  # 1 or more
    output: int  # 1 or more
    cached: int = 0  # of the prompt, found in the prefix cache


class Trace(NamedTuple):
    name: str
    arrivals: Sequence[Arrival]  # in the order of time
    seconds: float


class Request:
    """One request on its way through the fleet. Times are None until they are known."""

    __slots__ = ("arrived", "cached", "finished", "first_token", "generated", "output", "prompt", "restarts")

    def __init__(self, arrived: float, prompt: int, output: int, cached: int = 0) -> None:
        self.arrived = arrived
        self.prompt = prompt
        self.output = output
        self.cached = cached
        self.first_token: float | None = None
        self.finished: float | None = None
        self.generated = 0  # kept when it is preempted: computed again, but not sent to the user again
        self.restarts = 0  # times that another replica had to begin it anew


class Phases(NamedTuple):
    """A cold start, in seconds."""

    node_provisioning: float = 0.0  # only when no node has a free GPU
    image_pull: float = 0.0
    model_load: float = 0.0
    warm_up: float = 0.0


class Profile(NamedTuple):
    """What one replica can do. A step makes one token for each running sequence and works off a chunk of prompts.

    Seconds of a step = step + per_sequence x sequences + per_context_token x (tokens of context that they hold)
    + per_prompt_token x (prompt tokens in it)
    + per_prompt_token_squared x (each chunk's tokens x tokens before its end).
    """

    name: str
    about: str
    source: str
    step: float
    per_sequence: float
    per_context_token: float
    per_prompt_token: float
    per_prompt_token_squared: float
    kv_tokens: int
    gpus: int = 1
    block_tokens: int = 16
    max_num_seqs: int = 256
    max_num_batched_tokens: int = 8192
    cold_start: Phases = Phases()


class Fault(NamedTuple):
    """Something that goes wrong. `replica`: the how-manyeth of those that are ready then (0 is the oldest)."""

    at: float
    kind: str  # throttled, lost, wedged, blind, unschedulable
    replica: int = 0
    factor: float = 1.0  # throttled: seconds of a step become so many times as many
    seconds: float = float("inf")  # how long it lasts


class Scenario(NamedTuple):
    """Everything of a run but its policy."""

    trace: Trace
    profile: Profile
    start: int = 1  # replicas that are ready at the start
    minimum: int = 1
    maximum: int = 100
    cold_start: float | None = None  # whole cold start; None: the profile's
    router: str = "least_loaded"  # random, least_loaded, two_choices
    faults: tuple[Fault, ...] = ()
    nodes: int | None = None  # of 8 GPUs each; None: never short of nodes
    node_provisioning: float = 0.0  # seconds until a further node is there; 0: all are there from the start
    interval: float = 5.0  # seconds between two readings of the engines
    grace: float = 600.0  # terminationGracePeriodSeconds: a pod that goes may end what it runs so long
    seed: int = 0
    ttft_target: float = 2.0


class PodSeen(NamedTuple):
    """A pod as the API server and the last scrape before now tell it. reading None: not scraped, or it failed."""

    name: str
    created: float
    ready: bool
    at: float | None  # when it was read
    reading: EngineReading | None
    busy: float | None  # 0..1: DCGM's GPU utilisation over the interval before: the share in which any kernel ran


class Seen(NamedTuple):
    """What a policy may look at: nothing of the simulator's truth."""

    now: float
    spec: int  # .spec.replicas
    pods: tuple[PodSeen, ...]  # not those that are going
    nodes: tuple[NodeView, ...] = ()  # the feed, for policies that ask for it

    @property
    def ready(self) -> int:
        return sum(pod.ready for pod in self.pods)


class Answer(NamedTuple):
    """A policy's word: the new .spec.replicas, and what led to it."""

    replicas: int
    value: float | None = None  # of its metric
    why: str = ""  # one line
    reason: str = ""  # one word


class Controller(Protocol):
    """A policy in one run: called every `period` seconds, with readings from the newest scrape at a multiple of
    `scrape` seconds. `feed`: whether it reads exporters' feeds."""

    period: float
    scrape: float
    feed: bool

    def __call__(self, seen: Seen) -> Answer: ...


class Tick(NamedTuple):
    """One moment of a run, every Scenario.interval."""

    at: float
    arrived: int  # requests since the last
    waiting: int  # that no replica has begun, wherever they are
    running: int
    ready: int
    starting: int  # pods that are pending or load
    going: int  # pods that end what they run
    spec: int


class Change(NamedTuple):
    at: float
    before: int
    after: int
    value: float | None
    reason: str
    why: str


class Run(NamedTuple):
    """What a run leaves."""

    scenario: Scenario
    policy: str
    knob: float | None
    requests: list[Request]  # all that arrived, in that order; unfinished ones too
    ticks: list[Tick]
    changes: list[Change]  # of .spec.replicas
    replica_seconds: float  # from a pod's creation to its end, pending for want of a GPU left out
    preemptions: int
    events: tuple[tuple[float, str], ...] = ()  # faults, and what came of them
    facts: Mapping[str, float] = {}

    @property
    def gpu_hours(self) -> float:
        return self.replica_seconds * self.scenario.profile.gpus / 3600.0
