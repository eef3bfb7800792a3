"""Nodes with GPUs: where a replica finds room, and nodes that are asked for and come.

May not be in here: pods and their life (cluster.py). A node that came stays: nobody takes empty ones away.
"""

import itertools
import math
from collections import Counter
from collections.abc import Iterable

from scaler.simulate.model import Scenario

NODE_GPUS = 8
#: When nodes that were there at the start were made: long before any pod.
LONG_AGO = -86400.0


class Nodes:
    """Nodes have numbers from 0 on."""

    def __init__(self, scenario: Scenario) -> None:
        #: Replicas of a node. One that needs more GPUs than a node has spans several, which count as one here.
        self.room = max(1, NODE_GPUS // scenario.profile.gpus)
        self.coming: list[float] = []  # when nodes that were asked for will be there
        self._provisioning = scenario.node_provisioning
        self._most = math.inf if scenario.nodes is None else scenario.nodes
        # Where nodes are made when they are needed, those of the first replicas are there.
        needed = math.ceil(scenario.start / self.room) if scenario.node_provisioning else math.inf
        self._count = min(needed, self._most)
        self._created: dict[int, float] = {}

    def created(self, node: int) -> float:
        return self._created.get(node, LONG_AGO)

    def free(self, taken: Iterable[int | None]) -> int | None:
        """The first node with room for one more beside those that are taken; None: there is none."""
        used = Counter(taken)
        node = next(node for node in itertools.count() if used[node] < self.room)
        return node if node < self._count else None

    def advance(self, now: float) -> None:
        """Nodes that are due are there."""
        for at in [at for at in self.coming if at <= now]:
            self.coming.remove(at)
            self._created[int(self._count)] = at
            self._count += 1

    def ask(self, pending: int, now: float) -> None:
        """As many more as so many pods without a place need, if nodes are made at all."""
        if not self._provisioning:
            return
        while pending > self.room * len(self.coming) and self._count + len(self.coming) < self._most:
            self.coming.append(now + self._provisioning)
