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


def losses_of(training: Training, *, until: int) -> list[float]:
    """The train loss of each step, from where it stands up to step `until`."""
    losses = []
    for report in training.steps():
        losses.append(report.train_loss)
        if report.step == until:
            break
    return losses
