"""Fixture that records the canvases of pictures."""

from pathlib import Path

import pytest

from trainables.plots.canvas import Canvas


@pytest.fixture
def canvases(monkeypatch: pytest.MonkeyPatch) -> list[Canvas]:
    """Return the canvases saved so far, in order."""
    saved: list[Canvas] = []
    save = Canvas.save

    def kept(canvas: Canvas, path: Path) -> None:
        saved.append(canvas)
        save(canvas, path)

    monkeypatch.setattr(Canvas, "save", kept)
    return saved
