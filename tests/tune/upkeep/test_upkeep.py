"""Rename, archive, delete and bundle change folder, MLflow and registry together, whatever is
killed."""

import json
import shutil
import sys
import tarfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from filelock import FileLock

from tests.commands import Call
from tests.disks import fill, small_disk
from tests.mlflow_store import begin_store, rows, store
from tests.studies import POOR, events, finish, finished, manifest, open_study, reports
from tests.toy import TOY
from trainables.errors import UserError
from trainables.files import content_hash
from tune import report
from tune.execution.local import search_locally
from tune.reports.storage import study_folders
from tune.study.group import Group
from tune.study.identity import study_id
from tune.study.manifest import read_manifest
from tune.study.record import read_record
from tune.study.study import Study
from tune.tracking.tracker import Tracker
from tune.upkeep import actions
from tune.upkeep.bundle import bundle
from tune.upkeep.kept import named_folders
from tune.upkeep.mlflow_side import MlflowSide

Report = Callable[..., str]


@pytest.fixture
def root(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A storage with a study of four trials, and no MLflow."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    folder = tmp_path / "runs"
    folder.mkdir()
    finished(folder, 4, base=POOR)
    return folder


@pytest.fixture
def type_report(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Report:
    """Run a command of `tune/report.py`, and return what it printed, which may be a refusal."""

    def type_report(*words: str) -> str:
        monkeypatch.setattr(sys, "argv", ["tune/report.py", *words])
        with pytest.raises(SystemExit) as left:
            report.main()
        said = capsys.readouterr()
        assert left.value.code == (2 if said.err else 0), said.err
        return said.out + said.err

    return type_report


def drawn(root: Path, folder: Path, trials: int) -> list[dict[str, Any]]:
    """Parameters of the trials of a study that is extended to this many trials."""
    study = Study.open(folder, TOY, manifest(name=folder.name, base=POOR), trials=trials, repeats=2)
    search_locally(study, TOY)
    found = [trial.params for trial in study.frozen_trials()]
    seeds = sorted({seed for _, seed in study.repeats})
    study.close()
    return [*found, {"seeds": seeds}]


def test_a_renamed_study_draws_and_repeats_as_it_would_have(root: Path) -> None:
    shutil.copytree(root, root.with_name("undisturbed"))
    place = actions.rename(root, root / "toy", "other", MlflowSide(root))

    assert place == root / "other"
    assert not (root / "toy").exists()
    manifest = read_manifest(place / "study.json")
    assert (manifest.name, manifest.identity) == ("other", "toy")
    undisturbed = root.with_name("undisturbed")
    assert drawn(root, place, 7) == drawn(undisturbed, undisturbed / "toy", 7)
    assert len(read_record(place).frozen_trials()) == 7

    back = actions.rename(root, place, "toy", MlflowSide(root))
    assert read_manifest(back / "study.json").begun_as is None


def test_a_rename_that_was_killed_is_repeated(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The kill comes after the log and the manifest were changed, and before the folder was."""
    monkeypatch.setattr(MlflowSide, "rename_model", lambda *_: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        actions.rename(root, root / "toy", "other", MlflowSide(root))
    monkeypatch.undo()

    actions.rename(root, root / "toy", "other", MlflowSide(root))
    log = (root / "other" / "events.jsonl").read_text()
    assert log.count('"event":"rename"') == 1


def test_names_that_cannot_be_are_refused(root: Path, type_report: Report) -> None:
    (root / "there").mkdir()
    for name, said in (
        ("archived", "vistune: 'archived' belongs to the storage itself"),
        ("a/b", "vistune: 'a/b' must be letters, digits, '.', '_' and '-'"),
        ("there", f"vistune: {root / 'there'} already exists"),
    ):
        assert said in type_report("rename", "toy", name, "--yes")
    assert (root / "toy" / "study.json").exists()


def test_a_study_that_runs_is_left_alone(root: Path, type_report: Report) -> None:
    study = open_study(root, 5, base=POOR)
    for words in (("rename", "toy", "other"), ("archive", "toy"), ("delete", "toy")):
        said = type_report(*words, "--yes")
        assert "vistune: study 'toy' is being run by another process" in said
    study.close()
    assert [folder.name for folder in study_folders(root)] == ["toy"]


def test_a_study_that_is_being_sent_is_left_alone(root: Path) -> None:
    """`report.py sync` and vistune-ui would restore deleted runs."""
    side = MlflowSide(root)
    with FileLock(root / "toy" / "tracking.lock"):
        for action in (actions.delete, actions.archive):
            with pytest.raises(UserError, match="'toy' is being sent to MLflow by another process"):
                action(root, [root / "toy"], side)
    assert (root / "toy" / "study.json").exists()

    actions.archive(root, [root / "toy"], side)
    assert study_folders(root) == []


def test_nothing_is_done_without_a_yes(root: Path, type_report: Report) -> None:
    for words in (("rename", "toy", "other"), ("archive", "toy"), ("delete", "toy")):
        said = type_report(*words)
        assert f"{root / 'toy'}: 4 trials; " in said
        assert "without being asked, add --yes" in said
    assert [folder.name for folder in study_folders(root)] == ["toy"]


def test_archived_studies_are_in_no_list_and_come_back(root: Path, type_report: Report) -> None:
    before = events(root)
    said = type_report("archive", "toy", "--yes")
    assert "archive toy --undo` brings it back" in said
    assert study_folders(root) == []
    assert (root / "archived" / "toy" / "study.json").exists()

    type_report("archive", "toy", "--undo")
    assert events(root) == before


def test_a_deleted_study_is_gone(root: Path, type_report: Report) -> None:
    assert "deleted toy" in type_report("delete", "toy", "--yes")
    assert list(root.iterdir()) == []
    assert "no study 'toy'" in type_report("delete", "toy", "--yes")


def depend(source: Path, folder: Path) -> str:
    """Make a study that starts from trial 0 of another one, and return the SHA-256 of its
    weights."""
    weights = source / "trials" / "0000" / "best.pt"
    sha256 = content_hash(weights)
    shutil.copytree(source, folder)
    path = folder / "study.json"
    about = json.loads(path.read_text())
    origin = f"{source.name}/0"
    about["base"] |= {"init.file": str(weights), "init.sha256": sha256, "init.origin": origin}
    path.write_text(json.dumps(about))
    return sha256


def test_a_study_whose_removal_was_killed_is_in_no_list(
    root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patched:
        patched.setattr(shutil, "rmtree", lambda *_, **__: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            actions.delete(root, [root / "toy"], MlflowSide(root))
    assert study_folders(root) == []
    assert list(root.glob("*/events.jsonl")) == []

    finished(root, 4, base=POOR)
    actions.delete(root, [root / "toy"], MlflowSide(root))
    assert list(root.iterdir()) == []


def test_a_study_is_deleted_from_a_full_disk(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The full disk may be the reason for deleting it."""
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    with small_disk(tmp_path / "disk") as disk:
        finished(disk, 2)
        filler = fill(disk)
        actions.delete(disk, [disk / "toy"], MlflowSide(disk))
        assert list(disk.iterdir()) == [filler]


def test_the_next_start_finishes_a_removal_that_was_killed(
    root: Path, monkeypatch: pytest.MonkeyPatch, call: Call
) -> None:
    monkeypatch.delenv("MLFLOW_TRACKING_URI")
    with monkeypatch.context() as patched:
        patched.setattr(shutil, "rmtree", lambda *_, **__: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            actions.delete(root, [root / "toy"], MlflowSide(root))
    assert list(root.rglob("best.pt"))

    refused = call("toy", "--study", "../else", "--local")
    assert refused.code == 2
    assert list(root.iterdir()) == []


def test_weights_that_another_study_starts_from_outlive_their_study(root: Path) -> None:
    sha256 = depend(root / "toy", root / "fine")
    said = actions.description(root, [root / "toy"], MlflowSide(root))
    assert said[1] == "study fine starts from its weights, which are kept for it"
    actions.delete(root, [root / "toy"], MlflowSide(root))
    assert content_hash(root / "backbones" / f"{sha256[:16]}.pt") == sha256


def test_weights_are_kept_though_the_storage_was_moved(root: Path) -> None:
    """The study that starts from them may be archived."""
    sha256 = depend(root / "toy", root / "archived" / "fine")
    moved = root.rename(root.with_name("moved"))
    kept = moved / "backbones" / f"{sha256[:16]}.pt"
    kept.parent.mkdir()
    kept.write_bytes(b"half")  # left by a kill of an earlier version

    actions.delete(moved, [moved / "toy"], MlflowSide(moved))
    assert content_hash(kept) == sha256


def test_a_bundle_is_a_study_elsewhere(root: Path, tmp_path: Path, type_report: Report) -> None:
    said = type_report("bundle", "toy")
    assert said.startswith("toy.tar.gz: ")
    assert "run the code that comes with it" in said
    assert "toy.tar.gz already exists" in type_report("bundle", "toy")

    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    with tarfile.open("toy.tar.gz") as archive:
        names = archive.getnames()
        archive.extractall(elsewhere, filter="data")
    assert "toy/report.html" in names
    assert any(name.endswith("best.pt") for name in names)
    assert not any("lock" in name or name.endswith("last.pt") for name in names)
    assert drawn(elsewhere, elsewhere / "toy", 6) == drawn(root, root / "toy", 6)

    type_report("bundle", "toy", "--no-weights", "--out", "small.tar.gz")
    with tarfile.open("small.tar.gz") as archive:
        assert not any(name.endswith("best.pt") for name in archive.getnames())


def test_a_bundle_of_a_study_that_runs_loses_nothing(
    root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The study runs to its end while the first file is packed."""
    study = Study.open(root / "toy", TOY, manifest(base=POOR), trials=7, repeats=0)
    add = tarfile.TarFile.addfile

    def meanwhile(archive: tarfile.TarFile, info: tarfile.TarInfo, content: Any = None) -> None:
        add(archive, info, content)
        if study.finished() == 4:
            search_locally(study, TOY)

    with monkeypatch.context() as patched:
        patched.setattr(tarfile.TarFile, "addfile", meanwhile)
        bundle([root / "toy"], tmp_path / "toy.tar.gz", overwrite=False)
    study.close()
    with tarfile.open(tmp_path / "toy.tar.gz") as archive:
        archive.extractall(tmp_path / "elsewhere", filter="data")

    elsewhere = tmp_path / "elsewhere"
    opened = Study.open(elsewhere / "toy", TOY, manifest(base=POOR), trials=7, repeats=0)
    assert opened.notes == ["study.journal lacked what events.jsonl has of trial 4, 5, 6: restored"]
    assert opened.next_work() is None
    opened.close()
    assert reports(elsewhere) == reports(root)
    best = read_record(elsewhere / "toy").best_number()
    assert (elsewhere / f"toy/trials/{best:04d}/best.pt").exists()


def test_a_bundle_has_nothing_of_this_machine(root: Path) -> None:
    study = root / "toy"
    kept = (
        *("csv/metrics.csv", "csv/.state.json", "trials/0000/net.ckpt"),
        *("trials/0000/wandb/log", "trials/0000/.hydra/config.yaml"),
    )
    left = (
        *(".holder.json", "trials/0000/.next.pt", "trials/0000/last.pt", ".lock"),
        *("tracking.json", "tracking-rejected.jsonl", "tracking.lock", "wandb.lock"),
        *("wandb/finished.json", "wandb/wandb/run-1/logs/debug.log"),
    )
    for name in (*kept, *left):
        path = study / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("")

    out = study / "toy.tar.gz"
    for _ in range(2):
        bundle([study], out, overwrite=True)
        with tarfile.open(out) as archive:
            names = {name.removeprefix("toy/") for name in archive.getnames()}
        assert names.isdisjoint({*left, out.name})
        assert names >= {*kept, "study.json", "events.jsonl", "study.journal"}


@pytest.mark.slow
def test_mlflow_and_its_registry_follow(root: Path, type_report: Report) -> None:
    import mlflow

    begin_store(root)
    Tracker(root / "toy").sync()
    client = mlflow.MlflowClient(f"sqlite:///{root}/mlflow.db")
    run = store(root)["toy"]["id"]
    client.create_registered_model("toy", tags={"study": "toy"})
    client.create_model_version("toy", str(root / "toy"), run)
    client.set_registered_model_alias("toy", "champion", "1")
    ids = {name: found["id"] for name, found in store(root).items()}

    said = type_report("rename", "toy", "other", "--yes")
    assert "5 runs in MLflow; registered model, version 1" in said
    renamed = store(root)
    assert set(renamed) == {"other", *(f"trial-{n:03d}" for n in range(4))}
    assert {found["tags"]["study"] for found in renamed.values()} == {"other"}
    assert renamed["other"]["id"] == ids["toy"]
    assert str(client.get_model_version_by_alias("other", "champion").version) == "1"

    # A database that is filled anew has the same.
    anew = root.with_name("anew")
    shutil.copytree(root / "other", anew / "other")
    begin_store(anew)
    Tracker(anew / "other").sync()
    tags = {name: found["tags"]["study"] for name, found in store(anew).items()}
    assert tags == dict.fromkeys(renamed, "other")

    type_report("archive", "other", "--yes")
    assert store(root) == {}
    type_report("archive", "other", "--undo")
    assert set(store(root)) == set(renamed)

    type_report("delete", "other", "--yes")
    assert store(root) == {}
    assert rows(root / "mlflow.db", "SELECT name FROM registered_models") == []


@pytest.mark.slow
def test_models_of_other_studies_stay(root: Path, type_report: Report) -> None:
    """They share a registered model with an archived study or another storage of that name."""
    import mlflow

    begin_store(root)
    client = mlflow.MlflowClient(f"sqlite:///{root}/mlflow.db")

    def versions(name: str) -> list[int]:
        found = client.search_model_versions(f"name = '{name}'")
        return sorted(int(version.version) for version in found)

    Tracker(root / "toy").sync()
    client.create_registered_model("toy")
    client.create_model_version("toy", str(root), store(root)["toy"]["id"])
    type_report("archive", "toy", "--yes")
    assert versions("toy") == [1]

    later = finish(root, 1, base=POOR)
    identity = study_id(events(root)[0])
    Tracker(later.directory).sync()
    client.create_model_version("toy", str(root), store(root)["toy"]["id"])
    client.create_model_version("toy", str(root), tags={"study.id": identity})
    said = type_report("rename", "toy", "other", "--yes")
    assert "registered model, version 2, 3" in said
    assert "'toy' has versions of other studies too (1), which would be renamed" in said
    assert read_manifest(root / "toy" / "study.json").name == "toy"
    type_report("delete", "toy", "--yes")
    assert versions("toy") == [1]

    type_report("archive", "toy", "--undo")
    client.create_registered_model("taken")
    said = type_report("rename", "toy", "taken", "--yes")
    assert "MLflow has a registered model 'taken' already" in said
    assert read_manifest(root / "toy" / "study.json").name == "toy"
    assert '"event":"rename"' not in (root / "toy" / "events.jsonl").read_text()
    type_report("delete", "toy", "--yes")
    assert versions("toy") == []


def begin_pair(root: Path) -> None:
    """Begin a comparison `pair` of two studies, and a third study whose name looks like one of
    them."""
    group = Group.open(root / "pair", "toy", "val/top1", ["optim.lr"])
    for name in ("pair-A", "pair-B", "pair-C"):
        about = manifest(name=name, base=POOR)
        member = None if name == "pair-C" else group
        Study.open(root / name, TOY, about, trials=1, repeats=0, group=member).close()


def killed_renaming(monkeypatch: pytest.MonkeyPatch, call: Callable[[], object]) -> None:
    """Run something that dies when it renames its second folder."""
    rename = Path.rename
    renamed: list[Path] = []

    def dying(path: Path, target: Path) -> Path:
        renamed.append(path)
        if len(renamed) == 2:
            raise ZeroDivisionError
        return rename(path, target)

    with monkeypatch.context() as patched:
        patched.setattr(Path, "rename", dying)
        with pytest.raises(ZeroDivisionError):
            call()


def test_a_comparison_of_which_a_part_is_gone_is_found_again(
    root: Path, type_report: Report, monkeypatch: pytest.MonkeyPatch
) -> None:
    begin_pair(root)
    side = MlflowSide(root)
    for command, action, place in (
        ("archive pair --yes", actions.archive, root),
        ("archive pair --undo", actions.restore, root / "archived"),
        ("delete pair --yes", actions.delete, root),
    ):
        folders = named_folders(place, "pair")
        assert len(folders) == 3
        killed_renaming(monkeypatch, lambda a=action, f=folders: a(root, f, side))
        type_report(*command.split())
        left = {folder.name for folder in place.iterdir()} if place.exists() else set()
        assert not left & {"pair", "pair-A", "pair-B"}
    assert sorted(folder.name for folder in root.iterdir()) == ["pair-C", "toy"]


def test_a_comparison_goes_with_all_of_its_studies(root: Path, type_report: Report) -> None:
    begin_pair(root)
    said = type_report("rename", "pair-A", "other", "--yes")
    assert "pair-A belongs to a comparison, whose studies carry its name" in said
    assert "pair is a comparison, whose studies carry its name" in type_report(
        "rename", "pair", "other", "--yes"
    )
    type_report("archive", "pair", "--yes")
    assert sorted(folder.name for folder in study_folders(root)) == ["pair-C", "toy"]
    type_report("archive", "pair", "--undo")
    type_report("delete", "pair", "--yes")
    assert sorted(folder.name for folder in root.iterdir()) == ["pair-C", "toy"]
