"""Parts become a data set: joined in corpus order, described, and published under the digest of what it holds."""

import contextlib
from collections import deque
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from storage.blocks import Block, BlockwiseFile, FileFacts, file_facts
from storage.datasets import DROPPED_NAME, Dataset, is_whole, pointer, read_dataset
from storage.documents.rows import DocumentsWriter, Split
from storage.documents.tables import write_dropped
from storage.errors import DatasetError
from storage.files import atomic_file, named_errors, publish_folder, staged_folder, write_json
from storage.manifests import PROMPT_FILES, LeftOut, Manifest, Quarantined, Source, digest_of
from storage.tokens import SPLITS, SplitFacts, TokenDtype, TokenPart


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
        self._block_sha256: dict[Split, dict[int, str]] = {split: {} for split in SPLITS}  # by their numbers
        self._given: deque[tuple[Split, Block]] = deque()
        self._transient: dict[Path, int] = {}  # of files that will go, how many bytes are still to be joined
        self._whole: set[Path] = set()  # of these, those of which nothing more will be appended

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
        """Adds the tokens of the next shard: the blocks that can be written now, and are not."""
        with named_errors(self._stage / "documents.parquet"):
            self._documents.append(source.name, part.rows)
        self._sources.append(source)
        for split in SPLITS:
            self._totals[split] += part.facts(split)
            tokens = part.tokens(split)
            if part.is_transient and tokens.path != self._files[split].path:
                self._transient[tokens.path] = self._transient.get(tokens.path, 0) + tokens.bytes
                if part.is_last:
                    self._whole.add(tokens.path)
                self._remove_if_joined(tokens.path)
            yield from self._give(split, self._files[split].append(tokens))
        if part.is_transient and part.is_last:
            part.rows.path.unlink()

    def token_path(self, split: Split) -> Path:
        """A token file, in which tokens may be written to their place before the part that they are of is appended."""
        return self._files[split].path

    def is_written(self, split: Split, block: int, sha256: str) -> None:
        """A whole block of a token file is in its place already. To be said before the last part that is in it is appended."""
        self._block_sha256[split][block] = sha256

    def finish(self) -> Iterator[Block]:
        """All parts have been added: the last blocks."""
        for split in SPLITS:
            yield from self._give(split, self._files[split].finish())

    def _give(self, split: Split, blocks: Iterator[Block]) -> Iterator[Block]:
        for block in blocks:
            if block.number not in self._block_sha256[split]:
                self._given.append((split, block))
                yield block

    def written(self, sha256: str) -> None:
        """The first of the blocks that were given and not yet noted is written, and has this sha256."""
        split, block = self._given.popleft()
        self._block_sha256[split][block.number] = sha256
        for piece in block.pieces:
            if piece.path in self._transient:
                self._transient[piece.path] -= piece.bytes
                self._remove_if_joined(piece.path)

    def _remove_if_joined(self, path: Path) -> None:
        if path in self._whole and not self._transient[path]:
            path.unlink()
            self._whole.remove(path)
            del self._transient[path]

    def list_left_out(self, documents: Iterable[tuple[str, str, str, str, str]]) -> None:
        """Lists the documents that quality steps left out: shard, member, sha256, step, detail."""
        write_dropped(self._stage / DROPPED_NAME, documents)

    def add_prompt_files(self, masks: Mapping[Split, bytes], facts: dict[str, Any]) -> None:
        """Of prompts and responses: which tokens are learnt, a byte each, and how the rows were made."""
        with named_errors(self._stage):
            for split in SPLITS:
                (self._stage / f"{split}.mask").write_bytes(masks[split])
            write_json(self._stage / "prompts.json", facts)

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
            f"{split}.bin": FileFacts.of(
                self._files[split].bytes, [sha256 for _, sha256 in sorted(self._block_sha256[split].items())]
            )
            for split in SPLITS
        }
        others = ("tokenizer.json", "documents.parquet", DROPPED_NAME, *PROMPT_FILES)
        files |= {name: file_facts(self._stage / name) for name in others if (self._stage / name).is_file()}
        manifest = Manifest(
            name=self._name,
            digest=digest_of(inputs.dtype, inputs.end_of_text, files),
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
        return Dataset(path=self._stage, manifest=manifest.sealed())

    def publish(self, described: Dataset) -> Dataset:
        """Gives the data set its name: it is finished."""
        manifest = described.manifest
        write_json(self._stage / "manifest.json", asdict(manifest))
        path = self._folder / self._name / manifest.digest
        publish_folder(self._stage, path, is_done=is_whole)
        # Other inputs may have made the same bytes before (another container, a setting without effect): then that
        # data set stands, and these inputs point to it as well.
        with atomic_file(pointer(self._folder, self._name, manifest.fingerprint)) as file:
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
