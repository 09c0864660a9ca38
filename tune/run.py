"""The command line: python tune/run.py EXPERIMENT [options]. See README.md."""

import sys
from pathlib import Path

# Python puts this file's folder first on the path, where `tune/search.py` would be a module `search`.
sys.path[0] = str(Path(__file__).resolve().parent.parent)

import os  # noqa: E402
import re  # noqa: E402
import signal  # noqa: E402
import threading  # noqa: E402
import time  # noqa: E402
from dataclasses import dataclass  # noqa: E402
from typing import Annotated, Any  # noqa: E402

import typer  # noqa: E402

from trainables.config import build, flatten, nearest  # noqa: E402
from trainables.errors import UserError  # noqa: E402
from tune.console import Console  # noqa: E402
from tune.evidence import doubts, verdict  # noqa: E402
from tune.experiments import EXPERIMENTS, Experiment  # noqa: E402
from tune.lineage import choose, from_backbone, in_setting, lineage_tags, start_values  # noqa: E402
from tune.manifest import Manifest, resume_command  # noqa: E402
from tune.space import as_json, describe  # noqa: E402
from tune.study import Study  # noqa: E402

DONE, FAILED, WRONG_USE, INTERRUPTED = 0, 1, 2, 130
DEFAULT_TRIALS = 16
_DRAIN_S = 60.0
_FILE = dict.fromkeys(("init.file", "init.sha256", "init.origin"), "backbone")
_OPTIONS = {"data.name": "data", "seed": "seed", "init.source": "setting"} | _FILE
"""Config values that have an option of their own."""


@dataclass(frozen=True)
class Options:
    """What was typed."""

    experiment: str
    data: str | None
    trials: int
    study: str | None
    storage: str
    seed: int
    time_budget: str | None
    set: list[str]
    preset: str | None
    workers: int
    gpus_per_worker: float | None
    concurrent: int | None
    repeats: int
    skip_corrupt: bool
    setting: str | None
    backbone: str | None
    local: bool
    trial: str | None
    plan: bool


def main(
    experiment: Annotated[str, typer.Argument(help="; ".join(f"{e.name}: {e.about}" for e in EXPERIMENTS.values()))],
    data: Annotated[str | None, typer.Option(help="Embedded name (glyphs, digits) or a folder.")] = None,
    trials: Annotated[int, typer.Option(min=1, help="Trials in total; a larger number extends a finished study.")] = DEFAULT_TRIALS,
    study: Annotated[str | None, typer.Option(help="Name of the study; default: the experiment's.")] = None,
    storage: Annotated[str, typer.Option(help="Where studies are kept.")] = "runs",
    seed: Annotated[int, typer.Option(min=0, help="Seed of the search and of its trials.")] = 0,
    time_budget: Annotated[str | None, typer.Option(help="Stop after e.g. 90s, 30m, 2h; the same command goes on.")] = None,
    set: Annotated[list[str] | None, typer.Option(help="KEY=VALUE pins a config value, which is then not searched. Repeatable.")] = None,
    preset: Annotated[str | None, typer.Option(help="tiny or full. Default: tiny on embedded data, full on a folder.")] = None,
    workers: Annotated[int, typer.Option(min=1, help="Workers of one trial.")] = 1,
    gpus_per_worker: Annotated[float | None, typer.Option(min=0, help="GPUs of one worker; 0.5 packs two trials on one.")] = None,
    concurrent: Annotated[int | None, typer.Option(min=1, help="Trials at a time. Default: what fits.")] = None,
    repeats: Annotated[int, typer.Option(min=0, help="Fresh seeds for the best trial and the default, on the test split.")] = 3,
    skip_corrupt: Annotated[bool, typer.Option("--skip-corrupt", help="Leave unreadable images out, on record.")] = False,
    setting: Annotated[str | None, typer.Option(help="classify: A, B, C, D or E, initialisation x what trains; see README.md.")] = None,
    backbone: Annotated[str | None, typer.Option(help="PATH, STUDY, STUDY/TRIAL, torchvision, models:/..., runs:/...")] = None,
    local: Annotated[bool, typer.Option("--local", help="In this process, without Ray: breakpoint() works.")] = False,
    trial: Annotated[str | None, typer.Option(help="STUDY/N, with --local: run that trial again and compare.")] = None,
    plan: Annotated[bool, typer.Option("--plan", help="Print what would run, with estimates; run nothing.")] = False,
) -> None:
    """Search an experiment's hyperparameters. The same command again goes on where the last one ended, however it ended."""
    options = Options(experiment, data, trials, study, storage, seed, time_budget, set or [], preset, workers, gpus_per_worker,
                      concurrent, repeats, skip_corrupt, setting, backbone, local, trial, plan)  # fmt: skip
    try:
        code = execute(options)
    except UserError as error:
        print(f"vistune: {error}", file=sys.stderr)
        code = WRONG_USE
    except KeyboardInterrupt:
        print(f"vistune: interrupted; go on with: {resume_command()}", file=sys.stderr)
        code = INTERRUPTED
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)  # a thread that hangs in a dead server's socket must not keep the terminal


