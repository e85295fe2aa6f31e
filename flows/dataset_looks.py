"""`brickroad dataset list`, `show`, `diff`, `trace`, …: look at data sets. Nothing here starts Prefect."""

import itertools
from collections.abc import Mapping
from dataclasses import asdict
from typing import Annotated, Any

import typer
from rich.markup import escape

from flows.console import columns, command, printable, say, size, table, words
from flows.options import DatasetArgument, DebugOption, JsonOption, SplitOption, WorkspaceOption
from flows.summaries import (
    show_dataset,
    show_dropped,
    show_left_out,
    show_origin,
    show_sample,
)
from storage.workspace import Workspace

app = typer.Typer()


@app.command("list")
@command
def dataset_list(
    workspace: WorkspaceOption = None, as_json: JsonOption = False, debug: DebugOption = False
) -> Mapping[str, Any]:
    """List the finished data sets, oldest first."""
    from storage.datasets import list_datasets

    datasets, errors = list_datasets(Workspace.at(workspace).datasets)
    if not datasets:
        say(f"No data sets in {Workspace.at(workspace).datasets} yet; build one: brickroad dataset build")
    else:
        rows = [
            [d.reference, f"{d.manifest.train.documents + d.manifest.val.documents:,}", f"{d.manifest.train.tokens:,}",
             f"{d.manifest.val.tokens:,}", f"{d.manifest.vocabulary_size:,}", d.manifest.build["created_at"][:16]]
            for d in datasets
        ]  # fmt: skip
        columns("Data sets", ["reference", "documents", "train", "val", "vocabulary", "made (UTC)"], rows)
    for error in errors:
        say(f"[yellow]Not listed:[/yellow] {escape(str(error))}")
    return {
        "datasets": [
            {
                "name": d.manifest.name,
                "digest": d.manifest.digest,
                "path": d.path,
                "train_tokens": d.manifest.train.tokens,
                "val_tokens": d.manifest.val.tokens,
            }
            for d in datasets
        ]
    }


@app.command("show", epilog="Example:  brickroad dataset show stdlib-docs")
@command
def dataset_show(
    reference: DatasetArgument,
    workspace: WorkspaceOption = None,
    as_json: JsonOption = False,
    debug: DebugOption = False,
) -> Mapping[str, Any]:
    """Show a data set: sizes, sources, settings, and the beginning of its first document."""
    from tasks.at_hand import dataset_at_hand
    from tasks.look import first_text

    dataset = dataset_at_hand(reference, Workspace.at(workspace))
    manifest = dataset.manifest
    total = manifest.train + manifest.val
    show_dataset(dataset)
    table(
        "Made from",
        {
            "shards": f"{len(manifest.sources):,}, {size(sum(source.compressed_bytes for source in manifest.sources))}",
            "first": f"{manifest.sources[0].name}  sha256 {manifest.sources[0].sha256[:16]}…",
            "bad shards": ", ".join(shard.name for shard in manifest.quarantined) or "none",
            "quality": _quality(manifest.build["config"]["quality"]) or "every document",
            "normalised": ", ".join(
                f"{count:,} {what.replace('_', ' ')}" for what, count in manifest.normalisation.items()
            ),
            "split": f"{manifest.val_fraction:g} of documents, by content hash",
            "made": f"{manifest.build['created_at']} by brickroad {manifest.build['brickroad']}",
        },
    )
    show_left_out(dataset)
    show_sample(first_text(dataset), "It begins")
    return asdict(manifest) | {"path": dataset.path, "documents": total.documents}


def _quality(config: Mapping[str, Any]) -> str:
    """The quality steps that are on, by the names of their options."""
    return ", ".join(
        name.replace("_", " ") + ("" if value is True else f" {_listed(value)}")
        for name, value in config.items()
        if value and name != "decontamination_words"
    )


def _listed(value: Any) -> str:
    return ", ".join(map(str, value)) if isinstance(value, list) else str(value)


@app.command(
    "dropped", epilog="Example:  brickroad dataset dropped web --step near-duplicate --limit 100 --json"
)
@command
def dataset_dropped(
    reference: DatasetArgument,
    step: Annotated[
        str | None,
        typer.Option("--step", help="Of this step only, such as near-duplicate.", show_default=False),
    ] = None,
    limit: Annotated[int, typer.Option("--limit", min=1, help="Documents to list.")] = 20,
    workspace: WorkspaceOption = None,
    as_json: JsonOption = False,
    debug: DebugOption = False,
) -> Mapping[str, Any]:
    """List the documents that quality steps left out, with why, and where they came from."""
    from tasks.at_hand import dataset_at_hand
    from tasks.look import dropped_documents

    dataset = dataset_at_hand(reference, Workspace.at(workspace))
    found = list(itertools.islice(dropped_documents(dataset, step), limit))
    show_dropped(found)
    show_left_out(dataset)
    if not found:
        say(f"{dataset.reference}: no quality step left documents out of it")
    left_out = [asdict(one) for one in dataset.manifest.left_out]
    return {"documents": [one._asdict() for one in found], "left_out": left_out}


