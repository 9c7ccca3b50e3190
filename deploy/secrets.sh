#!/usr/bin/env bash
# The secrets of the servers, each in a file that only its owner reads. A file that is there stays as it is.
#
#     deploy/secrets.sh FOLDER
#
# Comes in: a folder. Goes out: in it what the servers and their clients read. Used by local.sh; run by hand before
# `docker compose up`. No secret is printed, or given to a program as an argument.

set -euo pipefail
umask 077

folder=${1:?name a folder for the secrets: deploy/secrets.sh FOLDER}
mkdir -p "$folder"

# write standard input to a file as a whole, unless the file is there
made() {
    [[ -s $folder/$1 ]] && return
    cat >"$folder/$1.new"
    mv "$folder/$1.new" "$folder/$1"
}

random() { od -An -v -tx1 -N24 /dev/urandom | tr -d ' \n'; }
value() { cat "$folder/$1"; }

for name in postgres_superuser prefect_database mlflow_database prefect_api mlflow_admin mlflow_session stream_token; do
    made "$name" < <(random)
done

made databases.sql <<SQL
CREATE ROLE prefect LOGIN PASSWORD '$(value prefect_database)';
CREATE ROLE mlflow LOGIN PASSWORD '$(value mlflow_database)';
CREATE DATABASE prefect OWNER prefect;
CREATE DATABASE mlflow OWNER mlflow;
CREATE DATABASE mlflow_auth OWNER mlflow;
SQL
# read by libpq and asyncpg: no address of a database holds a password
made pgpass <<PGPASS
*:*:*:prefect:$(value prefect_database)
*:*:*:mlflow:$(value mlflow_database)
PGPASS
made prefect.env <<ENV
PREFECT_SERVER_API_AUTH_STRING=statecast:$(value prefect_api)
ENV
made mlflow.env <<ENV
MLFLOW_FLASK_SERVER_SECRET_KEY=$(value mlflow_session)
ENV
# no account may do what it was not given leave to; host and port of the database are those of PGHOST and PGPORT
made mlflow_auth.ini <<INI
[mlflow]
default_permission = NO_PERMISSIONS
database_uri = postgresql+psycopg://mlflow@/mlflow_auth
admin_username = statecast
admin_password = $(value mlflow_admin)
authorization_function = mlflow.server.auth:authenticate_request_basic_auth
INI
made clients.env <<ENV
PREFECT_API_AUTH_STRING=statecast:$(value prefect_api)
MLFLOW_TRACKING_USERNAME=statecast
MLFLOW_TRACKING_PASSWORD=$(value mlflow_admin)
ENV
