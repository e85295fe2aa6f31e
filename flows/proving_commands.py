"""The command that proves: `brickroad reproduce` repeats a run, and says where the two part."""

from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.markup import escape
from rich.table import Table

from flows.console import command, say, words
from flows.options import DebugOption, JsonOption, WorkspaceOption
from flows.prefect_server import prefect_ready

if TYPE_CHECKING:
    from tasks.partings import Reproduction

app = typer.Typer()


@app.command(
    epilog="Examples:  brickroad reproduce RUN_ID   ·   brickroad reproduce brickroad-gpt@champion --keep again"
)
@command
def reproduce(
    run: Annotated[
        str, typer.Argument(metavar="RUN", help="Run id, name/version, name@alias, or a run.json.")
    ],
    keep: Annotated[
        Path | None,
        typer.Option(
            "--keep", help="New folder for what is made again. \\[default: it goes]", show_default=False
        ),
    ] = None,
    workspace: WorkspaceOption = None,
    as_json: JsonOption = False,
    debug: DebugOption = False,
) -> Mapping[str, Any]:
    """Repeat a run: build its data and train again, and compare all bytes and numbers. Exit 1 where they part."""
    place = prefect_ready(workspace, debug)
    from flows.reproduce_run import reproduce_run

    reproduced = reproduce_run(run, keep, workspace=place.root)
    _show(reproduced)
    return asdict(reproduced) | {"ok": reproduced.ok, "parts_at": reproduced.parts_at, "kept": keep}


def _show(reproduced: "Reproduction") -> None:
    title = f"Run {reproduced.run_id} on {reproduced.dataset}, to step {reproduced.step:,}"
    words.print(f"[bold]{escape(title)}[/bold]", soft_wrap=True)
    shown = Table(show_header=False, box=None, padding=(0, 2, 0, 0))
    shown.add_column(no_wrap=True)
    shown.add_column(overflow="fold")
    for one in reproduced.findings:
        mark = "[green]✓[/green]" if one.is_same else "[red]✗[/red]"
        shown.add_row(f"{mark} {one.what}", escape(one.how))
    words.print(shown)
    if reproduced.ok:
        say("[green]Repeated to the same bytes.[/green]")
    else:
        say(f"[bold red]They first part in the {escape(reproduced.parts_at or '')}[/bold red]")
    if reproduced.surroundings:
        say("What differs from where it was trained" + ("" if reproduced.ok else ", the likely reason") + ":")
        for line in reproduced.surroundings:
            words.print(f"  {escape(line)}")
    elif not reproduced.ok:
        say("Nothing that is recorded of its surroundings differs: suspect the sources, or the hardware.")
