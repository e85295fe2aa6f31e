"""`brickroad dataset …`: build data sets, and look at them."""

import itertools
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Any, Literal

import typer

from flows.console import columns, command, next_steps, printable, say, size, table, words
from flows.options import (
    BudgetOption,
    ColumnOption,
    CorpusArgument,
    CoverageOption,
    DatasetArgument,
    DebugOption,
    DecontaminateOption,
    DecontaminationWordsOption,
    ExactDuplicatesOption,
    InvalidOption,
    JsonOption,
    LanguageOption,
    LimitOption,
    MaximumCharactersOption,
    MinimumCharactersOption,
    MinimumLettersOption,
    NameOption,
    NearDuplicatesOption,
    NormalisationOption,
    SplitOption,
    TokenizerOption,
    TolerateOption,
    ValFractionOption,
    WorkersOption,
    WorkspaceOption,
    size_in_bytes,
)
from flows.prefect_server import prefect_ready
from flows.summaries import (
    at,
    show_built,
    show_dataset,
    show_dropped,
    show_left_out,
    show_origin,
    show_sample,
)
from storage.network import kept_aside
from storage.workspace import Workspace

ExportFormat = Literal["nanogpt", "megatron", "parquet", "jsonl"]

app = typer.Typer(no_args_is_help=True, help="Build data sets, and look at them.")


@app.command("plan", epilog="Example:  brickroad dataset plan path/to/openwebtext")
@command
def dataset_plan(
    corpus: CorpusArgument = "stdlib-docs",
    tokenizer: TokenizerOption = "char",
    limit_shards: LimitOption = None,
    workers: WorkersOption = None,
    workspace: WorkspaceOption = None,
    as_json: JsonOption = False,
    debug: DebugOption = False,
) -> Mapping[str, Any]:
    """Say what a build would take, from the indexes of the xz files, before any work."""
    from tasks.corpora import CorpusConfig
    from tasks.plan import plan_dataset

    config = CorpusConfig(corpus=corpus, tokenizer=tokenizer, limit_shards=limit_shards, workers=workers)
    plan = plan_dataset(config, Workspace.at(workspace))
    table(
        f"To build {config.shown_corpus}",
        {
            "shards": f"{plan.shards:,}",
            "compressed": size(plan.compressed_bytes),
            "text": f"at most {size(plan.text_bytes)}",
            "disk needed": f"{size(plan.disk_bytes_needed)}, of {size(plan.disk_bytes_free)} free",
            "time": f"about {plan.seconds_estimated:,.0f} s with {plan.workers} workers",
        },
    )
    fits = plan.disk_bytes_needed <= plan.disk_bytes_free
    if not fits:
        say("[bold red]The disk cannot hold it:[/bold red] free some space, or choose another --workspace.")
    return asdict(plan) | {"ok": fits}


@app.command(
    "build",
    epilog="Examples:  brickroad dataset build path/to/shards --name web   ·   brickroad dataset build wizard-of-oz --json   ·   brickroad dataset build s3://bucket/shards",
)
@command
def dataset_build(
    corpus: CorpusArgument = "stdlib-docs",
    name: NameOption = None,
    tokenizer: TokenizerOption = "char",
    val_fraction: ValFractionOption = None,
    character_coverage: CoverageOption = 0.9999,
    invalid_utf8: InvalidOption = "refuse",
    text_column: ColumnOption = "text",
    tolerate_bad_shards: TolerateOption = 0,
    limit_shards: LimitOption = None,
    workers: WorkersOption = None,
    memory_budget: BudgetOption = None,
    normalisation: NormalisationOption = "none",
    drop_exact_duplicates: ExactDuplicatesOption = False,
    drop_near_duplicates: NearDuplicatesOption = None,
    minimum_characters: MinimumCharactersOption = None,
    maximum_characters: MaximumCharactersOption = None,
    minimum_letters: MinimumLettersOption = None,
    language: LanguageOption = None,
    decontaminate: DecontaminateOption = None,
    decontamination_words: DecontaminationWordsOption = 13,
    workspace: WorkspaceOption = None,
    as_json: JsonOption = False,
    debug: DebugOption = False,
) -> Mapping[str, Any]:
    """Turn a corpus into token files. What is there already is not done again."""
    place = prefect_ready(workspace, debug)
    from flows.build_dataset import build_dataset
    from tasks.corpora import CorpusConfig
    from tasks.quality import QualityConfig

    config = CorpusConfig(
        corpus=kept_aside(corpus),
        name=name,
        tokenizer=tokenizer,
        val_fraction=val_fraction,
        character_coverage=character_coverage,
        invalid_utf8=invalid_utf8,  # type: ignore[arg-type]  # checked by the config itself
        text_column=text_column,
        tolerate_bad_shards=tolerate_bad_shards,
        limit_shards=limit_shards,
        workers=workers,
        memory_budget_bytes=size_in_bytes(memory_budget),
        normalisation=normalisation,
        quality=QualityConfig(
            drop_exact_duplicates=drop_exact_duplicates,
            drop_near_duplicates=drop_near_duplicates,
            minimum_characters=minimum_characters,
            maximum_characters=maximum_characters,
            minimum_letters=minimum_letters,
            languages=tuple(language or ()),
            decontaminate=tuple(str(Path(place).expanduser().absolute()) for place in decontaminate or ()),
            decontamination_words=decontamination_words,
        ),
    )
    built = build_dataset(config, workspace=place.root)
    show_built(built)
    next_steps(
        f"train {built.dataset.reference}{at(workspace)}",
        f"dataset verify {built.dataset.reference}{at(workspace)}",
    )
    manifest = built.dataset.manifest
    return {
        "digest": manifest.digest,
        "path": built.dataset.path,
        "train_tokens": manifest.train.tokens,
        "val_tokens": manifest.val.tokens,
        "documents": manifest.train.documents + manifest.val.documents,
        "vocabulary_size": manifest.vocabulary_size,
        "tokenizer_fingerprint": manifest.tokenizer_fingerprint,
        "reused_parts": built.reused_parts,
        "built_parts": built.built_parts,
        "quarantined": [asdict(shard) for shard in manifest.quarantined],
        "left_out": [asdict(one) for one in manifest.left_out],
        "seconds": built.seconds,
        "peak_rss_bytes": built.peak_rss_bytes,
    }


