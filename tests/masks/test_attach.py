"""Gates on networks that know nothing of them: what is coupled, targets, hardening, export, and back."""

from __future__ import annotations

import copy

import pytest

torch = pytest.importorskip("torch")
import numpy as np  # noqa: E402
import onnx  # noqa: E402
import onnxruntime as ort  # noqa: E402
from torch import nn  # noqa: E402
from torch.nn.utils import prune  # noqa: E402

import onnxdam  # noqa: E402
from onnxdam.errors import InputError  # noqa: E402
from onnxdam.graph.count import Cost, count  # noqa: E402
from onnxdam.masks import Gates, Schedule, attach, export, narrow, parameter_plan  # noqa: E402
from tests.masks.networks import Attention, Residual, mlp  # noqa: E402

METHODS = ["dam", "diffprune", "hardconcrete", "grouplasso", "slimming"]
IMAGE = (4, 3, 6, 6)


def train(model: nn.Module, gates: Gates, x: torch.Tensor, steps: int, lr: float = 2e-2) -> None:
    """A few steps towards random classes."""
    y = torch.arange(len(x)) % 4
    optimizer = torch.optim.Adam(model.parameters(), lr)
    model.train()
    for _ in range(steps):
        optimizer.zero_grad()
        (nn.functional.cross_entropy(model(x), y) + gates.penalty()).backward()
        optimizer.step()
        gates.step(lr)
    model.eval()


def run(path: object, x: torch.Tensor) -> np.ndarray:
    session = ort.InferenceSession(path if isinstance(path, bytes) else str(path))
    return np.asarray(session.run(None, {session.get_inputs()[0].name: x.numpy()})[0])


# -- what is coupled -------------------------------------------------------------------------------------------------
def test_coupled_channels_share_one_gate():
    gates = attach(Residual(), torch.randn(IMAGE))
    assert {name: n for name, (_, n) in gates.kept().items()} == {
        "stem": 16,
        "conv1": 24,
        "pointwise": 12,
        "hidden": 20,
    }
    assert gates.skipped == {"head": "a graph output"}


def test_heads_and_hidden_units_of_a_transformer():
    gates = attach(Attention(), torch.randn(2, 5, 16))
    assert gates.kept() == {"qkv": (4, 4), "up": (24, 24)}


class Twice(nn.Module):
    """Layers that are used twice, weights that layers share, a half that gates the other."""

    def __init__(self) -> None:
        super().__init__()
        self.embed, self.glu, self.head = nn.Embedding(9, 16), nn.Linear(16, 24), nn.Linear(12, 16)
        self.branch = nn.Sequential(nn.Linear(16, 20), nn.Tanh(), nn.Linear(20, 16))

    def forward(self, ids: torch.Tensor) -> torch.Tensor:
        x = self.embed(ids)
        x = x + self.branch(x)
        x = x + self.branch(x)
        a, b = self.glu(x).chunk(2, -1)
        return (x + self.head(a * b.sigmoid())) @ self.embed.weight.T


def test_what_is_used_twice_has_one_gate(tmp_path):
    torch.manual_seed(0)
    model, ids = Twice().eval(), torch.randint(0, 9, (3, 5))
    gates = attach(model, ids)
    assert {name: n for name, (_, n) in gates.kept().items()} == {"embed": 16, "branch.0": 20, "glu": 12}
    for gate in gates.all:
        gate.harden(torch.arange(gate.n) % 4 != 0)
    masked = onnx.load(export(model, gates, ids, tmp_path / "m.onnx"))
    slim, _ = onnxdam.slim(masked, align="none")
    found = narrow(model, parameter_plan(model, ids), ids)
    assert (found.embed.embedding_dim, found.branch[0].out_features, found.head.in_features) == (12, 15, 9)
    assert sum(p.numel() for p in found.parameters()) == 9 * 12 + 12 * 15 * 2 + 15 + 12 + 12 * 18 + 18 + 9 * 12 + 12
    session = ort.InferenceSession(slim.SerializeToString())
    assert np.abs(session.run(None, {"ids": ids.numpy()})[0] - model(ids).detach().numpy()).max() < 1e-5


