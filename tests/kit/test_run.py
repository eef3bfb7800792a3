"""kit/run.py: a program ends in time, whatever its threads wait for."""

import subprocess
import sys
import time

HANGING = """
import asyncio, sys, threading, time
from exporter.kit.run import leave, run

async def main():
    started = threading.Event()
    def look_up():
        started.set()
        time.sleep(60)
    asyncio.get_running_loop().run_in_executor(None, look_up)
    while not started.is_set():
        await asyncio.sleep(0)
    print("done")
    return {code}

leave(lambda: run(main()))
"""


def test_a_thread_that_hangs_keeps_no_program_from_ending() -> None:
    began = time.monotonic()
    ended = subprocess.run(
        [sys.executable, "-c", HANGING.format(code=3)], capture_output=True, text=True, timeout=50, check=False
    )
    assert (ended.returncode, ended.stdout, ended.stderr) == (3, "done\n", "")
    assert time.monotonic() - began < 30  # far below the thread's minute


def test_a_failure_is_told_and_is_exit_code_1() -> None:
    text = "from exporter.kit.run import leave\nleave(lambda: 1 // 0)"
    ended = subprocess.run([sys.executable, "-c", text], capture_output=True, text=True, timeout=50, check=False)
    assert ended.returncode == 1
    assert "ZeroDivisionError" in ended.stderr


def test_help_is_exit_code_0() -> None:
    ended = subprocess.run(
        [sys.executable, "-m", "exporter", "--help"], capture_output=True, text=True, timeout=50, check=False
    )
    assert (ended.returncode, ended.stderr) == (0, "")
    assert "--engines" in ended.stdout
