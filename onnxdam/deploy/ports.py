"""Inputs and outputs as the server will see them: as ONNX Runtime reports them, which knows more than the file says."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import onnx

from onnxdam.errors import UnsupportedError

#: ONNX Runtime's name of a type -> Triton's; what is not here Triton cannot carry
TYPES = {
    "tensor(bool)": "TYPE_BOOL",
    "tensor(uint8)": "TYPE_UINT8",
    "tensor(uint16)": "TYPE_UINT16",
    "tensor(uint32)": "TYPE_UINT32",
    "tensor(uint64)": "TYPE_UINT64",
    "tensor(int8)": "TYPE_INT8",
    "tensor(int16)": "TYPE_INT16",
    "tensor(int32)": "TYPE_INT32",
    "tensor(int64)": "TYPE_INT64",
    "tensor(float16)": "TYPE_FP16",
    "tensor(bfloat16)": "TYPE_BF16",
    "tensor(float)": "TYPE_FP32",
    "tensor(double)": "TYPE_FP64",
    "tensor(string)": "TYPE_STRING",
}


@dataclass(frozen=True)
class Port:
    """One input or output.

    Attributes:
        kind: "input" or "output".
        name: its name.
        type: Triton's name of its element type.
        dims: numbers where fixed; where dynamic the symbol, empty for an unnamed one.
    """

    kind: str
    name: str
    type: str
    dims: tuple[int | str, ...]

    @property
    def title(self) -> str:
        """For messages."""
        return f"{self.kind} {self.name!r}"

    @property
    def sizes(self) -> list[int]:
        """The dims with -1 where they are dynamic."""
        return [dim if isinstance(dim, int) else -1 for dim in self.dims]


@dataclass(frozen=True)
class Signature:
    """All inputs and outputs of a model, in order."""

    inputs: tuple[Port, ...]
    outputs: tuple[Port, ...]

    @property
    def ports(self) -> tuple[Port, ...]:
        return (*self.inputs, *self.outputs)

    @classmethod
    def of(cls, session: Any, graph: onnx.GraphProto, where: str) -> Signature:
        """The signature of a model that ONNX Runtime opened.

        Args:
            session: of the model.
            graph: of the same model, as the file has it.
            where: names the model in errors.

        Raises:
            UnsupportedError: Triton cannot carry one of the inputs or outputs, or there are no inputs.
        """
        if not session.get_inputs():
            raise UnsupportedError(f"{where}: has no inputs, so nothing can be sent to it")
        return cls(
            tuple(_ports("input", session.get_inputs(), graph.input, where)),
            tuple(_ports("output", session.get_outputs(), graph.output, where)),
        )


def _ports(kind: str, found: Iterable[Any], declared: Iterable[onnx.ValueInfoProto], where: str) -> Iterable[Port]:
    shapeless = {value.name for value in declared if not value.type.tensor_type.HasField("shape")}
    for value in found:
        title = f"{where}: {kind} {value.name!r}"
        if not value.type.startswith("tensor("):
            raise UnsupportedError(
                f"{title} is a {value.type}, and Triton carries tensors only "
                "(converters of scikit-learn models have an option for that: zipmap=False)"
            )
        if value.type not in TYPES:
            raise UnsupportedError(f"{title} is a {value.type}, which Triton cannot carry; cast it in the model")
        if not value.shape and value.name in shapeless:
            raise UnsupportedError(
                f"{title} has no shape in the file, and Triton would take it for a single number; export it with shapes"
            )
        if 0 in value.shape:
            raise UnsupportedError(f"{title} is always empty (shape {value.shape}), which Triton does not allow")
        dims = tuple(dim if isinstance(dim, int) else (dim or "") for dim in value.shape)
        yield Port(kind, value.name, TYPES[value.type], dims)
