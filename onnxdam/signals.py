"""Ctrl-C and SIGTERM at the wrong moment: while a temporary folder comes or goes, while files move into place."""

from __future__ import annotations

import contextlib
import signal
import threading
from collections.abc import Iterator
from typing import Any

_NUMBERS = (signal.SIGINT, signal.SIGTERM)


class Hold:
    """Signals wait between `start` and `stop`, which delivers them. Outside of the main thread none arrive anyway."""

    def __init__(self) -> None:
        self._before: dict[int, Any] = {}
        self._waiting: list[tuple[int, Any]] = []

    def start(self) -> None:
        """Signals wait from here on."""
        if threading.current_thread() is threading.main_thread() and not self._before:
            self._before = {number: signal.getsignal(number) for number in _NUMBERS}
            for number in _NUMBERS:
                signal.signal(number, lambda got, frame: self._waiting.append((got, frame)))

    def stop(self, *, deliver: bool = True) -> None:
        """Signals arrive again; those that waited arrive now, or are forgotten."""
        before, self._before = self._before, {}
        for number, handler in before.items():
            if handler is not None:
                signal.signal(number, handler)
        waiting, self._waiting = self._waiting, []
        for number, frame in waiting if deliver else ():
            if callable(before.get(number)):
                before[number](number, frame)
            elif before.get(number) == signal.SIG_DFL:
                signal.raise_signal(number)


@contextlib.contextmanager
def uninterrupted() -> Iterator[None]:
    """Signals come too late: the work is done, and it would be wrong to say that it is not."""
    hold = Hold()
    hold.start()
    try:
        yield
    finally:
        hold.stop(deliver=False)
