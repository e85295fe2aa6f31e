"""The commands of this machine: the services that run on it, and what is wrong with it."""

import os
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Any

import typer

from flows.console import command, waiting, words
from flows.environment import prepare
from flows.options import DebugOption, JsonOption, WorkspaceOption
from flows.summaries import at
from storage.workspace import Workspace

app = typer.Typer()


@app.command(epilog="Example:  brickroad up --prefect-port 4300 --mlflow-port 5300")
@command
def up(
    prefect_port: Annotated[int, typer.Option("--prefect-port", help="Port of the Prefect server.")] = 4200,
    mlflow_port: Annotated[int, typer.Option("--mlflow-port", help="Port of the MLflow pages.")] = 5000,
    deployments: Annotated[
        Path | None,
        typer.Option(
            "--deployments",
            exists=True,
            dir_okay=False,
            help="What to deploy: a file like prefect.yaml, with corpora, recipes and times of yours.",
        ),
    ] = None,
    workspace: WorkspaceOption = None,
    as_json: JsonOption = False,
    debug: DebugOption = False,
) -> Mapping[str, Any]:
    """Run the Prefect server, the MLflow pages, workers and the deployments on this machine, until Ctrl-C."""
    place = Workspace.at(workspace)
    prepare(place)
    from flows.services import DEPLOYMENT_FILE, serve_until_stopped

    return serve_until_stopped(
        place,
        deployments=(deployments or DEPLOYMENT_FILE).absolute(),
        prefect_port=prefect_port,
        mlflow_port=mlflow_port,
    )


@app.command(
    epilog="Examples:  brickroad status   ·   brickroad status --html overview.html   ·   brickroad status --json"
)
@command
def status(
    html: Annotated[
        Path | None, typer.Option("--html", help="Also write it as a page to this file.", show_default=False)
    ] = None,
    workspace: WorkspaceOption = None,
    as_json: JsonOption = False,
    debug: DebugOption = False,
) -> Mapping[str, Any]:
    """Show what is here: data sets, runs, models, disk, failures. It starts nothing, and answers at once."""
    from flows.status import show_overview
    from tasks.overview import look_over

    overview = look_over(Workspace.at(workspace))
    show_overview(overview, at(workspace))
    if html:
        from tasks.overview_page import write_overview_page

        write_overview_page(overview, html)
        words.print(f"Open in a browser: {html.absolute().as_uri()}", soft_wrap=True)
    return asdict(overview)


@app.command(epilog="Examples:  brickroad doctor   ·   brickroad doctor --json")
@command
def doctor(
    workspace: WorkspaceOption = None, as_json: JsonOption = False, debug: DebugOption = False
) -> Mapping[str, Any]:
    """Say what is wrong with this machine and its servers, and how to mend it; exit 1 if something is."""
    place = Workspace.at(workspace)
    chosen = os.environ.get("PREFECT_API_URL")
    address = prepare(place)
    with waiting("looking"):
        from flows.doctor import examine, show_findings

        findings = examine(place, prefect_api=chosen or address)
    show_findings(findings)
    return {
        "ok": all(finding.ok for finding in findings),
        "findings": [asdict(finding) for finding in findings],
    }
