"""One rank of a training in tests: `rank_losses.py ASKED TOLD RENDEZVOUS`. Losses, gradient norms and the state go to a file."""

import json
import sys
from pathlib import Path
from typing import Any

import numpy as np
import torch

from model.config import recipe_from_dict
from model.evaluation import estimate_loss
from model.generation import generate
from model.ranks import Ranks, joined_ranks
from model.training import Training, TrainingState


def main() -> None:
    with joined_ranks(sys.argv[3]) as ranks:
        train(json.loads(Path(sys.argv[1]).read_text()), ranks)


def train(asked: dict[str, Any], ranks: Ranks) -> None:
    tokens = np.array(asked["tokens"], np.uint16)
    learnt = np.array(asked["learnt"], np.uint8) if asked["learnt"] else None
    training = Training(
        recipe_from_dict(asked["recipe"]), tokens, dataset_digest="digest", ranks=ranks, learnt=learnt
    )
    if asked["state"]:
        loaded = torch.load(asked["state"], weights_only=True)
        training.load(TrainingState(step=loaded.pop("step"), tensors=loaded))
    reports = []
    for report in training.steps():
        reports.append((report.train_loss, report.gradient_norm))
        if report.step == asked["until"]:
            break
    val_loss = estimate_loss(training.network, tokens, windows=8)
    written = list(generate(training.network, [1, 2], tokens=5))
    assert len(set(ranks.all_of((val_loss, *written)))) == 1, "all ranks come to the same"
    state = training.state()
    if ranks.is_first:
        facts = {"reports": reports, "val_loss": val_loss, "step": state.step, "tensors": state.tensors}
        torch.save(facts, sys.argv[2])


main()
