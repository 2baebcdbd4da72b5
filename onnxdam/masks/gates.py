"""All gates of a network in the training loop: penalty, schedule, target.

    loss = task + gates.penalty();  loss.backward();  optimizer.step();  gates.step()

Without a target the penalty is lambda times the mean over gates of the paper's penalty. With one, it is the slope of
the cost c (relative parameters, multiply-accumulates or channels) taken where all gates are open,

    lambda * sum over gates of (dc / d width_g) * (expected width_g)

and lambda is steered: the goal falls from 1 to the target along the schedule's ramp. At every look at the widths, with
e = ln(c / goal), at most CLIP, c the geometric mean of the expected cost (which moves at once) and the actual one,
ln lambda moves by RATE * e * (steps since the last look) / steps (integral part: dual ascent in the logarithm, so that
its scale need not be known) and the weight in use is lambda * exp(GAIN * e) (proportional part: damps the swing).

How far gates get in a step is for the optimiser to say, and that may be next to nothing, or far too much. So where the
actual cost is off its goal by more than LAG, the gates themselves are moved, to the same share of the slots that are
open now for every gate; each keeps a few. Where slots go one by one it takes time to tell who is of use, so they are
closed by hand late (`Schedule.pull`). Where one scalar opens all (DAM), its slope tells little of what a layer is
worth, and left to itself the first layer loses nearly all; so these moves go halfway, in logarithms, towards the same
share of all slots. Methods that shrink weights have no lambda to steer: they shrink while the cost
is above its goal (see `norms`).

Hardening then keeps the best slots of every gate, the same share of those that are open, as many as the target affords.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from onnxdam.errors import InputError
from onnxdam.masks.budget import CLOSE, Budget
from onnxdam.masks.cost import Cost
from onnxdam.masks.failing import check_network
from onnxdam.masks.gate import Gate, gates_of
from onnxdam.masks.schedule import Schedule, is_number

if TYPE_CHECKING:
    from onnxdam.bench import BenchResult

RATE = 20.0  # over a whole run at a steady error of 1, ln lambda moves by this
GAIN = 8.0  # how strongly the weight in use answers to a cost that is off its goal
CLIP = 0.1  # errors count up to here: gates that are further off are moved
LAG = 0.05  # how far the cost may be off its goal before gates are moved
SELDOM = 16  # steps between two looks at the widths, in long runs
LOOKS = 200  # in a run, at least, where it is long enough
TRIES = 6  # widths that are measured at the end, where the target is a measured cost
START = 0.1  # lambda at the beginning: the cost is of order 1, as task losses are


#: what the numbers of `openness` cost, for the gates of each class
Rates = list[tuple[type[Gate], list[Gate], Tensor]]


class ChannelCost(Cost):
    """What hand-placed gates can be asked for: the number of open slots."""

    KINDS = ("channels",)

    def __init__(self, dense: list[int]) -> None:
        self.dense = dense
        self._macs, self._weights = [], []


class Gates(nn.Module):
    """The gates of one network.

    Args:
        gates: by name.
        weight: lambda, where no target is given.
        target: one of channels, parameters, macs, latency -> the share that is to stay, above 0 and at most 1.
        schedule: phases of the run; None: full pressure from the first step on, no hardening.
        cost: prices of the gates; None: channels only.

    Attributes:
        steps: calls of `step` so far (a buffer, saved with the weights, as lambda is).
        measured: of a target of latency, once hardened: the dense model against the slim one of the chosen widths.
    """

    steps: Tensor
    log_weight: Tensor

    def __init__(
        self,
        gates: Mapping[str, Gate],
        *,
        weight: float = 1.0,
        target: Mapping[str, float] | None = None,
        schedule: Schedule | None = None,
        cost: Cost | None = None,
    ) -> None:
        super().__init__()
        if not gates:
            raise InputError("gates: there are none")
        if schedule is not None and not isinstance(schedule, Schedule):
            raise InputError(f"schedule: a Schedule is wanted, e.g. Schedule(steps=1000), not {schedule!r}")
        if not is_number(weight) or weight < 0:
            raise InputError(f"weight: lambda is a number of at least 0, not {weight!r}")
        self.names = list(gates)
        self.all = nn.ModuleList(gates.values())
        self.weight = weight
        self.schedule = schedule
        self.prices = cost or ChannelCost([g.n for g in gates.values()])
        self.target = _target(target, schedule, self.prices)
        self.register_buffer("steps", torch.tensor(0))
        self.register_buffer("log_weight", torch.tensor(math.log(START), dtype=torch.float64))
        self.measured: BenchResult | None = None
        self._gates = list(gates.values())  # as `all`, which is slow to walk through
        self._budget = Budget(self.prices, *self.target) if self.target else None
        self._slopes = self._budget.slopes() if self._budget else []
        self._shrinks = any(gate.shrinks for gate in self._gates)
        self._patient = all(gate.patient for gate in self._gates)
        self._proximal = any(gate.proximal for gate in self._gates)
        self._pressure = 0.0
        self._rates: Rates | None = None  # made when they are first asked for: gates may move to a device before
        self._cold: bool | None = None
        self._step, self._due = 0, 0.0  # `steps` as a number, and when there is something to do again
        self._every = min(max(schedule.steps // LOOKS, 1), SELDOM) if schedule and target else 1
        self._bounds = schedule.bounds() if schedule else ()
        self.register_load_state_dict_post_hook(_thaw)
        self._sync()

    @classmethod
    def of(
        cls,
        model: nn.Module,
        *,
        weight: float = 1.0,
        target: Mapping[str, float] | None = None,
        schedule: Schedule | None = None,
    ) -> Gates:
        """The gates that were placed by hand in a network; the only target they know is "channels"."""
        check_network(model, "gates")
        return cls(dict(gates_of(model)), weight=weight, target=target, schedule=schedule)

    # -- reading -----------------------------------------------------------------------------------------------------
    def kept(self) -> dict[str, tuple[int, int]]:
        """Name -> (open slots, slots)."""
        return {
            name: (count, gate.n) for name, count, gate in zip(self.names, self._counts(), self._gates, strict=True)
        }

    def cost(self) -> dict[str, float]:
        """Kind -> share of the cost that is left at the present widths."""
        counts = self._counts()
        return {kind: float(self.prices.ratio(kind, counts)) for kind in self.prices.KINDS}

    @property
    def hardened(self) -> bool:
        return all(gate.hardened for gate in self._gates)

    def _counts(self) -> list[int]:
        counts: list[int] = torch.stack([gate.kept().sum() for gate in self._gates]).tolist()
        return counts

    # -- in the loop -------------------------------------------------------------------------------------------------
    def penalty(self) -> Tensor:
        """What to add to the task loss, a scalar."""
        if not self._pressure:
            return self._gates[0].values.new_zeros(())
        if self.target is None:
            return self._pressure * torch.stack([gate.penalty() for gate in self._gates]).mean()
        if self._rates is None:
            self._rates = self._price()
        if not self._rates:
            return self._gates[0].values.new_zeros(())
        parts = [kind.openness(gates).dot(rates) for kind, gates, rates in self._rates]
        return parts[0] if len(parts) == 1 else torch.stack(parts).sum()

    def step(self, lr: float | None = None) -> None:
        """To be called after each step of the optimiser.

        Args:
            lr: its learning rate; wanted by proximal methods that have no target.

        Raises:
            InputError: such a method and no learning rate.
        """
        if self._proximal and self.target is None and self._pressure:
            self._shrink(lr)
        self.steps.add_(1)
        self._step += 1
        if self._step >= self._due:
            self._sync()

    def _shrink(self, lr: float | None) -> None:
        for gate in self._gates:
            if gate.proximal and not gate.hardened:
                if lr is None:
                    raise InputError(
                        "gates.step: group lasso takes proximal steps, pass the learning rate: step(lr=...)"
                    )
                gate.shrink(lr * self._pressure)

    def _sync(self) -> None:
        """Brings freezing, pressure and widths up to date with the step."""
        step, schedule = self._step, self.schedule
        if schedule is not None and schedule.hardens(step) and not self.hardened:
            self.harden()
        if self.hardened:
            self._pressure, self._due = 0.0, math.inf
            return
        cold = self._freeze(step)
        progress = 0.0 if cold else 1.0 if schedule is None else schedule.progress(step)
        if self._budget is None:
            self._pressure = self.weight * progress
        elif cold:
            self._pressure = 0.0
        elif step % self._every == 0 or not self._pressure:
            self._look(self._budget, progress)
        self._due = min(step - step % self._every + self._every, *(b for b in self._bounds if b > step), math.inf)

    def _freeze(self, step: int) -> bool:
        """Gates learn unless they are hardened or the start is cold; returns whether it is."""
        cold = self.schedule is not None and self.schedule.is_cold(step)
        if cold != self._cold:
            self._cold = cold
            for gate in self._gates:
                if gate.cold and not cold:
                    gate.warm_up()
                gate.cold = cold
                gate.requires_grad_(not (cold or gate.hardened))
        return cold

    def get_extra_state(self) -> float:
        """The weight in use: saved with the buffers, so that a resumed run goes on as it would have."""
        return self._pressure

    def set_extra_state(self, state: float) -> None:
        self._pressure = state

    # -- towards a target --------------------------------------------------------------------------------------------
    def _look(self, budget: Budget, progress: float) -> None:
        assert self.schedule is not None
        goal = 1 + progress * (budget.share - 1)
        since = self._every / self.schedule.steps
        if self._shrinks:
            self._press(budget, goal)
        pull = self.schedule.pull(self._step) if self._patient else progress
        actual = self._move(budget, goal, 1 + pull * (budget.share - 1))
        if all(gate.shrinks for gate in self._gates):
            self._pressure = 1.0  # there is nothing that it would weigh
            return
        expected = torch.stack([gate.expected().detach() for gate in self._gates]).tolist()
        error = math.log(math.sqrt(budget.ratio(expected) * actual) / goal)
        error = max(min(error, CLIP), -CLIP)
        self.log_weight += RATE * since * error
        self._pressure = math.exp(float(self.log_weight) + GAIN * error)
        self._rates = None

    def _press(self, budget: Budget, goal: float) -> None:
        """Shrinks weights as long as the cost is above its goal."""
        margins = [gate.margin().cpu().numpy() for gate in self._gates]
        if budget.ratio([int((margin > 0).sum()) for margin in margins]) > goal:
            bound = budget.bound(margins, goal)
            for gate, least in zip(self._gates, budget.least, strict=True):
                gate.press(bound, least)

    def _move(self, budget: Budget, low: float, high: float) -> float:
        """Moves the gates where the cost is below one goal or above another; returns what it was before."""
        counts = self._counts()
        actual = budget.ratio(counts)
        found: Sequence[float] = counts
        if not self._patient:
            found = [math.sqrt(count * size) for count, size in zip(counts, budget.sizes, strict=True)]
        if actual > (1 + LAG) * high:
            widths = budget.evenly(found, high)
        elif actual < (1 - LAG) * low:
            widths = budget.evenly(found, low)
        else:  # a gate never closes altogether
            widths = [max(count, least) for count, least in zip(counts, budget.least, strict=True)]
        for gate, count, width in zip(self._gates, counts, widths, strict=True):
            if width != count:
                gate.aim(width)
        return actual

    def _price(self) -> Rates:
        """The pressure, spread over what gates tell of their openness."""
        found: Rates = []
        for kind in dict.fromkeys(type(gate) for gate in self._gates if not gate.shrinks):
            of = [(gate, slope) for gate, slope in zip(self._gates, self._slopes, strict=True) if type(gate) is kind]
            rates = [self._pressure * slope * gate.span[1] for gate, slope in of for _ in range(gate.span[0])]
            found.append((kind, [gate for gate, _ in of], of[0][0].values.new_tensor(rates)))
        return found

    # -- the end -----------------------------------------------------------------------------------------------------
    def harden(self) -> None:
        """Freezes all masks, zero where closed; with a target, at the widths that meet it."""
        keep = [gate.kept() for gate in self._gates] if self._budget is None else self._best(self._budget)
        for gate, mask in zip(self._gates, keep, strict=True):
            gate.harden(mask)
        self._pressure = 0.0

    def _best(self, budget: Budget) -> list[Tensor]:
        """Each gate's best slots, as many as the target affords."""
        self._move(budget, budget.share, budget.share)
        counts = self._afford(budget, self._counts())
        keep = []
        for gate, count in zip(self._gates, counts, strict=True):
            mask = torch.zeros(gate.n, dtype=torch.bool)
            mask[torch.argsort(gate.score().cpu(), descending=True, stable=True)[:count]] = True
            keep.append(mask)
        return keep

    def _afford(self, budget: Budget, open_: list[int]) -> list[int]:
        """The widths that the target affords; where its cost is measured, the dearest that were measured to meet it."""
        share, tried = budget.share, []
        for _ in range(TRIES):
            counts = budget.afford(open_)
            found = self.prices.measure(counts)
            if found is None:
                return counts
            tried.append((found, counts))
            if (1 - CLOSE) * share <= found.ratio <= share or counts in [before for _, before in tried[:-1]]:
                break
            said = budget.ratio(counts)  # a measurement changes the prices, by less than they were wrong
            budget = Budget(self.prices, budget.kind, min(said * share / found.ratio, 1.0))
        met = [one for one in tried if one[0].ratio <= share]
        self.measured, counts = max(met, key=_ratio) if met else min(tried, key=_ratio)
        if not met:
            warnings.warn(
                f"target: {budget.kind} is {self.measured.ratio:.3g} of the whole at the widths that came closest to "
                f"{share:.3g}, as measured",
                stacklevel=2,
            )
        return counts


