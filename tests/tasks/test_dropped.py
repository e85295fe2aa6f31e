"""Which documents of a corpus are dropped, by which step and in favour of which: small corpora whose verdicts are known."""

import hashlib
import itertools
import random
import shutil
import tarfile
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from model.words import hashed_words, words_of
from storage.documents.parts import DocumentPart, PartWriter, TextBatch, read_texts
from storage.errors import CorpusError, DatasetError, ShardError
from storage.examined import ExaminedFiles
from storage.forms import Reading
from storage.shards import find_shards, write_shard
from tasks import dropped as dropped_module
from tasks.dropped import Dropped, DroppedDocument, StepCount, choose_dropped
from tasks.examine import band_hashes, examine, examine_part, local_verdict, prepare_examination
from tasks.ingest import IngestedShard, ingest
from tasks.quality import STEPS, QualityConfig
from tasks.workers import Workers

RNG = random.Random(7)
WORDS = [
    f"{first}{second}"
    for first, second in itertools.product("bcdfgklmnprst", ("a", "ei", "oru", "uan", "il"))
]
NEAR = QualityConfig(drop_near_duplicates=0.8)
EVERYTHING = QualityConfig(
    drop_exact_duplicates=True, drop_near_duplicates=0.8, minimum_characters=20, maximum_characters=5000,
    languages=("en",), minimum_letters=0.6,
)  # fmt: skip
ENGLISH = (
    "The old road leads through the fields where nobody has walked since the harvest of that dry year, and "
)


@pytest.fixture(autouse=True)
def same_texts() -> None:
    """Whichever tests run, and in whatever order."""
    RNG.seed(7)


@pytest.fixture(scope="module")
def workers() -> Iterator[Workers]:
    with Workers(2) as running:
        yield running


def prose(count: int = 200, seed: int | None = None) -> str:
    return " ".join((random.Random(seed) if seed is not None else RNG).choices(WORDS, k=count))


def with_changes(text: str, changes: int) -> str:
    """The text with so many words, far from each other, replaced: each takes five neighbourhoods along."""
    words = text.split()
    for number in range(changes):
        words[number * len(words) // changes] = f"changed{number}"
    return " ".join(words)


def similarity(first: str, second: str) -> float:
    """The Jaccard index, spelt out."""
    sets = []
    for text in (first, second):
        words = text.lower().split()
        sets.append({tuple(words[place : place + 5]) for place in range(max(1, len(words) - 4))})
    return len(sets[0] & sets[1]) / len(sets[0] | sets[1])


def stored(path: Path, texts: list[str | bytes]) -> DocumentPart:
    encoded = [text.encode() if isinstance(text, str) else text for text in texts]
    with PartWriter(path) as writer:
        for start in range(0, len(encoded), 7):  # several batches, as of a large shard
            batch = encoded[start : start + 7]
            writer.write(TextBatch.of([f"m{start + number}" for number in range(len(batch))], batch))
        return writer.finish("00", {})


def drop(
    folder: Path, corpus: list[list[str | bytes]], quality: QualityConfig, workers: Workers, seed: int = 0
) -> Dropped:
    """The dropped documents of shards with these texts, examined in some order."""
    shutil.rmtree(folder, ignore_errors=True)
    parts = [stored(folder / f"{number}.parquet", texts) for number, texts in enumerate(corpus)]
    examination = prepare_examination(quality, folder / "examined")
    order = list(enumerate(parts))
    random.Random(seed).shuffle(order)
    examined = dict(zip((number for number, _ in order), examine(order, examination, workers), strict=True))
    return choose_dropped([(part, examined[number]) for number, part in enumerate(parts)], quality, workers)


def rows(dropped: Dropped) -> list[DroppedDocument]:
    return list(dropped.rows([f"s{number}" for number in range(len(dropped.corpus.parts))]))


def verdicts(dropped: Dropped) -> dict[str, tuple[str, str]]:
    return {f"{row.shard}/{row.member}": (row.step, row.detail) for row in rows(dropped)}


# --- one document -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "quality", "verdict"),
    [
        ("", QualityConfig(minimum_characters=1), ("too short", "0 characters")),
        ("", QualityConfig(minimum_letters=1.0), None),  # an empty text has nothing that is no letter
        ("", QualityConfig(languages=("en",)), ("other language", "unknown")),
        ("né", QualityConfig(minimum_characters=2), None),  # characters, not bytes
        ("né", QualityConfig(minimum_characters=3), ("too short", "2 characters")),
        ("東京", QualityConfig(maximum_characters=2), None),
        ("東京!", QualityConfig(maximum_characters=2), ("too long", "3 characters")),
        ("...!", QualityConfig(minimum_letters=0.1), ("too few letters", "0.0000 of the characters")),
        ("ab..", QualityConfig(minimum_letters=0.5), None),
        ("\0" * 10, QualityConfig(minimum_letters=0.01), ("too few letters", "0.0000 of the characters")),
        (ENGLISH, QualityConfig(languages=("en", "de")), None),
        (ENGLISH, QualityConfig(languages=("de",)), ("other language", "en")),
        ("?", EVERYTHING, ("too short", "1 characters")),  # the first step of several
    ],
)
def test_what_a_document_is_dropped_for_by_itself(
    text: str, quality: QualityConfig, verdict: tuple[str, str] | None
) -> None:
    assert local_verdict(text.encode(), quality) == verdict


