#!/bin/bash
# MLflow on this machine's loopback, unless it already runs. Only the driver of a study talks to it, and the driver runs here too.
#   VISTUNE_MLFLOW_DIR          folder of database, artifacts, log and pid (~/mlflow)
#   VISTUNE_MLFLOW_DB           another database: postgresql://user:password@host/name
#   MLFLOW_TRACKING_PASSWORD    if set, MLflow asks for it, and for the user `admin`
set -eu
folder=${VISTUNE_MLFLOW_DIR:-$HOME/mlflow}
port=${VISTUNE_MLFLOW_PORT:-5000}
mkdir -p "$folder"
cd "$folder"
healthy() { curl -sf -o /dev/null --max-time 5 "http://127.0.0.1:$port/health"; }
if healthy; then exit 0; fi

# Without job runner and with one worker it is two processes; the pool is what many runs at once need.
export MLFLOW_SERVER_ENABLE_JOB_EXECUTION=false MLFLOW_DISABLE_TELEMETRY=true
export MLFLOW_SQLALCHEMYSTORE_POOL_SIZE=10 MLFLOW_SQLALCHEMYSTORE_MAX_OVERFLOW=80
options=()
umask 077
if [ -n "${MLFLOW_TRACKING_PASSWORD:-}" ]; then
  [ -s secret ] || head -c 32 /dev/urandom | base64 > secret
  MLFLOW_FLASK_SERVER_SECRET_KEY=$(cat secret)
  printf '[mlflow]\ndefault_permission = NO_PERMISSIONS\ndatabase_uri = sqlite:///%s/auth.db\nadmin_username = admin\nadmin_password = %s\n' \
    "$PWD" "$MLFLOW_TRACKING_PASSWORD" > auth.ini
  export MLFLOW_FLASK_SERVER_SECRET_KEY MLFLOW_AUTH_CONFIG_PATH=$PWD/auth.ini MLFLOW_AUTH_ADMIN_PASSWORD=$MLFLOW_TRACKING_PASSWORD
  options=(--app-name basic-auth)
fi
unset MLFLOW_TRACKING_URI
# Not as an argument: everyone on the machine can read arguments, and this may contain a password.
database=${VISTUNE_MLFLOW_DB:-sqlite:///$PWD/mlflow.db}
# The driver that is installed; which one SQLAlchemy takes by itself depends on its version.
export MLFLOW_BACKEND_STORE_URI=${database/#postgresql:/postgresql+psycopg2:}
setsid nohup mlflow server --host 127.0.0.1 --port "$port" -w 1 "${options[@]}" --artifacts-destination "file://$PWD/artifacts" \
  >> mlflow.log 2>&1 < /dev/null &
echo $! > pid
for _ in $(seq "${VISTUNE_MLFLOW_WAIT:-120}"); do
  if healthy; then exit 0; fi
  kill -0 "$(cat pid)" 2> /dev/null || break
  sleep 1
done
echo "MLflow does not answer on port $port: see $PWD/mlflow.log. Studies run without it; \`python tune/report.py sync\` brings it up to them" >&2
