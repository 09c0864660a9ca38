"""A function becomes a study: its space and default, its command line, its record and pages."""

import json
import linecache
import math
import re
import shutil
import tempfile
from functools import partial
from pathlib import Path
from typing import Any

import optuna
import pytest

import vistune
from tests.commands import Call
from trainables.config import build, flatten
from trainables.errors import UserError
from tune.cli.plan import total_epochs
from tune.experiments import Experiment
from tune.export import export_model
from tune.function import OwnData
from tune.function_source import source_of
from tune.function_space import complete, read_space
from tune.reports.html_report import write_report
from tune.reports.marks import marks
from tune.reports.verdict import judge_study
from tune.search.space import as_json, describe
from tune.study.events import EventLog
from tune.study.manifest import read_manifest
from tune.study.record import Record, read_record
from vistune import compare, function_experiment

MINE = '''
"""Reports a curve that its learning rate bends; nothing is trained."""

from vistune import function_experiment


def train(config, run):
    """A curve of eight epochs."""
    worth = 1 - abs(config["lr"] - 0.3) + 0.01 * (config["opt"] == "adamw")
    for epoch in run.epochs(config["epochs"]):
        run.save(epoch=epoch)
        run.report(accuracy=worth * (epoch + 1) / 8, **{"train/loss": 1 / (epoch + 1)})
    score = worth - 0.01 * (run.seed % 7)
    run.test(accuracy=score)


EXPERIMENT = function_experiment(
    train,
    objective="accuracy",
    space={"lr": (0.01, 1.0, "log"), "opt": ["sgd", "adamw"]},
    default={"lr": 0.05, "opt": "sgd", "epochs": 8},
)
'''
LOCAL = ("--local", "--trials", "6", "--repeats", "2")
_KEPT = tempfile.TemporaryDirectory(prefix="vistune-function-")


@pytest.fixture
def mine(tmp_path: Path) -> Path:
    path = tmp_path / "mine.py"
    path.write_text(MINE)
    return path


def finish(call: Call, mine: Path) -> Record:
    """Run the study of `MINE`, once per process."""
    kept = Path(_KEPT.name) / "runs"
    folder = mine.parent / "runs"
    if not kept.exists():
        said = call(str(mine), *LOCAL)
        assert said.code == 0, said.err
        shutil.copytree(folder, kept)
    else:
        shutil.copytree(kept, folder)
    return ended(mine.parent)


def ended(folder: Path) -> Record:
    return read_record(folder / "runs/mine")


def nothing(config: dict[str, Any], run: Any) -> None:
    """Do nothing."""


def experiment(**changes: Any) -> Experiment:
    given: dict[str, Any] = {"objective": "accuracy", "space": {"lr": (0.1, 1.0)}}
    return function_experiment(nothing, **given | changes)


# -- spaces and configs


def test_literals_become_ranges_of_the_same_kind() -> None:
    space = {
        "lr": (1e-5, 1e-1, "log"),
        "optim.momentum": (0.0, 0.9),
        "layers": (1, 4),
        "batch": (16, 256, "log"),
        "opt": ["sgd", "adamw"],
        "flip": bool,
    }
    made = experiment(space=space)

    assert as_json(describe(made.space, "default", {})) == {
        "batch": ["16 to 256 (log)"],
        "flip": ["one of false, true"],
        "layers": ["1 to 4"],
        "lr": ["1e-05 to 0.1 (log)"],
        "opt": ["one of sgd, adamw"],
        "optim.momentum": ["0 to 0.9"],
    }
    trial = optuna.create_study().ask()
    made.space(trial, "default")
    assert isinstance(trial.params["layers"], int)
    assert list(trial.params) == list(space)


def test_texts_are_read_as_those_of_the_command_line() -> None:
    space = {
        "opt": "sgd, adamw",
        "lr": ("0.01..1:log when opt=sgd", "1e-4..1e-2:log when opt=adamw"),
        "momentum": "0..0.9 when opt=sgd",
    }
    made = experiment(space=space, default={"opt": "adamw"})

    assert as_json(describe(made.space, "default", {})) == {
        "lr": ["0.01 to 1 (log) when opt=sgd", "0.0001 to 0.01 (log) when opt=adamw"],
        "momentum": ["0 to 0.9 when opt=sgd"],
        "opt": ["one of sgd, adamw"],
    }
    assert made.presets["default"]["lr"] == 1e-3  # the middle of adamw's range


