"""Latency of slim models against the masked and the natively narrow ones, on random masks of several densities.

    python benchmarks/latency.py [--shares 0.03,0.25,0.5,0.75,0.9] [--align auto,none] [--rounds 5] [--runs 12]

For every network and share of masked channels: the masked model (dense widths), its slim form, and the narrow network
exported from PyTorch, in ONNX Runtime on one CPU thread, batch 1. Times are those of the thread, which do not count
what else runs on the machine (caches are shared all the same). All models of a row run alternately; in every round
their sessions are opened anew in another order (where weights happen to lie in memory makes some percent). A ratio is
the median over the rounds of the ratio of medians; the interval is that of `onnxdam bench`, a bootstrap over rounds
and runs. A slim model is called slower when its whole interval lies above the limit.

With --align auto a slim model may be faster than the narrow network, whose widths are arbitrary.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
import time
from pathlib import Path

import networks
import numpy as np

import onnxdam
from onnxdam.bench import ratio_interval
from onnxdam.graph import io

NETWORKS = {
    n.name: n
    for n in (
        networks.Network("ResNet-18", "tv", "resnet18", 112),
        networks.Network("MobileNetV2", "tv", "mobilenet_v2", 128),
        networks.Network("VGG11-BN", "tv", "vgg11_bn", 64),
        networks.Network("SqueezeNet 1.1", "tv", "squeezenet1_1", 128),
        networks.Network("EfficientNet-B0", "timm", "efficientnet_b0", 128),
        networks.Network("DenseNet-121", "tv", "densenet121", 96),
    )
}


def measure(paths: list[Path], side: int, rounds: int, runs: int) -> list[list[np.ndarray]]:
    """Seconds of processor time: rounds x models x runs."""
    import onnxruntime as ort

    options = ort.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    x = np.random.default_rng(0).standard_normal((1, 3, side, side), np.float32)
    results = []
    for number in range(rounds):
        order = np.roll(range(len(paths)), number).tolist()
        sessions = {i: ort.InferenceSession(paths[i], options, providers=["CPUExecutionProvider"]) for i in order}
        for session in sessions.values():
            for _ in range(3):
                session.run(None, {"input": x})
        times: list[list[float]] = [[] for _ in paths]
        for _ in range(runs):
            for i in order:
                start = time.thread_time()
                sessions[i].run(None, {"input": x})
                times[i].append(time.thread_time() - start)
        results.append([np.array(t) for t in times])
    return results


def pair(results: list[list[np.ndarray]], a: int, b: int) -> tuple[float, float, float]:
    """Ratio b / a with its interval."""
    return ratio_interval([[r[a], r[b]] for r in results])


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--networks", default=",".join(NETWORKS))
    parser.add_argument("--shares", default="0.03,0.25,0.5,0.75,0.9", help="of the channels that are masked")
    parser.add_argument("--align", default="auto,none", help="what to slim with; the first is judged")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--runs", type=int, default=12, help="of each model in a round")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--folder", type=Path, help="keeps the networks there for the next time")
    parser.add_argument("--build-only", action="store_true")
    args = parser.parse_args()
    if networks.missing():
        return 0
    aligns = args.align.split(",")
    heads = "".join(f" slim / dense ({a}) | slim / narrow ({a}) |" for a in aligns)
    print(f"| network | masked | dense, ms | narrow, ms |{heads}")
    print("|---|--:|--:|--:|" + "--:|" * (2 * len(aligns)))
    judged: list[tuple[str, tuple[float, float, float], tuple[float, float, float]]] = []
    with tempfile.TemporaryDirectory() as temporary:
        folder = args.folder or Path(temporary)
        folder.mkdir(exist_ok=True, parents=True)
        for name in args.networks.split(","):
            for share in map(float, args.shares.split(",")):
                files = networks.cached(NETWORKS[name], folder, share=share, seed=args.seed)
                if args.build_only:
                    continue
                assert files.narrow is not None
                slims = []
                for align in aligns:
                    slims.append(Path(temporary) / f"slim_{align}.onnx")
                    io.save(onnxdam.slim(files.masked, align=align)[0], slims[-1])
                results = measure([files.masked, files.narrow, *slims], NETWORKS[name].side, args.rounds, args.runs)
                ratios = [(pair(results, 0, i), pair(results, 1, i)) for i in range(2, 2 + len(aligns))]
                judged.append((f"{NETWORKS[name].title} {share:.0%}", *ratios[0]))
                dense, narrow = (float(np.median([np.median(r[i]) for r in results])) * 1e3 for i in (0, 1))
                cells = " | ".join(f"{r[0]:.3f} ({r[1]:.2f} to {r[2]:.2f})" for both in ratios for r in both)
                print(f"| {NETWORKS[name].title} | {share:.0%} | {dense:.2f} | {narrow:.2f} | {cells} |", flush=True)
    if args.build_only:
        return 0
    slower = [title for title, dense, _ in judged if dense[1] > 1.0]
    behind = [title for title, _, narrow in judged if narrow[1] > 1.02]
    print(f"\nslim / narrow ({aligns[0]}): median {np.median([n[0] for _, _, n in judged]):.3f}, "
          f"worst {max(n[0] for _, _, n in judged):.3f}")  # fmt: skip
    print(f"slower than dense beyond noise: {', '.join(slower) or 'none'}")
    print(f"over 1.02 of narrow beyond noise: {', '.join(behind) or 'none'}")
    print("FAILED" if slower or behind else "PASSED")
    return bool(slower or behind)


if __name__ == "__main__":
    sys.exit(main())
