"""A fixed number of replicas: what an autoscaler has to be better than.

May not be in here: any reaction.
"""

from scaler.simulate.model import Answer, Scenario, Seen
from scaler.simulate.peers_readings import bounded


class Static:
    """`spec.replicas` of a Deployment without an autoscaler."""

    period = 15.0
    scrape = 15.0
    feed = False

    def __init__(self, scenario: Scenario, replicas: float) -> None:
        self._replicas = bounded(scenario, replicas)

    def __call__(self, seen: Seen) -> Answer:
        return Answer(self._replicas, None, "fixed", "static")
