"""From shards to a data set: the steps of a build, each of which first asks what is done already."""

import contextlib
import platform
import shutil
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any, TypeVar

from model.tokenizer import CharacterCounts, CharTokenizer
from storage.blocks import Block, write_block
from storage.dataset_writer import DatasetInputs, DatasetWriter, refuse_empty_split
from storage.datasets import Dataset
from storage.documents.parts import DocumentPart
from storage.errors import DatasetError
from storage.examined import ExaminedFiles
from storage.files import fingerprint, remove_partials
from storage.manifests import LeftOut, Quarantined, Source
from storage.network import is_remote, shown
from storage.tokens import SPLIT_RULE, TokenPart, token_dtype
from storage.workspace import Workspace
from tasks.characters import PartCharacters, SplitCounts, count_part
from tasks.corpora import CATALOGUE, CorpusConfig, refuse_incomplete
from tasks.dataset_report import write_report
from tasks.dropped import Dropped, choose_dropped
from tasks.encode import Encoding, sample_part
from tasks.examine import Examination, prepare_examination
from tasks.ingest import (
    IngestedShard,
    RefusedShard,
    UnreachedShard,
    refuse_bad_shards,
)
from tasks.memory import MemoryWatch
from tasks.provenance import provenance
from tasks.tokenizers import (
    TokenizerFile,
    bpe_size,
    encoder_facts,
    gpt2_json,
    tokenizer_path,
    tokenizer_recipe,
    train_bpe,
)
from tasks.watch import Watch, pulse
from tasks.workers import Workers

T = TypeVar("T")

_GROUPS_A_WORKER = 8  # the last one of 500 shards, with two workers, has two or three of them
_MANY_GROUPS = 200  # beyond these workers have fewer: a task run costs 14 ms (bench.orchestration)
_FEWEST_GROUPS_A_WORKER = 4  # with one or two each the first worker would end last (docs/scaling.md)
SAMPLED_BYTES = 32 << 20  # of text, to learn byte-pair merges from
_SAMPLED_ONE_IN = 10  # at least, of the documents of each shard that is looked at


def groups_of(
    items: Iterable[T], total: int, workers: int, weigh: Callable[[T], int] = lambda _: 1
) -> Iterator[list[T]]:
    """Neighbouring items, which weigh `total` together, in groups, one a task run; each taken when it is asked for.

    They are few enough to record, and get ever lighter, so that all workers end together.
    """
    groups = min(total, workers * _GROUPS_A_WORKER, max(_MANY_GROUPS, workers * _FEWEST_GROUPS_A_WORKER))
    rest, weight = iter(items), 0
    for number in range(groups):
        group = list[T]()
        while weight < _share_done(number + 1, groups, total):
            item = next(rest)
            group.append(item)
            weight += weigh(item)
        if group:
            yield group


def _share_done(groups: int, of_groups: int, items: int) -> int:
    """How many items the first groups have: each group has less than the one before by the same number, as far as that goes."""
    if items <= of_groups:
        return groups
    return items - items * (of_groups - groups) ** 2 // of_groups**2


def sweep(workspace: Workspace) -> None:
    """Removes token parts, and what killed builds have left. To be called under the build's lock; a checkpoint may be being written."""
    for folder in (workspace.documents, workspace.datasets):
        remove_partials(folder)
    shutil.rmtree(workspace.tokens, ignore_errors=True)


@contextlib.contextmanager
def swept(workspace: Workspace) -> Iterator[None]:
    """A workspace in which nothing lies that a build has left: at first, and after the body, however it ends."""
    sweep(workspace)
    try:
        yield
    finally:
        sweep(workspace)


class Stages:
    """A clock: how many seconds each stage took, one after another."""

    def __init__(self) -> None:
        self.seconds: dict[str, float] = {}
        self._began = time.monotonic()

    def ended(self, stage: str) -> None:
        """The stage since the last one, or since the beginning, has ended."""
        now = time.monotonic()
        self.seconds[stage], self._began = now - self._began, now


@dataclass(frozen=True, slots=True, kw_only=True)
class Material:
    """What a data set is made of: stored shards in corpus order, those left out by name, and documents left out of the rest.

    `quality` is the recipe of the steps that leave documents out, and `fingerprint` stands for all that the data set's
    bytes depend on: names and bytes of its shards, and the settings that matter.
    """

    shards: list[IngestedShard]
    quarantined: list[Quarantined]
    quality: dict[str, Any]
    fingerprint: str
    dropped: Dropped | None = None

    @property
    def parts(self) -> list[DocumentPart]:
        """The stored text of the shards."""
        return [shard.part for shard in self.shards]


