"""What reaches the canvas of a picture."""

from pathlib import Path

import pytest

from trainables.plots.canvas import Canvas


@pytest.fixture
def canvases(monkeypatch: pytest.MonkeyPatch) -> list[Canvas]:
    """The canvases that have been saved, in order."""
    saved: list[Canvas] = []
    save = Canvas.save

    def kept(canvas: Canvas, path: Path) -> None:
        saved.append(canvas)
        save(canvas, path)

    monkeypatch.setattr(Canvas, "save", kept)
    return saved
