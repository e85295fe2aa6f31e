"""The characters of stored texts, by split: vocabularies, the sizes of token files and the report are made from them.

They are counted in the one pass over a shard and noted beside its text; another val fraction counts them again.
"""

import base64
from dataclasses import dataclass, field
from typing import Any, Self

import numpy as np
import numpy.typing as npt

from model.tokenizer import CharacterCounts
from storage.documents.parts import DocumentPart, TextBatch, read_notes, read_texts
from storage.tokens import are_val

Pairs = npt.NDArray[np.int64]


@dataclass(frozen=True, slots=True, kw_only=True)
class PartCharacters:
    """The characters of one stored shard, and of its val documents among them: [distinct, 2], code points and counts."""

    all: Pairs
    val: Pairs
    documents: int
    val_documents: int

    def to_json(self, val_fraction: float) -> dict[str, Any]:
        """As it is noted beside the text, with the fraction that decided the split."""
        # Of a shard with more than 4 billion of one character the numbers are wider.
        dtype = "<u4" if int(self.all.max(initial=0)) < 1 << 32 else "<i8"
        return {
            "val_fraction": val_fraction,
            "dtype": dtype,
            "all": _packed(self.all, dtype),
            "val": _packed(self.val, dtype),
            "val_documents": self.val_documents,
        }

    @classmethod
    def noted(cls, part: DocumentPart, val_fraction: float) -> Self | None:
        """As noted when the shard was read, or None if the split was another one then, or documents are left out now."""
        if part.kept:
            return None
        noted = read_notes(part)["characters"]
        if noted["val_fraction"] != val_fraction:
            return None
        dtype = noted.get("dtype", "<i8")  # text that was stored before it was noted
        return cls(
            all=_unpacked(noted["all"], dtype),
            val=_unpacked(noted["val"], dtype),
            documents=part.documents,
            val_documents=noted["val_documents"],
        )


@dataclass(slots=True)
class SplitCounts:
    """How often each character occurs in documents, and in the val documents among them; and how many documents those are.

    `are_noted` if each part has a note of its own characters.
    """

    all: CharacterCounts = field(default_factory=CharacterCounts)
    val: CharacterCounts = field(default_factory=CharacterCounts)
    documents: int = 0
    val_documents: int = 0
    are_noted: bool = True

    def update(
        self, batch: TextBatch, digests: list[bytes] | npt.NDArray[np.uint8], val_fraction: float
    ) -> None:
        """Counts documents with these content hashes, [documents, 32]."""
        is_val, ends = are_val(digests, val_fraction), np.cumsum(batch.sizes)
        self.all.update_utf8(batch.utf8)
        of_val = zip(ends[is_val].tolist(), batch.sizes[is_val].tolist(), strict=True)
        self.val.update_utf8(b"".join(batch.utf8[end - size : end] for end, size in of_val))
        self.documents += len(digests)
        self.val_documents += int(is_val.sum())

    def add(self, part: PartCharacters) -> None:
        """Adds the counts of another shard."""
        self.all.add_pairs(part.all)
        self.val.add_pairs(part.val)
        self.documents += part.documents
        self.val_documents += part.val_documents

    def as_part(self) -> PartCharacters:
        """The same, as it travels and is noted."""
        return PartCharacters(
            all=self.all.pairs(),
            val=self.val.pairs(),
            documents=self.documents,
            val_documents=self.val_documents,
        )

    def train(self) -> CharacterCounts:
        """The characters of the train documents."""
        train = CharacterCounts()
        train.merge(self.all)
        train.remove(self.val)
        return train


def count_part(part: DocumentPart, val_fraction: float) -> PartCharacters:
    """The characters of a stored shard, counted again."""
    counts = SplitCounts()
    for stored in read_texts(part):
        utf8, sizes = stored.joined()
        batch = TextBatch(members=stored.members, utf8=bytes(utf8), sizes=sizes)
        counts.update(batch, stored.hashes, val_fraction)
    return counts.as_part()


def _packed(pairs: Pairs, dtype: str) -> str:
    """Counts as text that is read back a hundred times as fast as numbers in JSON: twenty thousand shards have some."""
    return base64.b64encode(pairs.astype(dtype).tobytes()).decode()


def _unpacked(text: str, dtype: str) -> Pairs:
    return np.frombuffer(base64.b64decode(text), dtype).reshape(-1, 2).astype(np.int64)
