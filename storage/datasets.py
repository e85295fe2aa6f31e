"""A finished data set: train.bin, val.bin, tokenizer.json, documents.parquet, report.html, and the manifest that is written
last; and dropped.parquet, if quality steps left documents out. It is found by name, digest or inputs, and every byte can be verified.
"""

import json
import random
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from storage.blocks import BLOCK_BYTES, block_ranges, file_facts, ranges_sha256
from storage.documents.rows import Split
from storage.errors import DatasetError, NoSuchDatasetError
from storage.files import named_errors
from storage.manifests import DATASET_FORMAT, Manifest
from storage.tokens import SplitFacts, TokenFile

DROPPED_NAME = "dropped.parquet"


@dataclass(frozen=True, slots=True, kw_only=True)
class PromptFacts:
    """How the examples of a data set lie: rows of `row_tokens`, prompts spelt as `prompt_format` says. `cut` responses were too
    long for a row. The sizes are of the UTF-8 of responses."""

    row_tokens: int
    prompt_format: str
    cut: int
    train_response_bytes: int
    val_response_bytes: int


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

    def prompts(self) -> "PromptFacts | None":
        """How the examples of a data set of prompts and responses were made; None of any other."""
        if "prompts.json" not in self.manifest.files:
            return None
        return PromptFacts(**json.loads((self.path / "prompts.json").read_text(encoding="utf-8")))

    def learnt(self, split: Split) -> npt.NDArray[np.uint8] | None:
        """Of each token of a split whether it is learnt, as a read-only memory map; None if all are."""
        if "prompts.json" not in self.manifest.files:
            return None
        mask = TokenFile(path=self.path / f"{split}.mask", dtype="uint8", tokens=self.facts(split).tokens)
        return mask.open()

    def tokenizer_json(self) -> str:
        """The text of tokenizer.json."""
        return (self.path / "tokenizer.json").read_text(encoding="utf-8")


def read_dataset(path: Path) -> Dataset:
    """The data set in a folder. Raises DatasetError if it is missing, unfinished, or of another format."""
    try:
        content = (path / "manifest.json").read_bytes()
    except (FileNotFoundError, NotADirectoryError):
        raise DatasetError(f"{path}: no finished data set here (no manifest.json)") from None
    return Dataset(path=path, manifest=parse_manifest(content, str(path)))


def parse_manifest(content: bytes, path: str) -> Manifest:
    """The manifest of the data set at `path`, from the bytes of manifest.json. Raises DatasetError if it is of another format."""
    try:
        value = json.loads(content)
        if value["format_version"] != DATASET_FORMAT:
            raise DatasetError(
                f"{path}: format {value['format_version']} is not {DATASET_FORMAT}; build it again"
            )
        return Manifest.from_dict(value)
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise DatasetError(
            f"{path}/manifest.json: not a manifest ({error}); delete {path} and build the data set again"
        ) from None


def list_datasets(folder: Path) -> tuple[list[Dataset], list[DatasetError]]:
    """All finished data sets, oldest first; and why others cannot be read, which may be of another version."""
    return _read(_finished(folder))


def find_dataset(folder: Path, reference: str) -> Dataset:
    """A data set by name (its newest), name@digest (a prefix will do) or path. Raises NoSuchDatasetError if there is none."""
    if (Path(reference) / "manifest.json").is_file():
        return read_dataset(Path(reference).absolute())
    name, _, digest = reference.partition("@")
    known = _finished(folder)
    found = [path for path in known if path.parent.name == name and path.name.startswith(digest)]
    if not found:
        names = ", ".join(sorted({path.parent.name for path in known})) or "none yet"
        raise NoSuchDatasetError(
            f"{reference}: no such data set in {folder} (there: {names}); see: brickroad dataset list"
        )
    datasets, errors = _read(found)
    if not datasets:
        raise errors[0]
    return datasets[-1]


