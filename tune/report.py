"""Look at studies: show [STUDY] | table | html STUDY | predict STUDY[/TRIAL] IMAGES |
export STUDY[/TRIAL] | dashboard STUDY | sam IMAGE... | sync | rename STUDY NAME |
archive STUDY | delete STUDY | bundle STUDY. See README.md."""

import sys
from pathlib import Path

if not __package__:
    # Python puts the folder of a script first on the path, where `tune/search` would be `search`.
    sys.path[0] = str(Path(__file__).resolve().parent.parent)

from tune.startup import check_python, end_on_interrupt

if __name__ == "__main__":
    end_on_interrupt()
check_python()

from collections.abc import Callable, Iterable
from typing import Annotated, NoReturn

import typer

from trainables.errors import UserError
from tune.cli.app import WRONG_USE, Version, new_app, run_app, told_os_error
from tune.command_line import command
from tune.formatting import plain_console, print_prose
from tune.object_store.s3 import copy
from tune.reports.leaderboard import show_study
from tune.reports.storage import (
    describe,
    find_all,
    find_study,
    is_comparison,
    synced_folder,
)
from tune.study.group import is_group
from tune.surroundings import prepare_process
from tune.upkeep.commands import add_commands
from tune.upkeep.kept import named_folders

app = new_app()
Storage = Annotated[
    str, typer.Option(help="Where studies are kept: a folder, s3://bucket/prefix or gs://...")
]


@app.callback()
def look(version: Version = False) -> None:
    """Show studies, use and export their models, rename or remove them."""


@app.command()
def show(
    study: Annotated[str | None, typer.Argument(help="Default: list the studies.")] = None,
    storage: Storage = "runs",
) -> None:
    """Show a study's leaderboard, what it may claim, and why trials failed."""
    root = synced_folder(storage)
    if study is None:
        _print_each(find_all(root), describe)
    else:
        show_study(find_study(root, study), plain_console())


@app.command()
def table(
    group: Annotated[str, typer.Argument(help="Name of the comparison.")] = "classify",
    storage: Storage = "runs",
    others: Annotated[
        list[str] | None,
        typer.Option(
            "--with",
            help="A further storage, with the same searches under another --seed: one table over "
            "all. Repeatable.",
        ),
    ] = None,
) -> None:
    """Compare settings: accuracy with intervals, paired differences, cost. Without --with the table
    is also written to the comparison's folder."""
    if others:
        from tune.reports.pooled_table import pool_searches
        from tune.reports.pooled_text import show_pooled
        from tune.reports.table_text import wide_console

        folders = [synced_folder(each) / group for each in (storage, *others)]
        show_pooled(pool_searches(folders), wide_console())
    else:
        from tune.cli.compare import publish_table

        publish_table(synced_folder(storage) / group)


@app.command("html")
def html_page(
    study: Annotated[str, typer.Argument(help="A study or a comparison.")],
    storage: Storage = "runs",
) -> None:
    """Write report.html: everything that a study found, in one file that needs no network. Draw
    missing pictures first."""
    root = synced_folder(storage)
    if is_comparison(root / study):
        from tune.reports.html_group import write_group_report

        if is_group(root / study):
            _, *studies = named_folders(root, study)
            _draw(studies)
        page = write_group_report(root / study)
    else:
        from tune.reports.html_report import write_report

        folder = find_study(root, study)
        _draw([folder])
        page = write_report(folder)
    print(copy(page))


@app.command()
def sync(
    study: Annotated[str | None, typer.Argument(help="Default: every study.")] = None,
    storage: Storage = "runs",
    log: Annotated[
        list[str] | None,
        typer.Option(
            help="Send studies there too: csv, tensorboard, wandb. Repeatable. "
            "Default: where each study is sent already.",
        ),
    ] = None,
) -> None:
    """Bring MLflow and other logs up to date with the studies' records."""
    from tune.tracking.logs import check_logs, sync_study

    asked = check_logs(log)
    root = synced_folder(storage)
    folders = [find_study(root, study)] if study else find_all(root)
    _print_each(folders, lambda folder: sync_study(folder, asked))


@app.command()
def dashboard(
    study: Annotated[str, typer.Argument(help="A study, which may be running.")],
    storage: Storage = "runs",
    port: Annotated[int, typer.Option(help="Port on 127.0.0.1.")] = 8080,
) -> None:
    """Show a study in optuna-dashboard, which only reads it."""
    from tune.reports.dashboard import serve

    serve(find_study(synced_folder(storage), study), port)


@app.command()
def sam(
    images: Annotated[list[Path], typer.Argument(help="Image files.")],
    checkpoint: Annotated[
        Path,
        typer.Option(
            help="Folder with config.json, preprocessor_config.json and model.safetensors."
        ),
    ],
    out: Annotated[
        Path | None, typer.Option(help="Folder of the pictures. Default: beside each image.")
    ] = None,
    points: Annotated[int, typer.Option(min=1, help="Prompts along each side of the image.")] = 32,
    quality: Annotated[
        float,
        typer.Option(min=0, max=1, help="Smallest predicted IoU of a mask; 0 keeps all masks."),
    ] = 0.88,
    stability: Annotated[
        float, typer.Option(min=0, max=1, help="Smallest stability of a mask; 0 keeps all masks.")
    ] = 0.95,
) -> None:
    """Draw the masks that Segment Anything finds in images."""
    from tune.reports.sam import Thresholds, draw_masks

    keep = Thresholds(points, quality, stability)
    for line in draw_masks(images, checkpoint.expanduser(), out, keep):
        print(line)


