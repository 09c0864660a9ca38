"""Learning rates of a run, as functions of the step."""

import itertools
import math
from collections.abc import Sequence
from typing import Literal

from trainables.config import Annotated, Field, config

THAW_WARMUP = 0.05
"""Warm-up of a layer that thaws, as a share of the steps that remain after it thaws."""

Fraction = Annotated[float, Field(ge=0, le=1)]


@config
class ScheduleConfig:
    """Learning rate over a run, as a fraction of the peak. Every length is a fraction of all steps,
    so a schedule fits runs of any length."""

    name: Literal[
        "constant",
        "cosine",
        "warmup_cosine",
        "step",
        "polynomial",
        "one_cycle",
        "cosine_restarts",
        "plateau",
    ] = "warmup_cosine"
    """Shape; see `lr_at`, and `plateau_factor` for plateau."""
    warmup_frac: Annotated[float, Field(ge=0, le=0.5)] = 0.1
    """Share of the steps that rise to the peak, in [0, 0.5]; warmup_cosine: linearly, one_cycle:
    along a cosine."""
    final_frac: Fraction = 0.0
    """cosine, warmup_cosine, polynomial, one_cycle: rate at the end of the run relative to the
    peak, in [0, 1]; cosine_restarts: at the end of each period."""
    initial_frac: Annotated[float, Field(gt=0, le=1)] = 0.04
    """one_cycle: rate of the first step relative to the peak, in (0, 1]."""
    restarts: Annotated[int, Field(ge=1, le=20)] = 2
    """cosine_restarts: number of returns to the peak after the first period, in [1, 20]."""
    period_growth: Annotated[float, Field(ge=1, le=4)] = 2.0
    """cosine_restarts: length of each period relative to the previous one, in [1, 4]."""
    step_gamma: Annotated[float, Field(gt=0, le=1)] = 0.1
    """step: factor of each drop, in (0, 1]."""
    step_every_frac: Annotated[float, Field(gt=0, le=1)] = 0.3
    """step: share of the steps between two drops, in (0, 1]."""
    plateau_gamma: Annotated[float, Field(gt=0, lt=1)] = 0.1
    """plateau: factor of each drop, in (0, 1)."""
    plateau_patience_frac: Fraction = 0.1
    """plateau: share of the epochs without a better objective before the rate drops, in
    [0, 1]."""
    plateau_threshold: Annotated[float, Field(ge=0, lt=1)] = 1e-4
    """plateau: relative improvement over the best objective that counts as better."""
    power: Annotated[float, Field(gt=0)] = 0.9
    """polynomial: exponent, > 0 (0.9 is usual in segmentation)."""


def lr_at(step: int, total_steps: int, peak: float, schedule: ScheduleConfig) -> float:
    """Learning rate of optimizer step `step`, counted from 0, in a run of `total_steps`.

    With t = step / total_steps, and f the final fraction, the rate relative to the peak is
        constant       1; also for plateau, where `plateau_factor` lowers the peak
        cosine         f + (1 - f) (1 + cos(pi t)) / 2
                       (Loshchilov & Hutter 2017, equation 5, one period)
        warmup_cosine  (step + 1) / (W + 1) for step < W, the warm-up;
                       then a cosine over the remaining steps
        step           gamma ^ floor(step / every)
        polynomial     f + (1 - f) (1 - t) ^ power
        one_cycle      half a cosine from the initial fraction to 1 at the last step of the
                       warm-up, then half a cosine to f at the last step (Smith & Topin 2018)
        cosine_restarts  a cosine in each of several periods that fill the run, each `period_growth`
                       times as long as the previous one (Loshchilov & Hutter 2017, equation 5)
    Equal to torch's CosineAnnealingLR, LinearLR + CosineAnnealingLR, StepLR, PolynomialLR,
    OneCycleLR (without momentum cycling) and CosineAnnealingWarmRestarts.
    `step` is in [0, total_steps]; a warm-up starts above 0, and step W is the peak.
    """
    if schedule.name in ("constant", "plateau"):
        return peak
    if schedule.name == "step":
        every = max(1, round(schedule.step_every_frac * total_steps))
        drops = step // every
        factor: float = schedule.step_gamma**drops
        return peak * factor
    if schedule.name == "one_cycle":
        return peak * _one_cycle(step, total_steps, schedule)
    if schedule.name == "cosine_restarts":
        return peak * _cosine_restarts(step, total_steps, schedule)

    warmup = 0
    if schedule.name == "warmup_cosine":
        warmup = round(schedule.warmup_frac * total_steps)
    if step < warmup:
        return peak * (step + 1) / (warmup + 1)

    t = (step - warmup) / (total_steps - warmup)
    if schedule.name != "polynomial":
        return peak * _half_cosine(t, 1.0, schedule.final_frac)
    shape: float = (1 - t) ** schedule.power
    return peak * (schedule.final_frac + (1 - schedule.final_frac) * shape)


