"""Least squares that fade: three numbers of 0 or more, from equations of which some are odd.

May not be in here: what the numbers and equations mean (pace.py), clocks.
"""

import math
from collections.abc import Sequence
from typing import NamedTuple

from msgspec import Struct

#: Standard error of the cost of the requests that were seen, as a share of it, up to which it is told.
LEAST_SURE = 0.15
#: After a change of pace what was known before counts like so many seconds.
KEPT = 20.0
#: What is left over counts for so much of its expected variance at least: of few equations little is left by chance.
_LEAST_SCATTER = 0.5
#: Standard errors from which an equation counts less, and for how little at least: 1 in so many.
_FAR, _LEAST_COUNTS = 3.0, 16.0
#: Which of the three numbers are not 0: every way there is.
_SUPPORTS = ((0, 1, 2), (0, 1), (0, 2), (1, 2), (0,), (1,), (2,))
#: What is left of a sum of squares once others have explained it, as a share: below, there is nothing of its own.
_NOTHING = 1e-9

Three = tuple[float, float, float]


class Equation(NamedTuple):
    x: Three
    y: float
    variance: float


class Fit(Struct, frozen=True):
    """Least squares, as sums over equations x . pace = y, weighted and faded."""

    xx: tuple[float, float, float, float, float, float] = (0.0,) * 6  # 00, 01, 02, 11, 12, 22
    xy: Three = (0.0, 0.0, 0.0)
    yy: float = 0.0
    rows: float = 0.0
    seconds: float = 0.0  # of work
    cost: Three = (0.0, 0.0, 0.0)  # of the requests seen, to a full engine: steps, sequence steps, prompt tokens


def faded(fit: Fit, share: float, seconds: float, cost: Three) -> Fit:
    """What was known counts for `share` of it beside what comes: `seconds` of work, and what its requests cost."""
    steps, sequences, prompt = scaled(fit.cost, share)
    total = (steps + cost[0], sequences + cost[1], prompt + cost[2])
    return Fit(
        _times(fit.xx, share),
        scaled(fit.xy, share),
        fit.yy * share,
        fit.rows * share,
        fit.seconds * share + seconds,
        total,
    )


def rescaled(fit: Fit, factor: float) -> Fit:
    """The same equations as if all had taken `factor` times as long, and they count for little now."""
    share = min(1.0, KEPT / fit.seconds) if fit.seconds else 1.0
    one, two, three = fit.xy
    xy = (one * factor * share, two * factor * share, three * factor * share)
    yy = fit.yy * factor * factor * share
    return Fit(_times(fit.xx, share), xy, yy, fit.rows * share, fit.seconds * share, scaled(fit.cost, share))


def taught(fit: Fit, equation: Equation, known: Three | None) -> Fit:
    """With one more equation. known: the solution so far."""
    if known:
        equation = _tempered(equation, known)
    (a, b, c), y, variance = equation
    w = 1.0 / variance
    aa, ab, ac, bb, bc, cc = fit.xx
    xx = (aa + w * a * a, ab + w * a * b, ac + w * a * c, bb + w * b * b, bc + w * b * c, cc + w * c * c)
    xy = (fit.xy[0] + w * a * y, fit.xy[1] + w * b * y, fit.xy[2] + w * c * y)
    return Fit(xx, xy, fit.yy + w * y * y, fit.rows + 1.0, fit.seconds, fit.cost)


def _tempered(equation: Equation, pace: Three) -> Equation:
    """The same, of less weight if it is far off: bursts within a block and stalls are not in its variance (Huber)."""
    x, y, variance = equation
    off = abs(y - dot(x, pace)) / math.sqrt(variance)
    return equation if off <= _FAR else Equation(x, y, variance * min(_LEAST_COUNTS, (off / _FAR) ** 2))


def _times(
    six: tuple[float, float, float, float, float, float], by: float
) -> tuple[float, float, float, float, float, float]:
    a, b, c, d, e, f = six
    return a * by, b * by, c * by, d * by, e * by, f * by


def scaled(three: Three, by: float) -> Three:
    return three[0] * by, three[1] * by, three[2] * by


def dot(left: Three, right: Three) -> float:
    return left[0] * right[0] + left[1] * right[1] + left[2] * right[2]


def scatter(fit: Fit, pace: Three) -> float:
    """Mean square of what is left over, in its own variances."""
    left = fit.yy - dot(fit.xy, pace)
    return max(_LEAST_SCATTER, left / fit.rows) if fit.rows > 0 else 1.0


def solved(fit: Fit) -> Three | None:
    """The best three numbers of 0 or more: the best of the solutions on every support that has none below 0."""
    best: Three | None = None
    most = 0.0
    for support in _SUPPORTS:
        found = _on(support, fit.xx, fit.xy)
        if found is None or min(found) < 0:
            continue
        explained = dot(found, fit.xy)
        if explained > most:
            best, most = found, explained
        if len(support) == 3:
            break  # nothing holds it back: no other is better
    return best


def is_sure(fit: Fit, pace: Three) -> bool:
    """Whether the cost of the requests that were seen is known well enough. Without a prompt nothing is."""
    cost = dot(fit.cost, pace)
    spread = _spread(fit, fit.cost) if fit.cost[2] > 0 and cost > 0 else None
    return spread is not None and spread * scatter(fit, pace) <= (LEAST_SURE * cost) ** 2


def _spread(fit: Fit, of: Three) -> float | None:
    """The variance of `of` . pace, where each equation has its own: of' inverse(xx) of. None: it is not determined."""
    # What requests that are all alike leave undetermined is of no weight in `of`: a touch more of each is as good.
    a, b, c, d, e, f = fit.xx
    touch = 1.0 + 1e-7
    found = _on(_SUPPORTS[0], (a * touch, b, c, d * touch, e, f * touch), of)
    return None if found is None else max(0.0, dot(found, of))


def _on(support: Sequence[int], xx: tuple[float, float, float, float, float, float], xy: Three) -> Three | None:
    """xx . found = xy, where only what is in `support` is not 0, by elimination. None: it has no one solution."""
    a, b, c, d, e, f = xx
    square = ((a, b, c), (b, d, e), (c, e, f))
    rows = [[*(square[one][other] for other in support), xy[one]] for one in support]
    for place, one in enumerate(support):
        mine = rows[place]
        pivot = mine[place]
        if pivot <= _NOTHING * square[one][one]:
            return None
        for other, row in enumerate(rows):
            if other != place and row[place]:
                factor = row[place] / pivot
                rows[other] = [its - factor * own for its, own in zip(row, mine)]  # noqa: B905 -- as long: it is dear
    found = [0.0, 0.0, 0.0]
    for place, one in enumerate(support):
        found[one] = rows[place][-1] / rows[place][place]
    return found[0], found[1], found[2]
