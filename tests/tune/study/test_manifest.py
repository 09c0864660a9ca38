"""Manifests that cannot be read, that come from earlier versions, or whose code has changed."""

import json
import tarfile
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from tests import REPO
from tests.studies import manifest
from trainables.config import build, flatten
from trainables.errors import UserError
from trainables.schedules import ScheduleConfig
from tune.experiments import EXPERIMENTS
from tune.study.manifest import Manifest, read_manifest, with_earlier_values


def with_code(sha256: str, lines: int, **more: Any) -> Manifest:
    """A manifest whose code has this many lines, each of which names the digest."""
    text = "".join(f"{sha256} {number}\n" for number in range(lines))
    code = {"path": "mine.py", "variable": "M", "sha256": sha256, "text": text, "top": 1}
    return manifest(code=code | more)


@pytest.mark.parametrize(("earlier", "now"), [("a", "b"), ("b", "a")])
@pytest.mark.parametrize(("lines", "hidden"), [(1, ""), (5, "; and 4 more lines")])
def test_changed_code_is_shown_and_refused(
    tmp_path: Path, earlier: str, now: str, lines: int, hidden: str
) -> None:
    path = tmp_path / "study.json"
    with_code(earlier, lines).reconcile_with(path)
    with_code(earlier, lines).reconcile_with(path)
    with pytest.raises(UserError) as refused:
        with_code(now, lines).reconcile_with(path)
    shown = [f"-{earlier} {number}" for number in range(lines)]
    shown += [f"+{now} {number}" for number in range(lines)]
    assert f"with another mine.py: {'; '.join(shown[:6])}{hidden}. --accept-code" in str(
        refused.value
    )
    assert read_manifest(path).code == with_code(earlier, lines).code

    with_code(now, lines, accepts=earlier).reconcile_with(path)
    accepted = read_manifest(path).code
    assert accepted is not None
    assert (accepted["sha256"], accepted["earlier"]) == (now, [earlier])


@pytest.mark.parametrize(("count", "hidden"), [(6, ""), (8, "; and 2 more")])
def test_of_many_differences_six_are_shown(tmp_path: Path, count: int, hidden: str) -> None:
    path = tmp_path / "study.json"
    names = [f"aug.n{number}" for number in range(count)]
    replace(manifest(), base=dict.fromkeys(names, 1)).reconcile_with(path)
    with pytest.raises(UserError) as refused:
        replace(manifest(), base=dict.fromkeys(names, 2)).reconcile_with(path)
    shown = "; ".join(f"{name} was 1, is 2" for name in names[:6])
    assert f"with another configuration: {shown}{hidden}. Repeat" in str(refused.value)


def test_a_manifest_that_cannot_be_read_is_one_line(tmp_path: Path) -> None:
    (tmp_path / "study.json").mkdir()
    with pytest.raises(UserError, match=r"study\.json cannot be read: Is a directory$"):
        read_manifest(tmp_path / "study.json")


def test_studies_from_before_average_no_weights_and_judge_by_the_first_rules() -> None:
    earlier = with_earlier_values({"data.limit": 0})
    assert (earlier["train.ema"], earlier["train.rules"]) == (0.0, 1)
    assert with_earlier_values(earlier | {"train.ema": 0.9})["train.ema"] == 0.9


def test_what_an_earlier_config_lacked_is_what_it_did() -> None:
    """A segmenter's predictions were not averaged, and the first images of an episode were its
    support. Schedules with restarts had the values that are now their defaults."""
    episodes = with_earlier_values({"data.limit": 0, "episode.way": 20})
    assert episodes["episode.every_support"] is False
    segmenter = with_earlier_values({"data.limit": 0, "model.name": "unet"})
    assert (segmenter["eval.scales"], segmenter["eval.flip"]) == ("1", False)
    known = flatten(ScheduleConfig())
    of_schedule = with_earlier_values({"data.limit": 0, "schedule.step_every_frac": 0.3})
    restored = {key: value for key, value in of_schedule.items() if key.startswith("schedule.")}
    assert len(restored) > 1
    assert {
        key.partition(".")[2]: value for key, value in restored.items()
    }.items() <= known.items()


@pytest.fixture(scope="module")
def recorded() -> dict[str, dict[str, Any]]:
    """Flat configs that commit 5d3a9ec wrote, by experiment."""
    found = {}
    with tarfile.open(REPO / "tests/recorded/5d3a9ec.tar.xz") as archive:
        for member in archive:
            if member.name.endswith("/study.json"):
                content = archive.extractfile(member)
                assert content is not None
                written = json.load(content)
                found[written["experiment"]] = written["base"]
    return found


@pytest.mark.parametrize("name", ["ssl", "pretrain", "classify", "fewshot", "segment"])
def test_every_config_key_of_today_has_a_value_for_earlier_studies(
    name: str, recorded: dict[str, dict[str, Any]]
) -> None:
    """A key without one would make the same command refuse each of them."""
    experiment = EXPERIMENTS[name]
    today = flatten(build(experiment.config, experiment.presets["tiny"]))
    assert today.keys() - with_earlier_values(recorded[name]).keys() == set()
