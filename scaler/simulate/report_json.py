"""The report for programs: everything of a comparison as one document, byte for byte the same for the same seed.

May not be in here: figures that outcome.py and worst.py do not have. What is not finite is null.
"""

import json
import math
from typing import Any

from scaler.simulate.comparison import Comparison, Row, attains, best, dominated, is_own, ranked
from scaler.simulate.model import Run, Scenario
from scaler.simulate.outcome import Summary, summary, timelines
from scaler.simulate.worst import worst

#: Changes when a key goes or means something else; a further key is no new version.
SCHEMA = "plimsoll.simulate/1"
#: Decimals that are kept: microseconds.
DECIMALS = 6
POINTS = 240

#: Keys of a Summary that carry their unit in the document.
_SECONDS = ("ttft_p50", "ttft_p95", "ttft_p99", "between_tokens_p50", "between_tokens_p95", "e2e_p95")


def render(made: dict[str, Any]) -> str:
    """The document as text: sorted keys, ASCII, a line break at its end."""
    return json.dumps(made, sort_keys=True, indent=1, allow_nan=False) + "\n"


def document(comparison: Comparison) -> dict[str, Any]:
    """Rows best first. A run without comparison is a comparison of one row and one run."""
    winner = best(comparison.rows, comparison.target)
    made = {
        "schema": SCHEMA,
        "scenario": _scenario(comparison.scenario),
        "target": comparison.target,
        "best": None if winner is None else {"policy": winner.policy, "knob": winner.knob},
        "rows": [_row(row, comparison) for row in ranked(comparison.rows, comparison.target)],
        "runs": [_run(run) for run in comparison.runs],
    }
    tidied: dict[str, Any] = _tidy(made)
    return tidied


def _scenario(given: Scenario) -> dict[str, Any]:
    profile = given.profile
    rest = {key: value for key, value in given._asdict().items() if key not in ("trace", "profile", "faults")}
    return rest | {
        "trace": {"name": given.trace.name, "seconds": given.trace.seconds, "requests": len(given.trace.arrivals)},
        "profile": profile._asdict() | {"cold_start": profile.cold_start._asdict()},
        "faults": [fault._asdict() for fault in given.faults],
    }


def _row(row: Row, comparison: Comparison) -> dict[str, Any]:
    return {
        "policy": row.policy,
        "knob": row.knob,
        "knob_name": row.knob_name,
        "is_bound": row.is_bound,
        "is_own": is_own(row.policy, comparison),
        "attains": attains(row, comparison.target),
        "dominated": dominated(row, comparison.rows),
        "summary": _summary(row.summary),
    }


def _summary(figures: Summary) -> dict[str, Any]:
    return {key + "_seconds" * (key in _SECONDS): value for key, value in figures._asdict().items()}


def _run(run: Run) -> dict[str, Any]:
    course = timelines(run, POINTS)
    return {
        "policy": run.policy,
        "knob": run.knob,
        "summary": _summary(summary(run)),
        "worst": [
            seen._asdict() | {"events": _events(seen.events), "changes": [change._asdict() for change in seen.changes]}
            for seen in worst(run)
        ],
        "changes": [change._asdict() for change in run.changes],
        "events": _events(run.events),
        "facts": dict(run.facts),
        "timeline": {"seconds": course.seconds, "points": [point._asdict() for point in course.points]},
    }


def _events(events: tuple[tuple[float, str], ...]) -> list[dict[str, Any]]:
    return [{"at": at, "text": text} for at, text in events]


def _tidy(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _tidy(each) for key, each in value.items()}
    if isinstance(value, list | tuple):
        return [_tidy(each) for each in value]
    if isinstance(value, float):
        return round(value, DECIMALS) + 0.0 if math.isfinite(value) else None  # + 0.0: no "-0.0"
    return value
