"""Loading is verified: all tensors match and change, or one clear line says why not. Lineage: which
file a setting starts from."""

import hashlib
import json
import zipfile
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pytest
import torch
import torchvision
from torch import nn

from trainables.backbone.export import load_head_state, save_backbone
from trainables.backbone.networks import BackboneConfig, build_backbone, head_prefix
from trainables.backbone.weights import load_backbone
from trainables.config import build, flatten
from trainables.errors import UserError
from trainables.files import content_hash
from tune.backbones.resolve import (
    choose,
    default,
    find,
    in_setting,
    lineage_tags,
    recorded,
    start_values,
)
from tune.cli.caller import COMMAND_LINE
from tune.cli.execute import execute
from tune.cli.options import Options
from tune.command_line import command
from tune.execution.local import search_locally
from tune.experiments import EXPERIMENTS
from tune.search.space import as_json, asked_for, describe, within
from tune.study.events import EventLog
from tune.study.manifest import Manifest
from tune.study.study import Study

TINY = BackboneConfig(width=8, pool=1)
SETTINGS = EXPERIMENTS["classify"].settings


def saved(
    path: Path, config: BackboneConfig = TINY, meta: dict[str, Any] | None = None
) -> nn.Module:
    torch.manual_seed(7)
    backbone = build_backbone(config)
    save_backbone(path, backbone, meta or {})
    return backbone


def test_torchvisions_state_dict_loads_without_its_head(tmp_path: Path) -> None:
    torch.manual_seed(1)
    net = torchvision.models.resnet18(weights=None)
    torch.save(net.state_dict(), tmp_path / "plain.pth")
    config = BackboneConfig(name="resnet18")
    backbone = build_backbone(config)
    loaded = load_backbone(backbone, config, tmp_path / "plain.pth")
    own = backbone.state_dict()
    assert loaded.matched == len(own) == len(net.state_dict()) - 2
    assert all(torch.equal(value, net.state_dict()[key]) for key, value in own.items())
    assert str(loaded).startswith(f"{len(own)} of {len(own)} tensors matched, ")


@pytest.mark.parametrize(
    "name", ["resnet50", "resnet101", "vgg16", "vgg16_bn", "vgg19", "convnext_base"]
)
def test_what_a_backbone_has_no_place_for_is_the_head(name: str) -> None:
    with torch.device("meta"):  # VGG takes half a gigabyte
        backbone = build_backbone(BackboneConfig(name=name))  # type: ignore[arg-type]
        reference = getattr(torchvision.models, name)(weights=None)
    head = [key for key in reference.state_dict() if key.startswith(head_prefix(name))]
    assert head == [head_prefix(name) + "weight", head_prefix(name) + "bias"]
    assert reference.state_dict().keys() - set(head) == backbone.state_dict().keys()