def test_a_space_may_be_written_as_for_optuna() -> None:
    def space(trial: Any) -> None:
        if trial.suggest_categorical("opt", ["sgd", "adamw"]) == "sgd":
            trial.suggest_float("momentum", 0.0, 0.9)
        trial.suggest_int("layers", 1, 4)

    made = experiment(space=space, default={"epochs": 3})

    assert as_json(describe(made.space, "default", {})) == {
        "layers": ["1 to 4"],
        "momentum": ["0 to 0.9 when opt=sgd"],
        "opt": ["one of sgd, adamw"],
    }
    assert made.presets["default"] == {
        "opt": "sgd",
        "momentum": 0.45,
        "layers": 3,
        "epochs": 3,
        "train.threads": 1,
    }


def layers(trial: Any) -> None:
    for place in range(trial.suggest_int("layers", 1, 3)):
        trial.suggest_int(f"units{place}", 4, 128)


def two_conditions(trial: Any) -> None:
    nesterov = trial.suggest_categorical("nesterov", [False, True])
    if trial.suggest_categorical("opt", ["adamw", "sgd"]) == "sgd" and nesterov:
        trial.suggest_float("momentum", 0.5, 0.9)


def threshold(trial: Any) -> None:
    if trial.suggest_float("lr", 0.1, 1.0) > 0.3:
        trial.suggest_int("warmup", 1, 3)


@pytest.mark.parametrize(
    ("space", "found"),
    [
        (layers, {"units1": ["4 to 128 when sometimes"], "units2": ["4 to 128 when sometimes"]}),
        (two_conditions, {"momentum": ["0.5 to 0.9 when sometimes"]}),
        (threshold, {"warmup": ["1 to 3 when sometimes"]}),
    ],
)
def test_conditions_in_code_hide_no_parameter(
    call: Call, tmp_path: Path, space: Any, found: dict[str, list[str]]
) -> None:
    """A loop over a number of layers, two conditions at once, and a threshold."""

    def train(config: dict[str, Any], run: Any) -> None:
        run.report(accuracy=1.0)

    made = function_experiment(train, objective="accuracy", space=space, name="coded")
    described = as_json(describe(made.space, "default", {}))
    assert {name: described[name] for name in found} == found

    given: dict[str, Any] = {"local": True, "repeats": 0, "progress": "none"}
    study = vistune.search(made, trials=12, **given)
    assert set(study.trials["state"]) == {"complete"}
    assert all(study.trials[name].count() in range(1, 12) for name in found)

    # the space as recorded before they were found
    kept = {name: ranges for name, ranges in described.items() if name not in found}
    change_manifest(study.folder, space=kept)
    assert len(vistune.search(made, trials=13, **given).trials) == 13


def test_a_choice_of_two_branches_is_a_condition_of_both() -> None:
    space = {
        "warm": bool,
        "opt": ("sgd,adamw when warm=false", "lion when warm=true"),
        "lr": ("0.01..1:log when opt=sgd", "1e-4..1e-2:log when opt=adamw|lion"),
    }
    found = as_json(describe(experiment(space=space).space, "default", {}))
    assert found["lr"] == [
        "0.01 to 1 (log) when opt=sgd",
        "0.0001 to 0.01 (log) when opt=lion|adamw",
    ]


def test_the_default_is_completed_by_middles_and_first_choices() -> None:
    space = {"lr": (1e-4, 1e-2, "log"), "layers": (1, 4), "opt": ["a", "b"], "flip": bool}
    values = complete(read_space(space), {"layers": 4, "epochs": 3})

    assert values == {"lr": 1e-3, "layers": 4, "opt": "a", "flip": False, "epochs": 3}


def test_the_config_reads_what_is_typed() -> None:
    space = {"optim.lr": (0.1, 1.0), "size": [16, 32, None], "flip": bool, "opt": ["a", "b"]}
    made = experiment(space=space, default={"epochs": 3, "path": None}, threads=2)
    typed = {"optim.lr": "1", "size": "32", "flip": "true", "epochs": "9", "path": "here"}

    assert flatten(build(made.config, typed)) == {
        "optim.lr": 1.0,
        "size": 32,
        "flip": True,
        "opt": "a",
        "epochs": 9,
        "path": "here",
        "train.threads": 2,
        "seed": 0,
    }
    assert flatten(build(made.config, {"size": "none"}))["size"] is None
    with pytest.raises(UserError, match="epochs='many' is not valid"):
        build(made.config, {"epochs": "many"})


