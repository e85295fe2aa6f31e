"""A build: from a corpus to a finished data set, in steps, each of which first asks what is done already.

Who runs the steps is the caller's choice: `build` does it plainly, for notebooks, tests and measurements; the flow makes
tasks of them, which a person can watch.
"""

import contextlib
import time
from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

from storage.dataset_writer import DatasetWriter
from storage.datasets import Dataset, find_by_fingerprint
from storage.documents.parts import DocumentPart
from storage.shards import Shard
from storage.shared_datasets import shared_by_inputs
from storage.store import Store
from storage.tokens import SPLITS, TokenPart
from storage.workspace import Workspace
from tasks.characters import SplitCounts
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
from tasks.encode import (
    EncodedBlock,
    Encoding,
    PartToEncode,
    blocks_to_encode,
    can_be_placed,
    checked,
    count_blocks,
    encode,
    encode_in_place,
    parts_to_encode,
)
from tasks.encode_afar import encode_afar
from tasks.examine import examine
from tasks.ingest import ingest
from tasks.memory import MemoryWatch, frozen_heap
from tasks.plan import refuse_full_disk
from tasks.recall import recall, remember, tell_known
from tasks.reuse import earlier_tokens, in_order
from tasks.shared_tokens import SharedTokens
from tasks.sharing import bring_dataset, bring_records, share_dataset, share_texts
from tasks.steps import PlainSteps, Steps
from tasks.tokenizers import EncoderDiffers, begin_loading, begin_making
from tasks.workers import Workers

StartWorkers = Callable[[], contextlib.AbstractContextManager[Workers]]


@dataclass(frozen=True, slots=True, kw_only=True)
class BuiltDataset:
    """What a build came to. Parts are shards: `built_parts` were read now, `reused_parts` were there."""

    dataset: Dataset
    reused_parts: int
    built_parts: int
    seconds: float
    peak_rss_bytes: int


@dataclass(frozen=True, slots=True, kw_only=True)
class _Build:
    """What every part of a build goes by."""

    config: CorpusConfig
    workspace: Workspace
    store: Store | None
    steps: Steps
    start_workers: StartWorkers
    clock: Stages
    memory: MemoryWatch


def build(
    config: CorpusConfig, workspace: Workspace, workers: Workers, store: Store | None = None
) -> Dataset:
    """Corpus to token files; what is there already is not done again. With a store, its workers are to be of that store."""
    start = partial(contextlib.nullcontext, workers)
    return build_in_steps(config, workspace, PlainSteps(), start, store).dataset


def build_in_steps(
    config: CorpusConfig,
    workspace: Workspace,
    steps: Steps,
    start_workers: StartWorkers,
    store: Store | None = None,
) -> BuiltDataset:
    """Corpus to token files by whoever runs the `steps`, one build of a workspace at a time.

    What the `store` has is not made again, and what is made is put there. Raises NetworkError or OSError, before any work, if
    it cannot be used.
    """
    began = time.monotonic()
    if store:
        store.refuse_unusable()
    with (
        workspace.lock("build") as has_waited,
        swept(workspace),
        frozen_heap(),
        start_workers() as workers,
        MemoryWatch(workers.process_ids) as memory,
    ):
        if has_waited:
            steps.log.info("another build of this workspace has ended; what it made is there to be used")
        clock = Stages()
        shards = steps.one(locate_shards, config, workspace)
        config = decided(config, shards, workspace)
        running = _Build(
            config=config,
            workspace=workspace,
            store=store,
            steps=steps,
            start_workers=start_workers,
            clock=clock,
            memory=memory,
        )
        material = gather(config, _ingest(running, shards, workers))
        clock.ended("ingest")
        name, inputs = config.chosen_name, material.fingerprint
        dataset = find_by_fingerprint(workspace.datasets, name, inputs)
        if not store:
            dataset = dataset or _make(running, material, workers)
        elif shared := shared_by_inputs(store, name, inputs):
            dataset = dataset or steps.one(bring_dataset, shared, workspace, inputs)
        else:
            steps.one(share_texts, material.parts, store)
            tell_known(shards, workspace.documents, config.reading, store, config.corpus)
            dataset = dataset or _make(running, material, workers)
            steps.one(share_dataset, dataset, inputs, store)
    reused = sum(shard.reused for shard in material.shards)
    return BuiltDataset(
        dataset=dataset,
        reused_parts=reused,
        built_parts=len(material.shards) - reused,
        seconds=time.monotonic() - began,
        peak_rss_bytes=memory.peak_bytes,
    )


