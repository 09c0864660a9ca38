"""Search spaces as text: the form that `--space` reads and `--plan` prints.

    optim.lr=1e-4..1e-2:log                      real numbers, on a logarithmic scale
    head.layers=1..4                             whole numbers, because both ends are
    train.batch_size=32..256:step=32             in steps
    optim.name=sgd,adamw                         choices; one that contains a comma is quoted
    optim.lr=0.01..1:log when optim.name=sgd     only if another parameter has this choice (a|b)

Text is parsed into Optuna's distributions. This module knows no experiment and no config.
"""

import json
import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from optuna.distributions import (
    BaseDistribution,
    CategoricalDistribution,
    FloatDistribution,
    IntDistribution,
)

from tune.formatting import read_assignment

_NUMBER = r"[-+]?(?:\d+\.?\d*|\.\d+)(?:[eE][-+]?\d+)?"
# "0...5" could mean 0 to .5 or 0 to 5, or be a typo: it is not a range.
_RANGE = re.compile(rf"(?!.*\.\.\.)({_NUMBER})\.\.({_NUMBER})((?::[^:]*)*)")
_WHOLE = re.compile(r"[-+]?\d+")
_QUOTED = r'"(?:[^"\\]|\\.)*"'
_PLAIN = re.compile(r"[A-Za-z_][\w./+-]*")
_WORDS = {"true": True, "false": False, "none": None, "null": None}
_WHEN = " when "
_CONDITIONAL = re.compile(rf'((?:{_QUOTED}|[^"])*?){_WHEN}(.*)', re.DOTALL)
_YAML_PLAIN = re.compile(r"[\w.+-](?:[\w./+|=, -]|:(?! ))*")
_YAML_WORDS = {*_WORDS, "yes", "no", "on", "off", "y", "n", "~"}


@dataclass(frozen=True)
class When:
    """The condition under which a range applies: another parameter has one of these choices."""

    switch: str
    """The other parameter."""
    choices: tuple[Any, ...]

    def __str__(self) -> str:
        """The condition as in a manifest: `optim.name=adam|sgd`."""
        if not self.choices:
            return self.switch
        return f"{self.switch}={'|'.join(map(str, self.choices))}"

    def holds(self, said: Mapping[str, Any]) -> bool:
        """True if the other parameter has one of the choices.

        Args:
            said: parameter -> value, for the parameters that are known.
        """
        return self.switch in said and said[self.switch] in self.choices


@dataclass(frozen=True)
class Range:
    """A distribution of a parameter, and the condition under which it applies."""

    distribution: BaseDistribution
    when: When | None = None
    """None: it always applies."""


Ranges = Mapping[str, tuple[Range, ...]]
"""Parameter -> its ranges. The first one whose condition holds applies; if none does, the one
without a condition."""


def parse_assignment(text: str) -> tuple[str, Range]:
    """Parse `KEY=RANGE`.

    Raises:
        ValueError: the text is not of this form; the message says why, and what is valid.
    """
    key, value = read_assignment(text) or ("", "")
    if not value:
        raise ValueError("it must be KEY=RANGE, as in optim.lr=1e-4..1e-2:log or optim.name=a,b")
    return key, parse_range(value)


def parse_range(text: str) -> Range:
    """Parse `1e-4..1e-2:log` or `sgd,adamw`, optionally followed by ` when KEY=A|B`.

    Raises:
        ValueError: as for `parse_assignment`.
    """
    conditional = _CONDITIONAL.fullmatch(text)
    if conditional is None:
        return Range(parse_distribution(text))
    return Range(parse_distribution(conditional[1]), _parse_when(conditional[2]))


def is_range_text(text: str) -> bool:
    """True for the text of a range of numbers, and for any text with a condition."""
    return bool(_RANGE.fullmatch(text.strip()) or _CONDITIONAL.fullmatch(text))


