"""Byte-pair tokenizers: GPT-2's ids are OpenAI's, what is learnt is the same each time, other programs agree, all is checked."""

import json
import random
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tiny_data import build_plainly, tiny_documents
from tokenizers import Tokenizer

from model import compiled
from model.bpe import END_OF_TEXT, BpeTokenizer, byte_characters, byte_level_json
from model.texts import Texts
from model.unicode_16 import BLANKS, LETTERS, NUMBERS
from storage.forms import Reading, read_batches
from storage.shards import find_shards, write_shard
from storage.workspace import Workspace
from tasks.tokenizers import (
    EncoderDiffers,
    Encodes,
    GigatokenEncoder,
    LibraryTokenizer,
    TokenizerFile,
    bpe_size,
    check_encoder,
    fast_encoder,
    gpt2_json,
    load_tokenizer,
    tokenizer_path,
    train_bpe,
)

GPT2_END_OF_TEXT = 50_256
ODD = "a<|endoftext|>b  \n\n x\t\u00a0y 'll '  \x1c\x1d ½²Ⅷ ٣ 東京 😀\u200d don't we'LL\r\n  end   "


@pytest.fixture(scope="module")
def gpt2() -> BpeTokenizer:
    return BpeTokenizer.from_json(gpt2_json())


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> TokenizerFile:
    return TokenizerFile.write(gpt2_json(), tmp_path_factory.mktemp("gpt2"))


@pytest.fixture(scope="module")
def fast(written: TokenizerFile) -> Encodes:
    return fast_encoder(written, 4 << 30)


@pytest.fixture(scope="module")
def for_gigatoken(written: TokenizerFile, tmp_path_factory: pytest.TempPathFactory) -> TokenizerFile:
    """As it is written where the loops were not compiled."""
    plain = tmp_path_factory.mktemp("gigatoken") / "plain.json"
    plain.write_text(json.dumps(json.loads(gpt2_json()) | {"added_tokens": []}))
    return replace(written, encoder="gigatoken", fast_path=plain)


@pytest.fixture(scope="module")
def encoders(fast: Encodes, for_gigatoken: TokenizerFile, gpt2: BpeTokenizer) -> list[Encodes]:
    """All that give GPT-2's ids, the reference first."""
    return [LibraryTokenizer(gpt2_json()), fast, fast_encoder(for_gigatoken, 4 << 30), gpt2]


def ids_of(encoder: Encodes, text: str) -> list[int]:
    ids, counts = encoder.encode_documents(Texts.of([text.encode()]))
    assert counts.tolist() == [len(ids)]
    assert ids[-1] == GPT2_END_OF_TEXT
    return ids[:-1].tolist()


def test_gpt2_is_gpt2(gpt2: BpeTokenizer) -> None:
    assert gpt2.encode("Hello world").tolist() == [15496, 995]
    assert (gpt2.vocabulary_size, gpt2.end_of_text, gpt2.encode("a").dtype) == (50_257, 50_256, np.uint16)


@settings(max_examples=300, deadline=None)
@given(
    text=st.text(st.characters(exclude_categories=["Cs"]), max_size=60)
    | st.text(" \t\n'slvret12aé東", max_size=40)
)
def test_all_encoders_give_the_same_ids_and_decoding_gives_the_text(
    text: str, gpt2: BpeTokenizer, encoders: list[Encodes]
) -> None:
    expected = gpt2.encode(text).tolist()
    assert [ids_of(encoder, text) for encoder in encoders] == [expected] * len(encoders)
    assert gpt2.decode(expected) == text


def test_all_encoders_have_the_same_letters_numbers_and_blanks_in_all_of_unicode(
    encoders: list[Encodes],
) -> None:
    """Where a range of them begins and ends, and beside it. Python's own table is of another version."""
    ranges = LETTERS + NUMBERS + BLANKS
    edges = {edge for first, last in ranges for edge in (first - 1, first, last, last + 1)}
    characters = [chr(edge) for edge in sorted(edges) if edge >= 0 and not 0xD800 <= edge < 0xE000]
    text = "\n".join(f"a{one}a1{one}1.{one}. {one} {one}{one}a" for one in characters)
    expected = ids_of(encoders[0], text)
    assert [ids_of(encoder, text) == expected for encoder in encoders] == [True] * len(encoders)


def test_a_literal_end_of_text_is_text(gpt2: BpeTokenizer, encoders: list[Encodes]) -> None:
    for encoder in encoders:
        ids = ids_of(encoder, ODD)
        assert gpt2.end_of_text not in ids
        assert gpt2.decode(ids) == ODD


def test_real_documents_have_the_ids_of_the_reference(real_data: Path, encoders: list[Encodes]) -> None:
    for shard in find_shards(str(real_data / "owt-small"))[:3]:
        for batch in read_batches(shard, Reading()):
            texts = Texts(batch.texts.utf8, batch.texts.sizes)
            expected, expected_counts = encoders[0].encode_documents(texts)
            for encoder in encoders[1:]:
                ids, counts = encoder.encode_documents(texts)
                assert np.array_equal(ids, expected)
                assert np.array_equal(counts, expected_counts)


def test_long_documents_are_cut_where_no_token_reaches_across(
    for_gigatoken: TokenizerFile, gpt2: BpeTokenizer, monkeypatch: pytest.MonkeyPatch
) -> None:
    rng = random.Random(5)
    text = "".join(
        rng.choice(["word", " other", "  ", "\n", "don't ", "a b", "1 2", "é ü", " 東 京", "?! "])
        for _ in range(4000)
    )
    whole = ids_of(GigatokenEncoder(for_gigatoken, 4 << 30), text)
    monkeypatch.setattr("tasks.tokenizers._SPLIT_BYTES", 300)
    monkeypatch.setattr("tasks.tokenizers._LOOK_EVERY_BYTES", 1000)
    pieces = GigatokenEncoder(
        for_gigatoken, 1
    )  # and a limit of memory that makes it start anew every few pieces
    assert ids_of(pieces, text) == whole == gpt2.encode(text).tolist()