# --- test texts -------------------------------------------------------------------------------------------------------

QUESTION = "What is the name of the road that leads from the old mill to the town hall?"


def test_a_document_with_a_passage_of_a_test_text_is_dropped(tmp_path: Path, workers: Workers) -> None:
    tests = tmp_path / "tests.jsonl"
    tests.write_text(f'{{"text": "{QUESTION}"}}\n{{"text": "too short to be found"}}\n')
    corpus: list[list[str | bytes]] = [
        [
            prose()
            + " "
            + QUESTION.upper().replace(" ", " -- ")
            + prose(),  # case and punctuation do not count
            prose() + " " + " ".join(QUESTION.split()[:12]) + " " + prose(),  # twelve words
            " ".join(QUESTION.split()[2:15]),  # thirteen
            "",
            "too short to be found",
        ],
        [QUESTION[:30], QUESTION[30:], QUESTION],  # a passage does not go on in the next document
    ]
    quality = QualityConfig(decontaminate=(str(tests),))
    dropped = drop(tmp_path / "corpus", corpus, quality, workers)
    first, inner = (
        "what is the name of the road that leads from the old mill",
        "the name of the road that leads from the old mill to the",
    )
    assert verdicts(dropped) == {
        "s0/m0": ("test text", first),
        "s0/m2": ("test text", inner),
        "s1/m2": ("test text", first),
    }
    examination = prepare_examination(quality, tmp_path / "again")
    assert (examination.test_texts, examination.short_test_texts) == (2, 1)


@pytest.mark.parametrize("form", ["tests.txt", "tests.xz", "folder", "archive.tar"])
def test_test_texts_come_in_any_form(form: str, tmp_path: Path, workers: Workers) -> None:
    place = tmp_path / form
    if form == "tests.txt":
        place.write_text(
            (prose(60) + "\n\n") * 300 + QUESTION + "\n\n" + QUESTION[::-1] + (prose(60) + "\n\n") * 300
        )
    elif form == "tests.xz":
        write_shard(place, [("1.txt", b"another"), ("2.txt", QUESTION.encode())])
    elif form == "folder":
        write_shard(place / "a.xz", [("1.txt", QUESTION.encode())])
        (place / "b.txt").write_text("another")
    else:
        write_shard(tmp_path / "inner.xz", [("1.txt", QUESTION.encode())])
        with tarfile.open(place, "w") as archive:
            archive.add(tmp_path / "inner.xz", "inner.xz")
    quality = QualityConfig(decontaminate=(str(place),))
    dropped = drop(tmp_path / "corpus", [[prose(), QUESTION]], quality, workers)
    assert list(verdicts(dropped)) == ["s0/m1"]


