"""Reads one GPU or MIG instance through NVML: works off the rows of nvml_calls.py in as few calls as possible.

May not be in here: which calls there are (nvml_calls.py), threads, inventory, what a value means.
"""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple

import pynvml

from exporter.core import blanks
from exporter.core.model import GpuProcess
from exporter.sources.nvml_calls import (
    BROKEN,
    GPU_IS_LOST,
    NO_PERMISSION,
    NOT_SUPPORTED,
    PROCESSES,
    RESET_REQUIRED,
    UNKNOWN,
    UNSUPPORTED,
    UNSUPPORTED_ARGUMENT,
    Call,
    Handle,
    Row,
    Way,
    listed,
)

FIELDS = "nvmlDeviceGetFieldValues"

#: NVML_VALUE_TYPE_* -> the member of the union that is set.
_MEMBERS = ("dVal", "uiVal", "ulVal", "ullVal", "sllVal", "siVal", "usVal")
_UNSIGNED_64 = 3

_REASONS: Mapping[int, str] = {
    NO_PERMISSION: "no_permission",
    10: "timeout",
    GPU_IS_LOST: "gpu_is_lost",
    RESET_REQUIRED: "reset_required",
}


def reason(code: int) -> str:
    """How a signal is missing that NVML answers with this error: one of signals.MISSING_REASONS."""
    return _REASONS.get(code, "unknown_error")


class Answer(NamedTuple):
    values: dict[str, float]
    missing: dict[str, str]  # signal -> one of signals.MISSING_REASONS
    lost: str = ""  # why nothing can be read of the GPU, "" if it can
    failed: bool = False  # a call failed; what is not supported, not permitted or blank has not failed
    processes: tuple[GpuProcess, ...] | None = None  # None: not told


def unread(signals: Iterable[str], code: int) -> Answer:
    """The answer of a GPU of which nothing could be asked because of this error."""
    why = reason(code)
    return Answer({}, dict.fromkeys(signals, why), why if code in (GPU_IS_LOST, UNKNOWN) else "", True)


class _Step(NamedTuple):
    """One NVML call and the signals that it answers. `call` None: the fields' call."""

    call: Call | None
    wanted: list[tuple[str, Way]]
    fields: list[tuple[int, int]]  # (field, scope) of each


class _Found(NamedTuple):
    """What one round of calls found out."""

    values: dict[str, float]
    missing: dict[str, str]
    codes: set[int]  # NVML's, 0 for an answer; without "not supported"
    processes: list[tuple[GpuProcess, ...]]  # what the calls listed: one list, none if they did not

    @property
    def failed(self) -> bool:
        return bool(self.codes - {0, NO_PERMISSION})  # who may not ask now may not at the next poll either


