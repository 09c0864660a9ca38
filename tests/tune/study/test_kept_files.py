"""Files of runs that have ended: whatever is still needed stays, whenever a kill comes."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from tests.studies import manifest, open_study
from trainables.files import BEST, LAST
from tune.cli.held_weights import pin_for_others
from tune.reports.disk import disk_use, expected_disk, megabytes
from tune.study.kept_files import PIN, RETRAINED, note_retrained, pin, retrained_value
from tune.study.study import Study
from tune.study.work import Outcome, Work

MB = 1_000_000


def fake_run(study: Study, work: Work, value: float, state: str = "COMPLETE", size: int = 1) -> Any:
    """End a run that leaves its files, without training."""
    study.started(work)
    folder = Path(work.directory)
    for name in (BEST, LAST, "embeddings-train-0001.npz", "predictions-val.npz"):
        with (folder / name).open("wb") as file:
            file.truncate(size)
    if work.kind == "trial":
        study.reported(work, 1, {"val/top1": value})
    study.ended(work, Outcome(state, value, None, {"best/val/top1": value, "test/top1": value}))  # type: ignore[arg-type]


def run_all(root: Path, values: list[float], repeats: int = 0, **changes: Any) -> Study:
    """Run a study whose trials have these values. NaN stands for one that fails."""
    study = open_study(root, len(values), repeats, **changes)
    study.files.tidy()
    while (work := study.next_work()) is not None:
        assert work != "wait"
        if work.kind == "baseline":
            study.ended(work, Outcome("COMPLETE", metrics={"baseline/val/top1": 0.1}))
            continue
        assert work.id.trial is not None
        value = values[work.id.trial]
        fake_run(study, work, value, "PRUNED" if value < 0 else "COMPLETE")
    study.close()
    return study


def with_weights(root: Path) -> set[int]:
    return {int(path.parent.name) for path in (root / "toy/trials").glob(f"*/{BEST}")}


def left(root: Path, pattern: str) -> list[str]:
    return sorted(str(path.relative_to(root)) for path in root.rglob(pattern))


VALUES = [0.10, 0.50, -1.0, 0.20, 0.90, 0.30, 0.80, -1.0, 0.70, 0.60, 0.40, 0.85]
BEST_FIVE = {4, 6, 8, 9, 11}


@pytest.mark.parametrize("torn", ["", '{"val', "{}", "[]", '{"value": "a"}', '{"value": null}'])
def test_a_torn_note_about_weights_ends_nothing(tmp_path: Path, torn: str) -> None:
    (tmp_path / RETRAINED).write_text(torn)
    assert retrained_value(tmp_path / "best.pt") is None


@pytest.mark.parametrize("value", [0.7, None])
def test_a_note_about_weights_tells_their_value(tmp_path: Path, value: float | None) -> None:
    note_retrained(tmp_path / "best.pt", value, ["torch was 2.9, is 2.10"])
    assert retrained_value(tmp_path / "best.pt") == value


def test_the_best_five_and_the_default_keep_their_weights(tmp_path: Path) -> None:
    run_all(tmp_path, VALUES, keep="best")
    assert with_weights(tmp_path) == {0} | BEST_FIVE
    arrays = {Path(name).parent.name for name in left(tmp_path, "*.npz")}
    assert arrays == {f"{number:04d}" for number in {0} | BEST_FIVE}
    assert left(tmp_path, LAST) == []


def test_a_study_from_before_the_choice_keeps_all_completed_trials(tmp_path: Path) -> None:
    run_all(tmp_path, VALUES)
    complete = {number for number, value in enumerate(VALUES) if value > 0}
    assert with_weights(tmp_path) == complete
    run_all(tmp_path, VALUES, keep="best")  # given once, it is kept
    assert with_weights(tmp_path) == {0} | BEST_FIVE
    assert '"keep": "best"' in (tmp_path / "toy/study.json").read_text()


def test_what_a_repeat_left_when_it_was_killed_is_removed_at_the_next_start(
    tmp_path: Path,
) -> None:
    run_all(tmp_path, [0.5, 0.6, 0.7], repeats=2, keep="best")
    folder = next((tmp_path / "toy/trials").glob("*/repeat-*"))
    for name in (BEST, LAST, "embeddings-val-0001.npz"):
        (folder / name).touch()
    run_all(tmp_path, [0.5, 0.6, 0.7], repeats=2, keep="best")
    assert left(folder, BEST) + left(folder, LAST) + left(folder, "*.npz") == []


def test_repeats_leave_nothing_but_their_record(tmp_path: Path) -> None:
    study = run_all(tmp_path, [0.5, 0.6, 0.7], repeats=2, keep="best")
    assert len(study.finals()) == 4
    folders = list((tmp_path / "toy/trials").glob("*/repeat-*"))
    assert len(folders) == 4
    assert [left(folder, BEST) + left(folder, "*.npz") for folder in folders] == [[]] * 4


def test_trials_that_were_repeated_stay_when_better_ones_come(tmp_path: Path) -> None:
    first = [0.5, 0.6]
    run_all(tmp_path, first, repeats=1, keep="best")
    run_all(tmp_path, first + [0.7 + number / 100 for number in range(8)], 1, keep="best")
    assert with_weights(tmp_path) == {0, 1} | {5, 6, 7, 8, 9}


def test_arrays_of_a_trainables_own_stay(tmp_path: Path) -> None:
    study = open_study(tmp_path, 3, keep="best")
    while (work := study.next_work()) is not None:
        assert work != "wait"
        if work.kind == "baseline":
            study.ended(work, Outcome("COMPLETE", metrics={"baseline/val/top1": 0.1}))
            continue
        Path(work.directory).mkdir(parents=True)
        (Path(work.directory) / "own.npz").touch()
        fake_run(study, work, 0.5, "PRUNED")
    study.close()
    assert len(left(tmp_path, "own.npz")) == 3
    assert left(tmp_path, "embeddings*") == []


def test_a_study_of_an_earlier_version_holds_what_it_starts_from(tmp_path: Path) -> None:
    run_all(tmp_path, VALUES[:4])  # keeps the weights of all
    base = {**manifest().base, "init.origin": "toy/3", "init.file": "/elsewhere/best.pt"}
    (tmp_path / "other").mkdir()
    replace(manifest(name="other"), base=base).write(tmp_path / "other/study.json")
    pin_for_others(tmp_path / "toy")
    run_all(tmp_path, VALUES, keep="best")
    assert with_weights(tmp_path) == {0, 3} | BEST_FIVE


def test_what_another_study_starts_from_stays(tmp_path: Path) -> None:
    run_all(tmp_path, VALUES[:4], keep="best")
    pin(tmp_path / "toy/trials/0003" / BEST)
    run_all(tmp_path, VALUES, keep="best")
    assert with_weights(tmp_path) == {0, 3} | BEST_FIVE
    assert (tmp_path / "toy/trials/0003" / PIN).exists()


class Killed(BaseException):
    """Like a kill, not caught by anything."""


@pytest.mark.parametrize("nth", range(0, 38, 4))
def test_a_kill_at_any_removal_loses_nothing_that_is_needed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, nth: int
) -> None:
    unlink = Path.unlink
    count = 0

    def killed_at_the_nth(path: Path, missing_ok: bool = False) -> None:
        nonlocal count
        if path.name in (BEST, LAST) or path.suffix == ".npz":
            count += 1
            if count > nth:
                raise Killed
        unlink(path, missing_ok=missing_ok)

    with monkeypatch.context() as patched:
        patched.setattr(Path, "unlink", killed_at_the_nth)
        with pytest.raises(Killed):
            run_all(tmp_path, VALUES, repeats=1, keep="best")
    folders = {int(path.name) for path in (tmp_path / "toy/trials").iterdir()}
    begun = [number for number in folders if VALUES[number] > 0]
    best = sorted(begun, key=lambda number: -VALUES[number])[:5]
    assert set(best) <= with_weights(tmp_path)

    run_all(tmp_path, VALUES, repeats=1, keep="best")
    assert with_weights(tmp_path) == {0} | BEST_FIVE
    assert left(tmp_path, LAST) == []


@pytest.mark.heavy
def test_a_hundred_resnet50_trials_stay_under_two_gigabytes(tmp_path: Path) -> None:
    # ResNet50 without its 1,000-unit head: 23.5 M float32. BYOL's checkpoint: online and target
    # network with projectors, the predictor, and Adam's two moments for what trains.
    weights = 94 * MB
    online = weights + 38 * MB + 2 * MB
    checkpoint = online + (weights + 38 * MB) + 2 * online
    array = 600 * 2048 * 4
    study = open_study(tmp_path, 100, 6, keep="best")
    most = 0
    while (work := study.next_work()) is not None:
        assert work != "wait"
        if work.kind == "baseline":
            study.ended(work, Outcome("COMPLETE", metrics={"baseline/val/top1": 0.1}))
            continue
        study.started(work)
        folder = Path(work.directory)
        for name, size in [
            (BEST, weights),
            (LAST, checkpoint),
            ("last.pt.0123.partial", checkpoint),
            *((f"embeddings-{part}-{epoch}.npz", array) for part in "ab" for epoch in "123"),
        ]:
            with (folder / name).open("wb") as file:
                file.truncate(size)
        most = max(most, disk_use(study.directory).total)
        (folder / "last.pt.0123.partial").unlink()
        number = work.id.trial or 0
        value = (number * 37 % 101) / 101  # each is better than some and worse than others
        if work.kind == "trial":
            study.reported(work, 1, {"val/top1": value})
        metrics = {"best/val/top1": value, "test/top1": value}
        study.ended(work, Outcome("COMPLETE", value, None, metrics))
    study.close()

    rest = disk_use(study.directory)
    assert len(study.finals()) == 12
    assert rest.models == 6
    assert rest.total < 0.8e9
    assert most < 2e9
    assert rest.sentence.startswith("on disk: 7")


@pytest.mark.parametrize(
    ("size", "said"),
    [(0, "0 kB"), (40_400, "40 kB"), (4.21e6, "4.2 MB"), (612e6, "612 MB"), (1.34e9, "1.3 GB")],
)
def test_sizes_are_told_in_two_or_three_digits(size: float, said: str) -> None:
    assert megabytes(size) == said


def test_the_plan_names_what_is_kept() -> None:
    said = expected_disk(100, 12, "best", 94.0, 500.0)
    assert said == (
        "disk: 94 MB of weights a run, kept for at most 6 (--keep best): 564 MB; up to 1.1 GB more "
        "per running trial"
    )
    assert "kept for at most 112 (--keep all): 10.5 GB" in expected_disk(
        100, 12, "all", 94.0, 500.0
    )
