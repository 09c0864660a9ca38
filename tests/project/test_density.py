"""`benchmarks/density.py`: which nodes and lines it counts, and when it fails."""

from pathlib import Path

import pytest

from benchmarks import density

SOURCE = "x = 1\n\n# why\ny = x\n"
"""Ten nodes on three lines: Module; Assign, Name, Store, Constant; ..."""


def project(root: Path, tune: str = SOURCE) -> Path:
    """Write a project with two packages of one file each."""
    for package, text in (("tune", tune), ("trainables", SOURCE)):
        (root / package).mkdir()
        (root / package / "a.py").write_text(text)
    return root


def test_nodes_lines_and_long_lines_are_counted(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = project(tmp_path, SOURCE + f'"{"long" * 30}"\n') / "tune/a.py"
    monkeypatch.setattr(density, "ROOT", tmp_path)
    counted = density.measure(path)
    assert (counted.name, counted.nodes, counted.lines) == ("tune/a.py", 12, 4)
    assert counted.long_lines == 1
    assert counted.nodes_per_line == pytest.approx(3)


@pytest.mark.parametrize(
    ("tune", "limit", "code"),
    [
        (SOURCE, None, 0),
        (SOURCE, "9", 0),
        (SOURCE, "1.5", 1),
        (f'"{"long" * 30}"\n', None, 0),
        (f'"{"long" * 30}"\n', "9", 1),
    ],
)
def test_only_a_limit_fails(
    tune: str,
    limit: str | None,
    code: int,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setattr(density, "ROOT", project(tmp_path, tune))
    assert density.main([] if limit is None else ["--limit", limit]) == code
    said = capsys.readouterr()
    assert "tune/ " in said.out
    assert bool(said.err) == bool(code)


def test_the_densest_files_are_printed(capsys: pytest.CaptureFixture[str]) -> None:
    assert density.main(["--files", "3"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == 1 + 2 * (1 + 3)
    ratios = [float(line.split()[3]) for line in lines[2:5]]
    assert ratios == sorted(ratios, reverse=True)
