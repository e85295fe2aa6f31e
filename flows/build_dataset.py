"""The flow that turns a corpus into a data set: the same inputs give the same bytes, and what is done is not done again."""

import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, TypeVar

from prefect import Task, flow, get_run_logger
from prefect.futures import PrefectFuture
from prefect.task_runners import ThreadPoolTaskRunner

from storage.dataset_writer import DatasetWriter
from storage.datasets import Dataset, find_by_fingerprint
from storage.shards import Shard
from storage.workspace import Workspace
from tasks.artifacts import show_dataset
from tasks.corpora import CorpusConfig, decided
from tasks.dataset import (
    BuiltDataset,
    Material,
    Stages,
    count_task,
    earlier_tokens_task,
    encode_task,
    encoding,
    examination,
    examine_task,
    gather,
    groups_of,
    ingest_task,
    join_task,
    learn_tokenizer_task,
    leave_out_task,
    locate_shards_task,
    publish_task,
    swept,
)
from tasks.encode import checked, parts_to_encode
from tasks.memory import MemoryWatch, frozen_heap
from tasks.plan import refuse_full_disk
from tasks.recall import recall, remember
from tasks.reuse import in_order
from tasks.tokenizers import EncoderDiffers, begin_making
from tasks.watch import Watch
from tasks.workers import Workers, chosen_workers

R = TypeVar("R")


@flow(name="build-dataset", flow_run_name="build {config.shown_corpus}", persist_result=False)
def build_dataset(config: CorpusConfig | None = None, workspace: Path | None = None) -> BuiltDataset:
    """Corpus to token files.

    Args:
        config: what to build from, and how; by default the documentation inside Python, which needs no network.
        workspace: the folder that holds everything; by default $BRICKROAD_WORKSPACE, else ./workspace.
    """
    config, place = config or CorpusConfig(), Workspace.at(workspace)
    began = time.monotonic()
    with (
        place.lock("build") as has_waited,
        swept(place),
        frozen_heap(),
        _workers(config) as workers,
        MemoryWatch(workers.process_ids) as memory,
    ):
        if has_waited:
            get_run_logger().info(
                "another build of this workspace has ended; what it made is there to be used"
            )
        clock = Stages()
        shards = locate_shards_task(config, place)
        config = decided(config, shards, place)
        material = gather(config, _ingest(config, place, workers, shards))
        clock.ended("ingest")
        dataset = find_by_fingerprint(place.datasets, config.chosen_name, material.fingerprint)
        if not dataset:
            if config.quality.is_on:
                material = _leave_out(config, place, material, workers)
                clock.ended("quality")
            try:
                dataset = _encode(config, place, material, workers, memory, clock)
            except EncoderDiffers as error:
                get_run_logger().warning("%s; the reference encodes, more slowly", error)
                with _workers(config) as others:
                    dataset = _encode(config, place, material, others, memory, clock, use_reference=True)
    reused = sum(shard.reused for shard in material.shards)
    built = BuiltDataset(
        dataset=dataset,
        reused_parts=reused,
        built_parts=len(material.shards) - reused,
        seconds=time.monotonic() - began,
        peak_rss_bytes=memory.peak_bytes,
    )
    show_dataset(built)
    return built


def _workers(config: CorpusConfig) -> Workers:
    count = chosen_workers(config.workers, config.memory_budget_bytes)
    return Workers(count, memory_budget_bytes=config.memory_budget_bytes)


def _ingest(config: CorpusConfig, place: Workspace, workers: Workers, shards: list[Shard]) -> list[Any]:
    """Every shard's text, stored; or why it cannot be trusted, or did not come."""
    recalled = recall(shards, place.documents, config.reading)
    refuse_full_disk(config, recalled.unknown, place)
    if recalled.unknown:
        begin_making(config.tokenizer)
    settings = {
        "folder": place.documents,
        "reading": config.reading,
        "val_fraction": config.chosen_val_fraction,
        "workers": workers,
        "limit_shards": config.limit_shards,
    }
    with (
        Watch("ingest", total=len(recalled.unknown), unit="files", artifact_key="ingest") as watch,
        ThreadPoolTaskRunner(max_workers=workers.count) as runner,
    ):
        results = list(_in_groups(runner, ingest_task, "shards", recalled.unknown, watch, settings))
    remember(recalled, results, place.documents, config.reading, config.limit_shards)
    return [*recalled.known, *results]


def _leave_out(config: CorpusConfig, place: Workspace, material: Material, workers: Workers) -> Material:
    """The material without the documents that quality steps drop: each is examined by itself, then all are compared."""
    settings = {"examination": examination(config, place), "workers": workers}
    parts = list(enumerate(material.parts))
    with (
        Watch("examine", total=len(parts), unit="shards", artifact_key="examine") as watch,
        ThreadPoolTaskRunner(max_workers=workers.count) as runner,
    ):
        examined = list(_in_groups(runner, examine_task, "parts", parts, watch, settings))
    return leave_out_task(config, material, examined, workers)


def _encode(
    config: CorpusConfig,
    place: Workspace,
    material: Material,
    workers: Workers,
    memory: MemoryWatch,
    clock: Stages,
    *,
    use_reference: bool = False,
) -> Dataset:
    """Stored text to a finished data set: learn the tokenizer, encode part by part, join in corpus order."""
    parts = material.parts
    fraction = config.chosen_val_fraction
    counts = count_task(parts, fraction, workers)
    tokenizer = learn_tokenizer_task(
        config, parts, counts, place.tokens, workers, use_reference=use_reference
    )
    clock.ended("learn")
    settings = {"encoding": encoding(config, place, tokenizer), "workers": workers}
    earlier = earlier_tokens_task(parts, tokenizer, fraction, place.datasets, workers)
    with (
        DatasetWriter(place.datasets, config.chosen_name) as writer,
        Watch("encode", total=len(parts) - len(earlier), unit="shards", artifact_key="encode") as watch,
        ThreadPoolTaskRunner(max_workers=workers.count) as runner,
    ):
        to_encode = parts_to_encode(parts, earlier, settings["encoding"], writer.place)
        fresh = _in_groups(runner, encode_task, "parts", to_encode, watch, settings)
        encoded = checked(in_order(len(parts), earlier, fresh), to_encode, **settings)
        described = join_task(config, writer, material, tokenizer, encoded, workers, clock, memory)
        return publish_task(writer, described, counts.all)


def _in_groups(
    runner: ThreadPoolTaskRunner[Any],
    task: Task[..., list[R]],
    parameter: str,
    items: Sequence[Any],
    watch: Watch,
    settings: dict[str, Any],
) -> Iterator[R]:
    """Runs a task on neighbouring items in groups, side by side, each group as the task's `parameter`.

    The results come in the order of the items, each as soon as all before it are there.
    """
    workers: Workers = settings["workers"]
    futures: list[PrefectFuture[list[R]]] = []
    try:
        for group in groups_of(items, workers.count):
            futures.append(runner.submit(task, parameters={parameter: group} | settings))
        for future in futures:
            results = future.result()
            watch.advance(len(results))
            yield from results
    except BaseException:
        workers.stop()  # else the runner would wait for all groups
        raise