@pytest.mark.parametrize(
    ("train", "message"),
    [
        (lambda config: None, "<lambda>(config) must take two arguments"),
        (lambda config, run, extra: None, "<lambda>(config, run, extra) must take two arguments"),
        (3, "function_experiment needs a function train(config, run), got 3"),
    ],
)
def test_a_function_of_other_arguments_is_refused_at_once(train: Any, message: str) -> None:
    with pytest.raises(UserError, match=re.escape(message)):
        function_experiment(train, objective="accuracy", space={"lr": (0.1, 1.0)})


@pytest.mark.parametrize("train", [lambda *given: None, lambda config, run, more=3: None, max])
def test_a_function_may_take_more_than_it_is_given(train: Any) -> None:
    function_experiment(train, objective="accuracy", space={"lr": (0.1, 1.0)})


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (
            {"space": {"lr": (1, 0.1)}},
            "space of lr: it must begin below its end, but 1 is above 0.1",
        ),
        (
            {"space": {"lr": (0, 1.0, "log")}},
            "space of lr: on a log scale it must begin above 0, not at 0",
        ),
        ({"space": {"lr": 0.1}}, r'it must be (low, high), (low, high, "log"), a list of choices'),
        ({"space": {"lr": (1, 2, "cubic")}}, "space of lr: a range must be (low, high) or"),
        ({"space": {"opt": []}}, "space of opt: it has no choices; got []"),
        ({"space": {"seed": (1, 2)}}, "'seed' is a name of vistune's own: run.seed has it"),
        ({"space": {"weight-decay": (1, 2)}}, "'weight-decay' must be a name of letters"),
        (
            {"default": {"lr": 3.0}},
            "default of lr must be among what is searched (0.1..1.0), got 3.0",
        ),
        ({"default": {"sizes": [1, 2]}}, "default of sizes must be a number, a text"),
        ({"default": {"lr.low": 3}}, "'lr' cannot be a value beside 'lr.low'"),
        ({"space": ["lr"]}, "space must be a dictionary of ranges, as in "),
        ({"objective": ["a"]}, "objective must be the name of a metric, got ['a']"),
        ({"objective": "val/a/b"}, "objective 'val/a/b' must be the name of a metric"),
    ],
)
def test_what_cannot_be_is_one_line(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=re.escape(message)):
        experiment(**changes)


# -- studies


def test_a_function_becomes_a_study_with_a_verdict(call: Call, mine: Path, tmp_path: Path) -> None:
    said = call(str(mine), *LOCAL)

    assert said.code == 0, said.err
    assert "study mine: its own data; searched by val/accuracy, preset default" in said.out
    assert "trial 0 epoch 8/8 val/accuracy 0.7500" in said.out
    assert "untrained" not in said.out
    record = ended(tmp_path)
    assert record.manifest.function
    assert record.manifest.space == {"lr": ["0.01 to 1 (log)"], "opt": ["one of sgd, adamw"]}
    assert {run.state for run in record.trials.values()} == {"COMPLETE", "PRUNED"}
    verdict = judge_study(record)
    assert verdict is not None
    assert verdict.baseline is None
    assert math.isclose(verdict.gain.mean, verdict.trial.mean - verdict.default.mean)


def test_its_pages_say_what_is_known(call: Call, mine: Path) -> None:
    record = finish(call, mine)

    page = write_report(record.folder).read_text()

    assert "read by the function itself" in page
    assert "mine on its own data" in page
    assert record.length == 8
    assert record.epochs_saved == (48 - record.epochs, 48)
    model = record.folder / f"trials/{record.best_number():04d}/best.pt"
    assert model.exists()
    artifacts = [event["path"] for event in events(record) if event["event"] == "artifact"]
    assert artifacts == [str(model.relative_to(record.folder))]


def events(record: Record) -> list[dict[str, Any]]:
    return EventLog.read(record.folder / "events.jsonl")[0]


