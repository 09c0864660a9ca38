"""An experiment in a user's file, run from any folder."""

import os
import pickle
import re
import shutil
import subprocess
import sys
from pathlib import Path

import cloudpickle
import numpy as np
import pytest

from tests import REPO
from tests.commands import Call
from tests.test_readme import SMALL
from trainables.classifier import Classifier
from trainables.errors import UserError
from trainables.served import Served, served_as
from tune.experiment_file import Code, OwnExperiment, experiment_of, find_experiment
from tune.experiments import EXPERIMENTS
from tune.export import export_model
from tune.study.manifest import read_manifest
from tune.study.record import read_record

MINE = '''
"""Logistic regression with a space of its own."""

from dataclasses import replace

from tests import toy


class Mine(toy.Toy):
    """Changes nothing."""


def space(trial, preset):
    trial.suggest_float("optim.lr", 1e-2, 1.0, log=True)


EXPERIMENT = replace(toy.TOY, name="mine", model=lambda: (Mine, toy.ToyConfig), space=space)
'''
RUN = "--local --trials 2 --repeats 0"


@pytest.fixture
def mine(tmp_path: Path) -> Path:
    path = tmp_path / "elsewhere" / "mine.py"
    path.parent.mkdir()
    path.write_text(MINE)
    return path


def test_a_file_becomes_a_study(call: Call, mine: Path, tmp_path: Path) -> None:
    said = call(str(mine), *RUN.split())

    assert said.code == 0, said.err
    record = read_record(tmp_path / "runs/mine")
    assert len(record.completed) + len(record.trials) >= 2
    assert list(record.manifest.space) == ["optim.lr"]
    assert record.manifest.code is not None
    assert record.manifest.code["text"] == MINE


def test_a_changed_file_is_refused_with_the_difference_or_accepted_on_record(
    call: Call, mine: Path, tmp_path: Path
) -> None:
    call(str(mine), *RUN.split())
    before = read_manifest(tmp_path / "runs/mine/study.json")
    mine.write_text(MINE.replace("Changes nothing.", "Changes a comment."))

    refused = call(str(mine), *RUN.split(), "--trials", "3")
    assert refused.code == 2
    assert refused.err == (
        "vistune: study 'mine' began with another mine.py: "
        '-    """Changes nothing."""; +    """Changes a comment.""". '
        "--accept-code continues with the changed file, on record; "
        "--study mine-2 begins another study\n"
    )

    accepted = call(str(mine), *RUN.split(), "--trials", "3", "--accept-code")
    assert accepted.code == 0, accepted.err
    assert "its code was changed once after it had begun (--accept-code)" in accepted.out
    assert before.code is not None
    after = read_manifest(tmp_path / "runs/mine/study.json").code
    assert after is not None
    assert after["earlier"] == [before.code["sha256"]]
    assert "comment" in after["text"]

    # The option is needed only once.
    assert call(str(mine), *RUN.split(), "--trials", "3").code == 0


def test_the_study_knows_its_experiment_without_the_file(
    call: Call, mine: Path, tmp_path: Path
) -> None:
    call(str(mine), *RUN.split())
    mine.unlink()
    manifest = read_manifest(tmp_path / "runs/mine/study.json")

    experiment = experiment_of(manifest.experiment, manifest.code)

    assert experiment.trainable.__name__ == "Mine"
    assert manifest.typed_experiment == f"{mine}:EXPERIMENT"


def test_a_trial_is_replayed_by_its_file(call: Call, mine: Path) -> None:
    call(str(mine), *RUN.split())

    said = call(str(mine), "--local", "--trial", "mine/0")

    assert said.code == 0
    assert "the replay equals the record" in said.out


@pytest.mark.heavy
def test_workers_get_the_text_of_the_file(mine: Path) -> None:
    """They unpickle it in a process that has no such file and no such module."""
    experiment = find_experiment(str(mine))
    sent = cloudpickle.dumps(experiment)  # as Ray does
    mine.unlink()
    script = (
        "import pickle, sys; found = pickle.loads(sys.stdin.buffer.read()); "
        "again = found.trainable; print(found.name, again.__name__, again is found.trainable)"
    )
    environment = dict(os.environ, PYTHONPATH=str(REPO))

    done = subprocess.run(
        [sys.executable, "-c", script], input=sent, env=environment, capture_output=True, check=True
    )

    assert done.stdout.decode().split() == ["mine", "Mine", "True"]


