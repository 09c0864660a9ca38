"""SimCLR, MoCo v2, VICReg and DINO: their losses against lightly's own and the papers' formulas in
NumPy, and their runs against uninterrupted ones."""

import copy
import re
from collections.abc import Callable
from dataclasses import replace
from functools import cache
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from tests.commands import BYOL, SMALL, Call, to_resolve
from trainables import lightly_methods, moco
from trainables.backbone.networks import BackboneConfig
from trainables.backbone.summary import write_architecture
from trainables.base import Batch, TrainConfig
from trainables.config import build, flatten
from trainables.data import DataConfig, load_dataset
from trainables.data.sampling import generator
from trainables.dino import DINOHeadConfig, teacher_temperature_at
from trainables.engine.fit import fit
from trainables.errors import TrialFailed, UserError
from trainables.files import ARCHITECTURE, BEST
from trainables.optim import OptimConfig
from trainables.self_supervised import SelfSupervised, ValidationConfig
from trainables.served import Served, served_as
from tune.cli.default_config import resolve
from tune.cli.workers import check_shares
from tune.execution.runtimes import LocalRuntime
from tune.experiments import EXPERIMENTS, side_of
from tune.reports.comparison_table import compare_settings
from tune.reports.table_text import notes
from tune.study.events import EventLog
from tune.study.record import read_record

METHODS = ("ssl-simclr", "ssl-moco", "ssl-vicreg", "ssl-dino")
HEADS: dict[str, dict[str, Any]] = {
    "ssl-simclr": {"temperature": 0.3},
    "ssl-moco": {"temperature": 0.3, "queue": 40, "momentum": 0.9},
    "ssl-vicreg": {"invariance": 5.0, "variance": 3.0, "covariance": 2.0},
    "ssl-dino": {"bottleneck_size": 8, "tau0": 0.9, "teacher_temperature": 0.07},
}
DIGITS = DataConfig(name="digits", image_size=16)


def config_of(name: str, **head: Any) -> Any:
    values = {"projection_size": 16, "hidden_size": 32, **HEADS[name], **head}
    kind = EXPERIMENTS[name].config
    return kind(
        data=DIGITS,
        backbone=BackboneConfig(width=8, pool=1),
        head=type(kind().head)(**values),
        train=TrainConfig(epochs=2, epoch_images=64, batch_size=32),
        val=ValidationConfig(knn_k=5, probe_steps=0, collapse_std=0),
        optim=OptimConfig(name="sgd", lr=0.05),
    )


def model_of(name: str, config: Any = None) -> Any:
    pytest.importorskip("lightly")
    config = config or config_of(name)
    torch.manual_seed(0)
    return EXPERIMENTS[name].trainable(config, load_dataset(config.data))


def first_batch(model: Any, images: int = 32) -> Batch:
    batch: Batch = model.draw(np.arange(images), generator(0, 1))
    return batch


every_method = pytest.mark.parametrize("name", METHODS)


# ---------------------------------------------------------------- the papers' formulas


def log_softmax(logits: np.ndarray) -> np.ndarray:
    shifted = logits - logits.max(-1, keepdims=True)
    return shifted - np.log(np.exp(shifted).sum(-1, keepdims=True))


def unit(z: np.ndarray) -> np.ndarray:
    return z / np.linalg.norm(z, axis=1, keepdims=True)


def nt_xent(model: Any, one: np.ndarray, two: np.ndarray) -> float:
    """NT-Xent of Chen et al. 2020, equation 1, with all 2 B views as anchors."""
    z = unit(np.concatenate([one, two]))
    similar = z @ z.T / model.config.head.temperature
    np.fill_diagonal(similar, -np.inf)
    count = len(one)
    positives = np.concatenate([np.arange(count) + count, np.arange(count)])
    return -log_softmax(similar)[np.arange(2 * count), positives].mean()


def info_nce(model: Any, one: np.ndarray, two: np.ndarray) -> float:
    """InfoNCE of He et al. 2020, equation 1."""
    queue = model.loss.memory_bank.bank.numpy()
    query, key = unit(one), unit(two)
    own = (query * key).sum(1, keepdims=True)
    logits = np.concatenate([own, query @ queue.T], 1) / model.config.head.temperature
    return -log_softmax(logits)[:, 0].mean()


