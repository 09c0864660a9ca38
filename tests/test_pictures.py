"""Pictures of a study that was killed while they were drawn: the next start draws and records what is missing, and no more."""

from pathlib import Path

from tests.test_study import events, finish, open_study
from tune.pictures import Pictures


def draw_all(root: Path) -> list[str]:
    """Start, wait, and return the pictures on record."""
    study = open_study(root, 1, base={"train.epochs": 1})
    pictures = Pictures(study)
    pictures.start()
    pictures.close(120)
    study.close()
    return [event["path"] for event in events(root) if event["event"] == "artifact"]


def test_what_a_kill_left_undrawn_is_drawn_at_the_next_start(tmp_path: Path) -> None:
    finish(tmp_path, 1, base={"train.epochs": 1})
    plots = tmp_path / "toy/trials/0000/plots"
    plots.mkdir()
    (plots / "pca_embeddings-train-0001.png").write_bytes(b"torn")  # the kill came here: some files, none on record
    names = [f"{kind}_embeddings-{part}-0001.png" for kind in ("pca", "tsne") for part in ("train", "val")]
    once = draw_all(tmp_path)
    assert once == [f"trials/0000/plots/{name}" for name in names]
    assert all((plots / name).read_bytes().startswith(b"\x89PNG") for name in names)
    assert draw_all(tmp_path) == once
