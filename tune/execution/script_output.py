"""A file that another process is writing, read line by line."""

from collections.abc import Iterator
from pathlib import Path


class Tail:
    """A file that grows, or is written anew: then it is shorter than what was read of it, or has
    another last line there."""

    def __init__(self, path: Path):
        self.path = path
        self._offset = 0
        self._last_line = b""

    def skip(self) -> None:
        """Pass over what is there."""
        self._offset = 0
        self._last_line = b""
        if self.path.exists():
            self._offset = self.path.stat().st_size

    def end_line(self) -> None:
        """End a line that a kill has cut, so that the next one stands by itself."""
        if not self.path.exists():
            return
        with self.path.open("r+b") as file:
            content = file.read()
            if content and not content.endswith(b"\n"):
                file.write(b"\n")

    def begins_anew(self) -> bool:
        """Return True where the file was written anew since the last call. It is then read from its
        beginning."""
        if self._offset == 0 or not self.path.exists():
            return False
        with self.path.open("rb") as file:
            file.seek(self._offset - len(self._last_line))
            before = file.read(len(self._last_line))
        is_shorter = self.path.stat().st_size < self._offset
        if not is_shorter and before == self._last_line:
            return False

        self._offset = 0
        self._last_line = b""
        return True

    def lines(self, last: bool = False) -> Iterator[str]:
        """Whole lines that have come since the last call.

        Args:
            last: nobody writes any more: what follows the last line is one too.
        """
        if not self.path.exists():
            return
        with self.path.open("rb") as file:
            file.seek(self._offset)
            for line in file:
                if not last and not line.endswith(b"\n"):
                    return
                self._offset += len(line)
                self._last_line = line
                yield line.decode(errors="replace")
