"""Questions with known answers from a local file: whether a model finds the right continuation likeliest.

JSON lines, in either of two forms, as the files of HellaSwag (Zellers et al. 2019) and LAMBADA (Paperno et al. 2016) have them:

    {"ctx": "A man is sitting on a roof. He", "endings": [" is using wrap.", " starts pulling up tiles."], "label": 1}
    {"text": "… and he went back to his room and locked the door"}

Of the first, the ending with the least loss is the answer; of the second, the last word is to be guessed, each of its tokens the
likeliest.
"""

import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from model.scoring import Score, score_continuations
from model.tokenizer import Tokenizer
from tasks.loading import LoadedModel
from tasks.watch import Watch

_QUESTIONS_AT_A_TIME = 64


@dataclass(frozen=True, slots=True, kw_only=True)
class QuestionScore:
    """How a model answered a file of questions. Shares of 1; `standard_error` is that of `accuracy`."""

    name: str
    questions: int
    accuracy: float
    accuracy_by_byte: (
        float  # where the loss of an ending is divided by its bytes; as `accuracy` for last words
    )
    standard_error: float
    chance: float  # what guessing reaches


@dataclass(frozen=True, slots=True, kw_only=True)
class Question:
    """A context, what may come next, and which of these is right: number `label`, or, of a single one, that it is found."""

    context: str
    endings: list[str]
    label: int


def read_questions(path: Path) -> list[Question]:
    """The questions of a file. ValueError names the line that is none; an empty file is one too."""
    questions = []
    with path.open(encoding="utf-8") as lines:
        for number, line in enumerate(lines, 1):
            if line.strip():
                try:
                    questions.append(_question(json.loads(line)))
                except (ValueError, KeyError, TypeError, IndexError, RecursionError) as error:
                    raise ValueError(
                        f'{path}, line {number}: no question ({error}); it takes {{"ctx", "endings", "label"}} or {{"text"}}'
                    ) from None
    if not questions:
        raise ValueError(f"{path}: has no questions; it takes one JSON object a line")
    return questions


def _question(value: dict[str, Any]) -> Question:
    if "text" in value:
        context, blank, word = value["text"].strip().rpartition(" ")
        if not context:
            raise ValueError("a text of one word leaves nothing to guess from")
        return Question(context=context, endings=[blank + word], label=0)
    context, endings, label = value["ctx"], [*value["endings"]], int(value["label"])
    if not isinstance(context, str) or not all(isinstance(each, str) and each for each in endings):
        raise TypeError("the context and its endings are texts")
    if not 0 <= label < len(endings) or len(endings) < 2:
        raise IndexError(f"the label {label} is none of {len(endings)} endings")
    joined = [each if each[0].isspace() or context[-1:].isspace() else f" {each}" for each in endings]
    return Question(context=context, endings=joined, label=label)


def answer_questions(loaded: LoadedModel, path: Path) -> QuestionScore:
    """Lets a model answer a file of questions."""
    questions = read_questions(path)
    right, right_by_byte = list[bool](), list[bool]()
    with Watch(f"questions of {path.name}", total=len(questions), unit="questions") as watch:
        for begin in range(0, len(questions), _QUESTIONS_AT_A_TIME):
            some = questions[begin : begin + _QUESTIONS_AT_A_TIME]
            for question, scores in zip(some, _scores(loaded, some), strict=True):
                if len(scores) == 1:
                    found = by_byte = scores[0].is_likeliest
                else:
                    sizes = [len(ending.encode()) for ending in question.endings]
                    found = _least([score.nats for score in scores]) == question.label
                    by_byte = (
                        _least([score.nats / size for score, size in zip(scores, sizes, strict=True)])
                        == question.label
                    )
                right.append(found)
                right_by_byte.append(by_byte)
            watch.advance(len(some))
    accuracy = float(np.mean(right))
    return QuestionScore(
        name=path.stem,
        questions=len(questions),
        accuracy=accuracy,
        accuracy_by_byte=float(np.mean(right_by_byte)),
        standard_error=float(np.sqrt(accuracy * (1 - accuracy) / len(questions))),
        chance=float(
            np.mean([1 / len(each.endings) if len(each.endings) > 1 else 0.0 for each in questions])
        ),
    )


def _scores(loaded: LoadedModel, questions: list[Question]) -> Iterator[list[Score]]:
    pairs = [
        encode_pair(loaded.tokenizer, question.context, ending)
        for question in questions
        for ending in question.endings
    ]
    scores = score_continuations(loaded.network, pairs)
    for question in questions:
        yield [next(scores) for _ in question.endings]


def encode_pair(tokenizer: Tokenizer, context: str, continuation: str) -> tuple[list[int], list[int]]:
    """The ids of a context, after an end of text, and of what follows it; a token that crosses the border counts to the latter."""
    whole = list(tokenizer.encode(context + continuation))
    head = list(tokenizer.encode(context))
    common = 0
    while common < len(head) and common < len(whole) and head[common] == whole[common]:
        common += 1
    return [tokenizer.end_of_text, *whole[:common]], whole[common:]


def _least(values: list[float]) -> int:
    return min(range(len(values)), key=values.__getitem__)
