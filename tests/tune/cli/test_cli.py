"""The command line: what it refuses (in one line, before anything runs), what it leaves behind,
`--local`, `--plan` and replay."""

import dataclasses
import json
import os
import pty
import re
import subprocess
import sys
import textwrap
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from tests import REPO
from tests.commands import LOCAL_TOY, NO_SERVER, SCRIPT, Call, left_in
from tests.disks import fill, small_disk
from tests.studies import finished, reports
from trainables.errors import UserError
from tune.backbones.resolve import find
from tune.cli.options import PANELS, Options, option_parameters
from tune.command_line import command, replay_command
from tune.study.events import EventLog
from tune.study.kept_files import retrained_value
from tune.study.log_state import read_state
from vistune import __version__

WRONG = {
    "sll": "'sll' (a file of your own ends in .py); did you mean 'ssl'?",
    "ssl --set optim.lrr=1": "unknown config key 'optim.lrr'; did you mean 'optim.lr'?",
    "ssl --set lr=0.1": "unknown config key 'lr'; did you mean 'optim.lr'?",
    "ssl --set rate=1": "unknown config key 'rate'; valid: ",
    "ssl --set optim=1": "unknown config key 'optim'",
    "ssl --set optim.lr=-1": "optim.lr='-1' is not valid: must be greater than 0",
    "ssl --set optim.lr=fast": "optim.lr='fast' is not valid: must be a valid number",
    "ssl --set optim.lr=nan": "optim.lr='nan' is not valid: must be a finite number",
    "ssl --set optim.name=sdg": (
        "optim.name='sdg' is not valid: must be 'sgd', 'adamw', 'lars' or 'adam'"
    ),
    "ssl --set train.epochs=0": "train.epochs='0' is not valid: must be greater than or equal to 1",
    "ssl --set train.epochs=1.5": "train.epochs='1.5' is not valid: must be a valid integer",
    "ssl --set optim.nesterov=true": (
        "optim: nesterov=True needs name='sgd' and momentum > 0, got name='adamw'"
    ),
    "ssl --set optim.lr": "--set 'optim.lr' must be KEY=VALUE, such as --set optim.lr=0.1",
    "ssl --set seed=3": "--set seed: use --seed 3",
    "ssl --set data.name=digits": "--set data.name: use --data digits",
    "ssl --preset tiney": "unknown preset 'tiney'; did you mean 'tiny'?",
    "ssl --time-budget soon": (
        "--time-budget 'soon' must be a number with s, m or h, such as 90s, 30m or 2h"
    ),
    "ssl --time-budget 0s": "--time-budget '0s' must be",
    "ssl --study ../elsewhere": "--study '../elsewhere' must be letters, digits",
    "ssl --workers 2 --local": "--workers 2 with --local, which is one process",
    "ssl --workers 2 --gpus-per-worker 0.5": (
        "--gpus-per-worker 0.5: each of --workers 2 needs a GPU of its own"
    ),
    "ssl --gpus-per-worker 1.5": (
        "--gpus-per-worker 1.5 must be 0, a share of one GPU such as 0.5, or a whole number of them"
    ),
    "ssl --gpus-per-worker 0.00001": "--gpus-per-worker 1e-05 must be 0",
    "classify --setting D --batch-trials 8 --concurrent 4": (
        "--concurrent 4 with --batch-trials 8, which trains as many in one process, on one device"
    ),
    "classify --setting D --batch-trials 8 --gpus-per-worker 0.5": (
        "--gpus-per-worker 0.5 with --batch-trials 8"
    ),
    "ssl --batch-trials 8": (
        "--batch-trials 8: trials of 'ssl' cannot train as one, as they train more than a head: "
        "leave it out"
    ),
    "ssl --workers 33": "--workers 33: each needs 2 images of a batch",
    "fewshot --workers 2": (
        "--workers 2: each needs 2 images of a batch (few-shot: an episode) and 1 of the "
        "validation and the test split; "
        "use at most 1, or a larger train.batch_size"
    ),
    "pretrain --data digits --objective val/macro_f": (
        "--objective val/macro_f cannot select here; did you mean 'val/macro_f1'?"
    ),
    "ssl --balance": "--balance is for pretrain and classify, which learn from labels; ssl has",
    "pretrain --set train.objective=val/top1": "--set train.objective: use --objective val/top1",
    "ssl --storage hdfs://bucket": "--storage hdfs://bucket: use a folder, or s3://bucket/prefix",
    "ssl --study mlflow.db": "--study 'mlflow.db' belongs to the storage itself; choose another",
    "ssl --storage a?b": "MLflow's database cannot be in a path with ?; use another folder",
    "ssl --storage a%20b": "MLflow's database cannot be in a path with %20; use another folder",
    f"ssl --study {'x' * 201}": "has 201 characters: use at most 200",
    "ssl --storage ~nobody-at-all/runs": "--storage ~nobody-at-all/runs: Could not determine home",
    "ssl --local --data ~nobody-at-all/images": "Could not determine home directory: use a path",
    "ssl --study archived": "--study 'archived' belongs to the storage itself",
    "ssl --trial ssl/3": "--trial ssl/3 replays a trial in this process: add --local",
    "ssl --local --trial ssl": "--trial 'ssl' must be STUDY/NUMBER, such as --trial ssl/3",
    "ssl --local --trial ssl/²": "--trial 'ssl/²' must be STUDY/NUMBER",
    "ssl --local --trial ssl/3": "no trial 3 on record in ",
    "ssl --data /no/such/folder": (
        "'/no/such/folder' is neither an embedded set nor an existing folder"
    ),
    "ssl --data glyps": "is neither an embedded set nor an existing folder",
    "ssl --trials 0": "--trials '0' must be greater than or equal to 1",
    "ssl --seed 4294967296": "--seed '4294967296' must be less than or equal to 4294967295",
    "ssl --searches three": "--searches 'three' must be a valid integer; `",
    "ssl --trails 3": "No such option: --trails",
    "": "Missing argument 'experiment'; `",
}


