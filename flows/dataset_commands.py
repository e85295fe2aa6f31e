"""`brickroad dataset plan`, `build`, `verify` and `export`; the others are in dataset_looks.py."""

from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Any, Literal

import typer

from flows import dataset_looks
from flows.console import command, next_steps, say, size, table, words
from flows.corpus_options import (
    BudgetOption,
    ColumnOption,
    CorpusArgument,
    CoverageOption,
    DecontaminateOption,
    DecontaminationWordsOption,
    EngineAddressOption,
    EngineOption,
    ExactDuplicatesOption,
    InvalidOption,
    LanguageOption,
    LimitOption,
    MaximumCharactersOption,
    MinimumCharactersOption,
    MinimumLettersOption,
    NameOption,
    NearDuplicatesOption,
    NormalisationOption,
    StoreOption,
    TokenizerOption,
    TolerateOption,
    ValFractionOption,
    WorkersOption,
)
from flows.options import DatasetArgument, DebugOption, JsonOption, WorkspaceOption, size_in_bytes
from flows.prefect_server import prefect_ready
from flows.summaries import at, show_built
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
    drop_near_duplicates: NearDuplicatesOption = None,
    language: LanguageOption = None,
    decontaminate: DecontaminateOption = None,
    workspace: WorkspaceOption = None,
    as_json: JsonOption = False,
    debug: DebugOption = False,
) -> Mapping[str, Any]:
    """Say what a build would take, from the indexes of the xz files, before any work."""
    from tasks.corpora import CorpusConfig
    from tasks.plan import plan_dataset
    from tasks.quality import QualityConfig

    quality = QualityConfig(
        drop_near_duplicates=drop_near_duplicates,
        languages=tuple(language or ()),
        decontaminate=tuple(decontaminate or ()),
    )
    config = CorpusConfig(
        corpus=corpus, tokenizer=tokenizer, limit_shards=limit_shards, workers=workers, quality=quality
    )
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
    engine: EngineOption = "threads",
    engine_address: EngineAddressOption = None,
    store: StoreOption = None,
    workspace: WorkspaceOption = None,
    as_json: JsonOption = False,
    debug: DebugOption = False,
) -> Mapping[str, Any]:
    """Turn a corpus into token files. What is there already is not done again."""
    place = prefect_ready(workspace, debug)
    from flows.build_dataset import build_dataset
    from tasks.corpora import CorpusConfig
    from tasks.engines.start import EngineConfig
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
    built = build_dataset(
        config,
        workspace=place.root,
        engine=EngineConfig(engine=engine, address=engine_address),
        store=store,
    )
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
    from tasks.at_hand import dataset_at_hand
    from tasks.verify import verify

    place = Workspace.at(workspace)
    dataset = dataset_at_hand(reference, place)
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
    from tasks.at_hand import dataset_at_hand
    from tasks.export import export

    dataset = dataset_at_hand(reference, Workspace.at(workspace))
    files = export(dataset, layout, out)
    table(f"{dataset.reference} for {layout}", {path.name: size(path.stat().st_size) for path in files})
    return {"files": files}


app.add_typer(dataset_looks.app)