class Reader:
    """`doing` names the NVML call that is under way, for whoever sees it hang.

    What the card does not support is asked once and then known, what is fixed too. What is slow is asked at a look, and
    kept until the next; where a call fails, it is asked again at once, so that no answer outlives what can be asked.
    """

    def __init__(self, handle: Handle, rows: Sequence[Row], unsupported: str = "not_supported") -> None:
        """unsupported: how a signal is missing that the card does not support."""
        self.handle = handle
        self.doing = ""
        self._rows = {row.signal: row for row in rows}
        self._unsupported = unsupported
        self._way = {row.signal: 0 for row in rows}  # place in its ways; past the end: not supported
        self._refused = {row.signal: unsupported for row in rows if not row.ways}
        self._fixed: dict[str, float] = {}
        self._kept: _Found | None = None
        self._fast = tuple(row.signal for row in rows if not (row.slow or row.fixed))
        self._slow = tuple(row.signal for row in rows if row.slow or row.fixed)
        self._plans: dict[tuple[str, ...], list[_Step]] = {}  # of the fast and of the slow signals, until refused

    def read(self, look: bool = True) -> Answer:
        """All signals as they are now. look: the slow ones too. Raises pynvml.NVMLError with a code in BROKEN only."""
        kept, self._kept = self._kept, None  # what raises keeps nothing
        found = self._round(self._fast)
        if look or kept is None or found.failed:
            kept = self._round(self._slow)
        self._kept = None if kept.failed else kept
        self.doing = ""
        codes = found.codes | kept.codes
        if GPU_IS_LOST in codes:
            self._kept = None
            return unread(self._rows, GPU_IS_LOST)
        values = {**self._fixed, **kept.values, **found.values}
        missing = {**self._refused, **kept.missing, **found.missing}
        if codes == {UNKNOWN}:
            return Answer({}, missing, "unknown_error", True)
        # Processes are slow: asked at a look.
        processes = kept.processes[0] if kept.processes else None
        return Answer(values, missing, "", found.failed or kept.failed, processes)

    def _round(self, signals: tuple[str, ...]) -> _Found:
        """Ask for these signals, those that are refused in their next way, until all are answered or not supported."""
        found = _Found({}, {}, set(), [])
        plan = self._plans.get(signals)
        if plan is None:
            plan = self._plans[signals] = self._planned(signals)
        while plan:
            refused: list[str] = []
            for step in plan:
                for (signal, way), (code, number) in zip(step.wanted, self._ask(step, found), strict=True):
                    if code == GPU_IS_LOST:
                        found.codes.add(code)
                        return found
                    if code == NOT_SUPPORTED:
                        refused.append(signal)
                    elif code:
                        found.codes.add(code)
                        found.missing[signal] = reason(code)
                    else:
                        found.codes.add(0)
                        value = blanks.value(signal, number, way.factor)
                        if value is None:
                            found.missing[signal] = "blank"
                        else:
                            found.values[signal] = value
            plan = self._planned(self._refuse(refused))
        self._settle(found.values)
        return found

    def _ask(self, step: _Step, found: _Found) -> list[tuple[int, float]]:
        """(error code, number) for each wanted signal; every "not supported" is NOT_SUPPORTED.

        Processes that the answer lists are put into `found`.
        """
        call, wanted, fields = step
        self.doing = call.name if call else FIELDS
        try:
            if call is None:
                got = pynvml.nvmlDeviceGetFieldValues(self.handle, fields)
                return [_of_field(value, way) for value, (_, way) in zip(got, wanted, strict=True)]
            answer = call.ask(self.handle)
            if call in PROCESSES:
                found.processes[:] = [listed(answer)]
        except pynvml.NVMLError as error:
            if error.value in BROKEN:
                raise
            unsupported = call.refusals if call else UNSUPPORTED
            return [(NOT_SUPPORTED if error.value in unsupported else error.value, 0.0)] * len(wanted)
        except Exception:
            return [(UNKNOWN, 0.0)] * len(wanted)  # an answer that pynvml cannot make sense of
        return [_picked(way, answer) for _, way in wanted]

    def _refuse(self, signals: Sequence[str]) -> list[str]:
        """Those of the signals that there is another way for."""
        for signal in signals:
            self._way[signal] += 1
            if self._way[signal] == len(self._rows[signal].ways):
                self._refused[signal] = self._unsupported
        if signals:
            self._plans.clear()
        return [signal for signal in signals if signal not in self._refused]

    def _settle(self, values: dict[str, float]) -> None:
        """What is fixed is not asked for again."""
        fixed = [signal for signal in values if self._rows[signal].fixed]
        if fixed:
            self._fixed.update((signal, values.pop(signal)) for signal in fixed)
            self._plans.clear()

    def _planned(self, signals: Iterable[str]) -> list[_Step]:
        """Each call once, with the signals that it answers; the fields' call as one of them."""
        plan: dict[Call | None, _Step] = {}
        for signal in signals:
            if signal not in self._fixed and signal not in self._refused:
                way = self._rows[signal].ways[self._way[signal]]
                step = plan.setdefault(way.call, _Step(way.call, [], []))
                step.wanted.append((signal, way))
                step.fields.append((way.field, way.scope))
        return list(plan.values())


def _picked(way: Way, answer: Any) -> tuple[int, float]:
    try:
        number = way.pick(answer)
    except Exception:
        return UNKNOWN, 0.0  # an answer that is not what it should be costs its own signal
    return (NOT_SUPPORTED, 0.0) if number is None else (0, number)


def _of_field(value: Any, way: Way) -> tuple[int, float]:
    code, kind = value.nvmlReturn, value.valueType
    if code:
        return NOT_SUPPORTED if code in UNSUPPORTED_ARGUMENT else code, 0.0
    if way.wide and kind != _UNSIGNED_64:
        return NOT_SUPPORTED, 0.0
    if not 0 <= kind < len(_MEMBERS):
        return UNKNOWN, 0.0
    return _picked(way, float(getattr(value.value, _MEMBERS[kind])))