@pytest.mark.parametrize(
    "option",
    ["--data", "--storage", "--study", "--backbone", "--warm-start", "--preset", "--time-budget"],
)
def test_a_variable_of_the_shell_that_is_not_set(call: Call, tmp_path: Path, option: str) -> None:
    """With `--data "$IMAGES"` the empty value must not mean the current folder."""
    said = call("ssl", option, "")
    assert (said.code, said.out) == (2, "")
    assert said.line == f"{option} is empty: give a value, or leave it out"
    assert left_in(tmp_path) == {}


def test_a_wrong_option_is_followed_by_the_command_that_lists_them(call: Call) -> None:
    lists = f"`{command('run', '--help')}` lists the options"
    assert call().line == f"Missing argument 'experiment'; {lists}"
    assert call("ssl", "--trails", "3").line.endswith(lists)


def test_the_version_is_printed(call: Call) -> None:
    said = call("--version")
    assert (said.code, said.out, said.err) == (0, f"vistune {__version__}\n", "")


def test_blanks_around_a_key_are_no_way_round_its_option(call: Call) -> None:
    said = call("ssl", "--set", " seed = 3")
    assert (said.code, said.line) == (2, "--set seed: use --seed 3")


@pytest.mark.parametrize(("words", "expected"), WRONG.items())
def test_wrong_use_is_one_line_and_leaves_nothing(
    call: Call, tmp_path: Path, words: str, expected: str
) -> None:
    said = call(*words.split())
    assert expected in said.line
    assert (said.code, said.out) == (2, "")
    assert left_in(tmp_path) == {}


def image(path: Path, seed: int = 0) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.random.default_rng(seed).integers(0, 256, (12, 12, 3), np.uint8)).save(path)


def empty(folder: Path) -> str:
    return "contains no images"


def a_file(folder: Path) -> str:
    folder.rmdir()
    image(folder.with_suffix(".png"))
    folder.with_suffix(".png").rename(folder)
    return "is a file, not a folder"


def csv_that_is_no_text(folder: Path) -> str:
    image(folder / "train/a.png")
    (folder / "train.csv").write_bytes(bytes(range(256)))
    return "train.csv"


def csv_without_labels(folder: Path) -> str:
    image(folder / "train/a.png")
    (folder / "train.csv").write_text("name,price\na.png,3\n")
    return "train.csv"


def labels_without_files(folder: Path) -> str:
    image(folder / "train/a.png")
    (folder / "train.csv").write_text("filename,label\na.png,cat\nb.png,dog\n")
    return "train.csv names 1 file that is not in"


def files_that_are_no_images(folder: Path) -> str:
    for number in range(12):
        image(folder / f"{number}.png", number)
    (folder / "3.png").write_bytes(b"")
    (folder / "5.png").write_bytes((folder / "5.png").read_bytes()[:100])
    return "2 of 12 images"


