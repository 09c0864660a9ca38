"""Small studies for tests: the toy's, run in this process or on Ray, the content of their logs, and
records of settings without running a trial."""

import shutil
import tempfile
from pathlib import Path
from typing import Any

from tests.toy import TOY, ToyConfig
from trainables.classifier import ClassifierConfig
from trainables.config import build, flatten
from tune.execution.local import search_locally
from tune.experiments import EXPERIMENTS, Experiment
from tune.search.space import as_json, describe
from tune.study.events import EventLog
from tune.study.manifest import Manifest
from tune.study.study import Study

Event = dict[str, Any]


POOR = {"optim.lr": 1e-3}
"""A default that other configurations beat on every kind of processor. Between two good ones,
rounding would decide."""


def manifest(**changes: Any) -> Manifest:
    base = flatten(build(ToyConfig, TOY.presets["tiny"] | changes.pop("base", {})))
    fields: dict[str, Any] = {
        "name": "toy",
        "experiment": "toy",
        "preset": "tiny",
        "objective": "val/top1",
        "seed": 0,
        "base": base,
        "pins": {},
        "space": as_json(describe(TOY.space, "tiny", {})),
        "data": {"name": "blobs", "fingerprint": "f", "path": "blobs", "images": 90},
    }
    return Manifest(**fields | changes)


def open_study(root: Path, trials: int, repeats: int = 0, **changes: Any) -> Study:
    return Study.open(root / "toy", TOY, manifest(**changes), trials=trials, repeats=repeats)


def finish(root: Path, trials: int, repeats: int = 0, **changes: Any) -> Study:
    study = open_study(root, trials, repeats, **changes)
    search_locally(study, TOY)
    study.close()
    return study


_RUN = tempfile.TemporaryDirectory(prefix="vistune-toy-")
_folders: dict[str, Path] = {}


def finished(root: Path, trials: int, repeats: int = 0, **changes: Any) -> Study:
    """Return a study as `finish` makes it, for tests of what comes afterwards. Equal studies are
    run once per process, and copied into `root`."""
    key = repr((trials, repeats, sorted(changes.items())))
    if key not in _folders:
        _folders[key] = Path(_RUN.name) / str(len(_folders))
        finish(_folders[key], trials, repeats, **changes)
    shutil.copytree(_folders[key] / "toy", root / "toy")
    study = open_study(root, trials, repeats, **changes)
    study.close()
    return study


def run_on_ray(
    folder: Path,
    experiment: Experiment,
    trials: int,
    base: dict[str, Any],
    observers: list[Any] | None = None,
) -> Study:
    from tune.execution.ray_tune import search

    about = manifest(base=base, space=as_json(describe(experiment.space, "tiny", {})))
    study = Study.open(folder, experiment, about, trials=trials, repeats=0, observers=observers)
    try:
        search(study, experiment, concurrent=2, gpus_per_worker=None)
    finally:
        study.close()
    return study


def events(root: Path) -> list[dict[str, Any]]:
    return EventLog.read(root / "toy" / "events.jsonl")[0]


def of_trial(study: Study, number: int, kind: str) -> list[Event]:
    """The events of one kind that a study's log has of a trial."""
    return [
        e
        for e in EventLog.read(study.directory / "events.jsonl")[0]
        if e["event"] == kind and e["trial"] == number
    ]


def reports(root: Path) -> dict[tuple[int, int | None, int], dict[str, float]]:
    found: dict[tuple[int, int | None, int], dict[str, float]] = {}
    for event in events(root):
        if event["event"] == "report":
            key = event["trial"], event.get("repeat"), event["epoch"]
            assert key not in found, f"reported twice: {key}"
            found[key] = {k: v for k, v in event["metrics"].items() if not k.startswith("time/")}
    return found


def write_setting(
    folder: Path,
    letter: str,
    scores: dict[int, list[float]],
    base: dict[str, Any] | None = None,
    images: str = "f",
    tested: dict[str, Any] | None = None,
    seed: int = 0,
    summary: dict[str, Any] | None = None,
) -> None:
    """Write a finished study of one setting whose trials were repeated with these test accuracies.
    Its values fall with the trial's number.

    Args:
        tested: outcomes of the test images of every repeat.
        summary: what was understood about its data.
    """
    base = flatten(build(ClassifierConfig, EXPERIMENTS["classify"].presets["tiny"])) | (base or {})
    manifest = Manifest(
        name=folder.name,
        experiment="classify",
        preset="tiny",
        objective="val/top1",
        seed=seed,
        base=base,
        pins={},
        space={"optim.lr": ["a range"]},
        data={
            "name": "glyphs",
            "fingerprint": images,
            "path": "glyphs",
            "images": 9,
            "summary": summary,
        },
    )
    folder.mkdir()
    manifest.reconcile_with(folder / "study.json")
    log = EventLog(folder / "events.jsonl")
    for trial, tests in scores.items():
        for seed, test in [(None, 0.0), *enumerate(tests)]:
            repeat: dict[str, Any] = {} if seed is None else {"repeat": seed}
            outcomes = {} if seed is None else {"tested": tested}
            log.append(
                "start",
                trial=trial,
                config=base | {"optim.lr": 0.1 + trial},
                attempt=1,
                resumed_epoch=None,
                **repeat,
            )
            log.append(
                "report",
                trial=trial,
                epoch=1,
                metrics={"val/top1": 0.9 - trial / 10, "time/epoch_s": 30.0},
                **repeat,
            )
            metrics = {"best/val/top1": 0.9 - trial / 10, "test/top1": test}
            log.append(
                "end",
                trial=trial,
                state="COMPLETE",
                value=0.9 - trial / 10,
                reason=None,
                metrics=metrics,
                error=None,
                **repeat,
                **outcomes,
            )
