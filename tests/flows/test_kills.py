"""Random kills on a real road: servers, a worker, builds and trainings; `bench.kills` makes thirty of them."""

import subprocess
import sys
from pathlib import Path

import pytest
from programs import without_prefect

ROOT = Path(__file__).parent.parent.parent


@pytest.mark.timeout(1500)
def test_a_killed_flow_a_cancelled_one_and_a_killed_worker_end_right() -> None:
    environment = without_prefect()
    command = [sys.executable, "-m", "bench.kills", "--kills", "3", "--seed", "1"]
    done = subprocess.run(command, cwd=ROOT, env=environment, check=False)
    assert done.returncode == 0, "what was wrong stands above"
