"""The smallest study: one trial without anything to search, in this process."""

from pathlib import Path
from typing import Any

from trainables.config import flatten
from tune.execution.local import search_locally
from tune.experiments import EXPERIMENTS
from tune.search.space import as_json, describe
from tune.study.manifest import Manifest
from tune.study.study import Study


def one_trial(
    root: Path,
    name: str,
    experiment_name: str,
    config: Any,
    repeats: int = 0,
    **about: Any,
) -> Path:
    """Search `root/name` to its end: one trial of `config` and its repeats. Return the study's
    folder.

    Args:
        about: further fields of the manifest.
    """
    experiment = EXPERIMENTS[experiment_name]
    data, pins = experiment.trainable.load_data(config.data), flatten(config)
    manifest = Manifest(
        name=name,
        experiment=experiment_name,
        preset="tiny",
        objective=experiment.trainable.objective_for(data),
        seed=0,
        base=pins,
        pins=pins,
        space=as_json(describe(experiment.space, "tiny", pins)),
        data={
            "name": data.name,
            "fingerprint": data.fingerprint,
            "path": data.name,
            "images": len(data.train),
            "summary": data.summary.as_json(),
        },
        **about,
    )
    study = Study.open(root / name, experiment, manifest, trials=1, repeats=repeats)
    search_locally(study, experiment)
    study.close()
    return root / name
