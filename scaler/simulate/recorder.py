"""Our policy in a run, with a record of each of its decisions, as the scaler's record file has them.

May not be in here: the file.
"""

from scaler.core.decision import Decision, Unknown
from scaler.core.record import Record, record
from scaler.core.trigger import Trigger
from scaler.core.view import Fleet
from scaler.simulate.model import Answer, Scenario, Seen
from scaler.simulate.product import Product, Setting


class Recorder:
    """A controller that answers as Product does; `records` grows by one a decision. Times are those of the simulation.

    Raises TriggerError for metadata that the scaler would refuse.
    """

    scrape = Product.scrape
    feed = Product.feed

    def __init__(self, scenario: Scenario, of: Setting) -> None:
        self.records: list[Record] = []
        self._product = Product(scenario, of, self._keep)
        self.period = self._product.period

    def __call__(self, seen: Seen) -> Answer:
        return self._product(seen)

    def _keep(self, trigger: Trigger, fleet: Fleet, result: Decision | Unknown, now: float) -> None:
        self.records.append(record(trigger, fleet, result, now))
