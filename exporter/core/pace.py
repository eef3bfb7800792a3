"""The pace: what an engine does with its time, learned from ordinary load, so before a queue ever formed.

May not be in here: what a step takes and what readings tell of it (pace_block.py), how equations are solved
(pace_fit.py), the knee (knee.py), what a model's engines have in common (lessons.py), clocks, GPUs.

The equations that readings give are solved by least squares that fade, each weighted by what chance does to it, for
numbers of 0 or more. Where block after block takes longer, or less long, than it should, the pace has changed (clocks,
neighbours): all three are scaled by that, and what was known before counts for little. What is told is what the
requests that were seen would cost a full engine: the three numbers together, when that sum is known to LEAST_SURE
(pace_fit.py). One of them alone may be off, and made up for by the others, where all requests are alike.
"""

import math
from collections.abc import Iterable, Sequence
from statistics import median

from msgspec import Struct
from msgspec.structs import replace

from exporter.core import pace_block, pace_fit
from exporter.core.model_engines import EngineReading, Learned
from exporter.core.pace_block import BLOCK, LONGEST, PROMPT_TOKEN, PROMPTS, Block, Opening
from exporter.core.pace_fit import Equation, Fit, Three

#: Seconds of work after which what was learned before counts for 1/e: the mix of requests changes within minutes.
TAU = 720.0
#: Seconds of work before anything is told.
LEAST_SECONDS = 30.0
#: Sequences of a full engine: the default of vLLM (max_num_seqs), which tells nothing of it.
FULL = 256.0
#: A change of pace: what blocks took is off to one side by more than this logarithm (1.2), by so much together, each as
#: sure as it is. Clocks that are held down cost a half and more: twice the time is noticed within half a minute.
_OFF, _ENOUGH = 0.2, 30.0
#: What one block counts in it at most: known to a fifth, and off by a factor of 4.5.
_MOST_WEIGHT, _MOST_OFF = 12.0, 1.5
#: In the test for a change of pace what is left over counts for no more than this: the change itself leaves most.
_MOST_SCATTER = 3.0


class Pace(Struct, frozen=True):
    """Seconds that a step takes, and more for each sequence and each prompt token in it."""

    step_seconds: float
    sequence_seconds: float
    prompt_token_seconds: float
    seconds: float  # of work that it was watched


class _Side(Struct, frozen=True):
    """How much speaks for a change of pace to one side (a cumulative sum, Page's test)."""

    score: float = 0.0
    weight: float = 0.0  # of the blocks since the score left 0
    logs: float = 0.0  # how far they were off, weighted


class PaceMemory(Struct, frozen=True):
    """All that is remembered. Its size does not grow."""

    opening: Opening | None = None
    fit: Fit = Fit()
    solved: Three | None = None
    shown: Pace | None = None  # it, where it is known well enough
    seconds: float = 0.0  # of work that went into it
    cached: float = 0.0  # share of prompts that the prefix cache had, last told
    slower: _Side = _Side()
    faster: _Side = _Side()


def learn(memory: PaceMemory | None, reading: EngineReading, at: float, goes_on: bool) -> PaceMemory:
    """What is known after one more reading, taken `at`.

    goes_on: the readings since the last tell of one run of the engine, without a gap.
    """
    memory = memory or PaceMemory()
    opening = memory.opening
    if reading.sleeping or reading.running is None or reading.waiting is None:
        return memory if opening is None else replace(memory, opening=None)
    if opening is None or not goes_on:
        return replace(memory, opening=pace_block.opened(reading, at))
    running, readings = opening.running + reading.running, opening.readings + 1
    queued, idle = opening.queued and reading.waiting > 0, opening.idle and reading.waiting == 0
    seconds = at - opening.at
    if seconds < BLOCK or (queued and seconds < LONGEST and pace_block.prompts_since(opening, reading) < PROMPTS):
        return replace(memory, opening=Opening(opening.at, opening.totals, queued, idle, running, readings))
    fresh = pace_block.opened(reading, at)
    block, cached = pace_block.between(
        Opening(opening.at, opening.totals, queued, idle, running, readings), fresh, memory.cached
    )
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


def _taught(memory: PaceMemory, block: Block) -> PaceMemory:
    solved, fit = memory.solved, memory.fit
    equations = pace_block.equations(block, max(solved[2], 0.5 * PROMPT_TOKEN) if solved else PROMPT_TOKEN)
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