def too_few(folder: Path) -> str:
    image(folder / "a.png")
    return "too small"


FOLDERS = [
    empty,
    a_file,
    csv_that_is_no_text,
    csv_without_labels,
    labels_without_files,
    files_that_are_no_images,
    too_few,
]


@pytest.mark.parametrize("make", FOLDERS, ids=lambda make: make.__name__)
def test_unusable_folders_are_one_line(
    call: Call, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, make: Callable[[Path], str]
) -> None:
    monkeypatch.setenv("VISTUNE_CACHE", str(tmp_path / "cache"))
    (tmp_path / "data").mkdir()
    expected = make(tmp_path / "data")
    said = call("ssl", "--data", "data", "--preset", "tiny")
    assert expected in said.line
    assert str(tmp_path / "data") in said.line
    assert (said.code, said.out) == (2, "")
    assert not (tmp_path / "runs").exists()


def test_a_changed_config_under_an_old_name(call: Call, tmp_path: Path) -> None:
    assert call(*LOCAL_TOY, "2").code == 0
    before = left_in(tmp_path / "runs")
    said = call(*LOCAL_TOY, "3", "--set", "train.epochs=5")
    assert "study 'toy' exists with another configuration: train.epochs was 4, is 5" in said.line
    assert "--study toy-2" in said.line
    assert said.code == 2
    assert left_in(tmp_path / "runs") == before
    assert call(*LOCAL_TOY, "3", "--set", "train.epochs=5", "--study", "toy-2").code == 0
    assert call(*LOCAL_TOY, "3").code == 0  # the study resumes as it was


def test_a_study_that_runs_elsewhere(call: Call) -> None:
    assert call(*LOCAL_TOY, "1").code == 0
    holder = subprocess.Popen(
        [
            sys.executable,
            "-c",
            "import filelock, time; lock = filelock.FileLock('runs/toy/.lock'); lock.acquire(); "
            "print('held', flush=True); time.sleep(60)",
        ],
        stdout=subprocess.PIPE,
    )
    try:
        assert holder.stdout is not None
        assert holder.stdout.readline() == b"held\n"
        said = call(*LOCAL_TOY, "2")
        assert "study 'toy' is being run by another process" in said.line
        assert said.code == 2
    finally:
        holder.kill()
        holder.wait()


@pytest.mark.parametrize("storage", ["/proc/vistune", "a-file/runs"])
def test_a_storage_that_cannot_be_written(call: Call, tmp_path: Path, storage: str) -> None:
    (tmp_path / "a-file").write_text("")
    said = call(*LOCAL_TOY, "1", "--storage", storage)
    assert "cannot write to" in said.line
    assert storage in said.line
    assert "choose another place with --storage" in said.line
    assert (said.code, said.out) == (2, "")


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Path]:
    with small_disk(tmp_path / "disk") as place:
        yield place


def test_a_disk_that_is_full_at_the_start(call: Call, disk: Path) -> None:
    fill(disk)
    said = call(*LOCAL_TOY, "2", "--storage", str(disk))
    assert "No space left on device" in said.line
    assert (said.code, said.out) == (2, "")
    (disk / "filler").unlink()
    assert call(*LOCAL_TOY, "2", "--storage", str(disk)).code == 0


@pytest.mark.parametrize("after", [2, 3, 5, 12])
def test_a_disk_that_fills_up_in_the_middle(
    call: Call, disk: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, after: int
) -> None:
    append, count = EventLog.append, 0

    def appended(self: EventLog, event: str, **fields: Any) -> dict[str, Any]:
        nonlocal count
        written = append(self, event, **fields)
        count += 1
        if count == after:
            fill(disk)
        return written

    command = (*LOCAL_TOY, "6", "--storage", str(disk))
    with monkeypatch.context() as patch:
        patch.setattr(EventLog, "append", appended)
        said = call(*command)
    assert (
        "No space left on device; fix that and run the same command again, nothing recorded is "
        "lost" in said.line
    )
    assert said.code == 1
    assert "compare the trials in MLflow" not in said.out
    assert not any(
        e["event"] == "end" and e["state"] == "FAIL"
        for e in EventLog.read(disk / "toy/events.jsonl")[0]
    )
    again = call(*command)  # the disk is still full
    assert "No space left on device" in again.line
    assert again.code in (1, 2)
    (disk / "filler").unlink()
    assert call(*command).code == 0
    finished(tmp_path / "roomy", 6)
    assert reports(disk) == reports(tmp_path / "roomy")


