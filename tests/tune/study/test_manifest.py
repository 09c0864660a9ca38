"""A study whose code has changed is another one, until that is accepted."""

from pathlib import Path
from typing import Any

import pytest

from tests.studies import manifest
from trainables.errors import UserError
from tune.study.manifest import Manifest, read_manifest


def with_code(sha256: str, lines: int, **more: Any) -> Manifest:
    """A manifest whose file has so many lines, each of which says the digest."""
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