def execute(options: Options) -> int:
    """Run what was asked for; returns the exit code.

    Raises:
        UserError: wrong use, before any trial starts.
    """
    if options.experiment not in EXPERIMENTS:
        raise UserError(f"unknown experiment {options.experiment!r}{nearest(options.experiment, EXPERIMENTS)}")
    experiment = EXPERIMENTS[options.experiment]
    if options.workers > 1:
        raise UserError(f"--workers {options.workers}: trials of several workers are not supported yet; use --workers 1")
    if "://" in options.storage:
        raise UserError(f"--storage {options.storage}: object storage is not supported yet; use a folder")
    budget_s = parse_duration(options.time_budget)
    storage = Path(options.storage).expanduser().resolve()
    if options.trial is not None:
        return _replay(options, experiment, storage)
    setting = choose(experiment, options.setting, options.backbone)
    name = options.study or (experiment.name if setting is None else f"{experiment.name}-{options.setting}")
    if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9._-]*", name):
        raise UserError(f"--study {name!r} must be letters, digits, '.', '_' and '-', beginning with a letter or digit")
    values = {}
    if setting is not None:
        experiment = in_setting(experiment, setting)
        architecture = _architecture(options, experiment)
        values = setting.values | start_values(setting, options.backbone, storage, storage / name, _before(options), architecture)
    elif options.backbone is not None:
        architecture = _architecture(options, experiment)
        experiment, values = from_backbone(experiment, options.backbone, storage, storage / name, architecture)
    preset, base, pins = resolve(options, experiment, values)
    config: Any = build(experiment.config, base)
    data = experiment.trainable.load_data(config.data, progress=True)
    start = experiment.trainable.prove(config, data)
    manifest = Manifest(
        name=name, experiment=experiment.name, preset=preset, objective=experiment.trainable.objective_for(data), seed=options.seed,
        base=base, pins=pins, space=as_json(describe(experiment.space, preset, pins)),
        data={"name": data.name, "fingerprint": data.fingerprint, "path": str(config.data.name), "images": len(data.train)},
    )  # fmt: skip
    if options.plan:
        from tune.plan import show_plan

        show_plan(experiment, manifest, config, data, options)
        return DONE
    study = Study.open(storage / name, experiment, manifest, trials=options.trials, repeats=options.repeats)
    return _run(study, experiment, options, data, budget_s, start)


