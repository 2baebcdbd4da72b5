"""LSTM, GRU and RNN: which hidden units, inputs and directions leave, and that the rest computes the same."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
import onnx.parser
import pytest
from onnx import helper, numpy_helper

import onnxdam
from tests.handmade.toolkit import Trap, s_
from tests.models import parsed
from tests.property.builder import Case
from tests.property.properties import check_slim
from tests.property.subject import slim

GATES = {"LSTM": 4, "GRU": 3, "RNN": 1}
CANDIDATE = {"LSTM": 3, "GRU": 2, "RNN": 0}
N_IN, H = 3, 5  # inputs, hidden units


def rows(cell: str, *units: int, hidden: int = H, gates: Any = None, blocks: int = 1) -> list[int]:
    """Rows of W and R (of B with 2 blocks) that belong to these units, in all gates or those given."""
    count = GATES[cell]
    chosen = range(count) if gates is None else gates
    return [(b * count + g) * hidden + u for b in range(blocks) for g in chosen for u in units]


def weights(cell: str, hidden: int = H, directions: int = 1, **others: Any) -> dict[str, Any]:
    g = GATES[cell]
    return {
        "W": (directions, g * hidden, N_IN), "R": (directions, g * hidden, hidden), "B": (directions, 2 * g * hidden),
        "V": (directions * hidden, 2), **others,
    }  # fmt: skip


def shapes(cell: str, hidden: int, inputs: int = N_IN, directions: int = 1) -> dict[str, tuple[int, ...]]:
    return weights(cell, hidden, directions) | {"W": (directions, GATES[cell] * hidden, inputs)}


def one(
    name: str, cell: str, inside: str = "", *, head: str = "s = Squeeze(y, one) z = MatMul(s, V)", **options: Any
) -> Trap:
    """A single unidirectional cell between an input and a matrix product."""
    text = f"(double[T,N,{N_IN}] x) => (double[T,N,2] z) {{ y = {cell}<hidden_size = {H}{inside}>(x, W, R, B) {head} }}"
    options["weights"] = weights(cell, one=np.array([1])) | options.get("weights", {})
    return Trap(name, text, **options)


def dead(cell: str, *units: int, gates: Any = None) -> dict[str, Any]:
    """The mask of a unit that stays zero."""
    at = rows(cell, *units, gates=gates)
    return {"W": s_[:, at], "R": s_[:, at], "B": s_[:, rows(cell, *units, gates=gates, blocks=2)]}


CELLS = ("LSTM", "GRU", "RNN")
TRAPS = [
    *(one(f"{c} zero units", c, zero=dead(c, 1, 3), narrow=shapes(c, 3)) for c in CELLS),
    *(one(f"{c} zero candidates", c, zero=dead(c, 1, 3, gates=[CANDIDATE[c]]), narrow=shapes(c, 3)) for c in CELLS),
    *(one(f"{c} another gate is zero", c, zero=dead(c, 1, gates=[0]), kept=True) for c in ("LSTM", "GRU")),
    *(one(f"{c} unread units", c, zero={"V": s_[[1, 3]], "R": s_[:, :, [1, 3]]}, narrow=shapes(c, 3)) for c in CELLS),
    *(one(f"{c} units read by the recurrence", c, zero={"V": s_[[1, 3]]}, kept=True) for c in CELLS),
    *(one(f"{c} units read by units that leave", c,
          zero={"V": s_[[1, 3]], "R": [s_[:, rows(c, 0, 2, 4), 1], s_[:, rows(c, 0, 2, 4), 3]]},
          narrow=shapes(c, 3)) for c in CELLS),
    *(one(f"{c} unread inputs", c, zero={"W": s_[:, :, 1]}, kept=True) for c in CELLS),
    *(one(f"{c} a bias keeps a unit from zero", c, zero={"W": s_[:, rows(c, 1)], "R": s_[:, rows(c, 1)]}, kept=True)
      for c in ("LSTM", "GRU")),
    one("RNN unit that is a constant is read by itself only later", "RNN",
        zero={"W": s_[:, 1], "R": [s_[:, 1], s_[:, :, 1]]}, narrow=shapes("RNN", 4),
        head="s = Squeeze(y, one) m = MatMul(s, V) z = Add(m, v)", weights={"v": (2,)}),
    one("RNN unit that is a constant, but starts at zero", "RNN", zero={"W": s_[:, 1], "R": s_[:, 1]}, kept=True),
    one("LSTM sigmoid candidate", "LSTM", ', activations = ["Sigmoid", "Sigmoid", "Tanh"]', zero=dead("LSTM", 1), kept=True),
    one("LSTM sigmoid output", "LSTM", ', activations = ["Sigmoid", "Tanh", "Sigmoid"]', zero=dead("LSTM", 1), kept=True),
    one("LSTM relu, lower case", "LSTM", ', activations = ["sigmoid", "relu", "softsign"]', zero=dead("LSTM", 1),
        narrow=shapes("LSTM", 4)),
    one("LSTM affine candidate is not known to keep zero", "LSTM", ', activations = ["Sigmoid", "Affine", "Tanh"], '
        "activation_alpha = [0.5], activation_beta = [0.25]", zero=dead("LSTM", 1), kept=True),
    one("GRU softplus", "GRU", ', activations = ["Sigmoid", "Softplus"]', zero=dead("GRU", 1), kept=True),
    one("GRU reset behind", "GRU", ", linear_before_reset = 1", zero=dead("GRU", 1), narrow=shapes("GRU", 4)),
    one("LSTM clip and coupled gates", "LSTM", ", clip = 0.3, input_forget = 1", zero=dead("LSTM", 1), narrow=shapes("LSTM", 4)),
    one("RNN clip", "RNN", ", clip = 0.3", zero=dead("RNN", 1), narrow=shapes("RNN", 4)),
    one("GRU reverse", "GRU", ', direction = "reverse"', zero=dead("GRU", 1), narrow=shapes("GRU", 4)),
    one("everything is dead", "LSTM", zero=dead("LSTM", *range(H))),
]  # fmt: skip


@pytest.mark.parametrize("trap", TRAPS, ids=str)
def test_unidirectional(trap: Trap) -> None:
    trap.check()


def opposite_biases(cell: str, **options: Any) -> Trap:
    """Biases of W and R that cancel."""
    rng = np.random.default_rng(0)
    b = rng.normal(size=(1, 2 * GATES[cell] * H))
    b[:, rows(cell, 1, blocks=2)] = np.repeat([1.0, -1.0], GATES[cell])
    mask = dead(cell, 1)
    inside = options.pop("inside", "")
    return one(
        f"{cell}{inside} biases cancel",
        cell,
        inside,
        weights={"B": b},
        zero={"W": mask["W"], "R": mask["R"]},
        **options,
    )


@pytest.mark.parametrize("trap", [
    *(opposite_biases(c, narrow=shapes(c, 4)) for c in CELLS),
    opposite_biases("GRU", inside=", linear_before_reset = 1", kept=True),
], ids=str)  # fmt: skip
def test_biases_that_cancel(trap: Trap) -> None:
    trap.check()


def wired(name: str, text: str, cell: str = "LSTM", **options: Any) -> Trap:
    options["weights"] = weights(cell, one=np.array([1])) | options.get("weights", {})
    return Trap(name, text, **options)


SEQUENCE = f"(double[T,N,{N_IN}] x) => (double[T,N,2] z) {{ "
BOTH = (
    SEQUENCE + 'y = CELL<hidden_size = 5, direction = "bidirectional"INSIDE>(x, W, R, B) '
    "t = Transpose<perm = [0, 2, 1, 3]>(y) r = Reshape(t, to) z = MatMul(r, V) }"
)


def both(name: str, cell: str, inside: str = "", **options: Any) -> Trap:
    options["weights"] = weights(cell, directions=2, to=np.array([0, 0, -1])) | options.get("weights", {})
    return Trap(name, BOTH.replace("CELL", cell).replace("INSIDE", inside), **options)


def one_dead(cell: str, direction: int, *units: int) -> dict[str, Any]:
    mask = dead(cell, *units)
    return {k: (direction, v[1]) for k, v in mask.items()}


DIRECTIONS = [
    *(both(f"{c} zero in both directions", c, zero=dead(c, 1, 3), narrow=shapes(c, 3, directions=2)) for c in CELLS),
    *(both(f"{c} backwards direction is zero", c, zero=one_dead(c, 1, *range(H)), narrow=shapes(c, H)) for c in CELLS),
    both("forwards direction is unread", "GRU", zero={"V": s_[:5]}, narrow=shapes("GRU", H)),
    both("a direction with its own activations", "RNN", ', activations = ["Relu", "Tanh"]', zero={"V": s_[:5]},
         narrow=shapes("RNN", H)),
    both("activation parameters keep both directions", "RNN", ', activations = ["LeakyRelu", "LeakyRelu"], '
         "activation_alpha = [0.1, 0.2]", zero={"V": s_[:5]}, kept=True),
]  # fmt: skip


def each(cell: str, *units: tuple[int, ...]) -> dict[str, Any]:
    """Other units are dead in each direction."""
    masks = [one_dead(cell, d, *dead_units) for d, dead_units in enumerate(units)]
    return {k: [mask[k] for mask in masks] for k in masks[0]}


DIRECTIONS += [
    *(both(f"{c} other units in each direction", c, zero=each(c, (1, 3), (0, 4)), narrow=shapes(c, 3, directions=2)) for c in CELLS),
    both("more units in one direction", "GRU", zero=each("GRU", (1, 3, 4), (0,)), narrow=shapes("GRU", 4, directions=2)),
    both("unread in one, zero in the other direction", "LSTM", zero=one_dead("LSTM", 0, 1, 3) | {"V": s_[[5, 6]]} | {
        "R": [(0, rows("LSTM", 1, 3)), (1, slice(None), [0, 1])]}, narrow=shapes("LSTM", 3, directions=2)),
    both("other units, and the forwards direction is unread", "GRU", zero=each("GRU", (1,), (0, 2)) | {"V": s_[:5]},
         narrow=shapes("GRU", 3)),
    Trap("the merged axis is a graph output", f"(double[T,N,{N_IN}] x) => (double[T,N,10] r) {{ "
         'y = GRU<hidden_size = 5, direction = "bidirectional">(x, W, R, B) t = Transpose<perm = [0, 2, 1, 3]>(y) '
         "r = Reshape(t, to) }", weights={k: v for k, v in weights("GRU", directions=2, to=np.array([0, 0, -1])).items() if k != "V"},
         zero=each("GRU", (1, 3), (0, 4)), kept=True),
    Trap("both the merged axis and each direction are read", f"(double[T,N,{N_IN}] x) => (double[T,N,2] z, double[N,2] q) {{ "
         'y, h = GRU<hidden_size = 5, direction = "bidirectional">(x, W, R, B) t = Transpose<perm = [0, 2, 1, 3]>(y) '
         "r = Reshape(t, to) z = MatMul(r, V) a, b = Split<axis = 0>(h) c = Sub(a, b) d = Squeeze(c, nil) q = MatMul(d, U) }",
         weights=weights("GRU", directions=2, to=np.array([0, 0, -1]), nil=np.array([0]), U=(5, 2)),
         zero=each("GRU", (1, 3), (0, 3)), narrow=shapes("GRU", 4, directions=2) | {"U": (4, 2)}),
    Trap("constant inputs, other units, no bias", "(double[T,N,2] x) => (double[T,N,2] z) { a = MatMul(x, W0) c = Add(a, b0) "
         's = Relu(c) y = GRU<hidden_size = 5, direction = "bidirectional">(s, W, R) t = Transpose<perm = [0, 2, 1, 3]>(y) '
         "r = Reshape(t, to) z = MatMul(r, V) }",
         weights={k: v for k, v in weights("GRU", directions=2, to=np.array([0, 0, -1]), W0=(2, N_IN),
                                           b0=np.array([0.3, -0.2, 0.7])).items() if k != "B"},
         zero={k: v for k, v in each("GRU", (1, 3), (0, 4)).items() if k != "B"} | {"W0": s_[:, [0, 2]]},
         narrow=shapes("GRU", 3, 1, directions=2) | {"W0": (2, 1), "b0": (1,)}, extra=36),
]  # fmt: skip


@pytest.mark.parametrize("trap", DIRECTIONS, ids=str)
def test_directions(trap: Trap) -> None:
    trap.check()


CONSTANT_INPUT = (
    f"(double[T,N,2] x) => (double[T,N,2] z) {{ a = MatMul(x, W0) c = Add(a, b0) r = Relu(c) "
    f"y = LSTM<hidden_size = {H}>(r, W, R{{bias}}) s = Squeeze(y, one) z = MatMul(s, V) }}"
)
SURROUNDED = [
    wired("constant inputs move into the bias", CONSTANT_INPUT.replace("{bias}", ", B"),
          weights={"W0": (2, N_IN), "b0": np.array([0.3, -0.2, 0.7])}, zero={"W0": s_[:, [0, 2]]},
          narrow=shapes("LSTM", H, 1) | {"W0": (2, 1), "b0": (1,)}),
    wired("constant inputs make a bias", CONSTANT_INPUT.replace("{bias}", ""),
          weights={"W0": (2, N_IN), "b0": np.array([0.3, -0.2, 0.7])}, zero={"W0": s_[:, [0, 2]]},
          narrow=shapes("LSTM", H, 1) | {"W0": (2, 1), "b0": (1,), "B": ()}, extra=40),
    wired("inputs that nobody reads", CONSTANT_INPUT.replace("{bias}", ", B"), weights={"W0": (2, N_IN), "b0": (N_IN,)},
          zero={"W": s_[:, :, [0, 2]]}, narrow=shapes("LSTM", H, 1) | {"W0": (2, 1), "b0": (1,)}),
    wired("lengths", f"(double[T,N,{N_IN}] x, int32[N] n) => (double[T,N,2] z) {{ y = LSTM<hidden_size = {H}>(x, W, R, B, n) "
          "s = Squeeze(y, one) z = MatMul(s, V) }", zero=dead("LSTM", 1), narrow=shapes("LSTM", 4), ranges={"n": (1, 3)}),
    wired("a constant unit is zero beyond the length", f"(double[T,N,{N_IN}] x, int32[N] n) => (double[T,N,2] z) {{ "
          f"y = RNN<hidden_size = {H}>(x, W, R, B, n) s = Squeeze(y, one) z = MatMul(s, V) }}", "RNN",
          zero={"W": s_[:, 1], "R": [s_[:, 1], s_[:, :, 1]]}, kept=True, ranges={"n": (1, 3)}),
    wired("peepholes", SEQUENCE + f"y = LSTM<hidden_size = {H}>(x, W, R, B, , , , P) s = Squeeze(y, one) "
          "z = MatMul(s, V) }",
          weights={"P": (1, 3 * H)}, zero=dead("LSTM", 1), narrow=shapes("LSTM", 4) | {"P": (1, 12)}),
    wired("initial states that are zero in the dead unit", f"(double[T,2,{N_IN}] x) => (double[T,2,2] z) {{ "
          f"y = LSTM<hidden_size = {H}>(x, W, R, B, , h0, c0) s = Squeeze(y, one) z = MatMul(s, V) }}",
          weights={"h0": (1, 2, H), "c0": (1, 2, H)}, zero=dead("LSTM", 1, 3) | {"h0": s_[:, :, 1], "c0": s_[:, :, 1]},
          narrow=shapes("LSTM", 4) | {"h0": (1, 2, 4), "c0": (1, 2, 4)}),
    wired("two layers share an initial state of zeros", f"(double[T,2,{N_IN}] x) => (double[T,2,2] z) {{ "
          f"y = LSTM<hidden_size = {H}>(x, W, R, B, , zero, zero) s = Squeeze(y, one) "
          f"u = LSTM<hidden_size = {H}>(s, W2, R2, B2, , zero, zero) v = Squeeze(u, one) z = MatMul(v, V) }}",
          weights={"zero": np.zeros((1, 2, H)), "W2": (1, 4 * H, H), "R2": (1, 4 * H, H), "B2": (1, 8 * H)},
          zero=dead("LSTM", 1, 3), narrow=shapes("LSTM", 3) | {"V": (H, 2), "W2": (1, 4 * H, 3), "zero": ()}),
    wired("the state goes on to a decoder", f"(double[T,N,{N_IN}] x) => (double[T,N,2] z) {{ "
          f"y, h, c = LSTM<hidden_size = {H}>(x, W, R, B) u = LSTM<hidden_size = {H}>(x, W2, R2, B2, , h, c) "
          "v = Squeeze(u, one) z = MatMul(v, V) }", weights={"W2": (1, 4 * H, N_IN), "R2": (1, 4 * H, H), "B2": (1, 8 * H)},
          zero=dead("LSTM", 1, 3) | {f"{k}2": v for k, v in dead("LSTM", 1, 3).items()},
          narrow=shapes("LSTM", 3) | {f"{k}2": v for k, v in shapes("LSTM", 3).items()}),
    wired("an input decides the state", f"(double[T,N,{N_IN}] x, double[1,N,{H}] h) => (double[T,N,2] z) {{ "
          f"y = GRU<hidden_size = {H}>(x, W, R, B, , h) s = Squeeze(y, one) z = MatMul(s, V) }}", "GRU",
          zero=dead("GRU", 1), kept=True),
    wired("last state only", f"(double[T,N,{N_IN}] x) => (double[N,2] z) {{ e, h = GRU<hidden_size = {H}>(x, W, R, B) "
          "s = Squeeze(h, nil) z = MatMul(s, V) }", "GRU", weights={"nil": np.array([0])}, zero=dead("GRU", 1, 3),
          narrow=shapes("GRU", 3)),
    wired("batch first", f"(double[N,T,{N_IN}] x, double[N,1,{H}] h) => (double[N,T,2] z) {{ k = Mul(h, mask) "
          f"y, last = GRU<hidden_size = {H}, layout = 1>(x, W, R, B, , k) s = Squeeze(y, two) z = MatMul(s, V) }}", "GRU",
          weights={"mask": np.array([1.0, 0, 1, 0, 1]), "two": np.array([2])}, zero=dead("GRU", 3), kept=True),
    wired("batch first, nobody else decides", f"(double[N,T,{N_IN}] x) => (double[N,T,2] z) {{ "
          f"y, last = GRU<hidden_size = {H}, layout = 1>(x, W, R, B) s = Squeeze(y, two) z = MatMul(s, V) }}", "GRU",
          weights={"two": np.array([2])}, zero=dead("GRU", 3), narrow=shapes("GRU", 4)),
    wired("a gate behind", f"{SEQUENCE} y = LSTM<hidden_size = {H}>(x, W, R, B) s = Squeeze(y, one) g = Mul(s, gate) "
          "z = MatMul(g, V) }", weights={"gate": np.array([1.0, 0, 2, 0, 1])}, zero={"R": s_[:, :, [1, 3]]},
          narrow=shapes("LSTM", 3) | {"gate": ()}, no_ops="Mul"),
    wired("a gate in front", f"(double[T,N,2] x) => (double[T,N,2] z) {{ a = MatMul(x, W0) b = Tanh(a) g = Mul(b, gate) "
          f"y = LSTM<hidden_size = {H}>(g, W, R, B) s = Squeeze(y, one) z = MatMul(s, V) }}",
          weights={"W0": (2, N_IN), "gate": np.array([3.0, 0, 2])}, narrow=shapes("LSTM", H, 2) | {"W0": (2, 2), "gate": ()},
          no_ops="Mul"),
    wired("weights computed at run time", f"(double[T,N,{N_IN}] x, double w) => (double[T,N,2] z) {{ s = Mul(W, w) "
          f"y = RNN<hidden_size = {H}>(x, s, R, B) q = Squeeze(y, one) z = MatMul(q, V) }}", "RNN",
          zero={"V": s_[[1, 3]], "R": s_[:, :, [1, 3]]}, narrow=shapes("RNN", 3)),
]  # fmt: skip


@pytest.mark.parametrize("trap", SURROUNDED, ids=str)
def test_surroundings(trap: Trap) -> None:
    trap.check()


# -- everything at once ------------------------------------------------------------------------------------------------
NAMES = ("Tanh", "Relu", "Sigmoid", "Softsign", "LeakyRelu", "HardSigmoid", "Elu", "ScaledTanh", "Affine")


def dead_units(units: list[int], inputs: int, hidden: int, rng: np.random.Generator) -> list[np.ndarray]:
    """Weights of an LSTM in both directions of which these units do nothing."""
    stay = np.ones((4, hidden), bool)
    stay[:, units] = False
    mask = np.tile(stay.reshape(1, -1), (2, 2))
    found = [rng.normal(size=(2, 4 * hidden, n)).astype(np.float32) for n in (inputs, hidden)]
    bias = rng.normal(size=(2, 8 * hidden)).astype(np.float32)
    return [w * mask[:, : 4 * hidden, None] for w in found] + [bias * mask]


def test_the_last_states_of_stacked_layers() -> None:
    """Torch joins the states of all layers, and picks those of the last one: dead units leave layer by layer."""
    rng = np.random.default_rng(0)
    names = ["W0", "R0", "B0", "W1", "R1", "B1"]
    arrays = dict(zip(names, dead_units([0, 1], 5, 8, rng) + dead_units([1, 2, 3], 16, 8, rng), strict=True))
    arrays |= {"s": np.array([0, 0, 16]), "m2": np.array(-2), "m1": np.array(-1)}
    arrays["V"] = rng.normal(size=(16, 3)).astype(np.float32)
    cell = 'LSTM<hidden_size = 8, direction = "bidirectional">'
    model = parsed(
        f"""g (float[T,N,5] x) => (float[N,3] y) {{
        y0, h0 = {cell}(x, W0, R0, B0)  t = Transpose<perm = [0, 2, 1, 3]>(y0)  r = Reshape(t, s)
        y1, h1 = {cell}(r, W1, R1, B1)  h = Concat<axis = 0>(h0, h1)
        p = Gather<axis = 0>(h, m2)  q = Gather<axis = 0>(h, m1)  c = Concat<axis = 1>(p, q)  y = MatMul(c, V) }}""",
        **arrays,
    )
    small, plan = onnxdam.slim(model, align="none")
    assert {t.name: tuple(t.dims) for t in small.graph.initializer if t.name in ("R0", "R1", "V")} == {
        "R0": (2, 24, 6),
        "R1": (2, 20, 5),
        "V": (10, 3),
    }
    assert onnxdam.verify(model, small, plan=plan).passed


class Draw:
    """A random cell with random options, masks and surroundings."""

    def __init__(self, seed: int) -> None:
        self.rng = np.random.default_rng(seed)
        self.arrays: dict[str, np.ndarray[Any, Any]] = {}
        self.cell = str(self.rng.choice(CELLS))
        self.count = GATES[self.cell]
        self.directions = int(self.rng.choice([1, 1, 2]))
        self.layout = int(self.rng.random() < 0.2)
        self.dead = self.rng.random((self.directions, H)) < self.rng.choice([0.2, 0.5, 0.9])
        if self.chance(0.7):
            self.dead[:] = self.dead[0]

    def chance(self, share: float) -> bool:
        return bool(self.rng.random() < share)

    def add(self, name: str, *shape: int) -> str:
        self.arrays[name] = self.rng.normal(size=shape)
        return name

    def stacked(self, name: str, blocks: int, *shape: int) -> str:
        """Rows by gate; those of dead units are zero, sometimes only some gates of them."""
        self.add(name, self.directions, blocks * H, *shape)
        gates = (
            range(blocks) if self.chance(0.6) else [g for g in range(blocks) if g % self.count == CANDIDATE[self.cell]]
        )
        for d in range(self.directions):
            for g in gates:
                if self.chance(0.95):
                    self.arrays[name][d, g * H : (g + 1) * H][self.dead[d]] = 0
        return name

    def model(self) -> Case:
        body = "a = MatMul(x, U) b = Add(a, c) "
        self.add("U", 2, N_IN), self.add("c", N_IN)
        self.arrays["U"][:, self.rng.random(N_IN) < 0.4] = 0
        if self.chance(0.5):
            self.arrays["c"][self.rng.random(N_IN) < 0.5] = 0
        inputs = ["b", self.stacked("W", self.count, N_IN), self.stacked("R", self.count, H)]
        if self.chance(0.3):
            self.arrays["W"][:, :, self.rng.random(N_IN) < 0.5] = 0
        inputs.append(self.stacked("B", 2 * self.count) if self.chance(0.7) else "")
        inputs.append("lengths" if self.chance(0.25) else "")
        inputs += [self.initial("h0"), self.initial("c0") if self.cell == "LSTM" else ""]
        if self.cell == "LSTM":
            inputs.append(self.stacked("P", 3) if self.chance(0.3) else "")
        if self.chance(0.4):
            self.arrays["R"][:, :, self.rng.random(H) < 0.4] = 0
        while not inputs[-1]:
            inputs.pop()
        graph = self.wrap(body + self.states(inputs), inputs)
        model = onnx.parser.parse_model(f'<ir_version: 8, opset_import: ["": 17]> draw {graph}')
        model.graph.initializer.extend(numpy_helper.from_array(a, n) for n, a in self.arrays.items())
        helper.set_model_props(model, {"origin": "drawn"})
        onnx.checker.check_model(model, full_check=True)
        return Case(model, {"lengths": (1, 3)}, "", seed=int(self.rng.integers(100)))

    def initial(self, name: str) -> str:
        return name if self.chance(0.4) else ""

    def states(self, inputs: list[str]) -> str:
        """Initial states: from an input through a product with dead columns, or zeros."""
        text = ""
        for name in {"h0", "c0"} & set(inputs):
            self.arrays[f"shape_{name}"] = np.array([0, self.directions, H] if self.layout else [0, 0, H])
            if self.chance(0.3):
                self.arrays[f"nil_{name}"] = np.zeros((2, self.directions * H if self.layout else H))
            else:
                self.add(f"nil_{name}", 2, self.directions * H if self.layout else H)
                self.arrays[f"nil_{name}"].reshape(-1, H)[:, self.dead[0]] = 0
            text += f"m_{name} = MatMul(s, nil_{name}) {name} = Reshape(m_{name}, shape_{name}) "
        return text

    def options(self) -> str:
        text = f"hidden_size = {H}, layout = {self.layout}"
        direction = "bidirectional" if self.directions == 2 else str(self.rng.choice(["forward", "reverse"]))
        text += f', direction = "{direction}"'
        if self.chance(0.4):
            per = {"LSTM": 3, "GRU": 2, "RNN": 1}[self.cell]
            names = [str(n) for n in self.rng.choice(NAMES, per * self.directions)]
            text += ", activations = [" + ", ".join(f'"{n}"' for n in names) + "]"
            if self.chance(0.5):
                text += ", activation_alpha = [0.3, 0.6, 0.2, 0.4], activation_beta = [0.1, 0.4, 0.3, 0.2]"
        if self.chance(0.2):
            text += ", clip = 0.5"
        if self.cell == "LSTM" and self.chance(0.2):
            text += ", input_forget = 1"
        if self.cell == "GRU" and self.chance(0.5):
            text += ", linear_before_reset = 1"
        return text

    def wrap(self, body: str, inputs: list[str]) -> str:
        width = self.directions * H
        wants = self.rng.random(3) < 0.6
        if self.cell != "LSTM":
            wants[2] = False
        if not wants.any():
            wants[0] = True
        names = ["y" if wants[0] else "", "h" if wants[1] else "", "q" if wants[2] else ""]
        while not names[-1]:
            names.pop()
        text = body + f"{', '.join(names)} = {self.cell}<{self.options()}>({', '.join(inputs)}) "
        outs = []
        for name, full in (("y", True), ("h", False), ("q", False)):
            if name not in names:
                continue
            self.add(f"V{name}", width, 2)
            self.arrays[f"V{name}"][self.rng.random(width) < 0.4] = 0
            if full:
                perm = [0, 1, 2, 3] if self.layout else [0, 2, 1, 3]
                dims = "N,T" if self.layout else "T,N"
            else:
                perm, dims = [0, 1, 2] if self.layout else [1, 0, 2], "N"
            self.arrays[f"to_{name}"] = np.array([0, 0, width] if full else [0, width])
            text += f"t_{name} = Transpose<perm = {perm}>({name}) f_{name} = Reshape(t_{name}, to_{name}) "
            text += f"z_{name} = MatMul(f_{name}, V{name}) "
            outs.append(f"double[{dims},2] z_{name}")
        x = "double[N,T,2] x" if self.layout else "double[T,N,2] x"
        s = "double[N,2] s" if self.layout else f"double[{self.directions},N,2] s"
        return f"({x}, {s}, int32[N] lengths) => ({', '.join(outs)}) {{ {text} }}"


@pytest.mark.parametrize("seed", range(150))
def test_random_cells(seed: int) -> None:
    outcome = check_slim(Draw(seed).model(), slim)
    assert not outcome.ill_conditioned


def test_random_cells_do_get_smaller() -> None:
    smaller = sum(check_slim(Draw(seed).model(), slim).removed for seed in range(40))
    assert smaller >= 30
