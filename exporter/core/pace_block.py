"""What readings tell of an engine's steps: sums over a block of them, as equations of what a step takes.

May not be in here: what is learned from the equations (pace.py), how they are solved (pace_fit.py), clocks, GPUs.

An engine with continuous batching works in steps. In each every sequence that decodes gets a token, and prompts are
worked off beside them. It is taken to last

    step_seconds + sequence_seconds x sequences + prompt_token_seconds x prompt tokens

(what attention adds with the length of the context is in the other terms, by the requests that there are). Nobody tells
a step, but sums over many are told: with n sequences in a step that lasts s seconds, the histogram of times between
tokens grows by n s. Over a block of T seconds, with G tokens generated (but the first of each request, which comes of
the prefill), P prompt tokens computed and D seconds between tokens,

    D = step_seconds G + sequence_seconds G n + prompt_token_seconds P n,  n = D / T

holds for an idle engine as for a full one: time in which nothing decodes is in neither side. That the n that a prompt
meets is the mean over time is so for requests that come by themselves (PASTA; idle time counts as 0 there), and blocks
are short against most bursts. The n that a token sees is a bit more than the mean, by one sequence at most for such
requests; so much matters only where next to nothing runs.
The time to the first token less the time in the queue is what a prefill takes: one step with the prompt in it, with as
many others as came while the step before was on. It tells prompts' cost where little decodes, and fades into the noise
where prompts crowd. A queue throughout a block tells that the engine had no idle time: T = D / n then, whatever n is.
"""

import math
from typing import NamedTuple

from msgspec import Struct

from exporter.core.model_engines import EngineReading
from exporter.core.pace_fit import Equation

#: Seconds looked at as one, at least. Less splits prefills and steps (0.1 to 2 s), more mixes bursts with quiet.
BLOCK = 5.0
#: While a queue stands a block is longer, up to so many seconds, until it has so many prompts: it ends within one.
LONGEST, PROMPTS = 30.0, 4.0
#: A prompt token's cost in seconds before it is known, for weights alone: 8B to 70B on their usual GPUs (Splitwise's
#: published measurements) are at 0.06 to 0.2 ms.
PROMPT_TOKEN = 1e-4
#: What else than work is in a time to the first token, in seconds: HTTP, tokenizing, the way back.
_AROUND = 0.02
#: By what share of it bursts within a block may change what prompts do to those that decode.
_BURSTS = 0.15
#: More sequences, in times of those that run, do not decode.
_STALLED = 4.0
#: Fewer that run in the mean of a few looks are no measure of how many ran between them.
_LEAST_RUNNING = 4.0
#: No counter grows by more in a block.
_ABSURD = 1e12

#: What counts up, in the order of Opening.totals: tokens generated, prompt tokens, tokens looked up in the prefix
#: cache and found, then sum and count of times between tokens, to the first token, in the queue; preemptions.
Totals = tuple[float | None, ...]


class Opening(Struct, frozen=True):
    """What the block that is under way began with."""

    at: float
    totals: Totals
    queued: bool  # at every reading so far
    idle: bool  # nothing waited at any reading so far
    running: float  # sum over the readings so far
    readings: int


class Block(NamedTuple):
    """What happened in a block."""

    seconds: float
    tokens: float  # without the first of each request
    prompt: float  # tokens computed
    requests: float  # that got their first token
    decoding: float  # seconds between tokens, over all sequences
    prefill: float | None  # mean seconds of it
    queue: float  # mean seconds in the queue
    queued: bool
    rough: float  # share by which `decoding` may be off


def opened(reading: EngineReading, at: float) -> Opening:
    """A block that begins with this reading."""
    itl, ttft, queue = reading.itl, reading.ttft, reading.queue_time
    totals = (
        reading.generation_tokens_total,
        reading.prompt_tokens_total,
        reading.prefix_queries_total,
        reading.prefix_hits_total,
        itl.sum if itl else None,
        itl.counts[-1] if itl and itl.counts else None,
        ttft.sum if ttft else None,
        ttft.counts[-1] if ttft and ttft.counts else None,
        queue.sum if queue else None,
        queue.counts[-1] if queue and queue.counts else None,
        reading.preemptions_total,
    )
    waiting = reading.waiting or 0.0
    return Opening(at, totals, waiting > 0, waiting == 0, reading.running or 0.0, 1)


