"""The page's sections on steady load, faults, blindness and the simulator's own speed.

May not be in here: measuring, the comparison with peers (decisions_table.py).
"""

from collections.abc import Callable, Iterable, Sequence
from typing import Any

from bench.decisions_rows import Blind, Faulty, Row, Steady, Wall
from bench.decisions_trials import CONVERSATION, COUNTED, SETTLED, SIZE, SYNC
from scaler.simulate.compare import STATIC


def sections(rows: Sequence[Row]) -> list[str]:
    """Of what was measured."""
    of = [(tell, [row for row in rows if isinstance(row, kind)]) for kind, tell in _SECTIONS]
    return [tell(found) for tell, found in of if found]


def _steady(rows: Sequence[Steady]) -> str:
    hours = COUNTED / 3600
    return _section(
        "Under a steady load",
        "Requests that come at an even rate (a Poisson process), as long as the conversation trace's, on A100s. The "
        f"first {SETTLED / 60:g} minutes are not counted, the {hours:g} hours after them are.",
        ("requests/s", "changes an hour", "in time"),
        ((f"{row.load:g}", f"{row.changes / row.hours:.2g}", _share(row.attainment)) for row in rows),
    )


def _faults(rows: Sequence[Faulty]) -> str:
    text = (
        f"The conversation trace on A100s, a cold start of {CONVERSATION.cold_start:g} s, with a fault, against the "
        "same run without one. Extra replicas: the most that were asked for at any tick beyond those of that run."
    )
    return _section(
        "Under faults",
        text,
        ("fault", "in time", "without it", "points", "extra replicas, most", "extra GPU-h"),
        (
            (
                f"`{row.fault}`",
                _share(row.attainment),
                _share(row.healthy),
                f"{(row.attainment - row.healthy) * 100:+.2f}",
                str(row.most_extra),
                f"{row.extra_gpu_hours:+.2f}",
            )
            for row in rows
        ),
    )


def _blind(rows: Sequence[Blind]) -> str:
    text = (
        "The exporters are silent for a part of a burst. *Again*: seconds from their return until an answer is that "
        f"of the same run with readings; {SYNC:g} is one sync of the HPA. *Apart*: the most replicas between the two "
        "answers from then to the end of the burst."
    )
    return _section(
        "Without readings",
        text,
        (
            "load",
            "silent",
            "changes to fewer replicas in it",
            "again",
            "apart",
            "changes to fewer from then to the end of the burst (with readings)",
            "in time",
            "with readings",
        ),
        (
            (
                row.load,
                f"`{row.fault}`",
                str(row.downs),
                "not by the end" if row.again is None else f"{row.again:g} s",
                f"{row.apart:g}",
                f"{row.downs_after} ({row.downs_seeing})",
                _share(row.attainment),
                _share(row.seeing),
            )
            for row in rows
        ),
    )


def _wall(rows: Sequence[Wall]) -> str:
    return _section(
        "What the simulator takes",
        "An hour of the conversation trace on A100s, on one core.",
        ("policy", "requests", "seconds", "of them CPU"),
        (
            (
                f"{SIZE:g} replicas, fixed" if row.policy == STATIC else row.policy,
                f"{row.requests:,}",
                f"{row.wall:.1f}",
                f"{row.cpu:.1f}",
            )
            for row in rows
        ),
    )


def _section(title: str, text: str, head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    lines = [f"## {title}", "", text, "", f"| {' | '.join(head)} |", f"|{'---|' * len(head)}"]
    return "\n".join([*lines, *(f"| {' | '.join(row)} |" for row in rows)]) + "\n"


def _share(share: float) -> str:
    return f"{share * 100:.2f} %"


_SECTIONS: tuple[tuple[type, Callable[[Sequence[Any]], str]], ...] = (
    (Steady, _steady),
    (Faulty, _faults),
    (Blind, _blind),
    (Wall, _wall),
)
