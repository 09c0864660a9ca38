"""Ray's sockets fit into 107 bytes, however long TMPDIR is. `test_ray_tune.py`, whose Ray has a
long TMPDIR, shows that Ray starts in such a folder."""

import os
from pathlib import Path

import pytest

from trainables.errors import UserError
from tune.execution import socket_folder as module
from tune.execution.socket_folder import socket_folder

LONG = "/net/people/user/slurm_jobdir/1355700/tmp.t0016_tmp.t0016"


@pytest.fixture(autouse=True)
def _no_folder_of_rays_own(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("RAY_TMPDIR", raising=False)


def test_a_short_tmpdir_is_rays_own_choice(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TMPDIR", "/tmp")
    assert socket_folder() is None
    monkeypatch.delenv("TMPDIR")
    assert socket_folder() is None


def test_a_long_tmpdir_gets_a_short_folder_of_this_user_alone(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("TMPDIR", LONG)
    found = socket_folder()
    assert found is not None
    assert len(found) < 30
    state = Path(found).parent.stat()
    assert state.st_uid == os.getuid()
    assert state.st_mode & 0o777 == 0o700
    assert socket_folder() == found

    monkeypatch.setenv("TMPDIR", "/tmp")
    monkeypatch.setenv("RAY_TMPDIR", LONG)
    assert socket_folder() == found


def test_a_place_of_somebody_else_is_left_alone(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("TMPDIR", LONG)
    (tmp_path / "taken").mkdir()
    (tmp_path / "taken" / f"vistune-{os.getuid()}").symlink_to(tmp_path)  # a symlink attack
    (tmp_path / "free").mkdir()
    places = (str(tmp_path / "missing"), str(tmp_path / "taken"), str(tmp_path / "free"))
    monkeypatch.setattr(module, "_SHORT_PLACES", places)
    assert socket_folder() == str(tmp_path / "free" / f"vistune-{os.getuid()}" / "ray")

    monkeypatch.setattr(module, "_SHORT_PLACES", places[:2])
    with pytest.raises(UserError, match=f"TMPDIR={LONG} is too long .* set TMPDIR to a shorter"):
        socket_folder()