def gather(
    config: CorpusConfig, results: Sequence[IngestedShard | RefusedShard | UnreachedShard]
) -> Material:
    """The shards that can be trusted, if they are enough. Raises ShardError, NetworkError or CorpusError if they are not."""
    shards = refuse_bad_shards(results, config.tolerate_bad_shards, config.limit_shards)
    refuse_incomplete(config, len(shards), sum(shard.part.documents for shard in shards))
    refused = [result for result in results if isinstance(result, RefusedShard)]
    quality = config.quality.recipe()
    return Material(
        shards=shards,
        quarantined=[Quarantined(name=one.name, reason=one.reason) for one in refused],
        quality=quality,
        fingerprint=_inputs_fingerprint(config, shards, quality),
    )


def _inputs_fingerprint(
    config: CorpusConfig, shards: Sequence[IngestedShard], quality: dict[str, Any]
) -> str:
    identity = {
        "shards": [[shard.name, shard.part.path.stem] for shard in shards],
        "tokenizer": tokenizer_recipe(config.tokenizer, config.character_coverage),
        "val_fraction": config.chosen_val_fraction,
        "split_rule": SPLIT_RULE,
    }
    return fingerprint(identity | ({"quality": quality} if quality else {}))


def examination(config: CorpusConfig, workspace: Workspace) -> Examination:
    """How documents are examined, if quality steps are to leave some out."""
    return prepare_examination(config.quality, workspace.tokens / "examined")


def leave_out(
    config: CorpusConfig, material: Material, examined: Sequence[ExaminedFiles], workers: Workers
) -> Material:
    """The material without the documents that quality steps drop. Raises DatasetError if too few would be left."""
    pairs = list(zip(material.parts, examined, strict=True))
    with pulse("quality"):
        dropped = choose_dropped(pairs, config.quality, workers)
    parts = dropped.kept_parts(examined[0].path.parent)
    if (left := sum(part.documents for part in parts)) < 2:
        of_all = f"{left} of {sum(part.documents for part in material.parts):,} documents"
        raise DatasetError(
            f"{config.shown_corpus}: quality steps leave {of_all}, and a train and a val split need at least 2; "
            "loosen one of them"
        )
    shards = [replace(shard, part=part) for shard, part in zip(material.shards, parts, strict=True)]
    return replace(material, shards=shards, dropped=dropped)


def count_parts(parts: Sequence[DocumentPart], val_fraction: float, workers: Workers) -> SplitCounts:
    """The characters of all parts: as noted, and counted again where the split was another one."""
    counts, uncounted = SplitCounts(), []
    for part in parts:
        if noted := PartCharacters.noted(part, val_fraction):
            counts.add(noted)
        else:
            uncounted.append((part, val_fraction))
    counts.are_noted = not uncounted
    if uncounted:
        with Watch("count", total=len(uncounted), unit="shards") as watch:
            for counted in workers.map(count_part, uncounted):
                counts.add(counted)
                watch.advance(1)
    return counts


def learn_tokenizer(
    config: CorpusConfig,
    parts: Sequence[DocumentPart],
    counts: SplitCounts,
    folder: Path,
    workers: Workers,
    *,
    use_reference: bool = False,
) -> TokenizerFile:
    """The tokenizer that a data set asks for, learnt from train documents alone if it is to be learnt; below `folder`.

    `use_reference` encodes with the reference, not with the fastest program. Raises DatasetError if a split is empty.
    """
    fraction = config.chosen_val_fraction
    refuse_empty_split(counts.documents - counts.val_documents, counts.val_documents, fraction)
    if config.tokenizer == "char":
        text = CharTokenizer.from_counts(counts.train(), coverage=config.character_coverage).to_json()
    elif config.tokenizer == "gpt2":
        text = gpt2_json()
    elif size := bpe_size(config.tokenizer):
        with pulse("learn"):
            text = train_bpe(_sampled(parts, fraction, workers), size)
    else:
        text = tokenizer_path(config.tokenizer).read_text(encoding="utf-8")
    written = TokenizerFile.write(text, folder)
    return replace(written, encoder="tokenizers") if use_reference else written


def _sampled(parts: Sequence[DocumentPart], val_fraction: float, workers: Workers) -> list[str]:
    """Some tens of MB of train documents, the same for the same corpus: shards, and documents in them, by their hashes."""
    chosen, available = list[DocumentPart](), 0
    for part in sorted(parts, key=lambda part: part.shard_sha256):
        if available < SAMPLED_BYTES * _SAMPLED_ONE_IN:
            chosen.append(part)
            available += part.text_bytes
    share = min(1.0, SAMPLED_BYTES / available)
    calls = ((part, val_fraction, share) for part in chosen)
    return sorted(text for texts in workers.map(sample_part, calls) for text in texts)


