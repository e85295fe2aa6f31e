"""The command line, `brickroad`: each command is a thin call of a flow or of a look at the workspace.

Heavy imports are inside the commands that need them: `brickroad --help` and the looks answer at once.
"""

import time
from collections.abc import Mapping
from dataclasses import asdict
from typing import Annotated, Any

import typer

from flows import dataset_commands, model_commands
from flows.console import command, next_steps, say, table, words
from flows.environment import prepare
from flows.options import (
    CorpusArgument,
    DatasetArgument,
    DebugOption,
    DepthOption,
    JsonOption,
    LimitOption,
    NameOption,
    NodeOption,
    NodesOption,
    PresetOption,
    ProcessesOption,
    RendezvousOption,
    SetOption,
    TolerateOption,
    ValFractionOption,
    WorkersOption,
    WorkspaceOption,
    settings_by_key,
)
from flows.prefect_server import prefect_ready
from flows.summaries import (
    at,
    share_or_unknown,
    show_built,
    show_certificate,
    show_evaluation,
    show_sample,
    show_training_plan,
)
from storage.network import kept_aside
from storage.workspace import Workspace

app = typer.Typer(
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    add_completion=False,
    rich_markup_mode="rich",
    help="From OpenWebText .xz shards to a trained, evaluated, registered GPT.\n\n"
    "[dim]Start with[/dim] brickroad run [dim]: it needs no network, account or GPU.[/dim]",
)
app.add_typer(dataset_commands.app, name="dataset")
app.add_typer(model_commands.app)  # its commands stand beside those of this file


@app.command(
    epilog="Examples:  brickroad run   ·   brickroad run path/to/shards --preset baby   ·   brickroad run wizard-of-oz --json"
)
@command
def run(
    corpus: CorpusArgument = "stdlib-docs",
    name: NameOption = None,
    val_fraction: ValFractionOption = None,
    tolerate_bad_shards: TolerateOption = 0,
    limit_shards: LimitOption = None,
    workers: WorkersOption = None,
    preset: PresetOption = None,
    depth: DepthOption = None,
    settings: SetOption = None,
    processes: ProcessesOption = 1,
    workspace: WorkspaceOption = None,
    as_json: JsonOption = False,
    debug: DebugOption = False,
) -> Mapping[str, Any]:
    """Lay the whole road: corpus, data set, training, evaluation, registered model."""
    began = time.monotonic()
    place = prefect_ready(workspace, debug)
    from flows.run_pipeline import run_pipeline
    from tasks.corpora import CorpusConfig
    from tasks.training_request import TrainingRequest

    config = CorpusConfig(
        corpus=kept_aside(corpus),
        name=name,
        val_fraction=val_fraction,
        tolerate_bad_shards=tolerate_bad_shards,
        limit_shards=limit_shards,
        workers=workers,
    )
    result = run_pipeline(
        config,
        TrainingRequest(preset=preset, depth=depth, settings=settings_by_key(settings), processes=processes),
        workspace=place.root,
    )
    dataset, model, version = result.built.dataset, result.model, result.version
    show_built(result.built)
    show_evaluation(model.evaluation)
    table(
        "Model",
        {
            "registered": f"{version.name} version {version.version}, alias {version.alias}",
            "because": version.reason,
            "checkpoint": str(model.trained.checkpoint),
            "MLflow run": model.trained.run_id,
        },
    )
    show_sample(model.evaluation.sample)
    reference = f"{version.name}/{version.version}"
    next_steps(
        f'generate {reference} --prompt "The "{at(workspace)}',
        f"dataset show {dataset.reference}{at(workspace)}",
        f"up{at(workspace)}      # the Prefect and MLflow pages of this run",
    )
    return {
        "dataset_digest": dataset.manifest.digest,
        "dataset_path": dataset.path,
        "built_parts": result.built.built_parts,
        "reused_parts": result.built.reused_parts,
        "run_id": model.trained.run_id,
        "model_name": version.name,
        "model_version": version.version,
        "model_alias": version.alias,
        "val_loss": model.evaluation.val_loss,
        "val_bits_per_byte": model.evaluation.val_bits_per_byte,
        "bigram_loss": model.evaluation.references.bigram,
        "sample": model.evaluation.sample,
        "peak_rss_bytes": result.built.peak_rss_bytes,
        "seconds": time.monotonic() - began,
    }


