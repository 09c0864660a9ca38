"""vistune: hyperparameter search for computer vision on Ray.

    import vistune

    study = vistune.load_study("runs/ssl")

Importing it takes milliseconds, because each name below is imported from its module on first use.
"""

import sys
import warnings
from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from trainables.errors import UserError
    from tune.execution.function_run import FunctionRun
    from tune.function_experiment import function_experiment
    from tune.script_experiment import script_experiment
    from vistune.comparing import Comparison, compare
    from vistune.searching import search
    from vistune.settings import SettingsTable, load_settings, search_settings
    from vistune.study import Study, load_study
    from vistune.trial import Trial
    from vistune.verdict import Verdict

__version__ = "0.1.0"
"""The only place that sets the version; pyproject.toml reads it from here."""

__all__ = [
    "Comparison",
    "FunctionRun",
    "SettingsTable",
    "Study",
    "Trial",
    "UserError",
    "Verdict",
    "__version__",
    "compare",
    "function_experiment",
    "load_settings",
    "load_study",
    "script_experiment",
    "search",
    "search_settings",
]

_MODULES = {
    "Comparison": "vistune.comparing",
    "FunctionRun": "tune.execution.function_run",
    "SettingsTable": "vistune.settings",
    "Study": "vistune.study",
    "Trial": "vistune.trial",
    "UserError": "trainables.errors",
    "Verdict": "vistune.verdict",
    "compare": "vistune.comparing",
    "function_experiment": "tune.function_experiment",
    "load_settings": "vistune.settings",
    "load_study": "vistune.study",
    "script_experiment": "tune.script_experiment",
    "search": "vistune.searching",
    "search_settings": "vistune.settings",
}
"""Public name -> the module that defines it."""


def __getattr__(name: str) -> Any:
    module = _MODULES.get(name)
    if module is None:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")

    if "ipykernel" in sys.modules:
        # tqdm, which Optuna imports, would warn about missing widgets, which we do not need.
        warnings.filterwarnings("ignore", message="IProgress not found")
    value = getattr(import_module(module), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted([*globals(), *_MODULES])
