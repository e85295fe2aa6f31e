"""The one door to MLflow: whoever asks or tells it something does so by the names here.

store       where it is, and our experiment in it                    -> Store
runs        runs begun and gone on with, and what each tells         -> Tracker, RunLog
versions    the model registry, and what MLflow can load and serve   -> ModelRegistry, VersionFacts

Only the client with explicit run ids is used; MLflow's "active run" is a thread's global and would open stray runs.
The store is a database in the workspace, or what $MLFLOW_TRACKING_URI says.
"""

import os

# Read when mlflow is imported: it reports to its makers, and draws bars of its own between ours.
os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")
os.environ.setdefault("MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR", "false")

from tasks.tracking.runs import RunLog, SilentLog, Tracker
from tasks.tracking.store import EXPERIMENT, Store
from tasks.tracking.versions import ModelRegistry, VersionFacts, save_pyfunc

__all__ = [
    "EXPERIMENT",
    "ModelRegistry",
    "RunLog",
    "SilentLog",
    "Store",
    "Tracker",
    "VersionFacts",
    "save_pyfunc",
]
