"""Where files go: checked before the work, written beside their place, moved there when they are complete."""

from __future__ import annotations

import contextlib
import errno
import os
import shutil
import tempfile
from collections.abc import Iterable, Iterator
from pathlib import Path

from onnxdam.errors import InputError, OnnxDamError
from onnxdam.signals import Hold


@contextlib.contextmanager
def staged(
    path: str | os.PathLike[str], *, overwrite: bool = True, sources: Iterable[str | os.PathLike[str]] = ()
) -> Iterator[Path]:
    """A path in a temporary folder beside `path`; what is written there moves into place if nothing is raised.

    The data file moves before the model, so that whoever finds the model finds its data.

    Raises:
        InputError: `path` or a file beside it exists and may not be overwritten, `path` is one of the `sources`, or it
            cannot be written.
    """
    target = Path(path)
    check_output(target, overwrite=overwrite, sources=sources)
    with temporary(target.absolute().parent, target) as folder:
        yield folder / target.name
        written = sorted(folder.iterdir(), key=lambda file: file.name == target.name)
        places = [target.absolute().parent / file.name for file in written]
        if not overwrite:
            _refuse_existing(places)
        for file, place in zip(written, places, strict=True):
            os.replace(file, place)


@contextlib.contextmanager
def temporary(parent: Path, target: Path) -> Iterator[Path]:
    """A folder in `parent` that goes in any case; no signal comes between its making and the care for it.

    Raises:
        InputError: it cannot be made, or writing in it or beside it fails; `target` is what the caller wanted to write.
    """
    hold = Hold()
    hold.start()
    try:
        try:
            folder = Path(tempfile.mkdtemp(prefix=".onnxdam-", dir=parent))
        except OSError as error:
            raise unwritable(target, error) from None
        try:
            hold.stop()
            yield folder
        except OSError as error:
            if error.filename is not None and not _concerns(error, folder, target):
                raise  # not ours: something that the caller read failed
            raise unwritable(target, error) from error
        finally:
            hold.start()
            shutil.rmtree(folder, ignore_errors=True)
    finally:
        hold.stop()


def check_output(path: Path, *, overwrite: bool, sources: Iterable[str | os.PathLike[str]]) -> None:
    """Raises InputError where `staged` would, as far as that can be told without writing."""
    try:
        if path.is_dir():
            raise InputError(f"{path}: is a folder; name a file")
        files = (path, data_file(path))
        for source in map(Path, sources):
            if any(file.exists() and source.exists() and file.samefile(source) for file in files):
                raise InputError(f"{path}: the output would overwrite its own input {source}; choose another name")
        if path.exists() and not path.is_file():
            raise InputError(f"{path}: is not a regular file")
        if not overwrite:
            _refuse_existing([path])
        if not path.absolute().parent.is_dir():
            raise InputError(f"{path}: there is no folder {path.parent}")
        if not os.access(path if path.exists() else path.absolute().parent, os.W_OK):
            raise InputError(f"{path}: cannot be written (Permission denied); nothing was written")
    except OSError as error:  # the name is too long, for one
        raise unwritable(path, error) from None


def _refuse_existing(paths: Iterable[Path]) -> None:
    """A link counts, wherever it leads."""
    for path in paths:
        if os.path.lexists(path):
            raise InputError(f"{path}: exists already; ask for --force (in Python: overwrite=True) to replace it")


def _concerns(error: OSError, folder: Path, target: Path) -> bool:
    """Whether an error is about something in the temporary folder, or about where it is to go."""
    names = [name for name in (error.filename, error.filename2) if isinstance(name, str | bytes | os.PathLike)]
    paths = [Path(os.fsdecode(name)).absolute() for name in names]
    return any(path.is_relative_to(folder) or path.is_relative_to(target.absolute()) for path in paths)


def unwritable(path: Path, error: OSError) -> OnnxDamError:
    """The one-line form of a failed write."""
    if error.errno == errno.ENOSPC:
        return InputError(f"{path}: the disk is full; nothing was written")
    return InputError(f"{path}: cannot be written ({error.strerror or error}); nothing was written")


def data_file(path: Path) -> Path:
    """Where the external data of a model at `path` goes."""
    return path.with_name(path.name + ".data")
