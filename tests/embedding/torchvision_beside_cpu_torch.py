"""transformers imports torchvision where it is installed; the PyPI wheel of torchvision does not load beside CPU torch.

Declaring the compiled operators by name is enough, as no test calls them.
"""

from __future__ import annotations

import contextlib
import re
import sys

import torch

_keep_alive: list[torch.library.Library] = []


def declare_missing_operators() -> None:
    """Make `import torchvision` work; does nothing where it works already or is not installed."""
    with contextlib.suppress(ModuleNotFoundError):
        for _ in range(100):
            try:
                import torchvision  # noqa: F401
            except RuntimeError as error:
                missing = re.search(r"operator torchvision::(\w+) does not exist", str(error))
                if missing is None:
                    raise
                if not _keep_alive:
                    _keep_alive.append(torch.library.Library("torchvision", "FRAGMENT"))
                _keep_alive[0].define(f"{missing.group(1)}(Tensor x) -> Tensor")
                for name in [n for n in sys.modules if n.startswith("torchvision")]:
                    del sys.modules[name]
            else:
                return
