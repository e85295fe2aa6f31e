"""What a Prefect server needs to lay roads: work pools, the limit of the GPU, the deployments of a file.

`python -m flows.set_up FILE`, with the server in $PREFECT_API_URL, which may still be starting: meanwhile the file is checked
and its flows are imported, which takes as long. Exit 2, with one line, for a file that is not to be deployed.
"""

import sys
import time
import urllib.request
from pathlib import Path

import prefect.cli
from prefect.client.orchestration import get_client
from prefect.client.schemas.actions import WorkPoolCreate
from prefect.settings import PREFECT_API_URL
from prefect.workers.process import ProcessWorker

from flows.deployment_file import POOLS, read_deployments, refuse_wrong_flows
from flows.limits import GPU

_START_SECONDS = 120.0


def set_up(path: Path) -> None:
    """Makes pools, limit and deployments, or brings those that are there up to date. ValueError for a wrong file."""
    refuse_wrong_flows(path, read_deployments(path))
    _wait_for_server()
    with get_client(sync_client=True) as client:
        client.upsert_global_concurrency_limit_by_name(GPU, limit=1)
        template = ProcessWorker.get_default_base_job_template()
        for name in POOLS:
            pool = WorkPoolCreate(name=name, type="process", base_job_template=template)
            client.create_work_pool(pool, overwrite=True)
    sys.argv = ["prefect", "--no-prompt", "deploy", "--all", "--prefect-file", str(path)]
    prefect.cli.app()  # in this process, which has imported what takes long


def _wait_for_server() -> None:
    deadline = time.monotonic() + _START_SECONDS
    while True:
        try:
            with urllib.request.urlopen(f"{PREFECT_API_URL.value()}/health", timeout=2):  # nosec B310 # the server that we started, on loopback
                return
        except OSError:
            if time.monotonic() > deadline:
                raise
            time.sleep(0.1)


if __name__ == "__main__":
    try:
        set_up(Path(sys.argv[1]))
    except ValueError as error:
        print(error, file=sys.stderr)
        sys.exit(2)
