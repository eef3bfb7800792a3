"""Our policy in a run, with a record of each of its decisions, as the scaler's record file has them.

May not be in here: the file.
"""

from scaler.core.decision import Memory, decide, recall
from scaler.core.record import Record, record
from scaler.core.trigger import parse
from scaler.core.view_fleet import fleet
from scaler.simulate.exporters import APP, NAMESPACE
from scaler.simulate.model import Answer, Scenario, Seen
from scaler.simulate.product import Product, Setting


class Recorder:
    """A controller that answers as Product does; `records` grows by one a decision. Times are those of the simulation.

    Each decision is made twice, once to act and once to write down: both rest on the same, so they are the same.
    Raises TriggerError for metadata that the scaler would refuse.
    """

    scrape = Product.scrape
    feed = True

    def __init__(self, scenario: Scenario, of: Setting) -> None:
        self.period = scenario.interval
        self.records: list[Record] = []
        self._product = Product(scenario, of)
        self._trigger = parse(NAMESPACE, "model", {"podSelector": f"app={APP}", **of.metadata})
        self._memory = Memory()

    def __call__(self, seen: Seen) -> Answer:
        view = recall(fleet(seen.nodes, self._trigger, seen.now), self._memory)
        result, self._memory = decide(self._trigger, view, self._memory, seen.now)
        self.records.append(record(self._trigger, view, result, seen.now))
        return self._product(seen)
