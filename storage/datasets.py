"""A finished data set: train.bin, val.bin, tokenizer.json, documents.parquet, and the manifest that is written last; and
dropped.parquet, if quality steps left documents out.

Its digest names the bytes that training reads, and only those: token files, tokenizer and their format. The manifest
also holds the fingerprint of what it was made from, the sources, and what a reader needs; `docs/data-layout.md`.
"""

import contextlib
import json
from collections import deque
from collections.abc import Iterable, Iterator
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from storage.blocks import Block, BlockwiseFile, FileFacts, FileRange, file_facts
from storage.documents.rows import DocumentsWriter, Split
from storage.documents.tables import write_dropped
from storage.errors import DatasetError
from storage.files import (
    atomic_file,
    fingerprint,
    named_errors,
    publish_folder,
    staged_folder,
    write_json,
)
from storage.tokens import SPLIT_RULE, SPLITS, SplitFacts, TokenDtype, TokenFile, TokenPart

DATASET_FORMAT = 3  # of the manifest
TOKEN_FILES_FORMAT = 1  # of what the digest is of: a new manifest alone makes no other data set
DROPPED_NAME = "dropped.parquet"
DIGEST_CHARACTERS = 32  # 128 bits; MLflow takes at most 36


@dataclass(frozen=True, slots=True, kw_only=True)
class Source:
    """One shard that a data set was made from. `stored_as` names its text: the shard's bytes, and how they were read.

    `documents` and `text_bytes` count both splits.
    """

    name: str
    sha256: str
    stored_as: str
    compressed_bytes: int
    documents: int
    val_documents: int
    text_bytes: int
    val_text_bytes: int
    train_tokens: int
    val_tokens: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Quarantined:
    """One shard that could not be trusted and was left out, because the caller tolerated it."""

    name: str
    reason: str


