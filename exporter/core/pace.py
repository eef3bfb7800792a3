"""The pace: what an engine does with its time, learned from ordinary load, so before a queue ever formed.

May not be in here: how equations are solved (pace_fit.py), the knee (knee.py), what a model's engines have in common
(lessons.py), clocks, GPUs.

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

These equations are solved by least squares that fade, each weighted by what chance does to it, for numbers of 0 or
more. Where block after block takes longer, or less long, than it should, the pace has changed (clocks, neighbours): all
three are scaled by that, and what was known before counts for little. What is told is what the requests that were seen
would cost a full engine: the three numbers together, when that sum is known to LEAST_SURE (pace_fit.py). One of them
alone may be off, and made up for by the others, where all requests are alike.
"""

import math
from collections.abc import Iterable, Sequence
from statistics import median
from typing import NamedTuple

from msgspec import Struct
from msgspec.structs import replace

from exporter.core import pace_fit
from exporter.core.model_engines import EngineReading, Learned
from exporter.core.pace_fit import Equation, Fit, Three

#: Seconds of work after which what was learned before counts for 1/e: the mix of requests changes within minutes.
TAU = 720.0
#: Seconds looked at as one, at least. Less splits prefills and steps (0.1 to 2 s), more mixes bursts with quiet.
BLOCK = 5.0
#: While a queue stands a block is longer, up to so many seconds, until it has so many prompts: it ends within one.
LONGEST, _PROMPTS = 30.0, 4.0
#: Seconds of work before anything is told.
LEAST_SECONDS = 30.0
#: Sequences of a full engine: the default of vLLM (max_num_seqs), which tells nothing of it.
FULL = 256.0
#: A change of pace: what blocks took is off to one side by more than this logarithm (1.2), by so much together, each as
#: sure as it is. Clocks that are held down cost a half and more: twice the time is noticed within half a minute.
_OFF, _ENOUGH = 0.2, 30.0
#: What one block counts in it at most: known to a fifth, and off by a factor of 4.5.
_MOST_WEIGHT, _MOST_OFF = 12.0, 1.5
#: A prompt token's cost in seconds before it is known, for weights alone: 8B to 70B on their usual GPUs (Splitwise's
#: published measurements) are at 0.06 to 0.2 ms.
_PROMPT_TOKEN = 1e-4
#: What else than work is in a time to the first token, in seconds: HTTP, tokenizing, the way back.
_AROUND = 0.02
#: In the test for a change of pace what is left over counts for no more than this: the change itself leaves most.
_MOST_SCATTER = 3.0
#: By what share of it bursts within a block may change what prompts do to those that decode.
_BURSTS = 0.15
#: More sequences, in times of those that run, do not decode.
_STALLED = 4.0
#: Fewer that run in the mean of a few looks are no measure of how many ran between them.
_LEAST_RUNNING = 4.0
#: No counter grows by more in a block.
_ABSURD = 1e12

#: What counts up, in the order of _Opening.totals: tokens generated, prompt tokens, tokens looked up in the prefix
#: cache and found, then sum and count of times between tokens, to the first token, in the queue; preemptions.
Totals = tuple[float | None, ...]


class Pace(Struct, frozen=True):
    """Seconds that a step takes, and more for each sequence and each prompt token in it."""

    step_seconds: float
    sequence_seconds: float
    prompt_token_seconds: float
    seconds: float  # of work that it was watched


class _Opening(Struct, frozen=True):
    """What the block that is under way began with."""

    at: float
    totals: Totals
    queued: bool  # at every reading so far
    idle: bool  # nothing waited at any reading so far
    running: float  # sum over the readings so far
    readings: int


class _Side(Struct, frozen=True):
    """How much speaks for a change of pace to one side (a cumulative sum, Page's test)."""

    score: float = 0.0
    weight: float = 0.0  # of the blocks since the score left 0
    logs: float = 0.0  # how far they were off, weighted


class PaceMemory(Struct, frozen=True):
    """All that is remembered. Its size does not grow."""

    opening: _Opening | None = None
    fit: Fit = Fit()
    solved: Three | None = None
    shown: Pace | None = None  # it, where it is known well enough
    seconds: float = 0.0  # of work that went into it
    cached: float = 0.0  # share of prompts that the prefix cache had, last told
    slower: _Side = _Side()
    faster: _Side = _Side()


