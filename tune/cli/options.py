"""The options of `tune/run.py`, declared once: the code reads them from `Options`, and typer builds
the command line from the same fields."""

import copy
import inspect
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Annotated, Any, get_args

import typer

from tune.cli import completions
from tune.experiments import EXPERIMENTS
from tune.reports.drawing_process import Drawn
from tune.search.method_names import PRUNERS, SAMPLERS
from tune.study.rules import ENOUGH_SEARCHES, PAIR, REPEATS, WINNER, Keep

DEFAULT_TRIALS = 16
DEFAULT_SEARCHES = ENOUGH_SEARCHES
"""Searches of each setting of a comparison; with fewer there is no verdict on settings."""
TRIALS_OF_SEARCHES = 12
"""Trials per search if each setting has several. The spread between searches limits what a table
can distinguish; it halves from 4 trials to 12 (docs/notes/evidence.md)."""

OWN_OPTION = {
    "data.name": "data",
    "data.layout": "layout",
    "seed": "seed",
    "train.objective": "objective",
    "init.source": "setting",
    "init.file": "backbone",
    "init.sha256": "backbone",
    "init.origin": "backbone",
}
"""Config key -> the option that sets it, for keys that `--set` refuses."""

_ABOUT = [f"{experiment.name}: {experiment.about}" for experiment in EXPERIMENTS.values()]
_OWN = "your own file: path/to/mine.py[:NAME]; or any command: script --help"
_EXPERIMENTS = "; ".join([*_ABOUT, _OWN])


def _named(methods: Iterable[str]) -> str:
    """Join names in one line, marking the first as the default."""
    default, *others, last = methods
    return f"{default} (default), {', '.join(others)} or {last}"


def _compared() -> str:
    """List the named comparisons, by experiment."""
    named = []
    for experiment in EXPERIMENTS.values():
        keys = [key for key in experiment.comparisons if key]
        if keys:
            named.append(f"{experiment.name}: {' or '.join(keys)}")
    return "; ".join(named)