def test_a_passage_over_the_cut_of_a_book_is_found(tmp_path: Path, workers: Workers) -> None:
    """A long text is cut into documents when it is a corpus; test texts are whole."""
    book = "\n\n".join(prose(40, seed=seed) for seed in range(800))
    (tmp_path / "book.txt").write_text(book)
    assert len(book) > 1 << 17
    words = book.split()
    passages: list[str | bytes] = [
        " ".join(words[start : start + 13]) for start in range(0, len(words) - 13, 40)
    ]
    quality = QualityConfig(decontaminate=(str(tmp_path / "book.txt"),))
    assert drop(tmp_path / "corpus", [passages], quality, workers).counts()["test text"].documents == len(
        passages
    )


@pytest.mark.parametrize("content", [b"", b"only four words here", b"... !!! ???"])
def test_test_texts_that_find_nothing_are_refused(content: bytes, tmp_path: Path) -> None:
    (tmp_path / "tests.txt").write_bytes(content)
    with pytest.raises((ValueError, ShardError), match=r"empty|no test text has 13 words") as refused:
        prepare_examination(QualityConfig(decontaminate=(str(tmp_path / "tests.txt"),)), tmp_path)
    assert "\n" not in str(refused.value)
    with pytest.raises(CorpusError, match="no such file"):
        prepare_examination(QualityConfig(decontaminate=(str(tmp_path / "other"),)), tmp_path)


# --- duplicates -------------------------------------------------------------------------------------------------------


def test_the_first_of_exact_duplicates_stays(tmp_path: Path, workers: Workers) -> None:
    corpus: list[list[str | bytes]] = [["one", "two", "one"], ["two", "", "three", ""], ["three", "one"]]
    dropped = drop(tmp_path, corpus, QualityConfig(drop_exact_duplicates=True), workers)
    assert verdicts(dropped) == {
        "s0/m2": ("exact duplicate", "the same as s0 m0"),
        "s1/m0": ("exact duplicate", "the same as s0 m1"),
        "s1/m3": ("exact duplicate", "the same as s1 m1"),
        "s2/m0": ("exact duplicate", "the same as s1 m2"),
        "s2/m1": ("exact duplicate", "the same as s0 m0"),
    }
    assert [dropped.kept(part).tolist() for part in range(3)] == [
        [True, True, False],
        [False, True, True, False],
        [False, False],
    ]
    assert dropped.counts() == {"exact duplicate": StepCount(documents=5, text_bytes=14)}
    assert {row.sha256 for row in rows(dropped)} == {
        hashlib.sha256(text).hexdigest() for text in (b"one", b"two", b"", b"three")
    }


def test_a_document_that_is_dropped_for_itself_is_no_first(tmp_path: Path, workers: Workers) -> None:
    quality = QualityConfig(drop_exact_duplicates=True, drop_near_duplicates=0.8, minimum_characters=10)
    dropped = drop(tmp_path, [["short", "short", "long enough", "long enough"]], quality, workers)
    assert verdicts(dropped) == {
        "s0/m0": ("too short", "5 characters"),
        "s0/m1": ("too short", "5 characters"),
        "s0/m3": ("exact duplicate", "the same as s0 m2"),
    }


def test_near_duplicates_give_way_to_an_earlier_one(tmp_path: Path, workers: Workers) -> None:
    text = prose(400)
    close, far = with_changes(text, 5), with_changes(text, 40)
    assert similarity(text, close) > 0.85
    assert similarity(text, far) < 0.7
    dropped = drop(tmp_path, [[prose(), text, far], [prose(), close, text]], NEAR, workers)
    assert verdicts(dropped) == {
        "s1/m1": ("near duplicate", f"{similarity(text, close):.4f} similar to s0 m1"),
        "s1/m2": ("near duplicate", "1.0000 similar to s0 m1"),
    }


