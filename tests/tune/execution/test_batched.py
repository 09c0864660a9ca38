"""`--batch-trials` against one trial after the other: the same results, events and ends, and the
same resume after a kill."""

import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any, NamedTuple

import pytest

from tests.commands import Call
from tests.frozen import frozen_config
from trainables.base import BATCHED
from trainables.classifier import Classifier, ClassifierConfig
from trainables.config import build, flatten
from trainables.errors import UserError
from tune.cli.options import Options
from tune.cli.searching import check_batched, with_batches
from tune.execution import batched
from tune.execution.batched import search_in_batches
from tune.execution.local import search_locally
from tune.execution.replay import _differences
from tune.experiments import Experiment
from tune.search.space import as_json, describe
from tune.study.events import EventLog
from tune.study.log_state import read_state
from tune.study.manifest import Manifest
from tune.study.study import Study

TRIALS = 6


def space(trial: Any, preset: str) -> None:
    trial.suggest_categorical("optim.name", ["adam", "sgd"])
    trial.suggest_float("optim.lr", 1e-3, 1e-1, log=True)
    trial.suggest_categorical("head.kind", ["linear", "mlp"])
    trial.suggest_categorical("train.batch_size", [16, 32])


HEADS = Experiment(
    name="heads",
    about="heads on frozen features",
    model=lambda: (Classifier, ClassifierConfig),
    space=space,
    presets={"tiny": {}, "full": {}},
)


