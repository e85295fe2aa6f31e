"""The one door to MLflow: whoever asks or tells it something does so by the names here.

store         where it is, and our experiment in it                    -> Store
artifact_probe  whether the store takes files, asked before the work
runs          begun, gone on with, told to their end                   -> Tracker
run_log       a run that is there, asked and told at once              -> RunLog
training_log  what a training tells, without ever waiting              -> TrainingLog, SilentLog
outbox          a journal on disk, and the thread that ships it        (storage/journal.py)
entries         what stands in the journal
telling         told to MLflow, where twice is the same as once
machine       CPU, memory and GPUs meanwhile
kept          what runs and versions need of a workspace                -> Kept
versions      the model registry, and what MLflow can load and serve   -> ModelRegistry, VersionFacts

Only the client with explicit run ids is used; MLflow's "active run" is a thread's global and would open stray runs.
The store is a database in the workspace, or what $MLFLOW_TRACKING_URI says.
"""

import os

# Read when mlflow is imported: it reports to its makers, and draws bars of its own between ours.
os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")
os.environ.setdefault("MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR", "false")

from tasks.tracking.artifact_probe import probe_artifacts, refuse_unwritable_artifacts
from tasks.tracking.run_log import RunLog
from tasks.tracking.runs import Left, Tracker
from tasks.tracking.store import EXPERIMENT, Store, TrackingError
from tasks.tracking.training_log import SilentLog, TrainingLog
from tasks.tracking.versions import ModelRegistry, VersionFacts, save_pyfunc

__all__ = [
    "EXPERIMENT",
    "Left",
    "ModelRegistry",
    "RunLog",
    "SilentLog",
    "Store",
    "Tracker",
    "TrackingError",
    "TrainingLog",
    "VersionFacts",
    "probe_artifacts",
    "refuse_unwritable_artifacts",
    "save_pyfunc",
]
