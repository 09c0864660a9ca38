"""The card of an exported model says only what is on record."""

import json
import re
from pathlib import Path

import numpy as np
import pytest
from scipy import stats

from tests.studies import POOR, finished
from trainables.served import DESCRIPTION
from tune.export import FORMATS, Exported
from tune.reports.doubts import doubts
from tune.reports.model_card import write_card
from tune.reports.selection import selection
from tune.reports.verdict import judge_study
from tune.study.record import Record, read_record


@pytest.fixture(scope="module")
def record(tmp_path_factory: pytest.TempPathFactory) -> Record:
    root = tmp_path_factory.mktemp("studies")
    finished(root, 4, repeats=3, base=POOR)
    return read_record(root / "toy")


def card(record: Record, folder: Path, kind: str = "Classifier", format: str = "onnx") -> str:
    number = record.best_number()
    assert number is not None
    about = {
        "kind": kind,
        "classes": ["ant", "bee|wasp"],
        "config": {"backbone.name": "tiny", "data.image_size": 28},
    }
    folder.mkdir()
    (folder / DESCRIPTION).write_text(json.dumps(about))
    value = record.completed[number]
    exported = Exported(
        folder, record.folder, number, record.objective, value, value - 1e-4, format, 5e-7
    )
    return write_card(exported).read_text()


def test_test_metrics_are_those_of_the_repeats_with_students_interval(
    record: Record, tmp_path: Path
) -> None:
    text = card(record, tmp_path / "model")
    number = record.best_number()
    rows = re.findall(r"\| (test/\S+) \| (\S+) \[(\S+), (\S+)\] \| (\d+) \| seeds", text)
    assert rows
    for name, mean, low, high, seeds in rows:
        finals = record.finals()
        scores = np.array([m[name] for (trial, _), m in finals.items() if trial == number])
        half = stats.t.ppf(0.975, len(scores) - 1) * stats.sem(scores)
        shown = [float(mean), float(low), float(high)]
        around = [scores.mean(), scores.mean() - half, scores.mean() + half]
        expected = np.clip(around, 0, 1)  # an accuracy lies in [0, 1]
        np.testing.assert_allclose(shown, expected, atol=6e-5)
        assert int(seeds) == len(scores) == 3


def test_it_says_what_the_other_pages_say(record: Record, tmp_path: Path) -> None:
    text = card(record, tmp_path / "model")
    verdict = judge_study(record)
    chosen = selection(record, len(record.trials))
    assert verdict is not None
    assert verdict.sentence in text
    assert chosen is not None
    assert chosen.label in text
    for doubt in doubts(record, record.folder.parent):
        assert f"- {doubt}\n" in text

    manifest = record.manifest
    number = record.best_number()
    assert text.startswith(f"# toy/{number}\n\nA classifier: tiny, trained by vistune's `toy` on ")
    for fact in (manifest.created, manifest.versions["torch"], manifest.data["fingerprint"]):
        assert str(fact) in text
    for name, value in record.trials[number or 0].config.items():
        if isinstance(value, int | str):
            assert f"| {name} | {value} |" in text
    assert "ant, bee|wasp" in text
    assert f"the record has {record.completed[number or 0]:.4f}." in text
    assert "differ from the trained network's by at most 5.0e-07" in text


@pytest.mark.parametrize("format", FORMATS)
def test_code_to_load_it_is_python(record: Record, tmp_path: Path, format: str) -> None:
    text = card(record, tmp_path / "model", format=format)
    (code,) = re.findall(r"```python\n(.*?)```", text, re.DOTALL)
    compile(code, format, "exec")
    assert "{" not in code.replace("{k.removeprefix", "").replace('{"images"', "")
    sections = ["Use", "Data", "Results", "Configuration", "Limits", "Lineage"]
    assert re.findall(r"^## (.*)", text, re.MULTILINE) == sections


def test_a_trial_that_was_not_repeated_has_no_test_metrics(tmp_path: Path) -> None:
    finished(tmp_path, 2)
    text = card(read_record(tmp_path / "toy"), tmp_path / "model", kind="BYOL")
    assert "nothing is known about the test split" in text
    assert "test/" not in text