def test_a_head_under_any_name_is_left_out(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The head of VGG and ConvNeXt has a prefix that the backbone's own tensors share."""
    torch.manual_seed(1)
    state = build_backbone(TINY).state_dict()
    torch.save(
        state | {"classifier.2.weight": torch.rand(5, 32), "classifier.2.bias": torch.rand(5)},
        tmp_path / "b.pt",
    )
    monkeypatch.setattr("trainables.backbone.weights.head_prefix", lambda name: "classifier.2.")
    loaded = load_backbone(build_backbone(TINY), TINY, tmp_path / "b.pt")
    assert loaded.ignored == ("classifier.2.weight", "classifier.2.bias")
    assert str(loaded).endswith(", 2 of a head left out")


def test_changed_is_counted(tmp_path: Path) -> None:
    saved(tmp_path / "b.pt")
    torch.manual_seed(8)
    backbone = build_backbone(TINY)
    before = {k: v.clone() for k, v in backbone.state_dict().items()}
    loaded = load_backbone(backbone, TINY, tmp_path / "b.pt", content_hash(tmp_path / "b.pt"))
    assert (
        loaded.changed
        == sum(not torch.equal(v, before[k]) for k, v in backbone.state_dict().items())
        > 0
    )
    assert (
        content_hash(tmp_path / "b.pt")
        == hashlib.sha256((tmp_path / "b.pt").read_bytes()).hexdigest()
    )


def test_a_file_that_was_replaced_is_read_again(tmp_path: Path) -> None:
    path = tmp_path / "b.pt"
    for seed in (1, 2):
        torch.manual_seed(seed)
        written = build_backbone(TINY)
        save_backbone(path, written, {})
        loaded = build_backbone(TINY)
        for _ in range(2):
            load_backbone(loaded, TINY, path)
            assert torch.equal(loaded.conv1.weight, written.conv1.weight)
            torch.nn.init.zeros_(loaded.conv1.weight)  # does not change what is loaded next


def refusal(config: BackboneConfig, path: Path, sha256: str = "", seed: int = 8) -> str:
    torch.manual_seed(seed)
    backbone = build_backbone(config)
    before = {k: v.clone() for k, v in backbone.state_dict().items()}
    with pytest.raises(UserError) as caught:
        load_backbone(backbone, config, path, sha256)
    assert all(torch.equal(v, before[k]) for k, v in backbone.state_dict().items())
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_wrong_files_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "b.pt"
    torch.save({"encoder.weight": torch.rand(3)}, path)
    message = refusal(TINY, path)
    missing = "54 missing (conv1.weight, bn1.weight, bn1.bias, ...)"
    assert f"0 of 54 tensors match; {missing}; 1 left over (encoder.weight)" in message
    saved(path, BackboneConfig(width=16, pool=1))
    assert "of another shape (conv1.weight (16, 3, 3, 3) for (8, 3, 3, 3), " in refusal(TINY, path)
    saved(path)
    assert "is not the one that was chosen (sha256 " in refusal(TINY, path, "0" * 64)
    assert "contains an untrained network" in refusal(TINY, path, seed=7)
    state = build_backbone(TINY).state_dict()
    torch.save({k: v for k, v in state.items() if k != "bn1.weight"}, path)
    assert "53 of 54 tensors match; 1 missing (bn1.weight)" in refusal(TINY, path)
    torch.save(state | {"conv1.weight": state["conv1.weight"] * float("nan")}, path)
    assert "conv1.weight has values that are not finite" in refusal(TINY, path)
    assert "no backbone file" in refusal(TINY, tmp_path / "missing.pt")


def _deep(state: Any) -> Any:
    for _ in range(60):
        state = {"state_dict": state}
    return state


NO_WEIGHTS: dict[str, Any] = {
    "a list": [1, 2],
    "a number": 3,
    "nothing": None,
    "a tensor": torch.zeros(2),
    "numbered": {0: torch.zeros(2), 1: torch.zeros(3)},
    "tuples": {("a", 1): torch.zeros(2)},
    "deep": _deep({"a": torch.zeros(2)}),
    "no tensors": {"state_dict": {"a": 1}},
    "text for meta": {"state_dict": {}, "meta": "a text"},
}
NO_FILES: dict[str, bytes] = {
    "empty": b"",
    "zeros": bytes(1000),
    "text": b"hello\n",
    "html": b"<html>404</html>",
    "half a zip": b"PK\x03\x04" + bytes(50),
    "pickle of old": b"\x80\x02}q\x00.",
    "a pickle's start": b"\x80\x02]q\x00(K",
    "utf-16": "weights".encode("utf-16"),
    "tar": b"a.txt" + bytes(252) + b"ustar" + bytes(250),
}


@pytest.mark.parametrize("kind", [*NO_WEIGHTS, *NO_FILES, "a folder", "cut short", "of a zip"])
def test_odd_files_are_refused_in_one_line(tmp_path: Path, kind: str) -> None:
    path = tmp_path / "odd.pt"
    if kind in NO_WEIGHTS:
        torch.save(NO_WEIGHTS[kind], path)
    elif kind in NO_FILES:
        path.write_bytes(NO_FILES[kind])
    elif kind == "a folder":
        path.mkdir()
    elif kind == "of a zip":
        with zipfile.ZipFile(path, "w") as archive:
            archive.writestr("readme.txt", "no weights")
    else:
        torch.save(build_backbone(BackboneConfig(width=8)).state_dict(), path)
        path.write_bytes(path.read_bytes()[:-300])
    assert "\n" not in refusal(BackboneConfig(width=8), path)


@pytest.mark.filterwarnings("ignore::UserWarning")  # torch warns of such tensors
@pytest.mark.parametrize("kind", ["quantized", "complex", "sparse"])
def test_tensors_that_are_no_plain_numbers_are_refused(tmp_path: Path, kind: str) -> None:
    state = build_backbone(BackboneConfig(width=8)).state_dict()
    name, value = next((n, v) for n, v in state.items() if v.dim() == 4)
    if kind == "quantized":
        state[name] = torch.quantize_per_tensor(value, 0.1, 0, torch.qint8)
    elif kind == "complex":
        state[name] = value.to(torch.complex64)
    else:
        state[name] = value.to_sparse()
    torch.save(state, tmp_path / "odd.pt")
    said = refusal(BackboneConfig(width=8), tmp_path / "odd.pt")
    assert f"{name} is {kind}" in said or "cannot be read" in said


def test_weights_of_half_precision_are_weights(tmp_path: Path) -> None:
    torch.manual_seed(1)
    state = build_backbone(BackboneConfig(width=8)).half().state_dict()
    torch.save(state, tmp_path / "half.pt")
    torch.manual_seed(2)
    backbone = build_backbone(BackboneConfig(width=8))
    assert load_backbone(backbone, BackboneConfig(width=8), tmp_path / "half.pt").changed
    name = next(iter(state))
    assert torch.equal(backbone.state_dict()[name], state[name].float())


def test_another_architecture_of_the_same_shapes_is_refused(tmp_path: Path) -> None:
    stride_1 = BackboneConfig(width=8, pool=1, small_stem=True)
    saved(tmp_path / "b.pt", stride_1, {"backbone": asdict(stride_1)})
    message = refusal(TINY, tmp_path / "b.pt")
    was = "was trained with backbone.small_stem=True, this run has backbone.small_stem=False"
    assert f"{was}; add --set backbone.small_stem=True" in message


def test_pooling_is_the_readers_choice(tmp_path: Path) -> None:
    saved(tmp_path / "b.pt", TINY, {"backbone": asdict(TINY)})
    grid = BackboneConfig(width=8, pool=2)
    assert load_backbone(build_backbone(grid), grid, tmp_path / "b.pt").matched == 54


def test_heads_travel_beside_the_backbone(tmp_path: Path) -> None:
    head = nn.Linear(3, 2)
    save_backbone(tmp_path / "b.pt", build_backbone(TINY), {}, head=head)
    assert torch.equal(load_head_state(tmp_path / "b.pt")["weight"], head.weight)
    saved(tmp_path / "c.pt")
    with pytest.raises(UserError, match="contains no classification head"):
        load_head_state(tmp_path / "c.pt")


# -- lineage


def study_on_disk(storage: Path, name: str, values: dict[int, float], **base: Any) -> None:
    """Write a study of completed trials, as far as lineage reads it."""
    folder = storage / name
    folder.mkdir(parents=True)
    manifest = Manifest(
        name=name,
        experiment="ssl",
        preset="tiny",
        objective="val/top1",
        seed=0,
        base=base,
        pins={},
        space={},
        data={"name": "digits", "fingerprint": "0"},
    )
    manifest.reconcile_with(folder / "study.json")
    log = EventLog(folder / "events.jsonl")
    for number, value in values.items():
        log.append(
            "end", trial=number, state="COMPLETE", value=value, reason=None, metrics={}, error=None
        )
        log.append(
            "end",
            trial=number,
            repeat=1000,
            state="COMPLETE",
            value=9.0,
            reason=None,
            metrics={},
            error=None,
        )
        (folder / "trials" / f"{number:04d}").mkdir(parents=True)
        saved(folder / "trials" / f"{number:04d}" / "best.pt", meta={"normalize": "half"})
    log.append("end", trial=50, state="PRUNED", value=99.0, reason="rung", metrics={}, error=None)


def test_a_study_stands_for_its_best_completed_trial(tmp_path: Path) -> None:
    study_on_disk(tmp_path, "ssl", {0: 0.1, 3: 0.4, 5: 0.4, 7: 0.2})
    assert str(find("ssl", tmp_path)) == "ssl/3"
    assert str(default("ssl", tmp_path, "")) == "ssl/3"
    assert find("ssl/7", tmp_path).path == tmp_path / "ssl/trials/0007/best.pt"
    config = find("ssl", tmp_path).config()
    assert config["normalize"] == "half"
    assert config["init.sha256"] == content_hash(tmp_path / "ssl/trials/0003/best.pt")
    assert lineage_tags(config) == {
        f"lineage.{key}": config[f"init.{key}"] for key in ("origin", "file", "sha256")
    }
    file = find(str(tmp_path / "ssl/trials/0000/best.pt"), tmp_path)
    assert (file.study, str(file)) == (None, "best.pt")


def test_what_is_missing_is_named(tmp_path: Path) -> None:
    study_on_disk(tmp_path, "pretrain", {})
    study_on_disk(tmp_path, "other", {1: 0.3})
    for call, message in (
        (
            lambda: default("ssl", tmp_path, " --storage x"),
            f"run `{command('run', 'ssl')} --storage x` first, or give --backbone",
        ),
        (
            lambda: default("supervised", tmp_path, ""),
            f"none of its trials has been completed: run `{command('run', 'pretrain')}` first",
        ),
        (lambda: find("pretrain", tmp_path), "no trial of study 'pretrain' has been completed"),
        (
            lambda: find("other/50", tmp_path),
            "trial 50 of study 'other' is not complete; complete trials: 1",
        ),
        (lambda: find("nothing", tmp_path), "'nothing' is neither a file nor a study in"),
        (
            lambda: choose(EXPERIMENTS["classify"], "F", None),
            "unknown --setting 'F'; valid: A, A-long, B, C, D, E",
        ),
        (lambda: choose(EXPERIMENTS["classify"], "A", "ssl"), "setting A starts from scratch"),
        (lambda: choose(EXPERIMENTS["pretrain"], "A", None), "--setting is for classify"),
        (lambda: choose(EXPERIMENTS["pretrain"], None, "ssl"), "--backbone is for classify"),
    ):
        with pytest.raises(UserError) as caught:
            call()
        assert message in str(caught.value)
        assert "\n" not in str(caught.value)


def test_the_same_command_goes_on_with_the_same_backbone(tmp_path: Path) -> None:
    study_on_disk(tmp_path, "ssl", {0: 0.1})
    first = start_values(SETTINGS["C"], None, tmp_path, tmp_path / "classify-C", "")
    study_on_disk(tmp_path, "classify-C", {}, **first)
    EventLog(tmp_path / "ssl/events.jsonl").append(
        "end", trial=1, state="COMPLETE", value=0.9, reason=None, metrics={}, error=None
    )
    (tmp_path / "ssl/trials/0001").mkdir()
    saved(tmp_path / "ssl/trials/0001/best.pt")
    assert start_values(SETTINGS["C"], None, tmp_path, tmp_path / "classify-C", "") == first
    assert start_values(SETTINGS["C"], "ssl", tmp_path, tmp_path / "classify-C", "") == first
    assert (
        start_values(SETTINGS["C"], "ssl/1", tmp_path, tmp_path / "classify-C", "")["init.origin"]
        == "ssl/1"
    )
    assert recorded(tmp_path / "ssl", None) is None
    assert start_values(SETTINGS["A"], None, tmp_path, tmp_path / "classify-A", "") == {}


# -- settings


@pytest.mark.parametrize("preset", ["tiny", "full"])
@pytest.mark.parametrize("letter", SETTINGS)
def test_a_setting_searches_what_it_trains(letter: str, preset: str) -> None:
    experiment = in_setting(EXPERIMENTS["classify"], SETTINGS[letter])
    file = {} if SETTINGS[letter].init == "scratch" else {"init.file": "b.pt"}
    base = flatten(
        build(experiment.config, experiment.presets[preset] | SETTINGS[letter].values | file)
    )
    found = set(describe(experiment.space, preset, {}))
    assert not {"init.source", "init.file"} & found
    fine_tuning = {
        "freeze.policy",
        "freeze.backbone_lr",
        "freeze.layer_decay",
        "freeze.batchnorm",
        "freeze.thaw_frac",
    }
    assert found & fine_tuning == (fine_tuning if letter in "BC" else set())
    assert ("loss.mixup" in found) == (letter in ("A", "B", "C", "A-long"))
    # trial 0 is the same in every setting
    for key, distribution in asked_for(experiment.space, preset, base, {}).items():
        assert within(distribution, base[key]), key


def test_the_table_of_settings() -> None:
    assert {k: (s.init, s.trains) for k, s in SETTINGS.items()} == {
        "A": ("scratch", "all"),
        "B": ("supervised", "all"),
        "C": ("ssl", "all"),
        "D": ("supervised", "head"),
        "E": ("ssl", "head"),
        "A-long": ("scratch", "all"),
    }
    assert [name for name, setting in SETTINGS.items() if setting.long] == ["A-long"]


def options(experiment: str, storage: Path, **changes: Any) -> Options:
    defaults: dict[str, Any] = {
        "data": "digits",
        "trials": 2,
        "study": None,
        "time_budget": None,
        "seed": 0,
        "set": [],
        "preset": None,
        "workers": 1,
        "gpus_per_worker": None,
        "concurrent": None,
        "repeats": 0,
        "skip_corrupt": False,
        "setting": None,
        "backbone": None,
        "local": True,
        "trial": None,
        "plan": False,
    }
    return Options(experiment=experiment, storage=str(storage), **defaults | changes)


def test_refused_before_anything_is_written(tmp_path: Path) -> None:
    saved(tmp_path / "b.pt", BackboneConfig(width=8))
    file = str(tmp_path / "b.pt")
    for changes, message in (
        ({"backbone": file}, "the settings start from different backbones"),
        ({"setting": "E"}, f"run `{command('run', 'ssl')} --storage"),
        ({"setting": "E", "backbone": file}, "does not fit backbone.name=tiny"),
        (
            {"setting": "D", "backbone": file, "set": ["freeze.policy=none"]},
            "--set freeze.policy: setting D is freeze.policy=all",
        ),
        ({"setting": "A", "set": ["init.file=x"]}, "--set init.file: use --backbone"),
        ({"setting": "A", "set": ["init.source=ssl"]}, "--set init.source: use --setting"),
        (
            {"setting": "A", "set": ["freeze.policy=until", "freeze.until=layer7"]},
            "freeze.until='layer7' is not a stage",
        ),
    ):
        with pytest.raises(UserError) as caught:
            execute(options("classify", tmp_path / "runs", **changes), COMMAND_LINE)
        assert message in str(caught.value)
    assert not list(tmp_path.glob("runs/*/study.json"))


def run_study(storage: Path, name: str, letter: str | None) -> Study:
    """Run two trials on digits in this process."""
    experiment = EXPERIMENTS[name.partition("-")[0]]
    values: dict[str, Any] = {}
    if letter is not None:
        experiment = in_setting(experiment, SETTINGS[letter])
        values = SETTINGS[letter].values | start_values(
            SETTINGS[letter], None, storage, storage / name, ""
        )
    small = {
        "data.name": "digits",
        "data.image_size": 16,
        "backbone.width": 8,
        "train.epochs": 2,
        "train.epoch_images": 64,
    }
    base = flatten(build(experiment.config, experiment.presets["tiny"] | small | values))
    config: Any = build(experiment.config, base)
    data = experiment.trainable.load_data(config.data)
    assert (experiment.trainable.check_startup(config, data) == "") == (not config.init.file)
    manifest = Manifest(
        name=name,
        experiment=experiment.name,
        preset="tiny",
        objective="val/top1",
        seed=0,
        base=base,
        pins={},
        space=as_json(describe(experiment.space, "tiny", {})),
        data={"name": "digits", "fingerprint": data.fingerprint},
    )
    study = Study.open(storage / name, experiment, manifest, trials=2, repeats=1)
    search_locally(study, experiment)
    study.close()
    return study


def test_from_pre_training_to_frozen_classification(tmp_path: Path) -> None:
    pretrained = run_study(tmp_path, "pretrain", None)
    study = run_study(tmp_path, "classify-D", "D")
    assert study.frozen_trials()[0].state.name == "COMPLETE"
    assert all(t.state.name in ("COMPLETE", "PRUNED") for t in study.frozen_trials())
    base = json.loads((tmp_path / "classify-D/study.json").read_text())["base"]
    assert base["init.origin"] == f"pretrain/{pretrained.best_number()}"
    source = torch.load(base["init.file"], weights_only=True)["state_dict"]
    after = torch.load(tmp_path / "classify-D/trials/0000/best.pt", weights_only=True)["state_dict"]
    assert source.keys() == after.keys()
    # the study trained and exported, and not one byte of the backbone changed
    assert all(torch.equal(after[k], v) for k, v in source.items())
    assert all("test/top1" in metrics for metrics in study.finals().values())
