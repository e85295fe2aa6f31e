"""The record of one training as it goes, by which it can be repeated: in its folder and among the run's artifacts."""

from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch

from model.config import recipe_to_dict
from model.device import device_name
from model.training import Training
from storage.checkpoints import Checkpoint, recorded_sha256
from storage.datasets import Dataset
from storage.run_records import (
    RECORD_NAME,
    Curve,
    ExactLoss,
    RecordedDataset,
    RunRecord,
    Sitting,
    read_record,
)
from tasks.provenance import UNKNOWN, installed_packages, provenance
from tasks.tracking import RunLog, TrainingLog
from tasks.training_request import Cadence


class KeptRecord:
    """`run.json` of a run that begins, or goes on from a checkpoint: then the losses that lead to that checkpoint are kept."""

    def __init__(
        self,
        folder: Path,
        run: TrainingLog,
        *,
        training: Training,
        dataset: Dataset,
        cadence: Cadence,
        parent: Mapping[str, Any] | None,
        resumed: Checkpoint | None,
    ) -> None:
        self._folder = folder
        self._run = run
        sitting = sitting_on(
            training.device, training.precision, processes=training.ranks.size, from_step=training.step
        )
        self.facts = sitting.facts
        self._record = (read_record(folder) if resumed else None) or RunRecord(
            run_id=run.run_id,
            dataset=RecordedDataset.of(dataset),
            recipe=recipe_to_dict(training.recipe),
            cadence=asdict(cadence),
            parent=None if parent is None else dict(parent),
            sittings=[sitting],
        )
        if resumed:
            self._go_on_from(resumed, sitting)

    def _go_on_from(self, checkpoint: Checkpoint, sitting: Sitting) -> None:
        self._record.up_to(checkpoint.step, recorded_sha256(checkpoint))
        if self._record.sittings[-1].facts != sitting.facts:
            self._record.sittings.append(sitting)

    def loss(self, curve: Curve, step: int, value: float) -> None:
        """A loss was read."""
        self._record.losses[curve][step] = value

    def write(self) -> None:
        """Before a checkpoint is written: a training that goes on from there has the losses that lead to it."""
        self._folder.mkdir(parents=True, exist_ok=True)
        self._record.write(self._folder)

    def saved(self, checkpoint: Checkpoint) -> None:
        """A checkpoint is written: what it came to is what a repetition has to come to."""
        self._record.up_to(checkpoint.step, recorded_sha256(checkpoint))
        self.write()
        self._run.text(self._record.to_json(), RECORD_NAME)


def sitting_on(device: torch.device, precision: str, *, processes: int = 1, from_step: int = 0) -> Sitting:
    """Where a training runs, as far as its bits depend on it."""
    known = provenance()
    facts = {
        "brickroad": known.brickroad,
        "commit": known.commit,
        "changed since that commit": UNKNOWN if known.is_dirty is None else "yes" if known.is_dirty else "no",
        "requirements.lock": known.lock_sha256,
        "packages": known.distributions_sha256,
        "python": known.python,
        "torch": str(torch.__version__),
        "device": device.type,
        "device name": device_name(device),
        "precision": precision,
        "processes": str(processes),
        "threads": str(torch.get_num_threads()),
        "platform": known.platform,
        "cpu": known.cpu,
        "cpu features": known.cpu_features,
        "cpu kernels": torch.backends.cpu.get_cpu_capability(),
    }
    if device.type == "cuda":
        facts |= {"cuda": str(torch.version.cuda), "cudnn": str(torch.backends.cudnn.version())}
    return Sitting(from_step=from_step, facts=facts | known.variables, packages=installed_packages())


def note_exact_loss(folder: Path, run: RunLog, exact: ExactLoss) -> None:
    """Adds the loss on the whole val split to the record of a run, if that is here."""
    if record := read_record(folder):
        record.exact = exact
        record.write(folder)
        run.text(record.to_json(), RECORD_NAME)