def vicreg(model: Any, one: np.ndarray, two: np.ndarray) -> float:
    """VICReg's loss of Bardes et al. 2022, equations 1 to 6."""

    def hinge(z: np.ndarray) -> float:
        return np.maximum(0, 1 - np.sqrt(z.var(0, ddof=1) + 1e-4)).mean()

    def off_diagonal(z: np.ndarray) -> float:
        covariance = np.cov(z.T)
        return (covariance**2).sum() / len(covariance) - (np.diag(covariance) ** 2).mean()

    head = model.config.head
    distance = ((one - two) ** 2).mean()
    spread = (hinge(one) + hinge(two)) / 2
    shared = off_diagonal(one) + off_diagonal(two)
    return head.invariance * distance + head.variance * spread + head.covariance * shared


def cross_entropy(model: Any, students: np.ndarray, teachers: np.ndarray) -> float:
    """DINO's loss of Caron et al. 2021, equation 3, over pairs of different views, (views, B, K)
    each."""
    center = model.loss.center.numpy()[0, 0]
    target = np.exp(log_softmax((teachers - center) / model.temperature))
    said = log_softmax(students / model.config.head.student_temperature)
    pairs = [
        -(target[t] * said[s]).sum(1).mean()
        for t in range(len(teachers))
        for s in range(len(students))
        if s != t
    ]
    return float(np.mean(pairs))


@torch.no_grad()
def projected(network: nn.Module, views: list[Tensor]) -> list[np.ndarray]:
    return [network(view)[0].double().numpy() for view in views]


def expected_loss(name: str, model: Any, views: list[Tensor]) -> float:
    learner = model.learner
    if name == "ssl-moco":
        (query,), (key,) = projected(learner.query, views[:1]), projected(learner.key, views[1:])
        return info_nce(model, query, key)
    if name == "ssl-dino":
        students = np.stack(projected(learner.student, views))
        teachers = np.stack(projected(learner.teacher, views[:2]))
        return cross_entropy(model, students, teachers)
    formula = nt_xent if name == "ssl-simclr" else vicreg
    return formula(model, *projected(learner, views))


@every_method
def test_loss_is_the_papers(name: str) -> None:
    model = model_of(name)
    model.eval()  # makes a second forward pass equal the first
    if name == "ssl-dino":
        model.loss.center.normal_(std=0.1)
        model.temperature = 0.05
    batch = first_batch(model)
    expected = expected_loss(name, model, model.augmented(batch))
    assert model(batch).item() == pytest.approx(expected, rel=1e-4)


@every_method
def test_loss_is_lightlys_in_float32_even_where_networks_are_not(name: str) -> None:
    """In bfloat16 a similarity has only three digits."""
    model = model_of(name)
    model.eval()
    batch = first_batch(model)
    views = model.augmented(batch)
    loss = copy.deepcopy(model.loss)
    with torch.autocast("cpu", torch.bfloat16):
        got = model(batch)
        if name == "ssl-moco":
            outputs = [model.learner.query(views[0])[0], model.learner.key(views[1])[0]]
        elif name == "ssl-dino":
            teacher = [model.learner.teacher(view)[0] for view in views]
            student = [model.learner.student(view)[0] for view in views]
        else:
            outputs = [model.learner(view)[0] for view in views]

    if name == "ssl-dino":
        floats = ([one.float() for one in teacher], [one.float() for one in student])
        expected = loss(*floats, teacher_temp=model.temperature)
    else:
        assert outputs[0].dtype == torch.bfloat16
        expected = loss(*[one.float() for one in outputs])
    assert got.dtype == torch.float32
    torch.testing.assert_close(got, expected)


# ---------------------------------------------------------------- runs


def run(name: str, directory: Path, die_after: int | None = None, config: Any = None) -> Any:
    """Train, raising KeyboardInterrupt in place of a report if asked. Return model and reports."""
    reports: list[dict[str, float]] = []

    def report(epoch: int, metrics: dict[str, float]) -> bool:
        if epoch == die_after:
            raise KeyboardInterrupt
        reports.append({k: v for k, v in metrics.items() if not k.startswith("time/")})
        return True

    directory.mkdir(exist_ok=True)
    model = model_of(name, config)
    fit(model, model.config, LocalRuntime(directory, report))
    return model, reports


Whole = Callable[[str], tuple[Any, list[dict[str, float]], Path]]


@pytest.fixture(scope="module")
def uninterrupted(tmp_path_factory: pytest.TempPathFactory) -> Whole:
    """Return {name of an experiment: its trained model, reports and folder}."""

    @cache
    def trained(name: str) -> tuple[Any, list[dict[str, float]], Path]:
        folder = tmp_path_factory.mktemp(name)
        return *run(name, folder), folder

    return trained


