"""Gates as plain modules: formulas, counts, hardening."""

from __future__ import annotations

import math

import pytest

torch = pytest.importorskip("torch")
from torch import nn  # noqa: E402

from onnxdam.errors import InputError  # noqa: E402
from onnxdam.masks import DAM, DiffPrune, GroupLasso, HardConcrete, NetworkSlimming, Owned, gates_of  # noqa: E402


def every(n: int = 12) -> list:
    weight, scale = nn.Parameter(torch.randn(7, n)), nn.Parameter(torch.rand(n) + 0.1)
    return [
        DAM(n),
        DAM(n, function="linear"),
        DAM(n, function="piecewise"),
        DiffPrune(n),
        DiffPrune(n, stochastic=True),
        HardConcrete(n),
        GroupLasso(n, [Owned(lambda: weight, 1)]),
        NetworkSlimming(n, [Owned(lambda: scale, 0)]),
    ]


# -- DAM -----------------------------------------------------------------------------------------------------------
def test_dam_starts_as_in_the_paper():
    gate = DAM(10)
    assert gate.beta.item() == 1
    assert [name for name, _ in gate.named_parameters()] == ["beta"]
    expected = [math.tanh(5 * i / 10 + 1) for i in range(10)]
    assert torch.allclose(gate.mask(), torch.tensor(expected))


@pytest.mark.parametrize("beta", [-0.2, -0.77, -2.6, -4.9])
@pytest.mark.parametrize("function", ["tanh", "linear", "piecewise"])
def test_dam_units_leave_in_order_and_as_many_as_the_formula_says(beta, function):
    n = 50
    gate = DAM(n, beta=beta, function=function)
    kept = gate.kept()
    count = n - 1 - math.floor(-beta * n / 5)
    assert kept.tolist() == [False] * (n - count) + [True] * count
    assert ((gate.mask() != 0) == kept).all()
    assert abs(gate.expected().item() - count) <= 1


def test_dam_gate_functions_differ():
    tanh, linear, piecewise = (DAM(5, function=f, beta=0.5).mask() for f in ("tanh", "linear", "piecewise"))
    assert torch.allclose(linear, torch.tensor([0.5, 1.5, 2.5, 3.5, 4.5]))
    assert torch.allclose(piecewise, linear.clamp(max=1))
    assert torch.allclose(tanh, torch.tanh(linear))
    assert DAM(5, function="linear").beta.item() == pytest.approx(0.1)


def test_dam_penalty_stops_at_its_floor():
    for beta, slope in ((-4.0, 1.0), (-6.0, 0.0)):
        gate = DAM(5, beta=beta)
        gate.penalty().backward()
        assert gate.penalty().item() == max(beta, -5)
        assert gate.beta.grad.item() == slope
    assert DAM(5, beta=-6.0, floor=None).penalty().item() == -6


# -- Bernoulli -------------------------------------------------------------------------------------------------------
def test_hard_concrete_at_test_time_and_its_penalty():
    gate = HardConcrete(4)
    with torch.no_grad():
        gate.log_a.copy_(torch.tensor([-5.0, -1.0, 0.5, 6.0]))
    gate.eval()
    s = torch.sigmoid(gate.log_a)
    assert torch.allclose(gate.mask(), (s * 1.2 - 0.1).clamp(0, 1))
    assert gate.kept().tolist() == [False, True, True, True]
    assert gate.mask()[-1].item() == 1
    assert gate.mask()[0].item() == 0
    by_hand = torch.sigmoid(gate.log_a - 2 / 3 * math.log(0.1 / 1.1)).sum()
    assert torch.allclose(gate.penalty(), by_hand)


@pytest.mark.parametrize("make", [lambda n: HardConcrete(n), lambda n: DiffPrune(n, stochastic=True, width=0.001)])
def test_the_penalty_is_the_probability_of_being_open(make):
    torch.manual_seed(0)
    gate = make(40_000)
    gate.draw()
    share = (gate.mask() != 0).float().mean().item()
    assert share == pytest.approx(gate.penalty().item() / gate.n, abs=0.01)


def test_noise_is_drawn_once_per_pass_and_only_in_training():
    gate = HardConcrete(20)
    x = torch.ones(3, 20)
    assert not torch.equal(gate(x), gate(x))
    assert torch.equal(gate.mask(), gate.mask())
    gate.eval()
    assert torch.equal(gate(x), gate(x))


def test_gradients_survive_a_second_draw():
    gate = HardConcrete(20)
    loss = gate(torch.ones(1, 20)).sum()
    gate.draw()
    loss.backward()
    assert gate.log_a.grad.abs().sum() > 0


def test_diffprune_reaches_zero_and_one_exactly():
    gate = DiffPrune(3, width=0.5)
    with torch.no_grad():
        gate.theta.copy_(torch.logit(torch.tensor([0.3, 0.5, 0.8])))
    assert torch.allclose(gate.mask(), torch.tensor([0.0, 0.5, 1.0]))
    assert gate.mask()[0].item() == 0
    assert gate.kept().tolist() == [False, True, True]
    assert torch.equal(gate.train().mask(), gate.eval().mask())


