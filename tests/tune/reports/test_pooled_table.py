"""One table over several searches, against SciPy's paired t test over them."""

import io
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from rich.console import Console
from scipy import stats

from trainables.classifier import ClassifierConfig
from trainables.config import build, flatten
from trainables.errors import UserError
from tune import report
from tune.experiments import EXPERIMENTS
from tune.reports.pooled_table import pool_searches
from tune.reports.pooled_text import pooled_choices, pooled_notes, show_pooled
from tune.reports.statistics import holm
from tune.study.events import EventLog
from tune.study.manifest import Manifest

NOISE = np.array([-0.01, 0.0, 0.01])
MEANS = {
    "A": [0.50, 0.52, 0.57],
    "B": [0.80, 0.71, 0.90],
    "C": [0.60, 0.64, 0.65],
    "D": [0.70, 0.72, 0.69],
    "E": [0.3, 0.31, 0.35],
}


def search(
    storage: Path,
    seed: int,
    means: dict[str, float],
    pins: dict[str, Any] | None = None,
    trials: int = 2,
    chosen: int = 1,
) -> Path:
    """Make the group's folder with studies whose trial 0 is the default."""
    for letter, mean in means.items():
        folder = storage / f"classify-{letter}"
        base = flatten(build(ClassifierConfig, EXPERIMENTS["classify"].presets["tiny"])) | {
            "seed": seed,
            "data.seed": seed,
        }
        base |= {
            "init.file": f"{storage}/{letter}",
            "init.sha256": str(seed),
            "init.origin": f"ssl/{seed}",
        }
        manifest = Manifest(
            name=folder.name,
            experiment="classify",
            preset="tiny",
            objective="val/top1",
            seed=seed,
            base=base | (pins or {}),
            pins=pins or {},
            space={"optim.lr": ["a range"]},
            data={"name": "glyphs", "fingerprint": f"of {seed}", "path": "glyphs", "images": 9},
        )
        folder.mkdir(parents=True)
        manifest.reconcile_with(folder / "study.json")
        log = EventLog(folder / "events.jsonl")
        for trial in range(trials):
            value = 0.5 + 0.1 * (trial == chosen)
            tests = mean - 0.2 * (trial == 0) + NOISE
            for repeat, test in [(None, 0.0), *enumerate(tests)]:
                said = {} if repeat is None else {"repeat": repeat}
                log.append(
                    "start",
                    trial=trial,
                    config=base | {"optim.lr": trial},
                    attempt=1,
                    resumed_epoch=None,
                    **said,
                )
                metrics = {"best/val/top1": value, "test/top1": float(test)}
                log.append(
                    "end",
                    trial=trial,
                    state="COMPLETE",
                    value=value,
                    reason=None,
                    metrics=metrics,
                    error=None,
                    **said,
                )
    return storage / "classify"


def searches(tmp_path: Path) -> list[Path]:
    return [
        search(tmp_path / str(seed), seed, {k: v[seed] for k, v in MEANS.items()})
        for seed in range(3)
    ]


def test_differences_are_the_paired_t_test_over_searches(tmp_path: Path) -> None:
    found = pool_searches(searches(tmp_path))
    references = {}
    for difference in found.differences:
        first, second = difference.name.split("-")
        references[difference.name] = reference = stats.ttest_rel(MEANS[first], MEANS[second])
        interval = reference.confidence_interval()
        gain = difference.gain
        assert [gain.low, gain.high, gain.p] == pytest.approx(
            [interval.low, interval.high, reference.pvalue]
        )
    assert list(references) == ["C-A", "C-B", "E-D", "B-A"]
    assert [d.p_holm for d in found.differences] == pytest.approx(
        holm([r.pvalue for r in references.values()])
    )
    for row, means in zip(found.rows, MEANS.values(), strict=True):
        assert list(row.accuracies.values()) == pytest.approx(means)
        assert list(row.defaults.values()) == pytest.approx([mean - 0.2 for mean in means])
        assert row.accuracy is not None
        low, high = stats.t.interval(0.95, 2, np.mean(means), stats.sem(means))
        assert [row.accuracy.low, row.accuracy.high] == pytest.approx([low, min(high, 1.0)])
    assert found.rows[1].accuracy is not None
    assert found.rows[1].accuracy.high == 1  # B's t interval reaches to 1.04, so it is clipped


def test_shown_with_a_column_a_search(tmp_path: Path) -> None:
    console = Console(width=150, record=True, file=io.StringIO())
    show_pooled(pool_searches(searches(tmp_path)), console)
    said = console.export_text()
    assert "seed 0  seed 1  seed 2" in said
    assert "A: scratch, all trains" in said
    assert "0.500   0.520   0.570   0.530" in said
    assert "no verdict: 5 searches are needed, 3 were asked for" in said


def test_searches_that_kept_their_default_are_counted_and_not_listed(tmp_path: Path) -> None:
    groups = [
        search(tmp_path / str(seed), seed, {k: v[seed] for k, v in MEANS.items()}, chosen=chosen)
        for seed, chosen in enumerate([0, 0, 1])
    ]
    table = pool_searches(groups)
    (kept,) = [note for note in pooled_notes(table) if "default" in note]
    assert kept.startswith("10 of 15 searches chose their default, trial 0: the table compares")
    assert set(pooled_choices(table)) == {f"{letter}, seed 2" for letter in "ABCDE"}
    assert set(pooled_choices(table).values()) == {"trial 1, optim.lr=1"}

    tuned = pool_searches(searches(tmp_path / "tuned"))
    assert not [note for note in pooled_notes(tuned) if "default" in note]


def test_the_command_over_storages(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    first, *others = (str(folder.parent) for folder in searches(tmp_path))
    monkeypatch.setattr(
        sys,
        "argv",
        [
            "report.py",
            "table",
            "--storage",
            first,
            *(word for other in others for word in ("--with", other)),
        ],
    )
    with pytest.raises(SystemExit) as left:
        report.main()
    assert left.value.code == 0
    assert "0.500   0.520   0.570   0.530" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("seed", "changes", "message"),
    [
        (0, {}, "the same seed, 0"),
        (
            1,
            {"pins": {"train.epochs": 3}},
            r"setting A differs in --set train.epochs, train.epochs",
        ),
        (1, {"trials": 3}, "setting A differs in the number of trials"),
    ],
)
def test_searches_that_are_not_the_same_study(
    tmp_path: Path, seed: int, changes: dict[str, Any], message: str
) -> None:
    means = {letter: values[0] for letter, values in MEANS.items()}
    folders = [
        search(tmp_path / "one", 0, means),
        search(tmp_path / "other", seed, means, **changes),
    ]
    with pytest.raises(UserError, match=message):
        pool_searches(folders)


def test_a_search_that_is_not_finished(tmp_path: Path) -> None:
    folders = [
        search(tmp_path / "one", 0, {k: v[0] for k, v in MEANS.items()}),
        search(tmp_path / "other", 1, {"A": 0.5}),
    ]
    with pytest.raises(
        UserError,
        match=r"other/classify: without repeats so far: B, C, D, E; "
        r"`\S+ \S+tune/run.py classify --storage \S+/other` resumes them",
    ):
        pool_searches(folders)
