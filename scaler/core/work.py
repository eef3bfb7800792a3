"""How much work comes in, in replicas: what requests arrive, and what one costs.

May not be in here: how much will come (forecast.py), how many replicas it takes (decision.py).

    arrived  = finished + change of (waiting + running)             requests a second, of each replica
    prompts  = prompt tokens computed + change of waiting x mean prompt
    seconds  = prompts x prompt_token_seconds + arrived x mean output x (sequence_seconds + step_seconds / batch)
    work     = seconds of a whole replica that a second brings: 1.0 would keep one replica full

The three costs are a replica's pace, learned at its node from what it does at any load. So a fleet that has never been
full is known as well as one that was, and a change in the mix of requests counts as soon as it comes. `batch` is how
many a full replica runs at once: what its KV cache holds of such requests, and never more than the engine's limit.
"""

import math
from collections.abc import Iterable, Mapping, Sequence
from statistics import median

from msgspec import Struct

from scaler.core import policy
from scaler.core.forecast import Shape
from scaler.core.view import Replica

LEAST = 1e-3  # requests in a mix: of fewer no mean is told, and fading leaves as many


class Look(Struct, frozen=True):
    """What a replica's newest reading said, and what came to it up to then since the one before."""

    at: float  # of the reading
    prompt: float
    generated: float
    finished: float
    waiting: float
    running: float
    requests: float = 0.0  # that came, per second
    prompts: float = 0.0  # tokens


class Mix(Struct, frozen=True):
    """Fading sums over what was finished: their ratios are the mean request."""

    requests: float = 0.0
    prompt: float = 0.0
    generated: float = 0.0

    @property
    def mean_prompt(self) -> float | None:
        return self.prompt / self.requests if self.requests > LEAST / 2 else None

    @property
    def mean_output(self) -> float | None:
        return self.generated / self.requests if self.requests > LEAST / 2 else None


class Flow(Struct, frozen=True):
    """What is remembered of what came."""

    at: float | None = None  # when it was last looked at
    of: Mapping[str, Look] = {}
    mix: Mix = Mix()


class Cost(Struct, frozen=True):
    """What work costs a typical whole replica, in seconds."""

    prompt_token: float
    output_token: float  # in a full batch
    request: float  # on top, whatever its length
    batch: float  # requests that a full replica runs at once
    step: float = 0.0  # of its engine, which a step takes with any number of requests
    limit: float | None = None  # requests that it runs at most, as it said last
    cache: float | None = None  # tokens that its KV cache holds, likewise


def look(flow: Flow, replicas: Sequence[Replica], now: float) -> Flow:
    """The flow after one more look at replicas that are fresh. A counter that fell began again from 0.

    To one that tells its counters no more, as much comes as came last. A quiet weekend leaves the mix known.
    """
    of: dict[str, Look] = {}
    gone = 0.0 if flow.at is None else now - flow.at
    fade = max(math.exp(-gone / policy.value("mix_memory")), min(1.0, LEAST / max(LEAST, flow.mix.requests)))
    sums = [flow.mix.requests * fade, flow.mix.prompt * fade, flow.mix.generated * fade]
    mean = flow.mix.mean_prompt or 0.0
    for replica in replicas:
        name = replica.id
        old = flow.of.get(name)
        new = _read(replica, now)
        if new is None or old is None:
            if one := new or old:
                of[name] = one
            continue
        seconds = new.at - old.at
        if seconds <= 0:
            of[name] = old
            continue
        finished = _grown(old.finished, new.finished)
        prompt, generated = _grown(old.prompt, new.prompt), _grown(old.generated, new.generated)
        sums[0], sums[1], sums[2] = sums[0] + finished, sums[1] + prompt, sums[2] + generated
        came = max(0.0, finished + new.waiting + new.running - old.waiting - old.running)
        prompts = max(0.0, prompt + (new.waiting - old.waiting) * mean)
        of[name] = Look(
            new.at,
            new.prompt,
            new.generated,
            new.finished,
            new.waiting,
            new.running,
            came / seconds,
            prompts / seconds,
        )
    return Flow(now, of, Mix(*sums))


def cost(replicas: Iterable[Replica], mix: Mix, service_rate: float | None, before: Cost | None = None) -> Cost | None:
    """What requests cost a replica of this fleet that nothing slows down; None: nobody has shown it yet.

    By the pace; of engines that tell too little for one, by the requests that a full one was seen to serve per second.
    before: what they cost so far; how large a batch may be stays known by it while nobody tells.
    """
    well = [replica for replica in replicas if replica.capacity is None or replica.capacity >= 1]
    own = [replica for replica in well if replica.pace_seconds] or well
    engines = median([replica.engines for replica in own] or [1])  # of a replica: several with data parallelism
    told = _median(replica.max_running for replica in own) or (before.limit if before else None)
    limit = told or policy.value("batch") * engines
    cache = _median(replica.kv_capacity_tokens for replica in own) or (before.cache if before else None)
    step, sequence, token = (
        _median(getattr(replica, name) for replica in own)
        for name in ("step_seconds", "sequence_seconds", "prompt_token_seconds")
    )
    if step is None or sequence is None or token is None or mix.mean_prompt is None or mix.mean_output is None:
        # Of a rate that is next to nothing all stays finite.
        return None if not service_rate else Cost(0.0, 0.0, 1 / max(service_rate, 1e-9), limit, 0.0, told, cache)
    held = mix.mean_prompt + mix.mean_output / 2
    batch = max(1.0, min(limit, cache * policy.value("kv_full") / held) if cache and held else limit)
    hits = _median(replica.prefix_hit_ratio for replica in own) or 0.0
    # A pace is an engine's, the batch is the replica's.
    return Cost(token * (1 - hits) / engines, sequence / engines + step / batch, 0.0, batch, step, told, cache)


def came(flow: Flow, of: Cost | None) -> float | None:
    """The work that comes now, in replicas, by the newest look at each; None: what it costs is not known."""
    requests = sum(one.requests for one in flow.of.values())
    if of is None:
        return None if requests else 0.0
    prompts = sum(one.prompts for one in flow.of.values())
    output = requests * (flow.mix.mean_output or 0.0)
    return prompts * of.prompt_token + output * of.output_token + requests * of.request


def shape(of: Cost, mix: Mix) -> Shape:
    """How the mean request divides a replica's time. Who tells no pace is taken for one that only has prompts."""
    prompts = (mix.mean_prompt or 0.0) * of.prompt_token + of.request
    output = (mix.mean_output or 0.0) * of.output_token
    if output <= 0:
        return Shape()
    # A request in the batch has half of its output before it, on average.
    return Shape(prompts / (prompts + output), of.batch * output / 2, of.step / of.batch / of.output_token)


def request_seconds(of: Cost, mix: Mix) -> float:
    """What a mean request costs a whole replica."""
    return (mix.mean_prompt or 0.0) * of.prompt_token + (mix.mean_output or 0.0) * of.output_token + of.request


def _read(replica: Replica, now: float) -> Look | None:
    numbers = (replica.prompt_tokens_total, replica.generation_tokens_total, replica.requests_finished_total)
    prompt, generated, finished = numbers
    if replica.reading_age is None or replica.waiting is None or replica.running is None:
        return None
    if prompt is None or generated is None or finished is None:
        return None
    return Look(now - replica.reading_age, prompt, generated, finished, replica.waiting, replica.running)


def _grown(old: float, new: float) -> float:
    return new - old if new >= old else new


def _median(values: Iterable[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return median(known) if known else None
