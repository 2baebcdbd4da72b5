"""All of onnx.backend.test through slim, nothing masked: the same function comes back, and where nothing is dead, the
same bytes.

The case's own expected outputs are the reference, its own tolerances apply. A case runs in the ONNX reference
evaluator, or in ONNX Runtime where that one cannot. Cases whose *original* runs in neither (or gives other outputs than
the case expects) are not skipped silently: they must be listed in `cannot_run.txt`, and slim must still return a valid
model for them.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import numpy_helper
from onnx.backend.test.loader import load_model_tests
from onnx.reference import ReferenceEvaluator

import onnxdam
from tests.property.builder import all_nodes
from tests.property.oracle import evaluate

KINDS = ("node", "simple", "pytorch-converted", "pytorch-operator")
CHUNKS = 8
LISTED = Path(__file__).with_name("cannot_run.txt")
Run = Callable[[onnx.ModelProto, list[Any]], list[Any]]


@functools.cache
def cases(kind: str) -> list[Any]:
    return sorted(load_model_tests(kind=kind), key=lambda case: str(case.name))


def model_of(case: Any) -> onnx.ModelProto:
    """The model, raised to opset 13 by onnx's own converter where it is older than onnxdam reads (opset 7)."""
    model = case.model if case.model is not None else onnx.load(Path(case.model_dir) / "model.onnx")
    if any(o.domain in ("", "ai.onnx") and o.version < 7 for o in model.opset_import):
        try:
            return onnx.version_converter.convert_version(model, 13)
        except Exception:
            return model
    return model


def canonical(model: onnx.ModelProto) -> bytes:
    """The bytes of a model, where the protobuf text of one thing can differ: no domain or an empty one, numbers as raw
    bytes or as a list, a value_info for an initializer (which has a type of its own).
    """
    copy = onnx.ModelProto.FromString(model.SerializeToString())
    graphs = [copy.graph]
    for opset in copy.opset_import:
        if not opset.domain:
            opset.ClearField("domain")
    for node in all_nodes(copy.graph.node):
        if not node.domain:
            node.ClearField("domain")
        for attribute in node.attribute:
            if attribute.type == onnx.AttributeProto.GRAPH:
                graphs.append(attribute.g)
            elif attribute.type == onnx.AttributeProto.TENSOR and attribute.t.data_type != onnx.TensorProto.STRING:
                attribute.t.CopyFrom(numpy_helper.from_array(numpy_helper.to_array(attribute.t), attribute.t.name))
    for graph in graphs:
        weights = {t.name for t in graph.initializer}
        kept = [v for v in graph.value_info if v.name not in weights]
        graph.ClearField("value_info")
        graph.value_info.extend(kept)
        for tensor in graph.initializer:
            if tensor.data_type != onnx.TensorProto.STRING:
                tensor.CopyFrom(numpy_helper.from_array(numpy_helper.to_array(tensor), tensor.name))
    return copy.SerializeToString(deterministic=True)


def read(path: Path, info: onnx.ValueInfoProto) -> Any:
    """A stored input or output, whatever its type."""
    data = path.read_bytes()
    which = info.type.WhichOneof("value")
    if which == "sequence_type":
        return numpy_helper.to_list(onnx.SequenceProto.FromString(data))
    if which == "optional_type":
        return numpy_helper.to_optional(onnx.OptionalProto.FromString(data))
    return numpy_helper.to_array(onnx.TensorProto.FromString(data))


def data_sets(case: Any, model: onnx.ModelProto) -> list[tuple[list[Any], list[Any]]]:
    if case.data_sets is not None:
        return [([plain(x) for x in inputs], [plain(x) for x in outputs]) for inputs, outputs in case.data_sets]
    found = []
    for folder in sorted(Path(case.model_dir).glob("test_data_set_*")):
        inputs = [read(folder / f"input_{i}.pb", info) for i, info in enumerate(model.graph.input)
                  if (folder / f"input_{i}.pb").exists()]  # fmt: skip
        outputs = [read(folder / f"output_{i}.pb", info) for i, info in enumerate(model.graph.output)]
        found.append((inputs, outputs))
    return found


def plain(x: Any) -> Any:
    """Some cases store tensors as protos: element types that NumPy lacks."""
    return numpy_helper.to_array(x) if isinstance(x, onnx.TensorProto) else x


def run_reference(model: onnx.ModelProto, inputs: list[Any]) -> list[Any]:
    with np.errstate(all="ignore"):
        return list(ReferenceEvaluator(model).run(None, feeds(model, inputs)))