def test_what_has_no_gate_is_said_with_the_reason():
    class Parts(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.words, self.parts, self.last = nn.Embedding(9, 8), nn.Linear(8, 33), nn.Linear(16, 4)
            self.first = nn.Linear(8, 8)

        def forward(self, ids: torch.Tensor) -> torch.Tensor:
            weight = self.first.weight - self.first.weight.mean(1, keepdim=True)
            one, a, b = self.parts((self.words(ids) @ weight.mT).relu()).split([1, 16, 16], -1)
            return self.last(one * a * b)

    gates = attach(Parts(), torch.randint(0, 9, (2, 3)))
    assert gates.kept() == {"into parts": (8, 8), "parts": (16, 16)}  # of "parts", what can leave has a gate
    assert set(gates.skipped) == {"words", "last"}
    assert gates.skipped["words"].endswith(": multiplied by weights that are computed from parameters")
    assert gates.skipped["last"] == "a graph output"


class Scaled(nn.Linear):
    """Equalised learning rates: what is multiplied is the weight times a constant."""

    def __init__(self, n: int, m: int) -> None:
        super().__init__(n, m)
        self.gain = n**-0.5

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return nn.functional.linear(x, self.weight * self.gain, self.bias)


class Rounded(nn.Linear):
    """Training for 8-bit weights."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        weight = torch.fake_quantize_per_tensor_affine(self.weight, 0.01, 0, -128, 127)
        return nn.functional.linear(x, weight, self.bias)


def pruned(n: int, m: int) -> nn.Module:
    return prune.l1_unstructured(nn.Linear(n, m), "weight", 0.3)


@pytest.mark.parametrize("layer", [Scaled, Rounded, pruned])
def test_weights_whose_entries_are_scaled_rounded_or_masked_one_by_one(tmp_path, layer):
    torch.manual_seed(0)
    model, x = nn.Sequential(layer(8, 16), nn.ReLU(), layer(16, 12), nn.ReLU(), layer(12, 3)), torch.randn(4, 8)
    gates = attach(model, x)
    assert gates.kept() == {"0": (16, 16), "2": (12, 12)}
    for gate in gates.all:
        gate.harden(torch.arange(gate.n) % 2 == 0)
    y = model.eval()(x).detach().numpy()
    slim, _ = onnxdam.slim(onnx.load(export(model, gates, x, tmp_path / "m.onnx")), align="none")
    assert [list(i.dims) for i in slim.graph.initializer if len(i.dims) > 1] == [[8, 8], [6, 8], [3, 6]]
    assert np.abs(run(slim.SerializeToString(), x) - y).max() < 1e-6
    narrowed = narrow(model, parameter_plan(model, x), x)
    assert [narrowed[i].weight.shape for i in (0, 2, 4)] == [(8, 8), (6, 8), (3, 6)]


def test_zeros_that_training_will_fill_are_no_reason():
    fresh, model = Residual(), Residual()
    nn.init.zeros_(fresh.norm2.weight)  # as new residual branches often begin
    assert attach(fresh, torch.randn(IMAGE)).kept() == attach(model, torch.randn(IMAGE)).kept()


def test_weights_that_are_computed_from_others(tmp_path):
    torch.manual_seed(0)
    norm, x = nn.utils.parametrizations.weight_norm, torch.randn(4, 10)
    model = nn.Sequential(norm(nn.Linear(10, 16)), nn.ReLU(), norm(nn.Linear(16, 12)), nn.ReLU(), nn.Linear(12, 3))
    names = set(model.state_dict())
    gates = attach(model, x)
    assert gates.kept() == {"0": (16, 16), "2": (12, 12)}
    for gate in gates.all:
        gate.harden(torch.arange(gate.n) % 2 == 0)
    model.eval()
    slim = narrow(model, parameter_plan(model, x), x)
    assert [slim[i].out_features for i in (0, 2, 4)] == [8, 6, 3]
    assert np.abs(run(export(model, gates, x, tmp_path / "m.onnx"), x) - model(x).detach().numpy()).max() < 1e-6
    gates.detach()
    assert set(model.state_dict()) == names


def test_input_features():
    gates = attach(mlp(), torch.randn(2, 20), inputs=True)
    assert gates.kept()["input"] == (20, 20)
    assert list(gates.kept()) == ["input", "0", "2"]  # inputs first, as the literature writes it
    assert "input" not in attach(mlp(), torch.randn(2, 20)).kept()


def test_include_and_exclude():
    assert list(attach(Residual(), torch.randn(IMAGE), include=["*v1", "stem"], exclude=["st*"]).kept()) == ["conv1"]
    assert list(attach(mlp(), torch.randn(2, 20), exclude="2").kept()) == ["0"]


@pytest.mark.parametrize("method", ["dam", "grouplasso"])
def test_frozen_weights_stay_as_they_are(method):
    model, x = mlp(), torch.randn(8, 20)
    model[2].requires_grad_(False)  # reads what 0 makes
    frozen = model[2].weight.clone()
    gates = attach(model, x, method=method)
    if method == "grouplasso":
        assert gates.skipped["0"] == "the weights are frozen"
    train(model, gates, x, 3)
    gates.harden()
    assert torch.allclose(model(x), narrow(model, parameter_plan(model, x), x)(x), atol=1e-6)
    gates.detach()
    assert torch.equal(model[2].weight, frozen)


def test_channels_that_are_read_by_zeros_already_are_told():
    model = mlp()
    model[2].weight.data[:, :5] = 0
    with pytest.warns(UserWarning, match=r"^attach: 5 of 48 channels of 0 are read by zeros, and count as open until "):
        attach(model, torch.randn(2, 20))


def test_a_closed_gate_is_as_good_as_a_channel_that_is_gone():
    torch.manual_seed(0)
    model, x = Residual().eval(), torch.randn(IMAGE)
    gates = attach(model, x)
    for gate in gates.all:
        gate.harden(torch.arange(gate.n) % 2 == 0)
    before = model(x)
    with torch.no_grad():
        for name in ("stem", "conv1", "pointwise"):
            getattr(model, name).weight[1::2] += 100 * torch.randn(())  # who makes them does not matter any more
    after = model(x)
    assert torch.allclose(before, after, atol=1e-5)


# -- training --------------------------------------------------------------------------------------------------------
@pytest.fixture(scope="module")
def dense(tmp_path_factory: pytest.TempPathFactory) -> Cost:
    return count(onnx.load(export(Residual(), None, torch.randn(IMAGE), tmp_path_factory.mktemp("dense") / "m.onnx")))


@pytest.mark.parametrize(
    ("method", "kind"), [(m, "macs") for m in METHODS] + [("dam", "parameters"), ("dam", "channels")]
)
def test_targets_are_met_and_the_file_has_exactly_the_kept_widths(tmp_path, dense, method, kind):
    torch.manual_seed(0)
    model, x = Residual(), torch.randn(16, 3, 6, 6)
    options = {"include": ["stem", "conv1"]} if method == "slimming" else {}
    share = 0.6 if kind == "channels" else 0.5
    gates = attach(model, x[:2], method=method, target={kind: share}, schedule=Schedule(40), **options)
    train(model, gates, x, 40)
    assert gates.hardened
    assert share - 0.03 < gates.cost()[kind] <= share + 1e-9  # the network is small: one channel is up to 3 %

    path = export(model, gates, x[:2], tmp_path / "masked.onnx")
    slim, _ = onnxdam.slim(onnx.load(path), align="none")
    found = count(slim)
    whole = {"macs": (found.macs, dense.macs), "parameters": (found.parameters, dense.parameters)}
    if kind in whole:
        assert whole[kind][0] / whole[kind][1] == pytest.approx(gates.cost()[kind], abs=0.02)  # BatchNorm is folded
    widths = {i.name: i.dims for i in slim.graph.initializer}
    kept = {name: k for name, (k, _) in gates.kept().items()}
    assert (widths["stem.weight"][0], widths["conv1.weight"][0]) == (kept["stem"], kept["conv1"])
    assert not [n for n in slim.graph.node if n.op_type == "Mul"]
    y = model(x).detach().numpy()
    assert np.abs(run(path, x) - y).max() < 1e-4
    assert np.abs(run(slim.SerializeToString(), x) - run(path, x)).max() < 1e-4


def test_masked_weights_are_zero_and_stay_so():
    torch.manual_seed(0)
    model, x = mlp(), torch.randn(16, 20)
    gates = attach(model, x[:2], target={"macs": 0.4}, schedule=Schedule(30, ramp=0.4, harden=0.5))
    train(model, gates, x, 30)
    closed = ~gates.all[0].kept()
    assert closed.any()
    assert (model[2].weight[:, closed] == 0).all()
    assert set(gates.all[0].mask().tolist()) == {0.0, 1.0}
    y = model(x)
    bare = gates.bake()
    assert type(bare[2]) is nn.Linear
    assert (bare[2].weight[:, closed] == 0).all()
    assert torch.allclose(bare(x), y)


def test_hardening_does_not_change_the_function():
    torch.manual_seed(0)
    model, x = mlp().eval(), torch.randn(16, 20)
    gates = attach(model, x[:2])
    with torch.no_grad():
        for gate in gates.all:
            gate.beta.fill_(-2.0)
    before = model(x)
    gates.harden()
    assert torch.allclose(model(x), before, atol=1e-6)


def test_noise_is_one_sample_for_all_who_share_a_gate():
    model = Residual()
    gates = attach(model, torch.randn(IMAGE), method="hardconcrete")
    model.train()
    model(torch.randn(IMAGE))
    stem = gates.all[gates.names.index("stem")]
    open_ = model.conv1.weight.abs().sum((0, 2, 3)) != 0
    assert torch.equal(open_, model.pointwise.weight.abs().sum((0, 2, 3)) != 0)
    assert torch.equal(open_, stem.mask() != 0)
    noise = stem.noise.clone()
    model(torch.randn(IMAGE))
    assert not torch.equal(noise, stem.noise)


# -- life with gates -------------------------------------------------------------------------------------------------
def test_detach_gives_the_original_back():
    model, x = Residual().eval(), torch.randn(IMAGE)
    before, names = model(x), set(model.state_dict())
    gates = attach(model, x)
    assert not torch.equal(model(x), before)
    assert gates.detach() is model
    assert torch.equal(model(x), before)
    assert set(model.state_dict()) == names
    assert not model._forward_pre_hooks


def test_detach_leaves_parameters_in_their_order():
    model = Residual()
    names = list(model.state_dict())  # an optimizer's state goes by the order
    attach(model, torch.randn(IMAGE)).detach()
    assert list(model.state_dict()) == names


def test_state_dict_copies_and_half_precision():
    model, other, x = mlp(), mlp(), torch.randn(4, 20)
    gates, twins = attach(model, x), attach(other, x)
    gates.all[0].harden(torch.arange(48) < 10)
    other.load_state_dict(model.state_dict())
    assert torch.equal(other(x), model(x))
    assert torch.equal(twins.all[0].kept(), gates.all[0].kept())
    assert torch.equal(copy.deepcopy(model)(x), model(x))
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert torch.isfinite(model(x)).all()


def test_steering_resumes_where_it_was():
    x = torch.randn(8, 20)
    model, again = mlp(), mlp()
    gates = attach(model, x, target={"macs": 0.5}, schedule=Schedule(40))
    train(model, gates, x, 10)
    twins = attach(again, x, target={"macs": 0.5}, schedule=Schedule(40))
    twins.load_state_dict(gates.state_dict())
    assert int(twins.steps) == 10
    assert twins.log_weight == gates.log_weight


def test_parameters_of_gates_are_the_networks():
    model = mlp()
    gates = attach(model, torch.randn(2, 20))
    mine = {id(p) for p in model.parameters()}
    assert all(id(p) in mine for p in gates.parameters())


# -- bad input -------------------------------------------------------------------------------------------------------
class Unexportable(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(20, 4)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.layer(x) if float(x.sum()) > 0 else -self.layer(x)


def test_bad_input_is_told():
    x = torch.randn(2, 20)
    with pytest.raises(InputError, match="method 'magic' is none of dam"):
        attach(mlp(), x, method="magic")
    with pytest.raises(
        InputError, match=r"macs cannot be 0\.0001 of the whole; the closest that can be reached is 0\.0\d+$"
    ):
        attach(mlp(), x, target={"macs": 0.0001}, schedule=Schedule(10))
    with pytest.raises(InputError, match="'flops' is none of channels, parameters, macs"):
        attach(mlp(), x, target={"flops": 0.5}, schedule=Schedule(10))
    with pytest.raises(InputError, match="wants a schedule"):
        attach(mlp(), x, target={"macs": 0.5})
    with pytest.raises(InputError, match="nothing can be gated \\(0: a graph output\\)"):
        attach(nn.Sequential(nn.Linear(20, 4)), x)
    with pytest.raises(
        InputError, match=r"\(4: a graph output; 0, 2: no BatchNorm scales, which network slimming shrinks\)$"
    ):
        attach(mlp(), x, method="slimming")
    with pytest.raises(InputError, match=r"no group is called 'layer\*'; there are 0, 2"):
        attach(mlp(), x, include=["layer*"])
    stuck = nn.Sequential(nn.Linear(20, 20), Unexportable())
    with pytest.raises(InputError, match=r"^1 \(Unexportable\) cannot be exported to ONNX: "):
        attach(stuck, x)
    with pytest.raises(InputError, match=r"^export: 1 \(Unexportable\) cannot be exported to ONNX: "):
        export(stuck, None, x, "never.onnx")
    with pytest.raises(InputError, match=r"^0 \(Linear\) fails on the example inputs, \(2, 19\): mat1 and mat2 shapes"):
        attach(mlp(), torch.randn(2, 19))
    with pytest.raises(
        InputError, match=r"^the network \(Sequential\) fails on the example inputs, \(2, 20\), \(2, 20\): "
    ):
        attach(mlp(), (x, x))
    for model, words in (
        (3, "is a torch.nn.Module, not int"),
        (mlp().to("meta"), "on the meta device hold no numbers"),
        (torch.jit.trace(mlp(), x), "a scripted network cannot be exported"),
    ):
        with pytest.raises(InputError, match=f"^attach: .*{words}"):
            attach(model, x)
    with pytest.raises(InputError, match=r"^nowhere/model.onnx: there is no folder nowhere"):
        export(mlp(), None, x, "nowhere/model.onnx")
    with pytest.raises(InputError, match="unexpected keyword argument 'speed'"):
        attach(mlp(), x, speed=3)
    for options, words in (
        ({"target": 0.3}, r'target: says of what how much is to stay, e.g. {"macs": 0.3}, not 0.3'),
        ({"schedule": 10}, r"schedule: a Schedule is wanted, e.g. Schedule\(steps=1000\), not 10"),
        ({"weight": -1.0}, r"weight: lambda is a number of at least 0, not -1.0"),
        ({"method": ["dam"]}, r"attach: method \['dam'\] is none of dam, "),
        ({"include": [3]}, r"attach: include: a glob on names of modules, or several, not \[3\]"),
        ({"beta": "a"}, r"DAM: beta is a number, not 'a'"),
    ):
        with pytest.raises(InputError, match=words):
            attach(mlp(), x, **options)
    model = mlp()
    gates = attach(model, x, method="grouplasso")
    with pytest.raises(InputError, match=r"pass the learning rate: step\(lr=\.\.\.\)"):
        gates.step()
    with pytest.raises(InputError, match="has gates already"):
        attach(model, x)
    with pytest.raises(InputError, match="gates: there are none"):
        Gates.of(mlp())
