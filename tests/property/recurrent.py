"""LSTM, GRU and RNN for the ONNX reference evaluator, with everything the specification allows.

onnx's own reference cells ignore sequence_lens, activations, clip and input_forget. These follow the operator text, in
the type of their input, and `test_oracle.py` compares them with ONNX Runtime.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from onnx.reference.op_run import OpRun

Array = np.ndarray[Any, Any]
Activation = Callable[[Array], Array]


def sigmoid(x: Array) -> Array:
    return 1 / (1 + np.exp(-x))


def activation(name: str, alpha: float | None, beta: float | None) -> Activation:
    """An activation function by its ONNX name (any case)."""
    a = {"leakyrelu": 0.01, "thresholdedrelu": 1.0, "elu": 1.0, "hardsigmoid": 0.2}.get(name.lower(), 1.0)
    a = a if alpha is None else alpha
    c = 0.5 if beta is None else beta
    table: dict[str, Activation] = {
        "sigmoid": sigmoid,
        "tanh": np.tanh,
        "relu": lambda x: np.maximum(x, 0),
        "affine": lambda x: a * x + (0.0 if beta is None else beta),
        "leakyrelu": lambda x: np.where(x < 0, a * x, x),
        "thresholdedrelu": lambda x: np.where(x >= a, x, 0),
        "scaledtanh": lambda x: a * np.tanh(c * x),
        "hardsigmoid": lambda x: np.clip(a * x + c, 0, 1),
        "elu": lambda x: np.where(x < 0, a * (np.exp(np.minimum(x, 0)) - 1), x),
        "softsign": lambda x: x / (1 + np.abs(x)),
        "softplus": lambda x: np.logaddexp(x, 0),
    }
    return table[name.lower()]


def activations_of(
    names: Sequence[str] | None, alphas: Sequence[float] | None, betas: Sequence[float] | None, default: Sequence[str]
) -> list[Activation]:
    """The functions of all directions; alphas and betas are consumed in order by the functions that take them."""
    takes_alpha = {"affine", "leakyrelu", "thresholdedrelu", "scaledtanh", "hardsigmoid", "elu"}
    takes_beta = {"affine", "scaledtanh", "hardsigmoid"}
    left_alpha, left_beta = list(alphas or []), list(betas or [])
    found = []
    for name in names or default:
        a = left_alpha.pop(0) if name.lower() in takes_alpha and left_alpha else None
        c = left_beta.pop(0) if name.lower() in takes_beta and left_beta else None
        found.append(activation(name, a, c))
    return found


class _Cell(OpRun):  # type: ignore[misc]
    """Runs the directions; subclasses give one step."""

    op_domain = ""
    gates = 1
    default: tuple[str, ...] = ()

    def step(self, x: Array, h: Array, c: Array, f: list[Activation], w: dict[str, Array]) -> tuple[Array, Array]:
        raise NotImplementedError

    def _run(self, X, W, R, B=None, sequence_lens=None, initial_h=None, initial_c=None, P=None, **attrs: Any):  # type: ignore[no-untyped-def]
        self.attrs = attrs
        batch_first = bool(attrs.get("layout"))
        if batch_first:
            X = np.swapaxes(X, 0, 1)
            initial_h = None if initial_h is None else np.swapaxes(initial_h, 0, 1)
            initial_c = None if initial_c is None else np.swapaxes(initial_c, 0, 1)
        steps, batch, _ = X.shape
        dirs, hidden = W.shape[0], R.shape[2]
        lens = np.full(batch, steps) if sequence_lens is None else np.asarray(sequence_lens)
        functions = activations_of(
            attrs.get("activations"), attrs.get("activation_alpha"), attrs.get("activation_beta"), self.default * dirs
        )
        per = len(self.default)
        Y = np.zeros((steps, dirs, batch, hidden), X.dtype)
        ends = []
        for d in range(dirs):
            reverse = attrs.get("direction") == "reverse" or d == 1
            weights = {
                "W": W[d], "R": R[d],
                "B": np.zeros(2 * self.gates * hidden, X.dtype) if B is None else B[d],
                "P": np.zeros(3 * hidden, X.dtype) if P is None else P[d],
            }  # fmt: skip
            h = np.zeros((batch, hidden), X.dtype) if initial_h is None else initial_h[d]
            c = np.zeros((batch, hidden), X.dtype) if initial_c is None else initial_c[d]
            for k in range(steps):
                live = (k < lens)[:, None]
                at = np.where(k < lens, lens - 1 - k, k) if reverse else np.full(batch, k)
                new_h, new_c = self.step(X[at, np.arange(batch)], h, c, functions[d * per : (d + 1) * per], weights)
                h, c = np.where(live, new_h, h), np.where(live, new_c, c)
                Y[at, d, np.arange(batch)] = np.where(live, h, 0)
            ends.append((h, c))
        last_h, last_c = np.stack([e[0] for e in ends]), np.stack([e[1] for e in ends])
        if batch_first:
            Y, last_h, last_c = Y.transpose(2, 0, 1, 3), np.swapaxes(last_h, 0, 1), np.swapaxes(last_c, 0, 1)
        outputs = (Y, last_h, last_c)[: 3 if type(self).__name__ == "LSTM" else 2]
        return tuple(o.astype(X.dtype) for o in outputs)

    def limited(self, *values: Array) -> list[Array]:
        limit = self.attrs.get("clip")
        return [v if not limit else np.clip(v, -limit, limit) for v in values]


class LSTM(_Cell):
    gates = 4
    default = ("Sigmoid", "Tanh", "Tanh")

    def step(self, x, h, c, f, w):  # type: ignore[no-untyped-def]
        p_i, p_o, p_f = np.split(w["P"], 3)
        i, o, forget, g = np.split(x @ w["W"].T + h @ w["R"].T + np.add(*np.split(w["B"], 2)), 4, -1)
        i, forget, g = self.limited(i + p_i * c, forget + p_f * c, g)
        i = f[0](i)
        forget = 1 - i if self.attrs.get("input_forget") else f[0](forget)
        new_c = forget * c + i * f[1](g)
        (o,) = self.limited(o + p_o * new_c)
        return f[0](o) * f[2](new_c), new_c


class GRU(_Cell):
    gates = 3
    default = ("Sigmoid", "Tanh")

    def step(self, x, h, c, f, w):  # type: ignore[no-untyped-def]
        n = h.shape[1]
        wb, rb = np.split(w["B"], 2)
        xw, hr = x @ w["W"].T + wb, h @ w["R"].T + rb
        z, r = self.limited(xw[:, :n] + hr[:, :n], xw[:, n : 2 * n] + hr[:, n : 2 * n])
        z, r = f[0](z), f[0](r)
        if self.attrs.get("linear_before_reset"):
            g = xw[:, 2 * n :] + r * hr[:, 2 * n :]
        else:
            g = xw[:, 2 * n :] + (r * h) @ w["R"][2 * n :].T + rb[2 * n :]
        (g,) = self.limited(g)
        return (1 - z) * f[1](g) + z * h, c


class RNN(_Cell):
    gates = 1
    default = ("Tanh",)

    def step(self, x, h, c, f, w):  # type: ignore[no-untyped-def]
        (g,) = self.limited(x @ w["W"].T + h @ w["R"].T + np.add(*np.split(w["B"], 2)))
        return f[0](g), c
