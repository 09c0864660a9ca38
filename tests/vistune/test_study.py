"""A loaded study agrees with its event log and Optuna's own storage."""

import subprocess
import sys
from pathlib import Path

import numpy as np
import optuna
import pytest
from optuna.storages import JournalStorage
from optuna.storages.journal import JournalFileBackend
from PIL import Image

import vistune
from tests import REPO
from tests.one_trial import one_trial
from tests.studies import POOR, events, finished, open_study
from trainables.backbone.networks import BackboneConfig
from trainables.base import TrainConfig
from trainables.classifier import ClassifierConfig
from trainables.data import DataConfig, load_dataset
from trainables.optim import OptimConfig
from tune.reports.html_report import write_report

TRIALS = 12


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """A storage with a finished study of the toy, two of whose configurations were repeated."""
    finished(tmp_path, TRIALS, repeats=3, base=POOR).close()
    return tmp_path


def by_optuna(root: Path) -> list[optuna.trial.FrozenTrial]:
    storage = JournalStorage(JournalFileBackend(str(root / "toy" / "study.journal")))
    return optuna.load_study(study_name="toy", storage=storage).trials


def test_trials_are_those_of_optuna(root: Path) -> None:
    table = vistune.load_study(root / "toy").trials
    expected = by_optuna(root)

    assert list(table.index) == [trial.number for trial in expected]
    assert list(table["state"]) == [trial.state.name.lower() for trial in expected]
    for trial in expected:
        row = table.loc[trial.number]
        assert row["epochs"] == len(trial.intermediate_values)
        assert row["value"] == max(trial.intermediate_values.values())
        searched = row[["optim.lr", "schedule.name", "schedule.warmup_frac"]].dropna()
        assert dict(searched) == trial.params
    assert not table["enqueued"].any()


def test_curves_and_repeats_are_those_of_the_log(root: Path) -> None:
    study = vistune.load_study(root / "toy")
    reported = [e for e in events(root) if e["event"] == "report" and "repeat" not in e]

    curves = study.curves
    assert len(curves) == len(reported)
    for event in reported:
        at = curves.loc[(event["trial"], event["epoch"])]
        assert dict(at) == event["metrics"]

    ended = [e for e in events(root) if e["event"] == "end" and "repeat" in e]
    assert len(ended) == 6
    for event in ended:
        at = study.repeats.loc[(event["trial"], event["repeat"])]
        assert at["test/top1"] == event["metrics"]["test/top1"]
        assert at["state"] == "complete"


def test_best_is_the_first_of_the_completed_trials(root: Path) -> None:
    study = vistune.load_study(root / "toy")
    completed = [trial for trial in by_optuna(root) if trial.state.name == "COMPLETE"]
    best = max(completed, key=lambda trial: trial.value or 0.0)

    assert study.best is not None
    assert (study.best.number, study.best.value) == (best.number, best.value)
    assert study.best.params == best.params
    assert study.best.config["optim.lr"] == best.params["optim.lr"]
    assert study.default.params["optim.lr"] == POOR["optim.lr"]
    assert (
        repr(study) == f"<Study toy: 12 trials, best {best.number} with val/top1 {best.value:.4f}>"
    )


def test_the_verdict_is_that_of_the_report(root: Path) -> None:
    study = vistune.load_study(root / "toy")
    page = write_report(root / "toy").read_text()

    assert study.verdict.gain is not None
    by_seed = study.repeats["test/top1"].unstack("trial")
    assert study.verdict.gain.mean == pytest.approx(float(by_seed.diff(axis=1).iloc[:, 1].mean()))
    assert study.verdict.sentence.partition(" (")[0] in page
    assert str(study.verdict).startswith(study.verdict.sentence)
    assert study.report() == root / "toy" / "report.html"


def test_figures_show_what_is_on_record(root: Path) -> None:
    study = vistune.load_study(root / "toy")
    curves = study.plot_curves()
    shown = {
        trial for trace in curves.data for trial in trace.customdata or () if trial is not None
    }
    assert shown == set(range(TRIALS))

    (lines,) = study.plot_parallel().data
    assert [d.label for d in lines.dimensions[:2]] == ["optim.lr", "schedule.name"]

    slices = study.plot_slice("optim.lr")
    drawn = sorted(x for trace in slices.data for x in trace.x)
    assert drawn == pytest.approx(sorted(study.trials["optim.lr"]), rel=1e-4)

    against = study.plot_against_default()
    points = sorted(x for trace in against.data for x in trace.x if trace.marker.opacity)
    assert points == pytest.approx(sorted(study.repeats["test/top1"]), rel=1e-4)
    front = study.plot_front()
    complete = study.trials[study.trials["state"] == "complete"]
    drawn = {
        number: xy for t in front.data for number, *xy in zip(t.customdata, t.x, t.y, strict=True)
    }
    expected = {number: [row["seconds"], row["value"]] for number, row in complete.iterrows()}
    assert drawn == {number: pytest.approx(xy, rel=1e-4) for number, xy in expected.items()}
    with pytest.raises(vistune.UserError, match="'time' is not one of the further objectives"):
        study.plot_front("time")

    for figure in (study.plot_importances(), study.plot_best_of_n()):
        assert figure.layout.height > 100
        assert figure.to_json()


