"""What the command's exit status means. The one table: --help prints it, the README shows it, a test compares them."""

from __future__ import annotations

DONE, CHECK_FAILED, BAD_INPUT, BUG, INTERRUPTED, TERMINATED = 0, 1, 2, 3, 130, 143

MEANING = {
    DONE: "done; whatever was checked is equal",
    CHECK_FAILED: "a check failed; nothing was written",
    BAD_INPUT: "bad input or usage; nothing was written",
    BUG: "an error in onnxdam itself; nothing was written",
    INTERRUPTED: "interrupted (Ctrl-C); nothing was written",
    TERMINATED: "terminated (SIGTERM); nothing was written",
}


def table() -> str:
    """The table as text."""
    return "\n".join(f"{code:>3}  {meaning}" for code, meaning in MEANING.items())
