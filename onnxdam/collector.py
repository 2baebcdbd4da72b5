"""Work that the cyclic garbage collector stays out of."""

from __future__ import annotations

import contextlib
import gc
from collections.abc import Iterator


@contextlib.contextmanager
def paused() -> Iterator[None]:
    """Pauses the collector, also as a decorator.

    A graph is one large cycle that is in use: while it grows, collections traverse all of it again and again and free
    nothing, at up to half of the whole time.
    """
    running = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if running:
            gc.enable()
