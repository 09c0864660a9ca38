"""`make cluster-lab`: a cluster whose machines are namespaces, from `ray up` to `ray down`. Its
study loses a worker on the way."""

import time
from collections import Counter
from collections.abc import Iterator
from typing import Any

import pytest

from tests.cluster.lab.cluster import FILE, REPO, bring_up, nodes, status, typed, wait_until
from tests.cluster.lab.hosts import LAPTOP, SHARED, Laboratory, unavailable
from tune.study.events import EventLog

pytestmark = [
    pytest.mark.slow,
    pytest.mark.timeout(1200),
    pytest.mark.skipif(bool(unavailable()), reason=f"no laboratory: {unavailable()}"),
]

WORKERS = ["w1", "w2"]
TRIALS = 4
MLFLOW = 5000  # on the head's loopback, with a password if its user wants one
REFUSALS = {
    "HTTP 401",
    "HTTP 403",
    "SSH",
    "gRPC UNAUTHENTICATED",
    "gRPC UNAUTHENTICATED, UNIMPLEMENTED",
}
SMALL = (
    "train.epoch_images=256",
    "train.epochs=6",
    "val.probe_steps=0",
    "head.hidden_size=256",
    "data.image_size=28",
)
STUDY = " ".join(
    ["--trials", str(TRIALS), "--repeats", "1", "--concurrent", "2", *(f"--set {s}" for s in SMALL)]
)
BEGAN = time.monotonic()


def say(what: str) -> None:
    print(f"{time.monotonic() - BEGAN:6.1f} s  {what}", flush=True)


@pytest.fixture(scope="module")
def lab(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Laboratory]:
    with Laboratory(tmp_path_factory.mktemp("cluster") / "lab", ["head", *WORKERS]) as lab:
        say("laptop, head and workers are up, with sshd")
        bring_up(lab, WORKERS)
        say(f"ray up: {nodes(lab)} nodes")
        yield lab


def events(lab: Laboratory, kind: str) -> list[dict[str, Any]]:
    log = lab.shared / "runs" / "lab" / "events.jsonl"
    return [e for e in EventLog.read(log)[0] if e["event"] == kind] if log.exists() else []


def busy(lab: Laboratory, name: str) -> bool:
    """True if a trial runs on this host."""
    return "ImplicitFunc" in lab[name].run(
        "cat /proc/[0-9]*/cmdline 2>/dev/null | tr '\\0' ' '", check=False
    )


def job(lab: Laboratory) -> str:
    return typed(lab, "ray job status lab-1", check=False)


def check_ports(lab: Laboratory) -> None:
    """Check that without the token every port of head and workers is closed or refuses, both from
    outside and, except for MLflow, from the head itself."""
    assert (status(lab, token=False), status(lab, token=True)) == ("401", "200")
    outside = [
        (f"{lab.address(name)}:{port}", ip)
        for name in ("head", *WORKERS)
        for ip, port in listening(lab, name)
    ]
    said = probe(lab, LAPTOP, [place for place, _ in outside])
    print(*(f"         {place} {answer}" for place, answer in sorted(said.items())), sep="\n")
    assert len(said) >= 15  # GCS, raylets, agents, workers
    assert f"{lab.address('head')}:6379" in said
    loopback = {place for place, ip in outside if ip.startswith("127.")}
    for place, answer in said.items():
        assert answer in REFUSALS or (place in loopback and answer == "closed"), (place, answer)
    inside = [
        f"127.0.0.1:{port}"
        for ip, port in listening(lab, "head")
        if port != MLFLOW and not ip.startswith("10.")
    ]
    assert set(probe(lab, "head", inside).values()) <= REFUSALS | {"closed"}
    # The same probe with the token succeeds, so the refusals are not a mistake of the probe.
    assert "OK" in probe(lab, LAPTOP, [f"{lab.address('head')}:6379"], token=True).popitem()[1]


def listening(lab: Laboratory, name: str) -> list[tuple[str, int]]:
    """Address and port of each listening TCP socket on a host."""
    places = [line.split()[3].rpartition(":") for line in lab[name].run("ss -tlnH").splitlines()]
    return sorted({(ip.strip("[]").removeprefix("::ffff:"), int(port)) for ip, _, port in places})


def probe(lab: Laboratory, name: str, places: list[str], token: bool = False) -> dict[str, str]:
    """Ask each address and port from a host, without the token unless `token`. Return the
    answers."""
    secret = "VISTUNE_PROBE_TOKEN=$(cat ~/.ray/auth_token)" if token else ""
    out = lab[name].run(
        f"cd {REPO} && {secret} ~/venv/bin/python -m tests.cluster.lab.probe "
        f"{' '.join(sorted(set(places)))}"
    )
    return dict(line.split(" ", 1) for line in out.splitlines())  # type: ignore[arg-type]


def test_a_study_survives_the_loss_of_a_worker(lab: Laboratory) -> None:
    command = f"python tune/run.py ssl --study lab --storage {SHARED}/runs {STUDY}"
    typed(
        lab,
        "ray job submit --no-wait --submission-id lab-1 --runtime-env cluster/job.yaml -- "
        f"{command}",
    )
    say("job submitted")
    wait_until(
        lambda: any(e["epoch"] > 1 for e in events(lab, "report")), 240, "a trial's second epoch"
    )
    check_ports(lab)  # again, now that trials' processes listen too
    say("every port refuses who has no token")
    victim = next(name for name in WORKERS if busy(lab, name))
    lab[victim].kill()
    at_loss = len(events(lab, "report"))
    say(f"{victim} lost after {at_loss} epochs")
    wait_until(lambda: "RUNNING" not in job(lab), 400, "the end of the study")
    assert "succeeded" in job(lab), typed(lab, "ray job logs lab-1", check=False)[-3000:]
    say(f"study finished: {len(events(lab, 'report'))} epochs")
    check_study(lab)
    assert any(e["attempt"] > 1 for e in events(lab, "start")), "the lost worker had nothing to do"
    assert events(lab, "finish")[-1]["state"] == "FINISHED"


def check_study(lab: Laboratory) -> None:
    """Assert that every trial ended once, and that each of its epochs is on record once, in
    order."""
    ends = Counter((e["trial"], e.get("repeat")) for e in events(lab, "end"))
    assert set(ends.values()) == {1}
    assert sorted(n for n, repeat in ends if repeat is None) == list(range(TRIALS))
    assert {e["state"] for e in events(lab, "end")} <= {"COMPLETE", "PRUNED"}
    for key in ends:
        epochs = [e["epoch"] for e in events(lab, "report") if (e["trial"], e.get("repeat")) == key]
        assert epochs == list(range(1, len(epochs) + 1))


def test_down_ends_ray_on_the_head(lab: Laboratory) -> None:
    typed(lab, f"ray down -y {FILE}")
    left = lab["head"].run("cat /proc/[0-9]*/cmdline 2>/dev/null | tr '\\0' ' '", check=False)
    assert "raylet" not in left
    say("ray down")
