"""Names what a training did not learn from: the windows of a step whose update was left out, and their documents."""

import json
import sys
from typing import Any

import numpy as np

from model.order import DataOrder
from model.training import StepReport
from storage.datasets import Dataset
from storage.documents.rows import document_columns, pick_document_rows
from tasks.tracking import TrainingLog


def name_skipped(report: StepReport, order: DataOrder, dataset: Dataset, run: TrainingLog) -> None:
    """Says which step was not learnt from, and in MLflow what was in it."""
    told = skipped_step(report, order, dataset)
    run.text(json.dumps(told, indent=1), f"skipped/step-{report.step:08d}.json")
    print(
        f"step {report.step:,} was not learnt from: loss {told['train_loss']}, gradient norm "
        f"{told['gradient_norm']}; its windows and documents are in MLflow under skipped/",
        file=sys.stderr,
    )


def skipped_step(report: StepReport, order: DataOrder, dataset: Dataset) -> dict[str, Any]:
    """What was seen at a step, and where its tokens came from, as plain values for JSON.

    `windows` says for each window at which token of the train split it begins; `documents` which documents of the corpus the
    windows touch, in corpus order.
    """
    starts = order.window_starts(report.step - 1)
    path = dataset.path / "documents.parquet"
    columns = document_columns(path, ["split", "token_start"])
    rows = np.flatnonzero(~columns["split"])
    document_starts = columns["token_start"][rows]  # ascending: the split holds its documents in corpus order
    first = np.searchsorted(document_starts, starts, side="right") - 1
    last = np.searchsorted(document_starts, starts + order.block_size, side="right") - 1  # of the last target
    touched = {int(rows[place]) for a, b in zip(first, last, strict=True) for place in range(a, b + 1)}
    return {
        "step": report.step,
        "train_loss": f"{report.train_loss:.6g}",  # as text: JSON has no nan
        "gradient_norm": f"{report.gradient_norm:.6g}",
        "dataset": dataset.reference,
        "block_size": order.block_size,
        "windows": starts.tolist(),
        "documents": [
            {"shard": row["shard"], "member": row["member"], "sha256": row["sha256"].hex()}
            for row in pick_document_rows(path, sorted(touched))
        ],
    }
