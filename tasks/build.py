"""A data set by plain functions, in the steps that the flow takes by tasks: for notebooks, tests and measurements."""

import contextlib
import logging
from collections.abc import Callable, Generator, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import Any

from storage.dataset_writer import DatasetWriter
from storage.datasets import Dataset, find_by_fingerprint
from storage.workspace import Workspace
from tasks.corpora import CorpusConfig, decided, locate_shards
from tasks.dataset import (
    Material,
    Stages,
    count_parts,
    encoding,
    examination,
    gather,
    groups_of,
    join,
    learn_tokenizer,
    leave_out,
    publish,
    swept,
)
from tasks.encode import checked, encode, parts_to_encode
from tasks.examine import examine
from tasks.ingest import ingest
from tasks.memory import MemoryWatch, frozen_heap
from tasks.plan import refuse_full_disk
from tasks.recall import recall, remember
from tasks.reuse import earlier_tokens, in_order
from tasks.tokenizers import EncoderDiffers, begin_making
from tasks.workers import Workers

_log = logging.getLogger("brickroad.dataset")


def build(config: CorpusConfig, workspace: Workspace, workers: Workers) -> Dataset:
    """Corpus to token files; what is there already is not done again."""
    with (
        workspace.lock("build"),
        swept(workspace),
        frozen_heap(),
        MemoryWatch(workers.process_ids) as memory,
    ):
        clock = Stages()
        shards = locate_shards(config, workspace)
        config = decided(config, shards, workspace)
        recalled = recall(shards, workspace.documents, config.reading)
        refuse_full_disk(config, recalled.unknown, workspace)
        if recalled.unknown:
            begin_making(config.tokenizer)
        read = partial(
            ingest,
            folder=workspace.documents,
            reading=config.reading,
            val_fraction=config.chosen_val_fraction,
            workers=workers,
            limit_shards=config.limit_shards,
        )
        results = list(in_groups(read, recalled.unknown, workers))
        remember(recalled, results, workspace.documents, config.reading, config.limit_shards)
        material = gather(config, [*recalled.known, *results])
        clock.ended("ingest")
        if found := find_by_fingerprint(workspace.datasets, config.chosen_name, material.fingerprint):
            return found
        if config.quality.is_on:
            look = partial(examine, examination=examination(config, workspace), workers=workers)
            examined = list(in_groups(look, list(enumerate(material.parts)), workers))
            material = leave_out(config, material, examined, workers)
            clock.ended("quality")
        try:
            return _encoded(config, workspace, material, workers, clock, memory)
        except EncoderDiffers as error:
            _log.warning("%s; the reference encodes, more slowly", error)
            return _encoded(config, workspace, material, workers, clock, memory, use_reference=True)


def _encoded(
    config: CorpusConfig,
    workspace: Workspace,
    material: Material,
    workers: Workers,
    clock: Stages,
    memory: MemoryWatch,
    *,
    use_reference: bool = False,
) -> Dataset:
    parts = material.parts
    counts = count_parts(parts, config.chosen_val_fraction, workers)
    tokenizer = learn_tokenizer(config, parts, counts, workspace.tokens, workers, use_reference=use_reference)
    clock.ended("learn")
    settings = encoding(config, workspace, tokenizer)
    earlier = earlier_tokens(parts, tokenizer, settings.val_fraction, workspace.datasets, workers)
    with DatasetWriter(workspace.datasets, config.chosen_name) as writer:
        to_encode = parts_to_encode(parts, earlier, settings, writer.place)
        write = partial(encode, encoding=settings, workers=workers)
        with contextlib.closing(in_groups(write, to_encode, workers)) as fresh:
            encoded = checked(in_order(len(parts), earlier, fresh), to_encode, settings, workers)
            described = join(config, writer, material, tokenizer, encoded, workers, clock, memory)
        return publish(writer, described, counts.all)


def in_groups(
    function: Callable[[Sequence[Any]], Sequence[Any]], items: Sequence[Any], workers: Workers
) -> Generator[Any, None, None]:
    """The results for each item, in order: for some neighbours at a time, and as many times as there are workers.

    Closed before its end, it returns when nothing is being done any more.
    """
    with (
        ThreadPoolExecutor(workers.count) as threads,
        contextlib.closing(
            threads.map(function, groups_of(items, workers.count))
        ) as results,  # what has not begun is cancelled
    ):
        for result in results:
            yield from result
