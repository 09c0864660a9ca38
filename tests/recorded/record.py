"""Record what a version of vistune writes, as test data for `tests/test_recorded.py`.

    git worktree add /tmp/base 5d3a9ec
    python tests/recorded/record.py /tmp/base tests/recorded/5d3a9ec.tar.xz

Everything is made through the command line of the given tree, in minutes on one core: finished
studies of every experiment, the settings A to E, a study whose driver was killed within a trial,
MLflow's store of them all, and two exported models. The archive also has the commands that made
them (`commands.json`), the output of the reports and the epochs of the resumed trial (`said/`), and
the models' answers (`answers/`).

The storage has a fixed path, because MLflow's store holds absolute paths.
"""

import json
import os
import shutil
import signal
import subprocess
import sys
import tarfile
import time
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

ROOT = Path("/tmp/vistune-recorded")
STORAGE = ROOT / "runs"
SAID = ROOT / "said"
PATIENCE_S = 600

TINY = {
    "data.image_size": 8,
    "backbone.width": 8,
    "backbone.pool": 1,
    "train.epoch_images": 64,
    "train.epochs": 2,
}
BYOL = {
    **TINY,
    "val.probe_steps": 0,
    "head.hidden_size": 32,
    "head.projection_size": 16,
    "train.batch_size": 32,
}
EPISODES = {
    **TINY,
    "train.epoch_images": 60,
    "train.batch_size": 30,
    "episode.way": 5,
    "episode.query": 2,
    "val.way": 2,
    "val.query": 2,
}
MASKS = {**TINY, "data.image_size": 32, "train.epoch_images": 16, "train.batch_size": 8}
SLOW_EPOCHS = {**BYOL, "train.epoch_images": 512, "train.epochs": 6}
"""Long enough for a kill between two reports."""


def arguments(line: str, values: dict[str, Any]) -> list[str]:
    """The words of a command line, and a `--set` for each config value."""
    pins = [word for key, value in values.items() for word in ("--set", f"{key}={value}")]
    return [*line.split(), *pins]


_DIGITS = "--data digits --trials"
_IMAGES = "--data {root}/images --preset tiny --trials"
_WARM = "--study warm --warm-start ssl"

COMMANDS: dict[str, list[str]] = {
    "ssl": arguments(f"ssl {_DIGITS} 5 --repeats 1 --concurrent 1", BYOL),
    "pretrain": arguments(f"pretrain {_DIGITS} 2 --repeats 1 --local", TINY),
    "classify": arguments(f"classify {_DIGITS} 2 --repeats 2 --local", TINY),
    "segment": arguments(f"segment {_IMAGES} 2 --repeats 1 --local", MASKS),
    "fewshot": arguments(f"fewshot {_DIGITS} 2 --repeats 1 --local", EPISODES),
    "warm": arguments(f"ssl {_WARM} {_DIGITS} 3 --repeats 0 --local", BYOL),
    "killed": arguments(f"ssl --study killed {_DIGITS} 6 --repeats 1 --concurrent 1", SLOW_EPOCHS),
}
"""Study or group -> arguments of `tune/run.py`, except the storage. `{root}` is ROOT."""

EXPORTED = ["classify-B", "segment"]

PREDICT = """
import sys
import mlflow.pyfunc, numpy
model, path = mlflow.pyfunc.load_model(sys.argv[1]), sys.argv[2]
images = numpy.load(path)["images"]
numpy.savez_compressed(path, images=images, answers=numpy.asarray(model.predict(images)))
"""

UNNEEDED = (
    "*.lock",
    "__pycache__",
    "*embeddings-*.png",  # most of the bytes, and nothing reads pictures
    "repeat-*/best.pt",  # a repeat's results are in the event log
)
SNAPSHOTS = "*.npz"
"""Pictures are drawn from these at the end of a trial, or by the next start after a kill."""


class Tree:
    """The version to record: a checkout, and an environment for its commands."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder.resolve()
        cache = ROOT / "cache"
        self.environment = os.environ | {
            "PYTHONPATH": str(self.folder),
            "VISTUNE_CACHE": str(cache),
            "MLFLOW_DISABLE_TELEMETRY": "true",
        }
        self.environment.pop("MLFLOW_TRACKING_URI", None)

    def start(self, study: str, *more: str, storage: Path = STORAGE) -> "subprocess.Popen[bytes]":
        """Start a command of COMMANDS."""
        words = [word.replace("{root}", str(ROOT)) for word in COMMANDS[study]]
        command = [sys.executable, "tune/run.py", *words, *more, "--storage", str(storage)]
        print("$", *command, flush=True)
        return subprocess.Popen(command, cwd=self.folder, env=self.environment)

    def finish(self, study: str) -> None:
        """Run a command of COMMANDS to its end."""
        if code := self.start(study).wait(PATIENCE_S):
            raise SystemExit(f"{study} ended with {code}")

    def report(self, *words: str) -> str:
        """Run a command of `tune/report.py`, and return what it prints."""
        command = [sys.executable, "tune/report.py", *words, "--storage", str(STORAGE)]
        print("$", *command, flush=True)
        run = subprocess.run(
            command,
            cwd=self.folder,
            env=self.environment,
            stdout=subprocess.PIPE,
            text=True,
            check=True,
            timeout=PATIENCE_S,
        )
        return run.stdout


def make_images() -> None:
    """Make a few images with masks, as PNG, which decodes to the same pixels everywhere."""
    rng = np.random.default_rng(0)
    folder = ROOT / "images"
    for part, count in (("train", 12), ("val", 4)):
        for kind in ("images", "masks"):
            (folder / part / kind).mkdir(parents=True)

        for number in range(count):
            water = rng.integers(0, 2, (4, 4)).repeat(8, 0).repeat(8, 1)
            colours = np.where(water[..., None], (30, 60, 150), (40, 120, 50))
            pixels = colours + rng.integers(0, 99, (32, 32, 3))

            Image.fromarray(pixels.astype(np.uint8)).save(folder / part / f"images/{number}.png")
            Image.fromarray(water.astype(np.uint8)).save(folder / part / f"masks/{number}.png")
    (folder / "classes.txt").write_text("forest\nwater\n")


def events(study: str, storage: Path = STORAGE) -> list[dict[str, Any]]:
    """The complete lines of a study's event log."""
    log = storage / study / "events.jsonl"
    if not log.exists():
        return []
    lines = log.read_text().splitlines(keepends=True)
    return [json.loads(line) for line in lines if line.endswith("\n")]


