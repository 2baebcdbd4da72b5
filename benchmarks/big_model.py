"""Slims a generated model of 5 GB with external data, and reports seconds and peak resident memory.

    python benchmarks/big_model.py [--gigabytes 5] [--folder DIR]

The model is a stack of transformer-like MLPs in float16 (x = x + down(gelu(gate(x)) * up(x))), half of whose hidden
units are masked at random. It is written tensor by tensor into a temporary folder (room for twice its size is needed),
slimmed in a fresh process (load, plan, rewrite, save; no verification), and deleted. Peak memory is the largest
resident set of that process, mapped pages included. The result is checked: the kept weights of the first and last
layer are those of the masked model. Exits with 1 when memory exceeds --limit.
"""

from __future__ import annotations

import argparse
import json
import platform
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import onnx
from onnx import TensorProto, helper

WIDTH, HIDDEN = 4096, 16384
NAMES = ("gate", "up", "down")

CHILD = """
import json, pathlib, re, resource, sys, time
def peak():  # VmHWM begins anew with the process, ru_maxrss inherits the parent's
    status = pathlib.Path("/proc/self/status")
    if status.exists():
        return int(re.search(r"VmHWM:\\s*(\\d+)", status.read_text())[1]) * 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)
start = time.perf_counter()
import onnxdam
from onnxdam.graph import io
before = peak()
slimmed, plan = onnxdam.slim(sys.argv[1])
planned = time.perf_counter()
io.save(slimmed, sys.argv[2])
print(json.dumps({"plan": planned - start, "save": time.perf_counter() - planned, "import": before, "peak": peak()}))
"""


def generate(folder: Path, gigabytes: float, seed: int) -> tuple[Path, int, dict[int, np.ndarray]]:
    """The masked model: its path, the size of its weights, and the kept hidden units of every layer."""
    drawn = np.random.default_rng(seed)
    layers = max(1, round(gigabytes * 1e9 / (3 * WIDTH * HIDDEN * 2)))
    nodes, weights, kept, x, offset = [], [], {}, "x", 0
    base = (drawn.standard_normal(WIDTH * HIDDEN, np.float32) / 64).astype(np.float16)  # rolled: each tensor differs
    with open(folder / "big.onnx.data", "wb") as data:
        for layer in range(layers):
            stay = drawn.random(HIDDEN) < 0.5
            kept[layer] = np.flatnonzero(stay)
            for name in NAMES:
                shape = (HIDDEN, WIDTH) if name == "down" else (WIDTH, HIDDEN)
                content = np.roll(base, drawn.integers(base.size)).reshape(shape)
                content[~stay if name == "down" else (slice(None), ~stay)] = 0
                data.write(content.tobytes())
                weights.append(_external(f"{name}{layer}", shape, offset, content.nbytes))
                offset += content.nbytes
            nodes += _layer(layer, x)
            x = f"x{layer}"
    graph = helper.make_graph(
        nodes, "big",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT16, ["N", WIDTH])],
        [helper.make_tensor_value_info(x, TensorProto.FLOAT16, ["N", WIDTH])],
        weights,
    )  # fmt: skip
    path = folder / "big.onnx"
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=9), path)
    return path, offset, kept


def _external(name: str, shape: tuple[int, int], offset: int, length: int) -> onnx.TensorProto:
    tensor = TensorProto(name=name, data_type=TensorProto.FLOAT16, dims=shape, data_location=TensorProto.EXTERNAL)
    for key, value in (("location", "big.onnx.data"), ("offset", offset), ("length", length)):
        tensor.external_data.add(key=key, value=str(value))
    return tensor


def _layer(i: int, x: str) -> list[onnx.NodeProto]:
    return [
        helper.make_node("MatMul", [x, f"gate{i}"], [f"g{i}"]),
        helper.make_node("Gelu", [f"g{i}"], [f"a{i}"]),
        helper.make_node("MatMul", [x, f"up{i}"], [f"u{i}"]),
        helper.make_node("Mul", [f"a{i}", f"u{i}"], [f"h{i}"]),
        helper.make_node("MatMul", [f"h{i}", f"down{i}"], [f"d{i}"]),
        helper.make_node("Add", [x, f"d{i}"], [f"x{i}"]),
    ]


def check(masked: Path, slim: Path, kept: dict[int, np.ndarray]) -> None:
    """Raises AssertionError unless first and last layer hold exactly the kept part of the original."""
    wide, thin = _arrays(masked), _arrays(slim)
    for layer in (min(kept), max(kept)):
        for name in NAMES:
            whole = wide[f"{name}{layer}"]
            part = whole[kept[layer]] if name == "down" else whole[:, kept[layer]]
            np.testing.assert_array_equal(thin[f"{name}{layer}"], part)


def _arrays(path: Path) -> dict[str, np.ndarray]:
    arrays = {}
    for tensor in onnx.load(path, load_external_data=False).graph.initializer:
        entry = {e.key: e.value for e in tensor.external_data}
        arrays[tensor.name] = np.memmap(
            path.parent / entry["location"], np.float16, "r", int(entry.get("offset", 0)), tuple(tensor.dims)
        )
    return arrays


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--gigabytes", type=float, default=5.0)
    parser.add_argument("--limit", type=float, default=1.5, help="gigabytes of resident memory allowed")
    parser.add_argument("--folder", type=Path, help="where the temporary folder goes")
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    if platform.system() == "Windows":
        print("SKIPPED: resident memory is not available on this system", file=sys.stderr)
        return 0
    folder = Path(tempfile.mkdtemp(prefix="onnxdam-big-", dir=args.folder))
    try:
        start = time.perf_counter()
        path, size, kept = generate(folder, args.gigabytes, args.seed)
        print(f"generated {size / 1e9:.2f} GB in {time.perf_counter() - start:.0f} s", file=sys.stderr)
        out = folder / "slim.onnx"
        run = subprocess.run([sys.executable, "-c", CHILD, path, out], check=True, capture_output=True, text=True)
        result = json.loads(run.stdout)
        check(path, out, kept)
        after = (folder / "slim.onnx.data").stat().st_size
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    peak = result["peak"] / 1e9
    print("| weights, GB | slim, GB | load + plan + rewrite, s | save, s | peak resident, GB | of it imports, GB |")
    print("|--:|--:|--:|--:|--:|--:|")
    print(
        f"| {size / 1e9:.2f} | {after / 1e9:.2f} | {result['plan']:.1f} | {result['save']:.1f} | {peak:.2f} "
        f"| {result['import'] / 1e9:.2f} |"
    )
    print(f"\n{'PASSED' if peak <= args.limit else 'FAILED'}: peak {peak:.2f} GB (limit {args.limit} GB)")
    return peak > args.limit


if __name__ == "__main__":
    sys.exit(main())
