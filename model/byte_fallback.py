"""Owns the character tokenizer as others run it: the `tokenizer.json` of the library `tokenizers` that gives the same ids."""

import json
import operator
from typing import Any, Final

from model.bpe import END_OF_TEXT, json_of
from model.tokenizer import BYTE_VALUES, CharTokenizer

_BYTE_TOKENS: Final = tuple(
    f"<0x{value:02X}>" for value in range(BYTE_VALUES)
)  # as SentencePiece spells bytes


def byte_fallback_json(tokenizer: CharTokenizer) -> str:
    """A `tokenizer.json`: byte-pair encoding that merges nothing, so that each character is a token, and one it does not know is
    its bytes.

    Bytes that are no UTF-8, which no text encodes to, are one U+FFFD each when decoded, where ours are fewer. ValueError for
    characters that are no text (lone surrogates).
    """
    tokens = [*tokenizer.characters, *_BYTE_TOKENS, END_OF_TEXT]
    if surrogates := [one for one in tokenizer.characters if "\ud800" <= one <= "\udfff"]:
        raise ValueError(
            f"tokenizer: the character {surrogates[0]!r} is half of one; no other program can read it"
        )
    special = {
        "id": tokenizer.end_of_text, "content": END_OF_TEXT, "single_word": False, "lstrip": False, "rstrip": False,
        "normalized": False, "special": True,
    }  # fmt: skip
    model: dict[str, Any] = {
        "type": "BPE", "dropout": None, "unk_token": None, "continuing_subword_prefix": None,  # nosec B105 # a token of text, no password
        "end_of_word_suffix": None, "fuse_unk": False, "byte_fallback": True, "ignore_merges": False,
        "vocab": {token: number for number, token in enumerate(tokens)}, "merges": [],
    }  # fmt: skip
    decoder = {"type": "Sequence", "decoders": [{"type": "ByteFallback"}, {"type": "Fuse"}]}
    return json_of({
        "version": "1.0", "truncation": None, "padding": None, "added_tokens": [special], "normalizer": None,
        "pre_tokenizer": None, "post_processor": None, "decoder": decoder, "model": model,
    })  # fmt: skip


def characters_of(fields: Any) -> CharTokenizer | None:
    """The inverse, from parsed JSON, which others may have written anew: None if it is another kind of tokenizer."""
    try:
        by_id = dict(sorted(fields["model"]["vocab"].items(), key=operator.itemgetter(1)))
        tokenizer = CharTokenizer([*by_id][: -BYTE_VALUES - 1])
        expected = json.loads(byte_fallback_json(tokenizer))
        same = all(fields.get(part) == expected[part] for part in ("normalizer", "pre_tokenizer", "decoder"))
        model = expected["model"]
        is_so = same and all(fields["model"].get(part) == value for part, value in model.items())
    except (ValueError, KeyError, TypeError, AttributeError):
        return None
    return tokenizer if is_so else None