@dataclass(frozen=True, kw_only=True)
class Options:
    """Everything that was typed."""

    experiment: Annotated[
        str, typer.Argument(help=_EXPERIMENTS, autocompletion=completions.experiments)
    ]
    data: Annotated[
        str | None,
        typer.Option(
            help="An embedded set (glyphs, digits, earth), a folder, torchvision:NAME or hf:NAME."
        ),
    ] = None
    layout: Annotated[
        str | None,
        typer.Option(help="Layout of the folder (docs/data.md). Default: recognise it."),
    ] = None
    trials: Annotated[
        int | None,
        typer.Option(
            metavar="N",
            min=1,
            help="Trials in total; a larger number extends a finished study. Default: "
            f"{DEFAULT_TRIALS}; with several searches {TRIALS_OF_SEARCHES} each.",
        ),
    ] = None
    searches: Annotated[
        int | None,
        typer.Option(
            metavar="N",
            min=1,
            max=1000,
            help="Independent searches of each setting of a comparison; a larger number "
            f"extends it. Default: {DEFAULT_SEARCHES}.",
        ),
    ] = None
    search: Annotated[
        int | None,
        typer.Option(metavar="N", min=1, help="Run only this one of several searches."),
    ] = None
    study: Annotated[
        str | None, typer.Option(help="Name of the study. Default: the experiment's.")
    ] = None
    storage: Annotated[
        str, typer.Option(help="Where studies are kept: a folder, s3://bucket/prefix or gs://...")
    ] = "runs"
    seed: Annotated[
        int,
        typer.Option(
            metavar="N", min=0, max=2**32 - 1, help="Seed of the search and of its trials."
        ),
    ] = 0
    time_budget: Annotated[
        str | None, typer.Option(help="Stop after e.g. 90s, 30m, 2h; the same command resumes.")
    ] = None
    set: Annotated[
        list[str] | None,
        typer.Option(help="KEY=VALUE pins a config value: it is not searched. Repeatable."),
    ] = None
    space: Annotated[
        list[str] | None,
        typer.Option(
            help="Search KEY=LOW..HIGH[:log] or KEY=A,B; or a file of ranges. Repeatable "
            "(docs/search.md).",
        ),
    ] = None
    no_search: Annotated[
        list[str] | None,
        typer.Option(
            help="KEY keeps its default and is not searched; all: every key that --space does not "
            "name. Repeatable.",
        ),
    ] = None
    sampler: Annotated[
        str | None,
        typer.Option(
            help=f"{_named(SAMPLERS)} (docs/search.md).",
            autocompletion=completions.samplers,
        ),
    ] = None
    pruner: Annotated[
        str | None,
        typer.Option(
            help=f"{_named(PRUNERS)} (docs/search.md).",
            autocompletion=completions.pruners,
        ),
    ] = None
    enqueue: Annotated[
        list[str] | None,
        typer.Option(
            "--try",
            help="Try the configuration KEY=VALUE,KEY=VALUE,... before any that the search draws. "
            "Repeatable.",
        ),
    ] = None
    preset: Annotated[
        str | None,
        typer.Option(
            help="tiny or full. Default: tiny on embedded data, full on a folder.",
            autocompletion=completions.presets,
        ),
    ] = None
    workers: Annotated[int, typer.Option(metavar="N", min=1, help="Workers of one trial.")] = 1
    gpus_per_worker: Annotated[
        float | None,
        typer.Option(
            metavar="X", min=0, help="GPUs of one worker; 0.5 puts two trials on one GPU."
        ),
    ] = None
    concurrent: Annotated[
        str | None,
        typer.Option(
            metavar="N",
            help="Trials at a time; auto: as many on each GPU as still raise throughput. "
            "Default: as many as fit.",
        ),
    ] = None
    batch_trials: Annotated[
        int | None,
        typer.Option(
            metavar="N",
            min=2,
            max=256,
            help="Settings D and E (frozen backbone): train up to N heads as one batch, in this "
            "process.",
        ),
    ] = None
    repeats: Annotated[
        int | None,
        typer.Option(
            metavar="N",
            min=0,
            help="Fresh seeds under which the default and the best other trial are trained again, "
            "for the test; with several searches, the chosen trial of each. Default: "
            f"{REPEATS[PAIR]}; with several searches {REPEATS[WINNER]}.",
        ),
    ] = None
    pictures: Annotated[
        Drawn,
        typer.Option(help="Trials whose pictures are drawn; best: the default and the best three."),
    ] = "best"
    keep: Annotated[
        Keep | None,
        typer.Option(
            help="Trials whose weights are kept; best: the best five and the default. "
            "Default: best.",
        ),
    ] = None
    skip_corrupt: Annotated[
        bool, typer.Option("--skip-corrupt", help="Leave out unreadable images, and record that.")
    ] = False
    control: Annotated[
        bool,
        typer.Option(
            "--control",
            help="classify: add A-long, which trains from scratch for as long as pre-training and "
            "fine-tuning together.",
        ),
    ] = False
    setting: Annotated[
        str | None,
        typer.Option(
            help="Search one setting. classify: A to E, A-long; fewshot: K1, K5, K10, "
            "euclidean, ...",
            autocompletion=completions.settings,
        ),
    ] = None
    backbone: Annotated[
        str | None,
        typer.Option(
            help="Weights to start from: PATH, STUDY, STUDY/TRIAL, torchvision, timm, models:/... "
            "or runs:/..."
        ),
    ] = None
    allow_seen: Annotated[
        bool,
        typer.Option(
            "--allow-seen",
            help="Accept a backbone that was trained on val or test images; every page says so.",
        ),
    ] = False
    transductive: Annotated[
        bool,
        typer.Option(
            "--transductive",
            help="ssl: also train on val and test images, without labels; every page says so.",
        ),
    ] = False
    objective: Annotated[
        list[str] | None,
        typer.Option(
            help="Metric that selects, such as val/macro_f1. Default: the experiment's. Repeat it "
            "for several objectives, with - before those that should be small; the result is a "
            "front (docs/search.md)."
        ),
    ] = None
    balance: Annotated[
        bool,
        typer.Option(
            "--balance",
            help="pretrain, classify: also search class weights and balanced sampling.",
        ),
    ] = False
    accept_code: Annotated[
        bool,
        typer.Option(
            "--accept-code",
            help="Resume although the file of your experiment has changed; every page says so.",
        ),
    ] = False
    retry_failed: Annotated[
        bool,
        typer.Option(
            "--retry-failed",
            help="Train failed trials and repeats again, under their numbers.",
        ),
    ] = False
    hung_after: Annotated[
        float | None,
        typer.Option(
            metavar="N",
            min=2,
            help="Functions and scripts: a trial fails if it reports nothing for N times its usual "
            "epoch, and for a minute. Default: wait.",
        ),
    ] = None
    local: Annotated[
        bool, typer.Option("--local", help="Run in this process, without Ray: breakpoint() works.")
    ] = False
    trial: Annotated[
        str | None,
        typer.Option(
            help="STUDY/N, with --local: run that trial again, compare it with the record."
        ),
    ] = None
    plan: Annotated[
        bool, typer.Option("--plan", help="Print what would run, with estimates, and run nothing.")
    ] = False
    warm_start: Annotated[
        str | None,
        typer.Option(
            help="Earlier study whose best configurations are tried early; shipped: those that "
            "searches on embedded data have found."
        ),
    ] = None
    log: Annotated[
        list[str] | None,
        typer.Option(
            help="Record the study there too, beside MLflow: csv, tensorboard, wandb. Repeatable.",
            autocompletion=completions.logs,
        ),
    ] = None
    compare: Annotated[
        str | None,
        typer.Option(
            help=f"Search several settings and print a table. {_compared()}.",
            autocompletion=completions.comparisons,
        ),
    ] = None

    @property
    def trial_count(self) -> int:
        """`--trials`, or its default for a single search."""
        return DEFAULT_TRIALS if self.trials is None else self.trials


PANELS = {
    "What is trained": (
        "data layout skip_corrupt preset set objective balance setting compare control backbone "
        "allow_seen transductive"
    ),
    "The study": (
        "study storage trials repeats searches search seed time_budget retry_failed accept_code "
        "keep pictures log"
    ),
    "What is searched, and how": "space no_search sampler pruner enqueue warm_start",
    "Where trials run": ("local trial workers gpus_per_worker concurrent batch_trials hung_after"),
}
"""Heading in `--help` -> its options. `--plan` is in the first panel, which typer names."""


def option_parameters() -> dict[str, inspect.Parameter]:
    """Return one parameter per field, in the order and with the panel in which `--help` lists
    it."""
    fields = inspect.signature(Options).parameters
    parameters = {name: fields[name] for name in ("experiment", "plan")}
    for panel, names in PANELS.items():
        for name in names.split():
            kind, option = get_args(fields[name].annotation)
            grouped = copy.copy(option)
            grouped.rich_help_panel = panel
            parameters[name] = fields[name].replace(annotation=Annotated[kind, grouped])
    return parameters


def as_command(function: Callable[[Options], None]) -> Callable[..., None]:
    """Wrap a function that takes `Options` so that typer sees one parameter per field."""

    def command(**values: Any) -> None:
        function(Options(**values))

    command.__doc__ = function.__doc__
    parameters = list(option_parameters().values())
    command.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]
    return command
