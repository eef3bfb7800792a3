"""Every constant of the decision, with its unit and where it comes from.

May not be in here: code. What is done with a constant is told at the head of decision.py.
"""

from typing import NamedTuple


class Constant(NamedTuple):
    """One row: the value, its unit, and why it is that."""

    value: float
    unit: str
    source: str


# fmt: off
# One row a constant: a wrapped table cannot be scanned.
CONSTANTS: dict[str, Constant] = {
    # What a replica carries.
    "headroom": Constant(0.1, "ratio", "the HPA's own tolerance: with less spare than that it would not act on being full"),
    "knee_cap": Constant(256, "requests", "vLLM's default max_num_seqs: no batch is larger, whatever the KV cache holds"),
    "kv_cache_target": Constant(0.8, "ratio", "llm-d's variant autoscaler calls a replica saturated at 0.80 of its KV cache"),
    # What a queue asks for.
    "queue_target": Constant(5, "requests/replica", "the field's default: vLLM production stack, keda-gpu-scaler, llm-d"),
    "drain_within": Constant(60, "s", "shortest cold start in the field (60 to 600 s): a queue gone by then needs no replica"),
    "cold_start": Constant(60, "s", "lead of the trend while no cold start is given and none was seen: the same shortest cold start"),
    "trend_window": Constant(30, "s", "KEDA's pollingInterval: what the queue did since it was last asked"),
    "trend_span": Constant(5, "s", "with fewer than five readings at the exporter's 1 s a slope is noise"),
    "trend_step": Constant(1, "s", "the exporter's interval: points closer together say nothing new"),
    "trend_cap": Constant(1, "ratio", "the trend adds this share of what waits at most: it may double a queue, not invent one"),
    # When a reading is not believed.
    "stale_after": Constant(15, "s", "fifteen missed readings; one sync of the HPA, so as often as the answer is used"),
    "first_listing": Constant(15, "s", "three look-ups of a name: who is listed by then was there when the scaler started"),
    "unheard_grace": Constant(300, "s", "the HPA's own window down: so long an error holds no longer than it would have"),
    # What downstream makes of the value.
    "hpa_tolerance": Constant(0.1, "ratio", "kube-controller-manager's --horizontal-pod-autoscaler-tolerance"),
    "most_replicas": Constant(100_000, "replicas", "beyond any cluster (Kubernetes: 150,000 pods of all kinds): stays finite"),
}
# fmt: on


def value(name: str) -> float:
    return float(CONSTANTS[name].value)
