"""Token files are raw little-endian ids with an end-of-text after each document; a content hash decides the split."""

import errno
import hashlib
import random
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest
from bad_disks import small_disk
from hypothesis import example, given, settings
from hypothesis import strategies as st

from storage import blocks
from storage.blocks import BlockSink, FileRange
from storage.documents.parts import StoredBatch
from storage.errors import DatasetError
from storage.files import sha256_text
from storage.tokens import (
    SPLITS,
    EncodedBatch,
    SplitFacts,
    TokenDtype,
    TokenFile,
    TokenPart,
    TokenPlaces,
    are_val,
    split_of,
    token_dtype,
    write_end_of_placed_part,
    write_placed_parts,
    write_token_parts,
)

END = 7
FRACTION = 0.3


@dataclass
class Encoded:
    """One document and its ids, without the end-of-text that follows them."""

    member: str
    text: bytes
    ids: list[int]

    @property
    def sha256(self) -> bytes:
        return sha256_text(self.text)

    @property
    def split(self) -> str:
        return split_of(self.sha256, FRACTION)


def some_documents(count: int, largest: int = 300, seed: int = 0) -> list[Encoded]:
    rng = random.Random(seed)
    return [
        Encoded(
            member=f"{number}.txt",
            text=f"document {number} of {seed}".encode(),
            ids=[rng.randrange(largest) for _ in range(rng.randrange(6))],
        )
        for number in range(count)
    ]


def batches_of(documents: Sequence[Encoded], size: int = 11, dtype: str = "uint16") -> Iterator[EncodedBatch]:
    for start in range(0, len(documents), size):
        batch = documents[start : start + size]
        yield EncodedBatch(
            stored=StoredBatch.of(
                members=[document.member for document in batch],
                sha256=[document.sha256 for document in batch],
                texts=[document.text for document in batch],
            ),
            is_val=are_val([document.sha256 for document in batch], FRACTION),
            token_counts=np.array([len(document.ids) + 1 for document in batch], np.int64),
            ids=np.array([i for document in batch for i in [*document.ids, END]], dtype),
        )


def write(
    path: Path, documents: Sequence[Encoded], dtype: TokenDtype = "uint16", size: int = 11
) -> TokenPart:
    (part,) = write_token_parts(path, [batches_of(documents, size, dtype)], dtype)
    return part


def rows_of(part: TokenPart) -> list[dict[str, object]]:
    return part.rows.read().to_pylist()  # type: ignore[no-any-return]


# --- split ------------------------------------------------------------------------------------------------------------


def test_the_split_is_the_rule_and_its_edges_are_exact() -> None:
    half = bytes([0x80]) + bytes(31)
    assert split_of(half, 0.5) == "train"
    assert split_of(bytes([0x7F] + [0xFF] * 31), 0.5) == "val"
    assert split_of(bytes(32), 0.0) == "train"
    assert split_of(bytes(32), 1e-19) == "val"
    assert split_of(b"\xff" * 32, 1.0) == "val"
    assert split_of(b"\xff" * 32, 1 - 2**-53) == "train"


def exactly_val(sha256: bytes, fraction: float) -> bool:
    """The rule by whole numbers, which round nothing."""
    return int.from_bytes(sha256[:8], "big") < Fraction(fraction) * 2**64


EDGES = st.floats(0, 1).map(lambda fraction: (fraction, int(Fraction(fraction) * 2**64)))


@settings(deadline=None, max_examples=500)  # other work on the machine must not fail it
@given(edge=EDGES, steps=st.lists(st.integers(-3, 3), max_size=5), rest=st.binary(min_size=24, max_size=24))
@example(edge=(1.0, 2**64), steps=[-1], rest=b"\xff" * 24)
@example(edge=(1 - 2**-53, 2**64 - 2**11), steps=[-1, 0, 1], rest=bytes(24))
@example(edge=(5e-324, 0), steps=[0, 1], rest=bytes(24))
@example(edge=(0.0, 0), steps=[0], rest=bytes(24))
@example(edge=(2**-64, 1), steps=[-1, 0, 1], rest=b"\xff" * 24)
@example(edge=(0.5, 2**63), steps=[-1, 0, 1], rest=b"\xff" * 24)
def test_the_split_of_many_is_exact_at_the_edge_of_any_fraction(
    edge: tuple[float, int], steps: list[int], rest: bytes
) -> None:
    fraction, place = edge
    near = [min(max(place + step, 0), 2**64 - 1).to_bytes(8, "big") + rest for step in steps]
    expected = [exactly_val(digest, fraction) for digest in near]
    assert are_val(near, fraction).tolist() == expected
    assert [split_of(digest, fraction) == "val" for digest in near] == expected
    assert [int.from_bytes(d[:8], "big") < fraction * 2.0**64 for d in near] == expected  # as it always was


