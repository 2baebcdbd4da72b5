"""Seconds and peak memory of slimming, against loading and saving the same file and against other tools.

    python benchmarks/prune_speed.py [--rounds 9] [--fresh 3] [--networks resnet50,...]

Half of the channels of each network are masked (networks.py says how). Two tables:

1. in process: `onnxdam.slim` + save against `onnx.load` + `onnx.save` of the same file, after a warm-up, interleaved;
   median and best of the rounds. Processor time is given too: on a shared machine it is what can be repeated.
2. fresh processes, one thread each, interleaved: the whole command without verification, and onnxsim, onnxslim and
   torch-pruning (which needs the PyTorch model: its time is that of building the dependency graph, pruning the masked
   share and exporting). Peak memory is the largest resident set.

Only onnxdam removes the masked channels; onnxslim and onnxsim simplify, torch-pruning prunes by magnitude.
Peers that are not installed are skipped, loudly.
"""

from __future__ import annotations

import argparse
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import networks
import onnx

import onnxdam
from onnxdam.graph import io

NETWORKS = {
    n.name: n
    for n in (
        networks.Network("ResNet-50", "tv", "resnet50"),
        networks.Network("DenseNet-121", "tv", "densenet121"),
        networks.Network("ViT-B/16", "timm", "vit_base_patch16_224"),
        networks.Network("ConvNeXt-T", "timm", "convnext_tiny"),
    )
}

_PEAK = """
import pathlib, re, resource, sys
def peak():
    status = pathlib.Path("/proc/self/status")  # VmHWM begins anew with the process, ru_maxrss inherits the parent's
    if status.exists():
        return int(re.search(r"VmHWM:\\s*(\\d+)", status.read_text())[1]) / 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / (2**20 if sys.platform == "darwin" else 1024)
"""

#: what runs in a fresh process; argv: masked file, output, folder of this script, network
TOOLS = {
    "load + save": "import onnx\nonnx.save(onnx.load(sys.argv[1]), sys.argv[2])",
    "onnxdam prune --no-verify": (
        "import contextlib, os\n"
        "with open(os.devnull, 'w') as null, contextlib.redirect_stdout(null), contextlib.redirect_stderr(null):\n"
        "    from onnxdam.cli.main import run\n"
        "    sys.argv[1:] = ['prune', sys.argv[1], '-o', sys.argv[2], '--no-verify', '--force']\n"
        "    try:\n        run()\n    except SystemExit as end:\n        assert not end.code, end.code\n"
    ),
    "onnxslim": "import onnxslim\nonnxslim.slim(sys.argv[1], sys.argv[2])",
    "onnxsim": "import onnx, onnxsim\nonnx.save(onnxsim.simplify(sys.argv[1])[0], sys.argv[2])",
    "torch-pruning": (
        "sys.path.insert(0, sys.argv[3])\nimport networks, prune_speed, torch_pruning as tp\nimport torch\n"
        "networks._quiet()\nmodel, x = networks.build(prune_speed.NETWORKS[sys.argv[4]])\nmodel.eval()\n"
        "heads = [m for m in model.modules() if networks._is_head(m)]\n"
        "pruner = tp.pruner.BasePruner(model, x, tp.importance.MagnitudeImportance(), pruning_ratio=0.5,"
        " ignored_layers=heads)\n"
        "pruner.step()\nnetworks._export(model, x, __import__('pathlib').Path(sys.argv[2]))\n"
    ),
}
MODULES = {"onnxslim": "onnxslim", "onnxsim": "onnxsim", "torch-pruning": "torch_pruning"}


def in_process(masked: Path, out: Path, rounds: int) -> dict[str, list[tuple[float, float]]]:
    """Wall and processor seconds of each round."""

    def prune() -> None:
        slimmed, _ = onnxdam.slim(masked)
        io.save(slimmed, out)

    def copy() -> None:
        onnx.save(onnx.load(masked), out)

    works: dict[str, Callable[[], None]] = {"prune": prune, "copy": copy}
    times: dict[str, list[tuple[float, float]]] = {name: [] for name in works}
    for number in range(rounds + 1):
        for name, work in works.items():
            wall, processor = time.perf_counter(), time.process_time()
            work()
            if number:  # the first round warms up
                times[name].append((time.perf_counter() - wall, time.process_time() - processor))
    return times