def test_diffprune_approaches_a_bernoulli_variable():
    torch.manual_seed(0)
    gate = DiffPrune(40_000, stochastic=True, start=0.3, width=0.01)
    gate.draw()
    z = gate.mask()
    assert ((z == 0) | (z == 1)).float().mean().item() > 0.98
    assert z.mean().item() == pytest.approx(0.3, abs=0.01)


# -- norms -----------------------------------------------------------------------------------------------------------
def test_the_proximal_step_gives_exact_zeros_and_shortens_the_others():
    weight = nn.Parameter(torch.tensor([[3.0, 0.1, 0.0], [4.0, 0.1, 0.0]]))
    gate = GroupLasso(3, [Owned(lambda: weight, 1)])
    assert gate.penalty().item() == pytest.approx(5 * math.sqrt(2) + 0.1 * 2)
    gate.shrink(1 / math.sqrt(2))
    assert torch.allclose(weight[:, 0], torch.tensor([2.4, 3.2]))
    assert weight[:, 1].tolist() == [0.0, 0.0]
    assert gate.kept().tolist() == [True, False, False]
    assert gate.expected().item() == pytest.approx(1)
    gate.expected().backward()
    assert torch.isfinite(weight.grad).all()


def test_a_slot_owns_the_entries_that_its_index_names():
    weight = nn.Parameter(torch.arange(1.0, 7.0).view(1, 6))
    gate = GroupLasso(2, [Owned(lambda: weight, 1, torch.tensor([0, 0, -1, -1, 1, 1]))])
    assert torch.allclose(gate.strength(), torch.tensor([math.sqrt(5), math.sqrt(61)]))
    gate.shrink(3 / math.sqrt(2))
    assert weight[0, :4].tolist() == [0, 0, 3, 4]
    assert gate.kept().tolist() == [False, True]


def test_network_slimming_is_l1_on_scales():
    norm = nn.BatchNorm1d(3)
    with torch.no_grad():
        norm.weight.copy_(torch.tensor([1.0, -0.5, 1e-4]))
    gate = NetworkSlimming(3, [Owned(lambda: norm.weight, 0)])
    gate.penalty().backward()
    assert norm.weight.grad.tolist() == [1, -1, 1]
    assert gate.penalty().item() == pytest.approx(1.5001)
    assert gate.kept().tolist() == [True, True, False]


# -- all -------------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize("gate", every(), ids=lambda g: type(g).__name__)
def test_hardening_freezes_the_function_and_binary_masks_stay_zero(gate):
    x = torch.randn(5, 12)
    if isinstance(gate, DAM):
        with torch.no_grad():
            gate.beta.fill_(-2.0)
    gate.eval()
    before, kept = gate(x), gate.kept()
    gate.harden()
    assert torch.equal(gate(x), before)
    assert torch.equal(gate.kept(), kept)
    assert gate.penalty().item() == 0
    assert gate.expected().item() == kept.sum()
    gate.train()
    assert torch.equal(gate(x), before)
    values = gate.take_values()
    assert set(gate.mask().tolist()) <= {0.0, 1.0}
    assert torch.allclose(gate(x) * values, before)


@pytest.mark.parametrize("gate", every(), ids=lambda g: type(g).__name__)
def test_hardening_to_a_choice(gate):
    keep = torch.arange(12) % 3 == 0
    gate.harden(keep)
    assert torch.equal(gate.mask() != 0, keep)


@pytest.mark.parametrize("make", [DAM, DiffPrune, HardConcrete])
def test_hardened_gates_survive_saving(make):
    gate, other = make(6), make(6)
    gate.harden(torch.tensor([True, False] * 3))
    other.load_state_dict(gate.state_dict())
    assert torch.equal(other.mask(), gate.mask())
    assert torch.equal(other.kept(), gate.kept())


def test_any_axis_and_half_precision():
    gate = DAM(6, dim=-1, beta=-2.0)
    y = gate(torch.ones(2, 3, 6, dtype=torch.bfloat16))
    assert y.dtype == torch.bfloat16
    assert torch.equal(y[0, 0] != 0, gate.kept())


def test_bad_input_is_told():
    with pytest.raises(InputError, match=r"DAM\(6\): axis 1 of an input of shape \(2, 5\) has 5 slots"):
        DAM(6)(torch.ones(2, 5))
    with pytest.raises(InputError, match="function 'cosh' is none of tanh, linear, piecewise"):
        DAM(6, function="cosh")
    with pytest.raises(InputError, match=r"width 1\.0"):
        DiffPrune(3, width=1.0)
    with pytest.raises(InputError, match="not between 0 and 1"):
        HardConcrete(3, drop=1.0)
    with pytest.raises(InputError, match="at least one slot"):
        DAM(0)
    with pytest.raises(InputError, match=r"at least one slot, not 2\.5"):
        DAM(2.5)
    with pytest.raises(InputError, match=r"axis 3 of an input of shape \(2, 6\) has no such axis"):
        DAM(6, dim=3)(torch.ones(2, 6))
    with pytest.raises(InputError, match="no weights belong"):
        GroupLasso(3, [])
    with pytest.raises(InputError, match="does not fit"):
        NetworkSlimming(3, [Owned(lambda: torch.ones(4), 0)])


def test_gates_of_a_hand_written_network():
    net = nn.Sequential(nn.Linear(4, 8), nn.ReLU(), DAM(8), nn.Linear(8, 2))
    assert [name for name, _ in gates_of(net)] == ["2"]
