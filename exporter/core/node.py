"""One step of a node: what the sources last said, and what was known before, become a Snapshot.

May not be in here: what is made of GPUs (boards.py) and of engines (serving.py), I/O, clocks.
"""

from collections.abc import Mapping

from msgspec import Struct

from exporter.core import boards, serving
from exporter.core.boards import BoardsMemory
from exporter.core.inputs import NodeInputs
from exporter.core.lessons import Lessons
from exporter.core.serving import ServingMemory
from exporter.core.snapshot import Snapshot


class Remembered(Struct, frozen=True):
    """What a run of the exporter leaves to the next one."""

    boards: BoardsMemory = BoardsMemory()
    lessons: Lessons = Lessons()


class NodeMemory(Struct, frozen=True):
    """All that a step leaves to the next one."""

    sequence: int = 0
    boards: BoardsMemory = BoardsMemory()
    serving: ServingMemory = ServingMemory()
    overflow: Mapping[str, int] = {}


def resumed(remembered: Remembered, now: float) -> NodeMemory:
    """The memory of a run that begins at `now`."""
    return NodeMemory(boards=boards.resumed(remembered.boards, now), serving=serving.resumed(remembered.lessons))


def remembered(memory: NodeMemory) -> Remembered:
    return Remembered(memory.boards, memory.serving.lessons)


def step(memory: NodeMemory, inputs: NodeInputs, now: float) -> tuple[Snapshot, NodeMemory]:
    """The node at `now` (monotonic seconds) and the memory for the next step.

    A target that left the list is forgotten, with its counts and all it taught; a GPU after boards.FORGET_SECONDS.
    """
    overflow = dict(memory.overflow)
    seen, known_boards = boards.step(memory.boards, inputs, overflow, now)
    served, known_engines = serving.step(memory.serving, inputs, seen.merged, seen.gpus, overflow, now)
    watched = {target.url for target in inputs.targets}
    snapshot = Snapshot(
        node=inputs.node,
        at=now,
        sequence=memory.sequence + 1,
        gpus=tuple(seen.gpus[gpu.info.key] for gpu in seen.merged),
        engines=served.engines,
        cold_starts=served.cold_starts,
        collectors=tuple(inputs.collectors),
        scrape_errors={key: errors for key, errors in inputs.scrape_errors.items() if key[0] in watched},
        scrapes={url: scrape for url, scrape in inputs.scrapes.items() if url in watched},
        fresh=inputs.fresh,
        overflow=overflow,
        node_gpus=seen.node_gpus,
        node_drift=seen.node_drift,
    )
    return snapshot, NodeMemory(snapshot.sequence, known_boards, known_engines, overflow)