def encoding(config: CorpusConfig, workspace: Workspace, tokenizer: TokenizerFile) -> Encoding:
    """How stored text is to be encoded."""
    identity = [tokenizer.fingerprint, tokenizer.encoder, config.chosen_val_fraction, SPLIT_RULE]
    return Encoding(
        tokenizer=tokenizer,
        folder=workspace.tokens / fingerprint(identity)[:16],
        val_fraction=config.chosen_val_fraction,
    )


def join(
    config: CorpusConfig,
    writer: DatasetWriter,
    material: Material,
    tokenizer: TokenizerFile,
    parts: Iterable[TokenPart],
    workers: Workers,
    clock: Stages,
    memory: MemoryWatch,
) -> Dataset:
    """Joins parts, which may still be being made, to a data set that is whole but for its page and its name.

    What `clock` and `memory` tell of the build so far goes into the manifest.
    """
    blocks = _blocks(writer, material.shards, parts)
    for sha256 in workers.map(write_block, ((block,) for block in blocks)):
        writer.written(sha256)
    if material.dropped:
        writer.list_left_out(material.dropped.rows([shard.name for shard in material.shards]))
    clock.ended("encode")
    facts = {
        "workers": workers.count,
        "stages": clock.seconds,
        "peak_rss_bytes": memory.peak_bytes,
        "encoder": encoder_facts(tokenizer),
    }
    return writer.describe(_inputs(config, material, tokenizer), build_facts(config) | facts)


def _inputs(config: CorpusConfig, material: Material, tokenizer: TokenizerFile) -> DatasetInputs:
    counts = material.dropped.counts() if material.dropped else {}
    return DatasetInputs(
        fingerprint=material.fingerprint,
        quarantined=material.quarantined,
        quality=material.quality,
        left_out=[LeftOut(step=step, **asdict(count)) for step, count in counts.items()],
        normalisation=_normalisation(material.shards),
        tokenizer_json=tokenizer.text(),
        tokenizer_fingerprint=tokenizer.fingerprint,
        vocabulary_size=tokenizer.vocabulary_size,
        end_of_text=tokenizer.end_of_text,
        dtype=token_dtype(tokenizer.vocabulary_size),
        val_fraction=config.chosen_val_fraction,
    )


def _blocks(
    writer: DatasetWriter, ingested: Sequence[IngestedShard], parts: Iterable[TokenPart]
) -> Iterator[Block]:
    """The blocks of a data set's token files, as soon as the parts that they consist of are there."""
    for item, part in zip(ingested, parts, strict=True):
        yield from writer.append(_source(item, part), part)
    yield from writer.finish()


def publish(writer: DatasetWriter, described: Dataset, characters: CharacterCounts) -> Dataset:
    """Writes the page about a data set, and then gives it its name: it is finished."""
    with pulse("report"):
        write_report(described, characters)
        return writer.publish(described)


def build_facts(config: CorpusConfig) -> dict[str, Any]:
    """What a manifest tells about its making, and no fingerprint depends on."""
    tests = [str(Path(place).expanduser().absolute()) for place in config.quality.decontaminate]
    return {
        "created_at": datetime.now(UTC).isoformat(timespec="milliseconds"),
        "config": asdict(config)
        | {"corpus": _absolute(config.corpus), "val_fraction": config.chosen_val_fraction}
        | {"quality": asdict(config.quality) | {"decontaminate": tests}},
        "brickroad": version("brickroad"),
        "python": platform.python_version(),
        "pyarrow": version("pyarrow"),
        "provenance": asdict(provenance()),
    }


def _absolute(corpus: str) -> str:
    """A path that means the same from any folder; a name of the catalogue stays a name, an address loses its secrets."""
    if is_remote(corpus):
        return shown(corpus)
    return corpus if corpus in CATALOGUE else str(Path(corpus).expanduser().absolute())


def _source(item: IngestedShard, part: TokenPart) -> Source:
    return Source(
        name=item.name,
        sha256=item.part.shard_sha256,
        stored_as=item.part.path.stem,
        compressed_bytes=item.compressed_bytes,
        documents=item.part.documents,
        val_documents=part.val.documents,
        text_bytes=item.part.text_bytes,
        val_text_bytes=part.val.text_bytes,
        train_tokens=part.train.tokens,
        val_tokens=part.val.tokens,
    )


def _normalisation(ingested: Sequence[IngestedShard]) -> dict[str, int]:
    fields = ("byte_order_marks", "crlf_line_ends", "invalid_utf8_documents", "normalised_documents")
    return {field: sum(getattr(item.part, field) for item in ingested) for field in fields}