def test_a_machine_that_is_not_enough_is_wrong_use(
    call: Call, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Ray reports it, after the study has been opened."""

    def refuse(*_: Any) -> None:
        raise UserError("a trial needs 9 CPUs")

    monkeypatch.setattr("tune.execution.local.search_locally", refuse)
    said = call(*LOCAL_TOY, "1")
    assert (said.code, said.line) == (2, "a trial needs 9 CPUs")
    assert "compare the trials in MLflow" not in said.out


def test_failed_trials_are_no_failure_of_the_command_unless_all_are(
    call: Call, tmp_path: Path
) -> None:
    said = call(*LOCAL_TOY, "2", "--set", "fault=raise")
    assert said.code == 1
    assert "ZeroDivisionError" in said.out
    assert "Traceback" not in said.out + said.err
    show = command("report", "show", "toy", storage=tmp_path / "runs", anywhere=True)
    assert f"2 of 2 trials failed; `{show}` has the reasons" in said.out.replace("\n", "")


def test_local_study_ends_and_is_extended(call: Call, tmp_path: Path) -> None:
    first = call(*LOCAL_TOY, "3")
    assert first.code == 0
    assert f"compare the trials in MLflow: {command('ui')}\n" in first.out
    assert "study toy: blobs: 90 points; searched by val/top1" in first.out
    assert len(re.findall(r"^trial \d+ (?:complete|pruned)", first.out, re.MULTILINE)) == 3
    assert "No claim yet: " in first.out
    more = call(*LOCAL_TOY, "5")
    assert len(re.findall(r"^trial \d+ (?:complete|pruned)", more.out, re.MULTILINE)) == 2
    assert len(list((tmp_path / "runs/toy/trials").iterdir())) == 5


def test_replay_equals_the_record_or_says_where_it_does_not(call: Call, tmp_path: Path) -> None:
    assert call(*LOCAL_TOY, "2").code == 0
    before = left_in(tmp_path / "runs")
    said = call("toy", "--local", "--trial", "toy/0")
    assert said.code == 0
    assert said.out.splitlines() == [
        *(f"epoch {n}: equal to the record" for n in range(1, 5)),
        "the replay equals the record",
    ]
    assert left_in(tmp_path / "runs") == before
    log = tmp_path / "runs/toy/events.jsonl"
    lines = log.read_text().splitlines()
    chosen = next(
        i for i, line in enumerate(lines) if '"report"' in line and json.loads(line)["epoch"] == 2
    )
    event = json.loads(lines[chosen])
    event["metrics"]["train/loss"] += 1e-12
    log.write_text("\n".join([*lines[:chosen], json.dumps(event), *lines[chosen + 1 :]]) + "\n")
    said = call("toy", "--local", "--trial", "toy/0")
    assert said.code == 1
    assert f"epoch 2: train/loss was {event['metrics']['train/loss']!r}, is " in said.out
    assert said.out.endswith("the replay differs from the record\n")


def test_weights_that_are_not_kept_come_back_by_the_command_that_is_printed(
    call: Call, tmp_path: Path
) -> None:
    whole = ("--repeats", "0", "--pruner", "none", "--set", "train.epochs=1")
    assert call(*LOCAL_TOY, "9", *whole).code == 0
    trials = tmp_path / "runs/toy/trials"
    gone = [path for path in sorted(trials.iterdir()) if not (path / "best.pt").exists()]
    assert 3 <= len(gone) <= 4  # of nine: the best five and the default keep theirs
    number = int(gone[0].name)
    with pytest.raises(UserError, match=rf"weights of trial {number} of study 'toy' are not kept"):
        find(f"toy/{number}", tmp_path / "runs")

    said = call("toy", "--local", "--trial", f"toy/{number}")
    assert (said.code, said.out.splitlines()[1][:34]) == (0, "the weights had been removed, and ")
    assert find(f"toy/{number}", tmp_path / "runs").path == gone[0] / "best.pt"
    assert call(*LOCAL_TOY, "10", *whole).code == 0
    assert (gone[0] / "best.pt").exists()
    assert not (gone[1] / "best.pt").exists()

    # the record of a machine that rounds differently
    log = tmp_path / "runs/toy/events.jsonl"
    log.write_text(log.read_text().replace('"train/loss":', '"train/loss":1'))
    number = int(gone[1].name)
    said = call("toy", "--local", "--trial", f"toy/{number}")
    assert said.code == 1
    assert "the weights had been removed; those of this training are in " in said.out
    assert find(f"toy/{number}", tmp_path / "runs").path == gone[1] / "best.pt"
    assert "train/loss was" in (gone[1] / ".retrained.json").read_text()
    assert retrained_value(gone[1] / "best.pt") == read_state(log).trials[number].value
    assert retrained_value(gone[0] / "best.pt") is None

    # once those weights are gone, weights that reproduce the record need no warning
    (gone[1] / "best.pt").unlink()
    log.write_text(log.read_text().replace('"train/loss":1', '"train/loss":'))
    assert call("toy", "--local", "--trial", f"toy/{number}").code == 0
    assert (gone[1] / "best.pt").exists()
    assert not (gone[1] / ".retrained.json").exists()


def test_replay_that_ends_early_is_not_equal(call: Call, tmp_path: Path) -> None:
    assert call(*LOCAL_TOY, "1").code == 0
    log = tmp_path / "runs/toy/events.jsonl"
    log.write_text(log.read_text().replace('"fault":""', '"fault":"raise"'))
    said = call("toy", "--local", "--trial", "toy/0")
    assert said.code == 1
    assert "a bug in the model" in said.out
    assert "on record but not reached again: epoch 1, 2, 3, 4" in said.out


def test_replay_of_a_trial_that_failed_at_once_must_fail_again(call: Call, tmp_path: Path) -> None:
    assert call(*LOCAL_TOY, "1", "--set", "fault=raise").code == 1
    said = call("toy", "--local", "--trial", "toy/0")
    assert said.code == 0
    assert "a bug in the model" in said.out
    log = tmp_path / "runs/toy/events.jsonl"
    log.write_text(log.read_text().replace('"fault":"raise"', '"fault":""'))  # now it succeeds
    said = call("toy", "--local", "--trial", "toy/0")
    assert said.code == 1
    assert "epoch 1: not on record" in said.out
    assert "on record it ended as FAIL before its first epoch (ZeroDivisionError)" in said.out
    # the log as it is while the trial runs
    log.write_text(
        "".join(line for line in log.read_text().splitlines(keepends=True) if '"end"' not in line)
    )
    said = call("toy", "--local", "--trial", "toy/0")
    assert (said.code, said.out) == (2, "")
    assert "trial 0 of study 'toy' has no epoch on record yet" in said.line


def test_replay_by_another_experiment(call: Call, tmp_path: Path) -> None:
    for storage, words in (("runs", ""), ("elsewhere", " --storage elsewhere")):
        assert call(*LOCAL_TOY, "1", "--storage", storage).code == 0
        said = call("ssl", "--local", "--trial", "toy/0", "--storage", storage)
        assert (said.code, said.out) == (2, "")
        replay = replay_command("toy", tmp_path / storage / "toy", 0)
        assert said.line == f"study 'toy' belongs to experiment toy: {replay}"
        assert replay.endswith(f"tune/run.py toy --local --trial toy/0{words}")


def test_every_option_is_under_one_heading_of_the_help(call: Call) -> None:
    fields = {field.name for field in dataclasses.fields(Options)}
    assert option_parameters().keys() == fields
    grouped = [name for names in PANELS.values() for name in names.split()]
    assert sorted(grouped) == sorted(fields - {"experiment", "plan"})
    said = call("--help").out
    places = [said.index(f"─ {heading} ─") for heading in ("Options", *PANELS)]
    assert places == sorted(places)


def test_help_names_every_option_on_a_narrow_terminal(
    call: Call, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    said = call("--help")
    assert said.code == 0
    assert max(map(len, said.out.splitlines())) <= 80
    for option in (
        "data",
        "trials",
        "study",
        "storage",
        "seed",
        "time-budget",
        "set",
        "preset",
        "workers",
        "gpus-per-worker",
        "concurrent",
        "setting",
        "backbone",
        "local",
        "trial",
        "plan",
    ):
        assert f"--{option} " in said.out
    assert "ssl: BYOL pre-training" in said.out

    # What rich takes for markup, such as [default: 16], would be missing.
    words = " ".join(re.sub(r"[│╭╮╰╯─]", " ", said.out).split())
    for default in ("Default: 16; with several", "Default: 5.", "Default: 6; with several"):
        assert default in words


def test_plan_runs_and_writes_nothing(
    call: Call, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "200")
    pinned = (
        "optim.name=sgd",
        "optim.lr=0.2",
        "train.epoch_images=128",
        "head.hidden_size=64",
        "val.probe_steps=0",
    )
    words = [word for pin in pinned for word in ("--set", pin)]
    said = call("ssl", "--plan", "--trials", "7", *words)
    assert (said.code, said.err) == (0, "")
    assert "preset tiny, 7 trials" in said.out
    assert re.search(r"^optim.lr +0.2 +pinned *$", said.out, re.MULTILINE)
    assert re.search(
        r"^schedule.warmup_frac +0.1 +0.01 to 0.2  \(schedule.name=warmup_cosine\) *$",
        said.out,
        re.MULTILINE,
    )
    assert re.search(r"estimate from one profiled step \(\d+ ms\) and one validation", said.out)
    epochs = int(re.findall(r"; (\d+) epochs in all", said.out)[0])
    total = int(re.findall(r" (\d+) epochs with pruning and 12 repeats", said.out)[0])
    assert 13 * epochs < total < 19 * epochs  # trial 0 and the repeats; 6 trials may be pruned
    assert list(tmp_path.iterdir()) == []


@pytest.mark.heavy
def test_local_from_any_directory_never_imports_ray(tmp_path: Path) -> None:
    program = f"""
        import os, runpy, sys
        leave = os._exit
        def last(code):
            print("ray in sys.modules:", "ray" in sys.modules, flush=True)
            leave(code)
        os._exit = last
        sys.argv = [{SCRIPT!r}, *sys.argv[1:]]
        runpy.run_path({SCRIPT!r}, run_name="__main__")
    """
    small = (
        "data.image_size=8",
        "train.epoch_images=128",
        "train.epochs=1",
        "head.hidden_size=64",
        "val.probe_steps=0",
    )
    words = [
        "ssl",
        "--data",
        "digits",
        "--local",
        "--trials",
        "1",
        "--repeats",
        "0",
        "--pictures",
        "none",
        *(word for setting in small for word in ("--set", setting)),
    ]
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(program), *words],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=250,
        check=False,
        env=os.environ | {"MLFLOW_TRACKING_URI": NO_SERVER},
    )
    assert done.returncode == 0, done.stderr
    assert "trial 0 complete" in done.stdout
    assert "ray in sys.modules: False" in done.stdout
    assert (tmp_path / "runs/ssl/trials/0000/best.pt").exists()


@pytest.mark.heavy
def test_breakpoint_in_a_trainable_stops_in_the_terminal(tmp_path: Path) -> None:
    """On a real pseudo-terminal the prompt appears, an expression is evaluated, `c` continues, and
    the study ends."""
    program = """
        import sys
        from dataclasses import replace
        from tests.toy import TOY, Toy, ToyConfig
        from tune import run
        from tune.experiments import EXPERIMENTS
        class Stops(Toy):
            def validate(self):
                if not hasattr(Stops, "stopped"):
                    Stops.stopped = True
                    breakpoint()
                return super().validate()
        EXPERIMENTS["toy"] = replace(TOY, model=lambda: (Stops, ToyConfig))
        words = "toy --local --trials 1 --repeats 0 --pictures none --set train.epochs=2"
        sys.argv = ["tune/run.py", *words.split()]
        run.command_line()
    """
    pid, terminal = pty.fork()
    if pid == 0:
        os.chdir(tmp_path)
        environment = os.environ | {
            "PYTHONPATH": str(REPO),
            "MLFLOW_TRACKING_URI": NO_SERVER,
            "TERM": "xterm",
        }
        environment.pop("PYTHONBREAKPOINT", None)
        os.execve(sys.executable, [sys.executable, "-c", textwrap.dedent(program)], environment)
    seen = ""

    def read_until(word: str) -> None:
        nonlocal seen
        deadline = time.monotonic() + 120
        while word not in seen:
            assert time.monotonic() < deadline, seen
            try:
                seen += os.read(terminal, 65536).decode()
            except OSError:  # the other end of the terminal is closed
                assert word in seen, seen

    read_until("(Pdb) ")
    os.write(terminal, b"p type(self).__name__, 6 * 7\n")
    read_until("('Stops', 42)")
    os.write(terminal, b"c\n")
    read_until("compare the trials in MLflow")
    _, status = os.waitpid(pid, 0)
    os.close(terminal)
    assert os.waitstatus_to_exitcode(status) == 0, seen
    assert "trial 0 complete" in seen
