"""Reductions: which slots a reduced axis may lose, and where the factor of a mean goes."""

from __future__ import annotations

import numpy as np
import pytest

from tests.handmade.toolkit import Trap, s_

WIDE = {"W1": (6, 3, 1, 1), "W2": (2, 6, 1, 1)}
HEAD = "(double[N,3,4,5] x) => (double[N,2,D,E] y) { a = Conv(x, W1) "
POOLED = {"W1": (4, 3, 1, 1), "W2": (2, 4, 1, 1)}


def spatial(kind: str, body: str, opset: int = 18, **options: object) -> Trap:
    """A reduction over positions between two convolutions: the channels correspond."""
    return Trap(
        kind,
        HEAD + body + " }",
        weights={**WIDE, "axes": np.array([2, -1])},
        zero={"W1": s_[[1, 4]]},
        narrow=POOLED,
        opset=opset,
        **options,
    )  # type: ignore[arg-type]


SPATIAL = [
    spatial(kind, f"b = {kind}(a, axes) y = Conv(b, W2)")
    for kind in (
        "ReduceMean",
        "ReduceSum",
        "ReduceMax",
        "ReduceMin",
        "ReduceL1",
        "ReduceL2",
        "ReduceSumSquare",
        "ReduceProd",
    )
]
OLD = [
    Trap(
        f"{kind} before opset 18",
        HEAD + f"r = Exp(a) b = {kind}<axes = [2, 3]>(r) y = Conv(b, W2) }}",
        weights=WIDE,
        zero={"W2": s_[:, [1, 4]]},
        narrow=POOLED,
        opset=13,
    )
    for kind in ("ReduceMean", "ReduceMax", "ReduceLogSum", "ReduceLogSumExp")
]
FLAT = Trap(
    "keepdims 0",
    "(double[N,3,4,5] x) => (double[N,2] y) { a = Conv(x, W1) r = Relu(a) b = ReduceMean<keepdims = 0, axes = [2, 3]>(r) y = MatMul(b, M) }",
    weights={"W1": (6, 3, 1, 1), "M": (6, 2)}, zero={"W1": s_[[0, 5]]}, narrow={"W1": (4, 3, 1, 1), "M": (4, 2)}, opset=13,
)  # fmt: skip
MATRIX = "(double[N,3] x) => (double[N,K] y) { a = MatMul(x, W) "


def across(
    kind: str, *, width: int, opset: int = 18, body: str = "", zero: object = None, weights: object = None
) -> Trap:
    """A reduction over the channels: what adds nothing leaves."""
    return Trap(
        f"{kind} {body}",
        MATRIX + (body or f"y = {kind}(a, axes)") + " }",
        weights={"W": (3, 6), "axes": np.array([1]), **(weights or {})},  # type: ignore[dict-item]
        zero=zero or {"W": s_[:, [1, 4]]},
        narrow={"W": (3, width)},
        opset=opset,
        extra=0,
        at_most=6,
    )  # type: ignore[arg-type]


ACROSS = [
    *(across(kind, width=4) for kind in ("ReduceSum", "ReduceL1", "ReduceL2", "ReduceSumSquare", "ReduceMean")),
    *(across(kind, width=6) for kind in ("ReduceMax", "ReduceMin", "ReduceLogSumExp", "ReduceProd")),
    across("ReduceMax", width=4, body="r = Relu(a) y = ReduceMax(r, axes)"),
    across("ReduceMin", width=6, body="r = Relu(a) y = ReduceMin(r, axes)"),
    across("ReduceMean", width=4, body="m = ReduceMean(a, axes) y = Div(m, c)", weights={"c": np.array([2.0])}),
    across(
        "ReduceMean",
        width=4,
        body="q = Mul(a, a) m = ReduceMean(q, axes) n = Sqrt(m) y = Mul(n, c)",
        weights={"c": np.array([2.0])},
    ),
    across(
        "ReduceMean",
        width=4,
        body="q = Mul(a, a) m = ReduceMean(q, axes) n = Add(m, c) y = Div(c, n)",
        weights={"c": np.array([2.0])},
    ),
    across(
        "ReduceMean",
        width=4,
        body="m = ReduceMean(a, axes) n = Add(m, c) y = Add(m, n)",
        weights={"c": np.array([2.0])},
    ),
    across("ReduceMean", width=6, body="m = ReduceMean(a, axes) d = Sub(a, m) q = Mul(d, d) y = ReduceMean(q, axes)"),
]


@pytest.mark.parametrize("trap", [*SPATIAL, *OLD, FLAT, *ACROSS], ids=str)
def test_reduce(trap: Trap) -> None:
    trap.check()


RMS = {
    "Div": "q = Pow(a, two) m = ReduceMean<axes = [-1]>(q) e = Add(m, eps) s = Sqrt(e) n = Div(a, s)",
    "Reciprocal": "q = Mul(a, a) m = ReduceMean<axes = [-1]>(q) e = Add(eps, m) s = Sqrt(e) r = Reciprocal(s) n = Mul(a, r)",
    "one over": "q = Mul(a, a) m = ReduceMean<axes = [-1]>(q) e = Add(eps, m) s = Sqrt(e) r = Div(one, s) n = Mul(r, a)",
    "Pow": "q = Pow(a, two) m = ReduceMean<axes = [-1]>(q) e = Add(m, eps) r = Pow(e, half) n = Mul(a, r)",
}


@pytest.mark.parametrize("form", RMS)
@pytest.mark.parametrize("gain", [True, False])
def test_decomposed_rms_norm(form: str, gain: bool) -> None:
    """Exact, and with no node more."""
    tail = "g = Mul(n, gamma) y = MatMul(g, M) }" if gain else "y = MatMul(n, M) }"
    trap = Trap(
        form, "(double[N,T,3] x) => (double[N,T,2] y) { a = MatMul(x, W) " + RMS[form] + tail,
        weights={"W": (3, 8), "M": (8, 2), "gamma": (8,), "two": 2.0, "eps": 0.3, "one": 1.0, "half": -0.5}, zero={"W": s_[:, [0, 3, 6]]},
        narrow={"W": (3, 5), "M": (5, 2), "gamma": (5,)} if gain else {"W": (3, 5), "M": (5, 2), "gamma": ()}, opset=17,
    )  # fmt: skip
    outcome = trap.check()
    assert outcome.nodes_after == outcome.nodes_before


@pytest.mark.parametrize("gain", [[0, 3, 6], [0, 1, 3, 6]], ids=["gain masked too", "gain masked further"])
def test_gain_of_a_norm_is_no_gate(gain: list[int]) -> None:
    """Nothing but zeros stops at the gain: the norm keeps it, so that runtimes still find the norm."""
    trap = Trap(
        "gain", "(double[N,T,3] x) => (double[N,T,2] y) { a = MatMul(x, W) " + RMS["Div"] + " g = Mul(n, gamma) y = MatMul(g, M) }",
        weights={"W": (3, 8), "M": (8, 2), "gamma": (8,), "two": 2.0, "eps": 0.3}, zero={"W": s_[:, [0, 3, 6]], "gamma": s_[gain]},
        narrow={"W": (3, 5), "M": (5, 2), "gamma": (5,)}, opset=17,
    )  # fmt: skip
    outcome = trap.check()
    assert outcome.nodes_after == outcome.nodes_before
