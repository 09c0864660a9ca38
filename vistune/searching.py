"""Run a search from Python, like the command `vistune`, in a script or a notebook."""

from collections.abc import Sequence
from pathlib import Path
from typing import Literal

from trainables.errors import UserError
from tune.cli.caller import Caller, Progress
from tune.cli.options import Options
from tune.experiments import Experiment
from tune.reports.drawing_process import Drawn
from tune.study.rules import Keep
from vistune.arguments import Ranges, Values, as_options
from vistune.engine import ask_engine
from vistune.study import Study


def search(
    experiment: str | Path | Experiment,
    *,
    data: str | Path | None = None,
    layout: str | None = None,
    trials: int | None = None,
    study: str | None = None,
    storage: str | Path = "runs",
    seed: int = 0,
    time_budget: str | None = None,
    set: Values | None = None,
    space: Ranges | None = None,
    no_search: Sequence[str] = (),
    sampler: str | None = None,
    pruner: str | None = None,
    enqueue: Sequence[Values] = (),
    preset: str | None = None,
    workers: int = 1,
    gpus_per_worker: float | None = None,
    concurrent: int | Literal["auto"] | None = None,
    batch_trials: int | None = None,
    repeats: int | None = None,
    pictures: Drawn = "best",
    keep: Keep | None = None,
    skip_corrupt: bool = False,
    setting: str | None = None,
    backbone: str | Path | None = None,
    allow_seen: bool = False,
    transductive: bool = False,
    objective: str | Sequence[str] | None = None,
    balance: bool = False,
    accept_code: bool = False,
    retry_failed: bool = False,
    hung_after: float | None = None,
    local: bool = False,
    warm_start: str | None = None,
    log: Sequence[str] = (),
    progress: Progress = "auto",
) -> Study:
    """Search an experiment's hyperparameters, and return the study.

    Repeating the call resumes where the last one ended, however it ended; a larger `trials` extends
    a finished study. Each argument corresponds to the option of the same name of the command
    `vistune`.

        study = vistune.search("ssl", trials=32, set={"optim.name": "adamw"})

    An interrupt (Ctrl-C, a notebook's stop button) closes the study and raises KeyboardInterrupt.
    No signal handler is installed, so this can be called from any thread.

    Args:
        experiment: name of an experiment, path of a file that defines one (`mine.py` or
            `mine.py:NAME`), or an `Experiment`.
        data: name of an embedded data set (glyphs, digits, earth), or a folder.
        layout: layout of the folder; None: detect it.
        trials: total number of trials, 16 by default.
        study: name of the study; None: the experiment's.
        storage: folder of the studies, `s3://bucket/prefix` or `gs://bucket/prefix`.
        seed: seed of the search and of its trials.
        time_budget: stop after `90s`, `30m` or `2h`.
        set: config values to fix instead of searching them.
        space: your own ranges: `{"optim.lr": (1e-4, 1e-2, "log"), "optim.name": ["sgd",
            "adamw"]}`, or strings as `--space` takes them.
        no_search: config paths that keep their default; `all`: every path that `space` does not
            name.
        sampler: sampling method, such as `tpe` or `sobol`; None: `joint-tpe`.
        pruner: pruning method, such as `median` or `none`; None: `rungs`.
        enqueue: configurations to try before any drawn by the search; see `Study.enqueue`.
        preset: `tiny` or `full`; None: tiny on embedded data, full on a folder.
        workers: number of workers per trial.
        gpus_per_worker: GPUs per worker; 0.5 puts two trials on one GPU.
        concurrent: number of trials at a time; `auto`: as many per GPU as still raise throughput;
            None: as many as fit.
        batch_trials: maximum number of heads on frozen backbones to train as one batch, in this
            process.
        repeats: number of fresh seeds for the default and the best other trial, 6 by default.
        pictures: trials whose pictures are drawn: `none`, `best` (the default and the best three)
            or `all`.
        keep: trials whose weights are kept: `best` (the best five and the default) or `all`; None:
            `best`, or what the study started with.
        skip_corrupt: leave out unreadable images, and record that.
        setting: a setting of the experiment, such as A to E of `classify`.
        backbone: file, study, study/trial, `torchvision`, `models:/...` or `runs:/...`.
        allow_seen: accept a backbone that was trained on val or test images.
        transductive: train `ssl` also on val and test images, without labels.
        objective: metric that selects trials; None: the experiment's own. Several metrics give a
            front; prefix those to minimize with -: `["val/top1", "-time/epoch_s"]`.
        balance: also search class weights and balanced sampling.
        accept_code: resume although the file of the experiment has changed.
        retry_failed: train failed trials and repeats again, under the same numbers.
        hung_after: fail a function's trial if it reports nothing for this many times its usual
            epoch; None: wait.
        local: run the search in this process, without Ray.
        warm_start: name of an earlier study whose best configurations are tried after the default;
            `shipped`: those found by searches on embedded data.
        log: logs in addition to MLflow: `csv`, `tensorboard`, `wandb`.
        progress: `auto` (a live table at a terminal and in a notebook), `text` or `none`.
    Raises:
        UserError: wrong use, raised before any trial starts; or the study's folder is not writable.
        KeyboardInterrupt: the search was interrupted; the study can be resumed.
    """
    options = as_options(
        experiment,
        data=data,
        layout=layout,
        trials=trials,
        study=study,
        storage=storage,
        seed=seed,
        time_budget=time_budget,
        set=set,
        space=space,
        no_search=no_search,
        sampler=sampler,
        pruner=pruner,
        enqueue=enqueue,
        preset=preset,
        workers=workers,
        gpus_per_worker=gpus_per_worker,
        concurrent=concurrent,
        batch_trials=batch_trials,
        repeats=repeats,
        pictures=pictures,
        keep=keep,
        skip_corrupt=skip_corrupt,
        setting=setting,
        backbone=backbone,
        allow_seen=allow_seen,
        transductive=transductive,
        objective=objective,
        balance=balance,
        accept_code=accept_code,
        retry_failed=retry_failed,
        hung_after=hung_after,
        local=local,
        warm_start=warm_start,
        log=log,
    )
    given = experiment if isinstance(experiment, Experiment) else None
    return run(options, Caller(progress=progress), given)


def run(options: Options, caller: Caller, experiment: Experiment | None = None) -> Study:
    """Run a single study through the engine, and return it.

    Raises:
        UserError: wrong use, or the study's folder is not writable.
        KeyboardInterrupt: the search was interrupted.
    """
    from tune.experiment_file import find_experiment

    if experiment is None:
        experiment = find_experiment(options.experiment)
    _refuse_comparison(options, experiment)

    ended = ask_engine(options, caller, experiment)
    assert ended.study is not None  # a comparison was refused
    return Study(ended.study)


def _refuse_comparison(options: Options, experiment: Experiment) -> None:
    if "" not in experiment.comparisons or options.setting is not None:
        return
    settings = ", ".join(experiment.comparisons[""].settings)
    raise UserError(
        f"{experiment.name} compares settings, which is several studies; name one with setting=, "
        f"of {settings}, or compare them with vistune.search_settings({experiment.name!r})"
    )
