"""LeNet-300-100 in rounds, and the surgeon that chooses its features."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("sklearn")
import onnx  # noqa: E402
from torch import nn  # noqa: E402

import onnxdam  # noqa: E402
from onnxdam.errors import InputError  # noqa: E402
from onnxdam.masks import export  # noqa: E402
from onnxdam.recipes import find, warp  # noqa: E402
from onnxdam.recipes.lenet import IN_ROUNDS, ROUNDS, in_rounds  # noqa: E402
from onnxdam.recipes.surgeon import eliminate, fisher  # noqa: E402

KEEP = (20, 12, 7)
SHORT = tuple(replace(settings, epochs=3, batch=256) for settings in ROUNDS)


@pytest.mark.parametrize(("method", "surgeon"), [("hardconcrete", False), ("dam", False), ("grouplasso", True)])
def test_widths_are_those_asked_for(tmp_path: Path, method: str, surgeon: bool) -> None:
    recipe = replace(find("lenet-300-100"), **IN_ROUNDS)
    data = recipe.load(None)
    got = in_rounds(recipe, data, KEEP, method=method, surgeon=surgeon, rounds=SHORT)
    assert got.kept == KEEP
    assert got.columns.unique().numel() == KEEP[0]
    masked = got.masked(data.features)
    with torch.no_grad():
        small = got.network(data.x_test[:, got.columns])
        torch.testing.assert_close(masked(data.x_test), small, rtol=1e-4, atol=1e-4)
    model = onnx.load(export(masked, None, (data.x_test[:2],), tmp_path / "masked.onnx"))
    slim, _ = onnxdam.slim(model, inputs=True)
    assert sorted(tuple(w.dims) for w in slim.graph.initializer if len(w.dims) == 2) == [(7, 12), (10, 7), (12, 20)]


@pytest.mark.parametrize("keep", [(0, 12, 7), (65, 12, 7), (20, 301, 7)])
def test_widths_that_cannot_be(keep: tuple[int, ...]) -> None:
    recipe = find("lenet-300-100")
    with pytest.raises(InputError, match=r"rounds: \d+ of \d+ cannot be kept"):
        in_rounds(recipe, recipe.load(None), keep, rounds=SHORT)


def test_the_surgeon_refits_by_least_squares() -> None:
    torch.manual_seed(0)
    x = torch.randn(400, 24) @ torch.randn(24, 24)
    w, f = torch.randn(6, 24), torch.randn(6, 6)
    kept, refitted = eliminate(w, x, 8, fisher=f @ f.T, ridge=0.1)
    assert len(kept) == 8
    assert refitted.count_nonzero(0).bool().nonzero().flatten().tolist() == kept.tolist()
    c = torch.cov(x.double().T) + 0.1 * torch.eye(24, dtype=torch.float64)
    best = w.double() @ c[:, kept] @ torch.linalg.inv(c[kept][:, kept])
    torch.testing.assert_close(refitted[:, kept], best)


def test_the_surgeon_spares_what_nothing_can_replace() -> None:
    torch.manual_seed(0)
    x = torch.randn(1000, 6)
    x[:, 3] = x[:, 1] + 0.01 * torch.randn(1000)  # a near copy: one of the two is enough
    x[:, 5] *= 1e-3  # hardly there
    kept, _ = eliminate(torch.ones(2, 6), x, 4, ridge=1e-6)
    assert {0, 2, 4} < set(kept.tolist())
    assert len({1, 3} & set(kept.tolist())) == 1


def test_fisher_matrix_of_a_softmax() -> None:
    torch.manual_seed(0)
    h = torch.zeros(200_000, 3)
    found = fisher(nn.Identity(), h)  # logits 0: p = 1/3 each, F = diag p - p p'
    torch.testing.assert_close(found, torch.eye(3) / 3 - 1 / 9, rtol=0, atol=0.01)


def test_nothing_is_warped_by_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("TURN", "STRETCH", "SHEAR", "SHIFT", "BEND"):
        monkeypatch.setattr(warp, name, 0.0)
    x, columns = torch.rand(5, 81), torch.tensor([3, 80, 0, 40])
    torch.testing.assert_close(warp.warped(x, columns), x[:, columns], rtol=0, atol=1e-5)


def test_a_shift_shifts(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("TURN", "STRETCH", "SHEAR", "BEND"):
        monkeypatch.setattr(warp, name, 0.0)
    x = torch.arange(9.0).repeat(9)[None].expand(200, -1)  # a ramp to the right
    moved = warp.warped(x, torch.tensor([40]))[:, 0] - 4
    limit = warp.SHIFT * 9 / 2  # in pixels
    assert moved.abs().max() <= limit + 1e-4
    assert moved.min() < -limit / 2
    assert moved.max() > limit / 2