@pytest.fixture(scope="module", autouse=True)
def cache(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    folder = tmp_path_factory.mktemp("cache")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("trainables.backbone.feature_store.default_cache_dir", lambda: folder)
        yield


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    config = frozen_config(tmp_path_factory.mktemp("backbone"))
    return flatten(config) | {"train.epochs": 4}


def open_study(
    root: Path, base: dict[str, Any], trials: int = TRIALS, repeats: int = 0, **changes: Any
) -> Study:
    fields: dict[str, Any] = {
        "name": "heads",
        "experiment": "heads",
        "preset": "tiny",
        "objective": "val/top1",
        "seed": 0,
        "base": base,
        "pins": {},
        "space": as_json(describe(space, "tiny", {})),
        "data": {"name": "digits", "fingerprint": "f", "path": "digits", "images": 200},
    }
    about = Manifest(**fields | changes)
    return Study.open(root / "heads", HEADS, about, trials=trials, repeats=repeats)


def events(root: Path, kind: str) -> list[dict[str, Any]]:
    log = EventLog.read(root / "heads" / "events.jsonl")[0]
    return [event for event in log if event["event"] == kind]


def reports(root: Path) -> dict[tuple[int, int | None, int], float]:
    found: dict[tuple[int, int | None, int], float] = {}
    for event in events(root, "report"):
        key = event["trial"], event.get("repeat"), event["epoch"]
        assert key not in found, f"reported twice: {key}"
        found[key] = event["metrics"]["train/loss"]
    return found


def check_whole(root: Path, trials: int = TRIALS) -> None:
    """Assert that each run ended once, and that its epochs are on record once, in order."""
    ends = Counter((e["trial"], e.get("repeat")) for e in events(root, "end"))
    assert set(ends.values()) == {1}
    assert sorted(n for n, repeat in ends if repeat is None) == list(range(trials))
    for trial, repeat in ends:
        epochs = [epoch for t, r, epoch in reports(root) if (t, r) == (trial, repeat)]
        assert epochs == list(range(1, len(epochs) + 1))


def run(root: Path, base: dict[str, Any], width: int, repeats: int = 0) -> None:
    study = open_study(root, base, repeats=repeats)
    if width == 1:
        search_locally(study, HEADS)
    else:
        search_in_batches(study, HEADS, width)
    study.close()


@pytest.fixture(scope="module")
def one_by_one(base: dict[str, Any], tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("one")
    run(root, base, width=1, repeats=2)
    return root


def test_the_results_are_those_of_one_trial_after_the_other(
    base: dict[str, Any], one_by_one: Path, tmp_path: Path
) -> None:
    run(tmp_path, base, width=4, repeats=2)
    check_whole(tmp_path)
    check_whole(one_by_one)

    mine, theirs = reports(tmp_path), reports(one_by_one)
    both = mine.keys() & theirs.keys()
    assert len(both) >= 4 * 3  # the first draws do not depend on results; stops may
    for key in both:
        assert mine[key] == pytest.approx(theirs[key], rel=1e-4)
    log = EventLog.read(tmp_path / "heads" / "events.jsonl")[0]
    kinds = [event["event"] for event in log if event["event"] in ("start", "end")]
    assert kinds.index("end") == 2  # the first batch is a third of four trials, rounded up
    for place in range(1, len(kinds)):
        if kinds[place - 1 : place + 1] == ["end", "start"]:  # a new batch begins after all ends
            assert kinds[:place].count("start") == kinds[:place].count("end")


def test_completed_trials_have_the_weights_of_their_best_epoch(
    base: dict[str, Any], tmp_path: Path
) -> None:
    run(tmp_path, base, width=4)
    ends = [event for event in events(tmp_path, "end") if event["state"] == "COMPLETE"]
    starts = {event["trial"]: event["config"] for event in events(tmp_path, "start")}
    for end in ends:
        config = build(ClassifierConfig, starts[end["trial"]])
        model = Classifier(config, Classifier.load_data(config.data))
        model.load_export(tmp_path / f"heads/trials/{end['trial']:04d}/best.pt")
        assert model.validate()["val/top1"] == pytest.approx(end["value"])


def test_times_on_record_are_each_trials_share(base: dict[str, Any], tmp_path: Path) -> None:
    began = time.perf_counter()
    run(tmp_path, base, width=4)
    wall = time.perf_counter() - began

    metrics = [event["metrics"] for event in events(tmp_path, "report")]
    assert 0 < sum(each["time/epoch_s"] for each in metrics) < wall
    assert max(each[BATCHED] for each in metrics) == 4  # in batches of both kinds of heads

    state = read_state(tmp_path / "heads" / "events.jsonl")
    threads = base["train.threads"]
    assert sum(each.cpu_seconds for each in state.runs.values()) < 1.5 * threads * wall


def test_a_replay_compares_a_batched_epoch_up_to_rounding() -> None:
    batched_epoch = {"train/loss": 0.5, "val/top1": 0.8, BATCHED: 4.0}
    alone = {"train/loss": 0.5 * (1 + 1e-6), "val/top1": 0.8}
    assert _differences(batched_epoch, alone) == []
    assert len(_differences(batched_epoch, {"val/top1": 0.79})) == 1
    assert len(_differences({"train/loss": 0.5}, alone)) == 1


class Settings(NamedTuple):
    """Prepared studies of a comparison, as far as `--batch-trials` reads them."""

    full: Any
    frozen: Any


@pytest.fixture
def settings() -> Settings:
    def prepared(reason: str) -> Any:
        trainable = SimpleNamespace(why_not_batched=lambda config: reason)
        experiment = SimpleNamespace(function=None, trainable=trainable)
        return SimpleNamespace(
            experiment=experiment, config=None, manifest=SimpleNamespace(name="classify-A")
        )

    return Settings(full=prepared("freeze.policy=none trains the backbone"), frozen=prepared(""))


def test_of_a_comparison_only_frozen_settings_leave_ray(settings: Settings) -> None:
    options = Options(experiment="classify", batch_trials=24)
    check_batched([settings.full, settings.frozen], options)

    on_ray = with_batches(settings.full, options)
    assert (on_ray.local, on_ray.batch_trials) == (False, None)
    here = with_batches(settings.frozen, options)
    assert (here.local, here.batch_trials) == (True, 24)
    assert with_batches(settings.frozen, Options(experiment="classify")).local is False


def test_a_study_that_cannot_be_batched_is_refused(settings: Settings) -> None:
    with pytest.raises(UserError, match=r"--batch-trials 24: trials of 'classify-A' cannot train"):
        check_batched([settings.full], Options(experiment="classify", batch_trials=24))


@pytest.mark.parametrize(("after", "unsaved_s"), [(1, 1.0), (6, 0.0), (11, 1.0)])
def test_a_killed_study_resumes_where_it_was(
    base: dict[str, Any],
    one_by_one: Path,
    after: int,
    unsaved_s: float,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(batched, "UNSAVED_S", unsaved_s)
    study = open_study(tmp_path, base)
    seen: list[str] = []

    def kill(event: dict[str, Any]) -> None:
        seen.append(event["event"])
        if seen.count("report") == after:
            raise KeyboardInterrupt

    study.observers.append(kill)
    with pytest.raises(KeyboardInterrupt):
        search_in_batches(study, HEADS, 4)
    study.close()

    run(tmp_path, base, width=4)
    check_whole(tmp_path)
    assert any(e["attempt"] > 1 for e in events(tmp_path, "start"))
    mine, theirs = reports(tmp_path), reports(one_by_one)
    for key in mine.keys() & theirs.keys():
        assert mine[key] == pytest.approx(theirs[key], rel=1e-4)


def test_a_study_that_is_stopped_puts_its_trials_back(
    base: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(batched, "UNSAVED_S", 0.0)
    study = open_study(tmp_path, base)

    def stop(event: dict[str, Any]) -> None:
        if event["event"] == "report":
            study.stopping = True

    study.observers.append(stop)
    search_in_batches(study, HEADS, 4)
    study.close()
    assert events(tmp_path, "end") == []
    assert list(tmp_path.glob("heads/trials/*/last.pt"))

    run(tmp_path, base, width=1)  # one by one, from checkpoints that a batch wrote
    check_whole(tmp_path)


def test_an_error_of_the_storage_ends_the_search(
    base: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from tune.study.events import StorageFailed

    def broken(*args: Any) -> None:
        raise StorageFailed("no space left")

    study = open_study(tmp_path, base)
    monkeypatch.setattr(batched, "run", broken)
    with pytest.raises(StorageFailed):
        search_in_batches(study, HEADS, 4)
    study.close()


def test_a_trial_that_cannot_be_batched_runs_among_the_others(
    base: dict[str, Any], tmp_path: Path
) -> None:
    run(tmp_path, base | {"features.cache": False}, width=3)
    check_whole(tmp_path)


def test_the_command_line_trains_heads_as_one(
    base: dict[str, Any], call: Call, tmp_path: Path
) -> None:
    small = ("data.image_size=16", "data.limit=200", "backbone.width=8", "backbone.pool=1")
    settings = [f"--set={setting}" for setting in (*small, "train.epochs=2", "aug.policy=glyphs")]
    command = ("classify", "--setting", "E", "--data", "digits", "--preset", "tiny")
    words = ("--backbone", base["init.file"], "--trials", "3", "--repeats", "0", *settings)
    said = call(*command, *words, "--batch-trials", "3", "--storage", str(tmp_path))
    assert said.code == 0
    log, _ = EventLog.read(tmp_path / "classify-E/events.jsonl")
    kinds = [event["event"] for event in log if "trial" in event]
    assert kinds.index("report") > kinds.index("start") + 1  # several trials have begun by then
    assert {e["trial"] for e in log if e["event"] == "end"} == {0, 1, 2}
