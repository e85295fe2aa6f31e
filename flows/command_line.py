"""The command line, `brickroad`: each command is a thin call of a flow or of a look at the workspace.

Heavy imports are inside the commands that need them: `brickroad --help` and the looks answer at once.
"""

import time
from collections.abc import Mapping
from dataclasses import asdict
from typing import Annotated, Any

import typer

from flows import (
    cleaning_commands,
    dataset_commands,
    machine_commands,
    model_commands,
    proving_commands,
    remaking_commands,
    writing_commands,
)
from flows.console import command, next_steps, table
from flows.corpus_options import (
    CorpusArgument,
    EngineAddressOption,
    EngineOption,
    LimitOption,
    NameOption,
    StoreOption,
    TolerateOption,
    ValFractionOption,
    WorkersOption,
)
from flows.environment import prepare
from flows.options import DebugOption, JsonOption, WorkspaceOption
from flows.prefect_server import prefect_ready
from flows.summaries import (
    at,
    show_built,
    show_evaluation,
    show_sample,
)
from flows.training_options import DepthOption, PresetOption, ProcessesOption, SetOption, settings_by_key
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
# Their commands stand beside those of this file, in this order: the life of a model, and then the machine.
for module in (
    model_commands,
    writing_commands,
    remaking_commands,
    proving_commands,
    machine_commands,
    cleaning_commands,
):
    app.add_typer(module.app)


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
    engine: EngineOption = "threads",
    engine_address: EngineAddressOption = None,
    store: StoreOption = None,
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
    from tasks.engines.start import EngineConfig
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
        engine=EngineConfig(engine=engine, address=engine_address),
        store=store,
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


def main() -> None:
    """The entry point."""
    app()
