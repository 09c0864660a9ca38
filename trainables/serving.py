"""Refusal of requests that MLflow's server would silently change to fit a model.

The server drops parameters that the model does not know, casts any levels to uint8, and answers
JSON that is nested too deeply with an internal error. It does not consult the model first, so the
served model replaces the server's function that reads JSON.
"""

import sys
from collections.abc import Callable, Collection
from typing import Any

import numpy as np

from trainables.errors import UserError, first_line

__all__ = ["as_server_says", "watch_server"]

_SERVER = "mlflow.pyfunc.scoring_server"
_INPUTS = ("inputs", "instances")
_PARAMS = "params"
_READ = "_decode_json_input"

Read = Callable[[Any], dict[str, Any]]


def watch_server(known: Collection[str]) -> None:
    """Make the server in this process, if there is one, refuse requests that the model cannot
    answer as sent.

    Args:
        known: names of the model's parameters.
    """
    server = sys.modules.get(_SERVER)
    if server is None or not hasattr(server, _READ):
        return  # no server, or an unknown version of it
    read = getattr(server, _READ)
    setattr(server, _READ, _checked(getattr(read, "unchecked", read), known))


def as_server_says(error: UserError) -> Exception:
    """The error as MLflow's own type, the only one whose message its server passes to clients."""
    mlflow = sys.modules.get("mlflow.exceptions")
    if mlflow is None:
        return error
    refusal: Exception = mlflow.MlflowException.invalid_parameter_value(str(error))
    return refusal


def _checked(read: Read, known: Collection[str]) -> Read:
    def checked(sent: Any) -> dict[str, Any]:
        try:
            request = _decoded(read, sent)
            _check_params(request.get(_PARAMS), known)
            for name in _INPUTS:
                if name in request:
                    _check_range(request[name])
        except UserError as error:
            raise as_server_says(error) from None
        return request

    checked.unchecked = read  # type: ignore[attr-defined]
    return checked


def _decoded(read: Read, sent: Any) -> dict[str, Any]:
    try:
        return read(sent)
    except RecursionError:
        raise UserError(
            "the JSON is nested without end; send images as lists four deep: image, row, column, "
            "level"
        ) from None
    except ValueError as error:  # raised by Python for numbers with thousands of digits
        raise UserError(
            f"the JSON cannot be read ({first_line(error)}); send levels from 0 to 255"
        ) from None


def _check_params(params: Any, known: Collection[str]) -> None:
    """Refuse parameters that the model would never see."""
    if params is None:
        return
    if not isinstance(params, dict):
        raise UserError(f"params are {type(params).__name__}; send an object of names and values")
    unknown = sorted(set(map(str, params)) - set(known))
    if unknown:
        has = f"it has {', '.join(sorted(known))}" if known else "it has none"
        raise UserError(f"the model has no parameter {', '.join(unknown)}: {has}; leave it out")


def _check_range(images: Any) -> None:
    """Refuse levels that a cast to uint8 would wrap around."""
    try:
        levels = np.asarray(images, dtype=np.float64)
    except (ValueError, TypeError):
        return  # not an array; MLflow reports it
    if not levels.size:
        return
    low, high = levels.min(), levels.max()
    if not (low >= 0 and high <= 255):
        raise UserError(
            f"levels go from {low:g} to {high:g}; send the image's own levels from 0 to 255 as "
            "uint8, neither scaled nor normalized"
        )
