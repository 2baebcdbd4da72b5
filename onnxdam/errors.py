"""What can go wrong, as the user sees it: one line that says what, where and what to do.

Everything the library raises on purpose derives from `OnnxDamError`; the command line prints the message without a
traceback and exits with the error's `exit_code`. Anything else that escapes is a bug in onnxdam.
"""

from __future__ import annotations

from typing import ClassVar


class OnnxDamError(Exception):
    """Base of all errors that onnxdam raises on purpose.

    Attributes:
        exit_code: what the command line exits with (the whole table is in `onnxdam.cli.exits`).
    """

    exit_code: ClassVar[int] = 2


class InputError(OnnxDamError):
    """A file, an option or a plan cannot be used; nothing was written."""


class UnsupportedError(InputError):
    """The input is valid, but onnxdam cannot do what was asked with it (the message says why)."""


class VerificationError(OnnxDamError):
    """A check failed: the two models are not the same function; nothing was written."""

    exit_code: ClassVar[int] = 1
