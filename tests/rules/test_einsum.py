"""Einsum: corresponding, contracted, repeated and broadcast letters."""

from __future__ import annotations

import pytest

from onnxdam.rules.einsum import Equation, parse
from tests.handmade.toolkit import Trap, s_

HEAD = "(double[N,T,3] x) => (double[N,T,2] y) { a = MatMul(x, W) "
CHAIN = {"W": (3, 6), "M": (6, 2)}
NARROW = {"W": (3, 4), "M": (4, 2)}
DEAD = {"W": s_[:, [1, 4]]}
UNREAD = {"M": s_[[1, 4]]}


def chain(
    name: str, body: str, zero: object = DEAD, narrow: object = NARROW, weights: object = None, **options: object
) -> Trap:
    return Trap(name, HEAD + body + " }", {**CHAIN, **(weights or {})}, zero, narrow, **options)  # type: ignore[arg-type,dict-item]


TRAPS = [
    chain("contracted, zero", 'y = Einsum<equation = "ntk,ko->nto">(a, M)'),
    chain("contracted, unread", 'y = Einsum<equation = "ntk,ko->nto">(a, M)', UNREAD),
    chain("weight first", 'y = Einsum<equation = "ko,ntk->nto">(M, a)', UNREAD),
    chain("weight transposed", 'y = Einsum<equation = "ntk,ok->nto">(a, M)', {"M": s_[:, [1, 4]]}, {"W": (3, 4), "M": (2, 4)},
          {"M": (2, 6)}),
    chain("constant is carried", 's = Sigmoid(a) y = Einsum<equation = "ntk,ko->nto">(s, M)', DEAD, {"W": (3, 5), "M": (5, 2)}),
    chain("ellipsis", 'y = Einsum<equation = "...k,ko->...o">(a, M)'),
    chain("implicit result", 'y = Einsum<equation = "abk,kz">(a, M)'),
    chain("corresponding letter", 'b = Einsum<equation = "ntk,k->ntk">(a, v) y = MatMul(b, M)', {"v": s_[[1, 4]]}, {**NARROW, "v": (4,)},
          {"v": (6,)}),
    chain("two letters", 'p = Reshape(a, to) y = Einsum<equation = "nthd,hdo->nto">(p, M)', {"M": s_[1]}, {"W": (3, 4), "M": (2, 2, 2)},
          {"M": (3, 2, 2), "to": [0, 0, 3, 2]}),
    chain("two letters, constants of both", 'p = Reshape(a, to) s = Sigmoid(p) y = Einsum<equation = "nthd,hdo->nto">(s, M)',
          {"W": s_[:, [2, 3]]}, None, {"M": (3, 2, 2), "to": [0, 0, 3, 2]}),
    chain("two letters, read in blocks", 'p = Reshape(a, to) y = Einsum<equation = "nthd,hdo->nto">(p, M)', {"M": s_[[0, 0, 1, 1], [1, 2, 0, 2]]},
          {"W": (3, 4), "M": (2, 2, 2)}, {"M": (2, 3, 2), "to": [0, 0, 2, 3]}),
    chain("three terms", 'y = Einsum<equation = "ntk,k,ko->nto">(a, v, M)', {"v": s_[[1]], "W": s_[:, 2], "M": s_[4]},
          {"W": (3, 3), "v": (3,), "M": (3, 2)}, {"v": (6,)}),
    chain("summed in one term", 'y = Einsum<equation = "ntk,o->nto">(a, v)', DEAD, {"W": (3, 4), "M": ()}, {"v": (2,)}),
    chain("summed weight", 'y = Einsum<equation = "ntk,kjo->nto">(a, M)', {"M": s_[:, 1]}, {"M": (6, 2, 2)}, {"M": (6, 3, 2)}),
    chain("diagonal stays", 'p = Reshape(a, to) d = Einsum<equation = "ntii->nti">(p) y = MatMul(d, M)', {"W": s_[:, [1, 4]], "M": s_[1]},
          {"W": (3, 9)}, {"W": (3, 9), "M": (3, 2), "to": [0, 0, 3, 3]}),
    chain("queries and keys", 'k = MatMul(x, K) s = Einsum<equation = "nth,nsh->nts">(a, k) v = MatMul(x, V) y = Einsum<equation = "nts,nsd->ntd">(s, v)',
          {"K": s_[:, [1, 4]], "W": s_[:, 2]}, {"W": (3, 3), "K": (3, 3), "M": ()}, {"K": (3, 6), "V": (3, 2)}),
    chain("zero slot comes out", 'b = Einsum<equation = "ntk,kj->ntj">(a, K) y = MatMul(b, M)', {"K": s_[:, [1, 4]]},
          {**NARROW, "W": (3, 6), "K": (6, 4)}, {"K": (6, 6)}),
    chain("zero slot where only zeros are read", 'b = Einsum<equation = "ntk,kj->ntj">(a, K) y = MatMul(b, M)',
          {"K": s_[[0, 1, 2, 3], 1:3], "W": s_[:, 4:]}, {"W": (3, 4), "K": (4, 4), "M": (4, 2)}, {"K": (6, 6)}),
    chain("moved", 'b = Einsum<equation = "ntk->knt">(a) c = Einsum<equation = "knt->ntk">(b) y = MatMul(c, M)'),
]  # fmt: skip


@pytest.mark.parametrize("trap", TRAPS, ids=str)
def test_einsum(trap: Trap) -> None:
    trap.check()


def test_equations() -> None:
    assert parse(" ij , jk -> ik ", [2, 2]) == Equation((("i", "j"), ("j", "k")), ("i", "k"))
    assert parse("ij,jk", [2, 2]) == Equation((("i", "j"), ("j", "k")), ("i", "k"))
    assert parse("...i->...", [3]) == Equation((("...2", "...1", "i"),), ("...2", "...1"))
    assert parse("i...,i...", [3, 2]) == Equation((("i", "...2", "...1"), ("i", "...1")), ("...2", "...1"))
    assert parse("ba", [2]) == Equation((("b", "a"),), ("a", "b"))
    assert parse("ij", [3]) is None
    assert parse("ij,j", [2]) is None
