"""Torch's exporters talk of their own affairs: deprecations, graphs by the page, tracebacks of what they caught."""

from __future__ import annotations

import logging
import os
import sys
import warnings
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, redirect_stderr, redirect_stdout, suppress

LOGGERS = ("torch", "torch.onnx", "torch.fx", "torch._subclasses", "torch._export")


@contextmanager
def quiet() -> Iterator[None]:
    """Nothing is printed, logged or warned of; what is raised comes through.

    Python's streams and the process's own are set aside: TorchScript prints from C++.
    """
    with ExitStack() as stack, open(os.devnull, "w") as nowhere:
        stack.enter_context(warnings.catch_warnings())
        warnings.simplefilter("ignore")
        for name in LOGGERS:
            log = logging.getLogger(name)
            stack.callback(log.setLevel, log.level)
            log.setLevel(logging.CRITICAL + 1)
        stack.enter_context(redirect_stdout(nowhere))
        stack.enter_context(redirect_stderr(nowhere))
        for descriptor in (1, 2):
            with suppress(OSError):  # it is closed
                stack.enter_context(_away(descriptor, nowhere.fileno()))
        yield


@contextmanager
def _away(descriptor: int, to: int) -> Iterator[None]:
    kept = os.dup(descriptor)
    try:
        for stream in (sys.__stdout__, sys.__stderr__):
            if stream is not None:
                stream.flush()  # what was said before
        os.dup2(to, descriptor)
        yield
    finally:
        os.dup2(kept, descriptor)
        os.close(kept)