def prompts_since(opening: Opening, reading: EngineReading) -> float:
    """Requests that got their first token since; where that is not told, any number."""
    before, ttft = opening.totals[7], reading.ttft
    return ttft.counts[-1] - before if before is not None and ttft and ttft.counts else math.inf


def between(before: Opening, after: Opening, cached: float) -> tuple[Block | None, float]:
    """What happened between the two, and the share of prompts in the prefix cache. None: nothing that teaches."""
    seconds = after.at - before.at
    grown = [
        None if old is None or new is None else new - old for old, new in zip(before.totals, after.totals, strict=True)
    ]
    if any(number is not None and not 0 <= number < _ABSURD for number in grown):
        return None, cached
    generated, prompt, queries, hits, itl, gaps, first, firsts, queue, unqueued, preempted = grown
    if generated is None or prompt is None or preempted:
        return None, cached
    if queries and hits is not None:
        cached = min(1.0, hits / queries)
    prompt *= 1.0 - cached
    requests = firsts or 0.0
    tokens = max(0.0, generated - requests)
    if not generated and not requests:
        return None, cached
    prefill = None
    waited = queue / unqueued if queue is not None and unqueued else 0.0
    if first is not None and firsts and (unqueued or before.idle):
        prefill = first / firsts - waited
    running = before.running / before.readings
    if itl is not None and gaps is not None:
        # Of a request's mean time a token there is one a request, and its sum is no time.
        # After a stall, all that stood still tells of it at once.
        if gaps * 8 < tokens or gaps > 2 * tokens + 1 or itl > _STALLED * seconds * (running + 1.0):
            return None, cached
        tokens = max(tokens, gaps)  # some do not count the first of a request among those generated
        return Block(seconds, tokens, prompt, requests, itl, prefill, waited, before.queued, 0.03), cached
    # Those whose prefill is under way run as well, and are no sequence that decodes.
    decoding = max(0.0, running * seconds - requests * (prefill or 0.0))
    if running < _LEAST_RUNNING:
        return None, cached
    rough = 0.05 + 1.0 / math.sqrt(running * before.readings)
    return Block(seconds, tokens, prompt, requests, decoding, prefill, waited, before.queued, rough), cached


def equations(block: Block, prompt_token: float) -> list[Equation]:
    """What the block tells, each as x . pace = y, with the variance of y by chance."""
    seconds, tokens, prompt, requests, decoding = block[:5]
    mean = decoding / seconds
    one = prompt_token * prompt / requests if requests else prompt_token * prompt  # a prompt's part in its step
    found: list[Equation] = []
    if tokens > 0 and decoding > 0:
        # A prompt meets mean sequences, give or take the root of it; one may be in one block and its count in the next.
        by_chance = (
            one * one * ((mean + 1.0) * (requests + 1.0) + 0.5 * mean * mean)
            + (_BURSTS * prompt_token * prompt * mean) ** 2
        )
        x = (tokens, tokens * (mean + 1.0), prompt * mean)
        found.append(Equation(x, decoding, (block.rough * decoding) ** 2 + by_chance))
    if block.prefill is not None and block.prefill > 0 and prompt > 0 and block.queue <= 0.5 * block.prefill:
        rate = requests / seconds
        # As many came with it as come in the step before its own, which is twice what it waits for it in the mean.
        x = (requests, requests * mean, prompt * (1.0 + 2.0 * rate * block.queue))
        total = requests * block.prefill
        crowd = 0.5 * min(1.0, rate * block.prefill)
        variance = requests * (_AROUND**2 + (0.15 * block.prefill) ** 2) + (requests * block.queue) ** 2
        found.append(Equation(x, total, variance + (crowd * total) ** 2))
    if block.queued and prompt > 0:
        steps = tokens / max(1.0, mean)
        found.append(Equation((steps, tokens, prompt), seconds, (0.03 * seconds) ** 2 + 2.0 * one * one))
    return found
