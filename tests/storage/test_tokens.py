"""Token files are raw little-endian ids with an end-of-text after each document; a content hash decides the split."""

import hashlib
import random
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from storage import files, tokens
from storage.documents import StoredDocument, read_document_rows
from storage.errors import DatasetError
from storage.files import checksums
from storage.shards import sha256_text
from storage.tokens import (
    SplitFacts,
    TokenArray,
    TokenDtype,
    TokenFile,
    TokenPart,
    join_files,
    read_token_part,
    split_of,
    token_dtype,
    write_token_part,
)

END = 7


def encoded(count: int, largest: int = 300, seed: int = 0) -> list[tuple[StoredDocument, TokenArray]]:
    rng = random.Random(seed)
    pairs = []
    for number in range(count):
        text = f"document {number} of {seed}"
        document = StoredDocument(
            member=f"{number}.txt", sha256=sha256_text(text.encode()), text=text, text_bytes=len(text)
        )
        pairs.append(
            (document, np.array([rng.randrange(largest) for _ in range(rng.randrange(6))], np.uint32))
        )
    return pairs


def write(
    path: Path, documents: list[tuple[StoredDocument, TokenArray]], dtype: TokenDtype = "uint16"
) -> TokenPart:
    return write_token_part(path, documents, val_fraction=0.3, dtype=dtype, end_of_text=END)


# --- split ------------------------------------------------------------------------------------------------------------


def test_the_split_is_the_rule_and_its_edges_are_exact() -> None:
    half = bytes([0x80]) + bytes(31)
    assert split_of(half, 0.5) == "train"
    assert split_of(bytes([0x7F] + [0xFF] * 31), 0.5) == "val"
    assert split_of(bytes(32), 0.0) == "train"
    assert split_of(bytes(32), 1e-19) == "val"
    assert split_of(b"\xff" * 32, 1.0) == "val"
    assert split_of(b"\xff" * 32, 1 - 2**-53) == "train"


def test_the_split_never_changes_between_versions() -> None:
    found = "".join(split_of(sha256_text(str(n).encode()), 0.1)[0] for n in range(40))
    assert found == "".join(
        "v" if int(hashlib.sha256(str(n).encode()).hexdigest()[:16], 16) / 2**64 < 0.1 else "t"
        for n in range(40)
    )
    assert split_of(sha256_text(b"The road."), 0.5) == "train"
    assert split_of(sha256_text(b"The road home."), 0.5) == "val"


@pytest.mark.parametrize("fraction", [0.0005, 0.1, 0.5, 0.9])
def test_the_fraction_is_met(fraction: float) -> None:
    count = 20_000
    val = sum(split_of(sha256_text(str(n).encode()), fraction) == "val" for n in range(count))
    assert abs(val - count * fraction) < 5 * (count * fraction * (1 - fraction)) ** 0.5 + 1


@settings(deadline=None)  # other work on the machine must not fail it
@given(
    texts=st.lists(st.text(max_size=4), min_size=1), fraction=st.floats(0.01, 0.99), seed=st.integers(0, 9)
)
def test_no_other_document_and_no_order_moves_a_document(
    texts: list[str], fraction: float, seed: int
) -> None:
    def splits(corpus: list[str]) -> dict[str, set[str]]:
        found: dict[str, set[str]] = {}
        for text in corpus:
            digest = sha256_text(text.encode("utf-8", "surrogatepass"))
            found.setdefault(text, set()).add(split_of(digest, fraction))
        return found

    alone = splits(texts)
    more = splits([*random.Random(seed).sample(texts * 2, len(texts) * 2), "another", "and another"])
    assert all(len(sides) == 1 for sides in more.values())  # exact duplicates are on one side
    assert all(more[text] == sides for text, sides in alone.items())


@settings(deadline=None)
@given(digest=st.binary(min_size=32, max_size=32), fractions=st.tuples(st.floats(0, 1), st.floats(0, 1)))
def test_a_larger_fraction_only_adds_to_val(digest: bytes, fractions: tuple[float, float]) -> None:
    small, large = sorted(fractions)
    assert split_of(digest, small) == "train" or split_of(digest, large) == "val"


# --- files ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("vocabulary", "dtype"), [(1, "uint16"), (65_536, "uint16"), (65_537, "uint32")])
def test_ids_take_two_bytes_while_the_vocabulary_fits(vocabulary: int, dtype: str) -> None:
    assert token_dtype(vocabulary) == dtype


@pytest.mark.parametrize(
    ("dtype", "letter", "largest"), [("uint16", "<u2", 65_536), ("uint32", "<u4", 2**32)]
)
def test_a_part_is_raw_little_endian_with_an_end_after_each_document(
    dtype: TokenDtype, letter: str, largest: int, tmp_path: Path
) -> None:
    documents = encoded(50, largest)
    part = write(tmp_path / "part", documents, dtype)
    for split in ("train", "val"):
        expected: list[int] = []
        for document, ids in documents:
            if split_of(document.sha256, 0.3) == split:
                expected += [*ids.tolist(), END]
        content = (part.path / f"{split}.bin").read_bytes()
        assert content == np.array(expected, letter).tobytes()
        facts = part.train if split == "train" else part.val
        assert facts.tokens == len(expected)
        assert (
            TokenFile(path=part.path / f"{split}.bin", dtype=dtype, tokens=len(expected)).open().tolist()
            == expected
        )
    assert part.train.documents + part.val.documents == 50
    assert min(part.train.documents, part.val.documents) > 5