def test_never_in_favour_of_a_document_that_goes_itself(tmp_path: Path, workers: Workers) -> None:
    """A like B like C, but A not like C: B goes for A, and C stays, since B does not."""
    first = prose(400)
    second = with_changes(first, 6)
    third = second.replace(" ".join(second.split()[60:110]), "", 1)
    assert similarity(first, second) >= 0.8 <= similarity(second, third)
    assert similarity(first, third) < 0.8
    assert list(verdicts(drop(tmp_path, [[first], [second], [third]], NEAR, workers))) == ["s1/m0"]
    assert list(verdicts(drop(tmp_path, [[second], [first], [third]], NEAR, workers))) == ["s1/m0", "s2/m0"]


def test_the_similarity_asked_for_is_enough(tmp_path: Path, workers: Workers) -> None:
    first = " ".join(f"a{number}" for number in range(84))
    second = " ".join(f"a{number}" for number in range(104))  # 80 of 100 neighbourhoods
    assert similarity(first, second) == 0.8
    assert len(rows(drop(tmp_path, [[first, second]], NEAR, workers))) == 1
    assert rows(drop(tmp_path, [[first, second]], QualityConfig(drop_near_duplicates=0.81), workers)) == []


def test_short_documents_are_near_only_if_their_words_are_the_same(tmp_path: Path, workers: Workers) -> None:
    corpus: list[list[str | bytes]] = [
        ["Two words", "two words!", "two other words", "", "...", "", "!?", "\0", "words two"]
    ]
    assert verdicts(drop(tmp_path, corpus, NEAR, workers)) == {
        "s0/m1": ("near duplicate", "1.0000 similar to s0 m0")
    }


def test_thousands_of_one_text(tmp_path: Path, workers: Workers) -> None:
    text = prose(100)
    corpus: list[list[str | bytes]] = [[text] * 1500, [text + " more"] * 1500, [text.upper()] * 1500]
    dropped = drop(tmp_path, corpus, NEAR, workers)
    assert dropped.counts()["near duplicate"].documents == 4499
    assert set(dropped.favoured.tolist()) == {-1, 0}
    both = drop(
        tmp_path, corpus, QualityConfig(drop_near_duplicates=0.8, drop_exact_duplicates=True), workers
    )
    assert {step: count.documents for step, count in both.counts().items()} == {
        "exact duplicate": 4497,
        "near duplicate": 2,
    }


def test_documents_of_a_template_end(
    tmp_path: Path, workers: Workers, monkeypatch: pytest.MonkeyPatch
) -> None:
    """All meet all, and none is similar enough: comparisons are bounded, and what is the same is found all the same."""
    monkeypatch.setattr(dropped_module, "_MOST_COMPARISONS", 5)
    template = prose(400)
    texts = [with_changes(template, 24) + f" {prose(20, seed=number)}" for number in range(60)]
    assert 0.5 < similarity(texts[0], texts[1]) < 0.95
    quality = QualityConfig(drop_near_duplicates=0.99)
    dropped = drop(tmp_path, [[*texts, texts[50]]], quality, workers)
    assert [(row.member, row.detail) for row in rows(dropped)] == [("m60", "1.0000 similar to s0 m50")]


# --- all of it --------------------------------------------------------------------------------------------------------


