"""Optimizers and schedules against torch's own, NumPy, and closed forms."""

import copy
import math
import subprocess
import sys
from typing import Any, get_args, get_type_hints

import numpy as np
import pytest
import torch
from torch import nn
from torch.optim import lr_scheduler
from torchvision.models import convnext_base

from tests import REPO
from trainables.config import build
from trainables.errors import UserError
from trainables.optim import (
    LARS,
    OptimConfig,
    build_optimizer,
    eager,
    param_groups,
)
from trainables.schedules import (
    THAW_WARMUP,
    ScheduleConfig,
    lr_at,
    plateau_factor,
    thawed_lr_at,
)

STEPS = 6
SCHEDULES = get_args(get_type_hints(ScheduleConfig)["name"])


def small_net() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.Flatten(), nn.Linear(4 * 36, 5)
    )


def train(
    net: nn.Module, optimizer: torch.optim.Optimizer, steps: int = STEPS, seed: int = 1
) -> list[torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    for _ in range(steps):
        optimizer.zero_grad()
        net(torch.randn(8, 3, 8, 8, generator=generator)).square().mean().backward()
        optimizer.step()
    return [p.detach().clone() for p in net.parameters()]


@pytest.mark.parametrize(
    ("config", "reference", "arguments"),
    [
        (
            OptimConfig(name="sgd", lr=0.1, momentum=0.8, nesterov=True),
            torch.optim.SGD,
            {"lr": 0.1, "momentum": 0.8, "nesterov": True, "weight_decay": 0.02},
        ),
        (
            OptimConfig(name="sgd", lr=0.1, momentum=0.0),
            torch.optim.SGD,
            {"lr": 0.1, "weight_decay": 0.02},
        ),
        (
            OptimConfig(name="adam", lr=0.01, beta1=0.8, beta2=0.95),
            torch.optim.Adam,
            {"lr": 0.01, "betas": (0.8, 0.95), "weight_decay": 0.02},
        ),
        (
            OptimConfig(name="adamw", lr=0.01, beta1=0.8, beta2=0.95),
            torch.optim.AdamW,
            {"lr": 0.01, "betas": (0.8, 0.95), "weight_decay": 0.02},
        ),
    ],
    ids=lambda value: value.name if isinstance(value, OptimConfig) else "",
)
def test_same_as_torch(config, reference, arguments):
    ours, theirs = small_net(), small_net()
    kernels = [theirs[0].weight, theirs[4].weight]
    exempt = [theirs[0].bias, theirs[1].weight, theirs[1].bias, theirs[4].bias]
    expected = train(
        theirs,
        reference([{"params": kernels}, {"params": exempt, "weight_decay": 0.0}], **arguments),
    )
    actual = train(ours, build_optimizer(param_groups(ours, 0.02), config))
    for a, b in zip(actual, expected, strict=True):
        torch.testing.assert_close(a, b, rtol=0, atol=0)


def test_layer_scale_of_convnext_is_exempt():
    with torch.device("meta"):
        net = convnext_base()
    names = {id(p): name for name, p in net.named_parameters()}
    kernels, exempt = ({names[id(p)] for p in group["params"]} for group in param_groups(net, 0.05))
    types = {
        f"{n}.{p}": type(m)
        for n, m in net.named_modules()
        for p, _ in m.named_parameters(recurse=False)
    }
    assert kernels == {
        n for n, t in types.items() if n.endswith("weight") and issubclass(t, nn.Linear | nn.Conv2d)
    }
    assert sum(name.endswith("layer_scale") for name in exempt) == 36
    assert kernels | exempt == set(names.values())


def lars_numpy(weights, grads, lr, momentum, weight_decay, trust, adapted):
    """Algorithm 1 of You et al. 2017 with BYOL's order of operations, one tensor at a time in
    float64."""
    weights = [w.astype(np.float64) for w in weights]
    velocity = [np.zeros_like(w) for w in weights]
    for step_grads, rate in zip(grads, lr, strict=True):
        for i, gradient in enumerate(step_grads):
            update = gradient + (weight_decay * weights[i] if adapted[i] else 0)
            if adapted[i]:
                weight_norm, update_norm = (
                    np.sqrt((weights[i] ** 2).sum()),
                    np.sqrt((update**2).sum()),
                )
                if weight_norm > 0 and update_norm > 0:
                    update = update * (trust * weight_norm / update_norm)
            velocity[i] = momentum * velocity[i] + update
            weights[i] = weights[i] - rate * velocity[i]
    return weights


@pytest.mark.parametrize("momentum", [0.0, 0.9])
@pytest.mark.parametrize("weight_decay", [0.0, 0.05])
def test_lars_same_as_numpy(momentum, weight_decay):
    rng = np.random.default_rng(0)
    shapes = [(4, 3, 3, 3), (5, 7), (2, 6), (3, 4), (5,), (4,)]
    adapted = [True, True, True, True, False, False]
    weights = [rng.normal(size=s).astype(np.float32) for s in shapes]
    weights[2][:] = 0  # |w| = 0: a plain step
    grads = [[rng.normal(size=s).astype(np.float32) for s in shapes] for _ in range(STEPS)]
    for step_grads in grads:
        step_grads[3][:] = 0  # |g| = 0
    rates = [0.5, 0.5, 0.4, 0.3, 0.2, 0.1]

    module = nn.ParameterList(torch.from_numpy(w.copy()) for w in weights)
    config = OptimConfig(name="lars", lr=rates[0], momentum=momentum, trust=0.02)
    optimizer = build_optimizer(param_groups(module, weight_decay), config)
    for step_grads, rate in zip(grads, rates, strict=True):
        for group in optimizer.param_groups:
            group["lr"] = rate
        for p, g in zip(module, step_grads, strict=True):
            p.grad = torch.from_numpy(g.copy())
        optimizer.step()

    expected = lars_numpy(weights, grads, rates, momentum, weight_decay, 0.02, adapted)
    for p, e in zip(module, expected, strict=True):
        np.testing.assert_allclose(p.detach().numpy(), e, rtol=2e-5, atol=2e-6)


def test_lars_excluded_group_is_sgd_and_frozen_parameters_stay():
    ours, theirs = small_net(), small_net()
    for net in (ours, theirs):
        net[0].weight.requires_grad_(False)
    groups = [{"params": list(ours.parameters()), "weight_decay": 0.1, "lars_adapt": False}]
    actual = train(ours, LARS(groups, lr=0.1))
    expected = train(
        theirs, torch.optim.SGD(theirs.parameters(), lr=0.1, momentum=0.9, weight_decay=0.1)
    )
    for a, b in zip(actual, expected, strict=True):
        torch.testing.assert_close(a, b)
    assert torch.equal(actual[0], small_net()[0].weight)


def test_lars_in_channels_last_equals_contiguous():
    plain, last = small_net(), small_net().to(memory_format=torch.channels_last)
    results = [
        train(net, build_optimizer(param_groups(net, 0.01), OptimConfig(name="lars", lr=1.0)))
        for net in (plain, last)
    ]
    for a, b in zip(*results, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("name", ["sgd", "adamw", "lars", "adam"])
def test_resumed_equals_uninterrupted(name, tmp_path):
    config = OptimConfig(name=name, lr=0.05)
    net = small_net()
    optimizer = build_optimizer(param_groups(net, 0.01), config)
    train(net, optimizer, seed=1)
    torch.save({"net": net.state_dict(), "optimizer": optimizer.state_dict()}, tmp_path / "c.pt")
    expected = train(net, optimizer, seed=2)

    saved = torch.load(tmp_path / "c.pt", weights_only=True)
    resumed = small_net()
    resumed.load_state_dict(saved["net"])
    resumed_optimizer = build_optimizer(param_groups(resumed, 0.01), config)
    resumed_optimizer.load_state_dict(saved["optimizer"])
    for a, b in zip(train(resumed, resumed_optimizer, seed=2), expected, strict=True):
        assert torch.equal(a, b)
    again = resumed_optimizer.state_dict()
    assert again["param_groups"] == optimizer.state_dict()["param_groups"]
    assert again["state"].keys() == saved["optimizer"]["state"].keys()


def test_param_groups_exempt_vectors_skip_frozen_and_shared():
    net = small_net()
    net.add_module("shared", net[4])
    net.temperature = nn.Parameter(torch.tensor(10.0))
    net[0].weight.requires_grad_(False)
    decayed, exempt = param_groups(net, 0.3)
    assert [id(p) for p in decayed["params"]] == [id(net[4].weight)]
    assert {id(p) for p in exempt["params"]} == {
        id(p) for p in (net.temperature, net[0].bias, net[1].weight, net[1].bias, net[4].bias)
    }
    assert len(exempt["params"]) == 5
    assert (decayed["weight_decay"], decayed["lars_adapt"]) == (0.3, True)
    assert (exempt["weight_decay"], exempt["lars_adapt"]) == (0.0, False)


def test_param_groups_without_vectors_is_one_group():
    assert [g["lars_adapt"] for g in param_groups(nn.Linear(2, 2, bias=False), 0.1)] == [True]


def test_lr_scale_stays_with_its_group_and_the_callers_groups_are_untouched():
    net = small_net()
    groups = param_groups(net, 0.0)
    groups[1]["lr_scale"] = 10.0
    before = copy.copy(groups[1])
    optimizer = build_optimizer(groups, OptimConfig(name="adamw", lr=0.01))
    assert [g["lr"] for g in optimizer.param_groups] == [0.01, pytest.approx(0.1)]
    assert optimizer.param_groups[1]["lr_scale"] == 10.0
    assert groups[1].keys() == before.keys()


def torch_rates(total: int, peak: float, make) -> list[float]:
    optimizer = torch.optim.SGD([nn.Parameter(torch.zeros(1))], lr=peak)
    scheduler = make(optimizer)
    rates = []
    for _ in range(total):
        rates.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        scheduler.step()
    return rates


def warmup_cosine(optimizer, total, warmup, final):
    rise = lr_scheduler.LinearLR(optimizer, start_factor=1 / (warmup + 1), total_iters=warmup)
    fall = lr_scheduler.CosineAnnealingLR(optimizer, T_max=total - warmup, eta_min=final)
    return lr_scheduler.SequentialLR(optimizer, [rise, fall], milestones=[warmup])


@pytest.mark.filterwarnings("ignore:The epoch parameter")
@pytest.mark.parametrize("total", [7, 100])
@pytest.mark.parametrize(
    ("schedule", "make"),
    [
        (ScheduleConfig(name="constant"), lambda o, n: lr_scheduler.ConstantLR(o, factor=1)),
        (
            ScheduleConfig(name="cosine", final_frac=0.05),
            lambda o, n: lr_scheduler.CosineAnnealingLR(o, T_max=n, eta_min=0.05 * 0.4),
        ),
        (
            ScheduleConfig(name="warmup_cosine", warmup_frac=0.3, final_frac=0.1),
            lambda o, n: warmup_cosine(o, n, round(0.3 * n), 0.1 * 0.4),
        ),
        (
            ScheduleConfig(name="step", step_gamma=0.3, step_every_frac=0.25),
            lambda o, n: lr_scheduler.StepLR(o, step_size=round(0.25 * n), gamma=0.3),
        ),
        (
            ScheduleConfig(name="polynomial", power=0.9),
            lambda o, n: lr_scheduler.PolynomialLR(o, total_iters=n, power=0.9),
        ),
        (
            ScheduleConfig(
                name="one_cycle", warmup_frac=0.3, initial_frac=0.04, final_frac=0.04 / 50
            ),
            lambda o, n: lr_scheduler.OneCycleLR(
                o, 0.4, total_steps=n, pct_start=0.3, div_factor=25, final_div_factor=50
            ),
        ),
    ],
    ids=lambda value: value.name if isinstance(value, ScheduleConfig) else "",
)
def test_schedule_same_as_torch(schedule, make, total):
    expected = torch_rates(total, 0.4, lambda o: make(o, total))
    actual = [lr_at(step, total, 0.4, schedule) for step in range(total)]
    assert actual == pytest.approx(expected, rel=1e-9, abs=1e-12)


@pytest.mark.parametrize(("first", "growth", "restarts"), [(10, 1, 3), (7, 2, 2), (4, 3, 1)])
def test_restarts_same_as_torch(first, growth, restarts):
    total = sum(first * growth**period for period in range(restarts + 1))
    schedule = ScheduleConfig(
        name="cosine_restarts", restarts=restarts, period_growth=growth, final_frac=0.05
    )

    def make(optimizer):
        return lr_scheduler.CosineAnnealingWarmRestarts(optimizer, first, growth, 0.05 * 0.4)

    expected = torch_rates(total, 0.4, make)
    actual = [lr_at(step, total, 0.4, schedule) for step in range(total)]
    assert actual == pytest.approx(expected, rel=1e-9, abs=1e-12)
    assert actual.count(0.4) == restarts + 1


@pytest.mark.parametrize("patience", [0, 1, 3])
@pytest.mark.parametrize("threshold", [0.0, 0.01])
def test_plateau_same_as_torch(patience: int, threshold: float) -> None:
    """Compared epoch by epoch on curves that rise, stay level and fall."""
    rng = np.random.default_rng(patience)
    rising = np.linspace(0.1, 0.9, 10)
    values = np.concatenate([rising, rising[-1:].repeat(5), 0.5 + 0.01 * rng.normal(size=15)])
    epochs = len(values)
    schedule = ScheduleConfig(
        name="plateau",
        plateau_gamma=0.5,
        plateau_patience_frac=patience / epochs,
        plateau_threshold=threshold,
    )
    optimizer = torch.optim.SGD([nn.Parameter(torch.zeros(1))], 1.0)
    reference = lr_scheduler.ReduceLROnPlateau(
        optimizer, mode="max", factor=0.5, patience=patience, threshold=threshold, eps=0
    )
    found, expected = [], []
    for epoch in range(epochs):
        reference.step(values[epoch])
        expected.append(optimizer.param_groups[0]["lr"])
        found.append(plateau_factor(values[: epoch + 1].tolist(), epochs, schedule))
    assert found == pytest.approx(expected)
    assert found[0] == 1 > found[-1]


def test_one_cycle_closed_forms():
    schedule = ScheduleConfig(name="one_cycle", warmup_frac=0.5, initial_frac=0.1, final_frac=0.2)
    rates = [lr_at(step, 9, 2.0, schedule) for step in range(9)]
    assert (rates[0], rates[-1]) == pytest.approx((0.2, 0.4))

    at_once = ScheduleConfig(name="one_cycle", warmup_frac=0.0)
    assert lr_at(0, 9, 2.0, at_once) == 2.0


def test_restarts_of_a_run_whose_steps_do_not_divide():
    schedule = ScheduleConfig(name="cosine_restarts", restarts=2, period_growth=1.5)
    rates = [lr_at(step, 100, 1.0, schedule) for step in range(100)]
    # periods of 1 : 1.5 : 2.25 of 100 steps
    assert [step for step, rate in enumerate(rates) if rate == 1.0] == [0, 21, 53]
    assert lr_at(100, 100, 1.0, schedule) == 0.0


def test_schedule_closed_forms():
    cosine = ScheduleConfig(name="cosine", final_frac=0.2)
    assert lr_at(0, 10, 3.0, cosine) == 3.0
    assert lr_at(5, 10, 3.0, cosine) == pytest.approx(3.0 * 0.6)
    assert lr_at(10, 10, 3.0, cosine) == pytest.approx(3.0 * 0.2)
    polynomial = ScheduleConfig(name="polynomial", final_frac=0.5, power=2)
    assert lr_at(5, 10, 1.0, polynomial) == pytest.approx(0.5 + 0.5 * 0.25)
    warmup = ScheduleConfig(name="warmup_cosine", warmup_frac=0.5)
    assert [lr_at(s, 4, 1.0, warmup) for s in range(5)] == pytest.approx(
        [1 / 3, 2 / 3, 1, (1 + math.cos(math.pi / 2)) / 2, 0]
    )


@pytest.mark.parametrize("name", SCHEDULES)
@pytest.mark.parametrize("total", [1, 2, 3])
def test_very_short_runs_have_positive_rates(name, total):
    # The one-cycle schedule reaches its final rate at the last step, the others after it.
    final = 0.01 if name == "one_cycle" else 0.0
    schedule = ScheduleConfig(name=name, warmup_frac=0.5, step_every_frac=0.01, final_frac=final)
    assert all(0 < lr_at(step, total, 1.0, schedule) <= 1 for step in range(total))


@pytest.mark.parametrize(
    ("cls", "values", "named"),
    [
        (OptimConfig, {"lr": 0}, "lr=0"),
        (OptimConfig, {"lr": "nan"}, "lr="),
        (OptimConfig, {"momentum": 1.0}, "momentum=1.0"),
        (OptimConfig, {"weight_decay": -1}, "weight_decay=-1"),
        (OptimConfig, {"name": "adamax"}, "'adamw'"),
        (OptimConfig, {"name": "adamw", "nesterov": True}, "nesterov=True"),
        (ScheduleConfig, {"warmup_frac": 0.6}, "warmup_frac=0.6"),
        (ScheduleConfig, {"final_frac": 2}, "final_frac=2"),
    ],
)
def test_bad_values_are_named(cls, values, named):
    with pytest.raises(UserError, match=named):
        build(cls, values)


@pytest.mark.parametrize("name", SCHEDULES)
def test_a_layer_that_thaws_has_a_schedule_of_its_own(name: str) -> None:
    schedule = ScheduleConfig(name=name)  # type: ignore[arg-type]
    always = [thawed_lr_at(step, 200, 0.3, schedule, 0.0) for step in range(200)]
    assert always == [lr_at(step, 200, 0.3, schedule) for step in range(200)]

    own = [thawed_lr_at(step, 200, 0.3, schedule, 0.5) for step in range(100, 200)]
    fresh = [lr_at(step, 100, 0.3, schedule) for step in range(100)]
    warmup = round(THAW_WARMUP * 100)
    assert own[warmup:] == fresh[warmup:]
    if name not in ("warmup_cosine", "one_cycle"):
        expected = [fresh[step] * (step + 1) / (warmup + 1) for step in range(warmup)]
        assert own[:warmup] == pytest.approx(expected)
    assert max(own) == pytest.approx(0.3, rel=0.1)  # not the decayed rate of the other groups
    assert own[0] < 0.3 / 2


@pytest.mark.parametrize("kind", [torch.optim.SGD, torch.optim.Adam, torch.optim.AdamW, LARS])
def test_an_eager_optimizer_steps_saves_and_loads_as_torchs_own(kind: Any) -> None:
    options = {"momentum": 0.9} if kind in (torch.optim.SGD, LARS) else {}
    results = []
    for made in (kind, eager(kind)):
        torch.manual_seed(0)
        module = nn.Sequential(nn.Linear(5, 7), nn.Tanh(), nn.Linear(7, 2))
        optimizer = made(module.parameters(), lr=0.1, weight_decay=0.01, **options)
        assert isinstance(optimizer, kind)
        for step in range(6):
            if step == 3:
                saved = optimizer.state_dict()
                optimizer = made(module.parameters(), lr=0.3, weight_decay=0.01, **options)
                optimizer.load_state_dict(saved)
            optimizer.zero_grad(set_to_none=True)
            module(torch.randn(3, 5)).square().mean().backward()
            optimizer.step()
        results.append([parameter.detach().clone() for parameter in module.parameters()])
    assert all(torch.equal(a, b) for a, b in zip(*results, strict=True))


@pytest.mark.heavy
def test_training_imports_no_compiler() -> None:
    """The import takes 2 s of CPU time in every process of a trial."""
    program = """
import sys
import torch
from trainables.backbone.networks import BackboneConfig, build_backbone
from trainables.optim import OptimConfig, build_optimizer, param_groups
net = build_backbone(BackboneConfig(name="tiny", width=8))
for name in ("sgd", "adam", "adamw", "lars"):
    optimizer = build_optimizer(param_groups(net, 0.1), OptimConfig(name=name))
    optimizer.zero_grad(set_to_none=True)
    net(torch.rand(2, 3, 28, 28)).mean().backward()
    optimizer.step()
    optimizer.load_state_dict(optimizer.state_dict())
print([name for name in ("torch._dynamo", "torchvision") if name in sys.modules])
"""
    done = subprocess.run(
        [sys.executable, "-c", program], cwd=REPO, capture_output=True, text=True, check=True
    )
    assert done.stdout == "[]\n"
