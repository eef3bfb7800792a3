"""Runs side by side on several processors; what comes out does not depend on how many.

May not be in here: which runs there are (simulate/compare.py).

A worker plays one run at a time, as the parent tells it to, and writes how far it is into an array that all share.
Signals of the terminal are the parent's: it ends its workers. A worker whose parent is gone ends by itself.
"""

import multiprocessing
import os
import signal
import sys
from collections.abc import Mapping, Sequence
from functools import partial
from multiprocessing.connection import Connection, wait
from multiprocessing.process import BaseProcess
from typing import Any, NamedTuple

from scaler.commands import FAILED, CommandError
from scaler.commands.progress import Bar
from scaler.simulate import compare
from scaler.simulate.comparison import Row
from scaler.simulate.model import Controller, Run, Scenario
from scaler.simulate.run import Progress, run

LOOK = 0.1  # s between two looks at how far the workers are
_SIGNALS = (signal.SIGINT, signal.SIGTERM)


class Played(NamedTuple):
    row: Row
    run: Run | None  # only of those that are to be shown in full


class _Given(NamedTuple):
    """What all workers are given."""

    tasks: Sequence[compare.Task]
    scenario: Scenario
    metadata: Mapping[str, str]
    full: Sequence[str]
    shares: Any  # the shared array: of each task, how far it is


def processors() -> int:
    """Those that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def alone(scenario: Scenario, controller: Controller, task: compare.Task) -> Run:
    """One run, in this process."""
    bar = Bar(1, sys.stderr)
    try:
        return run(scenario, controller, task.policy, task.knob, lambda share: bar.tell([share]))
    finally:
        bar.close()


def play(
    tasks: Sequence[compare.Task], scenario: Scenario, metadata: Mapping[str, str], jobs: int, full: Sequence[str]
) -> list[Played]:
    """In the order of the tasks. full: the policies whose runs are wanted, too. Raises CommandError."""
    bar = Bar(len(tasks), sys.stderr)
    given = _Given(tasks, scenario, metadata, full, multiprocessing.Array("d", len(tasks), lock=False))
    try:
        if min(jobs, len(tasks)) > 1:
            return _side_by_side(given, jobs, bar)

        def tell(index: int, share: float) -> None:
            _tell(given.shares, index, share)
            bar.tell(given.shares)

        return [_play(given, index, partial(tell, index)) for index in range(len(tasks))]
    finally:
        bar.close()


def _side_by_side(given: _Given, jobs: int, bar: Bar) -> list[Played]:
    workers: dict[Any, BaseProcess] = {}
    played: dict[int, Played] = {}
    todo = iter(range(len(given.tasks)))
    try:
        for first in [next(todo) for _ in range(min(jobs, len(given.tasks)))]:
            connection, process = _worker(given)
            workers[connection] = process
            connection.send(first)
        while len(played) < len(given.tasks):
            for connection in wait(list(workers), LOOK):
                assert isinstance(connection, Connection)  # noqa: S101 -- for the type
                index, made = connection.recv()
                played[index] = made
                if (further := next(todo, None)) is not None:
                    connection.send(further)
            bar.tell(given.shares)
        return [played[index] for index in range(len(given.tasks))]
    except (EOFError, ConnectionError):
        raise CommandError("a worker was killed, for want of memory perhaps; give fewer --jobs", FAILED) from None
    finally:
        for process in workers.values():
            process.terminate()
        for process in workers.values():
            process.join()


def _worker(given: _Given) -> tuple[Any, BaseProcess]:
    ours, theirs = multiprocessing.Pipe()
    process = multiprocessing.Process(target=_work, args=(given, ours, theirs), daemon=True)
    # A signal between its start and its first line would be handled there as by the parent.
    signal.pthread_sigmask(signal.SIG_BLOCK, _SIGNALS)
    try:
        process.start()
    finally:
        signal.pthread_sigmask(signal.SIG_UNBLOCK, _SIGNALS)
    theirs.close()
    return ours, process


def _work(given: _Given, parents: Any, own: Any) -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, _SIGNALS)
    parents.close()  # else its end would never be seen
    try:
        while True:
            index: int = own.recv()
            own.send((index, _play(given, index, partial(_tell, given.shares, index))))
    except (EOFError, ConnectionError):
        return  # the parent is gone


def _play(given: _Given, index: int, tell: Progress) -> Played:
    task = given.tasks[index]
    begun = compare.setup(task, given.scenario)
    made = run(begun, compare.controller(task, begun, given.metadata), task.policy, task.knob, tell)
    return Played(compare.row(task, made), made if task.policy in given.full else None)


def _tell(shares: Any, index: int, share: float) -> None:
    shares[index] = share
