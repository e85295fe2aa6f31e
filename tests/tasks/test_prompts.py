"""Prompts and responses become a data set of ours: rows for one model, with the prompts masked; bad lines are named."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from storage.checkpoints import read_checkpoint
from storage.datasets import Dataset, find_dataset, refuse_damaged, verify_dataset
from storage.errors import CorpusError, DatasetError
from storage.workspace import Workspace
from tasks.evaluation import evaluate_checkpoint
from tasks.loading import load_model
from tasks.look import trace_token
from tasks.prompt_dataset import make_prompt_dataset
from tasks.prompts import PromptsConfig, read_examples
from tasks.training import train
from tasks.training_request import Cadence, FineTuning, TrainedModel, TrainingRequest
from tasks.verify import recorded_config

TINY = {
    "training.steps": "4",
    "training.batch_size": "4",
    "training.warmup_steps": "1",
    "network.block_size": "48",
    "network.width": "16",
    "network.layers": "1",
    "network.heads": "2",
}
EXAMPLES = [{"prompt": f"Say {number}", "response": f"{number}!" * (1 + number % 3)} for number in range(80)]


@pytest.fixture
def parent(dataset: Dataset, workspace: Workspace) -> TrainedModel:
    """A trained model."""
    trained = train(TrainingRequest(dataset=dataset.reference, settings=TINY), workspace)
    assert trained is not None
    return trained


def written(folder: Path, lines: list[Any], name: str = "my prompts.jsonl") -> PromptsConfig:
    path = folder / name
    path.write_text("".join(f"{line if isinstance(line, str) else json.dumps(line)}\n" for line in lines))
    return PromptsConfig(file=str(path), prompt_format="Q: {prompt}\nA: ", val_fraction=0.2)


def test_rows_hold_whole_examples_and_the_mask_their_responses(
    parent: TrainedModel, workspace: Workspace, tmp_path: Path
) -> None:
    config = written(tmp_path, EXAMPLES)
    made = make_prompt_dataset(config, parent.run_id, workspace)
    assert made.manifest.name == "my-prompts"
    tokenizer = load_model(parent.checkpoint).tokenizer
    seen = []
    for split in ("train", "val"):
        tokens, learnt = made.token_file(split).open(), made.learnt(split)
        assert learnt is not None
        assert len(tokens) % 49 == 0
        for row, mask in zip(tokens.reshape(-1, 49), learnt.reshape(-1, 49), strict=True):
            ends = np.flatnonzero((mask == 1) & (row == tokenizer.end_of_text))
            assert len(ends), "end-of-text is learnt"
            for start, end in zip([0, *(ends[:-1] + 1)], ends, strict=True):
                piece, own = row[start : end + 1], mask[start : end + 1] == 1
                seen.append((tokenizer.decode(piece[~own]), tokenizer.decode(piece[own])))
            assert not mask[ends[-1] + 1 :].any(), "what fills a row is not learnt"
    expected = [(f"Q: {one['prompt']}\nA: ", one["response"]) for one in EXAMPLES]
    assert sorted(seen) == sorted(expected)
    facts = made.prompts()
    assert facts is not None
    assert facts.train_response_bytes + facts.val_response_bytes == sum(
        len(one["response"]) for one in EXAMPLES
    )
    origin = trace_token(made, "train", 0)
    assert origin.shard == "my prompts.jsonl"
    assert origin.text.startswith("Q: Say ")
    assert not [line for _, _, wrong in verify_dataset(made) for line in wrong]
    with pytest.raises(
        ValueError, match="was made of prompts for a model; make it again with: brickroad finetune"
    ):
        recorded_config(made)


def test_the_same_file_is_not_encoded_twice_and_another_format_is_another_data_set(
    parent: TrainedModel, workspace: Workspace, tmp_path: Path
) -> None:
    config = written(tmp_path, EXAMPLES)
    made = make_prompt_dataset(config, parent.run_id, workspace)
    before = (made.path / "manifest.json").stat().st_mtime_ns
    assert make_prompt_dataset(config, parent.run_id, workspace) == made
    assert (made.path / "manifest.json").stat().st_mtime_ns == before
    other = make_prompt_dataset(replace(config, prompt_format="{prompt}: "), parent.run_id, workspace)
    assert other.manifest.digest != made.manifest.digest
    assert find_dataset(workspace.datasets, made.reference) == made
    mask = made.path / "train.mask"
    mask.write_bytes(bytes([1]) + mask.read_bytes()[1:])
    with pytest.raises(DatasetError, match=r"train\.mask: bytes differ in block 0"):
        refuse_damaged(made, blocks=4)


def test_a_fine_tuning_on_prompts_learns_responses_and_remembers_the_format(
    parent: TrainedModel, workspace: Workspace, tmp_path: Path
) -> None:
    made = make_prompt_dataset(written(tmp_path, EXAMPLES), parent.run_id, workspace)
    before = evaluate_checkpoint(parent.checkpoint, made.reference, workspace)
    request = TrainingRequest(
        dataset=made.reference,
        settings={"training.steps": "30", "training.learning_rate": "0.02"},
        cadence=Cadence(report_every_steps=1),
        fine_tuning=FineTuning(model=parent.run_id),
    )
    tuned = train(request, workspace)
    assert tuned is not None
    after = evaluate_checkpoint(tuned.checkpoint, None, workspace)
    assert after.val_loss < before.val_loss
    learnt = made.learnt("val")
    assert learnt is not None
    assert after.tokens == int(learnt.sum())
    facts = read_checkpoint(tuned.checkpoint).facts
    assert facts["prompt_format"] == "Q: {prompt}\nA: "
    again = train(
        replace(request, dataset=facts["parent"]["dataset"], fine_tuning=FineTuning(model=tuned.run_id)),
        workspace,
    )
    assert again is not None
    assert read_checkpoint(again.checkpoint).facts["prompt_format"] == "Q: {prompt}\nA: ", (
        "a child knows it too"
    )


def test_long_responses_are_cut_and_counted_and_other_rows_refused(
    parent: TrainedModel, workspace: Workspace, tmp_path: Path, dataset: Dataset
) -> None:
    long = [{"prompt": f"{number}", "response": "word " * 40} for number in range(20)]
    made = make_prompt_dataset(written(tmp_path, EXAMPLES + long), parent.run_id, workspace)
    facts = made.prompts()
    assert facts is not None
    assert facts.cut == 20
    short = TINY | {"network.block_size": "16"}
    other = train(TrainingRequest(dataset=dataset.reference, settings=short), workspace)
    assert other is not None
    with pytest.raises(
        ValueError, match="for a model that reads 48 tokens, and this one reads 16; make it anew"
    ):
        evaluate_checkpoint(other.checkpoint, made.reference, workspace)
    with pytest.raises(ValueError, match="for a model that reads 48 tokens, and this one reads 16"):
        train(TrainingRequest(dataset=made.reference, settings=short), workspace)
    no_room = written(tmp_path, [*EXAMPLES, {"prompt": "word " * 12, "response": "yes"}])
    with pytest.raises(
        CorpusError, match=r"line 81: its prompt has .* tokens, and the model reads 48: nothing of the resp"
    ):
        make_prompt_dataset(no_room, parent.run_id, workspace)
    with pytest.raises(DatasetError, match="1 document; a train and a val split need at least 2"):
        make_prompt_dataset(written(tmp_path, EXAMPLES[:1]), parent.run_id, workspace)
    assert not list(workspace.root.rglob("*.partial"))
    assert not list(workspace.tokens.glob("*"))


def test_three_forms_of_a_line_are_read(tmp_path: Path) -> None:
    lines = [
        {"prompt": "a", "response": "b"},
        "",
        {"instruction": "a", "input": "x", "output": "b"},
        {"instruction": "a", "output": "b"},
        {"messages": [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}]},
        {"messages": [{"role": "system", "content": "s"}, {"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}]},
    ]  # fmt: skip
    found = [(one.line, one.prompt, one.response) for one in read_examples(written(tmp_path, lines))]
    spelt = [(1, "a"), (3, "a\n\nx"), (4, "a"), (5, "a"), (6, "s\n\na")]
    assert found == [(line, f"Q: {prompt}\nA: ", "b") for line, prompt in spelt]


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("{", "Expecting property name"),
        ("[1]", "is no JSON object"),
        ({"prompt": "a"}, "has no 'response'"),
        ({"text": "a"}, "has neither prompt nor instruction"),
        ({"instruction": "a"}, "has no 'output'"),
        ({"prompt": "a", "response": 7}, "has 7 where a text should be"),
        ({"prompt": "a", "response": " "}, "has an empty response"),
        ({"messages": []}, "has messages of nobody"),
        (
            {"messages": [{"role": "user", "content": "a"}]},
            "has messages of user; one answer to one question",
        ),
        ({"messages": "hello"}, "has messages that are no list"),
        ({"prompt": "\ud800", "response": "b"}, "surrogates not allowed"),
    ],
)
def test_a_bad_line_is_named(line: Any, message: str, tmp_path: Path) -> None:
    config = written(tmp_path, [EXAMPLES[0], line])
    with pytest.raises(CorpusError, match=rf"my prompts\.jsonl: line 2: .*{message}.*; a line is ") as error:
        list(read_examples(config))
    assert "\n" not in str(error.value)


def test_a_config_that_cannot_be_is_refused(
    tmp_path: Path, workspace: Workspace, parent: TrainedModel
) -> None:
    with pytest.raises(ValueError, match=r"--prompt-format is 'Q: '; it must have \{prompt\} once"):
        PromptsConfig(file="f", prompt_format="Q: ")
    with pytest.raises(ValueError, match="--val-fraction is 1"):
        PromptsConfig(file="f", val_fraction=1.0)
    with pytest.raises(CorpusError, match="no such file"):
        make_prompt_dataset(PromptsConfig(file=str(tmp_path / "none")), parent.run_id, workspace)
    with pytest.raises(CorpusError, match="has no example"):
        list(read_examples(written(tmp_path, [""])))
