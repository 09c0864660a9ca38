"""The names of `--sampler` and `--pruner`, in a module that imports nothing.

A study's manifest stores the method among its rules, as a version of the default or as a name.
"""

Rule = int | str
"""A version of the default method, or the name of another."""

JOINT_TPE = "joint-tpe"
"""The default sampler (`tune.search.sampler.SeededTPE`)."""
RUNGS = "rungs"
"""The default pruner (`tune.search.rungs.RULES`)."""
GRID = "grid"
SINGLE_OBJECTIVE = (JOINT_TPE, "cmaes")
"""Samplers that support one objective only."""
COMPLETED_ALONE = ("gp", "cmaes")
"""Samplers that learn from completed trials only."""

SAMPLERS = {
    JOINT_TPE: "the default: TPE, jointly over ranges that depend on another parameter",
    "tpe": "Optuna's TPE, each parameter by itself",
    "random": "independent draws",
    "sobol": "a scrambled Sobol sequence, which fills the space evenly",
    "gp": "Optuna's Gaussian process with expected improvement",
    "cmaes": "CMA-ES over the numeric parameters, the others at random",
    GRID: "every combination of choices and of five values of each range",
}
"""Name -> description."""
PRUNERS = {
    RUNGS: "the default: compares at a twelfth, a sixth, a quarter and half of the epochs",
    "halving": "successive halving: the best third continues at 1/27, 1/9 and 1/3",
    "hyperband": "brackets of successive halving that begin at different rungs",
    "median": "stops below the median of the completed trials at the same epoch",
    "none": "every trial runs to its end",
}
"""Name -> description."""


def sampler_name(rule: Rule) -> str:
    """The name of a sampler in `--sampler`."""
    return rule if isinstance(rule, str) else JOINT_TPE


def pruner_name(rule: Rule) -> str:
    """The name of a pruner in `--pruner`."""
    return rule if isinstance(rule, str) else RUNGS
