"""The backbone from which trials start, given by `--setting` and `--backbone`."""

import shlex
from pathlib import Path
from typing import Any

from search_spaces.classify import BackboneSetting
from search_spaces.settings import Setting
from tune.backbones.resolve import from_backbone, in_setting, start_values
from tune.cli.default_config import is_folder, preset_of
from tune.cli.option_values import parse_pins
from tune.cli.options import Options
from tune.experiments import Experiment


def starting_point(
    options: Options, experiment: Experiment, setting: Setting | None, directory: Path
) -> tuple[Experiment, dict[str, Any]]:
    """Return the experiment with the search space for its starting point, and the config values of
    that starting point."""
    storage = directory.parent

    if isinstance(setting, BackboneSetting):
        start = start_values(
            setting,
            options.backbone,
            storage,
            directory,
            _options_of_source_study(options),
            _architecture(options, experiment),
        )
        return in_setting(experiment, setting), start

    if options.backbone is not None:
        architecture = _architecture(options, experiment)
        return from_backbone(experiment, options.backbone, storage, directory, architecture)

    return experiment, {}


def _architecture(options: Options, experiment: Experiment) -> str:
    """Return `backbone.name`, which is needed before the config can be built."""
    default = experiment.presets[preset_of(options, experiment)]["backbone.name"]
    return str(parse_pins(options.set).get("backbone.name", default))


def _options_of_source_study(options: Options) -> str:
    """Return the options with which to run a missing source study."""
    text = ""
    if options.data and is_folder(options.data):
        text += f" --data {shlex.quote(options.data)}"
    if options.storage != "runs":
        text += f" --storage {shlex.quote(options.storage)}"
    return text
