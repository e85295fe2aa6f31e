"""A flow run whose worker was killed says what it says to nobody, saves, and ends."""

import os
import select
import signal
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[2]

WORKER = """
import os, subprocess, sys
run = subprocess.Popen([sys.executable, "-c", sys.argv[1], *sys.argv[2:]], stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
print(run.pid, flush=True)
for line in run.stdout:
    print(line.decode(), end="", flush=True)
"""

RUN = """
import signal, sys, time
from pathlib import Path
from tasks.at_work import _Overseer
from tasks.interruption import StopRequests

said = Path(sys.argv[1])
with _Overseer("of a worker", "chatty"), StopRequests() as stop:
    while not stop.signal_number:
        print("x" * 4096, flush=True)
        time.sleep(0.01)
    print("saved", flush=True)
    said.write_text(f"ended by {signal.Signals(stop.signal_number).name}")
"""


def test_a_run_that_talks_while_its_worker_dies_saves_and_ends(tmp_path: Path) -> None:
    said = tmp_path / "said.txt"
    environment = os.environ | {"PREFECT__FLOW_RUN_ID": "of a worker"}
    with subprocess.Popen(
        [sys.executable, "-c", WORKER, RUN, str(said)],
        cwd=ROOT,
        env=environment,
        stdout=subprocess.PIPE,
        text=True,
    ) as worker:
        assert worker.stdout is not None
        run = int(worker.stdout.readline())
        assert worker.stdout.readline().startswith("xxx")
        pidfd = os.pidfd_open(run)
        os.kill(worker.pid, signal.SIGKILL)
    try:
        assert select.select([pidfd], [], [], 60.0)[0], "it goes on, with nobody to hear or to stop it"
    finally:
        os.close(pidfd)
    assert said.read_text() == "ended by SIGTERM"