def test_the_text_runs_once_in_a_process(mine: Path) -> None:
    first = find_experiment(str(mine))
    second = pickle.loads(pickle.dumps(first))

    assert isinstance(second, OwnExperiment)
    assert first.trainable is second.trainable


def test_a_file_beside_it_can_be_imported(mine: Path) -> None:
    (mine.parent / "beside_mine.py").write_text("RATE = 0.5\n")
    mine.write_text(MINE + "\nfrom beside_mine import RATE\nassert RATE == 0.5\n")

    assert find_experiment(str(mine)).name == "mine"


def test_one_of_several_is_named(mine: Path) -> None:
    mine.write_text(MINE + "\nLARGE = replace(EXPERIMENT, name='large')\n")
    assert find_experiment(f"{mine}:LARGE").name == "large"
    assert find_experiment(str(mine)).name == "mine"

    mine.write_text(mine.read_text().replace("EXPERIMENT", "SMALL"))
    with pytest.raises(UserError) as refused:
        find_experiment(str(mine))
    assert str(refused.value) == (
        f"{mine} contains several experiments (SMALL, LARGE): name one, as in {mine}:SMALL"
    )


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("x = 1\nx = 1 / 0\n", "cannot be run: line 2: ZeroDivisionError: division by zero"),
        ("def f(:\n", "cannot be run: line 1: SyntaxError: invalid syntax"),
        ("import sys\nsys.exit(3)\n", "cannot be run: line 2: SystemExit: 3"),
        ("import no_such_package\n", "line 1: ModuleNotFoundError: No module named"),
        ("x = 1\n", "contains no Experiment; it must define one"),
        (
            MINE.replace('name="mine"', 'name="ssl"'),
            "has the name of one of vistune's own; give it another",
        ),
    ],
)
def test_an_unusable_file_is_one_line(mine: Path, text: str, message: str) -> None:
    mine.write_text(text)

    with pytest.raises(UserError, match=re.escape(message)) as refused:
        find_experiment(str(mine))
    assert "\n" not in str(refused.value)


@pytest.mark.parametrize(
    ("word", "message"),
    [
        ("nowhere.py", "nowhere.py cannot be read: No such file or directory"),
        ("nowhere.py:X", "nowhere.py cannot be read: No such file or directory"),
        ("sssl", "'sssl' (a file of your own ends in .py); did you mean 'ssl'?"),
    ],
)
def test_an_unknown_word_is_one_line(word: str, message: str) -> None:
    with pytest.raises(UserError, match=re.escape(message)):
        find_experiment(word)


@pytest.mark.parametrize(
    ("words", "others", "message"),
    [
        (
            "lambda: (Mine, toy.ToyConfig)",
            "(Mine, toy.ToyConfig)",
            "model must be a function: wr",
        ),
        ("(Mine, toy.ToyConfig)", "Mine", "model must return a trainable and its config: write mo"),
        (
            "(Mine, toy",
            "(toy.ToyConfig, toy",
            "must be a subclass of Trainable (trainables/base",
        ),
        (", toy.ToyConfig)", ", 3)", "the second of model=lambda: (MyTrainable, MyConfig) must be"),
        (", toy.ToyConfig)", ", Bare)", "write @config above class Bare"),
        (", toy.ToyConfig)", ", Typeless)", "scale of Typeless has no type, so it is no part of"),
    ],
)
def test_a_model_that_cannot_be_used_is_one_line(
    call: Call, mine: Path, words: str, others: str, message: str
) -> None:
    configs = """
class Bare(toy.ToyConfig):
    scale: float = 5.0


@toy.config
class Typeless(toy.ToyConfig):
    scale = 5.0


def space"""
    mine.write_text(MINE.replace(words, others).replace("def space", configs.strip("\n")))
    said = call(str(mine), "--plan")
    assert (said.code, said.out) == (2, "")
    assert message in said.line


def test_a_variable_that_is_not_there(mine: Path) -> None:
    with pytest.raises(UserError, match=r"has no experiment SMALL; it holds EXPERIMENT$"):
        find_experiment(f"{mine}:SMALL")


