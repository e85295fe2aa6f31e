"""Questions from a local file, and the same model under lm-evaluation-harness: their numbers are ours."""

import json
import math
from pathlib import Path

import pytest
from tiny_data import build_plainly, tiny_documents

from model.config import preset, recipe_to_dict, with_settings
from model.sampling import Sampling
from model.scoring import score_continuations
from model.training import Training
from storage.checkpoints import save_checkpoint
from storage.workspace import Workspace
from tasks.loading import LoadedModel, load_model
from tasks.questions import answer_questions, encode_pair, read_questions


@pytest.fixture(scope="module")
def loaded(tmp_path_factory: pytest.TempPathFactory) -> LoadedModel:
    """A model that has learnt a little, from few texts."""
    workspace = Workspace.at(tmp_path_factory.mktemp("workspace"))
    lines = [{"text": document} for document in tiny_documents()]
    dataset = build_plainly(written(workspace.root / "tiny.jsonl", lines), workspace)
    recipe = with_settings(
        preset("pocket", vocabulary_size=dataset.manifest.vocabulary_size),
        {
            "training.steps": "200",
            "training.warmup_steps": "5",
            "training.learning_rate": "0.005",
            "network.width": "64",
            "network.layers": "1",
            "network.heads": "2",
        },
    )
    training = Training(recipe, dataset.token_file("train").open(), dataset_digest=dataset.manifest.digest)
    for _ in training.steps():
        pass
    checkpoint = save_checkpoint(
        workspace.checkpoints / "run",
        step=200,
        tensors=training.state().tensors,
        facts={"recipe": recipe_to_dict(recipe), "dataset": dataset.reference, "val_loss": None},
        tokenizer_json=dataset.tokenizer_json(),
    )
    return load_model(checkpoint.path)


def written(path: Path, lines: list[object]) -> Path:
    path.write_text("\n".join(line if isinstance(line, str) else json.dumps(line) for line in lines))
    return path


def test_what_it_was_trained_on_is_likelier_than_noise(loaded: LoadedModel, tmp_path: Path) -> None:
    lines = [
        {
            "ctx": "Document 1.\n\nthe yellow brick",
            "endings": ["qzx zqx# #j@%%$", " road leads home"],
            "label": 1,
        },
        {
            "ctx": "where poppies",
            "endings": [" sleep and crows", "@@@@ #### @@@@ ##", "%%%% %%%% %%%% %"],
            "label": "0",
        },
    ]
    found = answer_questions(loaded, written(tmp_path / "choices.jsonl", [*lines, ""]))
    assert (found.name, found.questions, found.accuracy) == ("choices", 2, 1.0)
    assert found.chance == pytest.approx((1 / 2 + 1 / 3) / 2)
    wrong = [line | {"label": (int(line["label"]) + 1) % 2} for line in lines]
    assert answer_questions(loaded, written(tmp_path / "wrong.jsonl", wrong)).accuracy == 0


def test_a_last_word_counts_if_each_of_its_tokens_is_the_likeliest(
    loaded: LoadedModel, tmp_path: Path
) -> None:
    context = "the road of yellow"
    guess = context
    while not guess.removeprefix(context).strip() or not guess.endswith(" "):
        guess += next(loaded.write(guess, tokens=1, sampling=Sampling(temperature=0)))
        assert len(guess) < 100
    word = guess.removeprefix(context).strip()
    found = answer_questions(
        loaded, written(tmp_path / "last.jsonl", [{"text": f"{context} {word}"}, {"text": f"{context} §§"}])
    )
    assert (found.accuracy, found.chance) == (0.5, 0.0)