def _run(study: Study, experiment: Experiment, options: Options, data: Any, budget_s: float | None, start: str) -> int:
    from tune.pictures import Pictures
    from tune.tracking import Tracker

    # A live table would draw over the prompt of a debugger.
    interactive = False if options.local else None
    console = Console(study.objective, study.base.train.epochs, options.trials, interactive=interactive)
    why = " (there are no labels for kNN)" if study.objective == "val/rankme" else ""
    console.line(f"study {study.manifest.name}: {data.summary()}; searched by {study.objective}{why}, preset {study.manifest.preset}")
    if start:
        console.line(start)
    for t in study.frozen_trials():
        if t.state.is_finished() or t.intermediate_values:
            best = t.value if t.value is not None else max(t.intermediate_values.values(), default=None)
            state = t.state.name.lower() if t.state.is_finished() else "running"
            console.know(t.number, state, max(t.intermediate_values, default=0), best, t.user_attrs.get("reason", ""))
    pictures = Pictures(study)
    study.observers += [console.on_event, pictures.on_event]
    tracker = Tracker(study.directory)
    tracker.start()
    pictures.start()
    if start:
        study.summarize({}, **lineage_tags(study.manifest.base))
    _stop_on_signals(study)
    out_of_time = _stop_after(study, budget_s)
    try:
        with console:
            if options.local:
                from tune.local import search_locally

                search_locally(study, experiment)
            else:
                from tune.search import search

                search(study, experiment, concurrent=options.concurrent, gpus_per_worker=options.gpus_per_worker)
        if study.stopping:
            study.emit("finish", state="INTERRUPTED")
        else:
            _conclude(study, console, pictures)
    except (UserError, OSError) as error:
        return _broken_off(study, tracker, error)
    up_to_date = tracker.close(_DRAIN_S)
    study.close()
    if not up_to_date:
        console.line("MLflow is behind; the record is safe in the study's folder: `python tune/report.py sync` fills MLflow in")
    if study.stopping:
        why = "time budget spent" if out_of_time.is_set() else "interrupted"
        console.line(f"{why}: {study.finished()} of {options.trials} trials ended, nothing is lost. Go on with: {resume_command()}")
        return DONE if out_of_time.is_set() else INTERRUPTED
    console.line(f"compare the trials in MLflow: make ui    (or: python -m tune.ui --storage {options.storage})")
    return DONE if study.best_number() is not None else FAILED


def _broken_off(study: Study, tracker: Any, error: UserError | OSError) -> int:
    """The study's folder cannot be written: nothing more is, its trials stay open, and the same command goes on."""
    from tune.trial import storage_failure

    message = error if isinstance(error, UserError) else storage_failure(error, study.directory)
    if message is None:
        raise error
    tracker.close(_DRAIN_S)
    study.close()
    print(f"vistune: {message}", file=sys.stderr)
    return FAILED


def _conclude(study: Study, console: Console, pictures: Any) -> None:
    """Say what was found, and write it down."""
    found = verdict(study)
    number = study.best_number()
    if number is not None:
        study.emit("artifact", trial=number, path=f"trials/{number:04d}/best.pt", to="backbone")
        best = study.frozen_trials()[number]
        console.line(
            f"best trial {number}: {study.objective} {best.value:.4f} with " + ", ".join(f"{k}={_brief(v)}" for k, v in best.params.items())
        )
    if found is not None:
        console.line(found.sentence)
        study.summarize(found.metrics(), verdict=found.sentence)
    for doubt in doubts(study):
        console.line(f"note: {doubt}")
    pictures.close(_DRAIN_S)
    study.emit("finish", state="FINISHED")


def resolve(options: Options, experiment: Experiment, values: dict[str, Any]) -> tuple[str, dict[str, Any], dict[str, Any]]:
    """Preset, base config of trial 0 (flat, whole) and pins. `values` are those of a setting.

    Raises:
        UserError: unknown preset, unknown key, a value out of range, a pin against the setting.
    """
    pins = parse_pins(options.set)
    if "freeze.policy" in values and "freeze.policy" in pins:
        raise UserError(f"--set freeze.policy: setting {options.setting} keeps the backbone frozen; leave it out, or choose another")
    preset = _preset(options, experiment)
    flat = {**experiment.presets[preset], "seed": options.seed, "data.skip_corrupt": options.skip_corrupt}
    if options.data is not None:
        flat["data.name"] = str(Path(options.data).expanduser().resolve()) if _is_folder(options.data) else options.data
    base = flatten(build(experiment.config, flat | values | pins))
    return preset, base, {key: base[key] for key in pins}