def test_what_is_learnt_does_not_depend_on_the_order_of_the_texts() -> None:
    texts = tiny_documents(200)
    shuffled = random.Random(1).sample(texts, len(texts))
    assert train_bpe(texts, 400) == train_bpe(shuffled, 400)


def test_what_is_learnt_is_a_tokenizer_for_other_programs_too() -> None:
    text = train_bpe(tiny_documents(200), 400)
    ours, theirs = load_tokenizer(text), Tokenizer.from_str(text)
    assert isinstance(ours, BpeTokenizer)
    assert theirs.get_vocab_size() == ours.vocabulary_size <= 400
    assert theirs.token_to_id(END_OF_TEXT) == ours.end_of_text == ours.vocabulary_size - 1
    for document in [*tiny_documents(5, seed=9), ODD.replace(END_OF_TEXT, "")]:
        assert theirs.encode(document).ids == ours.encode(document).tolist()
        assert theirs.decode(theirs.encode(document).ids) == document


def test_a_data_set_with_learnt_merges_learns_from_train_alone(tmp_path: Path, workspace: Workspace) -> None:
    write_shard(tmp_path / "c" / "a.xz", [(f"{i}.txt", t.encode()) for i, t in enumerate(tiny_documents(60))])
    dataset = build_plainly(tmp_path / "c", workspace, tokenizer="bpe:300")
    assert dataset.manifest.vocabulary_size <= 300
    assert ", equal to tokenizers " in dataset.manifest.build["encoder"]


def test_any_tokenizer_json_by_path_with_normalisation_and_other_words(
    tmp_path: Path, workspace: Workspace
) -> None:
    from tokenizers import models, normalizers, pre_tokenizers, trainers

    foreign = Tokenizer(models.BPE(unk_token="<unk>"))
    foreign.normalizer = normalizers.Lowercase()
    foreign.pre_tokenizer = pre_tokenizers.Whitespace()
    trainer = trainers.BpeTrainer(vocab_size=300, special_tokens=["<unk>", "</s>"], show_progress=False)
    foreign.train_from_iterator(tiny_documents(60), trainer)
    (tmp_path / "tokenizer.json").write_text(foreign.to_str())
    write_shard(tmp_path / "c" / "a.xz", [(f"{i}.txt", t.encode()) for i, t in enumerate(tiny_documents(60))])
    dataset = build_plainly(tmp_path / "c", workspace, tokenizer=str(tmp_path))
    ids = np.asarray(dataset.token_file("train").open())
    assert ids[-1] == foreign.token_to_id("</s>") == dataset.manifest.end_of_text


def test_an_encoder_that_differs_once_is_not_used(fast: Encodes, written: TokenizerFile) -> None:
    other = LibraryTokenizer(train_bpe(tiny_documents(50), 300))
    assert check_encoder(fast, LibraryTokenizer(written.text()), [b"the same words"]) == 1
    with pytest.raises(EncoderDiffers, match="begins 'the same words'"):
        check_encoder(fast, other, [b"the same words"])


def test_without_a_fast_encoder_it_is_said_that_the_reference_is_needed(
    written: TokenizerFile, for_gigatoken: TokenizerFile, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "gigatoken", None)
    with pytest.raises(EncoderDiffers, match="gigatoken cannot be used"):
        fast_encoder(for_gigatoken, 1 << 30)
    monkeypatch.setattr(compiled, "loops", None)
    with pytest.raises(EncoderDiffers, match="compiled loops cannot be used"):
        fast_encoder(written, 1 << 30)


@pytest.mark.parametrize("name", ["bpe:", "bpe:12", "bpe:many", "bpe:2000000", "bpe:-5"])
def test_a_size_that_cannot_be_is_refused(name: str) -> None:
    with pytest.raises(ValueError, match="SIZE must be a number from 257 to 1,000,000"):
        bpe_size(name)


def test_an_unknown_name_says_what_there_is() -> None:
    with pytest.raises(ValueError, match=r"'gpt3' is not known: choose char, gpt2, bpe:SIZE, or the path"):
        tokenizer_path("gpt3")


@pytest.mark.parametrize(
    "text", ["", "[]", '{"model": {}}', '{"model": {"type": "BPE", "vocab": {}}}', '{"type": "x"}']
)
def test_what_is_no_tokenizer_is_refused_in_one_line(text: str) -> None:
    with pytest.raises(ValueError, match=r"^[^\n]+$"):
        load_tokenizer(text)


@pytest.mark.parametrize("part", ["vocab", "merges"])
def test_a_tokenizer_of_gpt2s_kind_without_a_part_is_refused_in_one_line(part: str, tmp_path: Path) -> None:
    fields = json.loads(byte_level_json({one: number for number, one in enumerate(byte_characters())}, []))
    del fields["model"][part]
    with pytest.raises(ValueError, match=r"^not a tokenizer\.json that can be used[^\n]+$"):
        TokenizerFile.write(json.dumps(fields), tmp_path)


def test_the_same_tokens_make_the_same_file() -> None:
    vocabulary = {character: number for number, character in enumerate(byte_characters())}
    backwards = dict(reversed(vocabulary.items()))
    assert byte_level_json(vocabulary, []) == byte_level_json(backwards, [])
    assert json.loads(byte_level_json(vocabulary, []))["added_tokens"][0]["id"] == 256
