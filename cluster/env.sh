# Environment of every node, sourced by ~/.bashrc: for Ray's processes, jobs, and everybody who logs in.
export PATH=~/venv/bin:$PATH
export RAY_AUTH_MODE=token RAY_USAGE_STATS_ENABLED=0
# Ray's three metrics exporters (for Prometheus) ask for no token and listen on all networks, so none of them starts.
export RAY_enable_metrics_collection=0 AUTOSCALER_METRIC_PORT=-1 DASHBOARD_METRIC_PORT=-1
export MLFLOW_TRACKING_URI=http://127.0.0.1:5000 MLFLOW_DISABLE_TELEMETRY=true
# The head's own, if there: VISTUNE_MLFLOW_DB, MLFLOW_TRACKING_USERNAME and MLFLOW_TRACKING_PASSWORD (docs/cluster.md).
if [ -f ~/mlflow/env ]; then set -a; . ~/mlflow/env; set +a; fi
