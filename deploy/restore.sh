#!/usr/bin/env bash
# Puts a back-up back. Stop Prefect, MLflow and the workers first; databases.sh must have made roles and databases.
#
#   restore.sh FOLDER/<UTC time>
#
# Each database comes back in one transaction, whole or not at all. Wants what backup.sh wants.
set -euo pipefail
here=$(cd "$(dirname "$0")" && pwd)
saved=${1:?usage: restore.sh FOLDER/TIME}
: "${PREFECT_DATABASE_PASSWORD:?is not set: the password of the role prefect}"
: "${MLFLOW_DATABASE_PASSWORD:?is not set: the password of the role mlflow}"
: "${ARTIFACTS_BUCKET:?is not set: the name of the bucket}"

[ -f "$saved/SHA256SUMS" ] || { echo "error: $saved: is no finished back-up (it has no SHA256SUMS); choose another" >&2; exit 1; }
(cd "$saved" && sha256sum --check --quiet SHA256SUMS)
back() { # role, database
  pg_restore --clean --if-exists --no-owner --exit-on-error --single-transaction \
    --username "$1" --dbname "$2" "$saved/$2.dump"
}
PGPASSWORD=$PREFECT_DATABASE_PASSWORD back prefect prefect
export PGPASSWORD=$MLFLOW_DATABASE_PASSWORD
back mlflow mlflow
back mlflow mlflow_auth
python "$here/bucket.py" create "$ARTIFACTS_BUCKET"
python "$here/bucket.py" load "$ARTIFACTS_BUCKET" --objects "$(dirname "$saved")/objects" --list "$saved/bucket.json"
if [ -n "${BRICKROAD_WORKSPACE:-}" ] && [ -f "$saved/workspace.tar.gz" ]; then
  mkdir -p "$BRICKROAD_WORKSPACE"
  tar --extract --gzip --skip-old-files --directory "$BRICKROAD_WORKSPACE" --file "$saved/workspace.tar.gz"
fi
echo "restored from $saved"