def parse_distribution(text: str) -> BaseDistribution:
    """Parse a range of numbers, or choices.

    Raises:
        ValueError: as for `parse_assignment`.
    """
    text = text.strip()
    match = _RANGE.fullmatch(text)
    if match is not None:
        return _parse_numbers(match[1], match[2], match[3].split(":")[1:])
    if ".." in text and not {",", '"', "/"} & set(text):
        raise ValueError("a range is LOW..HIGH in numbers, such as 1e-4..1e-2:log")
    return choices([parse_scalar(word) for word in _split(text, ",")])


def parse_scalar(text: str) -> Any:
    """Parse a typed value: a number, true, false, none, or text, with or without quotes."""
    text = text.strip()
    if text.startswith('"'):
        return json.loads(text)
    if text.lower() in _WORDS:
        return _WORDS[text.lower()]
    if _WHOLE.fullmatch(text):
        return int(text)
    return float(text) if re.fullmatch(_NUMBER, text) else text


def choices(values: Sequence[Any]) -> CategoricalDistribution:
    """Return the distribution of these choices.

    Raises:
        ValueError: there are none, or one is given twice.
    """
    if not values:
        raise ValueError("it has no choices")
    for place, value in enumerate(values):
        if value in values[:place]:
            raise ValueError(f"{write_scalar(value)} is there twice")
    return CategoricalDistribution(values)


def numbers(
    low: float, high: float, *, log: bool = False, step: float | None = None
) -> FloatDistribution | IntDistribution:
    """Return the distribution of a range: of whole numbers if both ends and the step are whole.

    Raises:
        ValueError: the range is not valid.
    """
    if not (math.isfinite(low) and math.isfinite(high)):
        raise ValueError("its ends must be finite numbers")
    if low > high:
        raise ValueError(f"it must begin below its end, but {low!r} is above {high!r}")
    if log and low <= 0:
        raise ValueError(f"on a log scale it must begin above 0, not at {low!r}")
    if step is not None:
        _check_step(low, high, log, step)

    whole = isinstance(low, int) and isinstance(high, int) and isinstance(step, int | None)
    if whole:
        return IntDistribution(int(low), int(high), log=log, step=int(step or 1))
    return FloatDistribution(float(low), float(high), log=log, step=step)


def _check_step(low: float, high: float, log: bool, step: float) -> None:
    if log:
        raise ValueError("a log scale has no steps: leave one of them out")
    if step <= 0:
        raise ValueError(f"its step must be above 0, not {step!r}")
    steps = (high - low) / step
    if abs(steps - round(steps)) > 1e-9 * max(1.0, steps):
        last = low + math.floor(steps) * step
        raise ValueError(f"steps of {step!r} do not reach {high!r}: end it at {last:.12g}")


def _parse_numbers(low: str, high: str, options: list[str]) -> BaseDistribution:
    log = False
    step: float | None = None
    for option in options:
        name, _, value = option.strip().partition("=")
        if name == "log" and not value:
            log = True
        elif name == "step" and re.fullmatch(_NUMBER, value):
            step = parse_scalar(value)
        else:
            raise ValueError(f"{option!r} is not an option of a range; valid: log, step=NUMBER")
    return numbers(parse_scalar(low), parse_scalar(high), log=log, step=step)


def _parse_when(text: str) -> When:
    switch, values = read_assignment(text) or ("", "")
    if not values:
        raise ValueError("after `when` comes KEY=CHOICE, such as optim.name=sgd|adamw")
    return When(switch, tuple(parse_scalar(word) for word in _split(values, "|")))


def _split(text: str, separator: str) -> list[str]:
    """Split at separators that are not within quotes."""
    word = re.compile(rf'\s*({_QUOTED}|[^{separator}"]+?)\s*(?:{re.escape(separator)}|$)')
    found = []
    position = 0
    while position < len(text):
        match = word.match(text, position)
        if match is None:
            raise ValueError(
                f"values are separated by {separator!r}; put one that contains it in quotes"
            )
        found.append(match[1])
        position = match.end()
    if not found or text.rstrip().endswith(separator):
        raise ValueError("a value is missing")
    return found


def write_range(range_: Range) -> str:
    """Return the text that `parse_range` reads as this range."""
    text = write_distribution(range_.distribution)
    if range_.when is None:
        return text
    values = "|".join(map(write_scalar, range_.when.choices))
    return f"{text}{_WHEN}{range_.when.switch}={values}"