def fresh(tool: str, masked: Path, out: Path, name: str) -> tuple[float, float] | str:
    """Wall seconds and peak MB of a process, or why it failed."""
    code = _PEAK + TOOLS[tool] + "\nprint('PEAK', peak())"
    threads = dict.fromkeys(("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS"), "1")
    start = time.perf_counter()
    run = subprocess.run(
        [sys.executable, "-c", code, str(masked), str(out), str(Path(__file__).parent), name],
        capture_output=True, text=True, env=os.environ | threads,
    )  # fmt: skip
    wall = time.perf_counter() - start
    if run.returncode:
        return (run.stderr.strip().splitlines() or ["no message"])[-1][:80]
    return wall, float(run.stdout.rsplit("PEAK", 1)[1])


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=9, help="in process")
    parser.add_argument("--fresh", type=int, default=3, help="rounds of fresh processes, 0 for none")
    parser.add_argument("--networks", default=",".join(NETWORKS))
    parser.add_argument("--folder", type=Path, help="keeps the networks there for the next time")
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    if networks.missing([n for n in networks.NEEDED if n != "onnxruntime"]):
        return 0
    absent = {tool for tool, module in MODULES.items() if networks.missing([module])}
    tools = [tool for tool in TOOLS if tool not in absent]
    with tempfile.TemporaryDirectory() as temporary:
        folder = args.folder or Path(temporary)
        folder.mkdir(exist_ok=True, parents=True)
        masked = {
            name: networks.cached(NETWORKS[name], folder, share=0.5, seed=args.seed).masked
            for name in args.networks.split(",")
        }
        out = Path(temporary) / "out.onnx"
        _table_in_process(masked, out, args.rounds)
        if args.fresh:
            _table_fresh(masked, out, tools, args.fresh)
    return 0


def _table_in_process(masked: dict[str, Path], out: Path, rounds: int) -> None:
    print("| in process | file, MB | nodes | load + save, s | slim + save, s | ratio, median | best | processor time |")
    print("|---|--:|--:|--:|--:|--:|--:|--:|")
    for name, path in masked.items():
        nodes = len(onnx.load(path).graph.node)
        times = in_process(path, out, rounds)
        (wall, processor), (wall0, processor0) = (zip(*times[k], strict=True) for k in ("prune", "copy"))
        middle, middle0 = statistics.median(wall), statistics.median(wall0)
        print(
            f"| {NETWORKS[name].title} | {path.stat().st_size / 1e6:.0f} | {nodes} | {middle0:.3f} | {middle:.3f} "
            f"| {middle / middle0:.2f} | {min(wall) / min(wall0):.2f} "
            f"| {statistics.median(processor) / statistics.median(processor0):.2f} |",
            flush=True,
        )


def _table_fresh(masked: dict[str, Path], out: Path, tools: list[str], rounds: int) -> None:
    print("\n| fresh process, s / peak MB | " + " | ".join(NETWORKS[name].title for name in masked) + " |")
    print("|---|" + "--:|" * len(masked))
    results: dict[tuple[str, str], list[tuple[float, float] | str]] = {}
    for _ in range(rounds):
        for name, path in masked.items():
            for tool in tools:
                results.setdefault((tool, name), []).append(fresh(tool, path, out, name))
    for tool in tools:
        cells = []
        for name in masked:
            good = [r for r in results[tool, name] if not isinstance(r, str)]
            walls, peaks = [r[0] for r in good], [r[1] for r in good]
            middle = f"{statistics.median(walls):.2f} / {statistics.median(peaks):.0f}" if good else ""
            cells.append(middle or f"fails: {results[tool, name][0]}")
        print(f"| {tool} | " + " | ".join(cells) + " |", flush=True)


if __name__ == "__main__":
    sys.exit(main())