def test_rows_map_each_document_to_its_tokens(tmp_path: Path) -> None:
    documents = encoded(30)
    part = write(tmp_path / "part", documents)
    bins = {split: np.fromfile(part.path / f"{split}.bin", "<u2") for split in ("train", "val")}
    rows = list(read_document_rows(part.path / "documents.parquet"))
    for (document, ids), row in zip(documents, rows, strict=True):
        found = bins[row["split"]][row["token_start"] : row["token_start"] + row["token_count"]]
        assert found.tolist() == [*ids.tolist(), END]
        assert (row["member"], row["sha256"], row["text_bytes"]) == (
            document.member,
            document.sha256,
            document.text_bytes,
        )


def test_an_id_that_does_not_fit_is_our_bug_and_never_another_id(tmp_path: Path) -> None:
    ((document, _),) = encoded(1)
    with pytest.raises(AssertionError, match="above the vocabulary"):
        write(tmp_path / "part", [(document, np.array([65_536], np.uint32))])
    assert not list(tmp_path.iterdir())


def test_a_part_is_read_as_it_was_written(tmp_path: Path) -> None:
    part = write(tmp_path / "part", encoded(9))
    assert read_token_part(tmp_path / "part") == part
    assert read_token_part(tmp_path / "other") is None


@pytest.mark.parametrize("record", [None, "", "[]", "{}", '{"train": {"a": 1}, "val": {}}', "\xff"])
def test_a_part_without_its_record_is_written_again(record: str | None, tmp_path: Path) -> None:
    part = write(tmp_path / "part", encoded(9))
    (part.path / "part.json").unlink()
    (part.path / "train.bin").write_bytes(b"rest of a removal")
    if record is not None:
        (part.path / "part.json").write_text(record, encoding="latin-1")
    assert read_token_part(part.path) is None
    assert write(tmp_path / "part", encoded(9)) == part == read_token_part(part.path)
    assert (part.path / "train.bin").stat().st_size == 2 * part.train.tokens


def test_a_failed_part_leaves_nothing(tmp_path: Path) -> None:
    def failing() -> object:
        yield from encoded(3)
        raise DatasetError("damaged")

    with pytest.raises(DatasetError, match="damaged"):
        write_token_part(tmp_path / "part", failing(), val_fraction=0.3, dtype="uint16", end_of_text=END)  # type: ignore[arg-type]
    assert not list(tmp_path.iterdir())


def test_a_token_file_of_another_size_is_refused_by_name(tmp_path: Path) -> None:
    path = tmp_path / "train.bin"
    with pytest.raises(DatasetError, match=r"train\.bin: the token file is missing"):
        TokenFile(path=path, dtype="uint16", tokens=3).open()
    path.write_bytes(bytes(5))
    with pytest.raises(DatasetError, match=r"train\.bin: has 5 bytes where 6 are recorded"):
        TokenFile(path=path, dtype="uint16", tokens=3).open()
    path.write_bytes(bytes(6))
    opened = TokenFile(path=path, dtype="uint16", tokens=3).open()
    assert isinstance(opened, np.memmap)
    with pytest.raises(ValueError, match="read-only"):
        opened[0] = 1


@pytest.mark.parametrize("sizes", [[], [0], [63, 1], [64], [65], [10, 0, 200, 7], [64, 64], [1] * 130])
def test_joined_files_have_the_checksums_of_the_result(
    sizes: list[int], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(files, "CHECKSUM_BLOCK_BYTES", 64)
    monkeypatch.setattr(tokens, "_COPY_BYTES", 48)
    monkeypatch.setattr(files, "_READ_BYTES", 24)
    rng, sources = random.Random(1), []
    for number, size in enumerate(sizes):
        sources.append(tmp_path / str(number))
        sources[-1].write_bytes(rng.randbytes(size))
    with (tmp_path / "all").open("wb") as target:
        size, whole, blocks = join_files(target, sources)
    assert (tmp_path / "all").read_bytes() == b"".join(source.read_bytes() for source in sources)
    assert size == sum(sizes)
    assert (whole, blocks) == checksums(tmp_path / "all")
    content = (tmp_path / "all").read_bytes()
    assert whole == hashlib.sha256(content).hexdigest()
    assert blocks == [hashlib.sha256(content[at : at + 64]).hexdigest() for at in range(0, size, 64)]


def test_facts_add_up() -> None:
    one = SplitFacts(documents=1, tokens=2, text_bytes=3)
    assert one + one == SplitFacts(documents=2, tokens=4, text_bytes=6)
