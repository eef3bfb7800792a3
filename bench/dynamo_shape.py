"""The simulator against a published sweep of NVIDIA Dynamo's planner: what longer start-ups of a worker do to it.

The sweep: Mooncake's tool-agent trace (23,608 requests in 59 min, means of 8,596 prompt and 182 output tokens),
Llama-3.1-8B in FP8 on H200, TTFT 1500 ms and ITL 50 ms, two workers at the start. Beyond 90 s of start-up the mean time
to the first token jumps tenfold, while the GPU hours stay nearly the same.

That trace is not here. Ours is made up: the same number, length and means, seven eighths of it a steady stream and one
eighth a stream that is on and off for minutes; half of each prompt in the prefix cache. So the shape can be compared,
the numbers cannot. Nor is the planner's SLA mode simulated, only its mode by load. That one lets a worker go as soon as
the fullest is below 0.6 of its threshold, asking no forecast, so even a steady load makes it go to and fro, and each
return costs a start-up. So here the jump comes with the first start-up that there is, and grows from there; the SLA
mode, which removes a worker only where the rest would keep the SLA, bears 90 s.

    python -m bench.dynamo_shape
"""

import sys
from typing import NamedTuple

from scaler.simulate.generators import generate
from scaler.simulate.model import Phases, Profile, Scenario, Trace
from scaler.simulate.outcome import summary, wait
from scaler.simulate.peers import PEERS
from scaler.simulate.profiles import profile
from scaler.simulate.run import run

#: Start-up in seconds -> TTFT in ms, mean and 90th percentile, GPU hours, scale-ups: as published.
PUBLISHED = {
    0: (850, 1_861, 2.05, 42),
    60: (2_116, 2_149, 2.17, 28),
    90: (3_120, 2_285, 2.11, 23),
    120: (34_797, 181_991, 2.17, 16),
    300: (76_000, 375_000, 2.4, 8),
}
REQUESTS, SECONDS, PROMPT, OUTPUT = 23_608, 3_540.0, 8_596.0, 182.0
#: Of the planner by load: its target "latency". At 1.0, its target "throughput", mean TTFT is above the SLA at once.
UP = 0.4
#: Of the requests, the share in bursts.
BURSTS = 1 / 8


def h200_fp8() -> Profile:
    """Derived from the H100's in bf16 by what differs, with the numbers of the datasheets.

    Weights are half the bytes (8.03 GB) and memory is faster (4.8 TB/s after 3.35): of a step, reading them took
    16.06 GB / 3.35 TB/s = 4.79 ms and takes 1.67 ms. A token of KV stays 131,072 B. Matrix products in FP8 are twice as
    fast (1,979 dense TFLOPS after 989): prompts; attention stays in bf16. KV: 0.9 of 131.3 GiB, less 7.5 of weights,
    5.5 of activations, 0.15 of overhead.
    """
    told = profile("8b-h100")
    return told._replace(
        name="8b-fp8-h200",
        step=told.step - 4.79e-3 + 1.67e-3,
        per_context_token=131_072 / 4.8e12,
        per_prompt_token=told.per_prompt_token / 2,
        kv_tokens=860_000,
    )


def trace(seed: int = 0) -> Trace:
    lengths = {
        "seconds": SECONDS,
        "prompt": PROMPT,
        "prompt_cv": 0.8,
        "output": OUTPUT,
        "output_cv": 1.2,
        "longest": 126_000,
        "cached": 0.5,
    }
    rate = REQUESTS / SECONDS
    parts = (
        generate("steady", {"rate": rate * (1 - BURSTS), **lengths}, seed),
        generate("on_off", {"rate": rate * BURSTS * 3, "on": 150, "off": 300, **lengths}, seed + 1),  # on a third
    )
    arrivals = sorted((one for part in parts for one in part.arrivals), key=lambda one: one.at)
    return Trace("as Mooncake's tool-agent trace in its means", arrivals, SECONDS)


class Row(NamedTuple):
    start_up: float  # s
    mean: float  # TTFT in ms, of the requests that had a first token
    p90: float
    between: float  # ITL in ms, the median of the requests' means
    gpu_hours: float
    ups: int
    never: int  # requests without a first token when the trace was over


def row(load: Trace, start_up: float, up: float = UP) -> Row:
    scenario = Scenario(
        load,
        h200_fp8()._replace(cold_start=Phases(model_load=start_up)),
        start=2,
        maximum=16,
        router="two_choices",
        ttft_target=1.5,
    )
    played = run(scenario, PEERS["dynamo-load"].make(up, scenario), "dynamo-load", up)
    waits = sorted(wait(one) * 1000 for one in played.requests if one.first_token is not None)
    told = summary(played)
    return Row(
        start_up,
        sum(waits) / len(waits),
        waits[int(0.9 * len(waits))],
        (told.between_tokens_p50 or 0.0) * 1000,
        told.gpu_hours,
        sum(change.after > change.before for change in played.changes),
        len(played.requests) - len(waits),
    )


def table(rows: list[Row]) -> str:
    lines = ["start-up s   TTFT mean / p90 ms   ITL ms   GPU h   ups   (published: TTFT mean / p90, GPU h, ups)"]
    for one in rows:
        mean, p90, hours, ups = PUBLISHED[int(one.start_up)]
        lines.append(
            f"{one.start_up:9.0f} {one.mean:9.0f} / {one.p90:8.0f} {one.between:8.1f} {one.gpu_hours:7.2f} {one.ups:5d}"
            f"   ({mean} / {p90}, {hours}, {ups})"
        )
    return "\n".join(lines)


def main(up: float = UP) -> None:
    load = trace()
    count = len(load.arrivals)
    prompt, output = (
        sum(lengths) / count for lengths in zip(*((a.prompt, a.output) for a in load.arrivals), strict=True)
    )
    print(f"{count} requests in {load.seconds / 60:.0f} min, means {prompt:.0f} in, {output:.0f} out; threshold {up:g}")
    print(table([row(load, start_up, up) for start_up in PUBLISHED]))


if __name__ == "__main__":
    main(*map(float, sys.argv[1:]))