def test_studies_of_functions_are_compared_where_they_name_the_same_data(
    call: Call, mine: Path
) -> None:
    """Studies of one file can be compared too. For others, nothing says what they were judged
    on."""
    first = finish(call, mine).folder
    second = first.with_name("other")
    shutil.copytree(first, second)
    assert len(compare([first, second]).differences) == 1

    change_manifest(second, code={"path": "other.py", "variable": "E", "sha256": "0", "text": ""})
    with pytest.raises(UserError, match="were judged on different images"):
        compare([first, second])

    data = OwnData("the curve, split 1")
    for folder in (first, second):
        change_manifest(folder, data={"name": data.name, "fingerprint": data.fingerprint})
    assert len(compare([first, second]).differences) == 1


FIRST_CELL = """
def train(config, run):
    for epoch in run.epochs(2):
        run.report(accuracy=config["lr"])
    run.test(accuracy=config["lr"])
"""


def run_cell(text: str, number: int, study: str = "cell", **options: Any) -> Path:
    """Run a cell as a notebook does, with its text in `linecache`, and search."""
    file = f"<cell {number}>"
    linecache.cache[file] = (len(text), None, text.splitlines(True), file)
    held: dict[str, Any] = {}
    exec(compile(text, file, "exec"), held)
    experiment = function_experiment(
        held["train"], objective="accuracy", space={"lr": (0.1, 1.0)}, default={"lr": 0.5}
    )
    given = {"trials": 2, "repeats": 1, "local": True, "progress": "none"} | options
    return vistune.search(experiment, study=study, **given).folder


@pytest.mark.heavy
def test_a_function_of_a_cell_is_part_of_its_study(tmp_path: Path, call: Call) -> None:
    folder = run_cell(FIRST_CELL, 1)
    run_cell(FIRST_CELL, 2, trials=3)  # the same text again

    changed = FIRST_CELL.replace('["lr"])', '["lr"] / 2)')
    with pytest.raises(UserError, match=r"another train: -.*accept_code=True") as error:
        run_cell(changed, 3, trials=4)
    assert "/ 2)" in str(error.value)
    assert len(read_record(folder).trials) == 3

    run_cell(changed, 4, trials=4, accept_code=True)
    run_cell(changed, 5, trials=5)  # the change is on record
    record = read_record(folder)
    assert len(record.trials) == 5
    assert "its code was changed once" in " ".join(marks(record.manifest))


def test_functions_named_alike_are_compared_only_where_they_are_the_same(
    tmp_path: Path, call: Call
) -> None:
    one = run_cell(FIRST_CELL, 1, "one")
    same = run_cell(FIRST_CELL, 2, "same")
    other = run_cell(FIRST_CELL.replace("test(accuracy=", "test(accuracy=1 - "), 3, "other")

    assert len(compare([one, same]).table) == 2
    with pytest.raises(UserError, match="were judged on different images"):
        compare([one, other])

    for folder in (one, same):  # as before functions were stored
        change_manifest(folder, source=None)
    with pytest.raises(UserError, match="were judged on different images"):
        compare([one, same])


def test_what_surrounds_a_function_may_name_its_data() -> None:
    def made(data: str, count: int) -> Any:
        def train(config: Any, run: Any) -> Any:
            return data, count

        return train

    def digest(call: Any) -> str:
        entry = source_of(call)
        assert entry is not None
        return str(entry["sha256"])

    assert digest(made("a", 1)) == digest(made("a", 2))
    assert digest(made("a", 1)) != digest(made("b", 1))
    assert digest(partial(made, data="a")) != digest(partial(made, data="b"))
    typed = [eval(f"lambda config, run: {value}") for value in ("{1, 2}", "{1, 2}", "{1, 3}")]
    assert digest(typed[0]) == digest(typed[1]) != digest(typed[2])


def change_manifest(folder: Path, **changes: Any) -> None:
    path = folder / "study.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


def test_values_are_pinned_and_are_no_longer_searched(
    call: Call, mine: Path, tmp_path: Path
) -> None:
    said = call(str(mine), *LOCAL, "--set", "opt=lion", "--set", "epochs=2")

    assert said.code == 0, said.err
    record = ended(tmp_path)
    assert list(record.manifest.space) == ["lr"]
    assert record.trials[0].config["opt"] == "lion"
    assert record.length == 2


