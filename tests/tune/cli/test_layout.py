"""`--layout` and `data.domain`: how a study reads a folder, and what a later start keeps."""

from pathlib import Path

import pytest

from tests.trainables.data.test_oddities import paint
from trainables.errors import UserError
from tune.cli.options import Options
from tune.cli.prepare import Prepared, prepare
from tune.experiment_file import find_experiment
from tune.study.group import manifest_in, member_name


@pytest.fixture
def data(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder that can be read as splits or as classes."""
    monkeypatch.setenv("VISTUNE_CACHE", str(tmp_path / "cache"))
    root = tmp_path / "set"
    paint(root, "{train,docs}/{0..9}.png")
    return root


def prepared(data: Path, storage: Path | None = None, **typed: object) -> Prepared:
    storage = storage or data.parent / "runs"
    options = Options(
        experiment="pretrain",
        data=str(data),
        preset="tiny",
        storage=str(storage),
        **typed,  # type: ignore[arg-type]
    )
    return prepare(options, find_experiment("pretrain"), storage)


def begin(study: Prepared) -> None:
    study.directory.mkdir(parents=True)
    study.manifest.reconcile_with(study.directory / "study.json")


def test_a_study_keeps_the_layout_that_it_began_with(data: Path) -> None:
    with pytest.raises(UserError, match=r"train/ of .* looks like a split, docs/ not"):
        prepared(data)
    study = prepared(data, layout="folder-per-class")
    assert study.data.classes == ("docs", "train")
    begin(study)

    again = prepared(data)
    assert again.manifest.base["data.layout"] == "folder-per-class"
    kept = again.manifest.reconcile_with(study.directory / "study.json")
    assert kept.data["fingerprint"] == study.manifest.data["fingerprint"]


def test_another_way_to_the_same_images_is_the_same_study(data: Path) -> None:
    """Only the content counts, as for a folder that was moved."""
    pets = data.parent / "pets"
    paint(pets, "{Art,Photo}/{cat,dog}/{0..9}.png")
    begin(prepared(pets, set=["data.domain=Art"]))
    inside = prepared(pets / "Art", data.parent / "runs")
    inside.manifest.reconcile_with(inside.directory / "study.json")
    other = prepared(pets, set=["data.domain=Photo"])
    with pytest.raises(UserError, match="exists with another configuration"):
        other.manifest.reconcile_with(other.directory / "study.json")


def test_the_layout_has_an_option_of_its_own(data: Path) -> None:
    with pytest.raises(UserError, match=r"--set data\.layout: use --layout csv"):
        prepared(data, set=["data.layout=csv"])
    with pytest.raises(UserError, match="--layout 'coco' is not a layout; valid: auto, csv, "):
        prepared(data, layout="coco")


def side(storage: Path, setting: str, *pins: str) -> Prepared:
    """One side of `fewshot --compare shots`, as the comparison prepares it."""
    group = "fewshot-shots"
    options = Options(
        experiment="fewshot",
        data="digits",
        preset="tiny",
        setting=setting,
        study=member_name(group, setting),
        storage=str(storage),
        set=["val.way=2", "episode.way=5", *pins],
    )
    beside = manifest_in(storage / group)
    return prepare(options, find_experiment("fewshot"), storage, beside=beside)


def test_all_sides_of_a_comparison_split_images_by_the_rules_of_the_first(tmp_path: Path) -> None:
    """A table that an earlier version began can be continued."""
    storage = tmp_path / "runs"
    assert side(storage, "K5").manifest.base["data.split"] == 3
    begin(side(storage, "K1", "data.split=2"))
    assert side(storage, "K5").manifest.base["data.split"] == 2
