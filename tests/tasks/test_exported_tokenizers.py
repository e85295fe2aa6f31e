"""An exported tokenizer, as Hugging Face's library loads it, gives to every text the ids that ours gives, and the text back."""

import json
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tiny_data import tiny_documents

from model.byte_fallback import byte_fallback_json, characters_of
from model.config import preset, recipe_to_dict, with_settings
from model.network import build_network
from model.tokenizer import CharTokenizer, Tokenizer
from storage.checkpoints import save_checkpoint
from storage.workspace import Workspace
from tasks.hugging_face import export_model
from tasks.tokenizers import gpt2_json, load_tokenizer, train_bpe

transformers = pytest.importorskip("transformers")

CHARACTERS = [*"\0\n\r\t abcdefgh<|>end_ofxt0x41'.▁Ġé東\u0301\u00a0\ufffd\U0001f600"]
KINDS = ["char", "bpe", "gpt2"]
TEXTS = st.lists(
    st.one_of(
        st.text(st.characters(exclude_categories=["Cs"])),
        st.sampled_from(
            [
                "<|endoftext|>",
                "<0x41>",
                "<0xE9>",
                "\r\n",
                "  ",
                "é",
                "e\u0301",
                "東京",
                "▁",
                "Ġ",
                "\0",
                "n't",
                "the",
                "</s>",
            ]
        ),
    )
).map("".join)


def somebodys_unigram() -> str:
    """A tokenizer that changes text, adds tokens at both ends and cuts off what is long."""
    from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, processors

    pieces = [
        ("<unk>", 0.0),
        ("</s>", -1.0),
        ("▁", -2.0),
        ("▁the", -1.0),
        *((one, -5.0) for one in "abcdehfinorst"),
    ]
    tokenizer = Tokenizer(models.Unigram(pieces, unk_id=0))
    tokenizer.normalizer = normalizers.NFKC()
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace()
    tokenizer.decoder = decoders.Metaspace()
    tokenizer.add_special_tokens(["</s>"])
    tokenizer.post_processor = processors.TemplateProcessing(
        single="</s> $A </s>", special_tokens=[("</s>", 1)]
    )
    tokenizer.enable_truncation(4)
    tokenizer.enable_padding(length=8)
    return str(tokenizer.to_str())


@pytest.fixture(scope="module")
def pairs(tmp_path_factory: pytest.TempPathFactory) -> dict[str, tuple[Tokenizer, Any]]:
    """Ours, and what AutoTokenizer makes of the folder that was exported, by kind."""
    root = tmp_path_factory.mktemp("tokenizers")
    texts = {
        "char": CharTokenizer(list(dict.fromkeys(CHARACTERS))).to_json(),
        "bpe": train_bpe(tiny_documents(), 400),
        "gpt2": gpt2_json(),
        "somebody's": somebodys_unigram(),
    }
    found = {}
    for kind, text in texts.items():
        ours = load_tokenizer(text)
        sizes = {"network.width": "8", "network.layers": "1", "network.heads": "1"}
        recipe = with_settings(preset("pocket", vocabulary_size=ours.vocabulary_size), sizes)
        network = build_network(recipe.network, seed=0)
        checkpoint = save_checkpoint(
            root / "checkpoints" / kind,
            step=1,
            tensors={f"network.{name}": tensor for name, tensor in network.state_dict().items()},
            facts={"recipe": recipe_to_dict(recipe), "dataset": None, "dataset_digest": None, "val_loss": None, "brickroad": "0"},
            tokenizer_json=text,
        )  # fmt: skip
        export_model(checkpoint.path, root / kind, Workspace.at(root))
        found[kind] = ours, transformers.AutoTokenizer.from_pretrained(root / kind)
    return found


@pytest.mark.parametrize("kind", KINDS)
@given(text=TEXTS)
@settings(max_examples=300, deadline=None)
def test_every_text_has_the_same_ids_and_comes_back(
    pairs: dict[str, tuple[Tokenizer, Any]], kind: str, text: str
) -> None:
    ours, theirs = pairs[kind]
    ids = theirs(text)["input_ids"]
    assert ids == ours.encode(text).tolist()
    assert theirs.decode(ids) == text == ours.decode(ids)
    assert theirs.decode([*ids, ours.end_of_text], skip_special_tokens=True) == text


@given(text=TEXTS)
@settings(max_examples=300, deadline=None)
def test_somebodys_tokenizer_gives_our_ids(pairs: dict[str, tuple[Tokenizer, Any]], text: str) -> None:
    ours, theirs = pairs["somebody's"]
    ids = theirs(text)["input_ids"]
    assert ids == ours.encode(text).tolist()
    assert theirs.decode(ids, skip_special_tokens=True) == ours.decode(ids)


@pytest.mark.parametrize("kind", KINDS)
def test_every_character_there_is(pairs: dict[str, tuple[Tokenizer, Any]], kind: str) -> None:
    ours, theirs = pairs[kind]
    step = 1 if kind == "char" else 331  # where words end is compared in test_tokenizers.py
    everything = [chr(code) for code in range(0, 0x110000, step) if not 0xD800 <= code <= 0xDFFF]
    for start in range(0, len(everything), 50_000):
        text = "".join(everything[start : start + 50_000])
        ids = theirs(text, truncation=False, verbose=False)["input_ids"]
        assert np.array_equal(ids, ours.encode(text))
        assert theirs.decode(ids) == text


@pytest.mark.parametrize("kind", KINDS)
def test_special_tokens_and_sizes(pairs: dict[str, tuple[Tokenizer, Any]], kind: str) -> None:
    ours, theirs = pairs[kind]
    assert len(theirs) == ours.vocabulary_size
    assert theirs.eos_token_id == theirs.bos_token_id == theirs.pad_token_id == ours.end_of_text
    assert ours.end_of_text not in theirs("<|endoftext|>")["input_ids"]
    assert theirs.model_max_length == 128


@given(st.permutations(list(dict.fromkeys(CHARACTERS))), st.integers(0, 30))
@settings(max_examples=30, deadline=None)
def test_characters_come_back_from_their_other_form(characters: list[str], count: int) -> None:
    ours = CharTokenizer(characters[:count])
    back = characters_of(json.loads(byte_fallback_json(ours)))
    assert back is not None
    assert back.fingerprint == ours.fingerprint


@pytest.mark.parametrize("part", ["normalizer", "pre_tokenizer", "decoder"])
def test_another_tokenizer_is_not_taken_for_characters(part: str) -> None:
    fields = json.loads(byte_fallback_json(CharTokenizer([*"ab"])))
    assert characters_of(fields | {part: {"type": "Strip"}}) is None
    assert characters_of(json.loads(gpt2_json())) is None
    assert characters_of([]) is None
    fields["model"]["vocab"]["ab"] = 259
    assert characters_of(fields) is None


def test_half_characters_cannot_be_written() -> None:
    with pytest.raises(ValueError, match="is half of one; no other program can read it"):
        byte_fallback_json(CharTokenizer(["a", "\ud800"]))
