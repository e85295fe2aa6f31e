"""How a function becomes a Prefect task here: no result cache, for "is it done?" is the manifest's question."""

import errno
import re
from collections.abc import Callable
from typing import Any, ParamSpec, TypeVar

from prefect import State, Task, task
from prefect.cache_policies import NO_CACHE
from prefect.client.orchestration import get_client
from prefect.client.schemas.objects import FlowRun
from prefect.context import FlowRunContext
from prefect.settings import PREFECT_UI_URL

DEFAULT_PREFECT_UI = "http://127.0.0.1:4200"
ROOT_FLOW_RUN = "prefect.root_flow_run_id"  # the tag's name

P = ParamSpec("P")
R = TypeVar("R")


def road_task(name: str, **options: Any) -> Callable[[Callable[P, R]], Task[P, R]]:
    """A decorator: the function as a task of that name, whose results stay in memory.

    Tags are for what is to be limited alone: for each run of a task that has one, Prefect asks its server whether it may begin.
    """
    return task(name=name, cache_policy=NO_CACHE, persist_result=False, **options)


def can_heal(task: Any, run: Any, state: State[Any]) -> bool:
    """Whether trying again can help: the network or a disk may recover, a corrupt file does not."""
    try:
        state.result()
    except OSError as error:
        return error.errno not in (errno.ENOSPC, errno.EROFS, errno.EACCES, errno.ENOENT)
    except Exception:
        return False
    return False


#: Options of a task that is tried again where that can help. The waits differ, so that many do not come back at once.
HEALING: dict[str, Any] = {
    "retries": 2,
    "retry_delay_seconds": [10, 60],
    "retry_jitter_factor": 0.5,
    "retry_condition_fn": can_heal,
}


def run_links() -> dict[str, str]:
    """Tags for an MLflow run that lead back to the Prefect run it belongs to; none outside a flow run."""
    context = FlowRunContext.get()
    if context is None or context.flow_run is None:
        return {}
    run = context.flow_run
    return {
        ROOT_FLOW_RUN: _root_of(run),
        "prefect.flow_run_id": str(run.id),
        "prefect.flow_run_name": run.name,
        "prefect.flow_run_url": (url := f"{prefect_ui()}/runs/flow-run/{run.id}"),
        # What the run's page says above its numbers until it is evaluated.
        "mlflow.note.content": f"Orchestrated by [this Prefect run]({url}).",
    }


def _root_of(run: FlowRun) -> str:
    """The flow run that a person or a schedule has started, and that a retry keeps."""
    with get_client(sync_client=True) as client:
        while run.parent_task_run_id is not None:
            parent = client.read_task_run(run.parent_task_run_id)
            assert parent.flow_run_id is not None, "a flow within a flow has its parent's task run"
            run = client.read_flow_run(parent.flow_run_id)
    return str(run.id)


def prefect_ui() -> str:
    """The address of the Prefect pages: of the server in use, or where `brickroad up` will show this workspace."""
    return (PREFECT_UI_URL.value() or DEFAULT_PREFECT_UI).rstrip("/")


def dataset_key(name: str, digest: str) -> str:
    """The key of a data set's card: Prefect takes small letters, digits and dashes."""
    words = re.sub(r"[^a-z0-9]+", "-", name.lower()).strip("-")
    return f"dataset-{words}-{digest[:12]}"
