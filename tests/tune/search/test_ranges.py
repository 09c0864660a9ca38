"""Spaces as text and in files, against Optuna's distributions, and what is refused."""

import json
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as some
from optuna.distributions import (
    BaseDistribution,
    CategoricalDistribution,
    FloatDistribution,
    IntDistribution,
    distribution_to_json,
)

from trainables.errors import UserError
from tune.search.ranges import (
    Range,
    When,
    parse_assignment,
    parse_distribution,
    parse_range,
    parse_scalar,
    range_for,
    write_distribution,
    write_range,
    write_scalar,
    write_yaml,
)
from tune.search.space_files import own_variants, read_file, read_ranges

READ: dict[str, BaseDistribution] = {
    "1e-4..1e-2:log": FloatDistribution(1e-4, 1e-2, log=True),
    "0..1": IntDistribution(0, 1),
    "0.0..1": FloatDistribution(0.0, 1.0),
    "-2.5..-.5": FloatDistribution(-2.5, -0.5),
    " 1 .. 8 ".replace(" ", ""): IntDistribution(1, 8),
    "16..256:step=16": IntDistribution(16, 256, step=16),
    "1..1024:log": IntDistribution(1, 1024, log=True),
    "0..1:step=0.25": FloatDistribution(0.0, 1.0, step=0.25),
    "sgd,adamw": CategoricalDistribution(("sgd", "adamw")),
    "32, 64 , 128": CategoricalDistribution((32, 64, 128)),
    "true,false": CategoricalDistribution((True, False)),
    "none,0.5,1e-3": CategoricalDistribution((None, 0.5, 1e-3)),
    '"0.75,1",plain,"true"': CategoricalDistribution(("0.75,1", "plain", "true")),
    '"a when b=c",d': CategoricalDistribution(("a when b=c", "d")),
    "../weights.pt,b": CategoricalDistribution(("../weights.pt", "b")),
    "0.1": CategoricalDistribution((0.1,)),
}


@pytest.mark.parametrize("text", READ)
def test_text_is_read_as_optunas_distribution(text: str) -> None:
    found = parse_distribution(text)
    assert found == READ[text]
    assert repr(found) == repr(READ[text])  # tells True from 1
    assert repr(parse_distribution(write_distribution(found))) == repr(found)


REFUSED = {
    "optim.lr": "it must be KEY=RANGE",
    "=0..1": "it must be KEY=RANGE",
    "a=": "it must be KEY=RANGE",
    "a=fast..slow": "a range is LOW..HIGH in numbers, such as 1e-4..1e-2:log",
    "a=1..": "a range is LOW..HIGH in numbers",
    "a=0...5": "a range is LOW..HIGH in numbers",
    "a=3..1": "it must begin below its end, but 3 is above 1",
    "a=0..1:log": "on a log scale it must begin above 0, not at 0",
    "a=1..2:lin": "'lin' is not an option of a range; valid: log, step=NUMBER",
    "a=1..9:step": "'step' is not an option of a range",
    "a=1..9:stride=2": "'stride=2' is not an option of a range",
    "a=1..9:step=two": "'step=two' is not an option of a range",
    "a=1..9:log:step=2": "a log scale has no steps",
    "a=0..1:step=0.3": "steps of 0.3 do not reach 1: end it at 0.9",
    "a=0..1:step=0": "its step must be above 0",
    "a=1..1e400": "its ends must be finite numbers",
    "a=b,c,b": "b is there twice",
    "a=b,": "a value is missing",
    'a="b': "put one that contains it in quotes",
    "a=b,c when d": "after `when` comes KEY=CHOICE",
}


@pytest.mark.parametrize("text", REFUSED)
def test_what_is_no_range_is_refused_with_a_remedy(text: str) -> None:
    with pytest.raises(ValueError, match=r"^") as refused:
        parse_assignment(text)
    assert REFUSED[text] in str(refused.value)
    with pytest.raises(UserError, match=r"^--space ") as refused:
        read_ranges([text])
    assert "\n" not in str(refused.value)


scalars = (
    some.none()
    | some.booleans()
    | some.integers(-(10**9), 10**9)
    | some.floats(allow_nan=False, allow_infinity=False)
    | some.text(some.characters(codec="ascii", categories=("L", "N", "P", "S", "Zs")))
)


@given(scalars)
def test_every_value_is_written_as_it_is_read(value: Any) -> None:
    again = parse_scalar(write_scalar(value))
    assert (again, type(again)) == (value, type(value))


