"""All gates of a network in the training loop: penalty, schedule, target.

    loss = task + gates.penalty();  loss.backward();  optimizer.step();  gates.step()

Without a target the penalty is lambda times the mean over gates of the paper's penalty. With one, it is the slope of
the cost c (relative parameters, multiply-accumulates or channels) taken where all gates are open,

    lambda * sum over gates of (dc / d width_g) * (expected width_g)

and lambda is steered: the goal falls from 1 to the target along the schedule's ramp. At every step, with
e = ln(c / goal), c the geometric mean of the expected cost (which moves at once) and the actual one (which is meant),
ln lambda moves by RATE * e / steps (integral part: dual ascent in the logarithm, so that its scale need not be known)
and the weight in use is lambda * exp(gain * e) (proportional part: damps the swing). Hardening then keeps the
best slots of every gate, the same share of those that are open, as many as the target affords.

Methods that shrink weights have no such lambda (see `norms`). With u_i the amount of shrinking that slot i survives,
and m the mean of u over the open slots of its gate, tau is the smallest bound for which the slots with u_i / m > tau
cost no more than the goal. As long as the actual cost is above the goal, every step shrinks by PACE * tau * m: what is
weakest, for its layer, goes in about 1 / PACE steps, and then nothing shrinks until the goal has moved on. Where the
optimiser makes good what is taken, and the cost lags by more than LAG, tau grows by PACE from look to look.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from onnxdam.errors import InputError
from onnxdam.masks.cost import Cost
from onnxdam.masks.gate import Gate, gates_of
from onnxdam.masks.schedule import Schedule

if TYPE_CHECKING:
    from onnxdam.bench import BenchResult

RATE = 20.0  # over a whole run at a steady error of 1, ln lambda moves by this
OFTEN, SELDOM = 4, 16  # steps between two looks at the widths, in short and in long runs
LOOKS = 200  # in a run, at least, where it is long enough
CLOSE = 0.01  # how far below its target a cost may end, where slots are small enough
PACE = 0.1  # share of its size that the weakest slot loses in a step, where weights are shrunk
LAG = 0.05  # of the cost behind its goal, where weights are shrunk
TRIES = 4  # widths that are measured at the end, where the target is a measured cost
START = 0.1  # lambda at the beginning: the cost is of order 1, as task losses are


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
        self.names = list(gates)
        self.all = nn.ModuleList(gates.values())
        self.weight = weight
        self.schedule = schedule
        self.prices = cost or ChannelCost([g.n for g in gates.values()])
        self.target = _target(target, schedule, self.prices)
        self.register_buffer("steps", torch.tensor(0))
        self.register_buffer("log_weight", torch.tensor(math.log(START), dtype=torch.float64))
        self._slopes = self._prices()
        self.measured: BenchResult | None = None
        self._pressure = 0.0
        self._weights: Tensor | None = None  # pressure times slopes, one per gate
        self._bound = 0.0  # tau, while weights are to shrink
        self._amounts = [0.0] * len(self.all)  # by which the gates' weights shrink in each step
        self._proximal = any(gate.proximal for gate in self.all)
        self._cold: bool | None = None
        self._every = min(max(schedule.steps // LOOKS, OFTEN), SELDOM) if schedule else OFTEN
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
        return cls(dict(gates_of(model)), weight=weight, target=target, schedule=schedule)

    # -- reading -----------------------------------------------------------------------------------------------------
    def kept(self) -> dict[str, tuple[int, int]]:
        """Name -> (open slots, slots)."""
        return {name: (count, gate.n) for name, count, gate in zip(self.names, self._counts(), self.all, strict=True)}

    def cost(self) -> dict[str, float]:
        """Kind -> share of the cost that is left at the present widths."""
        counts = self._counts()
        return {kind: float(self.prices.ratio(kind, counts)) for kind in self.prices.KINDS}

    @property
    def hardened(self) -> bool:
        return all(gate.hardened for gate in self.all)

    def _counts(self) -> list[int]:
        counts: list[int] = torch.stack([gate.kept().sum() for gate in self.all]).tolist()
        return counts

    # -- in the loop -------------------------------------------------------------------------------------------------
    def penalty(self) -> Tensor:
        """What to add to the task loss, a scalar."""
        if not self._pressure:
            return self.all[0].values.new_zeros(())
        if self.target is None:
            return self._pressure * torch.stack([gate.penalty() for gate in self.all]).mean()
        widths = [gate.expected() for gate in self.all if not gate.proximal]
        if not widths:
            return self.all[0].values.new_zeros(())
        if self._weights is None:
            slopes = [s for s, gate in zip(self._slopes, self.all, strict=True) if not gate.proximal]
            self._weights = widths[0].new_tensor(slopes) * self._pressure
        return torch.stack(widths).dot(self._weights)

    def step(self, lr: float | None = None) -> None:
        """To be called after each step of the optimiser.

        Args:
            lr: its learning rate; wanted by proximal methods that have no target.

        Raises:
            InputError: such a method and no learning rate.
        """
        if self._proximal and not self._cold and not self.hardened:
            self._shrink(lr)
        self.steps.add_(1)
        self._sync()

    def _shrink(self, lr: float | None) -> None:
        if lr is None and self.target is None:
            raise InputError("gates.step: group lasso takes proximal steps, pass the learning rate: step(lr=...)")
        for gate, amount in zip(self.all, self._amounts, strict=True):
            if gate.proximal:
                gate.shrink(amount if self.target is not None else (lr or 0.0) * self._pressure, hold=bool(self.target))

    def _sync(self) -> None:
        """Brings freezing, pressure and slopes up to date with the step."""
        step, schedule = int(self.steps), self.schedule
        if schedule is not None and schedule.hardens(step) and not self.hardened:
            self.harden()
        if self.hardened:
            self._pressure = 0.0
            return
        cold = self._freeze(step)
        progress = 0.0 if cold else 1.0 if schedule is None else schedule.progress(step)
        if self.target is None:
            self._pressure = self.weight * progress
        elif cold:
            self._pressure = 0.0
        elif step % self._every == 0 or not self._pressure:
            self._steer(progress)
        else:
            return
        self._weights = None

    def _freeze(self, step: int) -> bool:
        """Gates learn unless they are hardened or the start is cold; returns whether it is."""
        cold = self.schedule is not None and self.schedule.is_cold(step)
        if cold != self._cold:
            self._cold = cold
            for gate in self.all:
                if gate.cold and not cold:
                    gate.warm_up()
                gate.cold = cold
                gate.requires_grad_(not (cold or gate.hardened))
        return cold

    def get_extra_state(self) -> tuple[float, float, list[float]]:
        """What steers: saved with the buffers, so that a resumed run goes on as it would have."""
        return self._pressure, self._bound, self._amounts

    def set_extra_state(self, state: tuple[float, float, list[float]]) -> None:
        self._pressure, self._bound, self._amounts = state
        self._weights = None

    def _prices(self) -> list[float]:
        """What one slot of each gate costs, in shares of the whole network.

        Taken where every gate is open: at the present widths, a layer next to one that has shrunk would get cheap, and
        the other ever dearer, until it is gone.
        """
        return [1.0] * len(self.all) if self.target is None else self.prices.slopes(self.target[0])

    def _steer(self, progress: float) -> None:
        assert self.target is not None
        assert self.schedule is not None
        kind, share = self.target
        expected = torch.stack([gate.expected().detach() for gate in self.all]).clamp(min=1).tolist()
        ratio = self.prices.ratio(kind, expected)
        actual = self.prices.ratio(kind, [max(c, 1) for c in self._counts()])
        gain = min(gate.gain for gate in self.all)
        goal = 1 + progress * (share - 1)
        if self._proximal:
            pushed = (1 + PACE) * self._bound if float(actual) > (1 + LAG) * goal else 0.0
            self._bound = max(self._weakest(goal), pushed) if float(actual) > goal else 0.0
            means = [float(_mean(gate.relative())) if gate.proximal else 0.0 for gate in self.all]
            self._amounts = [PACE * self._bound * mean for mean in means]
        error = math.log(math.sqrt(float(ratio) * float(actual)) / goal)
        self.log_weight += RATE * self._every / self.schedule.steps * error
        self._pressure = math.exp(float(self.log_weight) + gain * error)

    def _weakest(self, goal: float) -> float:
        """tau: the slots above it cost no more than the goal."""
        assert self.target is not None
        sizes = [gate.relative() / _mean(gate.relative()) for gate in self.all if gate.proximal]
        found = torch.cat(sizes).sort().values.cpu()
        low, high = -1, len(found) - 1
        while high - low > 1:
            middle = (low + high) // 2
            counts = [max(int((size > found[middle]).sum()), 1) for size in sizes]
            low, high = (low, middle) if float(self.prices.ratio(self.target[0], counts)) <= goal else (middle, high)
        return float(found[high])

    # -- the end -----------------------------------------------------------------------------------------------------
    def harden(self) -> None:
        """Freezes all masks, zero where closed; with a target, at the widths that meet it."""
        keep = [gate.kept() for gate in self.all] if self.target is None else self._best()
        for gate, mask in zip(self.all, keep, strict=True):
            gate.harden(mask)
        self._pressure = 0.0

    def _best(self) -> list[Tensor]:
        """Each gate's best slots, as many as the target affords."""
        counts, again = [], self._afford()
        for _ in range(TRIES):
            counts, self.measured = again, self.prices.measure(again)
            again = self._afford()  # a measurement changes the prices
            if self.measured is None or again == counts:
                break
        keep = []
        for gate, count in zip(self.all, counts, strict=True):
            mask = torch.zeros(gate.n, dtype=torch.bool)
            mask[torch.argsort(gate.score().cpu(), descending=True, stable=True)[:count]] = True
            keep.append(mask)
        return keep

    def _afford(self) -> list[int]:
        """How many slots the target affords: the same share of those open now for every gate."""
        assert self.target is not None
        kind, limit = self.target[0], self.target[1] + 1e-9
        open_, sizes = self._counts(), [gate.n for gate in self.all]

        def counts(factor: float) -> list[int]:
            return [min(max(int(factor * k), 1), n) for k, n in zip(open_, sizes, strict=True)]

        def fits(widths: list[int]) -> bool:
            return float(self.prices.ratio(kind, widths)) <= limit

        low, high = 0.0, float(max(sizes))
        for _ in range(40):
            middle = (low + high) / 2
            low, high = (middle, high) if fits(counts(middle)) else (low, middle)
        return self._exchange(self._fill(counts(low), fits), fits)

    def _fill(self, widths: list[int], fits: Callable[[list[int]], bool]) -> list[int]:
        """What rounding left over, one slot at a time for each gate in turn."""
        grown = True
        while grown:
            grown = False
            for i, gate in enumerate(self.all):
                more = [*widths[:i], widths[i] + 1, *widths[i + 1 :]]
                if widths[i] < gate.n and fits(more):
                    widths, grown = more, True
        return widths

    def _exchange(self, widths: list[int], fits: Callable[[list[int]], bool]) -> list[int]:
        """Where a slot is dear (a small network, widths in blocks): one gate gives so that another can grow."""
        assert self.target is not None
        kind, share = self.target
        best, reached = widths, float(self.prices.ratio(kind, widths))
        for taker, giver in itertools.permutations(range(len(self.all)), 2):
            if reached >= (1 - CLOSE) * share:
                break
            tried = list(widths)
            tried[taker] += 1
            low, high = 0, tried[giver]  # the most slots of the giver that fit
            while high - low > 1:
                tried[giver] = (low + high) // 2
                low, high = (tried[giver], high) if fits(tried) else (low, tried[giver])
            tried[giver] = low
            if low and tried[taker] <= self.all[taker].n:
                filled = self._fill(tried, fits)
                ratio = float(self.prices.ratio(kind, filled))
                best, reached = (filled, ratio) if ratio > reached else (best, reached)
        return best


