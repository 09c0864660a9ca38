"""Studies, event logs, MLflow's store and models of an earlier version work with this one.

`tests/recorded/5d3a9ec.tar.xz` is what commit 5d3a9ec wrote (`tests/recorded/record.py` made it).
Only the command line and the durable files are used here, as a user would, so the code may be
rearranged freely. VISTUNE_TREE names another checkout to test instead of this one.
"""

import contextlib
import csv
import json
import os
import re
import signal
import sqlite3
import subprocess
import sys
import tarfile
import time
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from tests import REPO

TREE = Path(os.environ.get("VISTUNE_TREE") or REPO).resolve()
ARCHIVE = REPO / "tests/recorded/5d3a9ec.tar.xz"
RECORDED_AT = "/tmp/vistune-recorded"
PATIENCE_S = 600  # a busy machine may need this for seconds of work
ENDED = ("COMPLETE", "PRUNED", "FAIL")

pytestmark = [pytest.mark.heavy, pytest.mark.timeout(900)]

Event = dict[str, Any]

SEVERAL_COMMANDS = """
import contextlib, io, json, runpy, sys

said = []
for words in json.loads(sys.argv[1]):
    sys.argv, out = words, io.StringIO()
    code = 0
    with contextlib.redirect_stdout(out):
        try:
            runpy.run_path(words[0], run_name="__main__")
        except SystemExit as end:
            code = end.code
    said.append([code or 0, out.getvalue()])
print(json.dumps(said))
"""
"""Run reading commands in one process, because imports would take most of the time of each."""

PREDICT = """
import json, sys
import mlflow, numpy

if sys.argv[1]:  # the code of a checkout is loaded already, as in a notebook beside it
    sys.path.insert(0, sys.argv[1])
    import trainables.served
    assert trainables.served.__file__.startswith(sys.argv[1])

mlflow.set_tracking_uri(sys.argv[2])
for model, images, answers in json.loads(sys.argv[3]):
    loaded = mlflow.pyfunc.load_model(model)
    numpy.save(answers, numpy.asarray(loaded.predict(numpy.load(images)["images"])))
"""


@dataclass(frozen=True)
class Recorded:
    """An unpacked copy of the archive."""

    root: Path

    @property
    def storage(self) -> Path:
        return self.root / "runs"

    @property
    def database(self) -> Path:
        return self.storage / "mlflow.db"

    @property
    def studies(self) -> list[str]:
        return sorted(path.parent.name for path in self.storage.glob("*/study.json"))

    def said(self, name: str) -> str:
        """Recorded output of the reports."""
        return (self.root / "said" / name).read_text()

    def log(self, study: str) -> Path:
        return self.storage / study / "events.jsonl"

    def events(self, study: str) -> list[Event]:
        """The complete lines of a study's event log."""
        lines = self.log(study).read_text().splitlines(keepends=True)
        return [json.loads(line) for line in lines if line.endswith("\n")]

    def command(self, study: str, *more: str) -> list[str]:
        """The command that the study or group was recorded with. If an option is given twice, the
        later one counts."""
        words = json.loads((self.root / "commands.json").read_text())[study]
        words = [word.replace("{root}", str(self.root)) for word in words]
        return ["tune/run.py", *words, *more, "--storage", str(self.storage)]

    def report(self, *words: str) -> list[str]:
        return ["tune/report.py", *words, "--storage", str(self.storage)]

    def start(self, words: list[str]) -> "subprocess.Popen[str]":
        """Start a command of the tree under test."""
        command = [sys.executable, str(TREE / words[0]), *words[1:]]
        return subprocess.Popen(
            command,
            cwd=self.root,
            env=environment(),
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )

    def finish(self, words: list[str], code: int = 0, patience_s: float = PATIENCE_S) -> str:
        """Run a command to its end, and return what it printed."""
        process = self.start(words)
        try:
            said, _ = process.communicate(timeout=patience_s)
        finally:
            process.kill()
        assert process.returncode == code, said
        return said

    def look(self, commands: list[list[str]]) -> list[str]:
        """Run commands that only read, and return what each printed."""
        scripts = [[str(TREE / words[0]), *words[1:]] for words in commands]
        run = subprocess.run(
            [sys.executable, "-c", SEVERAL_COMMANDS, json.dumps(scripts)],
            cwd=self.root,
            env=environment(),
            capture_output=True,
            text=True,
            check=False,
            timeout=PATIENCE_S,
        )
        assert run.returncode == 0, run.stderr
        found = json.loads(run.stdout.splitlines()[-1])
        assert [code for code, _ in found] == [0] * len(commands), run.stderr
        return [said for _, said in found]