@given(some.lists(scalars, min_size=1, max_size=4, unique_by=repr), some.lists(scalars, max_size=2))
def test_every_choice_is_written_as_it_is_read(values: list[Any], when: list[Any]) -> None:
    if any(value in values[:place] for place, value in enumerate(values)):
        return  # 1 and True are equal
    condition = When("other", tuple(when)) if when else None
    range_ = Range(CategoricalDistribution(values), condition)
    assert repr(parse_range(write_range(range_))) == repr(range_)
    (in_yaml,) = own_variants("key", yaml.safe_load(write_yaml({"key": [range_]}))["key"])
    assert repr(in_yaml) == repr(range_)


def test_plain_choices_are_a_list_in_yaml() -> None:
    ranges = {key: [parse_range(text)] for key, text in PLAIN.items()}
    assert write_yaml(ranges) == (
        "opt: [sgd, adamw]\nsize: [32, 0.5]\nnesterov: [true, false]\nlr: 1e-05..0.1:log\n"
    )


def test_choices_that_yaml_would_read_as_text_are_no_list() -> None:
    """YAML 1.1 reads 1e-05 as text."""
    range_ = parse_range("1e-5,1e-4")
    written = write_yaml({"lr": [range_]})
    assert yaml.safe_load(written) == {"lr": "1e-05,0.0001"}
    assert own_variants("lr", yaml.safe_load(written)["lr"]) == (range_,)


PLAIN = {"opt": "sgd,adamw", "size": "32,0.5", "nesterov": "true,false", "lr": "1e-5..0.1:log"}


@pytest.mark.parametrize(
    "space",
    [
        {"opt": ["a,b", "c when x=1"], "x": ["1,2"]},
        {"size": ["1 when opt=a|b", "2,3"], "opt": ["a,b,none"]},
        {"lr": ["0..1", "c,true when x=2", "1e-05..0.1:log when x=none"]},
        {"on": ["yes,no"], "null": ["1..9:step=2"], "parameters": ["0.0..1.0:step=0.25"]},
    ],
)
def test_a_space_is_written_as_yaml_reads_it(tmp_path: Path, space: dict[str, list[str]]) -> None:
    """Include several ranges for one key, and keys that YAML reads as something else."""
    ranges = {key: tuple(map(parse_range, texts)) for key, texts in space.items()}
    path = tmp_path / "space.yaml"
    path.write_text(write_yaml(ranges))
    assert repr(read_file(path)) == repr(ranges)


def test_the_first_range_whose_condition_holds_applies() -> None:
    variants = [parse_range(text) for text in ("1..2 when a=x|y", "3..4", "5..6 when b=1")]
    assert range_for(variants, {"a": "y", "b": 1}) is variants[0]
    assert range_for(variants, {"a": "z", "b": 1}) is variants[2]
    assert range_for(variants, {"a": "z"}) is variants[1]
    assert range_for(variants[:1], {}) is None


def test_a_later_option_replaces_an_earlier_one_and_conditions_add_up(tmp_path: Path) -> None:
    path = tmp_path / "space.yaml"
    path.write_text("a: 0..1\nb: 0..1\n")
    found = read_ranges([str(path), "a=2..3", "a=4..5 when b=1", "a=6..7 when b=0"])
    assert [write_range(one) for one in found["a"]] == ["2..3", "4..5 when b=1", "6..7 when b=0"]
    assert [write_range(one) for one in found["b"]] == ["0..1"]
    assert len(read_ranges(["a=4..5 when b=1", "a=2..3"])["a"]) == 1
    with pytest.raises(UserError, match="a has two ranges for b=1"):
        read_ranges(["a=4..5 when b=1", "a=6..7 when b=2|1"])


def written(path: Path, text: str) -> dict[str, list[str]]:
    path.write_text(text)
    return {key: [write_range(one) for one in found] for key, found in read_file(path).items()}


def test_own_files(tmp_path: Path) -> None:
    assert written(
        tmp_path / "space.yaml",
        """
        optim.name: [sgd, adamw]
        optim:
          lr:
            - 1e-2..1:log when optim.name=sgd
            - 1e-4..1e-2:log
          weight_decay: 1e-6..1e-2:log
        train.batch_size: 32, 64
        head.rates: [1e-4, 0.1]
        aug.exact: true
        """,
    ) == {
        "optim.name": ["sgd,adamw"],
        "optim.lr": ["0.01..1.0:log when optim.name=sgd", "0.0001..0.01:log"],
        "optim.weight_decay": ["1e-06..0.01:log"],
        "train.batch_size": ["32,64"],
        "head.rates": ["0.0001,0.1"],
        "aug.exact": ["true"],
    }