def test_a_document_is_counted_by_the_first_step_that_drops_it(tmp_path: Path, workers: Workers) -> None:
    (tmp_path / "tests.txt").write_text(QUESTION)
    quality = QualityConfig(
        drop_exact_duplicates=True, drop_near_duplicates=0.8, minimum_characters=20, maximum_characters=5000,
        languages=("en",), minimum_letters=0.6, decontaminate=(str(tmp_path / "tests.txt"),),
    )  # fmt: skip
    text = (
        ENGLISH
        + QUESTION[:20]
        + " and the rest of a long story about a farmer, his dog and the well behind the barn."
    )
    german = "Die alte Straße führt durch die Felder, auf denen seit der Ernte niemand mehr gegangen ist."
    corpus: list[list[str | bytes]] = [
        ["short", "x" * 6000, "1 + 1 = 2; " * 9 + "+-*/" * 90, german, ENGLISH + QUESTION, text],
        ["short", text, text + " Amen.", ENGLISH + QUESTION, german],
    ]
    dropped = drop(tmp_path / "corpus", corpus, quality, workers)
    steps = [(row.shard, row.member, row.step) for row in rows(dropped)]
    assert steps == [
        ("s0", "m0", "too short"),
        ("s0", "m1", "too long"),
        ("s0", "m2", "too few letters"),
        ("s0", "m3", "other language"),
        ("s0", "m4", "test text"),
        ("s1", "m0", "too short"),
        ("s1", "m1", "exact duplicate"),
        ("s1", "m2", "near duplicate"),
        ("s1", "m3", "test text"),
        ("s1", "m4", "other language"),
    ]
    counts = dropped.counts()
    assert list(counts) == list(STEPS)
    assert sum(count.documents for count in counts.values()) == 10
    assert counts["too short"] == StepCount(documents=2, text_bytes=10)


def hostile_corpus() -> list[list[str | bytes]]:
    rng = random.Random(11)
    base = [prose(rng.randrange(30, 300)) for _ in range(12)]
    shards: list[list[str | bytes]] = []
    for _ in range(6):
        texts: list[str | bytes] = ["", "...", "\0\0", "a", "東京 " * 40, ENGLISH * 3]
        texts += [with_changes(rng.choice(base), rng.randrange(4)) for _ in range(20)]
        rng.shuffle(texts)
        shards.append(texts)
    shards.append(list(shards[2]))  # the same bytes under another name
    return shards


def test_neither_workers_nor_order_change_anything(tmp_path: Path, workers: Workers) -> None:
    corpus = hostile_corpus()
    quality = QualityConfig(drop_exact_duplicates=True, drop_near_duplicates=0.7, minimum_characters=2)
    first = drop(tmp_path / "a", corpus, quality, workers)
    with Workers(1) as one:
        second = drop(tmp_path / "b", corpus, quality, one, seed=1)
    third = drop(tmp_path / "c", corpus, quality, workers, seed=2)
    assert rows(first) == rows(second) == rows(third)
    assert first.counts() == second.counts() == third.counts()
    assert len(first.counts()) == 3


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    corpus=st.lists(
        st.lists(st.lists(st.sampled_from(WORDS[:6]), max_size=12).map(" ".join), min_size=1, max_size=6),
        min_size=1, max_size=4,
    ),
    threshold=st.sampled_from([0.5, 0.75, 1.0]),
)  # fmt: skip
def test_what_near_duplicates_promise(
    corpus: list[list[str | bytes]], threshold: float, tmp_path: Path, workers: Workers
) -> None:
    """A dropped one is as similar as asked for to one that is earlier and stays; equal words never stay twice."""
    quality = QualityConfig(drop_near_duplicates=threshold)
    dropped = drop(tmp_path, corpus, quality, workers)
    texts = [str(text) for shard in corpus for text in shard]
    for document in np.flatnonzero(dropped.steps).tolist():
        other = int(dropped.favoured[document])
        assert other < document
        assert dropped.steps[other] == 0
        assert similarity(texts[document], texts[other]) >= threshold
        assert dropped.similarity[document] == pytest.approx(similarity(texts[document], texts[other]))
    kept = [text for text, step in zip(texts, dropped.steps.tolist(), strict=True) if step == 0 and text]
    assert len(kept) == len(set(kept))


def test_signatures_never_change() -> None:
    """What meets in a band is part of what a data set is made by: another release of the library must not drift unseen."""
    words, counts = hashed_words(
        [" ".join(f"word{number}" for number in range(300)).encode(), b"", b"one two"]
    )
    hashes = band_hashes(words, counts, 0.8)
    assert hashes.shape == (3, 21)
    assert not hashes[1].any()
    assert hashlib.sha256(hashes.astype("<u8").tobytes()).hexdigest()[:16] == "3f0c191231cb979a"


