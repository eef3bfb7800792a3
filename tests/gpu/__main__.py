"""`make test-gpu`: the exporter's NVML source against this machine's own driver.

    python -m tests.gpu [--patience SECONDS] [DIRECTORY]

writes what it saw to build/gpu and runs the lane's tests (lane.py) on it; only if they pass, it is kept in DIRECTORY
(tests/fixtures/nvml). Where there is no GPU it says so in one line and succeeds. A driver that does not answer within
SECONDS (30) is a failure.
"""

import argparse
import os
import shutil
import subprocess
import sys
from pathlib import Path

from tests.gpu.capture import PATIENCE, NoGpu, Refused, capture, summary, write

HERE = Path(__file__).parent
FIXTURES = HERE.parent / "fixtures" / "nvml"
SCRATCH = HERE.parents[1] / "build" / "gpu"


def main(directory: Path, patience: float) -> int:
    try:
        captured = capture(patience=patience)
    except NoGpu as reason:
        sys.stdout.write(f"test-gpu: skipped: {reason}\n")
        return 0
    except Refused as reason:
        sys.stderr.write(f"test-gpu: {reason}\n")
        return 1
    path = write(captured, SCRATCH / str(os.getpid()))
    sys.stdout.write(f"test-gpu: {summary(captured)}\n")
    sys.stdout.flush()
    # A process of its own: here pynvml's functions are witnessed, and a thread may hang in the driver.
    lane = [sys.executable, "-m", "pytest", "-v", "--color=no", str(HERE / "lane.py")]
    code = subprocess.run(lane, env={**os.environ, "PLIMSOLL_CAPTURE": str(path)}, check=False).returncode
    if code:
        sys.stdout.write(f"test-gpu: not kept, since the lane failed: what was seen is in {path}\n")
        return code
    directory.mkdir(parents=True, exist_ok=True)
    kept = shutil.move(path, directory / path.name)
    path.parent.rmdir()
    sys.stdout.write(f"test-gpu: wrote {kept}\n")
    return 0


if __name__ == "__main__":
    parser = argparse.ArgumentParser(prog="test-gpu")
    parser.add_argument("directory", nargs="?", type=Path, default=FIXTURES)
    parser.add_argument("--patience", type=float, default=PATIENCE, metavar="SECONDS")
    asked = parser.parse_args()
    code = main(asked.directory, asked.patience)
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)
