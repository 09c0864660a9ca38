"""Resolve what a setting starts from: random initialization, a file of weights, the best trial of
another study, or a backbone that `download.py` fetches."""

import re
import shutil
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

from search_spaces import classify
from search_spaces.settings import Setting
from trainables.config import nearest
from trainables.errors import UserError
from trainables.files import BEST, content_hash
from tune.backbones.download import MLFLOW, TORCHVISION, from_mlflow, from_torchvision
from tune.backbones.timm_weights import TIMM, from_timm
from tune.command_line import command, replay_command
from tune.experiments import Experiment
from tune.object_store import s3
from tune.study.identity import STUDY_NAME
from tune.study.manifest import read_manifest
from tune.study.record import Record, read_record
from tune.study.work import WorkId

DEFAULT_STUDY = {"supervised": "pretrain", "ssl": "ssl"}
"""Source of a backbone -> the study whose best trial is used, unless --backbone says otherwise."""


@dataclass(frozen=True)
class Origin:
    """A weights file and where it came from."""

    path: Path
    study: str | None = None
    trial: int | None = None
    source: str = ""
    """The name by which it was requested, if that is neither a file nor a study."""
    normalize: str = ""
    """Normalization of its input images, if only its publisher specifies it and not the file."""

    def config(self) -> dict[str, Any]:
        """Return the flat config values of a classifier that starts from it, including the content
        hash and the normalization.

        Raises:
            UserError: the file is missing or not a weights file.
        """
        # imported here: it needs torch, which a refusal need not wait for
        from trainables.backbone.export import load_backbone_meta

        meta = load_backbone_meta(self.path)
        found = {
            "init.file": str(self.path),
            "init.sha256": content_hash(self.path),
            "init.origin": str(self),
        }
        if self.source.startswith(TORCHVISION):
            meta = {"normalize": "imagenet"}
        if self.normalize:
            meta = {"normalize": self.normalize}
        return found | ({"normalize": meta["normalize"]} if "normalize" in meta else {})

    def __str__(self) -> str:
        return self.source or (
            self.path.name if self.study is None else f"{self.study}/{self.trial}"
        )


def choose(experiment: Experiment, setting: str | None, backbone: str | None) -> Setting | None:
    """Return the setting with this name; None for a study without a setting.

    Raises:
        UserError: the setting is missing, unknown or not applicable, or the backbone is not
            applicable.
    """
    if setting is None and "" not in experiment.comparisons:
        if backbone is not None and experiment.loaded_space is None:
            raise UserError(
                f"--backbone {backbone}: {experiment.name} always starts from scratch; --backbone "
                "is for classify and others"
            )
        return None
    if not experiment.settings:
        raise UserError(
            f"--setting {setting}: {experiment.name} has no settings; --setting is for classify, "
            "fewshot and ssl"
        )
    if setting is None or setting not in experiment.settings:
        raise UserError(
            f"unknown --setting {setting!r}{nearest(str(setting), experiment.settings)}"
        )
    found = experiment.settings[setting]
    if (
        backbone is not None
        and isinstance(found, classify.BackboneSetting)
        and found.init == "scratch"
    ):
        shown = ", ".join(f"{k} ({s.about})" for k, s in experiment.settings.items())
        raise UserError(
            f"--backbone {backbone}: setting {setting} starts from scratch; leave it out, or "
            f"choose one of {shown}"
        )
    return found


def in_setting(experiment: Experiment, setting: classify.BackboneSetting) -> Experiment:
    """Return the experiment with the search space of one of the settings A to E."""
    return replace(experiment, space=partial(classify.classify, setting=setting))


def from_backbone(
    experiment: Experiment, backbone: str, storage: Path, study: Path, architecture: str = ""
) -> tuple[Experiment, dict[str, Any]]:
    """Return the experiment with its space for a pretrained backbone, and the flat config values of
    that backbone. The arguments are those of `start_values`.

    Raises:
        UserError: there is no such backbone.
    """
    assert experiment.loaded_space is not None  # `choose` refuses the others
    values = recorded(study, backbone) or find(backbone, storage, architecture).config()
    return replace(experiment, space=experiment.loaded_space), {"init.source": "given"} | values