@settings(deadline=None)
@given(digests=st.lists(st.binary(min_size=32, max_size=32), max_size=20), fraction=st.floats(0, 1))
def test_the_split_of_many_is_that_of_each(digests: list[bytes], fraction: float) -> None:
    found = are_val(digests, fraction)
    assert found.dtype == np.bool_
    assert found.tolist() == [split_of(digest, fraction) == "val" for digest in digests]


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
    val = are_val([sha256_text(str(n).encode()) for n in range(count)], fraction).sum()
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
@pytest.mark.parametrize("size", [1, 11, 50])
def test_a_part_is_raw_little_endian_with_an_end_after_each_document(
    dtype: TokenDtype, letter: str, largest: int, size: int, tmp_path: Path
) -> None:
    documents = some_documents(50, largest)
    part = write(tmp_path / "new" / "part", documents, dtype, size)
    for split in SPLITS:
        chosen = [document for document in documents if document.split == split]
        expected = [i for document in chosen for i in [*document.ids, END]]
        assert part.tokens(split).path.read_bytes() == np.array(expected, letter).tobytes()
        assert part.facts(split) == SplitFacts(
            documents=len(chosen), tokens=len(expected), text_bytes=sum(len(d.text) for d in chosen)
        )
        opened = TokenFile(path=part.tokens(split).path, dtype=dtype, tokens=len(expected)).open()
        assert opened.tolist() == expected
        assert len(chosen) > 5
    assert sorted(path.name for path in (tmp_path / "new").iterdir()) == [
        "part.rows",
        "part.train",
        "part.val",
    ]


def test_ids_of_a_wider_or_a_narrower_type_are_stored_in_that_of_the_data_set(tmp_path: Path) -> None:
    documents = some_documents(50)
    expected = write(tmp_path / "same", documents)
    (wider,) = write_token_parts(tmp_path / "wider", [batches_of(documents, dtype="uint32")], "uint16")
    (narrower,) = write_token_parts(tmp_path / "narrower", [batches_of(documents, dtype="uint16")], "uint32")
    for split in SPLITS:
        assert wider.tokens(split).path.read_bytes() == expected.tokens(split).path.read_bytes()
        ids = np.fromfile(expected.tokens(split).path, "<u2")
        assert narrower.tokens(split).path.read_bytes() == ids.astype("<u4").tobytes()


def test_parts_in_the_same_files_are_those_that_have_files_of_their_own(tmp_path: Path) -> None:
    groups = [some_documents(20, seed=1), [], some_documents(9, seed=2)]
    together = write_token_parts(tmp_path / "together", [batches_of(group) for group in groups], "uint16")
    assert [part.is_last for part in together] == [False, False, True]
    for number, group in enumerate(groups):
        part, own = together[number], write(tmp_path / str(number), group)
        assert (part.train, part.val, rows_of(part)) == (own.train, own.val, rows_of(own))
        for split in SPLITS:
            place = part.tokens(split)
            content = place.path.read_bytes()[place.start : place.end]
            assert content == own.tokens(split).path.read_bytes()


def test_rows_map_each_document_to_its_tokens(tmp_path: Path) -> None:
    documents = some_documents(30)
    part = write(tmp_path / "part", documents)
    rest = {split: np.fromfile(part.tokens(split).path, "<u2").tolist() for split in SPLITS}
    for document, row in zip(documents, rows_of(part), strict=True):
        tokens = rest["val" if row["is_val"] else "train"]
        count = int(row["token_count"])  # type: ignore[call-overload]
        assert tokens[:count] == [*document.ids, END]
        del tokens[:count]
        assert (row["member"], row["sha256"], row["text_bytes"]) == (
            document.member,
            document.sha256,
            len(document.text),
        )
        assert row["is_val"] == (document.split == "val")
    assert rest == {"train": [], "val": []}


def test_a_part_of_no_documents_or_of_one_split_alone_is_a_part(tmp_path: Path) -> None:
    part = write(tmp_path / "none", [])
    assert (part.train, part.val, rows_of(part)) == (SplitFacts(), SplitFacts(), [])
    assert [part.tokens(split).path.read_bytes() for split in SPLITS] == [b"", b""]
    only_train = [document for document in some_documents(30) if document.split == "train"]
    part = write(tmp_path / "train", only_train)
    assert part.val == SplitFacts()
    assert part.val_tokens.path.read_bytes() == b""
    assert part.train.documents == len(only_train) == len(rows_of(part))