class _Block(NamedTuple):
    """What happened in a block."""

    seconds: float
    tokens: float  # without the first of each request
    prompt: float  # tokens computed
    requests: float  # that got their first token
    between: float  # seconds between tokens, over all sequences
    prefill: float | None  # mean seconds of it
    queue: float  # mean seconds in the queue
    queued: bool
    rough: float  # share by which `between` may be off


def learn(memory: PaceMemory | None, reading: EngineReading, at: float, goes_on: bool) -> PaceMemory:
    """What is known after one more reading, taken `at`.

    goes_on: the readings since the last tell of one run of the engine, without a gap.
    """
    memory = memory or PaceMemory()
    opening = memory.opening
    if reading.sleeping or reading.running is None or reading.waiting is None:
        return memory if opening is None else replace(memory, opening=None)
    if opening is None or not goes_on:
        return replace(memory, opening=_opened(reading, at))
    running, readings = opening.running + reading.running, opening.readings + 1
    queued, idle = opening.queued and reading.waiting > 0, opening.idle and reading.waiting == 0
    seconds = at - opening.at
    if seconds < BLOCK or (queued and seconds < LONGEST and _prompts_since(opening, reading) < _PROMPTS):
        return replace(memory, opening=_Opening(opening.at, opening.totals, queued, idle, running, readings))
    fresh = _opened(reading, at)
    block, cached = _block(_Opening(opening.at, opening.totals, queued, idle, running, readings), fresh, memory.cached)
    memory = replace(memory, opening=fresh, cached=cached)
    return memory if block is None else _taught(memory, block)


def interrupted(memory: PaceMemory) -> PaceMemory:
    """After a restart or a silence: what was learned stays, the block that was under way does not."""
    return replace(memory, opening=None) if memory.opening else memory


def told(memory: PaceMemory | None) -> Pace | None:
    """The pace. None: too little was seen to know what the requests that came would cost a full engine."""
    return memory.shown if memory else None


def with_pace(learned: Learned, pace: Pace | None) -> Learned:
    if pace is None:
        return learned
    return replace(
        learned,
        step_seconds=pace.step_seconds,
        sequence_seconds=pace.sequence_seconds,
        prompt_token_seconds=pace.prompt_token_seconds,
        pace_seconds=pace.seconds,
    )


def typical(known: Iterable[Learned]) -> Pace | None:
    """A model's pace: the medians over those of its engines that have shown theirs; its seconds are 0, nobody's own."""
    own = [pace for learned in known if learned.pace_seconds > 0 and (pace := of(learned)) is not None]
    if not own:
        return None
    return Pace(
        median(pace.step_seconds for pace in own),
        median(pace.sequence_seconds for pace in own),
        median(pace.prompt_token_seconds for pace in own),
        0.0,
    )


def of(learned: Learned) -> Pace | None:
    """The pace in it. The three numbers come together: those of two engines do not mix."""
    step, sequence, prompt = learned.step_seconds, learned.sequence_seconds, learned.prompt_token_seconds
    if step is None or sequence is None or prompt is None:
        return None
    return Pace(step, sequence, prompt, learned.pace_seconds)


def _opened(reading: EngineReading, at: float) -> _Opening:
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
    return _Opening(at, totals, waiting > 0, waiting == 0, reading.running or 0.0, 1)


def _prompts_since(opening: _Opening, reading: EngineReading) -> float:
    """Requests that got their first token since; where that is not told, any number."""
    before, ttft = opening.totals[7], reading.ttft
    return ttft.counts[-1] - before if before is not None and ttft and ttft.counts else math.inf


def _block(before: _Opening, after: _Opening, cached: float) -> tuple[_Block | None, float]:
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
        return _Block(seconds, tokens, prompt, requests, itl, prefill, waited, before.queued, 0.03), cached
    # Those whose prefill is under way run as well, and are no sequence that decodes.
    decoding = max(0.0, running * seconds - requests * (prefill or 0.0))
    if running < _LEAST_RUNNING:
        return None, cached
    rough = 0.05 + 1.0 / math.sqrt(running * before.readings)
    return _Block(seconds, tokens, prompt, requests, decoding, prefill, waited, before.queued, rough), cached