def _ratio(measured: tuple[BenchResult, list[int]]) -> float:
    return measured[0].ratio


def _thaw(gates: Gates, keys: Any) -> None:
    gates._cold = None
    gates._step = int(gates.steps)
    gates._due = gates._step + 1
    gates._freeze(gates._step)
    gates._rates = None


def _target(target: Mapping[str, float] | None, schedule: Schedule | None, cost: Cost) -> tuple[str, float] | None:
    if target is None:
        return None
    if not isinstance(target, Mapping):
        raise InputError(f'target: says of what how much is to stay, e.g. {{"macs": 0.3}}, not {target!r}')
    if len(target) != 1:
        raise InputError(f"target: one of {', '.join(cost.KINDS)} at a time, not {dict(target)}")
    ((kind, share),) = target.items()
    if kind not in cost.KINDS:
        raise InputError(f"target: {kind!r} is none of {', '.join(cost.KINDS)}")
    if not is_number(share):
        raise InputError(f"target: the share of {kind} that is to stay is a number, not {share!r}")
    if schedule is None:
        raise InputError("target: wants a schedule, e.g. schedule=Schedule(steps=1000)")
    least = float(cost.ratio(kind, [1] * len(cost.dense)))
    if not least <= share <= 1:
        closest = f"{least:.3g}" if share < least else "1"
        raise InputError(f"target: {kind} cannot be {share} of the whole; the closest that can be reached is {closest}")
    return kind, float(share)
