#!/usr/bin/env bash
# Roles and databases of Prefect and MLflow. Safe to run again: it then sets the passwords anew, which is how they are changed.
#
# Wants PGHOST, PGPORT, PGUSER and PGPASSWORD of a superuser, and the two passwords by name. None is ever an argument.
set -euo pipefail
: "${PREFECT_DATABASE_PASSWORD:?is not set: the password of the role prefect}"
: "${MLFLOW_DATABASE_PASSWORD:?is not set: the password of the role mlflow}"

psql --no-psqlrc --quiet --set ON_ERROR_STOP=1 --dbname postgres <<'SQL'
SET log_min_error_statement = panic; -- a statement that fails is not to stand in the server's log with its password
\getenv prefect_password PREFECT_DATABASE_PASSWORD
\getenv mlflow_password MLFLOW_DATABASE_PASSWORD
SELECT format('CREATE ROLE %I LOGIN', name) FROM unnest(ARRAY['prefect', 'mlflow']) AS name
  WHERE NOT EXISTS (SELECT FROM pg_roles WHERE rolname = name) \gexec
ALTER ROLE prefect PASSWORD :'prefect_password';
ALTER ROLE mlflow PASSWORD :'mlflow_password';
SELECT format('CREATE DATABASE %I OWNER %I', name, owner)
  FROM (VALUES ('prefect', 'prefect'), ('mlflow', 'mlflow'), ('mlflow_auth', 'mlflow')) AS wanted (name, owner)
  WHERE NOT EXISTS (SELECT FROM pg_database WHERE datname = name) \gexec
REVOKE CONNECT ON DATABASE prefect, mlflow, mlflow_auth FROM PUBLIC; -- an owner needs no grant
SQL
echo "databases prefect, mlflow and mlflow_auth are ready"
