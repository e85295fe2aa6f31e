"""The first two rungs of the ladder, climbed on the course's own text; skipped where that text is not there."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from model.config import Recipe, preset
from model.evaluation import evaluate, final_report
from model.references import bigram_floor
from model.tokenizer import CharacterCounts, CharTokenizer
from model.training import Training

OZ = Path(__file__).parents[3] / "shared" / "data" / "wizard_of_oz.txt"
needs_oz = pytest.mark.skipif(not OZ.exists(), reason=f"needs {OZ}")


def oz_splits() -> tuple[CharTokenizer, np.ndarray, np.ndarray]:
    """The course's split: the first 80 % of the characters, and the rest."""
    text = OZ.read_text(encoding="utf-8")
    cut = int(0.8 * len(text))
    counts = CharacterCounts()
    counts.update(text[:cut])
    tokenizer = CharTokenizer.from_counts(counts)
    return tokenizer, tokenizer.encode(text[:cut]), tokenizer.encode(text[cut:])


def trained_loss(recipe: Recipe, tokenizer: CharTokenizer, train: np.ndarray, val: np.ndarray) -> float:
    on_cpu = replace(recipe, training=replace(recipe.training, device="cpu"))
    training = Training(on_cpu, train, dataset_digest="oz")
    for _ in training.steps():
        pass
    end_of_text = tokenizer.end_of_text
    return final_report(evaluate(training.network, val, end_of_text=end_of_text, text_bytes=len(val))).loss


@needs_oz
def test_the_bigram_preset_reaches_its_closed_form_floor() -> None:
    tokenizer, train, val = oz_splits()
    size, end = tokenizer.vocabulary_size, tokenizer.end_of_text
    reached = trained_loss(preset("bigram", vocabulary_size=size), tokenizer, train, val)
    assert reached < bigram_floor(train, val, vocabulary_size=size, end_of_text=end) + 0.05


@needs_oz
def test_the_course_preset_matches_the_course() -> None:
    tokenizer, train, val = oz_splits()
    reached = trained_loss(preset("course", vocabulary_size=tokenizer.vocabulary_size), tokenizer, train, val)
    assert reached <= 2.658  # the course's own figure after the same 1,000 steps
