"""What `brickroad up` runs: logs of months stay short, and lose nothing of the newest."""

import time
from pathlib import Path

import pytest

from flows import processes
from flows.processes import Processes

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
