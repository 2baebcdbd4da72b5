"""Exact slimming of ONNX models: masked channels go, the function stays.

The names below are imported on first use, so `import onnxdam` costs nothing and never imports torch.

    >>> import onnxdam
    >>> slim_model, plan = onnxdam.slim("masked.onnx")  # doctest: +SKIP
    >>> onnxdam.verify("masked.onnx", slim_model).passed  # doctest: +SKIP
    True
"""

from __future__ import annotations

import importlib
import sys
import types
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from onnxdam import features
    from onnxdam.api import apply, explain, plan, slim
    from onnxdam.bench import BenchResult, bench
    from onnxdam.deploy import deploy
    from onnxdam.errors import InputError, OnnxDamError, UnsupportedError, VerificationError
    from onnxdam.inspection import Inspection, inspect
    from onnxdam.plan import Plan
    from onnxdam.verify import Report, verify

__version__ = "0.1.0"

__all__ = [
    "BenchResult",
    "InputError",
    "Inspection",
    "OnnxDamError",
    "Plan",
    "Report",
    "UnsupportedError",
    "VerificationError",
    "apply",
    "bench",
    "deploy",
    "explain",
    "features",
    "inspect",
    "plan",
    "slim",
    "verify",
]

_HOME = {
    "BenchResult": "bench",
    "Inspection": "inspection",
    "InputError": "errors",
    "OnnxDamError": "errors",
    "Plan": "plan",
    "Report": "verify",
    "UnsupportedError": "errors",
    "VerificationError": "errors",
    "apply": "api",
    "bench": "bench",
    "deploy": "deploy",
    "explain": "api",
    "inspect": "inspection",
    "plan": "api",
    "slim": "api",
    "verify": "verify",
}

_MODULES = ("features",)  # submodules that are public themselves


class _Package(types.ModuleType):
    """Lets `onnxdam.plan`, `onnxdam.verify` and `onnxdam.bench` be the functions.

    Importing a submodule binds it on the package under the same name; here the public name wins.
    `from onnxdam.plan import Plan` still finds the submodule, which lives in `sys.modules`.
    """

    def __setattr__(self, name: str, value: Any) -> None:
        if name in _HOME and isinstance(value, types.ModuleType):
            return
        super().__setattr__(name, value)


sys.modules[__name__].__class__ = _Package


def __getattr__(name: str) -> Any:
    """Imports a public name on first use (PEP 562)."""
    if name in _MODULES:
        return importlib.import_module(f"onnxdam.{name}")
    if name not in _HOME:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(importlib.import_module(f"onnxdam.{_HOME[name]}"), name)
    setattr(sys.modules[__name__], name, value)
    return value


def __dir__() -> list[str]:
    return sorted([*__all__, "__version__"])