@dataclass(frozen=True, slots=True, kw_only=True)
class LeftOut:
    """What a quality step left out; `dropped.parquet` lists the documents."""

    step: str
    documents: int
    text_bytes: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Manifest:
    """Everything a reader needs about a data set.

    `fingerprint` stands for the inputs, `digest` for the outputs; `build` has what does not touch either (time,
    workers, peak memory, versions). `normalisation` counts byte order marks, CRLF line ends, documents with replaced
    bytes and documents with other blanks; `quality` is the recipe of steps that leave documents out. `seal` is the sha256 of all the rest, so that an edited manifest is noticed.
    """

    name: str
    digest: str
    fingerprint: str
    dtype: TokenDtype
    vocabulary_size: int
    end_of_text: int
    tokenizer_fingerprint: str
    val_fraction: float
    train: SplitFacts
    val: SplitFacts
    normalisation: dict[str, int]
    sources: list[Source]
    quarantined: list[Quarantined]
    quality: dict[str, Any]
    left_out: list[LeftOut]
    files: dict[str, FileFacts]
    build: dict[str, Any]
    seal: str = ""
    split_rule: str = SPLIT_RULE
    format_version: int = DATASET_FORMAT

    @classmethod
    def from_dict(cls, value: dict[str, Any]) -> "Manifest":
        """The manifest from its JSON. Raises TypeError, KeyError or AttributeError if it is not one."""
        return cls(
            **value
            | {
                "train": SplitFacts(**value["train"]),
                "val": SplitFacts(**value["val"]),
                "sources": [Source(**source) for source in value["sources"]],
                "quarantined": [Quarantined(**shard) for shard in value["quarantined"]],
                "left_out": [LeftOut(**step) for step in value["left_out"]],
                "files": {name: FileFacts(**facts) for name, facts in value["files"].items()},
            }
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Dataset:
    """A finished data set on disk."""

    path: Path
    manifest: Manifest

    @property
    def reference(self) -> str:
        """The name that commands take: name@digest, shortened."""
        return f"{self.manifest.name}@{self.manifest.digest[:12]}"

    def facts(self, split: Split) -> SplitFacts:
        """Sizes of a split."""
        return self.manifest.train if split == "train" else self.manifest.val

    def token_file(self, split: Split) -> TokenFile:
        """The token file of a split; `.open()` maps it."""
        return TokenFile(
            path=self.path / f"{split}.bin", dtype=self.manifest.dtype, tokens=self.facts(split).tokens
        )

    def tokenizer_json(self) -> str:
        """The text of tokenizer.json."""
        return (self.path / "tokenizer.json").read_text(encoding="utf-8")


@dataclass(frozen=True, slots=True, kw_only=True)
class DatasetInputs:
    """What a data set is made of but its parts: the settings, and what was left out or changed on the way."""

    fingerprint: str
    quarantined: list[Quarantined]
    quality: dict[str, Any]
    left_out: list[LeftOut]
    normalisation: dict[str, int]
    tokenizer_json: str
    tokenizer_fingerprint: str
    vocabulary_size: int
    end_of_text: int
    dtype: TokenDtype
    val_fraction: float


class DatasetWriter:
    """Joins parts to a data set, one after another in corpus order, and publishes <folder>/<name>/<digest>/.

    `with DatasetWriter(folder, name) as writer:` then `append` each part and `finish`; both give blocks to be written, by
    `write_block` in any process, and `written` notes each in the order it was given; then `describe` what there is, and
    `publish` it. The folder appears only whole; nothing is left if the body raises.
    """

    def __init__(self, folder: Path, name: str) -> None:
        self._folder, self._name = folder, name
        self._sources: list[Source] = []
        self._totals: dict[Split, SplitFacts] = {split: SplitFacts() for split in SPLITS}
        self._block_sha256: dict[Split, list[str]] = {split: [] for split in SPLITS}
        self._given: deque[tuple[Split, Block]] = deque()
        self._transient: dict[Path, int] = {}  # files that go when so many bytes of them have been joined

    def __enter__(self) -> Self:
        with contextlib.ExitStack() as stack:
            self._stage = stack.enter_context(staged_folder(self._folder / self._name))
            self._files = {split: BlockwiseFile(self._stage / f"{split}.bin") for split in SPLITS}
            self._rows = stack.enter_context((self._stage / "documents.parquet").open("wb"))
            self._documents = DocumentsWriter(self._rows)
            self._stack = stack.pop_all()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._documents.abandon()
        self._stack.close()

    def append(self, source: Source, part: TokenPart) -> Iterator[Block]:
        """Adds the tokens of the next shard: the blocks that can be written now."""
        with named_errors(self._stage / "documents.parquet"):
            self._documents.append(source.name, part.rows)
        self._sources.append(source)
        for split in SPLITS:
            self._totals[split] += part.facts(split)
            tokens = part.tokens(split)
            if part.is_transient and tokens.path != self._files[split].path:
                self._transient[tokens.path] = tokens.bytes
            yield from self._give(split, self._files[split].append(tokens))
        if part.is_transient:
            part.rows.path.unlink()

    def place(self, split: Split, start: int, size: int) -> FileRange:
        """So many bytes of a token file, which may be written before the part that they are of is appended."""
        return FileRange(path=self._files[split].path, start=start, bytes=size)

    def finish(self) -> Iterator[Block]:
        """All parts have been added: the last blocks."""
        for split in SPLITS:
            yield from self._give(split, self._files[split].finish())

    def _give(self, split: Split, blocks: Iterator[Block]) -> Iterator[Block]:
        for block in blocks:
            self._given.append((split, block))
            yield block

    def written(self, sha256: str) -> None:
        """The first of the blocks that were given and not yet noted is written, and has this sha256."""
        split, block = self._given.popleft()
        self._block_sha256[split].append(sha256)
        for piece in block.pieces:
            if piece.path in self._transient:
                self._transient[piece.path] -= piece.bytes
                if not self._transient[piece.path]:
                    piece.path.unlink()
                    del self._transient[piece.path]

    def list_left_out(self, documents: Iterable[tuple[str, str, str, str, str]]) -> None:
        """Lists the documents that quality steps left out: shard, member, sha256, step, detail."""
        write_dropped(self._stage / DROPPED_NAME, documents)

    def describe(self, inputs: DatasetInputs, build: dict[str, Any]) -> Dataset:
        """The data set as it will be, which can be read but has no name yet, and whose folder takes further files.

        Raises DatasetError if a split would be empty.
        """
        refuse_empty_split(
            self._totals["train"].documents, self._totals["val"].documents, inputs.val_fraction
        )
        assert not self._given, "each block that was given is to be written"
        with named_errors(self._stage):
            self._documents.close()
            self._rows.close()
            (self._stage / "tokenizer.json").write_bytes(inputs.tokenizer_json.encode())
        files = {
            f"{split}.bin": FileFacts.of(self._files[split].bytes, self._block_sha256[split])
            for split in SPLITS
        }
        others = ("tokenizer.json", "documents.parquet", DROPPED_NAME)
        files |= {name: file_facts(self._stage / name) for name in others if (self._stage / name).is_file()}
        manifest = Manifest(
            name=self._name,
            digest=_digest(inputs, files),
            train=self._totals["train"],
            val=self._totals["val"],
            sources=self._sources,
            files=files,
            build=build,
            fingerprint=inputs.fingerprint,
            dtype=inputs.dtype,
            vocabulary_size=inputs.vocabulary_size,
            end_of_text=inputs.end_of_text,
            tokenizer_fingerprint=inputs.tokenizer_fingerprint,
            val_fraction=inputs.val_fraction,
            normalisation=inputs.normalisation,
            quarantined=inputs.quarantined,
            quality=inputs.quality,
            left_out=inputs.left_out,
        )
        return Dataset(path=self._stage, manifest=replace(manifest, seal=_seal(manifest)))

    def publish(self, described: Dataset) -> Dataset:
        """Gives the data set its name: it is finished."""
        manifest = described.manifest
        write_json(self._stage / "manifest.json", asdict(manifest))
        path = self._folder / self._name / manifest.digest
        publish_folder(self._stage, path, is_done=_is_done)
        # Other inputs may have made the same bytes before (another container, a setting without effect): then that
        # data set stands, and these inputs point to it as well.
        with atomic_file(_pointer(self._folder, self._name, manifest.fingerprint)) as file:
            file.write(manifest.digest.encode())
        return read_dataset(path)


def refuse_empty_split(train_documents: int, val_documents: int, val_fraction: float) -> None:
    """Raises DatasetError, with the way out, if a split would have no document."""
    documents = train_documents + val_documents
    if documents < 2:
        raise DatasetError(f"the corpus has {documents} document; a train and a val split need at least 2")
    if not train_documents or not val_documents:
        empty, way = ("val", "larger") if not val_documents else ("train", "smaller")
        raise DatasetError(
            f"none of the {documents} documents fell into the {empty} split at --val-fraction {val_fraction}; "
            f"choose a {way} fraction"
        )


def read_dataset(path: Path) -> Dataset:
    """The data set in a folder. Raises DatasetError if it is missing, unfinished, or of another format."""
    try:
        value = json.loads((path / "manifest.json").read_text(encoding="utf-8"))
        if value["format_version"] != DATASET_FORMAT:
            raise DatasetError(
                f"{path}: format {value['format_version']} is not {DATASET_FORMAT}; build it again"
            )
        return Dataset(path=path, manifest=Manifest.from_dict(value))
    except (FileNotFoundError, NotADirectoryError):
        raise DatasetError(f"{path}: no finished data set here (no manifest.json)") from None
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise DatasetError(
            f"{path}/manifest.json: not a manifest ({error}); delete {path} and build the data set again"
        ) from None


def list_datasets(folder: Path) -> list[Dataset]:
    """All finished data sets, oldest first."""
    return _by_age(_finished(folder))


def find_dataset(folder: Path, reference: str) -> Dataset:
    """A data set by name (its newest), name@digest (a prefix will do) or path. Raises DatasetError if there is none."""
    if (Path(reference) / "manifest.json").is_file():
        return read_dataset(Path(reference).absolute())
    name, _, digest = reference.partition("@")
    known = _finished(folder)
    found = [path for path in known if path.parent.name == name and path.name.startswith(digest)]
    if not found:
        names = ", ".join(sorted({path.parent.name for path in known})) or "none yet"
        raise DatasetError(
            f"{reference}: no such data set in {folder} (there: {names}); see: brickroad dataset list"
        )
    return _by_age(found)[-1]


def _finished(folder: Path) -> list[Path]:
    manifests = folder.glob("*/*/manifest.json")
    return [path.parent for path in manifests if not path.parent.name.startswith(".")]


def _by_age(paths: list[Path]) -> list[Dataset]:
    found = [read_dataset(path) for path in paths]
    return sorted(
        found, key=lambda dataset: (str(dataset.manifest.build.get("created_at")), dataset.manifest.digest)
    )


def find_by_fingerprint(folder: Path, name: str, inputs_fingerprint: str) -> Dataset | None:
    """The finished data set of that name made from exactly these inputs and settings, or None.

    One that has lost a file, or part of one, is not finished: it is to be built again.
    """
    try:
        digest = _pointer(folder, name, inputs_fingerprint).read_text(encoding="utf-8")
        dataset = read_dataset(folder / name / digest)
        return dataset if _has_all_files(dataset) else None
    except (FileNotFoundError, DatasetError):
        return None


def verify_dataset(dataset: Dataset) -> Iterator[tuple[str, int, list[str]]]:
    """Checks every byte: yields (file, bytes read, what is wrong with it) for each file of the data set."""
    yield "manifest.json", 0, _wrong_manifest(dataset)
    for name, facts in dataset.manifest.files.items():
        path = dataset.path / name
        if not path.is_file():
            yield name, 0, [f"{path}: is missing; {_way_out(dataset)}"]
            continue
        found = file_facts(path)
        size = found.bytes
        wrong = []
        if size != facts.bytes:
            wrong.append(
                f"{path}: has {size:,} bytes where {facts.bytes:,} are recorded; {_way_out(dataset)}"
            )
        elif found.sha256 != facts.sha256:
            pairs = enumerate(zip(found.block_sha256, facts.block_sha256, strict=False))
            bad = ", ".join(str(number) for number, (here, recorded) in pairs if here != recorded)
            wrong.append(f"{path}: bytes differ in block {bad or '?'} of 64 MiB; {_way_out(dataset)}")
        yield name, size, wrong


def _wrong_manifest(dataset: Dataset) -> list[str]:
    manifest = dataset.manifest
    if manifest.seal != _seal(manifest):
        return [f"{dataset.path}/manifest.json: was edited or damaged; {_way_out(dataset)}"]
    return []


def _way_out(dataset: Dataset) -> str:
    return f"delete {dataset.path} and build again"


def _seal(manifest: Manifest) -> str:
    return fingerprint(asdict(replace(manifest, seal="")))


def _is_done(path: Path) -> bool:
    """Whether a whole data set stands here, as far as sizes tell."""
    try:
        return _has_all_files(read_dataset(path))
    except (FileNotFoundError, DatasetError):
        return False


def _has_all_files(dataset: Dataset) -> bool:
    """Raises FileNotFoundError if one is missing."""
    files = dataset.manifest.files.items()
    return all((dataset.path / name).stat().st_size == facts.bytes for name, facts in files)


def _pointer(folder: Path, name: str, inputs_fingerprint: str) -> Path:
    return folder / name / "by-inputs" / inputs_fingerprint


def _digest(described: DatasetInputs | Manifest, files: dict[str, FileFacts]) -> str:
    """The identity of what training reads: token files, tokenizer, and how to read them."""
    identity = {
        "format_version": TOKEN_FILES_FORMAT,
        "dtype": described.dtype,
        "end_of_text": described.end_of_text,
        "files": {name: files[name].sha256 for name in ("train.bin", "val.bin", "tokenizer.json")},
    }
    return fingerprint(identity)[:DIGEST_CHARACTERS]
