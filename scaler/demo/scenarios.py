"""The stories that the demo can play.

May not be in here: behaviour. A new story is a row here.
"""

from typing import NamedTuple


class Scenario(NamedTuple):
    about: str
    replicas: int  # at the start, ready
    load: tuple[tuple[float, float], ...]  # from this part of the duration on -> requests per second of demo time
    xid_at: float | None = None  # part of the duration after which a GPU falls off the bus

    def rate(self, part: float) -> float:
        """Requests per second when this part (0..1) of the duration is over."""
        return [rate for since, rate in self.load if since <= part][-1]


#: A replica of the model in engine.py carries about 2.3 requests per second of the traffic in traffic.py.
SCENARIOS = {
    "burst": Scenario(
        "load x4 for a while: a queue, more replicas, and back", 2, ((0.0, 3.2), (0.2, 12.8), (0.5, 3.2))
    ),
    "sick-gpu": Scenario(
        "an Xid 79 takes one GPU away; its engine goes on answering 200", 4, ((0.0, 6.6),), xid_at=0.3
    ),
    "steady": Scenario("constant load: nothing should happen, and nothing does", 3, ((0.0, 4.8),)),
}