def _ingest(build: _Build, shards: Sequence[Shard], workers: Workers) -> list[Any]:
    """Every shard's text, stored; or why it cannot be trusted, or did not come."""
    config, workspace, store = build.config, build.workspace, build.store
    recalled = recall(shards, workspace.documents, config.reading, store, config.corpus)
    unknown = recalled.unknown
    refuse_full_disk(config, unknown, workspace)
    if unknown:
        begin_making(config.tokenizer)
    results = list(
        build.steps.many(
            ingest,
            groups_of(unknown, len(unknown), workers.count),
            total=len(unknown),
            workers=workers,
            folder=workspace.documents,
            reading=config.reading,
            val_fraction=config.chosen_val_fraction,
            limit_shards=config.limit_shards,
            store=store,
        )
    )
    remember(recalled, results, workspace.documents, config.reading, config.limit_shards)
    return [*recalled.known, *results]


def _make(build: _Build, material: Material, workers: Workers) -> Dataset:
    """A data set that is not there: without the documents that are to be left out, and encoded, if need be by the reference."""
    if build.store:
        bring_records(material.parts, build.store)
    if build.config.quality.is_on:
        material = _leave_out(build, material, workers.here)
        build.clock.ended("quality")
    try:
        return _encode(build, material, workers)
    except EncoderDiffers as error:
        build.steps.log.warning("%s; the reference encodes, more slowly", error)
        with build.start_workers() as others:
            return _encode(build, material, others, use_reference=True)


def _leave_out(build: _Build, material: Material, workers: Workers) -> Material:
    """The material without the documents that quality steps drop: each is examined by itself, then all are compared."""
    total = len(material.parts)
    groups = groups_of(enumerate(material.parts), total, workers.count)
    look = examination(build.config, build.workspace)
    examined = list(build.steps.many(examine, groups, total=total, workers=workers, examination=look))
    return build.steps.one(leave_out, build.config, material, examined, workers)


def _encode(build: _Build, material: Material, workers: Workers, *, use_reference: bool = False) -> Dataset:
    """Stored text to a finished data set: learn the tokenizer, encode part by part, join in corpus order."""
    config, workspace, steps, clock = build.config, build.workspace, build.steps, build.clock
    parts, fraction, here = material.parts, config.chosen_val_fraction, workers.here
    counts = steps.one(count_parts, parts, fraction, here)
    tokenizer = steps.one(
        learn_tokenizer, config, parts, counts, workspace.tokens, here, use_reference=use_reference
    )
    clock.ended("learn")
    begin_loading(tokenizer)
    settings = encoding(config, workspace, tokenizer)
    are_afar = here is not workers
    earlier = steps.one(earlier_tokens, parts, tokenizer, fraction, workspace.datasets, here)
    with DatasetWriter(workspace.datasets, config.chosen_name) as writer:
        with contextlib.ExitStack() as running:
            if not earlier and not are_afar and can_be_placed(counts, tokenizer):
                blocks = running.enter_context(_blocks(parts, counts, settings, writer, workers, steps))
                tokens = _parts_in(blocks, writer)
            else:
                to_encode = parts_to_encode(parts, earlier)
                store = build.store if are_afar else None
                shared = SharedTokens.of(tokenizer, fraction, store) if store else None
                fresh = running.enter_context(_parts(to_encode, settings, shared, workers, steps))
                tokens = checked(in_order(len(parts), earlier, fresh), to_encode, settings, here)
            described = steps.one(
                join, config, writer, material, tokenizer, tokens, here, clock, build.memory
            )
        return steps.one(publish, writer, described, counts.all)


def _parts(
    parts: list[PartToEncode],
    settings: Encoding,
    shared: SharedTokens | None,
    workers: Workers,
    steps: Steps,
) -> contextlib.closing[Generator[TokenPart]]:
    """The tokens of parts, as they are made; they come through the store if they are to be `shared`."""
    groups, total = groups_of(parts, len(parts), workers.count), len(parts)
    if shared:
        afar = steps.many(encode_afar, groups, total=total, workers=workers, encoding=settings, shared=shared)
        return contextlib.closing(afar)
    return contextlib.closing(steps.many(encode, groups, total=total, workers=workers, encoding=settings))


def _blocks(
    parts: Sequence[DocumentPart],
    counts: SplitCounts,
    settings: Encoding,
    writer: DatasetWriter,
    workers: Workers,
    steps: Steps,
) -> contextlib.closing[Generator[EncodedBlock]]:
    """The blocks of the train tokens of all parts, as they are written where they belong."""
    total = count_blocks(counts, settings.tokenizer)
    files = {split: writer.token_path(split) for split in SPLITS}
    pieces = blocks_to_encode(parts, total, settings, files)
    groups = groups_of(pieces, total, workers.count, lambda piece: len(piece.numbers))
    return contextlib.closing(
        steps.many(encode_in_place, groups, total=total, workers=workers, encoding=settings)
    )


def _parts_in(blocks: Iterable[EncodedBlock], writer: DatasetWriter) -> Iterator[TokenPart]:
    """The parts in blocks, each after the writer knows of the blocks that it is in."""
    for block in blocks:
        writer.is_written("train", block.number, block.sha256)
        yield from block.parts
