"""From shards to a data set: stored text, a tokenizer learnt from train alone, tokens by part, and the whole."""

import platform
import resource
import shutil
import sys
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any, TypeVar

from model.tokenizer import CharacterCounts, CharTokenizer, TokenArray, Tokenizer, tokenizer_from_json
from storage.datasets import (
    Dataset,
    DatasetInputs,
    Quarantined,
    Source,
    publish_dataset,
    refuse_empty_split,
)
from storage.documents import DocumentPart, StoredDocument, ingest_shard, read_texts
from storage.errors import ShardError
from storage.files import atomic_file, fingerprint
from storage.shards import InvalidUtf8, Shard
from storage.tokens import (
    SPLIT_RULE,
    TokenPart,
    read_token_part,
    split_of,
    token_dtype,
    write_token_part,
)
from storage.workspace import Workspace
from tasks.corpora import CATALOGUE, CorpusConfig, locate_shards
from tasks.engine import can_heal, road_task
from tasks.watch import Watch, pulse
from tasks.workers import chosen_workers

T = TypeVar("T")

MAXIMUM_GROUPS = 200  # task runs a flow: more would burden the orchestrator's database
_GROUPS_A_WORKER = 8  # enough that the last group to finish is no long tail


@dataclass(frozen=True, slots=True, kw_only=True)
class IngestedShard:
    """A shard and its stored text; `reused` if that was there before."""

    shard: Shard
    part: DocumentPart
    reused: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class RefusedShard:
    """A shard that cannot be trusted, and why."""

    shard: Shard
    reason: str


@dataclass(frozen=True, slots=True, kw_only=True)
class TokenizerFile:
    """A tokenizer on disk, and what a reader of token files needs to know of it."""

    path: Path
    fingerprint: str
    vocabulary_size: int
    end_of_text: int

    def load(self) -> Tokenizer:
        """The tokenizer itself."""
        return tokenizer_from_json(self.path.read_text(encoding="utf-8"))


@dataclass(frozen=True, slots=True, kw_only=True)
class BuiltDataset:
    """What a build came to. Parts are shards: `built_parts` were read now, `reused_parts` were there."""

    dataset: Dataset
    reused_parts: int
    built_parts: int
    seconds: float
    peak_rss_bytes: int


