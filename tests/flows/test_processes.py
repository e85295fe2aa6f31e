"""What `brickroad up` runs: logs of months stay short, and lose nothing of the newest; nothing outlives it."""

import os
import select
import subprocess
import sys
import time
from pathlib import Path

import pytest

from flows import processes
from flows.processes import Processes

ROOT = Path(__file__).parents[2]
STUBBORN = "import os, signal, time; signal.signal(signal.SIGTERM, signal.SIG_IGN); print(os.getpid(), flush=True); time.sleep(600)"
UP = """
import signal, sys, time
from pathlib import Path
from flows.processes import Processes
with Processes(Path(sys.argv[1]), {}) as running:
    running.start("stubborn", ["python", "-c", sys.argv[2]], at_our_death=signal.SIGKILL)
    time.sleep(600)
"""
COUNTING = "import time\nfor n in range(10**6): print(n, flush=True); time.sleep(0.0005)"


def test_a_log_is_shortened_while_its_program_writes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(processes, "_LONGEST_LOG_BYTES", 2_000)
    log, earlier = tmp_path / "count.log", tmp_path / "count.log.1"
    with Processes(tmp_path, {}) as running:
        running.start("count", ["python", "-c", COUNTING])
        deadline = time.monotonic() + 60
        while not earlier.exists():
            assert time.monotonic() < deadline
            running.shorten_logs()
            time.sleep(0.01)
        while not log.stat().st_size:
            time.sleep(0.01)
    assert earlier.stat().st_size > 2_000
    before, after = ([int(line) for line in path.read_text().split()] for path in (earlier, log))
    assert before == list(range(len(before)))
    assert after == list(range(after[0], after[0] + len(after))), "appended where the file now ends"
    assert after[0] - before[-1] < 100, "what was written between the copy and the cut alone"


def test_who_waits_for_ever_when_asked_to_end_is_killed_with_us(tmp_path: Path) -> None:
    log = tmp_path / "stubborn.log"
    with subprocess.Popen([sys.executable, "-c", UP, tmp_path, STUBBORN], cwd=ROOT) as up:
        while not (log.exists() and log.read_text().endswith("\n")):
            assert up.poll() is None
            time.sleep(0.05)
        pidfd = os.pidfd_open(int(log.read_text()))
        up.kill()
    try:
        assert select.select([pidfd], [], [], 60.0)[0], "it is left"
    finally:
        os.close(pidfd)
