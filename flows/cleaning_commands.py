"""The commands that clean up: what dead processes have left open, and what nothing needs any more."""

import os
import time
from collections.abc import Mapping
from dataclasses import asdict
from typing import TYPE_CHECKING, Annotated, Any

import typer

from flows.console import command, say, size, table
from flows.environment import is_reachable, prepare
from flows.options import DebugOption, JsonOption, WorkspaceOption
from flows.prefect_server import prefect_ready
from storage.errors import NetworkError
from storage.leases import inherit_leases
from storage.network import shown
from storage.workspace import Workspace

if TYPE_CHECKING:
    from tasks.sweep import Swept

app = typer.Typer()


@app.command(
    epilog="Examples:  brickroad sweep   ·   brickroad sweep --every 30   ·   brickroad sweep --gone node-7"
)
@command
def sweep(
    every: Annotated[
        float | None,
        typer.Option(
            "--every", min=1, help="Again after so many seconds, until a signal.", show_default=False
        ),
    ] = None,
    gone: Annotated[
        str | None,
        typer.Option(
            "--gone",
            metavar="HOST",
            help="A machine that is no more: its runs are closed here.",
            show_default=False,
        ),
    ] = None,
    workspace: WorkspaceOption = None,
    as_json: JsonOption = False,
    debug: DebugOption = False,
) -> Mapping[str, Any]:
    """Close the runs, in Prefect and in MLflow, whose processes are no more. Healthy ones are not touched."""
    if (address := os.environ.get("PREFECT_API_URL")) and not is_reachable(address):
        reason = "no Prefect server answers there; start it: the runs that it knows are to be closed"
        raise NetworkError(shown(address), reason)
    if gone is not None:
        inherit_leases(Workspace.at(workspace).leases, gone)
    place = prefect_ready(workspace, debug)
    from tasks.sweep import sweep as close_what_is_left

    while every is not None:
        _sweep_once(place)
        time.sleep(every)
    swept = close_what_is_left(place)
    _show(swept)
    return asdict(swept)


@app.command(
    epilog="Examples:  brickroad collect-garbage --dry-run   ·   brickroad collect-garbage --keep-last 2"
)
@command
def collect_garbage(
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only say what would go.")] = False,
    keep_last: Annotated[
        int, typer.Option("--keep-last", min=1, help="So many last checkpoints of each run stay.")
    ] = 1,
    keep_best: Annotated[
        int, typer.Option("--keep-best", min=1, help="So many of the lowest val loss stay, too.")
    ] = 1,
    workspace: WorkspaceOption = None,
    as_json: JsonOption = False,
    debug: DebugOption = False,
) -> Mapping[str, Any]:
    """Remove what nothing needs: checkpoints, data sets, text, remains. What a run, version or name refers to stays."""
    place = Workspace.at(workspace) if dry_run else prefect_ready(workspace, debug)
    prepare(place)
    from flows.collect_garbage import collect_garbage as collect
    from tasks.garbage import Keeping, look_for_garbage

    if dry_run:
        garbage = look_for_garbage(place, Keeping(last=keep_last, best=keep_best))
    else:
        garbage = collect(keep_last, keep_best, workspace=place.root)
    rows = {pile.kind: f"{pile.items:,}, {size(pile.freed_bytes)}" for pile in garbage.piles if pile.items}
    title = "Would go" if dry_run else "Gone"
    table(
        title,
        rows
        | {"freed": size(garbage.freed_bytes)}
        | ({"left": "; ".join(garbage.left)} if garbage.left else {}),
    )
    return asdict(garbage) | {"freed_bytes": garbage.freed_bytes, "dry_run": dry_run}


def _sweep_once(place: Workspace) -> None:
    """A sweep that fails is made again: a server may be down for a while."""
    from tasks.sweep import sweep as close_what_is_left

    try:
        swept = close_what_is_left(place)
    except Exception as error:
        say(
            f"[yellow]this sweep failed, and the next will see to it: {type(error).__name__}: {error}[/yellow]"
        )
    else:
        if not swept.is_nothing:
            _show(swept)


def _show(swept: "Swept") -> None:
    table(
        "Closed: what dead processes have left",
        {
            "MLflow runs": ", ".join(swept.trainings) or "none",
            "flow runs": ", ".join(swept.flow_runs) or "none",
            "scheduled again": ", ".join(swept.rescheduled) or "none",
            "left alone": "; ".join(swept.left_alone) or "none",
        },
    )
