#!/usr/bin/env bash
# What the servers must know before workers start: MLflow's user, Prefect's work pools, the deployments. Safe to run again.
#
# Wants PREFECT_API_URL, PREFECT_API_AUTH_STRING, MLFLOW_TRACKING_URI and the passwords that users.py wants.
set -euo pipefail
cd "$(dirname "$0")/.."
python deploy/users.py
pools=$(python -c '
import yaml
print(*sorted({one["work_pool"]["name"] for one in yaml.safe_load(open("prefect.yaml"))["deployments"]}))')
for pool in $pools; do
  prefect --no-prompt work-pool create "$pool" --type process --overwrite
done
case " $pools " in
  *" gpu "*) prefect --no-prompt work-pool update gpu --concurrency-limit 1 ;; # one training has the device
esac
prefect --no-prompt deploy --all
