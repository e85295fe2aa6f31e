"""Fine-tuning: adapters on a trained model, what it learns and forgets, and prompts of which the responses alone are learnt."""

import json
import sysconfig
from collections.abc import Iterator
from pathlib import Path
from typing import Final

import numpy as np

from model.batches import Learnt
from model.config import LoraConfig
from model.lora import LoraLinear
from model.sampling import Sampling
from model.tokenizer import TokenArray, Tokenizer
from storage.datasets import Dataset
from tasks.corpora import CorpusConfig
from tasks.evaluation import measure
from tasks.fine_tuning import plan_fine_tuning
from tasks.loading import LoadedModel, load_model
from tasks.prompt_dataset import make_prompt_dataset
from tasks.prompts import PromptsConfig
from tasks.tour.ground import Ground
from tasks.tour.sights import Code, Facts, Printed, Sight, Table, Words
from tasks.training_request import FineTuning, TrainingRequest

STEPS: Final = 150
_RANK: Final = 8
#: Modules of the standard library whose source is the text that is new to a model of its documentation.
_MODULES: Final = (
    "argparse",
    "calendar",
    "configparser",
    "csv",
    "difflib",
    "fractions",
    "statistics",
    "textwrap",
    "zipapp",
)
_DOCUMENT_CHARACTERS: Final = 4_000  # so that there are enough to be split


def walk(ground: Ground) -> Iterator[Sight]:
    """Python's source for a model that knows something else."""
    model = ground.model
    yield Words(
        "A trained model is a good beginning for another text. Here it is the source of Python's own modules. All weights could learn; "
        "LoRA leaves them as they are, and puts two narrow matrices beside each, which learn instead:"
    )
    yield Code.of(LoraLinear)
    dataset = _python_source(ground)
    request = TrainingRequest(
        dataset=dataset.reference,
        settings={"training.steps": str(STEPS), "training.warmup_steps": "10"},
        fine_tuning=FineTuning(model=str(ground.gpt.path), lora=LoraConfig(rank=_RANK, alpha=2.0 * _RANK)),
    )
    plan = plan_fine_tuning(request, ground.workspace)
    yield Facts(
        values={
            "numbers in the network": plan.parameters,
            "of them learn": plan.trainable_parameters,
            "share": f"{plan.trainable_share:.1%}",
        }
    )
    from tasks.training import train  # Prefect comes with it, which takes a while

    trained = train(request, ground.workspace)
    assert trained is not None, "one machine trains"
    tuned = load_model(trained.checkpoint)
    yield Words(f"{STEPS} steps later, on both texts, in nats per character:")
    yield Table(
        header=("val split of", "before", "after"),
        rows=[
            (name, measure(model, one, ground.workspace).loss, measure(tuned, one, ground.workspace).loss)
            for name, one in (("Python's source, new", dataset), ("its own text: forgetting", ground.dataset))
        ],
    )
    yield Words("The same beginning, before and after:")
    yield Printed(f"{_written(model)}\n{'-' * 40}\n{_written(tuned)}")
    yield from _prompts(ground)


def _python_source(ground: Ground) -> Dataset:
    """Modules as documents, encoded with the tokenizer of the model, which cannot learn another."""
    library = Path(sysconfig.get_path("stdlib"))
    ground.folder.mkdir(parents=True, exist_ok=True)
    corpus = ground.folder / "python-source.jsonl"
    with corpus.open("w", encoding="utf-8") as file:
        for module in _MODULES:
            source = (library / f"{module}.py").read_text(encoding="utf-8")
            for start in range(0, len(source), _DOCUMENT_CHARACTERS):
                file.write(json.dumps({"text": source[start : start + _DOCUMENT_CHARACTERS]}) + "\n")
    tokenizer = str(ground.dataset.path / "tokenizer.json")
    return ground.built(CorpusConfig(corpus=str(corpus), tokenizer=tokenizer, val_fraction=0.2))


def _written(model: LoadedModel) -> str:
    prompt = "    def "
    return prompt + "".join(model.write(prompt, tokens=150, sampling=Sampling(seed=3)))


def _prompts(ground: Ground) -> Iterator[Sight]:
    yield Words(
        "To answer prompts a model learns from pairs. It reads the whole of each, and is marked on the response alone: of the rest it "
        "need not learn to write it. Here is how such a row begins; what is learnt stands between « and », and ∎ ends a document:"
    )
    examples = [{"prompt": f"Double of {number}?", "response": f"{2 * number}."} for number in range(1, 60)]
    file = ground.folder / "prompts.jsonl"
    file.write_text("".join(json.dumps(example) + "\n" for example in examples), encoding="utf-8")
    dataset = make_prompt_dataset(
        PromptsConfig(file=str(file), val_fraction=0.2), str(ground.gpt.path), ground.workspace
    )
    tokens, learnt = dataset.token_file("train").open()[:120], dataset.learnt("train")
    assert learnt is not None, "prompts have a mask"
    yield Printed(_marked(tokens, learnt[: len(tokens)], ground.tokenizer))
    yield Words(
        "Do it with: brickroad finetune MODEL --prompts FILE --lora 8, and talk to it with brickroad chat."
    )


def _marked(tokens: TokenArray, learnt: Learnt, tokenizer: Tokenizer) -> str:
    """The text of tokens, with signs around what is learnt, and one for end-of-text."""
    edges = np.flatnonzero(np.diff(learnt, prepend=0))
    marks = ["", *("«" if learnt[edge] else "»" for edge in edges)]
    pieces = [
        "".join("∎" if token == tokenizer.end_of_text else tokenizer.decode(token) for token in piece)
        for piece in np.split(tokens, edges)
    ]
    return "".join(mark + piece for mark, piece in zip(marks, pieces, strict=True))