@app.command("list")
@command
def dataset_list(
    workspace: WorkspaceOption = None, as_json: JsonOption = False, debug: DebugOption = False
) -> Mapping[str, Any]:
    """List the finished data sets, oldest first."""
    from storage.datasets import list_datasets

    datasets = list_datasets(Workspace.at(workspace).datasets)
    if not datasets:
        say(f"No data sets in {Workspace.at(workspace).datasets} yet; build one: brickroad dataset build")
    else:
        rows = [
            [d.reference, f"{d.manifest.train.documents + d.manifest.val.documents:,}", f"{d.manifest.train.tokens:,}",
             f"{d.manifest.val.tokens:,}", f"{d.manifest.vocabulary_size:,}", d.manifest.build["created_at"][:16]]
            for d in datasets
        ]  # fmt: skip
        columns("Data sets", ["reference", "documents", "train", "val", "vocabulary", "made (UTC)"], rows)
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
    from storage.datasets import find_dataset
    from tasks.look import first_text

    dataset = find_dataset(Workspace.at(workspace).datasets, reference)
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
    from storage.datasets import find_dataset
    from tasks.look import dropped_documents

    dataset = find_dataset(Workspace.at(workspace).datasets, reference)
    found = list(itertools.islice(dropped_documents(dataset, step), limit))
    show_dropped(found)
    show_left_out(dataset)
    if not found:
        say(f"{dataset.reference}: no quality step left documents out of it")
    left_out = [asdict(one) for one in dataset.manifest.left_out]
    return {"documents": [one._asdict() for one in found], "left_out": left_out}


@app.command("verify", epilog="Example:  brickroad dataset verify stdlib-docs --rebuild")
@command
def dataset_verify(
    reference: DatasetArgument,
    rebuild: Annotated[
        bool,
        typer.Option(
            "--rebuild", help="Build again from the recorded sources, elsewhere, and compare bytes."
        ),
    ] = False,
    workspace: WorkspaceOption = None,
    as_json: JsonOption = False,
    debug: DebugOption = False,
) -> Mapping[str, Any]:
    """Check every byte of a data set against its manifest."""
    from storage.datasets import find_dataset
    from tasks.verify import verify

    place = Workspace.at(workspace)
    dataset = find_dataset(place.datasets, reference)
    checked, mismatches = verify(dataset)
    if rebuild and not mismatches:
        prefect_ready(workspace, debug)
        from flows.rebuild_dataset import rebuild_dataset

        mismatches = rebuild_dataset(reference, workspace=place.root)
    if mismatches:
        for line in mismatches:
            words.print(f"[red]✗[/red] {line}", soft_wrap=True)
    else:
        say(
            f"[green]✓[/green] {dataset.reference}: {size(checked)} checked, all as recorded{', and rebuilt to the same bytes' if rebuild else ''}"
        )
    return {"ok": not mismatches, "checked_bytes": checked, "mismatches": mismatches}


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
    from storage.datasets import find_dataset
    from tasks.look import difference

    folder = Workspace.at(workspace).datasets
    found = difference(find_dataset(folder, before), find_dataset(folder, after))
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
    from storage.datasets import find_dataset
    from tasks.look import trace_document, trace_token

    dataset = find_dataset(Workspace.at(workspace).datasets, reference)
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
    from storage.datasets import find_dataset
    from tasks.look import sample_documents

    dataset = find_dataset(Workspace.at(workspace).datasets, reference)
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
    from storage.datasets import find_dataset
    from tasks.dataset_report import find_report

    path = find_report(find_dataset(Workspace.at(workspace).datasets, reference))
    words.print(f"Open in a browser: {path.as_uri()}", soft_wrap=True)
    return {"path": path}


@app.command(
    "export", epilog="Example:  brickroad dataset export web --format nanogpt --out nanoGPT/data/web"
)
@command
def dataset_export(
    reference: DatasetArgument,
    layout: Annotated[
        ExportFormat, typer.Option("--format", help="Whose layout: nanogpt, megatron, parquet or jsonl.")
    ],
    out: Annotated[Path, typer.Option("--out", help="Folder to write to.")],
    workspace: WorkspaceOption = None,
    as_json: JsonOption = False,
    debug: DebugOption = False,
) -> Mapping[str, Any]:
    """Write a data set as files that other programs read as they are."""
    from storage.datasets import find_dataset
    from tasks.export import export

    dataset = find_dataset(Workspace.at(workspace).datasets, reference)
    files = export(dataset, layout, out)
    table(f"{dataset.reference} for {layout}", {path.name: size(path.stat().st_size) for path in files})
    return {"files": files}
