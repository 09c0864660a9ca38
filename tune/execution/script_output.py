"""A file that another process is writing, read line by line."""

from collections.abc import Iterator
from pathlib import Path


class Tail:
    """A file that grows, or is written anew. A file that was written anew is shorter than what was
    read of it, or has another last line there."""

    def __init__(self, path: Path):
        self.path = path
        self._offset = 0
        self._last_line = b""

    def skip(self) -> None:
        """Skip what the file contains now."""
        self._offset = 0
        self._last_line = b""
        if self.path.exists():
            self._offset = self.path.stat().st_size

    def end_line(self) -> None:
        """End a line that a kill has cut off, so that the next one is separate."""
        if not self.path.exists():
            return
        with self.path.open("r+b") as file:
            content = file.read()
            if content and not content.endswith(b"\n"):
                file.write(b"\n")

    def begins_anew(self) -> bool:
        """Return True if the file was written anew since the last call. It is then read from its
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
        """Yield whole lines that were added since the last call.

        Args:
            last: nobody writes any more, so what follows the last line break is a line too.
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