def write_distribution(distribution: BaseDistribution) -> str:
    """Return the text that `parse_distribution` reads as this distribution."""
    if isinstance(distribution, CategoricalDistribution):
        return ",".join(map(write_scalar, distribution.choices))
    assert isinstance(distribution, FloatDistribution | IntDistribution)
    text = f"{distribution.low!r}..{distribution.high!r}"
    if distribution.log:
        text += ":log"
    if distribution.step not in (None, 1) or isinstance(distribution.step, float):
        text += f":step={distribution.step!r}"
    return text


def write_scalar(value: Any) -> str:
    """Return the text that `parse_scalar` reads as this value."""
    if value is None:
        return "none"
    if isinstance(value, bool):
        return str(value).lower()
    if not isinstance(value, str):
        return repr(value)
    is_plain = _PLAIN.fullmatch(value) and value.lower() not in _WORDS and ".." not in value
    return value if is_plain else json.dumps(value)


def write_yaml(ranges: Mapping[str, Sequence[Range]]) -> str:
    """Write a space as a file that `--space` reads: one line for each parameter, or one for each of
    its conditions."""
    lines = []
    for key, variants in ranges.items():
        name = _yaml_text(key)
        texts = [_yaml_text(write_range(one)) for one in variants]
        if len(texts) == 1:
            lines.append(f"{name}: {_yaml_list(variants[0]) or texts[0]}")
        else:
            lines += [f"{name}:", *(f"  - {text}" for text in texts)]
    return "\n".join(lines) + "\n"


def _yaml_list(range_: Range) -> str:
    """Write choices without a condition as a YAML list; "" if YAML would read them differently."""
    found = range_.distribution
    if range_.when is not None or not isinstance(found, CategoricalDistribution):
        return ""
    texts = [write_scalar(value) for value in found.choices]
    for value, text in zip(found.choices, texts, strict=True):
        is_word = isinstance(value, str) and text == value and text.lower() not in _YAML_WORDS
        is_number = isinstance(value, int | float) and "e" not in text
        if not (is_word or is_number or isinstance(value, bool)):
            return ""
    return f"[{', '.join(texts)}]"


def _yaml_text(text: str) -> str:
    """Return text that YAML reads as text too, in quotes if it would be something else."""
    is_number = text[0] in "+-.0123456789" and ".." not in text
    if _YAML_PLAIN.fullmatch(text) and not is_number and text.lower() not in _YAML_WORDS:
        return text
    return json.dumps(text)


def together(key: str, variants: Sequence[Range]) -> tuple[Range, ...]:
    """Return the ranges of one parameter, after checking that they do not contradict each other.

    Raises:
        ValueError: two ranges have no condition, or the same one.
    """
    if sum(variant.when is None for variant in variants) > 1:
        raise ValueError(f"{key} has two ranges without a condition")
    known: set[tuple[str, str]] = set()
    for variant in variants:
        if variant.when is None:
            continue
        for choice in variant.when.choices:
            case = (variant.when.switch, write_scalar(choice))
            if case in known:
                raise ValueError(f"{key} has two ranges for {case[0]}={case[1]}")
            known.add(case)
    return tuple(variants)


def with_range(ranges: Ranges, key: str, added: Range) -> dict[str, tuple[Range, ...]]:
    """Return the ranges with one more. Without a condition it replaces those of its key; with one
    it is added to them.

    Raises:
        ValueError: the key already has a range under that condition.
    """
    earlier = ranges.get(key, ()) if added.when is not None else ()
    return {**ranges, key: together(key, [*earlier, added])}


def range_for(variants: Sequence[Range], said: Mapping[str, Any]) -> Range | None:
    """Return the first range whose condition holds, or the one without a condition; None if none
    applies.

    Args:
        said: parameter -> value, for the parameters that are known.
    """
    for variant in variants:
        if variant.when is not None and variant.when.holds(said):
            return variant
    return next((variant for variant in variants if variant.when is None), None)
