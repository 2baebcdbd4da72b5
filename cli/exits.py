"""What the command's exit status means. The one table: --help prints it, the README shows it, a test compares them."""

from __future__ import annotations

DONE, CHECK_FAILED, BAD_INPUT, BUG, INTERRUPTED, TERMINATED = 0, 1, 2, 3, 130, 143

MEANING = {
    DONE: "done; whatever was checked is equal",
    CHECK_FAILED: "a check failed; nothing was written",
    BAD_INPUT: "bad input or usage; nothing was written",
    BUG: "an error in onnxdam itself; nothing was written",
    INTERRUPTED: "interrupted (Ctrl-C); nothing was written but a checkpoint",
    TERMINATED: "terminated (SIGTERM); nothing was written but a checkpoint",
}


class Terminated(BaseException):
    """SIGTERM, as an exception: temporary files are removed on the way out."""


class Stopped(Exception):
    """A command that was stopped and has something of its own to say about it.

    Args:
        message: one line.
        code: the exit status.
    """

    def __init__(self, message: str, code: int) -> None:
        super().__init__(message)
        self.code = code


def table() -> str:
    """The table as text."""
    return "\n".join(f"{code:>3}  {meaning}" for code, meaning in MEANING.items())
