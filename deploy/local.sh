#!/usr/bin/env bash
# The servers of one Linux machine, as processes on loopback: PostgreSQL, Prefect and its worker, MLflow, the stream,
# Prometheus.
#
#     deploy/local.sh up        start what is not running, and wait until it answers
#     deploy/local.sh status    each: up or down, process, address, health; ends with 1 unless all are well
#     deploy/local.sh down      end what was started here, and nothing else
#
# Comes in: settings from the environment, below. Goes out: running servers; data, logs, process files and secrets in
# one folder. Read README.md beside this file first.

# shellcheck disable=SC2317  # start_postgres and the others are called by name
set -euo pipefail
umask 077
cd "$(dirname "${BASH_SOURCE[0]}")/.."

folder=${STATECAST_DEPLOY_FOLDER:-.statecast/deploy}      # data, logs, process files, secrets
data=${STATECAST_FOLDER:-.statecast}                      # the data folder, whose champion the stream serves
bin=${STATECAST_BIN:-.venv/bin}                           # where statecast, prefect and mlflow are
postgres_user=${STATECAST_POSTGRES_USER:-postgres}        # who runs PostgreSQL where this is run by root
postgres_port=${STATECAST_POSTGRES_PORT:-5432}
prefect_port=${STATECAST_PREFECT_PORT:-4200}
mlflow_port=${STATECAST_MLFLOW_PORT:-5000}
worker_port=${STATECAST_WORKER_PORT:-8081}
stream_port=${STATECAST_STREAM_PORT:-8080}
prometheus_port=${STATECAST_PROMETHEUS_PORT:-9090}
patience=${STATECAST_START_SECONDS:-180}                  # how long a server may take until it answers
grace=${STATECAST_STOP_SECONDS:-30}                       # how long a server may take to end

folder=$(realpath --canonicalize-missing "$folder")
logs=$folder/logs run=$folder/run secrets=$folder/secrets cluster=$folder/postgres

