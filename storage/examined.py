"""What was found in the documents of one shard, waiting to be compared with those of all others.

Beside each other, in a folder of their own for as long as a build takes, by the number of the shard:

    000042.columns    unsigned integers of 64 bits, a column after another: bytes of each text, its sha256 in four, and
                      further columns, as many as the writer wants
    000042.names      JSON: the members, and what is dropped already, as [row, step, detail]
    000042.sets       sets of numbers, of some documents, one after another

Whoever wrote them knows how many documents there are, and how large each set is. Nothing is flushed: after a kill, shards are examined anew.
"""

import json
from collections.abc import Sequence
from dataclasses import astuple, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from storage.errors import DatasetError
from storage.files import named_errors, replaced_file

Column = npt.NDArray[np.uint64]

TEXT_BYTES = 0
FIRST_OF_SHA256 = 1
_SHA256_COLUMNS = 4
FURTHER = FIRST_OF_SHA256 + _SHA256_COLUMNS  # the first of the writer's own columns
_NUMBER = np.dtype("<u8")


@dataclass(frozen=True, slots=True)
class LocalDrop:
    """A document that is dropped for itself, whatever the others are: its row in the shard, the step, and why."""

    row: int
    step: str
    detail: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Names:
    """The members of a shard, and which of them are dropped already."""

    members: list[str]
    dropped: list[LocalDrop]


@dataclass(frozen=True, slots=True, kw_only=True)
class ExaminedFiles:
    """Where the findings about one shard lie, without a suffix, and how many documents it has."""

    path: Path
    documents: int

    def write(self, names: Names, text_bytes: list[int], sha256: list[bytes], further: list[Column]) -> None:
        """Writes columns and names: everything has one value a document."""
        digests = np.frombuffer(b"".join(sha256), _NUMBER).reshape(self.documents, _SHA256_COLUMNS)
        self._write("columns", [np.array(text_bytes, _NUMBER), *digests.T, *further])
        rows = [astuple(one) for one in names.dropped]
        text = json.dumps({"members": names.members, "dropped": rows}, ensure_ascii=False)
        with named_errors(self.path), replaced_file(self._file("names")) as part:
            part.write_text(text, encoding="utf-8")

    def column(self, number: int) -> Column:
        """One column: a number for each document."""
        column: Column = self._columns(number, 1)[0]
        return column

    def sha256(self) -> list[bytes]:
        """The content hash of each document."""
        return [one.tobytes() for one in self._columns(FIRST_OF_SHA256, _SHA256_COLUMNS).T]

    def names(self) -> Names:
        """The names of the documents, and what is dropped already."""
        with named_errors(self.path):
            names = json.loads(self._file("names").read_bytes())
        return Names(members=names["members"], dropped=[LocalDrop(*row) for row in names["dropped"]])

    def write_sets(self, sets: Sequence[Column]) -> None:
        """Writes sets of numbers, one after another."""
        self._write("sets", sets)

    def read_set(self, start: int, count: int) -> Column:
        """The set that begins after so many numbers of others, and has `count`."""
        return self._read("sets", start, count)

    def _columns(self, first: int, count: int) -> npt.NDArray[np.uint64]:
        numbers = self._read("columns", first * self.documents, count * self.documents)
        return numbers.reshape(count, self.documents)

    def _read(self, kind: str, start: int, count: int) -> Column:
        numbers: Column = np.empty(count, _NUMBER)
        path = self._file(kind)
        with named_errors(path), path.open("rb", buffering=0) as file:
            file.seek(start * _NUMBER.itemsize)
            if file.readinto(numbers) != numbers.nbytes:  # type: ignore[arg-type]
                raise DatasetError(f"{path}: is cut off; build again")
        return numbers

    def _write(self, kind: str, columns: Sequence[npt.NDArray[Any]]) -> None:
        with named_errors(self.path):
            self.path.parent.mkdir(parents=True, exist_ok=True)
            with replaced_file(self._file(kind)) as part, part.open("wb") as file:
                for column in columns:
                    file.write(column.astype(_NUMBER).tobytes())

    def _file(self, kind: str) -> Path:
        return self.path.with_name(f"{self.path.name}.{kind}")
