"""A conversation is one document that both write in: it grows, is taken back, repeats by seed, and keeps to its settings."""

from pathlib import Path
from typing import Any

import pytest

from model.config import NetworkConfig, Recipe, TrainingConfig
from model.network import build_network
from model.sampling import Sampling
from model.tokenizer import CharTokenizer
from storage.checkpoints import Checkpoint
from storage.errors import CheckpointError
from tasks.conversation import Conversation
from tasks.loading import LoadedModel

TOKENIZER = CharTokenizer([*"abcdefgh #:"])
TEMPLATE = "## {prompt}:"


def loaded(**facts: Any) -> LoadedModel:
    config = NetworkConfig(
        vocabulary_size=TOKENIZER.vocabulary_size, block_size=16, layers=1, heads=2, width=16
    )
    return LoadedModel(
        checkpoint=Checkpoint(path=Path("step-1"), step=1, facts=facts),
        recipe=Recipe(network=config, training=TrainingConfig()),
        network=build_network(config, seed=1),
        tokenizer=TOKENIZER,
    )


def conversation(**settings: Any) -> Conversation:
    return Conversation(model=loaded(), **({"tokens": 12} | settings))


def test_both_sides_are_in_the_document() -> None:
    talk = conversation()
    first = "".join(talk.say("ab"))
    assert first
    assert talk.document == "ab" + first
    second = "".join(talk.say(""))
    assert talk.document == "ab" + first + second


def test_a_seed_repeats_a_conversation_whose_turns_draw_anew() -> None:
    texts = []
    for seed in (1, 1, 2):
        talk = conversation(sampling=Sampling(seed=seed, temperature=1.0))
        texts.append(["".join(talk.say("a" * 16)) for _ in range(2)])
    assert texts[0] == texts[1] != texts[2]


def test_a_turn_goes_on_from_all_before_it() -> None:
    talk = conversation(sampling=Sampling(temperature=0.0))
    "".join(talk.say("abc"))
    document = talk.document
    assert "".join(talk.say("d")) == "".join(
        talk.model.write(document + "d", tokens=12, sampling=Sampling(temperature=0.0))
    )


def test_what_was_written_before_it_was_broken_off_stays() -> None:
    talk = conversation(sampling=Sampling(temperature=1.0))
    stream = talk.say("ab")
    shown = next(stream) + next(stream)
    stream.close()  # type: ignore[attr-defined]
    assert talk.document == "ab" + shown


def test_undo_and_reset() -> None:
    talk = conversation()
    assert not talk.undo()
    "".join(talk.say("a"))
    before = talk.document
    "".join(talk.say("b"))
    assert talk.undo()
    assert talk.document == before
    talk.reset()
    assert talk.document == ""


def test_settings_are_set_by_name() -> None:
    talk = conversation()
    for assignment in ("temperature=0.5", "top_k = 7", "top_p=none", "min_p=0.1", "seed=4", "tokens=3"):
        talk.set(assignment)
    assert talk.sampling == Sampling(temperature=0.5, top_k=7, min_p=0.1, seed=4)
    assert talk.settings()["tokens"] == 3
    assert len("".join(talk.say("a"))) <= 3


@pytest.mark.parametrize(
    ("assignment", "message"),
    [
        ("colour=1", "'colour=1' is no setting; write NAME=VALUE with one of tokens, temperature"),
        ("temperature", "no setting"),
        ("temperature=hot", "temperature is 'hot'; it must be a number"),
        ("temperature=none", "temperature is 'none'"),
        ("temperature=-1", "temperature is -1.0"),
        ("top_k=1.5", "top_k is '1.5'; it must be a whole number"),
        ("tokens=0", "tokens is 0; it is how many to write at most"),
        ("tokens=none", "tokens is 'none'"),
    ],
)
def test_a_setting_that_cannot_be_is_refused_and_changes_nothing(assignment: str, message: str) -> None:
    talk = conversation()
    before = talk.settings()
    with pytest.raises(ValueError, match=message):
        talk.set(assignment)
    assert talk.settings() == before


def test_a_model_of_prompts_and_responses_gets_its_template_each_turn() -> None:
    talk = Conversation(model=loaded(prompt_format=TEMPLATE), tokens=40, sampling=Sampling(temperature=1.0))
    first = "".join(talk.say("a{prompt}b"))
    assert talk.document == "## a{prompt}b:" + first
    second = "".join(talk.say("c"))
    assert talk.document == f"## a{{prompt}}b:{first}\n\n## c:{second}"
    assert "##" not in first + second, "the person's side is not for the model to write"


def test_what_no_conversation_can_be_had_with_is_refused() -> None:
    with pytest.raises(CheckpointError, match=r"its prompt_format has no \{prompt\}"):
        Conversation(model=loaded(prompt_format="Hello"))
    with pytest.raises(ValueError, match="tokens is 0"):
        conversation(tokens=0)


def test_the_document_is_saved(tmp_path: Path) -> None:
    talk = conversation()
    "".join(talk.say("Über 東 "))
    talk.save(tmp_path / "text.txt")
    assert (tmp_path / "text.txt").read_text(encoding="utf-8") == talk.document
    with pytest.raises(OSError, match=r"text\.txt"):
        talk.save(tmp_path / "text.txt" / "no-folder")


def test_a_prompt_beyond_the_context_is_counted() -> None:
    assert loaded().unseen_tokens("a" * 20) == 4
    assert loaded().unseen_tokens("a" * 16) == loaded().unseen_tokens("") == 0