def environment() -> dict[str, str]:
    """Environment in which imports come from the tree under test, also in subprocesses of its
    commands."""
    return os.environ | {"PYTHONPATH": str(TREE), "MPLBACKEND": "Agg"}


def unpack(root: Path) -> Recorded:
    """Unpack a copy of the recorded storage into `root`."""
    with tarfile.open(ARCHIVE) as tar:
        tar.extractall(root, filter="data")
    recorded = Recorded(root)
    move_store(recorded.database, RECORDED_AT, str(root))
    return recorded


def move_store(database: Path, before: str, now: str) -> None:
    """Replace the root in every path of an MLflow store.

    MLflow keeps absolute paths of experiments, runs, models and versions in its database. A user's
    storage stays where it was when the code is replaced. The studies' own files are left alone:
    they may name a former place of a backbone or of the data, and find it again.
    """
    with contextlib.closing(sqlite3.connect(database)) as store, store:
        tables = store.execute("SELECT name FROM sqlite_master WHERE type = 'table'").fetchall()
        for (table,) in tables:
            for _, column, kind, *_ in store.execute(f"PRAGMA table_info({table})").fetchall():
                if kind.startswith(("VARCHAR", "TEXT")):
                    moved = f"UPDATE {table} SET {column} = replace({column}, ?, ?)"
                    store.execute(f"{moved} WHERE instr({column}, ?)", (before, now, before))


@pytest.fixture
def recorded(tmp_path: Path) -> Recorded:
    return unpack(tmp_path)


@pytest.fixture(scope="module")
def untouched(tmp_path_factory: pytest.TempPathFactory) -> Recorded:
    """Share one copy among the tests that add nothing to a study."""
    return unpack(tmp_path_factory.mktemp("recorded"))


# -- reading output, logs and the store


def decimals(text: str) -> list[str]:
    """The numbers with a decimal point, whatever the text around them. Notes and the line on the
    chosen trial are left out, because they explain, and may be worded differently."""
    explained = ("note:", "* chosen:")
    said = [line for line in text.splitlines() if not line.startswith(explained)]
    return sorted(re.findall(r"[-+]?\d+\.\d+(?:e[-+]?\d+)?", "\n".join(said)))


def leaderboard(text: str) -> list[tuple[str, ...]]:
    """Trial, state, epochs and value in every row of `report.py show`."""
    found = re.findall(r"^ *(?:\* )?(\d+)  +(\w+) +(\d+) (?: *(\d\.\d+))?", text, re.MULTILINE)
    return [(trial, state if state in ENDED else "", *rest) for trial, state, *rest in found]


def ends(events: list[Event]) -> Counter[tuple[int, int | None]]:
    """Number of ends of each trial, or of its repeat under a seed."""
    return Counter((e["trial"], e.get("repeat")) for e in events if e["event"] == "end")


def epochs(events: list[Event], trial: int) -> dict[int, dict[str, float]]:
    """Epoch -> metrics of a trial. Assert that every epoch is on record once."""
    reports = [e for e in events if e["event"] == "report" and e["trial"] == trial]
    found = {e["epoch"]: e["metrics"] for e in reports if "repeat" not in e}
    assert len(found) == len([e for e in reports if "repeat" not in e])
    return found


def runs(database: Path) -> dict[str, dict[str, Any]]:
    """Id -> everything that MLflow's store has of a run."""
    with contextlib.closing(sqlite3.connect(database)) as store:
        found = store.execute("SELECT run_uuid, name, status, lifecycle_stage FROM runs")
        described = {run_id: {"run": rest} for run_id, *rest in found.fetchall()}
        for table, columns in (
            ("params", "key, value"),
            ("tags", "key, value"),
            ("metrics", "key, step, value, timestamp"),
        ):
            for run_id, run in described.items():
                query = f"SELECT {columns} FROM {table} WHERE run_uuid = ? ORDER BY 1, 2"
                run[table] = store.execute(query, (run_id,)).fetchall()
    return described


