"""What a finished data set says of itself: its manifest, which is written last, and the digest that names it.

The digest is of the bytes that training reads, and only those: token files, tokenizer and their format. The manifest also
holds the fingerprint of what it was made from, the sources, and what a reader needs; `docs/data-layout.md`.
"""

from dataclasses import asdict, dataclass, replace
from typing import Any, Self

from storage.blocks import FileFacts
from storage.files import fingerprint
from storage.tokens import SPLIT_RULE, SplitFacts, TokenDtype

DATASET_FORMAT = 4  # of the manifest
TOKEN_FILES_FORMAT = 1  # of what the digest is of: a new manifest alone makes no other data set
#: Of a data set of prompts and responses: a byte a token, 1 if it is learnt; and how the rows were made.
PROMPT_FILES = ("train.mask", "val.mask", "prompts.json")
#: The files that the digest is of, as far as a data set has them.
NAMED_BY_DIGEST = ("train.bin", "val.bin", "tokenizer.json", *PROMPT_FILES)
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
    def from_dict(cls, value: dict[str, Any]) -> Self:
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

    def sealed(self) -> Self:
        """The same, with its seal."""
        return replace(self, seal=self._own_seal())

    def is_sealed(self) -> bool:
        """Whether nothing was changed since it was sealed."""
        return self.seal == self._own_seal()

    def _own_seal(self) -> str:
        return fingerprint(asdict(replace(self, seal="")))


def digest_of(dtype: TokenDtype, end_of_text: int, files: dict[str, FileFacts]) -> str:
    """The identity of what training reads: token files, tokenizer, and how to read them; of prompts, what of it is learnt."""
    names = [name for name in NAMED_BY_DIGEST if name in files]
    identity = {
        "format_version": TOKEN_FILES_FORMAT,
        "dtype": dtype,
        "end_of_text": end_of_text,
        "files": {name: files[name].sha256 for name in names},
    }
    return fingerprint(identity)[:DIGEST_CHARACTERS]