@pytest.mark.parametrize(
    ("line", "why"),
    [
        ("{", "line 2"),
        ({"ctx": "a", "endings": ["b"], "label": 0}, "none of 1 endings"),
        ({"ctx": "a", "endings": ["b", "c"], "label": 2}, "label 2"),
        ({"ctx": "a", "endings": ["b", ""], "label": 0}, "are texts"),
        ({"text": "word"}, "one word"),
        ({"question": "?"}, "'ctx'"),
        ([1], "line 2"),
    ],
)
def test_a_line_that_is_no_question_is_named(tmp_path: Path, line: object, why: str) -> None:
    with pytest.raises(ValueError, match=r"line 2: no question") as error:
        read_questions(written(tmp_path / "q.jsonl", [{"text": "two words"}, line]))
    assert why in str(error.value) and "\n" not in str(error.value)


def test_an_empty_file_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="has no questions"):
        read_questions(written(tmp_path / "q.jsonl", [""]))


def test_a_pair_is_the_whole_text_cut_where_the_ids_part(loaded: LoadedModel) -> None:
    context, rest = encode_pair(loaded.tokenizer, "yellow", " brick")
    assert context[0] == loaded.tokenizer.end_of_text
    assert loaded.tokenizer.decode(context[1:] + rest) == "yellow brick"
    assert loaded.tokenizer.decode(rest) == " brick"


def test_lm_evaluation_harness_runs_a_local_task_on_our_model(
    loaded: LoadedModel, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    lm_eval = pytest.importorskip("lm_eval")
    monkeypatch.setenv("HF_DATASETS_OFFLINE", "1")
    monkeypatch.setenv("HF_DATASETS_CACHE", str(tmp_path / "cache"))
    from lm_eval.tasks import TaskManager

    from tasks.lm_evaluation import BrickroadLM

    lines = [
        {"ctx": "the yellow brick", "endings": ["road leads home", "qzx zqxj"], "label": 0},
        {"ctx": "where poppies", "endings": ["%%%% @@", "sleep and crows"], "label": 1},
        {"ctx": "and crows", "endings": ["talk", "§§§§"], "label": 1},
    ]
    data = written(tmp_path / "choices.jsonl", lines)
    (tmp_path / "choices.yaml").write_text(
        f"""
task: brickroad_choices
dataset_path: json
dataset_kwargs: {{data_files: {{validation: "{data}"}}}}
validation_split: validation
output_type: multiple_choice
doc_to_text: "{{{{ctx}}}}"
doc_to_choice: "{{{{endings}}}}"
doc_to_target: label
metric_list: [{{metric: acc}}, {{metric: acc_norm}}]
"""
    )
    manager = TaskManager(include_path=str(tmp_path), include_defaults=False)
    results = lm_eval.simple_evaluate(
        model=BrickroadLM(loaded), tasks=["brickroad_choices"], task_manager=manager, bootstrap_iters=0
    )
    ours = answer_questions(loaded, data)
    assert results["results"]["brickroad_choices"]["acc,none"] == pytest.approx(ours.accuracy)
    assert 0 < ours.accuracy < 1


def test_the_adapter_gives_our_scores_and_our_text(loaded: LoadedModel) -> None:
    pytest.importorskip("lm_eval")
    from lm_eval.api.instance import Instance

    from tasks.lm_evaluation import BrickroadLM

    def asked(kind: str, *arguments: object) -> Instance:
        return Instance(request_type=kind, doc={}, arguments=arguments, idx=0)

    adapter = BrickroadLM(loaded)
    text = "the yellow brick road " * 20  # longer than a window
    (score,) = score_continuations(
        loaded.network, [([loaded.tokenizer.end_of_text], loaded.tokenizer.encode(text))]
    )
    assert adapter.loglikelihood_rolling([asked("loglikelihood_rolling", text)]) == [-score.nats]
    ((found, _),) = adapter.loglikelihood([asked("loglikelihood", "", text)])
    assert found == pytest.approx(-score.nats, rel=1e-5)
    (free,) = adapter.generate_until([asked("generate_until", "the", {"max_gen_toks": 30})])
    assert free == "".join(loaded.write("the", tokens=30, sampling=Sampling(temperature=0)))
    (stopped,) = adapter.generate_until(
        [asked("generate_until", "the", {"until": [" "], "max_gen_toks": 30})]
    )
    assert stopped == free.split(" ")[0]
    assert math.isfinite(score.nats)