def within_a_later_trial(study: str) -> int | None:
    """Number of a trial after trial 0 that has passed its first rung and has not ended, or None."""
    reports: dict[int, int] = {}
    for event in events(study):
        if "repeat" in event or not event.get("trial"):
            continue
        if event["event"] == "report":
            reports[event["trial"]] = event["epoch"]
        elif event["event"] == "end":
            reports.pop(event["trial"], None)
    return next((trial for trial, epoch in reports.items() if epoch >= 2), None)


def kill(tree: Tree, study: str) -> None:
    """SIGKILL the driver between two reports of a trial."""
    driver = tree.start(study)
    while within_a_later_trial(study) is None:
        if driver.poll() is not None:
            raise SystemExit(f"{study} ended before it could be killed; make its epochs longer")
        time.sleep(0.01)
    driver.send_signal(signal.SIGKILL)
    driver.wait()

    time.sleep(10)  # Ray's processes notice that their driver has died
    if within_a_later_trial(study) is None:
        raise SystemExit(f"{study} was killed too late; try again")


def resume(tree: Tree, study: str) -> None:
    """Record what the interrupted trial of a study reports when a copy of the study is resumed."""
    trial = within_a_later_trial(study)
    copied = ROOT / "resumed"
    shutil.copytree(STORAGE / study, copied / study)
    before = len(events(study))

    def heard() -> list[dict[str, Any]]:
        later = events(study, copied)[before:]
        return [event for event in later if event.get("trial") == trial and "repeat" not in event]

    driver = tree.start(study, "--local", storage=copied)
    while not any(event["event"] == "end" for event in heard()):
        if driver.poll() is not None:
            raise SystemExit(f"{study} ended with {driver.returncode} before trial {trial} had")
        time.sleep(0.1)
    driver.send_signal(signal.SIGINT)
    driver.wait()

    reports = [event for event in heard() if event["event"] == "report"]
    metrics = {event["epoch"]: event["metrics"] for event in reports}
    (SAID / f"{study}.json").write_text(json.dumps({"trial": trial, "reports": metrics}, indent=1))


def say(tree: Tree) -> None:
    """Record what the reports print about every study and the group."""
    for manifest in sorted(STORAGE.glob("*/study.json")):
        study = manifest.parent.name
        (SAID / f"{study}.txt").write_text(tree.report("show", study))
    (SAID / "table.txt").write_text(tree.report("table", "classify"))


def answer(tree: Tree) -> None:
    """Export models, and record their answers to images of noise."""
    answers = ROOT / "answers"
    answers.mkdir()
    for study in EXPORTED:
        print(tree.report("export", study))

        side = MASKS["data.image_size"] if study == "segment" else TINY["data.image_size"]
        images = np.random.default_rng(1).integers(0, 256, (4, side, side, 3), dtype=np.uint8)
        path = answers / f"{study}.npz"
        np.savez_compressed(path, images=images)

        model = str(STORAGE / study / "model")
        command = [sys.executable, "-c", PREDICT, model, str(path)]
        environment = tree.environment | {"PYTHONPATH": ""}  # the model contains its own code
        subprocess.run(command, cwd=ROOT, env=environment, check=True, timeout=PATIENCE_S)


def needed(entry: tarfile.TarInfo) -> tarfile.TarInfo | None:
    """Drop entries that nothing reads any more, and the owner of the others."""
    path = Path(entry.name)
    unneeded = any(path.match(pattern) for pattern in UNNEEDED)
    drawn = path.match(SNAPSHOTS) and path.parts[:2] != ("runs", "killed")
    if path.parts[0] == "runs" and (unneeded or drawn):
        return None
    entry.uid = entry.gid = 0
    entry.uname = entry.gname = ""
    return entry


def pack(archive: Path) -> None:
    """Pack everything except the image stores into one file."""
    with tarfile.open(archive, "w:xz", preset=9) as tar:
        for name in ("commands.json", "images", "runs", "said", "answers"):
            tar.add(ROOT / name, name, filter=needed)


def main() -> None:
    tree, archive = Tree(Path(sys.argv[1])), Path(sys.argv[2])
    shutil.rmtree(ROOT, ignore_errors=True)
    STORAGE.mkdir(parents=True)
    SAID.mkdir()
    make_images()
    (ROOT / "commands.json").write_text(json.dumps(COMMANDS, indent=1) + "\n")

    started = time.monotonic()
    for study in COMMANDS:
        if study == "killed":
            kill(tree, study)
        else:
            tree.finish(study)
        print(f"{study}: {time.monotonic() - started:.0f} s so far", flush=True)

    resume(tree, "killed")
    answer(tree)
    say(tree)

    pack(archive)
    print(f"{archive}: {archive.stat().st_size / 1e6:.1f} MB")


if __name__ == "__main__":
    main()