@pytest.mark.heavy
@every_method
def test_resumed_run_equals_uninterrupted_run(
    name: str, uninterrupted: Whole, tmp_path: Path
) -> None:
    """MoCo's queue and DINO's center are part of the state."""
    whole, expected, _ = uninterrupted(name)
    with pytest.raises(KeyboardInterrupt):
        run(name, tmp_path / "killed", die_after=1)
    killed, reports = run(name, tmp_path / "killed")

    assert reports == expected
    assert min(report["val/std"] for report in expected) > ValidationConfig().collapse_std
    state, other = whole.changing_state(), killed.changing_state()
    assert state.keys() == other.keys()
    for key, value in state.items():
        assert torch.equal(value, other[key]), key
    if name == "ssl-moco":
        assert int(state["queue.end"]) == 0 or state["queue.keys"].abs().sum() > 0


@pytest.mark.heavy
@every_method
def test_what_is_exported_serves_without_lightly(
    name: str, uninterrupted: Whole, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole, _, folder = uninterrupted(name)
    kind = served_as(type(whole))
    model = model_of(name)
    model.load_export(folder / BEST)
    about = {
        "kind": kind,
        "classes": list(model.data.classes),
        "colors": [],
        "labelled": True,
        "config": {
            key: value
            for key, value in flatten(model.config).items()
            if not key.startswith("head.")
        },
    }

    expected = model.evaluate(model.data.val, "val")
    monkeypatch.setattr(lightly_methods, "find_spec", lambda name: None)
    served = Served.of_trial(about, folder / BEST)
    assert type(served.model) is SelfSupervised
    for key, value in model.backbone.state_dict().items():
        assert torch.equal(served.model.backbone.state_dict()[key], value)
    got = served.model
    got.data = model.data
    assert got.evaluate(model.data.val, "val")["val/knn_top1"] == expected["val/knn_top1"]


@every_method
def test_its_network_is_printed(name: str, tmp_path: Path) -> None:
    model = model_of(name)
    write_architecture(model, tmp_path)
    table = (tmp_path / ARCHITECTURE).read_text()
    assert "TinyResNet (backbone)" in table
    assert "(projector)" in table


def test_a_queue_holds_the_last_keys() -> None:
    """A queue of 40 after batches of 32 and 8 contains exactly those 40 keys, the oldest first."""
    model = model_of("ssl-moco")
    model.train()
    expected = []
    for images in (32, 8):
        batch = first_batch(model, images)
        view = model.augmented(batch)[1]
        key = copy.deepcopy(model.learner.key)
        with torch.no_grad():
            expected.append(nn.functional.normalize(key(view)[0], dim=1))
        model(batch)
    torch.testing.assert_close(model.loss.memory_bank.bank, torch.cat(expected))


@pytest.mark.parametrize(
    ("name", "source", "target"),
    [("ssl-moco", "query", "key"), ("ssl-dino", "student", "teacher")],
)
def test_the_second_network_follows_the_first(name: str, source: str, target: str) -> None:
    model = model_of(name)
    leads, follows = getattr(model.learner, source), getattr(model.learner, target)
    for a, b in zip(leads.parameters(), follows.parameters(), strict=True):
        assert torch.equal(a, b)
    for parameter in leads.parameters():
        nn.init.normal_(parameter)
    before = [parameter.clone() for parameter in follows.parameters()]

    model.before_step(0, 10)
    model.after_step()
    for old, new, moved in zip(before, leads.parameters(), follows.parameters(), strict=True):
        torch.testing.assert_close(moved, 0.9 * old + 0.1 * new)
        assert not moved.requires_grad
    learning = {id(p) for group in model.param_groups(0.1) for p in group["params"]}
    assert not learning & {id(p) for p in follows.parameters()}


def test_temperature_of_the_teacher_rises_and_the_last_layer_waits() -> None:
    head = DINOHeadConfig(
        first_temperature=0.04, teacher_temperature=0.07, temperature_warmup=0.3, freeze_last=0.2
    )
    found = [teacher_temperature_at(step, 10, head) for step in range(5)]
    assert found == pytest.approx([0.04, 0.05, 0.06, 0.07, 0.07])

    model = model_of("ssl-dino", config_of("ssl-dino", freeze_last=0.2))
    last = model.learner.student.projector.last_layer.weight_v
    for step in range(5):
        model.before_step(step, 10)
        assert last.requires_grad == (step >= 2)


def test_local_views_are_small_and_for_the_student_alone() -> None:
    config = config_of("ssl-dino", local_views=2)
    model = model_of("ssl-dino", config).eval()
    batch = first_batch(model)
    views = model.augmented(batch)
    assert [tuple(view.shape[2:]) for view in views] == [(16, 16), (16, 16), (7, 7), (7, 7)]
    assert [view.config.crop_scale_max for view in model.views] == [1, 1, 0.4, 0.4]
    expected = expected_loss("ssl-dino", model, views)  # before the center moves
    assert model(batch).item() == pytest.approx(expected, rel=1e-4)


# ---------------------------------------------------------------- refusals


@every_method
def test_a_batch_stays_whole(name: str) -> None:
    """A micro-batch would change the negatives, statistics or centers."""
    flat = EXPERIMENTS[name].presets["tiny"] | {"train.micro_batch": 8}
    with pytest.raises(UserError, match="this loss compares"):
        build(EXPERIMENTS[name].config, flat)


def test_workers_need_equal_shares(monkeypatch: pytest.MonkeyPatch) -> None:
    model = model_of("ssl-simclr")
    assert model.min_batch_size == 32
    monkeypatch.setattr(lightly_methods.distributed, "world_size", lambda: 3)
    assert model.min_batch_size == 10
    with pytest.raises(TrialFailed, match="batch_size=32 for 3 workers"):
        model(first_batch(model))


@every_method
def test_without_lightly_the_remedy_is_named(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lightly_methods, "find_spec", lambda name: None)
    trainable: Any = EXPERIMENTS[name].trainable
    with pytest.raises(UserError, match=r"pip install '?lightly"):
        trainable.check_startup(config_of(name), None)


@pytest.mark.parametrize("name", ["ssl-simclr", "ssl-moco"])
def test_workers_that_cannot_share_a_batch_are_refused_before_any_trial(
    name: str, call: Call, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Batches have 32, 64 or 128 images, which three workers cannot share; 96 they can."""
    monkeypatch.setattr(lightly_methods, "find_spec", lambda name: object())
    three = ("--data", "digits", "--workers", "3", "--plan")
    said = call(name, *three)
    assert (said.code, said.out) == (2, "")
    assert "--workers 3: train.batch_size can be 32, and the loss of" in said.err
    assert "--set train.batch_size=N with a multiple of 3" in said.err
    assert said.err == call("ssl", "--compare", "ssl-methods", *three).err.replace(
        "ssl-simclr", name
    )
    check_shares(3, EXPERIMENTS[name], "tiny", {"train.batch_size": 96}, {"train.batch_size": 96})


@pytest.mark.parametrize("searches", ["1", "2"])
def test_a_comparison_asks_for_lightly_before_any_side_trains(
    searches: str, call: Call, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(lightly_methods, "find_spec", lambda name: None)
    short = ("--searches", searches, "--trials", "1", "--repeats", "1", "--data", "digits")
    small = ("--set", "train.epochs=1", "--set", "train.epoch_images=64", *SMALL, *BYOL)
    said = call("ssl", "--compare", "ssl-methods", "--local", *short, *small)
    assert said.code == 2
    assert re.search("pip install '?lightly", said.err)
    assert not list((tmp_path / "runs").glob("ssl-methods*"))


# ---------------------------------------------------------------- MoCo's queue and views


@pytest.mark.parametrize(("wanted", "keys"), [(40, 40), (65536, 0)])
def test_a_queue_has_at_most_one_key_a_training_image(
    wanted: int, keys: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The queue gets as many keys as the line at startup says, and a metric records the number."""
    config = config_of("ssl-moco", queue=wanted)
    data = load_dataset(config.data)
    keys = keys or len(data.train.indices)
    monkeypatch.setattr(lightly_methods, "find_spec", lambda name: object())
    monkeypatch.setattr(moco, "import_lightly", lambda: (FakeLightly, FakeLightly))

    model = moco.MoCo(config, data)
    assert tuple(model.loss.memory_bank.bank.shape) == (keys, 16)
    assert model.costs() == {"train/queue": keys}
    said = moco.MoCo.check_startup(config, data)
    most = len(data.train.indices)
    assert said == f"queue of {keys} keys (in every trial at most {most}: one a training image)"

    # a trial that began with a longer queue keeps it
    state = model.changing_state()
    longer = torch.rand(keys + 3, 16)
    model.load_changing_state(state | {"queue.keys": longer})
    assert torch.equal(model.loss.memory_bank.bank, longer)
    assert model.loss.memory_bank.size == (keys + 3, 16)


class FakeLightly:
    """The parts of lightly from which MoCo is built, without their computations."""

    class NTXentLoss:
        def __init__(self, memory_bank_size: tuple[int, int], **_: Any) -> None:
            bank = torch.zeros(memory_bank_size)
            pointer = torch.zeros(1, dtype=torch.long)
            self.memory_bank = SimpleNamespace(bank=bank, bank_ptr=pointer, size=memory_bank_size)

    class MoCoProjectionHead(nn.Linear):
        def __init__(self, width: int, hidden: int, projection: int) -> None:
            super().__init__(width, projection)


def test_views_of_moco_are_those_of_version_2() -> None:
    """ColorJitter(.4, .4, .4, .1) with probability .8, gray with .2, blur of sigma .1 to 2 with .5,
    crops of .2 to 1 (Chen et al. 2020 (MoCo v2), their code's `aug_plus`)."""
    aug = build(EXPERIMENTS["ssl-moco"].config, EXPERIMENTS["ssl-moco"].presets["full"]).aug
    for view in aug.views():
        jitter = (view.brightness, view.contrast, view.saturation, view.hue)
        assert jitter == pytest.approx((0.4, 0.4, 0.4, 0.1))
        assert (view.jitter, view.grayscale, view.blur) == (0.8, 0.2, 0.5)
        assert (view.crop_scale_min, view.hflip) == (0.2, 0.5)
        assert (view.blur_sigma_min, view.blur_sigma_max) == (0.1, 2.0)


# ---------------------------------------------------------------- the comparison


def test_methods_are_compared_on_the_same_images_and_epochs() -> None:
    """Values that a study does not search are the same for all methods, except for a method's
    own."""
    ssl = EXPERIMENTS["ssl"]
    comparison = ssl.comparisons["ssl-methods"]
    sides = {name: side_of(ssl, setting) for name, setting in comparison.settings.items()}
    assert [one.name for one in sides.values()] == ["ssl", *METHODS]
    for preset in ("tiny", "full"):
        resolved = {
            name: resolve(to_resolve([], preset), one, {}, {}, {})[1] for name, one in sides.items()
        }
        own = ("head.", "optim.", "schedule.", "aug.", "train.batch_size")
        shared = [
            {key: value for key, value in base.items() if not key.startswith(own)}
            for base in resolved.values()
        ]
        assert all(one == shared[0] for one in shared)
    tiny = [replace(build(one.config, one.presets["tiny"]).aug) for one in sides.values()]
    assert all(views == tiny[0] for views in tiny)


@pytest.mark.heavy
def test_all_methods_are_searched_and_stand_in_one_table(call: Call, tmp_path: Path) -> None:
    pytest.importorskip("lightly")
    short = ("--searches", "1", "--trials", "1", "--repeats", "2", "--data", "digits", *SMALL)
    pins = ("--set", "train.epochs=1", "--set", "train.epoch_images=64", *BYOL)
    said = call("ssl", "--compare", "ssl-methods", *short, *pins, "--pictures", "none")
    assert said.code == 0, said.err
    # MLflow nests a run only below a run of the same experiment.
    for log in (tmp_path / "runs").glob("ssl-methods*/events.jsonl"):
        first = EventLog.read(log, 0, limit=1)[0][0]
        assert first["experiment"] == "ssl"
    table = compare_settings(tmp_path / "runs/ssl-methods")
    assert [row.name for row in table.judged] == ["BYOL", "SimCLR", "MoCo", "VICReg", "DINO"]
    assert [one.name for one in table.differences] == [
        "SimCLR-BYOL",
        "MoCo-BYOL",
        "VICReg-BYOL",
        "DINO-BYOL",
    ]
    assert "run.py ssl --compare ssl-methods" in table.command
    assert not [note for note in notes(table) if "not searched in the same way" in note]

    alone = ("--trials", "1", "--repeats", "0", "--data", "digits", "--pictures", "none", *SMALL)
    said = call("ssl-dino", *alone, *pins)
    assert said.code == 0, said.err
    small = ("--set", "train.epochs=1", "--set", "train.epoch_images=64", "--allow-seen")
    said = call("classify", "--setting", "C", "--backbone", "ssl-dino", *alone, *small)
    assert said.code == 0, said.err
    assert read_record(tmp_path / "runs/classify-C").trials[0].state == "COMPLETE"