def run_kinds(database: Path, study: str) -> Counter[str]:
    """Number of runs of each kind that MLflow has of a study."""
    found = [dict(run["tags"]) for run in runs(database).values()]
    ids = {tags["study.id"] for tags in found if tags.get("mlflow.runName") == study}
    assert len(ids) == 1
    return Counter(tags["kind"] for tags in found if tags.get("study.id") in ids)


@contextlib.contextmanager
def appended_only(*files: Path) -> Iterator[None]:
    """Assert that the files keep their content, and grow."""
    before = [path.read_bytes() for path in files]
    yield
    for path, content in zip(files, before, strict=True):
        now = path.read_bytes()
        assert now.startswith(content), path
        assert len(now) > len(content), path


def wait_until(condition: Callable[[], bool], process: "subprocess.Popen[str]") -> None:
    """Wait for a condition while the process lives, for at most PATIENCE_S."""
    deadline = time.monotonic() + PATIENCE_S
    while not condition():
        assert process.poll() is None, process.communicate()[0]
        assert time.monotonic() < deadline
        time.sleep(0.05)


# -- reading


def test_reports_say_what_they_said(untouched: Recorded) -> None:
    studies = untouched.studies
    assert len(studies) == 11
    table = untouched.storage / "classify/table.csv"
    numbers = list(csv.reader(table.open()))

    commands = [untouched.report("show", study) for study in studies]
    commands.append(untouched.report("table", "classify"))
    pages = ["ssl", "killed", "classify"]
    commands += [untouched.report("html", page) for page in pages]
    said = untouched.look(commands)

    for study, now in zip(studies, said, strict=False):
        then = untouched.said(f"{study}.txt")
        assert leaderboard(now) == leaderboard(then) != [], study
        size = re.search(r"^on disk: .*$", now, re.MULTILINE)
        assert size is not None, study
        assert decimals(now.replace(size[0], "")) == decimals(then), study

    assert decimals(said[len(studies)]) == decimals(untouched.said("table.txt"))
    assert len(numbers) == 1 + 5 + 4
    for row, was in zip(csv.reader(table.open()), numbers, strict=True):
        assert [as_number(cell) for cell in row] == [as_number(cell) for cell in was]

    for page in pages:
        html = (untouched.storage / page / "report.html").read_text()
        values = measured(untouched.said("table.txt" if page == "classify" else f"{page}.txt"))
        assert values
        assert [value for value in values if value not in html] == [], page


def measured(said: str) -> list[str]:
    """The metric of every trial in `report.py show`, or of every setting of a table."""
    rows = leaderboard(said)
    if rows:
        return [value for *_, value in rows if value]
    return re.findall(r"^[A-E]: .*?(\d\.\d+)", said, re.MULTILINE)


def as_number(cell: str) -> Any:
    """A cell of a table: text, or a number whose last digit may differ with the processor."""
    try:
        return pytest.approx(float(cell), rel=1e-9)
    except ValueError:
        return cell


def test_mlflow_is_sent_nothing_twice(untouched: Recorded) -> None:
    """The kill came before the last report of `killed` was sent."""
    before = runs(untouched.database)
    first, second = untouched.look([untouched.report("sync")] * 2)
    assert events_sent(first) == dict.fromkeys(untouched.studies, 0) | {"killed": 1}
    assert events_sent(second) == dict.fromkeys(untouched.studies, 0)

    now = runs(untouched.database)
    assert now.keys() == before.keys()
    more = {run_id for run_id, run in now.items() if run != before[run_id]}
    assert {dict(now[run_id]["tags"])["study"] for run_id in more} == {"killed"}
    for run_id in more:
        assert set(now[run_id]["metrics"]) >= set(before[run_id]["metrics"])


def events_sent(said: str) -> dict[str, int]:
    """Study -> number of events that `report.py sync` has sent."""
    found = re.findall(r"^(\S+): (\d+) events", said, re.MULTILINE)
    return {study: int(count) for study, count in found}


