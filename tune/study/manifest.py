"""The definition of a study: written once, compared at every later start."""

import difflib
import importlib.metadata
import json
import platform
import subprocess
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import asdict, dataclass, field, replace
from datetime import UTC, datetime
from functools import cache
from pathlib import Path
from types import UnionType
from typing import Any, get_args, get_origin, get_type_hints

from trainables.data_summary import DataSummary
from trainables.errors import UserError
from trainables.files import write_atomically
from tune.command_line import command
from tune.experiment_file import Code
from tune.search.space import SOMETIMES
from tune.study.rules import CURRENT, FIRST, LATER, Keep, check_known

PATH_KEYS = {
    "data.name": "data",
    "data.layout": "data",
    "data.domain": "data",
    "init.file": "init.sha256",
}
"""Config key of a path, or of the way to read it -> key that identifies the content. A study may be
resumed if the same content has another path."""
EARLIER_VALUES = {
    "data.split": 1,
    "data.group": "near",
    "data.transductive": False,
    "data.layout": "auto",
    "data.domain": "",
    "data.ignore": 255,
    "data.max_megapixels": 90,
    "data.judged": "square",
    "data.up": "unset",
    "data.on_device": "auto",
    "train.objective": "",
    "train.rules": 1,
    "train.ema": 0.0,
    "train.numerics": "as_set",
    "train.device": "auto",
    "train.compile_mode": "default",
}
"""Values of config keys in studies that began before the keys existed."""
EARLIER_BLOCKS: dict[str, dict[str, Any]] = {
    "loss.mixup": {"balance.by": "none", "balance.beta": 0.999},
    "head.tau0": {"normalize": "policy"},
    "episode.way": {"episode.every_support": False},
    "model.name": {"eval.scales": "1", "eval.flip": False},
    "schedule.step_every_frac": {
        "schedule.initial_frac": 0.04,
        "schedule.restarts": 2,
        "schedule.period_growth": 2.0,
        "schedule.plateau_gamma": 0.1,
        "schedule.plateau_patience_frac": 0.1,
        "schedule.plateau_threshold": 1e-4,
    },
}
"""The same for blocks that only some configs have: a key that marks such a config -> values."""
_SHOWN_DIFFERENCES = 6
_SOMETIMES = f" when {SOMETIMES}"
_PACKAGES = (
    "ray",
    "torch",
    "torchvision",
    "optuna",
    "mlflow",
    "byol-pytorch",
    "numpy",
    "scikit-learn",
)
_EXTRAS = ("lightly", "segmentation-models-pytorch", "timm")
"""Packages that results depend on if they are installed."""


def versions() -> dict[str, str]:
    """Versions of Python and of the packages that results depend on."""
    found = {"python": platform.python_version()}
    for name in _PACKAGES:
        found[name] = importlib.metadata.version(name)
    for name in _EXTRAS:
        with suppress(importlib.metadata.PackageNotFoundError):
            found[name] = importlib.metadata.version(name)
    return found


def git_commit() -> str | None:
    """Commit of this checkout, with a final `+` if files differ from it; None outside a
    checkout."""
    try:
        commit = _git("rev-parse", "HEAD").strip()
        changes = _git("status", "--porcelain", "-uno")
    except (OSError, subprocess.CalledProcessError):
        return None
    return f"{commit}+" if changes else commit


def _git(*arguments: str) -> str:
    here = Path(__file__).parent
    done = subprocess.run(["git", *arguments], cwd=here, capture_output=True, text=True, check=True)
    return done.stdout