def run_corrected(model: onnx.ModelProto, inputs: list[Any]) -> list[Any]:
    """The reference evaluator with the operators replaced that it gets wrong (Loop, ConvTranspose ...)."""
    return evaluate(model, feeds(model, inputs))


def run_onnxruntime(model: onnx.ModelProto, inputs: list[Any]) -> list[Any]:
    ort = pytest.importorskip("onnxruntime")
    options = ort.SessionOptions()
    options.log_severity_level = 4
    options.intra_op_num_threads = 1
    session = ort.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
    return list(session.run(None, feeds(model, inputs)))


def feeds(model: onnx.ModelProto, inputs: list[Any]) -> dict[str, Any]:
    weights = {t.name for t in model.graph.initializer}
    names = [i.name for i in model.graph.input]
    if len(inputs) < len(names):
        names = [name for name in names if name not in weights]
    return dict(zip(names, inputs, strict=False))


def same(wanted: Any, found: Any, case: Any) -> bool:
    """The suite's comparison."""
    if wanted is None or found is None:
        return wanted is None and found is None
    if isinstance(wanted, list):
        return len(wanted) == len(found) and all(same(w, f, case) for w, f in zip(wanted, found, strict=True))
    a, b = np.asarray(wanted), np.asarray(found)
    if a.shape != b.shape:
        return False
    if a.dtype.kind in "OUS":
        return bool(np.array_equal(a.astype(str), b.astype(str)))
    a, b = (
        a.astype(np.complex128 if a.dtype.kind == "c" else np.float64),
        b.astype(np.complex128 if b.dtype.kind == "c" else np.float64),
    )
    return bool(np.allclose(b, a, rtol=case.rtol, atol=case.atol, equal_nan=True))


def agrees(model: onnx.ModelProto, case: Any, run: Run, sets: list[tuple[list[Any], list[Any]]]) -> bool:
    """True where the model runs and gives what the case expects."""
    try:
        return all(
            len(found := run(model, inputs)) >= len(outputs)
            and all(same(w, f, case) for w, f in zip(outputs, found, strict=False))
            for inputs, outputs in sets
        )
    except Exception:
        return False


@functools.cache
def listed() -> dict[str, str]:
    """Case -> why it cannot be compared."""
    lines = [line for line in LISTED.read_text().splitlines() if line and not line.startswith("#")]
    return {name: why.strip() for name, _, why in (line.partition(" ") for line in lines)}


def check(case: Any) -> str:
    """ "same", "same function", "original does not run", or what is wrong."""
    model = model_of(case)
    before = model.SerializeToString(deterministic=True)
    try:
        small, plan = onnxdam.slim(model, align="none")
    except onnxdam.InputError as error:
        return "original does not run" if "is too old" in str(error) else f"WRONG: refused: {error}"
    except Exception as error:
        return f"WRONG: slim raised {type(error).__name__}: {error}"
    if model.SerializeToString(deterministic=True) != before:
        return "WRONG: slim changed its input"
    if [o.name for o in small.graph.output] != [o.name for o in model.graph.output]:
        return "WRONG: output names changed"
    unchanged = canonical(small) == canonical(model)
    if not unchanged and not plan.kept and not plan.constant and same_nodes(model, small):
        return "WRONG: nothing to prune, yet the bytes changed"
    if listed().get(case.name) == "random":  # it gives what is expected once in a while
        return "original does not run"
    sets = data_sets(case, model)
    for run in (run_reference, run_corrected, run_onnxruntime):
        if agrees(model, case, run, sets):
            if not agrees(small, case, run, sets):
                return f"WRONG: the slim model differs ({run.__name__})"
            return "same" if unchanged else "same function"
    return "original does not run"


def same_nodes(a: onnx.ModelProto, b: onnx.ModelProto) -> bool:
    return [n.op_type for n in a.graph.node] == [n.op_type for n in b.graph.node]


@pytest.mark.parametrize("chunk", range(CHUNKS))
@pytest.mark.parametrize("kind", KINDS)
def test_same_function_or_listed(kind: str, chunk: int) -> None:
    found = {case.name: check(case) for case in cases(kind)[chunk::CHUNKS]}
    wrong = {name: text for name, text in found.items() if text.startswith("WRONG")}
    assert not wrong, f"{len(wrong)} of {len(found)}: " + "\n".join(f"{n}: {t}" for n, t in list(wrong.items())[:20])
    missing = {name for name, text in found.items() if text == "original does not run"}
    assert not missing - set(listed())


def test_the_suite_is_really_run() -> None:
    """Thousands of cases exist, and few are on the list."""
    total = sum(len(cases(kind)) for kind in KINDS)
    assert total > 1500
    assert len(listed()) < 0.1 * total