def _equations(block: _Block, prompt_token: float) -> list[Equation]:
    """What the block tells, each as x . pace = y, with the variance of y by chance."""
    seconds, tokens, prompt, requests, between = block[:5]
    mean = between / seconds
    one = prompt_token * prompt / requests if requests else prompt_token * prompt  # a prompt's part in its step
    equations: list[Equation] = []
    if tokens > 0 and between > 0:
        # A prompt meets mean sequences, give or take the root of it; one may be in one block and its count in the next.
        by_chance = (
            one * one * ((mean + 1.0) * (requests + 1.0) + 0.5 * mean * mean)
            + (_BURSTS * prompt_token * prompt * mean) ** 2
        )
        x = (tokens, tokens * (mean + 1.0), prompt * mean)
        equations.append(Equation(x, between, (block.rough * between) ** 2 + by_chance))
    if block.prefill is not None and block.prefill > 0 and prompt > 0 and block.queue <= 0.5 * block.prefill:
        rate = requests / seconds
        # As many came with it as come in the step before its own, which is twice what it waits for it in the mean.
        x = (requests, requests * mean, prompt * (1.0 + 2.0 * rate * block.queue))
        total = requests * block.prefill
        crowd = 0.5 * min(1.0, rate * block.prefill)
        variance = requests * (_AROUND**2 + (0.15 * block.prefill) ** 2) + (requests * block.queue) ** 2
        equations.append(Equation(x, total, variance + (crowd * total) ** 2))
    if block.queued and prompt > 0:
        steps = tokens / max(1.0, mean)
        equations.append(Equation((steps, tokens, prompt), seconds, (0.03 * seconds) ** 2 + 2.0 * one * one))
    return equations


def _taught(memory: PaceMemory, block: _Block) -> PaceMemory:
    solved, fit = memory.solved, memory.fit
    equations = _equations(block, max(solved[2], 0.5 * _PROMPT_TOKEN) if solved else _PROMPT_TOKEN)
    if not equations:
        return memory
    slower, faster = memory.slower, memory.faster
    if solved is not None and memory.seconds >= LEAST_SECONDS:
        off, weight = _off(equations, solved, min(_MOST_SCATTER, pace_fit.scatter(fit, solved)))
        slower, faster = _on_side(slower, off, weight), _on_side(faster, -off, weight)
        for side, sign in ((slower, 1.0), (faster, -1.0)):
            if side.score > _ENOUGH:
                factor = math.exp(sign * side.logs / side.weight)
                fit, solved, slower, faster = (
                    pace_fit.rescaled(fit, factor),
                    pace_fit.scaled(solved, factor),
                    _Side(),
                    _Side(),
                )
                break
    cost = block.tokens / FULL, block.tokens, block.prompt
    fit = pace_fit.faded(fit, math.exp(-block.seconds / TAU), block.seconds, cost)
    for equation in equations:
        fit = pace_fit.taught(fit, equation, solved)
    seconds = memory.seconds + block.seconds
    solved = pace_fit.solved(fit) or solved
    shown = (
        Pace(*solved, seconds=seconds)
        if solved and seconds >= LEAST_SECONDS and pace_fit.is_sure(fit, solved)
        else None
    )
    return PaceMemory(memory.opening, fit, solved, shown, seconds, memory.cached, slower, faster)


def _off(equations: Sequence[Equation], pace: Three, scatter: float) -> tuple[float, float]:
    """How far a block is off, as the logarithm of what it took over what it should have, and how surely."""
    weight = logs = 0.0
    for x, y, variance in equations:
        expected = pace_fit.dot(x, pace)
        if expected > 0:
            share = expected * expected / (variance * scatter)
            weight += share
            logs += share * math.log(y / expected)
    off = logs / weight if weight else 0.0
    # No block counts for all: one may be of a stall, or of something else than its means say.
    return max(-_MOST_OFF, min(_MOST_OFF, off)), min(_MOST_WEIGHT, weight)


def _on_side(old: _Side, off: float, weight: float) -> _Side:
    score = old.score + weight * (off - _OFF)
    return _Side(score, old.weight + weight, old.logs + weight * off) if score > 0 else _Side()
