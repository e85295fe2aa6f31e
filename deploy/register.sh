#!/usr/bin/env bash
# What the servers must know before workers start: MLflow's user; Prefect's work pools, the limit of the GPU, the deployments with
# what starts them. Safe to run again.
#
# Wants PREFECT_API_URL, PREFECT_API_AUTH_STRING, MLFLOW_TRACKING_URI and the passwords that users.py wants.
set -euo pipefail
cd "$(dirname "$0")/.."
python deploy/users.py
python -m flows.set_up prefect.yaml # as `brickroad up` does it