def test_a_study_that_runs_is_followed(root: Path) -> None:
    study = vistune.load_study(root / "toy")
    running = open_study(root, TRIALS + 1, repeats=3, base=POOR)
    running.emit("finish", state="FINISHED")
    assert study.finished
    work = running.next_work()
    assert work not in (None, "wait")
    running.started(work)  # type: ignore[arg-type]

    assert list(study.trials["state"])[-1] == "open"
    assert not study.finished
    assert study.trial(TRIALS).value is None
    running.close()


def test_wrong_names_are_refused_with_the_right_ones(root: Path) -> None:
    study = vistune.load_study("toy", root)
    for call, said in (
        (lambda: vistune.load_study(root / "tyo"), "no study 'tyo' in "),
        (lambda: vistune.load_study("tyo", root), "; did you mean 'toy'?"),
        (lambda: study.trial(99), "trials that have begun: 0 to 11"),
        (lambda: study.plot_slice("lr"), "'lr' is not searched; did you mean 'optim.lr'?"),
    ):
        with pytest.raises(vistune.UserError, match=said):
            call()


def test_nothing_to_draw_is_said(tmp_path: Path) -> None:
    open_study(tmp_path, 1).close()
    study = vistune.load_study(tmp_path / "toy")
    assert study.best is None
    assert len(study.trials) == len(study.curves) == len(study.repeats) == 0
    for plot in (
        study.plot_curves,
        study.plot_importances,
        study.plot_parallel,
        study.plot_best_of_n,
        study.plot_front,
        study.plot_against_default,
    ):
        with pytest.raises(vistune.UserError):
            plot()


def test_importing_and_looking_need_no_torch(root: Path) -> None:
    program = (
        "import sys, vistune; print(len(sys.modules) - before); "
        f"study = vistune.load_study({str(root / 'toy')!r}); study.trials, study.verdict; "
        "print(sorted({'torch', 'ray', 'mlflow', 'plotly'} & sys.modules.keys()))"
    )
    said = subprocess.run(
        [sys.executable, "-c", f"import sys; before = len(sys.modules); {program}"],
        cwd=REPO,
        capture_output=True,
        text=True,
        check=True,
    ).stdout.splitlines()
    assert int(said[0]) < 20
    assert said[1] == "[]"


def test_the_index_names_what_it_gives() -> None:
    assert set(vistune.__all__) <= set(dir(vistune))
    for name in vistune.__all__:
        assert getattr(vistune, name) is not None
    with pytest.raises(AttributeError, match="no attribute 'serach'"):
        vistune.serach  # noqa: B018


def test_a_model_has_the_metric_on_record_and_reads_files(tmp_path: Path) -> None:
    """Load the weights of a repeat, and predict the test images that it was judged on."""
    config = ClassifierConfig(
        data=DataConfig(name="digits", image_size=8),
        backbone=BackboneConfig(width=8, pool=1),
        train=TrainConfig(epochs=1, epoch_images=320, batch_size=32),
        optim=OptimConfig(name="adam", lr=1e-2),
    )
    study = vistune.Study(one_trial(tmp_path, "study", "pretrain", config, repeats=1))
    ((_, seed),) = study.repeats.index
    test = load_dataset(config.data, "pretrain").test
    images = test.batch(np.arange(len(test))).numpy().transpose(0, 2, 3, 1)

    model = study.load_model(0, repeat=seed)
    answers = model.predict(images)

    assert test.labels is not None
    labels = test.labels[test.indices]
    right = answers.argmax(1) == labels
    assert right.mean() == pytest.approx(study.repeats.loc[(0, seed), "test/top1"], abs=1e-6)
    assert model.classes == tuple("0123456789")
    assert repr(model) == f"<Model study/0, repeat {seed} of pretrain>"
    assert not model.network.training

    for number in range(3):
        Image.fromarray(images[number]).save(tmp_path / f"{number}.png")
    files = [tmp_path / f"{number}.png" for number in range(3)]
    folder = tmp_path / "images"
    folder.mkdir()
    for file in files:
        file.rename(folder / file.name)
    assert np.allclose(model.predict(folder), answers[:3], atol=1e-6)
    assert np.allclose(model.predict([folder / "2.png"]), answers[2:3], atol=1e-6)
    assert study.load_model() is study.load_model(0)
    assert study.predict(images[:2]).shape == (2, 10)
    with pytest.raises(vistune.UserError, match="has no weights; completed trials: 0"):
        study.load_model(99)
    with pytest.raises(vistune.UserError, match="images must be"):
        study.predict(images[0])


def test_of_one_objective_the_front_is_the_best(root: Path) -> None:
    study = vistune.load_study(root / "toy")
    assert study.front == [study.best]