@dataclass(frozen=True, kw_only=True)
class Manifest:
    """Contents of study.json. `experiment`, `preset`, `base`, `space`, `objectives`, the data's
    fingerprint and the study of the warm start define the study."""

    name: str
    experiment: str
    preset: str
    objective: str
    seed: int
    base: dict[str, Any]
    """Flat config of trial 0."""
    pins: dict[str, Any]
    """Config values set on the command line, or fixed at their default there; never searched."""
    space: dict[str, list[str]]
    """Searched parameter -> its ranges, with conditions."""
    data: dict[str, Any]
    """name, fingerprint, path, images, contents, summary (`DataSummary`; older studies have
    none)."""
    objectives: list[str] | None = None
    """All objectives if there are several, `objective` first; a minus before a metric means that
    smaller is better. None: `objective` alone."""
    ranges: dict[str, list[str]] | None = None
    """Searched parameter -> its ranges given by `--space`, in the syntax of that option; None: all
    are the experiment's own."""
    unsearched: list[str] = field(default_factory=list)
    """Pins that keep the default (`--no-search`)."""
    warm_start: dict[str, Any] | None = None
    """Study whose configurations are tried, and those configurations
    (`tune/study/warm_start.py`)."""
    rules: dict[str, str | int] = field(default_factory=CURRENT.copy)
    """Rule -> version (`tune/study/rules.py`)."""
    keep: str = "all"
    """Trials whose weights are kept (`tune/study/kept_files.py`): `best` or `all`. Studies that
    began before there was a choice keep all."""
    repeats: int | None = None
    """Repeats of each repeated trial, fixed before the first of them; None: not on record."""
    seen: dict[str, Any] | None = None
    """All data that the backbone was trained on, and how much of val and test is in it
    (`tune/backbones/seen.py`); None without a backbone."""
    search: int | None = None
    """Number of the search, from 1, if a comparison has several of each setting."""
    code: dict[str, Any] | None = None
    """File that holds the experiment: path, variable, sha256, text, and the experiment's `top`;
    `accepts` is the sha256 that it may replace, `earlier` lists those that the study had before.
    None for a built-in experiment."""
    source: dict[str, Any] | None = None
    """The same for a function that is not in a kept file, such as a notebook's, or for the `module`
    of an installed package: name, sha256, text, `accepts`, `earlier`."""
    function: bool = False
    """A function trains, so nothing is known about its model and its data."""
    control: dict[str, Any] | None = None
    """Source and number of images of the pre-training that sets the length of a control; None for
    other studies."""
    begun_as: str | None = None
    """Name under which the study began, if it has another name now."""
    versions: dict[str, str] = field(default_factory=versions)
    commit: str | None = field(default_factory=git_commit)
    created: str = field(default_factory=lambda: datetime.now(UTC).isoformat(timespec="seconds"))

    @property
    def identity(self) -> str:
        """Name that the study began with: seeds and Optuna's storage depend on it."""
        return self.name if self.begun_as is None else self.begun_as

    @property
    def typed_experiment(self) -> str:
        """The experiment as it is typed on the command line."""
        if self.code is None:
            return self.experiment
        return Code.from_json(self.code).typed

    @property
    def data_summary(self) -> DataSummary | None:
        """Summary of the data; None for a study that began before it was recorded."""
        value = self.data.get("summary")
        return None if value is None else DataSummary.from_json(value)

    def reconcile_with(self, path: Path) -> "Manifest":
        """Write this manifest, or return the one on disk if it describes the same study.

        Raises:
            UserError: the study on disk is another one; the message shows the differences.
        """
        if not path.exists():
            self.write(path)
            return self
        there = read_manifest(path)
        differences = self._differences(there)
        if differences:
            shown = differences[:_SHOWN_DIFFERENCES]
            hidden = len(differences) - len(shown)
            if hidden:
                shown.append(f"and {hidden} more")
            raise UserError(
                f"study {self.name!r} exists with another configuration: {'; '.join(shown)}. "
                f"Repeat the options that it began with{_space_options(there)}, "
                f"or give this study its own name: --study {self.name}-2"
            )
        repeats = max(self.repeats or 0, there.repeats or 0)
        kept = replace(there, base=self.base, repeats=repeats, keep=self.keep)
        code = self._accepted(there.code, self.code)
        source = self._accepted(there.source, self.source)
        if (code, source, self.keep) == (there.code, there.source, there.keep):
            return kept
        accepted = replace(kept, code=code, source=source)
        accepted.write(path)
        return accepted

    def _accepted(
        self, was: dict[str, Any] | None, now: dict[str, Any] | None
    ) -> dict[str, Any] | None:
        """Return the code of a file or function to record: the new code if it has changed.

        Raises:
            UserError: the code has changed, and the change was not accepted.
        """
        if now is None or was is None:
            return was
        earlier = was["sha256"]
        if now["sha256"] == earlier:
            return was
        if now.get("accepts") != earlier:
            raise UserError(_changed_code(self.name, was, now))

        code = {key: value for key, value in now.items() if key != "accepts"}
        code["earlier"] = [*was.get("earlier", []), earlier]
        return code

    def write(self, path: Path) -> None:
        """Write study.json atomically."""
        write_atomically(path, json.dumps(asdict(self), indent=1) + "\n")

    def _differences(self, there: "Manifest") -> list[str]:
        """List what differs in the definition of the study, as in `train.epochs was 4, is 9`."""
        mine = _identity(self)
        theirs = _identity(there)
        for path, content in PATH_KEYS.items():
            if mine.get(content) == theirs.get(content):
                mine.pop(path, None)
                theirs.pop(path, None)
        for key in [key for key in mine if key not in theirs and _is_hidden(mine[key])]:
            mine.pop(key)
        return [
            f"{key} was {_shown(theirs, key)}, is {_shown(mine, key)}"
            for key in dict.fromkeys([*mine, *theirs])
            if mine.get(key) != theirs.get(key)
        ]


def read_manifest(path: Path) -> Manifest:
    """Read the manifest in `path`. A study that began before rules had versions gets the first
    version of each.

    Raises:
        UserError: the file is missing or cannot be read.
    """
    try:
        fields = {"rules": FIRST} | json.loads(path.read_text())
        manifest = Manifest(**fields)
        if isinstance(manifest.rules, dict):
            manifest = replace(manifest, rules=LATER | manifest.rules)
        _check_kinds(manifest)
    except FileNotFoundError:
        show = command("report", "show", storage=path.parent.parent)
        raise UserError(
            f"no study in {path.parent}; `{show}` lists the studies there are"
        ) from None
    except OSError as error:
        raise UserError(f"{path} cannot be read: {error.strerror}") from None
    except (ValueError, TypeError) as error:
        raise UserError(
            f"{path} is not a study manifest of this version: {error}; restore it from a copy, or "
            "move it aside and repeat the command that the study began with"
        ) from None
    check_known(manifest.rules, manifest.name)
    return replace(manifest, base=with_earlier_values(manifest.base))