def _preset(options: Options, experiment: Experiment) -> str:
    preset = options.preset or ("full" if options.data and _is_folder(options.data) else "tiny")
    if preset not in experiment.presets:
        raise UserError(f"unknown preset {preset!r}{nearest(preset, experiment.presets)}")
    return preset


def _architecture(options: Options, experiment: Experiment) -> str:
    """`backbone.name`, before the config can be built: what it starts from is part of it."""
    return str(parse_pins(options.set).get("backbone.name", experiment.presets[_preset(options, experiment)]["backbone.name"]))


def parse_pins(settings: list[str]) -> dict[str, Any]:
    """["optim.lr=0.1"] -> {"optim.lr": "0.1"}; names are checked and values converted by `build`."""
    pins = {}
    for setting in settings:
        key, equals, value = setting.partition("=")
        if not equals:
            raise UserError(f"--set {setting!r} must be KEY=VALUE, such as --set optim.lr=0.1")
        if key in _OPTIONS:
            raise UserError(f"--set {key}: use --{_OPTIONS[key]} {value}")
        pins[key.strip()] = value.strip()
    return pins


def parse_duration(text: str | None) -> float | None:
    """ "90s", "30m", "2h", "1.5h" -> seconds."""
    if text is None:
        return None
    match = re.fullmatch(r"(\d+(?:\.\d+)?)\s*([smh])", text.strip())
    if match is None or float(match[1]) == 0:
        raise UserError(f"--time-budget {text!r} must be a number with s, m or h, such as 90s, 30m or 2h")
    return float(match[1]) * {"s": 1, "m": 60, "h": 3600}[match[2]]


def _before(options: Options) -> str:
    """The options that the study whose backbone is missing should be run with."""
    data = f" --data {options.data}" if options.data and _is_folder(options.data) else ""
    return data + ("" if options.storage == "runs" else f" --storage {options.storage}")


def _is_folder(data: str) -> bool:
    from trainables.data import EMBEDDED

    return data not in EMBEDDED


def _stop_on_signals(study: Study) -> None:
    """The first Ctrl-C (or SIGTERM) ends the run in order, the second at once."""

    def stop(number: int, frame: Any) -> None:
        study.stopping = True
        print("\nstopping; the state is safe (Ctrl-C again to leave at once)", file=sys.stderr)
        signal.signal(signal.SIGINT, signal.default_int_handler)

    signal.signal(signal.SIGINT, stop)
    signal.signal(signal.SIGTERM, stop)


def _stop_after(study: Study, seconds: float | None) -> threading.Event:
    spent = threading.Event()
    if seconds is not None:
        deadline = time.monotonic() + seconds

        def watch() -> None:
            time.sleep(max(0.0, deadline - time.monotonic()))
            spent.set()
            study.stopping = True

        threading.Thread(target=watch, name="time budget", daemon=True).start()
    return spent


def _replay(options: Options, experiment: Experiment, storage: Path) -> int:
    if not options.local:
        raise UserError(f"--trial {options.trial} replays a trial in this process: add --local")
    name, _, number = str(options.trial).rpartition("/")
    if not name or not number.isdigit():
        raise UserError(f"--trial {options.trial!r} must be STUDY/NUMBER, such as --trial ssl/3")
    from tune.local import replay

    equal = replay(storage / name, experiment, int(number), print)
    print("the replay equals the record" if equal else "the replay differs from the record")
    return DONE if equal else FAILED


def _brief(value: Any) -> str:
    return f"{value:.3g}" if isinstance(value, float) else str(value)


def command_line() -> None:
    """argv -> `main`. Wrong use is one line, as everything else that goes wrong."""
    app = typer.Typer(add_completion=False, pretty_exceptions_enable=False)
    app.command()(main)
    try:
        sys.exit(app(standalone_mode=False))
    except typer.TyperException as error:
        print(f"vistune: {error.format_message().rstrip('.')}; `python tune/run.py --help` lists the options", file=sys.stderr)
        sys.exit(WRONG_USE)


if __name__ == "__main__":
    command_line()
