#!/usr/bin/env bash
# Tables of this version's Prefect and MLflow, and the bucket, before either server starts. Safe to run again; back up first.
#
# Wants PGHOST, PGPORT, both database passwords, AWS_* of the bucket's owner, and ARTIFACTS_BUCKET.
set -euo pipefail
cd "$(dirname "$0")"
: "${PREFECT_DATABASE_PASSWORD:?is not set: the password of the role prefect}"
: "${MLFLOW_DATABASE_PASSWORD:?is not set: the password of the role mlflow}"
: "${ARTIFACTS_BUCKET:?is not set: the name of the bucket}"

export PREFECT_SERVER_DATABASE_CONNECTION_URL="${PREFECT_SERVER_DATABASE_CONNECTION_URL:-postgresql+asyncpg://prefect@/prefect}"
PGPASSWORD=$PREFECT_DATABASE_PASSWORD prefect server database upgrade --yes
export PGPASSWORD=$MLFLOW_DATABASE_PASSWORD
mlflow db upgrade postgresql+psycopg2://mlflow@/mlflow
python -m mlflow.server.auth db upgrade --url postgresql+psycopg2://mlflow@/mlflow_auth
python bucket.py create "$ARTIFACTS_BUCKET"
