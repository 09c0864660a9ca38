"""The thread that keeps a copy in an object store up to date while its files are still growing."""

import threading
from collections.abc import Callable


class Uploader:
    """A daemon thread that calls `upload` until nothing more is to come.

    Args:
        name: name of the thread.
        upload: uploads what has changed. Its argument is True once `finish` was called. It returns
            the seconds to wait before the next call, or None to end the thread. It must not raise.
    """

    def __init__(self, name: str, upload: Callable[[bool], float | None]):
        self._upload = upload
        self._wake = threading.Event()
        self._finishing = threading.Event()
        self._abandoned = threading.Event()
        self._thread = threading.Thread(target=self._work, name=name, daemon=True)

    @property
    def started(self) -> bool:
        """True once `start` was called, even if the thread has ended since."""
        return self._thread.ident is not None

    def start(self) -> None:
        """Start the thread."""
        self._thread.start()

    def wake(self) -> None:
        """Call `upload` soon."""
        self._wake.set()

    def finish(self, patience_s: float) -> bool:
        """Ask for the last uploads and wait for them, at most `patience_s` seconds.

        Returns True if the thread has ended, or was never started; otherwise it keeps trying.
        """
        self._finishing.set()
        self._wake.set()
        return self.join(patience_s)

    def abandon(self, patience_s: float) -> bool:
        """End the thread after the upload that it is doing; arguments and result as in `finish`."""
        self._abandoned.set()
        self._wake.set()
        return self.join(patience_s)

    def join(self, patience_s: float) -> bool:
        """Wait for the thread to end; arguments and result as in `finish`."""
        if self.started:
            self._thread.join(patience_s)
        return not self._thread.is_alive()

    def _work(self) -> None:
        while not self._abandoned.is_set():
            pause_s = self._upload(self._finishing.is_set())
            if pause_s is None:
                return

            self._wake.wait(pause_s)
            self._wake.clear()