def test_an_id_that_does_not_fit_is_our_bug_and_never_another_id(tmp_path: Path) -> None:
    (document,) = some_documents(1)
    document.ids = [65_536]
    with pytest.raises(AssertionError, match="above the vocabulary"):
        write_token_parts(tmp_path / "part", [batches_of([document], dtype="uint32")], "uint16")


def test_a_part_is_written_anew_over_the_rest_of_one_that_was_killed(tmp_path: Path) -> None:
    expected = write(tmp_path / "whole", some_documents(9))
    for what in ("train", "val", "rows"):
        (tmp_path / f"part.{what}").write_bytes(b"rest of a part that was longer" * 1000)

    def failing() -> Iterator[EncodedBatch]:
        yield from batches_of(some_documents(30, seed=3))
        raise DatasetError("damaged")

    with pytest.raises(DatasetError, match="damaged"):
        write_token_parts(tmp_path / "part", [failing()], "uint16")
    part = write(tmp_path / "part", some_documents(9))
    assert (part.train, part.val) == (expected.train, expected.val)
    for what in ("train", "val", "rows"):
        assert (tmp_path / f"part.{what}").read_bytes() == (tmp_path / f"whole.{what}").read_bytes()


def places_in(whole: Path, part: TokenPart, surplus: int = 0) -> TokenPlaces:
    return TokenPlaces(
        train=FileRange(path=whole, start=100, bytes=part.train_tokens.bytes + surplus),
        val=FileRange(path=whole, start=3000, bytes=part.val_tokens.bytes),
    )


def test_tokens_go_to_their_places_and_touch_nothing_beside_them(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(blocks, "BLOCK_BYTES", 100)
    documents = some_documents(50)
    expected = write(tmp_path / "own", documents)
    tokens = {split: expected.tokens(split).path.read_bytes() for split in SPLITS}
    whole = tmp_path / "train.bin"
    places = places_in(whole, expected)
    last = (places.train.end - 1) // 100
    for block in range(1, last + 1):
        whole.write_bytes(b"x" * 5000)
        wanted = bytearray(b"x" * 5000)
        own = tokens["train"][block * 100 - 100 :][:100]
        wanted[block * 100 : block * 100 + len(own)] = own
        with BlockSink(whole, range(block, block + 1)) as sink:
            if block == 1:  # where the part begins
                (part,) = write_placed_parts(
                    tmp_path / "placed", [(batches_of(documents), places)], "uint16", sink
                )
                assert (part.train_tokens, part.val_tokens) == (places.train, places.val)
                assert rows_of(part) == rows_of(expected)
                wanted[3000 : 3000 + len(tokens["val"])] = tokens["val"]
            else:
                write_end_of_placed_part(batches_of(documents), "uint16", places, sink)
        assert whole.read_bytes() == wanted
        assert sink.sha256 == [hashlib.sha256(own).hexdigest()]


@pytest.mark.parametrize("surplus", [-2, 2])
def test_tokens_that_do_not_fill_their_places_are_refused(surplus: int, tmp_path: Path) -> None:
    documents = some_documents(50)
    own = write(tmp_path / "own", documents)
    whole = tmp_path / "train.bin"
    whole.touch()
    places = places_in(whole, own, surplus)
    with (
        pytest.raises(DatasetError, match="has other tokens than its characters were counted to be"),
        BlockSink(whole, range(1)) as sink,
    ):
        sink.write(memoryview(bytes(100)), 0)
        write_placed_parts(tmp_path / "placed", [(batches_of(documents), places)], "uint16", sink)


@pytest.mark.parametrize("free_bytes", [0, 2_000, 66_000, 131_000])
def test_a_full_disk_names_the_path_and_never_leaves_out_what_did_not_fit(
    free_bytes: int, tmp_path: Path
) -> None:
    """A write that fits in part succeeds in part; what is left to write must fail, be it the last."""
    disk = tmp_path / "disk"
    with small_disk(disk, "size=256k"):
        document = Encoded(member="a", text=b"document", ids=[1] * 70_000)
        filler = disk / "filler"
        filler.write_bytes(bytes((256 << 10) - free_bytes))

        def batches() -> Iterator[EncodedBatch]:
            yield from batches_of([document])
            filler.unlink()  # as another part that was joined in the meantime

        with pytest.raises(OSError, match=r"disk/part") as raised:
            write_token_parts(disk / "part", [batches()], "uint16")
        assert raised.value.errno == errno.ENOSPC


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


def test_facts_add_up() -> None:
    one = SplitFacts(documents=1, tokens=2, text_bytes=3)
    assert one + one == SplitFacts(documents=2, tokens=4, text_bytes=6)
