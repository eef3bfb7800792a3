"""How a distribution is printed, and what a process costs: shared by the benchmarks."""

import os
from collections.abc import Sequence
from pathlib import Path


def quantile(values: Sequence[float], q: float) -> float:
    """The q-quantile (0..1) by nearest rank: a value that was really measured."""
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, max(0, -(-int(q * 1000 * len(ordered)) // 1000) - 1))]


def distribution(name: str, seconds: Sequence[float]) -> str:
    """One line: count, p50, p90, p99 and the worst, in milliseconds."""
    shown = "  ".join(f"p{q:g} {quantile(seconds, q / 100) * 1000:.2f}" for q in (50, 90, 99))
    return f"{name}: n {len(seconds)}  {shown}  max {max(seconds) * 1000:.2f} ms"


def rss_mib(pid: int) -> float:
    """Resident memory of a process, in MiB (Linux)."""
    status = Path(f"/proc/{pid}/status").read_text()
    return next(int(line.split()[1]) for line in status.splitlines() if line.startswith("VmRSS")) / 1024


def cpu_seconds(pid: int) -> float:
    """CPU time that a process and its threads have used, user and system (Linux)."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")
