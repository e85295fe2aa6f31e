#!/usr/bin/env bash
# A back-up of all that a team cannot make again: three databases, the bucket, and the records of the workspace.
#
#   backup.sh FOLDER [KEEP]      makes FOLDER/<UTC time>/; FOLDER/objects is shared by all back-ups
#
# The newest KEEP (14) stay; older ones go, those that were never finished, and objects that no other needs.
# The databases come first: whatever they name is in the bucket by then. SHA256SUMS is written last: without it, it is no back-up.
# Wants PGHOST, PGPORT, both database passwords, AWS_*, ARTIFACTS_BUCKET; and BRICKROAD_WORKSPACE, if that is to be saved too.
set -euo pipefail
here=$(cd "$(dirname "$0")" && pwd)
folder=${1:?usage: backup.sh FOLDER [KEEP]}
keep=${2:-14}
[[ $keep =~ ^[1-9][0-9]*$ ]] || { echo "error: KEEP is '$keep'; it must be a number from 1 on" >&2; exit 2; }
: "${PREFECT_DATABASE_PASSWORD:?is not set: the password of the role prefect}"
: "${MLFLOW_DATABASE_PASSWORD:?is not set: the password of the role mlflow}"
: "${ARTIFACTS_BUCKET:?is not set: the name of the bucket}"

umask 077 # MLflow's users and their hashed passwords are in here
mkdir -p "$folder"
exec {lock}> "$folder/.lock"
flock --nonblock "$lock" || { echo "error: $folder: another back-up is on its way; wait for it" >&2; exit 1; }
finished() { # all back-ups that are whole, the oldest first
  find "$folder" -mindepth 2 -maxdepth 2 -name SHA256SUMS -printf '%h\n' | sort
}
earlier=$(finished | tail -n 1)
new=$folder/$(date --utc +%Y%m%dT%H%M%SZ)
mkdir "$new"
PGPASSWORD=$PREFECT_DATABASE_PASSWORD pg_dump --format custom --username prefect --file "$new/prefect.dump" prefect
export PGPASSWORD=$MLFLOW_DATABASE_PASSWORD
pg_dump --format custom --username mlflow --file "$new/mlflow.dump" mlflow
pg_dump --format custom --username mlflow --file "$new/mlflow_auth.dump" mlflow_auth
python "$here/bucket.py" save "$ARTIFACTS_BUCKET" --objects "$folder/objects" --list "$new/bucket.json" \
  ${earlier:+--earlier "$earlier/bucket.json"}
if [ -n "${BRICKROAD_WORKSPACE:-}" ]; then
  (cd "$BRICKROAD_WORKSPACE" && find . \( -name manifest.json -o -name tokenizer.json -o -name checkpoint.json \) -print0) |
    tar --create --gzip --directory "$BRICKROAD_WORKSPACE" --null --files-from - --file "$new/workspace.tar.gz"
fi
(cd "$new" && sha256sum -- * > .sums && mv .sums SHA256SUMS && sync .)
echo "backed up to $new"

kept=$(finished | tail -n "$keep")
find "$folder" -mindepth 1 -maxdepth 1 -type d -name '*T*Z' | while read -r old; do
  if ! grep --quiet --fixed-strings --line-regexp -- "$old" <<< "$kept"; then
    rm -f "$old/SHA256SUMS" # first: what is half removed is no back-up
    rm -r "$old"
  fi
done
python "$here/bucket.py" prune "$ARTIFACTS_BUCKET" --objects "$folder/objects" --backups "$folder"