postgres_bin=(/usr/lib/postgresql/*/bin) # where Debian has it, beside the path
PATH=$PATH:${postgres_bin[-1]}

services=(postgres prefect mlflow worker stream prometheus)
declare -A port=(
    [postgres]=$postgres_port [prefect]=$prefect_port [mlflow]=$mlflow_port
    [worker]=$worker_port [stream]=$stream_port [prometheus]=$prometheus_port
)

fail() { printf 'error: %s\n' "$*" >&2; exit 1; }

# ---------------------------------------------------------------------------------------------------- processes

# when a process began, in ticks since the machine started: together with its number that names no other process.
# Nothing for one that has ended, though nobody has asked for its exit code
began() { sed 's/.*) //' "/proc/$1/stat" 2>/dev/null | awk '$1 != "Z" { print $20 }'; }

export -f began

alive() {
    local number start
    { read -r number start <"$run/$1"; } 2>/dev/null && [[ $(began "$number") == "$start" ]]
}

number_of() { cut -d ' ' -f 1 "$run/$1"; }

# everything that a server has started is of its session; a number is not given again while it names a session
members() {
    local number start now
    read -r number start <"$run/$1"
    now=$(began "$number")
    [[ -n $now && $now != "$start" ]] || ps -o pid=,stat= -s "$number" | awk '$2 !~ /^Z/ { print $1 }'
}

# start a command in a session of its own; it writes down who it is before it becomes the server
launch() {
    local name=$1
    shift
    if (: <>"/dev/tcp/127.0.0.1/${port[$name]}") 2>/dev/null; then
        fail "$name: port ${port[$name]} is taken by another program. Name another: STATECAST_${name^^}_PORT"
    fi
    # a shell without a terminal has its children ignore Ctrl-C, by which Prefect ends its worker
    # shellcheck disable=SC2016  # for the shell that becomes the server
    env --default-signal=INT,QUIT setsid \
        bash -c 'echo "$$ $(began $$)" >"$0.new" && mv "$0.new" "$0" && unset -f began && exec "$@"' \
        "$run/$name" "$@" >>"$logs/$name.log" 2>&1 </dev/null 9>&- &
}

stop() {
    local name=$1 signal=TERM left until=$((SECONDS + grace))
    [[ -e $run/$name ]] || return 0
    [[ $name == postgres ]] && signal=INT # it ends sessions, and does not wait for them
    if alive "$name"; then kill -s "$signal" "$(number_of "$name")" || true; fi
    while alive "$name" && ((SECONDS < until)); do sleep 0.1; done
    while mapfile -t left < <(members "$name") && ((${#left[@]})); do
        ((SECONDS < until + 10)) || fail "$name does not end: processes ${left[*]}"
        kill -s KILL "${left[@]}" 2>/dev/null || true
        sleep 0.1
    done
    rm -f "$run/$name"
    echo "$name ended"
}

# ------------------------------------------------------------------------------------------------------- health

answers() { curl --silent --fail --max-time 5 --output /dev/null "$1"; }

healthy() {
    local at=127.0.0.1:${port[$1]}
    case $1 in
        postgres) pg_isready --quiet --host 127.0.0.1 --port "$postgres_port" ;;
        prefect) answers "http://$at/api/ready" ;;
        mlflow | worker) answers "http://$at/health" ;;
        stream) answers "http://$at/readyz" ;;
        prometheus) answers "http://$at/-/ready" ;;
    esac
}

wait_for() {
    local name=$1 until=$((SECONDS + patience))
    while ! { [[ -e $run/$name ]] && healthy "$name"; }; do
        if [[ -e $run/$name ]] && ! alive "$name"; then
            fail "$name ended. The end of $logs/$name.log:"$'\n'"$(tail -n 20 "$logs/$name.log")"
        elif ((SECONDS >= until)); then
            fail "$name does not answer at 127.0.0.1:${port[$name]} after $patience s; raise STATECAST_START_SECONDS" \
                "or look at what it says. The end of $logs/$name.log:"$'\n'"$(tail -n 20 "$logs/$name.log")"
        fi
        sleep 0.2
    done
}

# the reason for which a service is not wanted here; nothing where it is
unwanted() {
    case $1 in
        stream) [[ -e $data/champions/champion.json ]] || echo "no champion yet in $data: retrain, then up again" ;;
        prometheus) command -v prometheus >/dev/null || echo "not installed" ;;
    esac
}

# ----------------------------------------------------------------------------------------------------- services

# PostgreSQL refuses to be run by root
owner=()
((EUID)) || owner=(setpriv --reuid="$postgres_user" --regid="$postgres_user" --clear-groups)

# a cluster appears as a whole, roles and databases in it; whoever has no password is refused, postgres itself always
make_cluster() {
    [[ -e $cluster ]] && return
    rm -rf "$cluster.new" "$folder/deployed.yaml"
    mkdir "$cluster.new"
    if ((EUID == 0)); then
        chown "$postgres_user" "$cluster.new"
        chmod a+x "$folder"
        "${owner[@]}" test -w "$cluster.new" ||
            fail "$folder: user $postgres_user, who is to run PostgreSQL, cannot enter it. Name a folder below those that" \
                "every user may enter: STATECAST_DEPLOY_FOLDER"
    fi
    "${owner[@]}" initdb --pgdata="$cluster.new" --username=postgres --auth-local=reject --auth-host=scram-sha-256 \
        --encoding=UTF8 --locale=C.UTF-8 >>"$logs/postgres.log" 2>&1 || fail "initdb failed: see $logs/postgres.log"
    "${owner[@]}" postgres --single -D "$cluster.new" postgres <"$secrets/databases.sql" >>"$logs/postgres.log" 2>&1
    mv "$cluster.new" "$cluster"
}

start_postgres() {
    make_cluster
    launch postgres "${owner[@]}" postgres -D "$cluster" -c listen_addresses=127.0.0.1 -c "port=$postgres_port" \
        -c unix_socket_directories=
}

# give a file of NAME=VALUE lines to what is started after it
reads() {
    set -a
    # shellcheck source=/dev/null
    . "$1"
    set +a
}

start_prefect() (
    reads "$secrets/prefect.env"
    export PREFECT_SERVER_DATABASE_CONNECTION_URL=postgresql+asyncpg://prefect@/prefect
    export PREFECT_SERVER_METRICS_ENABLED=true
    export PREFECT_SERVER_UI_API_URL=http://127.0.0.1:$prefect_port/api
    export PREFECT_SERVER_CORS_ALLOWED_ORIGINS=http://127.0.0.1:$prefect_port # the default lets every page ask
    launch prefect "$bin/prefect" server start --host 127.0.0.1 --port "$prefect_port"
)

start_mlflow() (
    reads "$secrets/mlflow.env"
    export MLFLOW_AUTH_CONFIG_PATH=$secrets/mlflow_auth.ini
    export MLFLOW_BASIC_AUTH_FAIL_CLOSED=true       # a route that has no rule is refused
    export MLFLOW_SERVER_ENABLE_JOB_EXECUTION=false # eight more processes, for what is not used here
    # the default of --allowed-hosts takes every name that begins with 10.
    launch mlflow "$bin/mlflow" server --host 127.0.0.1 --port "$mlflow_port" --workers 1 --app-name basic-auth \
        --backend-store-uri postgresql+psycopg://mlflow@/mlflow --artifacts-destination "$folder/artifacts" \
        --allowed-hosts "127.0.0.1:$mlflow_port,localhost:$mlflow_port"
)

start_worker() (
    reads "$folder/client.env"
    export PREFECT_WORKER_WEBSERVER_HOST=127.0.0.1 PREFECT_WORKER_WEBSERVER_PORT=$worker_port # the default is 0.0.0.0
    launch worker "$bin/prefect" worker start --pool statecast --type process --with-healthcheck
)

start_stream() {
    local warm=()
    [[ ! -e $data/prices/prices/manifest.json ]] || warm=(--warm)
    launch stream "$bin/statecast" serve --host 127.0.0.1 --port "$stream_port" --folder "$data" "${warm[@]}" \
        --token-file "$secrets/stream_token"
}

start_prometheus() {
    cp deploy/alerts.yml "$folder/prometheus/"
    sed -e "s|stream:8080|127.0.0.1:$stream_port|" -e "s|prefect:4200|127.0.0.1:$prefect_port|" \
        -e "s|/run/secrets/|$secrets/|" deploy/prometheus.yml >"$folder/prometheus/prometheus.yml"
    launch prometheus prometheus --web.listen-address="127.0.0.1:$prometheus_port" \
        --config.file="$folder/prometheus/prometheus.yml" --storage.tsdb.path="$folder/prometheus/data"
}

# deployments are made again when their file has changed: doing it each time would undo what was set by hand
deploy() {
    cmp --silent deploy/prefect.yaml "$folder/deployed.yaml" && return
    (
        reads "$folder/client.env"
        "$bin/prefect" --no-prompt deploy --all --prefect-file deploy/prefect.yaml >"$logs/deploy.log" 2>&1
    ) || fail "the flows could not be deployed. The end of $logs/deploy.log:"$'\n'"$(tail -n 20 "$logs/deploy.log")"
    cp deploy/prefect.yaml "$folder/deployed.yaml"
}

write_client() {
    {
        cat "$secrets/clients.env"
        echo "PREFECT_API_URL=http://127.0.0.1:$prefect_port/api"
        echo "MLFLOW_TRACKING_URI=http://127.0.0.1:$mlflow_port"
        echo DO_NOT_TRACK=true
    } >"$folder/client.env"
}

# ----------------------------------------------------------------------------------------------------- commands

begin() {
    [[ -n $(unwanted "$1") ]] || alive "$1" || { stop "$1" && "start_$1"; }
}

up() {
    local name
    for name in curl flock initdb pg_isready ps setsid "$bin/prefect" "$bin/mlflow" "$bin/statecast"; do
        command -v "$name" >/dev/null || fail "$name is not there. What is needed: deploy/README.md"
    done
    mkdir -p "$logs" "$run" "$folder"/{prefect,artifacts,prometheus}
    bash deploy/secrets.sh "$secrets"
    write_client
    export DO_NOT_TRACK=true PREFECT_SERVER_ANALYTICS_ENABLED=false PREFECT_HOME=$folder/prefect
    export PGHOST=127.0.0.1 PGPORT=$postgres_port PGPASSFILE=$secrets/pgpass
    begin postgres
    wait_for postgres
    for name in prefect mlflow prometheus stream; do begin "$name"; done
    wait_for prefect
    begin worker
    wait_for worker
    deploy
    for name in mlflow prometheus stream; do [[ -n $(unwanted "$name") ]] || wait_for "$name"; done
    status
    echo "for your own commands: set -a; . $folder/client.env; set +a"
}

down() {
    local at
    for ((at = ${#services[@]} - 1; at >= 0; at--)); do stop "${services[at]}"; done
}

status() {
    local name well=0 reason
    for name in "${services[@]}"; do
        reason=$(unwanted "$name")
        if alive "$name"; then
            if healthy "$name"; then reason=healthy; else reason="does not answer: $logs/$name.log" well=1; fi
            printf '%-10s  up    %7d  127.0.0.1:%-5d  %s\n' "$name" "$(number_of "$name")" "${port[$name]}" "$reason"
        else
            [[ -n $reason ]] || { reason="not running: $logs/$name.log" && well=1; }
            printf '%-10s  down        -  127.0.0.1:%-5d  %s\n' "$name" "${port[$name]}" "$reason"
        fi
    done
    return $well
}

# one at a time in a folder
alone() {
    mkdir -p "$folder"
    exec 9>"$folder/lock"
    flock --timeout 600 9 || fail "another deploy/local.sh is at work in $folder"
}

main() {
    case ${1:-} in
        up) alone && up ;;
        down) alone && down ;;
        status) status ;;
        *) fail "expected up, down or status: deploy/local.sh up" ;;
    esac
}

# one line: the file may be replaced by a newer one while this runs
main "$@"; exit
