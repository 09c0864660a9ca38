"""Output of a run in a notebook: a live table in a display that is updated, without widgets that
would have to be installed."""

import html
import io
import logging
import time
from collections.abc import Callable
from typing import Any

from rich.console import Console as RichConsole
from rich.console import RenderableType

from tune.cli.clock import Clock
from tune.cli.console import Console, LiveTable

_EVERY_S = 0.5
"""Minimum seconds between two redraws of the table, because a notebook keeps every message."""
_WIDTH = 100


def quieten_widgets() -> None:
    """Silence Ray's messages about missing widgets, which are not needed here."""
    logging.getLogger("ray.widgets.util").setLevel(logging.ERROR)


class NotebookConsole(Console):
    """A console for notebooks, an observer of the study's events."""

    def __init__(self, objective: str, epochs: int, trials: int, clock: Clock | None = None):
        super().__init__(objective, epochs, trials, interactive=True, clock=clock)
        self._table_display = TableDisplay(self.render)

    def on_event(self, event: dict[str, Any]) -> None:
        """Update the table."""
        super().on_event(event)
        self._table_display.refresh()

    def _new_table(self) -> LiveTable:
        return self._table_display


class TableDisplay:
    """An IPython display that shows the output of `render`.

    Args:
        render: draws the current table.
    """

    def __init__(self, render: Callable[[], RenderableType]):
        self._render = render
        self._handle: Any = None
        self._drawn = 0.0

    def start(self) -> None:
        """Draw the table below the existing output."""
        from IPython.display import display

        self._handle = display(self._content(), raw=True, display_id=True)

    def refresh(self) -> None:
        """Redraw the table, unless that was done recently."""
        if self._handle is not None and time.monotonic() - self._drawn > _EVERY_S:
            self._update()

    def stop(self) -> None:
        """Draw the final table."""
        if self._handle is not None:
            self._update()
            self._handle = None

    def _update(self) -> None:
        self._handle.update(self._content(), raw=True)

    def _content(self) -> dict[str, str]:
        """Return the table as text and as HTML."""
        self._drawn = time.monotonic()
        out = RichConsole(file=io.StringIO(), width=_WIDTH, force_jupyter=False, color_system=None)
        with out.capture() as captured:
            out.print(self._render())
        text = captured.get().rstrip()
        return {
            "text/plain": text,
            "text/html": f'<pre style="line-height: 1.3">{html.escape(text)}</pre>',
        }
