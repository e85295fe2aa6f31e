"""What months of nights leave in Prefect's database: runs that ended long ago go, with all that belongs to them."""

import contextlib
import sqlite3
import subprocess
import sys
import time
from pathlib import Path

from programs import without_prefect

from storage.workspace import Workspace

BIN = Path(sys.executable).parent
PATIENCE_SECONDS = 120.0
TABLES = ("flow_run", "flow_run_state", "task_run", "task_run_state", "log", "artifact")


def rows(database: Path) -> list[int]:
    """How many each table has."""
    with contextlib.closing(sqlite3.connect(f"file:{database}?mode=ro", uri=True)) as connection:
        return [connection.execute(f"SELECT count(*) FROM {table}").fetchone()[0] for table in TABLES]


def test_runs_that_ended_long_ago_leave_the_database(workspace: Workspace) -> None:
    environment = without_prefect()
    collect = [BIN / "brickroad", "collect-garbage", "--workspace", workspace.root]
    for _ in range(2):
        subprocess.run(collect, check=True, env=environment, timeout=PATIENCE_SECONDS)
    database = workspace.prefect / "prefect.db"
    of_both = rows(database)
    assert all(of_both), "each run leaves something in each table"
    with contextlib.closing(sqlite3.connect(database)) as connection:
        connection.execute(
            "UPDATE flow_run SET end_time = datetime(end_time, '-91 days') "
            "WHERE start_time = (SELECT min(start_time) FROM flow_run)"
        )
        connection.commit()

    sweep = [BIN / "brickroad", "sweep", "--every", "1", "--workspace", workspace.root]
    with subprocess.Popen(sweep, env=environment, stderr=subprocess.DEVNULL) as sweeper:
        try:
            deadline = time.monotonic() + PATIENCE_SECONDS
            while rows(database) != [count // 2 for count in of_both]:
                assert time.monotonic() < deadline, (of_both, rows(database))
                time.sleep(0.5)
        finally:
            sweeper.terminate()