def start_values(
    setting: classify.BackboneSetting,
    backbone: str | None,
    storage: Path,
    study: Path,
    before: str,
    architecture: str = "",
) -> dict[str, Any]:
    """Return the flat config values of what the setting starts from. An existing study keeps the
    values that it has.

    Args:
        backbone: as in `find`; None: the best trial of the default study.
        study: folder of the study to start.
        before: options of the command to run first, if the default study is missing.
        architecture: `backbone.name` of the run.
    Raises:
        UserError: there is no such backbone.
    """
    if setting.init == "scratch":
        return {}
    if (values := recorded(study, backbone)) is not None:
        return values
    return (
        default(setting.init, storage, before)
        if backbone is None
        else find(backbone, storage, architecture)
    ).config()


def lineage_tags(base: dict[str, Any]) -> dict[str, str]:
    """Return tags for the study's run in MLflow."""
    return {
        f"lineage.{key}": base[f"init.{key}"]
        for key in ("origin", "file", "sha256")
        if base.get(f"init.{key}")
    }


def find(wanted: str, storage: Path, architecture: str = "") -> Origin:
    """Resolve PATH, STUDY (its best completed trial), STUDY/TRIAL, or what `download.py` and
    `timm_weights.py` know: torchvision[:WEIGHTS], timm[:TAG], models:/..., runs:/...

    Raises:
        UserError: it is none of them, or the study or trial has no backbone.
    """
    if wanted.partition(":")[0] == TORCHVISION:
        path, name = from_torchvision(wanted, architecture)
        return Origin(path, source=name)
    if wanted.partition(":")[0] == TIMM:
        path, name, normalize = from_timm(wanted, architecture)
        return Origin(path, source=name, normalize=normalize)
    if wanted.startswith(MLFLOW):
        return Origin(from_mlflow(wanted, storage), source=wanted)
    if (found := of_study(wanted, storage)) is not None:
        return found
    path = Path(wanted).expanduser().resolve()
    if not path.is_file():
        raise UserError(
            f"--backbone {wanted!r} is neither a file nor a study in {storage} "
            f"(`{command('report', 'show', storage=storage)}` lists them), nor torchvision, timm, "
            "models:/NAME/VERSION or runs:/RUN_ID/PATH"
        )
    return Origin(path)


def of_study(wanted: str, storage: Path) -> Origin | None:
    """Resolve STUDY (its best completed trial) or STUDY/TRIAL; None if there is no such study.

    Raises:
        UserError: the study or trial has no backbone.
    """
    match = re.fullmatch(rf"({STUDY_NAME})(?:/([0-9]+))?", wanted)
    if match is None or not (storage / match[1] / "study.json").exists():
        return None
    return _of_study(storage / match[1], None if match[2] is None else int(match[2]))


def default(source: str, storage: Path, options: str) -> Origin:
    """Return the best backbone of the source's default study. `options` are those of the command to
    run first.

    Raises:
        UserError: the study does not exist or has no completed trial.
    """
    study = DEFAULT_STUDY[source]
    first = f"run `{command('run', study)}{options}` first, or give --backbone PATH|STUDY[/TRIAL]"
    if not (storage / study / "study.json").exists():
        raise UserError(
            f"a backbone of study {study!r} is needed, and there is no such study in {storage}: "
            f"{first}"
        )
    if not read_record(storage / study).completed:
        raise UserError(
            f"a backbone of study {study!r} is needed, and none of its trials has been completed: "
            f"{first}"
        )
    return find(study, storage)


