"""Networks are called in many ways: by name, with nested arguments; and what they give comes in containers."""

from __future__ import annotations

from dataclasses import dataclass

import pytest

torch = pytest.importorskip("torch")
import onnx  # noqa: E402
import onnxruntime as ort  # noqa: E402
from torch import Tensor, nn  # noqa: E402

import onnxdam  # noqa: E402
from onnxdam.errors import InputError  # noqa: E402
from onnxdam.masks import attach, export, narrow, parameter_plan  # noqa: E402
from onnxdam.masks.example import Example, tensors_of  # noqa: E402

IMAGE, IDS, EXTRA = torch.randn(3, 3, 6, 6), torch.randint(0, 9, (3, 5)), torch.randn(3, 4)


@dataclass
class Answer:
    logits: Tensor
    more: dict[str, tuple[Tensor, ...]]
    note: str = "no tensor"


class Mixed(nn.Module):
    """Three inputs, of which one by name only; a data class that holds a dict that holds a tuple."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.embed, self.extra = nn.Conv2d(3, 8, 3), nn.Embedding(9, 6), nn.Linear(4, 6)
        self.hidden, self.head, self.box = nn.Linear(20, 16), nn.Linear(16, 3), nn.Linear(16, 2)

    def forward(self, image: Tensor, ids: Tensor, *, extra: Tensor, scale: float = 1.0) -> Answer:
        parts = [self.conv(image).relu().mean((2, 3)), self.embed(ids).mean(1), self.extra(extra).relu()]
        hidden = self.hidden(torch.cat(parts, 1)).relu()
        return Answer(self.head(hidden) * scale, {"box": (self.box(hidden),)})


@pytest.mark.parametrize(
    ("inputs", "dynamo"),
    [((IMAGE, IDS, {"extra": EXTRA}), True), ({"ids": IDS, "extra": EXTRA, "image": IMAGE, "scale": 2.0}, False)],
    ids=["a tuple that ends in a dict", "a dict"],
)
def test_arguments_by_name(tmp_path, inputs, dynamo):
    torch.manual_seed(0)
    model = Mixed().eval()
    gates = attach(model, inputs)
    assert {name: n for name, (_, n) in gates.kept().items()} == {"conv": 8, "embed": 6, "extra": 6, "hidden": 16}
    for gate in gates.all:
        gate.harden(torch.arange(gate.n) % 2 == 0)
    example = Example.of(inputs)
    expected = tensors_of(example.run(model))
    assert list(expected) == ["logits", "more.box.0"]

    path = export(model, gates, inputs, tmp_path / "m.onnx", dynamo=dynamo)
    slim, _ = onnxdam.slim(onnx.load(path), align="none")
    session = ort.InferenceSession(slim.SerializeToString())
    assert [o.name for o in session.get_outputs()] == list(expected)
    feeds = dict(zip([i.name for i in session.get_inputs()], example.tensors, strict=True))
    for batch in (3, 1):
        found = session.run(None, {name: t[:batch].numpy() for name, t in feeds.items()})
        for a, b in zip(found, expected.values(), strict=True):
            torch.testing.assert_close(torch.tensor(a), b[:batch])
    small = narrow(model, parameter_plan(model, inputs), inputs)
    assert (small.hidden.in_features, small.hidden.out_features) == (10, 8)


def test_modes_of_modules_are_left_as_they_were():
    model = nn.Sequential(nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.ReLU(), nn.Conv2d(8, 3, 3))
    model[1].eval()  # a BatchNorm that is not to learn
    attach(model, IMAGE)
    assert model.training
    assert not model[1].training


def test_what_is_no_example_is_told():
    with pytest.raises(InputError, match=r"^example inputs: a tensor, a tuple or a dict of them, not int$"):
        attach(Mixed(), 3)
    with pytest.raises(InputError, match=r"^example inputs: there is no tensor among them$"):
        attach(Mixed(), {"scale": 2.0})
    with pytest.raises(
        InputError, match=r"^the network \(Mixed\) fails on the example inputs, \(3, 3, 6, 6\), extra=\(3, 4\): .*'ids'"
    ):
        attach(Mixed(), (IMAGE, {"extra": EXTRA}))