@app.command("diff", epilog="Example:  brickroad dataset diff web@3f2a web@91c0")
@command
def dataset_diff(
    before: DatasetArgument,
    after: DatasetArgument,
    workspace: WorkspaceOption = None,
    as_json: JsonOption = False,
    debug: DebugOption = False,
) -> Mapping[str, Any]:
    """Say what came, went and changed from one data set to another."""
    from tasks.at_hand import dataset_at_hand
    from tasks.look import difference

    place = Workspace.at(workspace)
    found = difference(dataset_at_hand(before, place), dataset_at_hand(after, place))
    table(
        f"From {before} to {after}",
        {
            "documents": f"{found.documents_same:,} the same, {found.documents_came:,} came, {found.documents_went:,} went, "
            f"{found.documents_moved:,} moved between splits",
            "shards": f"{len(found.sources_came):,} came, {len(found.sources_went):,} went, {len(found.sources_changed):,} changed",
            **{
                name.replace("_", " "): f"{old} before, {new} now"
                for name, (old, new) in found.settings.items()
            },
        },
    )
    for sign, names in (("+", found.came), ("-", found.went)):
        for name in names:
            say(f"  {sign} {printable(name)}")
    return asdict(found)


@app.command(
    "trace",
    epilog="Examples:  brickroad dataset trace web 1000000   ·   brickroad dataset trace web --document 9f86d081",
)
@command
def dataset_trace(
    reference: DatasetArgument,
    offset: Annotated[int | None, typer.Argument(help="Number of a token, from 0.")] = None,
    document: Annotated[
        str | None, typer.Option("--document", help="sha256 of a document's text, or its beginning.")
    ] = None,
    split: SplitOption = "train",
    workspace: WorkspaceOption = None,
    as_json: JsonOption = False,
    debug: DebugOption = False,
) -> Mapping[str, Any]:
    """Follow a token, or a document, back to its member, its shard and the shard's sha256."""
    from tasks.at_hand import dataset_at_hand
    from tasks.look import trace_document, trace_token

    dataset = dataset_at_hand(reference, Workspace.at(workspace))
    if (offset is None) == (document is None):
        raise ValueError("name either the OFFSET of a token or a --document")
    origin = (
        trace_token(dataset, split, offset) if offset is not None else trace_document(dataset, document or "")
    )
    show_origin(origin)
    return asdict(origin)


@app.command("sample", epilog="Example:  brickroad dataset sample web --count 5 --seed 2")
@command
def dataset_sample(
    reference: DatasetArgument,
    count: Annotated[int, typer.Option("--count", min=1, help="Documents to show.")] = 3,
    seed: Annotated[int, typer.Option("--seed", help="Another seed shows other documents.")] = 0,
    split: SplitOption = "train",
    workspace: WorkspaceOption = None,
    as_json: JsonOption = False,
    debug: DebugOption = False,
) -> Mapping[str, Any]:
    """Show documents drawn by chance, decoded from their tokens, with where they came from."""
    from tasks.at_hand import dataset_at_hand
    from tasks.look import sample_documents

    dataset = dataset_at_hand(reference, Workspace.at(workspace))
    shown = []
    for origin in sample_documents(dataset, split, count, seed):
        show_origin(origin)
        shown.append(asdict(origin))
    return {"documents": shown}


@app.command("report", epilog="Example:  brickroad dataset report web")
@command
def dataset_report(
    reference: DatasetArgument,
    workspace: WorkspaceOption = None,
    as_json: JsonOption = False,
    debug: DebugOption = False,
) -> Mapping[str, Any]:
    """Say where the page about a data set is: lengths, scripts, repeated documents, samples, times."""
    from tasks.at_hand import dataset_at_hand
    from tasks.dataset_report import find_report

    path = find_report(dataset_at_hand(reference, Workspace.at(workspace)))
    words.print(f"Open in a browser: {path.as_uri()}", soft_wrap=True)
    return {"path": path}