def _check_kinds(manifest: Manifest) -> None:
    """Check that values have the types that vistune writes: an editor may have changed them.

    Raises:
        TypeError, ValueError: a value has another type, or is not valid.
    """
    for name, kinds in _kinds().items():
        value = getattr(manifest, name)
        if not isinstance(value, kinds):
            raise TypeError(f"{name} cannot be {value!r}")
    if manifest.keep not in get_args(Keep):
        raise ValueError(f"keep cannot be {manifest.keep!r}")
    datetime.fromisoformat(manifest.created)
    for name, there, needed in (
        ("data", manifest.data, ("name", "fingerprint")),
        ("rules", manifest.rules, FIRST),
    ):
        missing = [key for key in needed if key not in there]
        if missing:
            raise ValueError(f"{name} lacks {', '.join(missing)}")
    try:
        manifest.data_summary  # noqa: B018, it is read
    except (ValueError, TypeError, KeyError):
        raise ValueError("the summary of data is damaged") from None


@cache
def _kinds() -> dict[str, tuple[type, ...]]:
    """Field -> classes that its value may have."""
    found = {}
    for name, hint in get_type_hints(Manifest).items():
        allowed = get_args(hint) if isinstance(hint, UnionType) else (hint,)
        found[name] = tuple(get_origin(kind) or kind for kind in allowed)
    return found


def with_earlier_values(flat: dict[str, Any]) -> dict[str, Any]:
    """Return a recorded flat config; a config of images gets the keys that were added later."""
    if "data.limit" not in flat:
        return flat
    earlier = dict(EARLIER_VALUES)
    for key, values in EARLIER_BLOCKS.items():
        if key in flat:
            earlier |= values
    missing = {key: value for key, value in earlier.items() if key not in flat}
    return {**flat, **missing}


def _space_options(manifest: Manifest) -> str:
    """The options that made a study's space, in brackets; "" if there were none."""
    words = [
        f"--space '{key}={text}'"
        for key, texts in (manifest.ranges or {}).items()
        for text in texts
    ]
    words += [f"--no-search {key}" for key in manifest.unsearched]
    shown = words[:_SHOWN_DIFFERENCES] + ["..."] * (len(words) > _SHOWN_DIFFERENCES)
    return f" ({' '.join(shown)})" if words else ""


def _changed_code(study: str, was: Mapping[str, Any], now: Mapping[str, Any]) -> str:
    """Return the error for a changed file, package or function, with the changed lines."""
    differences = difflib.unified_diff(
        was["text"].splitlines(), now["text"].splitlines(), lineterm="", n=0
    )
    changed = [line for line in differences if line[:1] in "+-" and line[:3] not in ("+++", "---")]
    shown = "; ".join(line.strip() for line in changed[:_SHOWN_DIFFERENCES])
    hidden = len(changed) - _SHOWN_DIFFERENCES
    more = f"; and {hidden} more lines" if hidden > 0 else ""
    if "module" in now:
        return (
            f"study {study!r} began with another {now['module']}: {shown}{more}. "
            "--accept-code continues with the changed package, on record; "
            f"--study {study}-2 begins another study"
        )
    if "path" not in now:
        return (
            f"study {study!r} began with another {now['name']}: {shown}{more}. "
            "accept_code=True continues with the changed function, on record; "
            f'study="{study}-2" begins another study'
        )
    return (
        f"study {study!r} began with another {Path(now['path']).name}: {shown}{more}. "
        "--accept-code continues with the changed file, on record; "
        f"--study {study}-2 begins another study"
    )


def _identity(manifest: Manifest) -> dict[str, Any]:
    """Everything that defines a study, by the name under which a difference is shown."""
    # Through JSON, so that tuples and lists, 1e-3 and 0.001 compare equal.
    plain = json.loads(json.dumps(asdict(manifest)))
    warm_start = plain["warm_start"] or {}
    spaces = {f"space of {name}": ranges for name, ranges in plain["space"].items()}
    return {
        "experiment": plain["experiment"],
        "preset": plain["preset"],
        **plain["base"],
        **spaces,
        "objectives": plain["objectives"] or [],
        "data": plain["data"]["fingerprint"],
        "warm start": warm_start.get("study", "absent"),
    }


def _is_hidden(ranges: Any) -> bool:
    """True for ranges that do not depend on a single choice: earlier versions did not know all of
    them."""
    return isinstance(ranges, list) and all(
        isinstance(text, str) and text.endswith(_SOMETIMES) for text in ranges
    )


def _shown(values: Mapping[str, Any], key: str) -> str:
    """Format a value in full, as `--set` takes it: two rates may differ in their fourth digit."""
    value = values.get(key, "absent")
    if value is None:
        return "none"
    if value == "":
        return "not set"
    if isinstance(value, list):
        return json.dumps(value)
    return str(value)
