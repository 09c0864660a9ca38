"""A run's `config.json` after a power cut, which takes whatever was not synced."""

from pathlib import Path

import pytest

from tests.studies import finished, open_study


@pytest.mark.parametrize("left", [None, b"", b"\0" * 40], ids=["nothing", "empty", "zeros"])
def test_what_a_power_cut_takes_is_written_anew(tmp_path: Path, left: bytes | None) -> None:
    finished(tmp_path, 2, repeats=1)
    configs = sorted((tmp_path / "toy").rglob("config.json"))
    assert len(configs) == 4  # two trials and their repeats
    before = {path: path.read_bytes() for path in configs}
    for path in configs:
        if left is None:
            path.unlink()
        else:
            path.write_bytes(left)

    open_study(tmp_path, 2, repeats=1).close()

    assert {path: path.read_bytes() for path in configs} == before


def test_a_run_whose_folder_is_gone_gets_none(tmp_path: Path) -> None:
    finished(tmp_path, 1)
    folder = tmp_path / "toy/trials/0000"
    for path in folder.iterdir():
        path.unlink()
    folder.rmdir()

    open_study(tmp_path, 1).close()

    assert not folder.exists()
