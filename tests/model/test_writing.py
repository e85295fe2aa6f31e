"""Text comes in whole characters and ends before its stop strings, however ids cut them."""

import random

import pytest

from model.config import NetworkConfig
from model.network import LanguageModel, build_network
from model.sampling import Sampling
from model.tokenizer import CharTokenizer, Tokenizer
from model.writing import TextStream, WritingRequest, first_ids, write, write_batch

CHARACTERS = CharTokenizer([*"abcdefgh \n"])
NETWORK = NetworkConfig(vocabulary_size=CHARACTERS.vocabulary_size, block_size=8, layers=1, heads=2, width=16)


def network() -> LanguageModel:
    return build_network(NETWORK, seed=1)


def pieces_of(text: str, stop: list[str] | None = None, tokenizer: Tokenizer = CHARACTERS) -> list[str]:
    stream = TextStream(tokenizer, stop or [])
    pieces = []
    for token in tokenizer.encode(text):
        pieces.append(stream.add(int(token)))
        if stream.has_ended:
            return pieces
    return [*pieces, stream.rest()]


def test_characters_come_whole() -> None:
    assert pieces_of("a東b") == ["a", "", "", "東", "b", ""]
    assert pieces_of("a🧱") == ["a", "", "", "", "🧱", ""]
    assert "".join(pieces_of("\ufffda\ufffd")) == "\ufffda\ufffd", "a character like others"


def test_bytes_that_are_no_text_are_shown_and_hold_nothing_up() -> None:
    stream = TextStream(CHARACTERS)
    byte = CHARACTERS.first_byte
    ids = [byte + 0xE6, *[byte + 0x80] * 30, 0]
    pieces = [stream.add(token) for token in ids]
    assert "".join(pieces) + stream.rest() == CHARACTERS.decode(ids)
    assert sum(map(bool, pieces)) > 20
    broken_off = TextStream(CHARACTERS)
    assert [broken_off.add(token) for token in CHARACTERS.encode("a東")[:-1].tolist()] == ["a", "", ""]
    assert broken_off.rest() == "\ufffd"


def test_a_token_may_end_one_character_and_begin_the_next() -> None:
    class Halves(CharTokenizer):
        """Ids are pairs of bytes."""

        def decode(self, ids: object) -> str:
            return b"".join(PAIRS[one] for one in ids).decode("utf-8", "replace")  # type: ignore[attr-defined]

    utf8 = "東京都東京都a".encode()
    PAIRS = [utf8[begin : begin + 2] for begin in range(0, len(utf8), 2)]
    stream = TextStream(Halves(["a"]))
    pieces = [stream.add(token) for token in range(len(PAIRS))]
    assert "".join(pieces) + stream.rest() == "東京都東京都a"
    assert pieces[1] == "東", "as soon as it is whole"


def test_a_stop_string_ends_the_text_before_it() -> None:
    assert "".join(pieces_of("abcdef", ["cd"])) == "ab"
    assert "".join(pieces_of("abcdef", ["x", "ef", "bc"])) == "a"
    assert "".join(pieces_of("ababac", ["abac"])) == "ab"
    assert "".join(pieces_of("abcdef", ["fx"])) == "abcdef"
    assert "".join(pieces_of("a東京b", ["京"])) == "a東"
    assert pieces_of("abcde", ["ce", "cdx"]) == ["a", "b", "", "", "cde", ""], "what may begin one is held"


def test_the_stop_string_that_is_whole_first_counts_wherever_pieces_end() -> None:
    assert "".join(pieces_of("abc", ["abc", "b"])) == "a"
    assert "".join(pieces_of("abc", ["bc", "abc"])) == "", "of several whole at once the longest"
    rng = random.Random(1)
    for _ in range(300):
        text = "".join(rng.choices("ab", k=20))
        stop = ["".join(rng.choices("ab", k=rng.randint(1, 4))) for _ in range(2)]
        by_characters = "".join(pieces_of(text, stop))
        ends = [(text.index(one) + len(one), -len(one)) for one in stop if one in text]
        expected = text[: sum(min(ends))] if ends else text
        assert by_characters == expected


def test_an_empty_prompt_starts_a_new_document() -> None:
    assert first_ids(CHARACTERS, "") == [CHARACTERS.end_of_text]
    assert first_ids(CHARACTERS, "ab") == [0, 1]
    request = WritingRequest(tokens=9)
    assert "".join(write(network(), CHARACTERS, request)) == "".join(write(network(), CHARACTERS, request))


def test_a_batch_writes_what_each_request_would_alone_and_says_how_it_ended() -> None:
    requests = [
        WritingRequest(
            prompt="abc" * number, tokens=30 + number, sampling=Sampling(seed=number, temperature=1.0)
        )
        for number in range(5)
    ]
    requests.append(WritingRequest(prompt="a", tokens=0))
    requests.append(WritingRequest(prompt="a", tokens=500, stop=("a", "b", "c", " ")))
    texts, tokens, endings = [""] * 7, [0] * 7, [""] * 7
    for piece in write_batch(network(), CHARACTERS, requests):
        assert not endings[piece.row], "nothing comes after the last piece"
        texts[piece.row] += piece.text
        tokens[piece.row] += piece.tokens
        endings[piece.row] = piece.ending or ""
    assert texts == ["".join(write(network(), CHARACTERS, request)) for request in requests]
    assert all(endings)
    assert endings[5:] == ["length", "stop"]
    assert all(
        count == request.tokens
        for count, request, ending in zip(tokens, requests, endings, strict=True)
        if ending == "length"
    )


def test_what_cannot_be_meant_is_refused_at_once() -> None:
    with pytest.raises(ValueError, match="a stop string is empty"):
        WritingRequest(tokens=1, stop=("a", ""))
    with pytest.raises(ValueError, match="stop is the text 'END'; give a tuple of texts"):
        WritingRequest(tokens=1, stop="END")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="tokens is -1"):
        write(network(), CHARACTERS, WritingRequest(tokens=-1))
