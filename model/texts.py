"""Texts as tokenizers take them: the bytes of many, one after another, and where each ends. No object a document."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Self

import numpy as np
import numpy.typing as npt


@dataclass(frozen=True, slots=True)
class Texts:
    """Texts in UTF-8, one after another in `utf8`, each of so many bytes: `sizes`, [texts]."""

    utf8: bytes | memoryview
    sizes: npt.NDArray[np.int64]

    @classmethod
    def of(cls, texts: Sequence[bytes]) -> Self:
        """These texts, joined."""
        return cls(b"".join(texts), np.fromiter(map(len, texts), np.int64, len(texts)))

    def __len__(self) -> int:
        return len(self.sizes)

    def __iter__(self) -> Iterator[bytes]:
        start = 0
        for end in np.cumsum(self.sizes).tolist():
            yield bytes(self.utf8[start:end])
            start = end
