"""Refuse options that contradict each other, or that typer would have refused."""

from types import NoneType
from typing import Any, Literal, get_args, get_origin, get_type_hints

from pydantic import TypeAdapter, ValidationError

from trainables.errors import UserError
from trainables.redaction import has_credentials
from tune.cli.option_values import AUTO, parse_concurrent
from tune.cli.options import Options


def check_given(options: Options) -> None:
    """Refuse empty values, because an unset shell variable would become the current folder, and
    passwords, because typed options are recorded. Values from Python may also have a wrong type or
    be out of range.

    Raises:
        UserError: an option is "", contains a password, or has an invalid value.
    """
    for name, value in vars(options).items():
        if value == "":
            raise UserError(f"--{name.replace('_', '-')} is empty: give a value, or leave it out")
        for text in value if isinstance(value, list) else [value]:
            if isinstance(text, str) and has_credentials(text):
                raise UserError(
                    f"{text}: what is typed is on record, so that no option takes an address with "
                    "a password; code of yours can read it from a variable of the environment"
                )

    hints = get_type_hints(Options, include_extras=True)
    for name, value in vars(options).items():
        if value is not None:
            _check_value(f"--{name.replace('_', '-')}", value, hints[name])


def _check_value(option: str, value: Any, hint: Any) -> None:
    """Refuse a value that typer would have refused."""
    allowed, declared = get_args(hint)[:2]
    if not _is_one_of(value, allowed):
        raise UserError(f"{option} {value!r} must be {_named(allowed)}")

    low, high = declared.min, declared.max
    if low is not None and value < low:
        raise UserError(f"{option} {value} must be at least {low}")
    if high is not None and value > high:
        raise UserError(f"{option} {value} must be at most {high}")


def _is_one_of(value: Any, allowed: Any) -> bool:
    try:
        TypeAdapter(allowed).validate_python(value, strict=True)
    except ValidationError:
        return False
    return True


def _named(allowed: Any) -> str:
    """Name types or allowed values: `int`, `none or best or all`."""
    if get_origin(allowed) is Literal:
        return " or ".join(map(str, get_args(allowed)))
    kinds = [kind for kind in get_args(allowed) or (allowed,) if kind is not NoneType]
    return " or ".join(getattr(kind, "__name__", str(kind)) for kind in kinds)


def check_workers(options: Options) -> None:
    """Refuse numbers of workers and GPUs with which no trial can run.

    Raises:
        UserError: wrong use.
    """
    workers, gpus = options.workers, options.gpus_per_worker
    if parse_concurrent(options.concurrent) == AUTO:
        _refuse_beside_auto(options)

    if workers > 1 and options.batch_trials:
        raise UserError(
            f"--workers {workers} with --batch-trials, which is one process: leave one of them out"
        )

    if options.batch_trials:
        _refuse_beside_batches(options)

    if workers > 1 and options.local:
        raise UserError(
            f"--workers {workers} with --local, which is one process: leave one of them out"
        )

    if workers > 1 and gpus and gpus < 1:
        raise UserError(
            f"--gpus-per-worker {gpus:g}: each of --workers {workers} needs a GPU of its own (NCCL)"
        )

    if gpus is not None and not (0.0001 <= gpus <= 1 or gpus.is_integer()):
        raise UserError(
            f"--gpus-per-worker {gpus:g} must be 0, a share of one GPU such as 0.5, "
            "or a whole number of them"
        )


def _refuse_beside_batches(options: Options) -> None:
    """Refuse options that control how Ray distributes trials, if trials train as one batch in this
    process."""
    gpus = options.gpus_per_worker
    spread = {
        "--concurrent": options.concurrent,
        "--gpus-per-worker": None if gpus is None else f"{gpus:g}",
    }
    for name, value in spread.items():
        if value is not None:
            raise UserError(
                f"{name} {value} with --batch-trials {options.batch_trials}, which trains as "
                "many in one process, on one device: leave one of them out"
            )


def _refuse_beside_auto(options: Options) -> None:
    """Refuse options that determine what `--concurrent auto` should find out, or that leave it no
    choice."""
    if options.gpus_per_worker is not None:
        raise UserError(
            f"--gpus-per-worker {options.gpus_per_worker:g} with --concurrent auto, which finds "
            "out how many trials share a GPU: leave one of them out"
        )
    if options.workers > 1:
        raise UserError(
            f"--workers {options.workers} with --concurrent auto: each worker needs a GPU of its "
            "own (NCCL), so that none is shared; leave one of them out"
        )
    if options.local:
        raise UserError(
            "--concurrent auto with --local, which is one process and runs one trial at a time: "
            "leave one of them out"
        )