def _mean(sizes: Tensor) -> Tensor:
    """Of those that are not 0; 1 where all are."""
    found = sizes[sizes > 0]
    return found.mean() if len(found) else sizes.new_ones(())


def _thaw(gates: Gates, keys: Any) -> None:
    gates._cold = None
    gates._freeze(int(gates.steps))


def _target(target: Mapping[str, float] | None, schedule: Schedule | None, cost: Cost) -> tuple[str, float] | None:
    if target is None:
        return None
    if len(target) != 1:
        raise InputError(f"target: one of {', '.join(cost.KINDS)} at a time, not {dict(target)}")
    ((kind, share),) = target.items()
    if kind not in cost.KINDS:
        raise InputError(f"target: {kind!r} is none of {', '.join(cost.KINDS)}")
    if isinstance(share, bool) or not isinstance(share, int | float) or not math.isfinite(share):
        raise InputError(f"target: the share of {kind} that is to stay is a number, not {share!r}")
    if schedule is None:
        raise InputError("target: wants a schedule, e.g. schedule=Schedule(steps=1000)")
    least = float(cost.ratio(kind, [1] * len(cost.dense)))
    if not least <= share <= 1:
        closest = f"{least:.3g}" if share < least else "1"
        raise InputError(f"target: {kind} cannot be {share} of the whole; the closest that can be reached is {closest}")
    return kind, float(share)
