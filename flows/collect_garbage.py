"""The flow that closes what dead processes have left open, and removes what nothing in the workspace needs any more."""

from pathlib import Path

from prefect import flow
from prefect.artifacts import create_table_artifact

from storage.workspace import Workspace
from tasks.at_work import leased
from tasks.engine import road_task
from tasks.garbage import Garbage, Keeping, look_for_garbage, remove_garbage
from tasks.sweep import sweep

_sweep = road_task("close what is left")(sweep)
_look = road_task("look for garbage")(look_for_garbage)
_remove = road_task("remove garbage")(remove_garbage)


@flow(name="collect-garbage", flow_run_name="collect garbage", persist_result=False)
@leased
def collect_garbage(
    keep_last: int = 1, keep_best: int = 1, dry_run: bool = False, workspace: Path | None = None
) -> Garbage:
    """Everything to what is needed.

    Args:
        keep_last: so many last checkpoints of each run stay.
        keep_best: so many checkpoints with the lowest val loss stay, too.
        dry_run: only say what would go.
        workspace: the folder that holds everything; by default $BRICKROAD_WORKSPACE, else ./workspace.
    """
    place, keeping = Workspace.at(workspace), Keeping(last=keep_last, best=keep_best)
    _sweep(place)
    garbage = _look(place, keeping)
    create_table_artifact(
        [{"kind": one.kind, "items": one.items, "bytes freed": one.freed_bytes} for one in garbage.piles],
        key="garbage",
        description="\n".join(["What nothing needs", *garbage.left]),
    )
    return garbage if dry_run else _remove(place, keeping)
