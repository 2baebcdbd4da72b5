"""What is installed here, and what is wrong with it."""

from __future__ import annotations

import importlib.metadata
import platform
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

RUNTIMES = ("onnxruntime", "onnxruntime-gpu", "onnxruntime-directml", "onnxruntime-openvino", "onnxruntime-qnn")
PACKAGES = ("onnxdam", "onnx", "onnx-ir", "numpy", *RUNTIMES, "torch")


@dataclass(frozen=True)
class Health:
    """The findings.

    Attributes:
        versions: of the packages that are installed.
        providers: execution providers of ONNX Runtime.
        instructions: vector instruction sets of this processor, the widest first.
        system: operating system, processor and Python.
        problems: what is wrong, each with the command that mends it.
    """

    versions: dict[str, str]
    providers: tuple[str, ...]
    instructions: tuple[str, ...]
    system: str
    problems: tuple[str, ...]

    @property
    def passed(self) -> bool:
        """Nothing is wrong."""
        return not self.problems

    def to_dict(self) -> dict[str, Any]:
        """For JSON."""
        return asdict(self) | {"passed": self.passed}


def examine() -> Health:
    """Looks at packages, providers and the processor; imports no torch."""
    versions = {name: found for name in PACKAGES if (found := installed(name)) is not None}
    providers, problems = _runtime(versions)
    system = f"{platform.system()} {platform.machine()}, Python {platform.python_version()}"
    return Health(versions, providers, instruction_sets(), system, tuple(problems))


def installed(name: str) -> str | None:
    """The version of a distribution, None if it is not there."""
    try:
        return importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return None


def runtime_problems(versions: dict[str, str]) -> list[str]:
    """The trap of two packages that install one module: the later one wins, and CUDA silently vanishes."""
    found = [name for name in RUNTIMES if name in versions]
    if not found:
        return ["no onnxruntime: pip install 'onnxdam[cpu]' (or 'onnxdam[gpu]' on a machine with CUDA)"]
    if len(found) > 1:
        keep = next(name for name in (*found[1:], found[0]) if name != "onnxruntime")
        return [
            f"{' and '.join(found)} are both installed and overwrite each other's files: "
            f"pip uninstall -y {' '.join(found)} && pip install {keep}"
        ]
    return []


def _runtime(versions: dict[str, str]) -> tuple[tuple[str, ...], list[str]]:
    problems = runtime_problems(versions)
    try:
        import onnxruntime as ort
    except ImportError as error:
        return (), problems or [f"onnxruntime cannot be imported: {error}"]
    providers = tuple(ort.get_available_providers())
    if "onnxruntime-gpu" in versions and "CUDAExecutionProvider" not in providers:
        problems.append(
            "onnxruntime-gpu is installed but offers no CUDA: "
            "pip uninstall -y onnxruntime onnxruntime-gpu && pip install onnxruntime-gpu"
        )
    return providers, problems


_FLAGS = ("avx512f", "avx2", "avx", "sse4_2", "asimd", "sve", "neon")


def instruction_sets() -> tuple[str, ...]:
    """Vector instruction sets of this processor among those that matter to ONNX Runtime, the widest first."""
    try:
        text = Path("/proc/cpuinfo").read_text()
    except OSError:
        machine = platform.machine().lower()
        return ("neon",) if machine in ("arm64", "aarch64") else ()  # nothing else can be asked without a dependency
    line = next((entry for entry in text.splitlines() if entry.lower().startswith(("flags", "features"))), "")
    flags = set(line.partition(":")[2].split())
    return tuple(flag for flag in _FLAGS if flag in flags)