@app.command(
    epilog="Examples:  brickroad train stdlib-docs --preset course   ·   brickroad train stdlib-docs --depth 2   ·   brickroad train stdlib-docs --nproc 8"
)
@command
def train(
    dataset: DatasetArgument,
    preset: PresetOption = None,
    depth: DepthOption = None,
    settings: SetOption = None,
    resume: Annotated[
        str | None,
        typer.Option("--resume", help="Run id to go on with, from its last checkpoint.", show_default=False),
    ] = None,
    check_all_data: Annotated[
        bool,
        typer.Option(
            "--check-all-data", help="Check every byte of the data set before, not some blocks alone."
        ),
    ] = False,
    certify_resume: Annotated[
        bool,
        typer.Option(
            "--certify-resume",
            help="Instead: train some steps, then again with kill -9 and --resume, and compare all bytes.",
        ),
    ] = False,
    plan: Annotated[
        bool,
        typer.Option(
            "--plan",
            help="Instead: measure 20 steps, and say what the whole takes; refuse what does not fit.",
        ),
    ] = False,
    price_per_hour: Annotated[
        float | None,
        typer.Option("--price-per-hour", help="Of one device, for --plan.", show_default=False),
    ] = None,
    processes: ProcessesOption = 1,
    nodes: NodesOption = 1,
    node: NodeOption = 0,
    rendezvous: RendezvousOption = None,
    workspace: WorkspaceOption = None,
    as_json: JsonOption = False,
    debug: DebugOption = False,
) -> Mapping[str, Any]:
    """Train a model on a data set, evaluating as it goes. Ctrl-C saves; --resume goes on."""
    from tasks.training_request import TrainingRequest

    request = TrainingRequest(
        dataset=dataset,
        preset=preset,
        depth=depth,
        settings=settings_by_key(settings),
        resume=resume,
        check_all_data=check_all_data,
        processes=processes,
        nodes=nodes,
        node=node,
        rendezvous=rendezvous,
    )
    if plan:
        prepare(Workspace.at(workspace))
        from tasks.training_plan import plan_training

        planned = plan_training(request, Workspace.at(workspace), price_per_hour=price_per_hour)
        show_training_plan(planned)
        return asdict(planned)
    if certify_resume:
        prepare(Workspace.at(workspace))
        from tasks import certificate

        certified = certificate.certify_resume(request, Workspace.at(workspace))
        show_certificate(certified)
        return asdict(certified) | {"ok": certified.ok}
    if node > 0:
        prepare(Workspace.at(workspace))
        from tasks.training import train as take_part

        take_part(request, Workspace.at(workspace))
        say(f"Machine {node} of {nodes} has done its part; the model is where machine 0 is.")
        return {"node": node}
    place = prefect_ready(workspace, debug)
    from flows.train_model import train_model

    result = train_model(request, workspace=place.root)
    trained, evaluation = result.trained, result.evaluation
    show_evaluation(evaluation)
    table(
        "Training",
        {
            "steps": f"{trained.steps:,}" + (", out of patience" if trained.ran_out_of_patience else ""),
            "updates left out": f"{trained.skipped_updates:,}",
            "speed": f"{trained.tokens_per_second:,.0f} tokens/s, MFU {share_or_unknown(trained.utilisation)}",
            "checkpoint": str(trained.checkpoint),
            "MLflow run": trained.run_id,
        },
    )
    next_steps(f'generate {trained.run_id} --prompt "The "{at(workspace)}', f"up{at(workspace)}")
    return {
        "run_id": trained.run_id,
        "checkpoint": trained.checkpoint,
        "steps": trained.steps,
        "train_loss": trained.train_loss,
        "val_loss": evaluation.val_loss,
        "val_bits_per_byte": evaluation.val_bits_per_byte,
        "tokens_per_second": trained.tokens_per_second,
        "mfu": trained.utilisation,
        "skipped_updates": trained.skipped_updates,
        "ran_out_of_patience": trained.ran_out_of_patience,
        "seconds": trained.seconds,
    }


@app.command(
    epilog="Examples:  brickroad tour   ·   brickroad tour bigram attention   ·   brickroad tour --corpus wizard-of-oz"
)
@command
def tour(
    stops: Annotated[
        list[str] | None,
        typer.Argument(help="Which stops, such as attention. \\[default: all of them]", show_default=False),
    ] = None,
    corpus: Annotated[
        str, typer.Option("--corpus", help="What to read on the way, as brickroad dataset build takes it.")
    ] = "stdlib-docs",
    list_stops: Annotated[bool, typer.Option("--list", help="Say which stops there are.")] = False,
    workspace: WorkspaceOption = None,
    as_json: JsonOption = False,
    debug: DebugOption = False,
) -> Mapping[str, Any]:
    """Walk through the course, stop by stop: each runs code of this repository, and shows what comes out."""
    place = Workspace.at(workspace)
    prepare(place)
    from tasks.tour.ground import Ground
    from tasks.tour.stops import STOPS, chosen_stops

    if list_stops:
        table("Stops of the tour", {stop.name: stop.title for stop in STOPS})
        return {"stops": [asdict(stop) for stop in STOPS]}
    try:
        chosen = chosen_stops(stops or [])
    except ValueError as error:
        raise typer.BadParameter(str(error)) from None
    from flows.tour import walk_through

    visited = walk_through(chosen, Ground(place, corpus=kept_aside(corpus)))
    return {"stops": visited, "page": str(place.root / "tour" / "index.html")}


@app.command(epilog="Example:  brickroad up --prefect-port 4300 --mlflow-port 5300")
@command
def up(
    prefect_port: Annotated[int, typer.Option("--prefect-port", help="Port of the Prefect server.")] = 4200,
    mlflow_port: Annotated[int, typer.Option("--mlflow-port", help="Port of the MLflow pages.")] = 5000,
    workspace: WorkspaceOption = None,
    as_json: JsonOption = False,
    debug: DebugOption = False,
) -> Mapping[str, Any]:
    """Run the Prefect server, the MLflow pages, a worker and the deployments on this machine, until Ctrl-C."""
    place = Workspace.at(workspace)
    prepare(place)
    from flows.services import serve_until_stopped

    return serve_until_stopped(place, prefect_port=prefect_port, mlflow_port=mlflow_port)


@app.command()
@command
def doctor(
    workspace: WorkspaceOption = None, as_json: JsonOption = False, debug: DebugOption = False
) -> Mapping[str, Any]:
    """Say what is wrong with this machine, and how to mend it."""
    place = Workspace.at(workspace)
    prepare(place)
    from flows.doctor import examine

    findings = examine(place)
    for finding in findings:
        mark = "[green]✓[/green]" if finding.ok else "[red]✗[/red]"
        words.print(
            f"{mark} {finding.what}: {finding.found}" + ("" if finding.ok else f"; {finding.way_out}"),
            soft_wrap=True,
        )
    return {
        "ok": all(finding.ok for finding in findings),
        "findings": [asdict(finding) for finding in findings],
    }


def main() -> None:
    """The entry point."""
    app()
