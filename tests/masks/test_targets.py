"""Every method ends at every kind of target, on the digits of scikit-learn."""

from __future__ import annotations

import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("sklearn")
from torch import nn  # noqa: E402

from onnxdam.masks import Schedule, attach  # noqa: E402
from onnxdam.recipes.data import Classes, load_classes  # noqa: E402
from tests.masks.test_attach import METHODS  # noqa: E402

STEPS = 120


def perceptron() -> nn.Sequential:
    return nn.Sequential(
        nn.Linear(64, 120), nn.BatchNorm1d(120), nn.ReLU(), nn.Linear(120, 90), nn.BatchNorm1d(90), nn.ReLU(),
        nn.Linear(90, 10),
    )  # fmt: skip


def convolutional() -> nn.Sequential:
    return nn.Sequential(
        nn.Unflatten(1, (1, 8, 8)), nn.Conv2d(1, 32, 3, 2, 1), nn.BatchNorm2d(32), nn.ReLU(),
        nn.Conv2d(32, 48, 3, 2, 1), nn.BatchNorm2d(48), nn.ReLU(), nn.Flatten(),
        nn.Linear(48 * 4, 60), nn.BatchNorm1d(60), nn.ReLU(), nn.Linear(60, 10),
    )  # fmt: skip


@pytest.fixture(scope="module")
def digits() -> Classes:
    return load_classes()


@pytest.mark.parametrize(
    ("make", "kind", "share"),
    [
        (perceptron, "macs", 0.3),
        (perceptron, "parameters", 0.2),
        (perceptron, "channels", 0.4),
        (convolutional, "macs", 0.4),
    ],
)
@pytest.mark.parametrize("method", METHODS)
def test_it_ends_within_one_per_cent(digits, method, make, kind, share):
    torch.manual_seed(0)
    model = make()
    gates = attach(model, digits.x_train[:2], method=method, target={kind: share}, schedule=Schedule(STEPS))
    mine = set(gates.parameters())
    weights = [p for p in model.parameters() if p not in mine]
    optimizer = torch.optim.Adam([{"params": weights}, {"params": list(mine), "lr": 3e-2}], 5e-3)
    done = 0
    while done < STEPS:
        for rows in torch.randperm(len(digits.x_train)).split(64)[: STEPS - done]:
            optimizer.zero_grad()
            x, y = digits.x_train[rows], digits.y_train[rows]
            (nn.functional.cross_entropy(model(x), y) + gates.penalty()).backward()
            optimizer.step()
            gates.step()
            done += 1
    assert gates.hardened
    assert share * 0.989 <= gates.cost()[kind] <= share + 1e-9
    if method in ("dam", "grouplasso"):  # steering, not the last cut, brings them there: little is lost
        wrong = (model.eval()(digits.x_test).argmax(1) != digits.y_test).float().mean()
        assert wrong < 0.08
