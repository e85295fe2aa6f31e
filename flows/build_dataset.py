"""The flow that turns a corpus into a data set: the same inputs give the same bytes, and what is done is not done again."""

import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any, TypeVar

from prefect import Task, flow
from prefect.futures import as_completed
from prefect.task_runners import ThreadPoolTaskRunner

from storage.datasets import find_by_fingerprint
from storage.files import remove_partials
from storage.workspace import Workspace
from tasks.artifacts import show_dataset
from tasks.corpora import CorpusConfig
from tasks.dataset import (
    BuiltDataset,
    IngestedShard,
    encode_task,
    groups_of,
    ingest_task,
    inputs_fingerprint,
    learn_tokenizer_task,
    locate_shards_task,
    peak_rss_bytes,
    publish_task,
    refuse_bad_shards,
    token_folder,
)
from tasks.watch import Watch
from tasks.workers import chosen_workers

R = TypeVar("R")


@flow(name="build-dataset", flow_run_name="build {config.corpus}", persist_result=False)
def build_dataset(config: CorpusConfig | None = None, workspace: Path | None = None) -> BuiltDataset:
    """Corpus to token files.

    Args:
        config: what to build from, and how; by default the documentation inside Python, which needs no network.
        workspace: the folder that holds everything; by default $BRICKROAD_WORKSPACE, else ./workspace.
    """
    config, place = config or CorpusConfig(), Workspace.at(workspace)
    began = time.monotonic()
    with place.lock("build"):  # one builder at a time: a second one waits, and then finds the work done
        for folder in (place.documents, place.tokens, place.datasets):  # checkpoints may be being written now
            remove_partials(folder)
        results = _ingest(config, place)
        ingested = refuse_bad_shards(results, config.tolerate_bad_shards)
        dataset = find_by_fingerprint(
            place.datasets, config.chosen_name, inputs_fingerprint(config, ingested)
        ) or _encode(config, place, results, ingested)
    reused = sum(item.reused for item in ingested)
    built = BuiltDataset(
        dataset=dataset,
        reused_parts=reused,
        built_parts=len(ingested) - reused,
        seconds=time.monotonic() - began,
        peak_rss_bytes=peak_rss_bytes(),
    )
    show_dataset(built)
    return built


def _ingest(config: CorpusConfig, place: Workspace) -> list[Any]:
    """Every shard's text, stored; or why it cannot be trusted."""
    shards = locate_shards_task(config, place)
    with Watch("ingest", total=len(shards), unit="shards", artifact_key="ingest") as watch:
        return _in_groups(
            ingest_task,
            "shards",
            shards,
            config,
            watch,
            folder=place.documents,
            invalid_utf8=config.invalid_utf8,
        )


def _encode(config: CorpusConfig, place: Workspace, results: list[Any], ingested: list[IngestedShard]) -> Any:
    """Stored text to a finished data set: learn the characters, encode part by part, join in corpus order."""
    parts = [item.part for item in ingested]
    tokenizer = learn_tokenizer_task(
        parts,
        place.tokens,
        val_fraction=config.chosen_val_fraction,
        coverage=config.character_coverage,
        workers=chosen_workers(config.workers),
    )
    folder = token_folder(place, tokenizer, config.chosen_val_fraction)
    with Watch("encode", total=len(parts), unit="shards", artifact_key="encode") as watch:
        encoded = _in_groups(
            encode_task, "parts", parts, config, watch,
            tokenizer=tokenizer, folder=folder, val_fraction=config.chosen_val_fraction,
        )  # fmt: skip
    return publish_task(config, place, results, tokenizer, encoded)


def _in_groups(
    task: Task[..., list[R]],
    parameter: str,
    items: Sequence[Any],
    config: CorpusConfig,
    watch: Watch,
    **settings: Any,
) -> list[R]:
    """Runs a task on neighbouring items in groups, side by side, each group as the task's `parameter`.

    The results are in the order of the items.
    """
    workers = chosen_workers(config.workers)
    with ThreadPoolTaskRunner(max_workers=workers) as runner:
        groups = groups_of(items, workers)
        futures = [runner.submit(task, parameters={parameter: group} | settings) for group in groups]
        for future in as_completed(futures):
            watch.advance(len(future.result()))
    return [result for future in futures for result in future.result()]
