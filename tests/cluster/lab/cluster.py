"""cluster-onprem.yaml on the hosts of a laboratory: filled in, brought up from the laptop, and used
through its tunnel."""

import json
import time
from collections.abc import Callable
from pathlib import Path

from tests.cluster.lab.hosts import HOME, LAPTOP, Laboratory

REPO = Path(__file__).parents[3]
FILE = f"{HOME}/cluster.yaml"
# Commands of the user run in the repository, with `ray` and `python` of the environment.
_HERE = (
    f"cd {REPO}; export PATH=~/venv/bin:$PATH RAY_AUTH_MODE=token "
    "RAY_API_SERVER_ADDRESS=http://127.0.0.1:8265 OMP_NUM_THREADS=1;"
)

_TOKEN = '-H "Authorization: Bearer $(cat ~/.ray/auth_token)"'


def fill_in(lab: Laboratory, workers: list[str]) -> str:
    """Fill in what the file's CHANGE lines ask for, and return its text."""
    text = (REPO / "cluster-onprem.yaml").read_text()
    values = {
        "CHANGE-head": lab.address("head"),
        "[CHANGE-worker]": json.dumps([lab.address(w) for w in workers]),
        "CHANGE-user": "root",
    }
    for placeholder, value in values.items():
        text = text.replace(placeholder, value)
    return text


def typed(lab: Laboratory, line: str, *, timeout: float = 300, check: bool = True) -> str:
    """Run a line on the laptop as its user does, and return the output."""
    return lab[LAPTOP].run(f"{_HERE} {line}", timeout=timeout, check=check)


def bring_up(lab: Laboratory, workers: list[str]) -> None:
    """Follow docs/cluster.md: token, check, `ray up`, tunnel."""
    typed(lab, f"cat > {FILE} <<'END'\n{fill_in(lab, workers)}\nEND")
    typed(lab, "ray get-auth-token --generate && chmod 600 ~/.ray/auth_token")
    typed(lab, f"make VENV={HOME}/venv -o {HOME}/venv/installed cluster-up CLUSTER={FILE}")
    lab[LAPTOP].start(f"{_HERE} ray dashboard {FILE}")
    wait_until(lambda: "200" in status(lab, token=True), 60, "the tunnel")
    wait_until(lambda: nodes(lab) == len(workers) + 1, 120, "the workers")


def status(lab: Laboratory, *, token: bool) -> str:
    """HTTP status of the jobs API through the tunnel."""
    header = _TOKEN if token else ""
    return typed(
        lab,
        f"curl -s -m 10 -o /dev/null -w '%{{http_code}}' {header} http://127.0.0.1:8265/api/jobs/",
        check=False,
    )


def nodes(lab: Laboratory) -> int:
    """Number of machines that Ray counts as alive."""
    said = typed(lab, f"curl -s -m 10 {_TOKEN} http://127.0.0.1:8265/api/v0/nodes", check=False)
    try:
        found = json.loads(said)["data"]["result"]["result"]
    except (ValueError, KeyError, TypeError):
        return 0
    return sum(node["state"] == "ALIVE" for node in found)


def wait_until(condition: Callable[[], bool], seconds: float, what: str) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, f"waited {seconds:.0f} s for {what} in vain"
        time.sleep(0.5)