@pytest.mark.parametrize(
    "loaded",
    [
        pytest.param(str(TREE), id="code of the tree"),
        pytest.param("", id="code in the model", marks=pytest.mark.slow),
    ],
)
def test_exported_models_answer_as_they_did(
    untouched: Recorded, tmp_path: Path, loaded: str
) -> None:
    """One is loaded from its study's folder, one from the registry."""
    models = {
        "classify-B": str(untouched.storage / "classify-B/model"),
        "segment": "models:/segment@champion",
    }
    wanted = [
        (model, str(untouched.root / f"answers/{study}.npz"), str(tmp_path / f"{study}.npy"))
        for study, model in models.items()
    ]

    store = f"sqlite:///{untouched.database}"
    subprocess.run(
        [sys.executable, "-c", PREDICT, loaded, store, json.dumps(wanted)],
        cwd=tmp_path,
        env=environment() | {"PYTHONPATH": ""},
        check=True,
        timeout=PATIENCE_S,
    )

    for _, noise, answers in wanted:
        then, now = np.load(noise)["answers"], np.load(answers)
        if then.dtype == np.uint8:  # class numbers: a pixel between two classes may differ
            assert now.shape == then.shape == (4, 32, 32)
            assert (now == then).mean() > 0.999
        else:
            assert now.shape == then.shape == (4, 10)
            np.testing.assert_allclose(now, then, rtol=1e-5)


# -- resuming


@pytest.mark.parametrize("study", ["ssl", pytest.param("classify", marks=pytest.mark.slow)])
def test_another_configuration_is_refused(untouched: Recorded, study: str) -> None:
    folders = sorted(untouched.storage.glob(f"{study}*/"))
    names = ("study.json", "study.journal", "events.jsonl")
    files = [path for folder in folders for name in names for path in folder.glob(name)]
    before = {path: path.read_bytes() for path in files}
    said = untouched.finish(
        untouched.command(study, "--set", "schedule.step_every_frac=0.77"), code=2
    )
    assert "schedule.step_every_frac" in said
    assert "0.77" in said
    assert {path: path.read_bytes() for path in files} == before


def test_killed_trial_resumes_from_its_checkpoint(recorded: Recorded) -> None:
    expected = json.loads(recorded.said("killed.json"))
    trial, before = expected["trial"], recorded.events("killed")
    done = max(epochs(before, trial))
    mark(recorded.storage / f"killed/trials/{trial:04d}/last.pt")

    def has_ended() -> bool:
        return ends(recorded.events("killed"))[trial, None] > 0

    with appended_only(recorded.log("killed"), recorded.storage / "killed/study.journal"):
        process = recorded.start(recorded.command("killed", "--local", "--pictures", "none"))
        try:
            wait_until(has_ended, process)
            process.send_signal(signal.SIGINT)
            said, _ = process.communicate(timeout=PATIENCE_S)
        finally:
            process.kill()
    assert process.returncode == 130, said

    events = recorded.events("killed")
    begun = [e for e in events if e["event"] == "start" and e["trial"] == trial]
    assert [(e["attempt"], e["resumed_epoch"]) for e in begun] == [(1, None), (2, done)]
    assert {e["trial"] for e in events[len(before) :] if e["event"] == "start"} >= {trial}
    check_resumed_epochs(recorded, expected, marked=done + 1)


def mark(checkpoint: Path) -> None:
    """Make the first epoch after the checkpoint report a loss that is greater by 1.

    A trial that began anew would report the same, bit for bit, as one that resumed, only later. The
    mark shows that the checkpoint was read.
    """
    saved = torch.load(checkpoint, weights_only=True)
    assert saved["progress"]["loss_sum"] == 0.0
    saved["progress"]["loss_sum"] = 512 / 32  # 1 for each of the epoch's steps
    torch.save(saved, checkpoint)


