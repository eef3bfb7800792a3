"""`make test-gpu`: the exporter's NVML source against this machine's own driver.

    python -m tests.gpu [DIRECTORY]

writes what it saw to DIRECTORY (tests/fixtures/nvml), then runs the lane's tests (lane.py) on it. Where there is no GPU
it says so in one line and succeeds.
"""

import os
import subprocess
import sys
from pathlib import Path

from tests.gpu.capture import NoGpu, Refused, capture, summary, write

HERE = Path(__file__).parent
FIXTURES = HERE.parent / "fixtures" / "nvml"


def main(directory: Path) -> int:
    try:
        captured = capture()
    except NoGpu as reason:
        sys.stdout.write(f"test-gpu: skipped: {reason}\n")
        return 0
    except Refused as reason:
        sys.stderr.write(f"test-gpu: {reason}\n")
        return 1
    path = write(captured, directory)
    sys.stdout.write(f"test-gpu: {summary(captured)}\ntest-gpu: wrote {path}\n")
    sys.stdout.flush()
    # A process of its own: here pynvml's functions are witnessed, and a thread may hang in the driver.
    lane = [sys.executable, "-m", "pytest", "-v", "--color=no", str(HERE / "lane.py")]
    return subprocess.run(lane, env={**os.environ, "PLIMSOLL_CAPTURE": str(path)}, check=False).returncode


if __name__ == "__main__":
    code = main(Path(sys.argv[1]) if sys.argv[1:] else FIXTURES)
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)
