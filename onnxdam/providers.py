"""ONNX Runtime sessions: the only place that names execution providers or session options."""

from __future__ import annotations

import tempfile
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import onnx
import onnx_ir as ir
import onnxruntime as ort

from onnxdam import saturation
from onnxdam.errors import InputError, UnsupportedError
from onnxdam.graph import io

PROVIDERS = {
    "cpu": ("CPUExecutionProvider",),
    "cuda": ("CUDAExecutionProvider", "CPUExecutionProvider"),
    "tensorrt": ("TensorrtExecutionProvider", "CUDAExecutionProvider", "CPUExecutionProvider"),
}
LEVELS = {"off": ort.GraphOptimizationLevel.ORT_DISABLE_ALL, "on": ort.GraphOptimizationLevel.ORT_ENABLE_ALL}
MATMUL_ACCURACY = "session.qdq_matmulnbits_accuracy_level"
_SILENT = 4


def check_provider(name: str) -> None:
    """Raises InputError unless the provider is known and part of the installed ONNX Runtime."""
    if name not in PROVIDERS:
        raise InputError(f"provider {name!r} is not one of {', '.join(PROVIDERS)}")
    if PROVIDERS[name][0] not in ort.get_available_providers():
        raise InputError(
            f"provider {name!r} needs {PROVIDERS[name][0]}, which the installed onnxruntime {ort.__version__} "
            "does not have (to prune for another machine, ask for --no-verify)"
        )


@dataclass
class Runnable:
    """A model in a form that ONNX Runtime opens, with as few copies of its weights as possible.

    Attributes:
        name: for messages.
        path: the file, unless `data` holds the model.
        data: the serialised model, unless it is a file.
        skeleton: the graph, external weights not loaded.
    """

    name: str
    path: Path | None
    data: bytes | None
    skeleton: onnx.ModelProto
    _folder: Any = field(default=None, repr=False)  # keeps the temporary folder alive

    @classmethod
    def of(cls, model: io.AnyModel, name: str = "model") -> Runnable:
        """Makes a model runnable; an `ir.Model` whose weights are external or large goes to a temporary folder.

        Raises:
            InputError: as `onnxdam.graph.io.read` and `parse`.
        """
        if isinstance(model, onnx.ModelProto):
            return cls(name, None, model.SerializeToString(), model)
        if isinstance(model, ir.Model):
            large = io.sources(model) or sum(t.nbytes for t in io.tensors(model)) > io.PROTOBUF_LIMIT
            if not large:
                proto = io.to_proto(model)
                return cls(name, None, proto.SerializeToString(), proto)
            folder = tempfile.TemporaryDirectory(prefix="onnxdam-")
            path = Path(folder.name) / "model.onnx"
            io.save(model, path)
            return cls(name, path, None, io.parse(io.read(path), name), folder)
        path = Path(model)
        return cls(str(path), path, None, io.parse(io.read(path), str(path)))

    def with_outputs(self, names: list[str]) -> Runnable:
        """The same model with `names` as its outputs."""
        proto = onnx.ModelProto()
        proto.CopyFrom(self.skeleton)
        del proto.graph.output[:]
        proto.graph.output.extend(onnx.ValueInfoProto(name=name) for name in names)
        return self.changed(proto)

    def changed(self, proto: onnx.ModelProto) -> Runnable:
        """Another graph over the same external weights."""
        return Runnable(self.name, self.path, proto.SerializeToString(), proto, self._folder)


def session(
    model: Runnable,
    *,
    provider: str = "cpu",
    level: str = "on",
    threads: int = 0,
    exact: bool = False,
) -> ort.InferenceSession:
    """Opens a model.

    Args:
        model: what to open.
        provider: "cpu", "cuda" or "tensorrt".
        level: graph optimisations "off" or "on".
        threads: intra-operator threads; 0 leaves the choice to ONNX Runtime.
        exact: no arithmetic that is faster than it is right. Integer products that saturate are only right with some
            graph optimisations on, so those are, even at level "off".

    Raises:
        InputError: the provider is not available, or did not come up.
        UnsupportedError: ONNX Runtime does not load the model.
    """
    check_provider(provider)
    settings = ort.SessionOptions()
    settings.log_severity_level = _SILENT
    settings.graph_optimization_level = LEVELS[level]
    settings.intra_op_num_threads = threads
    if threads == 1:
        settings.inter_op_num_threads = 1
    if exact:
        settings.add_session_config_entry(
            MATMUL_ACCURACY, "1"
        )  # else 8-bit weights have their inputs rounded to 8 bits
        if saturation.saturates(model.skeleton, fused=level == "on"):
            settings.add_session_config_entry(saturation.OPTION, "1")
            model = model.changed(saturation.apart(model.skeleton))
            if level == "off":
                settings.graph_optimization_level = ort.GraphOptimizationLevel.ORT_ENABLE_EXTENDED
    if model.path is not None and model.data is not None:
        folder = str(model.path.absolute().parent)
        settings.add_session_config_entry("session.model_external_initializers_file_folder_path", folder)
    source = model.data if model.data is not None else str(model.path)
    try:
        opened = ort.InferenceSession(source, settings, providers=list(PROVIDERS[provider]))
    except Exception as error:  # the runtime's exceptions share no base class
        raise UnsupportedError(f"{model.name}: ONNX Runtime does not load it ({reason(error)})") from None
    if opened.get_providers()[0] != PROVIDERS[provider][0]:
        raise InputError(f"provider {provider!r} did not come up; `onnxdam doctor` says what is missing")
    return opened


def reason(error: BaseException) -> str:
    """What went wrong, in one short line."""
    text = " ".join(str(error).split())
    return text.rsplit("Status Message:", 1)[-1].strip()[:250] or type(error).__name__
