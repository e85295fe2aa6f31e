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
#: What each table has of a flow run: a condition on its id, or on those of its task runs.
OF_A_RUN = {
    "flow_run": "id = :run",
    "flow_run_state": "flow_run_id = :run",
    "task_run": "flow_run_id = :run",
    "task_run_state": "task_run_id IN (SELECT value FROM json_each(:tasks))",
    "log": "flow_run_id = :run",
    "artifact": "flow_run_id = :run",
}


def rows(database: Path, run: dict[str, str]) -> dict[str, int]:
    """How many each table has of a run."""
    with contextlib.closing(sqlite3.connect(f"file:{database}?mode=ro", uri=True)) as connection:
        return {
            table: connection.execute(f"SELECT count(*) FROM {table} WHERE {mine}", run).fetchone()[0]
            for table, mine in OF_A_RUN.items()
        }


def test_runs_that_ended_long_ago_leave_the_database(workspace: Workspace) -> None:
    environment = without_prefect()
    collect = [BIN / "brickroad", "collect-garbage", "--workspace", workspace.root]
    for _ in range(2):
        subprocess.run(collect, check=True, env=environment, timeout=PATIENCE_SECONDS)
    database = workspace.prefect / "prefect.db"
    with contextlib.closing(sqlite3.connect(database)) as connection:
        old, new = (
            {"run": run, "tasks": tasks}
            for run, tasks in connection.execute(
                "SELECT id, (SELECT json_group_array(id) FROM task_run WHERE flow_run_id = flow_run.id) "
                "FROM flow_run ORDER BY start_time"
            )
        )
        connection.execute(
            "UPDATE flow_run SET end_time = datetime(end_time, '-91 days') WHERE id = :run", old
        )
        connection.commit()
    of_old, of_new = rows(database, old), rows(database, new)
    assert all(of_old.values()), "a run leaves something in each table"

    sweep = [BIN / "brickroad", "sweep", "--every", "1", "--workspace", workspace.root]
    with subprocess.Popen(sweep, env=environment, stderr=subprocess.DEVNULL) as sweeper:
        try:
            deadline = time.monotonic() + PATIENCE_SECONDS
            while any(rows(database, old).values()):
                assert time.monotonic() < deadline, (of_old, rows(database, old))
                time.sleep(0.5)
        finally:
            sweeper.terminate()
    assert rows(database, new) == of_new
    assert all(of_new.values())