def test_one_document_of_fifty_megabytes(tmp_path: Path) -> None:
    (tmp_path / "tests.txt").write_text(QUESTION)
    huge = ((prose(2000) + "\n") * 4000)[: 50 << 20] + " " + QUESTION
    part = stored(tmp_path / "1.parquet", ["small", huge, "x" * (10 << 20)])
    quality = QualityConfig(drop_near_duplicates=0.8, decontaminate=(str(tmp_path / "tests.txt"),))
    files = examine_part(part, 0, prepare_examination(quality, tmp_path))
    assert [(one.row, one.step) for one in files.names().dropped] == [(1, "test text")]


def test_stored_text_that_is_damaged_is_named(tmp_path: Path, workers: Workers) -> None:
    part = stored(tmp_path / "1.parquet", ["one"])
    part.path.write_bytes(part.path.read_bytes()[:-1] + b"?")
    with pytest.raises(DatasetError, match="damaged"):
        examine([(0, part)], prepare_examination(NEAR, tmp_path), workers)


def test_findings_that_are_cut_off_are_named(tmp_path: Path, workers: Workers) -> None:
    part = stored(tmp_path / "1.parquet", ["one", "two"])
    (files,) = examine([(0, part)], prepare_examination(NEAR, tmp_path), workers)
    columns = files.path.with_name("000000.columns")
    columns.write_bytes(columns.read_bytes()[:-1])
    with pytest.raises(DatasetError, match=r"000000\.columns: is cut off"):
        choose_dropped([(part, files)], NEAR, workers)


def test_a_folder_that_cannot_be_is_named(tmp_path: Path) -> None:
    part = stored(tmp_path / "1.parquet", ["one"])
    (tmp_path / "file").write_text("")
    with pytest.raises(OSError, match="file"):
        examine_part(part, 0, prepare_examination(NEAR, tmp_path / "file" / "examined"))


# --- real text --------------------------------------------------------------------------------------------------------


def test_real_text(real_data: Path, tmp_path: Path, workers: Workers) -> None:
    """Real pages in many languages: everything adds up, and near duplicates are as similar as they are said to be."""
    shards = find_shards(str(real_data / "owt-medium"))[:12]
    ingested = [
        one
        for one in ingest(shards, tmp_path / "documents", Reading(), 0.1, workers)
        if isinstance(one, IngestedShard)
    ]
    assert len(ingested) == len(shards)
    (tmp_path / "oz.txt").write_bytes((real_data / "wizard_of_oz.txt").read_bytes())
    quality = QualityConfig(
        drop_exact_duplicates=True, drop_near_duplicates=0.8, minimum_characters=200, languages=("en",),
        minimum_letters=0.75, decontaminate=(str(tmp_path / "oz.txt"),),
    )  # fmt: skip
    examination = prepare_examination(quality, tmp_path / "examined")
    numbered = [(number, one.part) for number, one in enumerate(ingested)]
    examined: list[ExaminedFiles] = examine(numbered, examination, workers)
    dropped = choose_dropped(
        [(one.part, files) for one, files in zip(ingested, examined, strict=True)], quality, workers
    )
    found = list(dropped.rows([one.name for one in ingested]))
    total = sum(one.part.documents for one in ingested)
    assert 0 < len(found) < total
    assert len(found) == sum(count.documents for count in dropped.counts().values())
    assert len(found) + sum(int(dropped.kept(part).sum()) for part in range(len(ingested))) == total
    texts = [text.decode() for one in ingested for batch in read_texts(one.part) for text in batch.texts]
    near = np.flatnonzero(dropped.steps == 1 + STEPS.index("near duplicate")).tolist()
    assert near
    for document in near:
        pair = (" ".join(words_of(texts[number])) for number in (document, int(dropped.favoured[document])))
        assert similarity(*pair) == pytest.approx(float(dropped.similarity[document]))
