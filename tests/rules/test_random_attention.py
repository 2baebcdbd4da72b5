"""Random attention graphs with random masks, in ONNX Runtime: the same function, whatever leaves.

Set ONNXDAM_FUZZ to a number of graphs for a longer run.
"""

from __future__ import annotations

import os
from typing import Any

import numpy as np
import pytest

from tests.rules.runtime_case import check, shapes_of

COUNT = int(os.environ.get("ONNXDAM_FUZZ", "60"))


class Graph:
    """One random attention layer behind projections, with whatever its kind allows around it."""

    def __init__(self, seed: int) -> None:
        self.rng = rng = np.random.default_rng(seed)
        self.kind = str(rng.choice(["mha", "packed", "gqa", "standard", "four"]))
        self.groups = int(rng.integers(1, 4))
        self.heads = self.groups * int(rng.integers(1, 4)) if self.kind in ("gqa", "standard", "four") else self.groups
        self.depth = int(rng.choice([1, 2, 3, 4, 8])) if self.kind != "gqa" else 16
        self.width = int(rng.choice([1, 2, 3, 5])) if self.kind != "gqa" else 16
        self.rotary = self.kind in ("gqa", "standard", "mha") and self.depth % 2 == 0 and bool(rng.integers(0, 2))
        self.opset = 23 if self.kind in ("standard", "four") else 17
        self.weights: dict[str, Any] = {}
        self.feeds: dict[str, Any] = {"x": rng.standard_normal((2, 5, 7)).astype("f")}
        self.lines: list[str] = []
        self.head = "float[2,5,7] x"
        self.tail = ""  # further outputs

    def sizes(self) -> dict[str, tuple[int, int]]:
        return dict(
            q=(self.heads, self.depth),
            k=(self.groups, self.depth),
            v=(self.groups, self.width),
            o=(self.heads, self.width),
        )

    def dead(self, heads: int, dims: int) -> Any:
        """A random set of hidden slots: whole heads, whole dimensions, single slots."""
        rng = self.rng
        mask = np.zeros((heads, dims), bool)
        if rng.random() < 0.6:
            mask[rng.random(heads) < rng.choice([0.2, 0.5, 0.8, 1.0])] = True
        if rng.random() < 0.6:
            mask[:, rng.random(dims) < rng.choice([0.2, 0.5, 1.0])] = True
        if rng.random() < 0.4:
            mask |= rng.random(mask.shape) < 0.3
        return mask.reshape(-1)

    def project(self, role: str, bias: bool) -> None:
        """role = x W + b, with dead slots; sometimes only W or b is dead there, sometimes b is a constant."""
        rng, (h, d) = self.rng, self.sizes()[role]
        w, b = rng.standard_normal((7, h * d)).astype("f") / 2, rng.standard_normal(h * d).astype("f")
        dead = self.dead(h, d)
        w[:, dead] = 0
        if rng.random() < 0.7:
            b[dead] = 0
        self.weights[f"w{role}"] = w
        if bias:
            self.weights[f"b{role}"] = b
            self.lines += [f"{role}0 = MatMul(x, w{role})", f"{role} = Add({role}0, b{role})"]
        else:
            self.lines.append(f"{role} = MatMul(x, w{role})")

    def finish(self) -> None:
        h, e = self.sizes()["o"]
        wo = self.rng.standard_normal((h * e, 4)).astype("f")
        if self.rng.random() < 0.7:
            wo[self.dead(h, e)] = 0
        self.weights["wo"] = wo
        self.lines.append("y = MatMul(a, wo)")

    def scale(self) -> str:
        return str(self.rng.choice(["", ", scale=0.7"]))

    def mask(self, causal: bool) -> str:
        """An additive mask of random rank and random broadcasting, or none."""
        rng = self.rng
        if rng.random() < 0.5:
            return ""
        shape = [int(rng.choice([1, 2])), int(rng.choice([1, self.heads])), 5, 5]
        if causal and rng.random() < 0.5:
            shape = shape[int(rng.integers(1, 3)) :]
        self.weights["mask"] = rng.standard_normal(shape).astype("f")
        return "mask"

    def cache(self, depth: int, width: int) -> tuple[str, str]:
        """Past keys and values as inputs, present ones as outputs: arguments and results."""
        if self.rng.random() < 0.7:
            return "", ""
        g = self.groups
        self.head += f", float[2,{g},3,{depth}] pk, float[2,{g},3,{width}] pv"
        for name, size in (("pk", depth), ("pv", width)):
            self.feeds[name] = self.rng.standard_normal((2, g, 3, size)).astype("f")
        if self.rng.random() < 0.7:
            self.tail = f", float[2,{g},8,{depth}] nk, float[2,{g},8,{width}] nv"
        return "pk, pv", ", nk, nv"

    def build(self) -> str:
        getattr(self, self.kind)()
        self.finish()
        return f"({self.head}) => (float[2,5,4] y{self.tail}) {{ {'  '.join(self.lines)} }}"

    def rotate(self, roles: str, domain: str) -> None:
        if not self.rotary:
            return
        angle = np.outer(np.arange(8), 3.0 ** -np.arange(self.depth // 2)).astype("f")
        self.weights |= dict(cos=np.cos(angle), sin=np.sin(angle), pos=np.tile(np.arange(5), (2, 1)))
        interleaved = int(self.rng.integers(0, 2))
        for role in roles:
            n = self.sizes()[role][0]
            args = "cos, sin, pos" if not domain else "pos, cos, sin"
            self.lines.append(
                f"{role}r = {domain}RotaryEmbedding<num_heads={n}, interleaved={interleaved}>({role}, {args})"
            )

    def mha(self) -> None:
        for role in "qkv":
            self.project(role, bool(self.rng.integers(0, 2)))
        self.rotate("qk", "com.microsoft.")
        r = "r" if self.rotary else ""
        bias = ""
        if self.rng.random() < 0.5:
            bias = "b"
            n = self.heads * (2 * self.depth + self.width)
            self.weights["b"] = self.rng.standard_normal(n).astype("f") * (self.rng.random(n) < 0.4)
        past, now = self.cache(self.depth, self.width) if self.depth == self.width else ("", "")
        mask = "" if past else self.mask(False)
        causal = f", unidirectional={int(self.rng.integers(0, 2))}"
        self.lines.append(
            f"a{now} = com.microsoft.MultiHeadAttention<num_heads={self.heads}{self.scale()}{causal}>(q{r}, k{r}, v, {bias}, , {mask}, {past or ', '})"
        )

    def packed(self) -> None:
        rng, h, d, e = self.rng, self.heads, self.depth, self.width
        n = h * (2 * d + e)
        w, b = rng.standard_normal((6, n)).astype("f") / 2, rng.standard_normal(n).astype("f")
        dead = np.concatenate([self.dead(h, d), self.dead(h, d), self.dead(h, e)])
        w[:, dead] = 0
        if rng.random() < 0.7:
            b[dead] = 0
        u, c = rng.standard_normal((7, 6)).astype("f"), rng.standard_normal(6).astype("f")
        u[:, rng.random(6) < 0.3] = 0
        self.weights |= dict(w=w, b=b, u=u, c=c)
        self.lines += ["i0 = MatMul(x, u)", "i = Add(i0, c)"]
        sizes = f", qkv_hidden_sizes=[{h * d}, {h * d}, {h * e}]" if d != e or rng.random() < 0.5 else ""
        self.lines.append(f"a = com.microsoft.Attention<num_heads={h}{sizes}{self.scale()}>(i, w, b)")

    def gqa(self) -> None:
        for role in "qkv":
            self.project(role, bool(self.rng.integers(0, 2)))
        rotary = ""
        if self.rotary:
            angle = np.outer(np.arange(8), 3.0 ** -np.arange(8)).astype("f")
            self.weights |= dict(cos=np.cos(angle), sin=np.sin(angle))
            rotary = ", cos, sin"
        self.head += ", int32[2] last, int32 total"
        if self.rng.random() < 0.2:
            self.tail = f", float[2,{self.groups},5,16] nk, float[2,{self.groups},5,16] nv"
        self.feeds |= dict(last=np.full(2, 4, np.int32), total=np.array(5, np.int32))
        names = "q, k, v"
        if self.rng.random() < 0.4:
            self.lines.append("qkv = Concat<axis=-1>(q, k, v)")
            names = "qkv, , "
        self.lines.append(
            f"a, nk, nv = com.microsoft.GroupQueryAttention<num_heads={self.heads}, kv_num_heads={self.groups}, do_rotary={int(self.rotary)}{self.scale()}>"
            f"({names}, , , last, total{rotary})"
        )

    def standard(self) -> None:
        for role in "qkv":
            self.project(role, bool(self.rng.integers(0, 2)))
        self.rotate("qk", "")
        r = "r" if self.rotary else ""
        extra = self.scale() + str(self.rng.choice(["", ", is_causal=1", ", softcap=1.5"]))
        past, now = self.cache(self.depth, self.width)
        mask = "" if "causal" in extra or past else self.mask(True)
        self.lines.append(
            f"a{now} = Attention<q_num_heads={self.heads}, kv_num_heads={self.groups}{extra}>(q{r}, k{r}, v, {mask}, {past or ', '})"
        )

    def four(self) -> None:
        for role in "qkv":
            self.project(role, bool(self.rng.integers(0, 2)))
            h, d = self.sizes()[role]
            self.weights[f"s{role}"] = np.array([0, 0, h, d])
            self.lines += [f"{role}4 = Reshape({role}, s{role})", f"{role}t = Transpose<perm=[0,2,1,3]>({role}4)"]
        h, e = self.sizes()["o"]
        self.weights["so"] = np.array([0, 0, h * e])
        self.lines += [
            f"a4 = Attention<softcap=0.0{self.scale()}>(qt, kt, vt, {self.mask(True)})",
            "a5 = Transpose<perm=[0,2,1,3]>(a4)",
            "a = Reshape(a5, so)",
        ]


@pytest.mark.parametrize("seed", range(COUNT))
def test_random_attention(seed: int) -> None:
    graph = Graph(seed)
    text = graph.build()
    check(text, graph.weights, opset=graph.opset, tolerance=2e-5, feeds=graph.feeds)


def test_something_leaves() -> None:
    """The graphs are not vacuous: numbers leave most of them."""
    before = after = smaller = 0
    for seed in range(0, 40):
        graph = Graph(seed)
        text = graph.build()
        small = check(text, graph.weights, opset=graph.opset, tolerance=2e-5, feeds=graph.feeds, optimised=False)
        old, new = sum(w.size for w in graph.weights.values()), sum(int(np.prod(s)) for s in shapes_of(small).values())
        before, after, smaller = before + old, after + new, smaller + (new < old)
    assert smaller >= 25 and after < 0.8 * before, (smaller, after, before)