def test_rungs_follow_the_length_that_each_trial_says(
    call: Call, mine: Path, tmp_path: Path
) -> None:
    """Trials are compared at the same fraction of their own epochs."""
    text = MINE.replace('"opt": ["sgd", "adamw"]}', '"opt": ["sgd"], "epochs": [4, 8]}')
    mine.write_text(text)
    call(str(mine), *LOCAL, "--trials", "8", "--repeats", "0")

    for number, run in ended(tmp_path).trials.items():
        assert run.length == run.config["epochs"], number
        rungs = {math.ceil(run.length / part) for part in (12, 6, 4, 2)}
        assert run.state == "COMPLETE" or len(run.history) in rungs, number


def test_the_plan_runs_nothing(call: Call, mine: Path, tmp_path: Path) -> None:
    said = call(str(mine), "--plan")

    assert said.code == 0, said.err
    assert "study mine: A curve of eight epochs; preset default, 16 trials" in said.out
    assert "known once trial 0 has reported an epoch" in said.out
    assert not (tmp_path / "runs").exists()


def test_the_plan_prints_what_space_reads(call: Call, mine: Path, tmp_path: Path) -> None:
    """The plan comes out of a pipe and has ranges of every kind."""
    kinds = """{
        "on": [True, False], "opt": ("sgd,adamw", "lion when on=true"), "size": [16, 32, None],
        "lr": ("0.01..1:log when opt=sgd", "1e-4..1e-2:log when opt=adamw|lion"),
        "layers": (1, 4), "width": "16..256:step=16", "drop": "0..0.5:step=0.25",
    }"""
    mine.write_text(re.sub(r"space=\{.*\},\n.*default=.*\n", f"space={kinds},\n", MINE))
    printed = call(str(mine), "--plan").out
    assert "opt:\n  - lion when on=true\n  - sgd,adamw when on=false\n" in printed
    assert "  - 0.0001..0.01:log when opt=lion|adamw\n" in printed
    beginning = "space, as --space reads it from a file (.yaml):\n"
    (tmp_path / "space.yaml").write_text(printed.partition(beginning)[2].partition("\nrungs")[0])

    again = call(str(mine), "--plan", "--no-search", "all", "--space", "space.yaml")

    assert again.out == printed


def test_the_plan_of_a_study_that_has_begun_says_what_it_takes(call: Call, mine: Path) -> None:
    record = finish(call, mine)
    said = call(str(mine), "--plan", "--trials", "20", "--repeats", "2")

    assert said.code == 0, said.err
    text = " ".join(said.out.split())
    runs = [*record.trials.values(), *record.repeats.values()]
    epochs = sum(len(run.epochs) for run in runs)
    expected = round(total_epochs(20, 4, 8, 2))
    assert "rungs: the best third continues after epoch 1," in text
    assert f"estimate from {epochs} epochs on record" in text
    assert f"{expected} epochs with pruning and 4 repeats" in text


def test_a_function_without_a_test_gets_a_leaderboard(
    call: Call, mine: Path, tmp_path: Path
) -> None:
    mine.write_text(MINE.replace("    run.test(accuracy=score)\n", ""))

    said = call(str(mine), *LOCAL)

    assert said.code == 0, said.err
    record = ended(tmp_path)
    assert len(record.repeats) == 1  # the first showed that there is no test result to judge
    assert (
        f"No verdict: trial {record.best_number()} leads on the split that selects, but its "
        "function gives no test result, run.test(accuracy=...): this is a leaderboard."
    ) in said.out


def test_failures_name_the_line_of_the_file(call: Call, mine: Path, tmp_path: Path) -> None:
    broken = 'if config["opt"] == "adamw":\n        raise ValueError("no adamw here")\n    worth'
    mine.write_text(MINE.replace("worth", broken, 1))
    line = mine.read_text().splitlines().index('        raise ValueError("no adamw here")') + 1

    said = call(str(mine), *LOCAL)

    assert said.code == 0, said.err
    run = next(run for run in ended(tmp_path).trials.values() if run.state == "FAIL")
    assert run.config["opt"] == "adamw"
    assert run.reason == f"ValueError: no adamw here (mine.py line {line})"
    assert run.outcome is not None
    assert 'raise ValueError("no adamw here")' in str(run.outcome.error)


