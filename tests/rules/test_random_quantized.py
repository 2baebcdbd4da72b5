"""Random quantised networks with random masks, in ONNX Runtime: integers agree bit for bit.

Rows and columns of weights are set to what counts as zero, or to a near miss (the number 0 where the zero point is
another, the zero point of another channel); biases make constants; scales and zero points vary by channel.
Set ONNXDAM_FUZZ to a number of graphs for a longer run.
"""

from __future__ import annotations

import os
from typing import Any

import numpy as np
import pytest

from tests.rules.runtime_case import check, shapes_of

COUNT = int(os.environ.get("ONNXDAM_FUZZ", "90"))


class Network:
    """A random chain of quantised layers of one style; `lines` and `weights` make the model."""

    def __init__(self, seed: int) -> None:
        self.rng = np.random.default_rng(seed)
        self.style = str(self.rng.choice(["qdq", "operators", "dynamic"]))
        self.weights: dict[str, Any] = {}
        self.lines: list[str] = []
        self.count = 0
        self.flat = self.style == "dynamic" or bool(self.rng.integers(0, 2))

    def name(self, stem: str) -> str:
        self.count += 1
        return f"{stem}{self.count}"

    def put(self, stem: str, array: Any) -> str:
        name = self.name(stem)
        self.weights[name] = np.asarray(array)
        return name

    def emit(self, text: str, stem: str = "t") -> str:
        name = self.name(stem)
        self.lines.append(f"{name} = {text}")
        return name

    def scale(self) -> str:
        return self.put("s", np.float32(self.rng.choice([0.03, 0.1, 0.25, 1.0])))

    def zero(self) -> str:
        return self.put("z", np.uint8(self.rng.choice([0, 3, 128, 255])))

    def weight(self, out: int, k: int, taps: tuple[int, ...], *, symmetric: bool = False) -> tuple[str, str, str, bool]:
        """A quantised weight (out, k, taps): names of integers, scale and zero point, and whether they are per channel."""
        rng = self.rng
        per = bool(rng.integers(0, 2))
        z = rng.integers(-6, 7, out if per else 1).astype(np.int8) * (0 if symmetric else 1)
        w = rng.integers(-60, 60, (out, k, *taps)).astype(np.int8)
        full = np.broadcast_to(z.reshape(-1, *[1] * (w.ndim - 1)), w.shape)
        rows, columns = rng.random(out) < rng.choice([0, 0.3, 0.6]), rng.random(k) < rng.choice([0, 0.3, 0.6])
        w[rows] = full[rows]
        w[:, columns] = full[:, columns]
        near = rng.random(out) < 0.15
        w[near] = rng.choice([0, int(z[0])])
        s = rng.uniform(0.01, 0.03, out if per else 1).astype(np.float32)
        shape = (out,) if per else ()
        return self.put("w", w), self.put("ws", s.reshape(shape)), self.put("wz", z.astype(np.int8).reshape(shape)), per

    def bias(self, out: int) -> Any:
        rng = self.rng
        b = rng.integers(-3000, 3000, out).astype(np.int32)
        b[rng.random(out) < rng.choice([0.0, 0.5, 1.0])] = 0
        return b

    # -- layers ------------------------------------------------------------------------------------------------------
    def qdq(self, x: str, channels: int) -> tuple[str, int]:
        rng, out = self.rng, int(rng_choice(self.rng))
        taps = () if self.flat else (3, 3) if rng.random() < 0.5 else (1, 1)
        depthwise = not self.flat and rng.random() < 0.25
        group = channels if depthwise else 1
        if not self.flat and not depthwise and channels % 2 == 0 and out % 2 == 0 and rng.random() < 0.4:
            group = 2
        out = channels if depthwise else out
        w, s, z, per = self.weight(out, channels // group, taps, symmetric=True)
        d = self.emit(f"DequantizeLinear<axis=0>({w}, {s}, {z})" if per else f"DequantizeLinear({w}, {s}, {z})")
        b = ""
        if rng.random() < 0.7:
            sb = (
                np.broadcast_to(self.weights[s] * np.float32(0.1), (out,)) if per else self.weights[s] * np.float32(0.1)
            )
            q = self.put("b", self.bias(out))
            b = ", " + self.emit(
                f"DequantizeLinear{'<axis=0>' if per else ''}({q}, {self.put('bs', np.array(sb, np.float32))})"
            )
        if self.flat:
            y = self.emit(f"Gemm<transB=1>({x}, {d}{b})")
        else:
            pad = f"pads=[{', '.join([str(taps[0] // 2)] * 4)}], group={group}"
            y = self.emit(f"Conv<{pad}>({x}, {d}{b})")
        y = self.emit(f"{rng.choice(['Relu', 'Sigmoid', 'Identity', 'HardSwish'])}({y})")
        s, z = self.scale(), self.zero()
        return self.emit(f"DequantizeLinear({self.emit(f'QuantizeLinear({y}, {s}, {z})')}, {s}, {z})"), out

    def operators(self, x: tuple[str, str, str], channels: int) -> tuple[tuple[str, str, str], int]:
        rng, out = self.rng, int(rng_choice(self.rng))
        s, z = self.scale(), self.zero()
        if self.flat:
            w, ws, wz, _ = self.weight(out, channels, ())
            if rng.random() < 0.5:
                b = self.put("b", self.bias(out)) if rng.random() < 0.7 else ""
                y = self.emit(f"com.microsoft.QGemm<transB=1>({', '.join(x)}, {w}, {ws}, {wz}, {b}, {s}, {z})")
            else:
                self.weights[w] = self.weights[w].T.copy()
                y = self.emit(f"QLinearMatMul({', '.join(x)}, {w}, {ws}, {wz}, {s}, {z})")
            return (y, s, z), out
        taps = int(rng.choice([1, 3]))
        groups = [g for g in (1, 2, 3, channels) if channels % g == 0]
        group = int(rng.choice(groups)) if rng.random() < 0.5 else 1
        out = group * max(1, out // group) if group < channels or rng.random() < 0.3 else channels
        w, ws, wz, _ = self.weight(out, channels // group, (taps, taps))
        b = ", " + self.put("b", self.bias(out)) if rng.random() < 0.7 else ""
        pad = taps // 2
        y = self.emit(
            f"QLinearConv<group={group}, pads=[{pad},{pad},{pad},{pad}]>({', '.join(x)}, {w}, {ws}, {wz}, {s}, {z}{b})"
        )
        return (y, s, z), out

    def between(self, x: tuple[str, str, str], channels: int) -> tuple[tuple[str, str, str], int]:
        """Quantised operators that keep channels apart."""
        rng = self.rng
        s, z = self.scale(), self.zero()
        args = ", ".join(x)
        kind = rng.choice(["leaky", "sigmoid", "double", "gate", "join", "branch"])
        if kind == "leaky":
            return (self.emit(f"com.microsoft.QLinearLeakyRelu<alpha=0.2>({args}, {s}, {z})"), s, z), channels
        if kind == "sigmoid":
            return (self.emit(f"com.microsoft.QLinearSigmoid({args}, {s}, {z})"), s, z), channels
        if kind == "double":
            return (self.emit(f"com.microsoft.QLinearAdd({args}, {args}, {s}, {z})"), s, z), channels
        if kind == "gate":
            shape = (channels,) if self.flat else (channels, 1, 1)
            gz = int(rng.integers(0, 9))
            gate = rng.integers(0, 255, shape).astype(np.uint8)
            gate[rng.random(channels) < 0.4] = gz
            other = f"{self.put('g', gate)}, {self.scale()}, {self.put('z', np.uint8(gz))}"
            return (self.emit(f"com.microsoft.QLinearMul({args}, {other}, {s}, {z})"), s, z), channels
        other, more = self.operators(x, channels)
        if kind == "join":
            return (
                self.emit(f"com.microsoft.QLinearConcat<axis=1>({s}, {z}, {args}, {', '.join(other)})"),
                s,
                z,
            ), channels + more
        if more != channels:
            return other, more
        return (self.emit(f"com.microsoft.QLinearAdd({args}, {', '.join(other)}, {s}, {z})"), s, z), channels

    def dynamic(self, x: str, channels: int) -> tuple[str, int]:
        rng, out = self.rng, int(rng_choice(self.rng))
        w, s, z, _ = self.weight(out, channels, ())
        self.weights[w] = self.weights[w].T.copy()
        kind = rng.choice(["integer", "fused", "float"])
        b = rng.standard_normal(out).astype(np.float32)
        b[rng.random(out) < 0.6] = 0
        bias = self.put("b", b)
        if kind == "fused":
            y = self.emit(f"com.microsoft.DynamicQuantizeMatMul({x}, {w}, {s}, {z}, {bias})")
        else:
            q, qs, qz = self.name("q"), self.name("qs"), self.name("qz")
            self.lines.append(f"{q}, {qs}, {qz} = DynamicQuantizeLinear({x})")
            if kind == "float":
                y = self.emit(f"com.microsoft.MatMulIntegerToFloat({q}, {w}, {qs}, {s}, {qz}, {z}, {bias})")
            else:
                i = self.emit(f"Cast<to=1>({self.emit(f'MatMulInteger({q}, {w}, {qz}, {z})')})")
                y = self.emit(f"Mul({i}, {self.emit(f'Mul({qs}, {s})')})")
                y = self.emit(f"Add({y}, {bias})") if rng.random() < 0.5 else y
        return self.emit(f"{rng.choice(['Relu', 'Identity', 'Tanh'])}({y})"), out

    # -- the whole ---------------------------------------------------------------------------------------------------
    def build(self) -> str:
        rng, channels, space = self.rng, 6, "" if self.flat else ",5,5"
        depth = int(rng.integers(2, 5))
        if self.style == "dynamic":
            x = "x"
            for _ in range(depth):
                x, channels = self.dynamic(x, channels)
            return self.model("float[3,6] x", f"float[3,{channels}]", x)
        if self.style == "qdq":
            s, z = self.put("s", np.float32(0.1)), self.put("z", np.uint8(128))
            x = self.emit(f"DequantizeLinear({self.emit(f'QuantizeLinear(x, {s}, {z})')}, {s}, {z})")
            for _ in range(depth):
                x, channels = self.qdq(x, channels)
            return self.model(f"float[3,6{space}] x", f"float[3,{channels}{space}]", x)
        q = ("x", self.put("s", np.float32(0.1)), self.put("z", np.uint8(128)))
        for _ in range(depth):
            q, channels = self.operators(q, channels)
            if rng.random() < 0.5:
                q, channels = self.between(q, channels)
        q, channels = self.operators(q, channels)
        return self.model(f"uint8[3,6{space}] x", f"uint8[3,{channels}{space}]", q[0])

    def model(self, head: str, out: str, last: str) -> str:
        return f"({head}) => ({out} y) {{ {'  '.join(self.lines)}  y = Identity({last}) }}"


def rng_choice(rng: Any) -> int:
    return int(rng.choice([1, 2, 3, 4, 6, 8]))


@pytest.mark.parametrize("seed", range(COUNT))
def test_random_quantized(seed: int) -> None:
    network = Network(seed)
    text = network.build()
    check(
        text, network.weights, tolerance=2e-6 if network.style != "dynamic" else 2e-5, optimised=network.style != "qdq"
    )


def test_something_leaves() -> None:
    """The networks are not vacuous: numbers leave most of them."""
    before = after = smaller = 0
    for seed in range(60):
        network = Network(seed)
        small = check(network.build(), network.weights, tolerance=2e-5, optimised=False)
        old, new = (
            sum(w.size for w in network.weights.values()),
            sum(int(np.prod(s)) for s in shapes_of(small).values()),
        )
        before, after, smaller = before + old, after + new, smaller + (new < old)
    assert smaller >= 40 and after < 0.8 * before, (smaller, after, before)
