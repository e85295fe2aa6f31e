"""Trainings that are over in a moment: their settings, and what they lose step by step."""

from model.training import Training

TINY = {
    "training.steps": "12",
    "training.batch_size": "4",
    "network.block_size": "16",
    "network.width": "16",
    "network.layers": "1",
    "network.heads": "2",
    "training.warmup_steps": "2",
}

#: A training in a process of its own: `python -c TRAIN REQUEST WORKSPACE`, the request as JSON.
TRAIN = """
import json
import sys
from storage.workspace import Workspace
from tasks.training import train
from tasks.training_request import TrainingRequest
train(TrainingRequest.from_json(json.loads(sys.argv[1])), Workspace.at(sys.argv[2]))
"""


def losses_of(training: Training, *, until: int) -> list[float]:
    """The train loss of each step, from where it stands up to step `until`."""
    losses = []
    for report in training.steps():
        losses.append(report.train_loss)
        if report.step == until:
            break
    return losses
