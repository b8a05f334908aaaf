"""Ctrl-C and SIGTERM: save first, then stop."""

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

from peftcore_train.errors import Interrupted

_SIGNALS = (signal.SIGINT, signal.SIGTERM)


class Stop:
    """Whether a stop was asked for.

    Attributes:
        asked: a signal came while stopping had to wait.
    """

    def __init__(self) -> None:
        self.asked = False
        self._waits = False

    @contextmanager
    def waiting(self) -> Iterator[None]:
        """Let a signal wait until the code looks at ``asked``; a second one does not wait."""
        self._waits = True
        try:
            yield
        finally:
            self._waits = False

    def _receive(self, number: int, frame: FrameType | None) -> None:
        if self._waits and not self.asked:
            self.asked = True
            return
        raise Interrupted("interrupted.")


@contextmanager
def stop_on_signals() -> Iterator[Stop]:
    """Turn Ctrl-C and SIGTERM into a request to stop.

    What was ignored when the program started, as Ctrl-C is in the background of a shell, stays so.

    Raises:
        Interrupted: a signal came while nothing had to be saved, or came twice.
    """
    stop = Stop()
    if threading.current_thread() is not threading.main_thread():
        yield stop
        return
    heard = [number for number in _SIGNALS if signal.getsignal(number) != signal.SIG_IGN]
    before = {number: signal.signal(number, stop._receive) for number in heard}
    try:
        yield stop
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