def find_by_fingerprint(folder: Path, name: str, inputs_fingerprint: str) -> Dataset | None:
    """The finished data set of that name made from exactly these inputs and settings, or None.

    One that has lost a file, or part of one, is not finished: it is to be built again.
    """
    try:
        digest = pointer(folder, name, inputs_fingerprint).read_text(encoding="utf-8")
        dataset = read_dataset(folder / name / digest)
        return dataset if _has_all_files(dataset) else None
    except (FileNotFoundError, DatasetError):
        return None


def previous_dataset(folder: Path, dataset: Dataset) -> Dataset | None:
    """The newest other data set of the same name that can be read, made before this one; or None."""
    same_name = [path for path in _finished(folder) if path.parent.name == dataset.manifest.name]
    datasets, _ = _read([path for path in same_name if path.name != dataset.manifest.digest])
    made = str(dataset.manifest.build.get("created_at"))
    return next(
        (one for one in reversed(datasets) if str(one.manifest.build.get("created_at")) <= made), None
    )


def pointer(folder: Path, name: str, inputs_fingerprint: str) -> Path:
    """The file that names the digest that these inputs came to."""
    return folder / name / "by-inputs" / inputs_fingerprint


def is_whole(path: Path) -> bool:
    """Whether a whole data set stands here, as far as sizes tell."""
    try:
        return _has_all_files(read_dataset(path))
    except (FileNotFoundError, DatasetError):
        return False


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


def refuse_damaged(dataset: Dataset, *, blocks: int | None) -> None:
    """Raises DatasetError if the token files are not as the manifest has them: in so many blocks of each, or in all.

    Which blocks is left to chance, so that in time all of them are looked at.
    """
    if wrong := _wrong_manifest(dataset):
        raise DatasetError(wrong[0])
    masks = [name for name in ("train.mask", "val.mask") if name in dataset.manifest.files]
    for name in ("train.bin", "val.bin", *masks):
        path, facts = dataset.path / name, dataset.manifest.files[name]
        if not path.is_file() or path.stat().st_size != facts.bytes:
            raise DatasetError(
                f"{path}: has not the {facts.bytes:,} bytes that are recorded; {_way_out(dataset)}"
            )
        recorded = list(zip(block_ranges(path, facts.bytes), facts.block_sha256, strict=True))
        some = recorded if blocks is None else random.sample(recorded, min(blocks, len(recorded)))  # nosec B311 # which blocks are looked at is no secret
        with named_errors(path):
            found = ranges_sha256([piece for piece, _ in some])
        for (piece, sha256), here in zip(some, found, strict=True):
            if here != sha256:
                number = piece.start // BLOCK_BYTES
                raise DatasetError(f"{path}: bytes differ in block {number} of 64 MiB; {_way_out(dataset)}")


def _finished(folder: Path) -> list[Path]:
    manifests = folder.glob("*/*/manifest.json")
    return [path.parent for path in manifests if not path.parent.name.startswith(".")]


def _read(paths: list[Path]) -> tuple[list[Dataset], list[DatasetError]]:
    datasets, errors = list[Dataset](), list[DatasetError]()
    for path in paths:
        try:
            datasets.append(read_dataset(path))
        except DatasetError as error:
            errors.append(error)
    datasets.sort(key=lambda one: (str(one.manifest.build.get("created_at")), one.manifest.digest))
    return datasets, errors


def _has_all_files(dataset: Dataset) -> bool:
    """Raises FileNotFoundError if one is missing."""
    files = dataset.manifest.files.items()
    return all((dataset.path / name).stat().st_size == facts.bytes for name, facts in files)


def _wrong_manifest(dataset: Dataset) -> list[str]:
    if not dataset.manifest.is_sealed():
        return [f"{dataset.path}/manifest.json: was edited or damaged; {_way_out(dataset)}"]
    return []


def _way_out(dataset: Dataset) -> str:
    return f"delete {dataset.path} and build again"
