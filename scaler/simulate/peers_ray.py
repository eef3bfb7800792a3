"""Ray Serve's autoscaling on ongoing requests.

May not be in here: its custom policies, scaling to zero.

Source: ray-project/ray python/ray/serve/autoscaling_policy.py, _private/autoscaling_state.py, config.py. Its loop turns
every 0.1 s and counts the turns of a delay; here it turns every 5 s and counts them likewise.
"""

from math import ceil

from scaler.simulate.model import Answer, Scenario, Seen
from scaler.simulate.peers_readings import Average, bounded, in_flight

TURN = 5.0
LOOK_BACK = 30.0
UP_DELAY, DOWN_DELAY = 30.0, 600.0


class RayServe:
    """One deployment with target_ongoing_requests."""

    period = TURN
    scrape = TURN
    feed = False

    def __init__(self, scenario: Scenario, target: float) -> None:
        self._scenario = scenario
        self._target = target
        self._total = Average(LOOK_BACK)
        self._reported: dict[str, float] = {}  # a replica's last report stands until it is stopped
        self._turns = 0  # above 0: in a row that wanted more, below: less

    def __call__(self, seen: Seen) -> Answer:
        names = {pod.name for pod in seen.pods}
        self._reported = {name: value for name, value in self._reported.items() if name in names}
        for pod in seen.pods:
            value = in_flight(pod.reading) if pod.reading is not None else None
            if pod.ready and value is not None:
                self._reported[pod.name] = value
        self._total.add(seen.now, sum(self._reported.values()))
        if seen.ready == 0:
            return Answer(seen.spec, None, "no replica runs", "unknown")
        total = self._total.mean
        wanted = bounded(self._scenario, ceil(total / self._target))
        replicas = self._delayed(wanted, seen.spec)
        why = f"{total:.3g} ongoing requests, {self._target:g} a replica"
        return Answer(replicas, total, why, "delay" if replicas != wanted else "target")

    def _delayed(self, wanted: int, current: int) -> int:
        """_apply_delay_logic: only after a delay in which every turn wanted more (or less), as the last one wants."""
        if wanted == current:
            self._turns = 0
            return current
        if wanted > current:
            self._turns = max(self._turns, 0) + 1
            due = self._turns > int(UP_DELAY / TURN)
        else:
            self._turns = min(self._turns, 0) - 1
            due = self._turns < -int(DOWN_DELAY / TURN)
        if due:
            self._turns = 0
        return wanted if due else current