def groups_of(items: Sequence[T], workers: int) -> list[Sequence[T]]:
    """Neighbouring items in groups, one a task run: small enough to balance, few enough to record."""
    count = min(len(items), workers * _GROUPS_A_WORKER, MAXIMUM_GROUPS)
    return [items[len(items) * i // count : len(items) * (i + 1) // count] for i in range(count)]


def ingest(
    shards: Sequence[Shard], folder: Path, invalid_utf8: InvalidUtf8
) -> list[IngestedShard | RefusedShard]:
    """Stores the text of shards, one after another; a shard that cannot be trusted is named, and the rest goes on."""
    results: list[IngestedShard | RefusedShard] = []
    for shard in shards:
        try:
            part, reused = ingest_shard(shard, folder, invalid_utf8=invalid_utf8)
            results.append(IngestedShard(shard=shard, part=part, reused=reused))
        except ShardError as error:
            results.append(RefusedShard(shard=shard, reason=error.reason))
    return results


def refuse_bad_shards(results: Sequence[IngestedShard | RefusedShard], tolerated: int) -> list[IngestedShard]:
    """The good ones, in order. Raises ShardError, naming the first and counting the rest, beyond what is tolerated."""
    refused = [result for result in results if isinstance(result, RefusedShard)]
    if len(refused) > tolerated:
        more = f" (and {len(refused) - 1} more bad shards)" if len(refused) > 1 else ""
        way = f"; or leave such shards out: --tolerate-bad-shards {len(refused)}"
        raise ShardError(refused[0].shard.path, f"{refused[0].reason}{more}{way}")
    return [result for result in results if isinstance(result, IngestedShard)]


def inputs_fingerprint(config: CorpusConfig, ingested: Sequence[IngestedShard]) -> str:
    """The identity of what a data set is made from: names and bytes of its shards, and the settings that matter."""
    return fingerprint(
        {
            "shards": [[item.shard.name, item.part.path.stem] for item in ingested],
            "tokenizer": config.tokenizer,
            "character_coverage": config.character_coverage,
            "val_fraction": config.chosen_val_fraction,
            "split_rule": SPLIT_RULE,
        }
    )


def learn_tokenizer(
    parts: Sequence[DocumentPart], folder: Path, *, val_fraction: float, coverage: float, workers: int
) -> TokenizerFile:
    """Learns the characters from train documents alone, and writes the tokenizer below `folder`.

    Raises DatasetError if a split would be empty.
    """
    with ThreadPoolExecutor(workers) as pool, Watch("learn", total=len(parts), unit="shards") as watch:
        counted = pool.map(lambda part: _count_train(part, val_fraction), parts)
        counts, train, val = CharacterCounts(), 0, 0
        for part_counts, part_train, part_val in counted:
            counts.merge(part_counts)
            train, val = train + part_train, val + part_val
            watch.advance(1)
    refuse_empty_split(train, val, val_fraction)
    tokenizer = CharTokenizer.from_counts(counts, coverage=coverage)
    path = folder / f"tokenizer-{tokenizer.fingerprint[:16]}.json"
    with atomic_file(path) as file:
        file.write(tokenizer.to_json().encode())
    return TokenizerFile(
        path=path,
        fingerprint=tokenizer.fingerprint,
        vocabulary_size=tokenizer.vocabulary_size,
        end_of_text=tokenizer.end_of_text,
    )


def encode(
    parts: Sequence[DocumentPart], tokenizer: TokenizerFile, folder: Path, val_fraction: float
) -> list[TokenPart]:
    """The tokens of stored texts, part by part, below `folder`; parts that are there already stay as they are."""
    loaded = tokenizer.load()
    return [
        read_token_part(folder / part.path.stem)
        or write_token_part(
            folder / part.path.stem,
            _encoded(part, loaded),
            val_fraction=val_fraction,
            dtype=token_dtype(tokenizer.vocabulary_size),
            end_of_text=tokenizer.end_of_text,
        )
        for part in parts
    ]


def token_folder(workspace: Workspace, tokenizer: TokenizerFile, val_fraction: float) -> Path:
    """Where parts encoded in this way wait until the data set is whole."""
    return workspace.tokens / fingerprint([tokenizer.fingerprint, val_fraction, SPLIT_RULE])[:16]


def publish(
    config: CorpusConfig,
    workspace: Workspace,
    results: Sequence[IngestedShard | RefusedShard],
    tokenizer: TokenizerFile,
    parts: Sequence[TokenPart],
) -> Dataset:
    """Joins the parts to a finished data set; the parts are removed then, since the data set has their bytes."""
    ingested = [result for result in results if isinstance(result, IngestedShard)]
    inputs = DatasetInputs(
        name=config.chosen_name,
        fingerprint=inputs_fingerprint(config, ingested),
        sources=[_source(item) for item in ingested],
        parts=list(parts),
        quarantined=[
            Quarantined(name=result.shard.name, reason=result.reason)
            for result in results
            if isinstance(result, RefusedShard)
        ],
        normalisation=_normalisation(ingested),
        tokenizer_json=tokenizer.path.read_text(encoding="utf-8"),
        tokenizer_fingerprint=tokenizer.fingerprint,
        vocabulary_size=tokenizer.vocabulary_size,
        end_of_text=tokenizer.end_of_text,
        dtype=token_dtype(tokenizer.vocabulary_size),
        val_fraction=config.chosen_val_fraction,
    )
    with pulse("join"):
        dataset = publish_dataset(workspace.datasets, inputs, build_facts(config))
    shutil.rmtree(workspace.tokens, ignore_errors=True)
    return dataset


def build_facts(config: CorpusConfig) -> dict[str, Any]:
    """What a manifest tells about its making, and no fingerprint depends on."""
    return {
        "created_at": datetime.now(UTC).isoformat(timespec="seconds"),
        "config": asdict(config)
        | {"corpus": _absolute(config.corpus), "val_fraction": config.chosen_val_fraction},
        "workers": chosen_workers(config.workers),
        "peak_rss_bytes": peak_rss_bytes(),
        "brickroad": version("brickroad"),
        "python": platform.python_version(),
        "pyarrow": version("pyarrow"),
    }


def peak_rss_bytes() -> int:
    """The most memory that this process has had resident so far."""
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit


def _absolute(corpus: str) -> str:
    """A path that means the same from any folder; a name of the catalogue stays a name."""
    return corpus if corpus in CATALOGUE else str(Path(corpus).expanduser().absolute())


def _count_train(part: DocumentPart, val_fraction: float) -> tuple[CharacterCounts, int, int]:
    counts, train, val = CharacterCounts(), 0, 0
    for document in read_texts(part):
        if split_of(document.sha256, val_fraction) == "train":
            counts.update(document.text)
            train += 1
        else:
            val += 1
    return counts, train, val


def _encoded(part: DocumentPart, tokenizer: Tokenizer) -> Iterator[tuple[StoredDocument, TokenArray]]:
    for document in read_texts(part):
        yield document, tokenizer.encode(document.text)


def _source(item: IngestedShard) -> Source:
    return Source(
        name=item.shard.name,
        sha256=item.part.shard_sha256,
        compressed_bytes=item.shard.compressed_bytes,
        documents=item.part.documents,
        text_bytes=item.part.text_bytes,
    )


def _normalisation(ingested: Sequence[IngestedShard]) -> dict[str, int]:
    fields = ("byte_order_marks", "crlf_line_ends", "invalid_utf8_documents")
    return {field: sum(getattr(item.part, field) for item in ingested) for field in fields}


locate_shards_task = road_task(
    "locate shards", retries=2, retry_delay_seconds=5, retry_condition_fn=can_heal
)(locate_shards)
ingest_task = road_task("ingest shards", tags=["xz"])(ingest)
learn_tokenizer_task = road_task("learn tokenizer")(learn_tokenizer)
encode_task = road_task("encode shards")(encode)
publish_task = road_task("publish data set")(publish)