@pytest.fixture
def package(mine: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The module of an installed package whose entry points are `mine`, `yours` and `broken`."""
    site = tmp_path / "site"
    about = site / "other-1.0.dist-info"
    about.mkdir(parents=True)
    module = site / "other_package.py"
    shutil.copy(mine, module)
    (about / "METADATA").write_text("Metadata-Version: 2.1\nName: other\nVersion: 1.0\n")
    (about / "entry_points.txt").write_text(
        "[vistune.experiments]\nmine = other_package:EXPERIMENT\nyours = other_package:space\n"
        "broken = other_package:NOTHING\n"
    )
    monkeypatch.syspath_prepend(site)
    monkeypatch.delitem(sys.modules, "other_package", raising=False)
    return module


def test_an_installed_package_announces_an_experiment(package: Path) -> None:
    """The package has an entry point in the group vistune.experiments."""
    assert find_experiment("mine").trainable.__name__ == "Mine"
    with pytest.raises(UserError, match="'yours' of other_package:space is not an Experiment"):
        find_experiment("yours")
    with pytest.raises(UserError, match="'broken' of other_package:NOTHING cannot be loaded: Attr"):
        find_experiment("broken")
    with pytest.raises(UserError, match="did you mean 'mine'"):
        find_experiment("mime")


def test_a_changed_package_is_refused_with_the_difference_or_accepted_on_record(
    call: Call, package: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert call("mine", *RUN.split()).code == 0
    package.write_text(MINE.replace("Changes nothing.", "Changes a comment."))
    monkeypatch.delitem(sys.modules, "other_package")

    refused = call("mine", *RUN.split(), "--trials", "3")
    assert refused.line == (
        "study 'mine' began with another other_package: "
        '-    """Changes nothing."""; +    """Changes a comment.""". '
        "--accept-code continues with the changed package, on record; "
        "--study mine-2 begins another study"
    )
    assert call("mine", *RUN.split(), "--trials", "3", "--accept-code").code == 0
    source = read_manifest(tmp_path / "runs/mine/study.json").source
    assert source is not None
    assert len(source["earlier"]) == 1
    assert call("mine", *RUN.split(), "--trials", "3").code == 0


def test_our_own_experiments_have_no_code() -> None:
    assert find_experiment("ssl") is EXPERIMENTS["ssl"]
    assert experiment_of("ssl", None) is EXPERIMENTS["ssl"]


@pytest.mark.heavy
def test_the_example_of_the_documents_is_searched_and_exported(
    call: Call, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    page = (REPO / "docs/adding-a-trainable.md").read_text()
    (block,) = re.findall(r"^```python square\.py\n(.*?)^```$", page, re.MULTILINE | re.DOTALL)
    (tmp_path / "square.py").write_text(block)

    said = call("square.py", *SMALL.split())
    assert said.code == 0, said.err

    exported = export_model("square", tmp_path / "runs")
    images = np.zeros((3, 8, 8, 3), np.uint8)
    assert Served(exported.folder / "data/data").predict(images).shape == (3, 10)


def test_a_class_with_layers_of_its_own_cannot_be_served() -> None:
    class Derived(Classifier):
        pass

    class Larger(Classifier):
        def __init__(self) -> None:
            pass

    assert served_as(Derived) == "Classifier"
    with pytest.raises(UserError, match="a model of Larger cannot predict outside of its study"):
        served_as(Larger)


def test_code_survives_json() -> None:
    code = Code("/a/mine.py", "EXPERIMENT", "x = 'ä'\n")

    assert Code.from_json(code.as_json()) == code


@pytest.mark.slow  # starts Ray
def test_a_file_runs_on_ray(mine: Path, tmp_path: Path) -> None:
    """It starts in an empty folder, with real workers."""
    folder = tmp_path / "empty"
    folder.mkdir()
    environment = dict(os.environ, PYTHONPATH=str(REPO))
    command = [sys.executable, str(REPO / "tune/run.py"), str(mine), "--trials", "3"]

    done = subprocess.run(
        [*command, "--repeats", "1"], cwd=folder, env=environment, capture_output=True, text=True
    )

    assert done.returncode == 0, done.stderr
    assert len(read_record(folder / "runs/mine").trials) == 3
