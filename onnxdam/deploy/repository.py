"""A model's folder in a model repository: written elsewhere, then moved into place in one step.

A server may be watching the repository, and takes every folder in it for a model: so the temporary folder lies beside
the repository wherever that is the same disk.
"""

from __future__ import annotations

import contextlib
import os
import re
from collections.abc import Iterator
from pathlib import Path

from onnxdam.errors import InputError
from onnxdam.graph import io
from onnxdam.graph.place import temporary
from onnxdam.signals import uninterrupted

LONGEST_NAME = 200  # file systems stop at 255 bytes, and the server adds to the name
_SAFE = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.-]*")


def model_name(given: str | None, source: object) -> str:
    """The name of the model on the server: as given, else that of the file without its ending.

    It becomes a folder and a part of URLs, so it is letters, digits, _, - and . only. What a file has besides these
    becomes _; what was given is taken as it is or refused.

    Raises:
        InputError: it is not such a name, or none was given and the model is not a file.
    """
    if given is None:
        if not isinstance(source, str | os.PathLike):
            raise InputError("name: a model that is no file needs one")
        given = re.sub(r"[^A-Za-z0-9_.-]+", "_", Path(source).stem).lstrip(".-") or "model"
        given = given[:LONGEST_NAME]
    if not _SAFE.fullmatch(given) or len(given) > LONGEST_NAME:
        raise InputError(
            f"name {given[:60]!r}: must be at most {LONGEST_NAME} letters, digits, '_', '-' or '.', "
            "and begin with a letter, a digit or '_'"
        )
    return given


def check(repository: Path, name: str, version: int, *, force: bool) -> Path:
    """The folder that the model gets; fails now rather than after minutes of work.

    Raises:
        InputError: something is in the way.
    """
    target = repository / name
    try:
        _check(repository, target, version, force)
    except OSError as error:  # the name is too long, or a folder on the way may not be looked into
        raise io.unwritable(target, error) from None
    return target


def _check(repository: Path, target: Path, version: int, force: bool) -> None:
    parent = repository.absolute().parent
    if repository.exists() and not repository.is_dir():
        raise InputError(f"{repository}: is a file; name the folder of the model repository")
    if not repository.exists() and (repository.is_symlink() or not parent.is_dir()):
        raise InputError(f"{repository}: there is no folder {parent} to make it in")
    if (repository / "config.pbtxt").exists():
        raise InputError(f"{repository}: is a model itself; name the repository, the folder that it lies in")
    if os.path.lexists(target) and (target.is_symlink() or not target.is_dir()):
        raise InputError(f"{target}: is in the way and is not a folder")
    if target.exists() and not force:
        raise InputError(f"{target}: exists already; ask for --force (force=True) to replace its configuration")
    later = [v for v in versions(target) if v > version]
    if later:
        raise InputError(
            f"{target}: has version {later[-1]}, which Triton would serve instead of {version}; "
            f"write --version {later[-1] + 1}, or remove it"
        )
    if not os.access(repository if repository.exists() else parent, os.W_OK | os.X_OK):
        raise InputError(f"{target}: cannot be written (Permission denied); nothing was written")


def versions(target: Path) -> list[int]:
    """The versions that a model folder holds, in ascending order."""
    if not target.is_dir():
        return []
    return sorted(int(p.name) for p in target.iterdir() if p.is_dir() and p.name.isascii() and p.name.isdecimal())


@contextlib.contextmanager
def staged(target: Path) -> Iterator[Path]:
    """An empty folder that becomes `target` if nothing is raised.

    Where `target` exists, what it holds besides the new (other versions of the model, labels) moves over.

    Raises:
        InputError: it cannot be written.
    """
    repository = target.absolute().parent
    made = not repository.exists()
    try:
        with temporary(_beside(repository), target) as folder:
            fresh = folder / target.name
            fresh.mkdir()
            yield fresh
            repository.mkdir(exist_ok=True)
            _swap(fresh, target.absolute(), folder / "old")
            made = False
    finally:
        if made and repository.is_dir():
            with contextlib.suppress(OSError):
                repository.rmdir()


def _swap(fresh: Path, target: Path, old: Path) -> None:
    """`fresh` takes the place of `target`; on failure everything is where it was."""
    with uninterrupted():
        _move(fresh, target, old)


def _move(fresh: Path, target: Path, old: Path) -> None:
    if not target.exists():
        os.rename(fresh, target)
        return
    os.rename(target, old)
    moved = []
    try:
        for entry in sorted(old.iterdir()):
            if not (fresh / entry.name).exists():
                os.rename(entry, fresh / entry.name)
                moved.append(entry)
        os.rename(fresh, target)
    except BaseException:
        for entry in moved:
            os.rename(fresh / entry.name, entry)
        os.rename(old, target)
        raise


def _beside(repository: Path) -> Path:
    """Where the temporary folder goes."""
    parent = repository.parent
    same_disk = not repository.exists() or repository.stat().st_dev == parent.stat().st_dev
    return parent if same_disk and os.access(parent, os.W_OK | os.X_OK) else repository