def check_resumed_epochs(
    recorded: Recorded, expected: dict[str, Any], marked: int | None = None
) -> None:
    """Check that the trial reports what it did under the version that began it, up to rounding on
    another processor."""
    resumed = epochs(recorded.events("killed"), expected["trial"])
    for epoch, then in expected["reports"].items():
        now = resumed[int(epoch)]
        assert now.keys() == then.keys()
        assert now["train/lr"] == pytest.approx(then["train/lr"], rel=1e-9)

        loss = now["train/loss"] - (int(epoch) == marked)
        assert loss == pytest.approx(then["train/loss"], rel=0.02)


def extend(recorded: Recorded, study: str, trials: int, *more: str) -> None:
    """Run the study's command again with more trials, and check everything that the study has
    then."""
    before, old_events = runs(recorded.database), recorded.events(study)
    kinds = run_kinds(recorded.database, study)
    with appended_only(recorded.log(study), recorded.storage / study / "study.journal"):
        recorded.finish(recorded.command(study, "--trials", str(trials), *more), patience_s=1500)
    check_extended(recorded, study, trials, len(old_events), before, kinds)


def check_extended(
    recorded: Recorded,
    study: str,
    trials: int,
    old_events: int,
    before: dict[str, dict[str, Any]],
    kinds: Counter[str],
) -> None:
    events = recorded.events(study)
    ended = ends(events)
    assert set(ended.values()) == {1}
    assert sorted(trial for trial, repeat in ended if repeat is None) == list(range(trials))
    *_, last = [event for event in events[old_events:] if event["event"] != "artifact"]
    assert (last["event"], last["state"]) == ("finish", "FINISHED")  # pictures may come later

    again = {(e["trial"], e.get("repeat")) for e in events[old_events:] if e["event"] == "start"}
    assert not again & ends(events[:old_events]).keys()

    now = runs(recorded.database)
    assert now.keys() > before.keys()
    for run_id, run in before.items():
        if dict(run["tags"])["kind"] != "study":  # a study's run gets a new verdict
            old = [row for row in now[run_id]["metrics"] if row in run["metrics"]]
            assert old == run["metrics"]
    found = run_kinds(recorded.database, study)
    assert found["study"] == 1
    assert found["trial"] == trials > kinds["trial"] - 1
    assert found["repeat"] == len([key for key in ended if key[1] is not None])


@pytest.mark.slow
@pytest.mark.timeout(3000)
@pytest.mark.parametrize(
    ("study", "trials"), [("ssl", 7), ("pretrain", 3), ("segment", 3), ("fewshot", 3), ("warm", 4)]
)
def test_finished_studies_are_extended(recorded: Recorded, study: str, trials: int) -> None:
    """`ssl` runs on Ray, and `warm` began with the best of another study."""
    extend(recorded, study, trials)
    recorded.look([recorded.report("html", study)])
    if study != "segment":  # its images must be where they were when the trial ran
        recorded.finish(recorded.report("export", study))


@pytest.mark.slow
@pytest.mark.timeout(3000)
def test_killed_study_resumes_under_ray(recorded: Recorded) -> None:
    """Run the very command that was killed, to its end."""
    expected = json.loads(recorded.said("killed.json"))
    extend(recorded, "killed", 6)
    check_resumed_epochs(recorded, expected)
    begun = [e for e in recorded.events("killed") if e["event"] == "start"]
    attempts = Counter((e["trial"], e.get("repeat")) for e in begun)
    assert attempts.pop((expected["trial"], None)) == 2
    assert set(attempts.values()) == {1}


@pytest.mark.slow
@pytest.mark.timeout(3000)
def test_settings_a_to_e_are_extended(recorded: Recorded) -> None:
    """Each continues with the backbone that it began with, and the table is made anew."""
    settings = [study for study in recorded.studies if study.startswith("classify-")]
    assert len(settings) == 5
    before = runs(recorded.database)
    kinds = {study: run_kinds(recorded.database, study) for study in settings}
    old = {study: len(recorded.events(study)) for study in settings}

    logs = [recorded.log(study) for study in (*settings, "classify")]
    with appended_only(*logs):
        recorded.finish(recorded.command("classify", "--trials", "3"), patience_s=2400)

    for study in settings:
        check_extended(recorded, study, 3, old[study], before, kinds[study])
    rows = list(csv.DictReader((recorded.storage / "classify/table.csv").open()))
    assert [row["trials"] for row in rows[:5]] == ["3"] * 5