def _half_cosine(t: float, first: float, last: float) -> float:
    """Move from `first` at t = 0 to `last` at t = 1 along half a cosine."""
    shape = (1 + math.cos(math.pi * t)) / 2
    return last + (first - last) * shape


def _one_cycle(step: int, total_steps: int, schedule: ScheduleConfig) -> float:
    """Rate relative to the peak. As in torch, the peak is at the last step of the warm-up, or at
    the first step of a run without a warm-up."""
    last_step = max(1, total_steps - 1)
    top = max(0.0, schedule.warmup_frac * total_steps - 1)
    if step < top:
        return _half_cosine(step / top, schedule.initial_frac, 1.0)

    t = (step - top) / (last_step - top)
    return _half_cosine(min(1.0, t), 1.0, schedule.final_frac)


def _cosine_restarts(step: int, total_steps: int, schedule: ScheduleConfig) -> float:
    """Rate relative to the peak. Periods start at whole steps; in a short run, empty periods are
    skipped."""
    lengths = [schedule.period_growth**period for period in range(schedule.restarts + 1)]
    ends = [round(total_steps * end / sum(lengths)) for end in itertools.accumulate(lengths)]

    start = 0
    for end in ends:
        if step < end:
            return _half_cosine((step - start) / (end - start), 1.0, schedule.final_frac)
        start = end
    return schedule.final_frac


def plateau_factor(values: Sequence[float], epochs: int, schedule: ScheduleConfig) -> float:
    """Rate relative to the peak after epochs with these objectives, larger being better:
    `plateau_gamma` to the power of the number of drops.

    The rate drops after more than `plateau_patience_frac` of a run's epochs in a row without a
    better objective; then counting restarts. Equal to torch's ReduceLROnPlateau with mode "max", a
    relative threshold and no cooldown, for objectives above 0.
    """
    patience = round(schedule.plateau_patience_frac * epochs)
    best: float | None = None
    without = drops = 0
    for value in values:
        if best is None or value > best + schedule.plateau_threshold * abs(best):
            best = value
            without = 0
            continue
        without += 1
        if without > patience:
            drops += 1
            without = 0
    factor: float = schedule.plateau_gamma**drops
    return factor


def thawed_lr_at(
    step: int, total_steps: int, peak: float, schedule: ScheduleConfig, thaws_at: float
) -> float:
    """Learning rate of a layer that trains from fraction `thaws_at` of the steps on. The schedule
    runs over the layer's remaining steps, as in a separate fine-tuning (Kumar et al. 2022, section
    3.4), after a short warm-up if the schedule has none.

    `lr_at` would give it a rate that has already decayed. With thaws_at = 0, this is `lr_at`.
    """
    first = round(thaws_at * total_steps)
    if first == 0:
        return lr_at(step, total_steps, peak, schedule)

    own_steps = total_steps - first
    own_step = max(0, step - first)
    rate = lr_at(own_step, own_steps, peak, schedule)
    if schedule.name in ("warmup_cosine", "one_cycle"):
        return rate
    warmup = round(THAW_WARMUP * own_steps)
    return rate * min(1.0, (own_step + 1) / (warmup + 1))
