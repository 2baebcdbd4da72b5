"""The same pairs after ONNX Runtime has fused them: com.microsoft operators, names in the standard domain that it adds."""

from __future__ import annotations

import pathlib

import onnx
import onnx_ir as ir
import onnxruntime as ort
import pytest

pytest.importorskip("torch", reason="embedding pairs are PyTorch modules")
pytest.importorskip("transformers", reason="embedding pairs use transformers' configurations")

import onnxdam

from .embed import Death
from .pairs import REGISTRY, export
from .test_embedding import build, distance, feeds, run, weights, wider

pytestmark = pytest.mark.torch

#: pair -> an operator that the fusion must have brought about
PAIRS = {
    "bert": "BiasGelu",
    "llama_everything": "SimplifiedLayerNormalization",
    "mamba": "QuickGelu",
    "crnn": "FusedConv",
    "volumes": "FusedGemm",
    "attention_matmul": "FusedMatMul",
    "selective_kernel": "FusedConv",
    "t5": "SimplifiedLayerNormalization",
}


def fuse(source: pathlib.Path, target: pathlib.Path) -> None:
    """Saves the graph as ONNX Runtime's extended optimisations leave it."""
    options = ort.SessionOptions()
    options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_ENABLE_EXTENDED
    options.optimized_model_filepath = str(target)
    options.log_severity_level = 4
    ort.InferenceSession(str(source), options, providers=["CPUExecutionProvider"])


@pytest.mark.parametrize("name", PAIRS)
def test_slim_finds_the_narrow_network_behind_fusions(name: str, tmp_path: pathlib.Path) -> None:
    deaths = REGISTRY[name].deaths
    pair = build(name, Death.MIXED if Death.MIXED in deaths else deaths[0])
    for side, model in (("wide", pair.wide), ("narrow", pair.narrow)):
        export(model, pair, tmp_path / f"{side}_plain.onnx", "torchscript")
        fuse(tmp_path / f"{side}_plain.onnx", tmp_path / f"{side}.onnx")
    wide, narrow, slim = (tmp_path / f"{n}.onnx" for n in ("wide", "narrow", "slim"))
    if PAIRS[name] not in {node.op_type for node in onnx.load(wide).graph.node}:
        pytest.skip(f"this ONNX Runtime does not make {PAIRS[name]} of {name}")

    model, _ = onnxdam.slim(wide, align="none")
    ir.save(model, slim)

    for grow in (0, 2) if pair.dynamic else (0,):
        data = feeds(pair, grow)
        assert distance(run(wide, data), run(slim, data)) < 2e-5
    found, goal = onnx.load(slim), onnx.load(narrow)
    assert weights(found) == weights(goal), wider(found, goal)
    assert len(found.graph.node) <= len(goal.graph.node)
