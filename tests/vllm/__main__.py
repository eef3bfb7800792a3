"""`make test-vllm`: the exporter against a real vLLM, its CPU build and a tiny random model, under queueing load.

    python -m tests.vllm

installs vLLM into an environment of its own (once), runs the scenario, prints what was seen, and runs the lane's tests
on it. Where vLLM cannot be had it says so in one line and succeeds.
"""

import os
import subprocess
import sys
from pathlib import Path

import msgspec

from tests.vllm import environment, scenario
from tests.vllm.environment import BUILD, Broken, Unavailable
from tests.vllm.scenario import Seen, of
from tests.vllm.server import SLOTS, NoStart

HERE = Path(__file__).parent
SCRATCH = BUILD / "vllm"


def main() -> int:
    try:
        programs = environment.ready()
    except Unavailable as reason:
        sys.stdout.write(f"test-vllm: skipped: {reason}\n")
        return 0
    except Broken as reason:
        sys.stderr.write(f"test-vllm: {reason}\n")
        return 1
    model = SCRATCH / "model"
    subprocess.run([str(programs / "python"), str(HERE / "model.py"), str(model)], check=True)
    try:
        seen = scenario.run(programs, model, SCRATCH / "server.log")
    except NoStart as reason:
        sys.stderr.write(f"test-vllm: {reason}\n")
        return 1
    kept = SCRATCH / "seen.json"
    kept.write_bytes(msgspec.json.encode(seen))
    sys.stdout.write(summary(seen))
    sys.stdout.flush()
    lane = [sys.executable, "-m", "pytest", "-v", "--color=no", str(HERE / "lane.py")]
    return subprocess.run(lane, env={**os.environ, "PLIMSOLL_VLLM_SEEN": str(kept)}, check=False).returncode


def summary(seen: Seen) -> str:
    """One line a phase: how long, what the exporter called it, and the highest that it told."""
    lines = [f"test-vllm: vLLM {environment.ASKED_FOR[1]} was healthy after {seen.start_seconds:g} s"]
    for phase, seconds in seen.seconds.items():
        looks = [look for look in seen.looks if look.phase == phase]
        most = {
            name: max((look.exporter[name] for look in looks if name in look.exporter), default=None)
            for name in ("waiting", "running", "kv_usage", "preemptions", "finished")
        }
        told = "  ".join(f"{name} {value:g}" for name, value in most.items() if value is not None)
        causes = " > ".join(dict.fromkeys(look.cause or "none" for look in looks))
        lines.append(f"  {phase}: {seconds:g} s, {len(looks)} looks, {causes}; at most {told}")
    queue = [look.series for look in seen.looks if look.phase == "queue"]
    if queue:
        figures = {
            "knee": of(queue[-1], "plimsoll_engine_knee_requests", float("nan")),
            "requests/s": of(queue[-1], "plimsoll_engine_requests_per_second", float("nan")),
            "tokens/s": of(queue[-1], "plimsoll_engine_tokens_per_second", float("nan")),
            "TTFT p50": of(queue[-1], "plimsoll_engine_time_to_first_token_seconds", float("nan"), 'quantile="0.5"'),
        }
        told = "  ".join(f"{name} {value:.3g}" for name, value in figures.items())
        lines.append(f"  learned and measured in queue ({SLOTS} requests run at most): {told}")
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    sys.exit(main())