def recorded(study: Path, wanted: str | None) -> dict[str, Any] | None:
    """Return the config values of the backbone that an earlier start of this study used.

    The same command keeps this backbone, even if the other study has a better one by now. Return
    None if there was no earlier start, or `--backbone` requests another one.
    """
    if not (study / "study.json").exists():
        return None
    base = read_manifest(study / "study.json").base
    if not base.get("init.file"):
        return None
    values = where_backbone_is(
        {key: base[key] for key in ("init.file", "init.sha256", "init.origin", "normalize")},
        study.parent,
    )
    return values if wanted is None or _is_what_was_taken(wanted, values) else None


def _is_what_was_taken(wanted: str, values: dict[str, Any]) -> bool:
    """Compare --backbone with that of the first start. By now it may mean something else, or
    nothing on this machine."""
    origin: str = values["init.origin"]
    if wanted.startswith(MLFLOW):  # an alias may point elsewhere by now
        return wanted == origin
    path = Path(wanted).expanduser()
    # A file of the machine where the study started, of which the storage has a copy.
    if path.name == origin and not path.exists():
        return Path(values["init.file"]).is_file()
    return wanted == origin.rpartition("/")[0]


def where_backbone_is(values: dict[str, Any], storage: Path) -> dict[str, Any]:
    """Return the config values with the current path of the weights file (if any), because the
    study may have started on another machine."""
    if not values.get("init.file"):
        return values
    return values | {"init.file": str(found_weights(values, storage))}


def found_weights(values: dict[str, Any], storage: Path) -> Path:
    """Return the current path of the weights file; its recorded path if it is found nowhere."""
    known = Path(values["init.file"])
    sha256 = values["init.sha256"]
    study, _, trial = str(values["init.origin"]).rpartition("/")

    copies: list[Path] = []
    if study and trial.isdigit():
        copies.append(storage / study / "trials" / f"{int(trial):04d}" / BEST)
    copies.append(shelf(storage, sha256, known.suffix))

    for path in [known, *copies]:
        if path in copies:
            s3.present(path)
        if path.is_file() and content_hash(path) == sha256:
            return path

    return known


def for_every_machine(values: dict[str, Any], storage: Path) -> dict[str, Any]:
    """With object storage, copy an outside weights file into the storage, so that trials on other
    machines can fetch it."""
    known = Path(values.get("init.file", ""))
    if s3.address(storage) is None or not known.is_file() or s3.address(known) is not None:
        return values
    kept = shelf(storage, values["init.sha256"], known.suffix)
    kept.parent.mkdir(parents=True, exist_ok=True)
    shutil.copy(known, kept)
    return values | {"init.file": str(kept)}


def shelf(storage: Path, sha256: str, suffix: str) -> Path:
    """Return the path of weights that the storage keeps by content hash."""
    return storage / "backbones" / f"{sha256[:16]}{suffix}"


def _of_study(folder: Path, trial: int | None) -> Origin:
    record = read_record(folder)
    completed = record.completed
    if trial is None and (trial := record.best_number()) is None:
        raise UserError(f"no trial of study {folder.name!r} has been completed; resume it first")
    if trial not in completed:
        valid = ", ".join(map(str, sorted(completed))) or "none"
        raise UserError(
            f"trial {trial} of study {folder.name!r} is not complete; complete trials: {valid}"
        )
    path = s3.present(folder / "trials" / f"{trial:04d}" / BEST)
    if not path.is_file():
        raise UserError(not_kept(record, trial))
    return Origin(path, folder.name, trial)


def not_kept(record: Record, trial: int) -> str:
    """Say that the weights of a completed trial are gone, and how to restore them."""
    study = record.folder
    gone = f"the weights of trial {trial} of study {study.name!r} are not kept"
    kept = [
        str(number)
        for number in sorted(record.completed)
        if (WorkId(number).folder(study) / BEST).is_file()
    ]
    there = f" (those of {', '.join(kept)} are)" if kept else ""
    if record.manifest.function:
        return f"{gone}{there}; a study with --keep all keeps those of every trial"
    again = replay_command(record.manifest.typed_experiment, study, trial)
    return f"{gone}{there}; this trains it again and puts them back: {again}"
