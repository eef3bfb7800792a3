"""What one replica of a recorded fleet can do, by what its scaler had learned of it.

May not be in here: learning (exporter.core.pace does it at the node).

The pace that is recorded has no term for the length of the context: at the lengths that the fleet served it is in the
other terms. So such a profile is of this fleet and its requests, and of no other.
"""

from collections.abc import Sequence
from statistics import median

from scaler.core.record import Record
from scaler.core.view import Replica
from scaler.simulate.model import Phases, Profile

NAME = "recorded"
#: Seconds of a step below which no engine is: a pace of 0 would serve anything.
LEAST_STEP = 1e-6


def recorded(records: Sequence[Record], otherwise: Profile) -> Profile | None:
    """Medians over all replicas of all records; None where no pace or no size of a KV cache was recorded.

    otherwise: whence the cold start and the largest batch are taken where they were not recorded.
    """
    replicas = [replica for record in records for replica in record.replicas]
    paced = [each for each in replicas if each.step_seconds is not None and each.pace_seconds > 0]
    cache = _median([each.kv_capacity_tokens for each in replicas])
    pace = [
        _median([getattr(each, name) for each in paced])
        for name in ("step_seconds", "sequence_seconds", "prompt_token_seconds")
    ]
    step, sequence, token = pace
    if step is None or sequence is None or token is None or cache is None or cache < otherwise.block_tokens:
        return None
    starts = [record.cold_start for record in records if record.cold_start is not None]
    largest = _median([each.max_running for each in replicas])
    return otherwise._replace(
        name=NAME,
        about="the recorded fleet's replica",
        source=f"medians of {len(paced)} readings in the record file",
        step=max(LEAST_STEP, step),
        per_sequence=sequence,
        per_context_token=0.0,
        per_prompt_token=token,
        per_prompt_token_squared=0.0,
        kv_tokens=int(cache),
        gpus=max(1, round(_median([float(_gpus(each)) for each in replicas]) or 1)),
        max_num_seqs=otherwise.max_num_seqs if not largest else max(1, int(largest)),
        cold_start=Phases(model_load=starts[-1]) if starts else otherwise.cold_start,
    )


def _gpus(replica: Replica) -> int:
    return len({gpu.uuid for gpu in replica.gpus})


def _median(values: Sequence[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return median(known) if known else None
