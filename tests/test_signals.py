"""Signals that wait."""

from __future__ import annotations

import os
import signal
import threading
from pathlib import Path

import pytest

from onnxdam.graph import place
from onnxdam.signals import Hold, uninterrupted


def interrupt() -> None:
    os.kill(os.getpid(), signal.SIGINT)


def test_they_arrive_when_it_is_over() -> None:
    before = signal.getsignal(signal.SIGINT)
    hold, reached = Hold(), False
    hold.start()
    interrupt()
    reached = True
    with pytest.raises(KeyboardInterrupt):
        hold.stop()
    assert reached
    assert signal.getsignal(signal.SIGINT) is before
    hold.stop()  # nothing waits any more


def test_they_are_forgotten_when_they_come_too_late() -> None:
    before = signal.getsignal(signal.SIGINT)
    with uninterrupted(), uninterrupted():
        interrupt()
    assert signal.getsignal(signal.SIGINT) is before


def test_other_threads_have_none() -> None:
    found = []
    thread = threading.Thread(target=lambda: found.append(uninterrupted().__enter__()))
    thread.start()
    thread.join()
    assert found == [None]


@pytest.mark.parametrize("moment", ["made", "removed"])
def test_temporary_folders_go(moment: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Interrupted just when the folder was made, or while it is removed."""
    make, remove = place.tempfile.mkdtemp, place.shutil.rmtree

    def made(*args: object, **options: object) -> str:
        folder = make(*args, **options)  # type: ignore[call-overload]
        if moment == "made":
            interrupt()
        return str(folder)

    def removed(*args: object, **options: object) -> None:
        if moment == "removed":
            interrupt()
        remove(*args, **options)  # type: ignore[call-overload]

    monkeypatch.setattr(place.tempfile, "mkdtemp", made)
    monkeypatch.setattr(place.shutil, "rmtree", removed)
    with pytest.raises(KeyboardInterrupt), place.temporary(tmp_path, tmp_path / "x"):
        assert moment == "removed"
    assert list(tmp_path.iterdir()) == []