def test_a_sweep_of_weights_and_biases(tmp_path: Path) -> None:
    """The bounds of log_uniform are exponents, those of log_uniform_values are not."""
    assert written(
        tmp_path / "sweep.yaml",
        """
        method: bayes
        metric: {name: val/top1, goal: maximize}
        parameters:
          lr: {distribution: log_uniform_values, min: 1e-5, max: 1e-1}
          momentum: {min: 0.5, max: 0.99}
          layers: {min: 1, max: 4}
          width: {distribution: q_log_uniform_values, q: 1, min: 16, max: 512}
          size: {distribution: q_uniform, q: 16, min: 32, max: 128}
          decay: {distribution: log_uniform, min: 0, max: 0}
          opt: {values: [sgd, adam]}
          epochs: {value: 12}
          head:
            parameters:
              dropout: {distribution: uniform, min: 0, max: 0.5}
          seed: {value: 3}
        """,
    ) == {
        "lr": ["1e-05..0.1:log"],
        "momentum": ["0.5..0.99"],
        "layers": ["1..4"],
        "width": ["16..512:log"],
        "size": ["32..128:step=16"],
        "decay": ["1.0..1.0:log"],
        "opt": ["sgd,adam"],
        "epochs": ["12"],
        "head.dropout": ["0.0..0.5"],
        "seed": ["3"],
    }


OPTUNAS = {
    "lr": FloatDistribution(1e-5, 1e-1, log=True),
    "x": FloatDistribution(0.0, 1.0, step=0.5),
    "n": IntDistribution(1, 9, step=2),
    "w": IntDistribution(1, 64, log=True),
    "opt": CategoricalDistribution(("sgd", "adam", None)),
}


@pytest.mark.parametrize("nested", [True, False])
def test_optunas_distributions(tmp_path: Path, nested: bool) -> None:
    path = tmp_path / "space.json"
    texts = {key: distribution_to_json(found) for key, found in OPTUNAS.items()}
    content = {key: json.loads(text) if nested else text for key, text in texts.items()}
    path.write_text(json.dumps(content))
    assert {key: found[0].distribution for key, found in read_file(path).items()} == OPTUNAS


@pytest.mark.parametrize("name", ["space", "space.YAML", "space.txt"])
def test_a_file_is_yaml_unless_its_name_says_json(tmp_path: Path, name: str) -> None:
    (tmp_path / name).write_text("n: 1..9\n")
    assert read_file(tmp_path / name)["n"] == (parse_range("1..9"),)


WRONG_FILES = {
    "": "contains no space",
    "- a\n": "contains no space",
    "a: [1, 1]": "a: 1 is there twice",
    "a: [[1], 2]": "a: a choice must be a number, a word",
    "a: [0..1, 2..3]": "a has two ranges without a condition",
    "a: 3..1": "a: it must begin below its end",
    "a: [0..1, 2..3 when b=1, 4..5]": "a has two ranges without a condition",
    "a: {b: [": "is not YAML (line 1)",
    "parameters: {a: 3}": "a: a parameter of a sweep has values, value, or min and max",
    "parameters: {a: {min: 1}}": "a: it lacks max",
    "parameters: {a: {min: x, max: 2}}": "min='x' must be a number",
    "parameters: {a: {distribution: normal, mu: 0}}": "distribution normal has no ends",
    "parameters: {a: {distribution: cube, min: 0, max: 1}}": "distribution cube is not supported",
    "parameters: {a: {values: [1, 2], probabilities: [0.1, 0.9]}}": "different probability",
    '{"a": {"name": "NoDistribution", "attributes": {}}}': "a: ",
}


@pytest.mark.parametrize("text", WRONG_FILES)
def test_files_that_are_no_space_are_refused_by_name(tmp_path: Path, text: str) -> None:
    path = tmp_path / "space.yaml"
    path.write_text(text)
    with pytest.raises(UserError) as refused:
        read_ranges([str(path)])
    assert f"--space {path}" in str(refused.value)
    assert WRONG_FILES[text] in str(refused.value)
    assert "\n" not in str(refused.value)
    with pytest.raises(UserError, match="cannot be read: No such file"):
        read_ranges([str(tmp_path / "none.yml")])
