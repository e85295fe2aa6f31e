"""The commands of a model: trained, measured, compared with another, promoted. Each is a thin call of a flow or of a look."""

from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Any

import typer

from flows.console import command, next_steps, say, table
from flows.environment import prepare
from flows.facts import evaluation_facts, training_facts
from flows.options import (
    DatasetArgument,
    DebugOption,
    JsonOption,
    MeasuredDatasetOption,
    ModelArgument,
    WorkspaceOption,
)
from flows.prefect_server import prefect_ready
from flows.summaries import at, share_or_unknown, show_certificate, show_evaluation, show_training_plan
from flows.training_options import (
    DepthOption,
    NodeOption,
    NodesOption,
    PresetOption,
    ProcessesOption,
    RendezvousOption,
    ResumeOption,
    SetOption,
    settings_by_key,
)
from storage.workspace import Workspace

app = typer.Typer()


@app.command(
    epilog="Examples:  brickroad train stdlib-docs --preset course   ·   brickroad train stdlib-docs --depth 2   ·   brickroad train stdlib-docs --nproc 8"
)
@command
def train(
    dataset: DatasetArgument,
    preset: PresetOption = None,
    depth: DepthOption = None,
    settings: SetOption = None,
    resume: ResumeOption = None,
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
    return training_facts(trained, evaluation)


@app.command(
    epilog="Examples:  brickroad evaluate brickroad-gpt@champion --report page.html   ·   brickroad evaluate RUN_ID --questions hellaswag.jsonl"
)
@command
def evaluate(
    model: ModelArgument,
    dataset: MeasuredDatasetOption = None,
    questions: Annotated[
        list[Path] | None,
        typer.Option(
            "--questions",
            help="JSON lines of questions, as HellaSwag and LAMBADA have them. May be repeated.",
            show_default=False,
        ),
    ] = None,
    report: Annotated[
        Path | None, typer.Option("--report", help="Write the page of it here, too.", show_default=False)
    ] = None,
    workspace: WorkspaceOption = None,
    as_json: JsonOption = False,
    debug: DebugOption = False,
) -> Mapping[str, Any]:
    """Measure a model exactly: its loss on every token of the val split, and where it is."""
    place = prefect_ready(workspace, debug)
    from flows.evaluate_model import evaluate_model
    from tasks.evaluation_report import evaluation_page

    evaluation = evaluate_model(
        model, dataset, [path.absolute() for path in questions or []], workspace=place.root
    )
    show_evaluation(evaluation)
    if report:
        report.write_text(evaluation_page(evaluation), encoding="utf-8")
        say(f"The page of it: {report}")
    return evaluation_facts(evaluation)


@app.command(
    epilog="Example:  brickroad compare brickroad-gpt@champion brickroad-gpt/4 --picture comparison.png"
)
@command
def compare(
    first: ModelArgument,
    second: ModelArgument,
    dataset: Annotated[
        str | None,
        typer.Option("--dataset", help="Data set. \\[default: the first one's]", show_default=False),
    ] = None,
    picture: Annotated[
        Path | None, typer.Option("--picture", help="Draw it here, as .png or .svg.", show_default=False)
    ] = None,
    workspace: WorkspaceOption = None,
    as_json: JsonOption = False,
    debug: DebugOption = False,
) -> Mapping[str, Any]:
    """Compare two models on the same val split: by how much the second is better, and how sure that is."""
    place = Workspace.at(workspace)
    prepare(place)
    from storage.files import named_errors
    from tasks import comparison
    from tasks.registry import find_model

    paths = (find_model(first, place).path, find_model(second, place).path)
    found = comparison.compare(*paths, place, dataset_reference=dataset)
    difference = found.difference
    table(
        f"On {found.dataset}, {len(found.first.document_nats):,} documents",
        {
            first: f"{found.first.loss:.4f} nats per token",
            second: f"{found.second.loss:.4f}",
            "difference": f"{difference.difference:+.4f} ± {difference.standard_error:.4f}, {abs(difference.deviations):.1f} standard errors",
        },
    )
    if picture:
        with named_errors(picture):
            found.picture(first, second).savefig(picture)
        say(f"The picture of it: {picture}")
    return {
        "dataset": found.dataset,
        "first_loss": found.first.loss,
        "second_loss": found.second.loss,
    } | asdict(difference)


@app.command(
    epilog="Examples:  brickroad promote brickroad-gpt/3   ·   brickroad promote RUN_ID   ·   brickroad promote --back"
)
@command
def promote(
    model: Annotated[
        str | None,
        typer.Argument(
            help="What to make champion: name/version; a run id or checkpoint folder is registered first.",
            show_default=False,
        ),
    ] = None,
    back: Annotated[
        bool, typer.Option("--back", help="The version that was champion before this one.")
    ] = False,
    workspace: WorkspaceOption = None,
    as_json: JsonOption = False,
    debug: DebugOption = False,
) -> Mapping[str, Any]:
    """Make a model champion by hand, or go back to the one before."""
    if (model is None) != back:
        raise typer.BadParameter("give either a version or --back")
    prepare(Workspace.at(workspace))
    from tasks import registry

    place = Workspace.at(workspace)
    version = registry.promote(model, place) if model else registry.roll_back(place)
    say(f"{version.name} version {version.version} is champion: {version.reason}.")
    next_steps(f'generate {version.name}@champion --prompt "The "{at(workspace)}')
    return asdict(version)