@app.command()
def predict(
    study: Annotated[str, typer.Argument(help="STUDY (its chosen trial) or STUDY/TRIAL.")],
    images: Annotated[
        Path,
        typer.Argument(
            help="A folder, or a csv: id,filename[,label]; for fewshot a csv of episodes."
        ),
    ],
    out: Annotated[
        Path,
        typer.Option(help="Csv of labels or episodes, npz of features, or folder of masks."),
    ],
    storage: Storage = "runs",
    probabilities: Annotated[
        bool, typer.Option("--probabilities", help="Add a column p_CLASS for each class.")
    ] = False,
    skip_corrupt: Annotated[
        bool, typer.Option("--skip-corrupt", help="Leave out images that cannot be read.")
    ] = False,
    overwrite: Annotated[
        bool, typer.Option("--overwrite", help="Replace an existing file or folder.")
    ] = False,
    repeat: Annotated[
        int | None,
        typer.Option(help="Seed of a repeat: predict with its weights, which were tested."),
    ] = None,
    max_megapixels: Annotated[
        int | None,
        typer.Option(min=1, help="Largest image that is read. Default: the study's limit, 90."),
    ] = None,
    data: Annotated[
        str | None, typer.Option(help="Folder of the training data, if it was moved.")
    ] = None,
) -> None:
    """Predict labels, answers to episodes, masks or features of new images, in the format of the
    training data. If the input has labels, score the predictions."""
    root = synced_folder(storage)
    find_study(root, study.partition("/")[0])

    from tune.prediction.predict import predict as predict_images
    from tune.prediction.request import Request

    request = Request(
        source=images,
        out=out,
        probabilities=probabilities,
        skip_corrupt=skip_corrupt,
        overwrite=overwrite,
        repeat=repeat,
        max_megapixels=max_megapixels,
        data=data,
    )
    console = plain_console()
    for line in predict_images(study, root, request):
        print_prose(console, line)


_MASKS = f"For colour masks of a folder: {command('export', 'MODEL', 'IMAGES', 'OUT')}"


@app.command(epilog=_MASKS)
def export(
    study: Annotated[str, typer.Argument(help="STUDY (its best trial) or STUDY/TRIAL.")],
    storage: Storage = "runs",
    out: Annotated[
        Path | None,
        typer.Option(help="Folder of the model. Default: `model` in the study's folder."),
    ] = None,
    data: Annotated[
        str | None, typer.Option(help="Folder of the study's images, if they were moved.")
    ] = None,
    format: Annotated[
        str,
        typer.Option(help="mlflow (registered), onnx, safetensors or torch_export."),
    ] = "mlflow",
) -> None:
    """Check a trial's model against its record, and write it with a model card. In MLflow's format
    it is also registered; the study's answer becomes `champion`.
    """
    from tune.export import MLFLOW, export_model
    from tune.registry import register
    from tune.reports.model_card import write_card

    exported = export_model(study, synced_folder(storage), out, data, format)
    write_card(exported)
    print(copy(exported.folder))
    print(exported)
    if format != MLFLOW:
        return

    registered = register(exported)
    copy(exported.folder / "MLmodel")  # it now names the registered model
    print(f"registered in MLflow as {registered.model}, version {registered.version}; serve it:")
    print(f"    {registered.serve_command()}")
    if registered.note:
        print(f"note: {registered.note}")


add_commands(app)


def _draw(folders: Iterable[Path]) -> None:
    """Draw the pictures that the studies' runs left undrawn."""
    from tune.reports.draw_behind import draw_now

    for folder in folders:
        draw_now(folder)


def _print_each(folders: Iterable[Path], line: Callable[[Path], str]) -> None:
    """Print one line per study; a study that fails does not stop the others.

    Raises:
        typer.Exit: at the end, if any study failed.
    """
    failed = False
    for folder in folders:
        try:
            print(line(folder))
        except UserError as error:
            print(f"vistune: {error}", file=sys.stderr)
            failed = True
    if failed:
        raise typer.Exit(WRONG_USE)


def main() -> NoReturn:
    """Parse argv and run one of the commands above."""
    prepare_process()
    if len(sys.argv) == 1:
        app(["--help"], standalone_mode=False)
        sys.exit(WRONG_USE)

    try:
        run_app(app, "report")
    except UserError as error:
        print(f"vistune: {error}", file=sys.stderr)
    except (OSError, RuntimeError) as error:
        print(f"vistune: {told_os_error(error)}", file=sys.stderr)
    sys.exit(WRONG_USE)


if __name__ == "__main__":
    main()
