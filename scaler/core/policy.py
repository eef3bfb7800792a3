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
    "batch": Constant(256, "requests", "vLLM's default max_num_seqs: no batch is larger, whatever the KV cache holds"),
    "kv_cache_target": Constant(0.8, "ratio", "llm-d's variant autoscaler calls a replica saturated at 0.80 of its KV cache"),
    # What a queue asks for.
    "queue_target": Constant(5, "requests/replica", "the field's default: vLLM production stack, keda-gpu-scaler, llm-d"),
    "ttft_target": Constant(2, "s", "a wait for the first token that people bear in a chat"),
    "drain_within": Constant(60, "s", "shortest cold start in the field (60 to 600 s): a queue gone by then needs no replica"),
    "cold_start": Constant(60, "s", "while none is given and none was seen: the same shortest cold start"),
    "sync": Constant(15, "s", "the HPA's own pace: so late is an answer acted on"),
    # How much work there is, and will be.
    "mix_memory": Constant(300, "s", "the mix of requests changes within minutes; the HPA's own window is as long"),
    "kv_full": Constant(0.9, "ratio", "vLLM preempts when the cache is full: a batch that holds more would be cut back"),
    "history": Constant(1800, "s", "the last half hour: several cold starts, and no longer than a load stays alike"),
    "level_over": Constant(300, "s", "the HPA's own window: replicas that were asked for stay as long"),
    "level_least": Constant(120, "s", "a mean over less says little of what is above it"),
    "growth": Constant(0.03, "ratio/min", "two thirds of the steepest ten minutes (0.045) of the Azure 2023 conversation trace"),
    "stretch": Constant(2, "ratio", "a rise is not taken to go on for longer than it was seen, and as long again"),
    "again": Constant(0.5, "ratio", "of the steepest rise over a cold start in `history`: half of it is kept ready for the next"),
    "worth": Constant(0.12, "ratio", "of a replica's time that it must save from lateness to be worth having; docs/decisions.md"),
    "patience": Constant(0.85, "ratio", "of ttftTarget for the queue: the step under way and the prefill itself take the rest"),
    "early": Constant(0.5, "s", "by which a look may come before a slot is over: clocks of two programs are not in step"),
    "young": Constant(600, "s", "a past that is shorter is no ground to remove replicas on: two windows of the HPA"),
    # When a reading is not believed.
    "stale_after": Constant(15, "s", "fifteen missed readings; one sync of the HPA, so as often as the answer is used"),
    "first_listing": Constant(15, "s", "three look-ups of a name: who is listed by then was there when the scaler started"),
    "unheard_grace": Constant(300, "s", "the HPA's own window down: so long an error holds no longer than it would have"),
    # What downstream makes of the value.
    "hpa_window": Constant(300, "s", "kube-controller-manager's --horizontal-pod-autoscaler-downscale-stabilization"),
    "hpa_tolerance": Constant(0.1, "ratio", "kube-controller-manager's --horizontal-pod-autoscaler-tolerance"),
    "most_replicas": Constant(100_000, "replicas", "beyond any cluster (Kubernetes: 150,000 pods of all kinds): stays finite"),
}
# fmt: on


def value(name: str) -> float:
    return float(CONSTANTS[name].value)