def test_a_metric_that_is_no_number_ends_the_trial_as_pruned(
    call: Call, mine: Path, tmp_path: Path
) -> None:
    text = MINE.replace(
        "worth = 1", 'worth = float("nan") if run.seed or config["lr"] > 0.1 else 1'
    )
    mine.write_text(text)

    said = call(str(mine), *LOCAL)

    assert said.code == 0, said.err
    record = ended(tmp_path)
    diverged = [run for run in record.trials.values() if run.config["lr"] > 0.1]
    assert diverged
    assert {(run.state, run.reason) for run in diverged} == {("PRUNED", "nan")}
    # repeats use other seeds than 0
    assert judge_study(record) is None
    assert "repeats of it or of the default diverged" in said.out


def test_a_loss_is_minimised(call: Call, mine: Path, tmp_path: Path) -> None:
    text = MINE.replace('objective="accuracy"', 'objective="-error"')
    text = text.replace("accuracy=score", "error=3 - score")
    mine.write_text(text.replace("accuracy=worth", "error=3 - worth"))

    said = call(str(mine), *LOCAL)

    assert said.code == 0, said.err
    record = ended(tmp_path)
    best = record.best_number()
    assert best is not None
    assert record.completed[best] == max(record.completed.values()) < 0
    assert abs(record.trials[best].config["lr"] - 0.3) < 0.25
    verdict = judge_study(record)
    assert verdict is not None
    assert verdict.metric == "test/-error"
    assert verdict.trial.mean < -1  # not a share of images


def test_an_interrupted_study_resumes(
    call: Call, mine: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The second start finds trial 1 half done, and the study equals an uninterrupted one."""
    whole = finish(call, mine)
    (tmp_path / "runs").rename(tmp_path / "whole")

    from tune.study.study import Study

    reported = Study.reported
    left = [11]  # trial 1 is at its third epoch

    def leave(study: Study, *args: Any) -> bool:
        left[0] -= 1
        if left[0] == 0:
            study.stopping = True  # as Ctrl-C does
            return False
        return reported(study, *args)

    monkeypatch.setattr(Study, "reported", leave)
    call(str(mine), *LOCAL)
    monkeypatch.setattr(Study, "reported", reported)
    said = call(str(mine), *LOCAL)

    assert said.code == 0, said.err
    assert "trial 1 resumes after epoch 2" in said.out
    record = ended(tmp_path)
    assert list(record.trials) == list(whole.trials)
    for number, run in whole.trials.items():
        assert record.trials[number].config == run.config
        assert record.trials[number].value == run.value
        assert record.trials[number].epochs == run.epochs


def test_a_trial_is_replayed(call: Call, mine: Path) -> None:
    finish(call, mine)
    said = call(str(mine), "--local", "--trial", "mine/0")

    assert said.code == 0, said.out
    assert "the replay equals the record" in said.out


def test_a_changed_function_is_refused(call: Call, mine: Path) -> None:
    finish(call, mine)
    mine.write_text(MINE.replace("0.01 *", "0.02 *"))

    assert "began with another mine.py" in call(str(mine), *LOCAL).line


@pytest.mark.parametrize(
    "words",
    ["--data digits", "--backbone torchvision", "--objective loss"],
)
def test_options_about_images_are_refused(call: Call, mine: Path, words: str) -> None:
    line = call(str(mine), *words.split()).line
    assert line.startswith(words.split()[0])
    assert "mine is a function of its own" in line


def test_its_model_is_the_users(call: Call, mine: Path, tmp_path: Path) -> None:
    finish(call, mine)

    with pytest.raises(UserError, match="mine is a function of its own, whose model only it can"):
        export_model("mine", tmp_path / "runs")


def test_a_study_of_a_function_says_so_in_its_manifest(
    call: Call, mine: Path, tmp_path: Path
) -> None:
    finish(call, mine)
    manifest = read_manifest(tmp_path / "runs/mine/study.json")

    assert json.loads((tmp_path / "runs/mine/study.json").read_text())["function"] is True
    assert manifest.base == {"lr": 0.05, "opt": "sgd", "epochs": 8, "train.threads": 1, "seed": 0}
