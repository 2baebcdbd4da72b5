"""Images of digits as another hand might have written them: turned, stretched, sheared, shifted and bent a little."""

from __future__ import annotations

import math

import torch
from torch import Tensor
from torch.nn import functional

TURN = math.radians(8)
STRETCH = 0.08  # of either axis, up or down
SHEAR = 0.08
SHIFT = 0.05  # of half the side: 0.7 pixels of 28
BEND = 0.07  # standard deviation of how far a point moves, of half the side, smooth over a seventh of it
KNOTS = 7


def warped(x: Tensor, columns: Tensor) -> Tensor:
    """Pixels of images, each of which is warped at random.

    Args:
        x: square images row by row, shape (samples, side * side).
        columns: the pixels that are wanted; only these are computed.

    Returns:
        Shape (samples, pixels wanted).
    """
    count, side = len(x), math.isqrt(x.shape[1])
    rows, places = columns // side, columns % side
    at = (2 * torch.stack([places, rows], 1).to(x) + 1) / side - 1  # (pixels, 2): right and down, -1 to 1

    def between(limit: float) -> Tensor:
        return x.new_empty(count).uniform_(-limit, limit)

    turn, right, down = between(TURN), 1 + between(STRETCH), 1 + between(STRETCH)
    to_right = torch.stack([turn.cos() * right, between(SHEAR) - turn.sin() * down], 1)
    to_bottom = torch.stack([turn.sin() * right, turn.cos() * down], 1)
    moved = torch.stack([to_right @ at.T, to_bottom @ at.T], 2)
    moved += torch.stack([between(SHIFT), between(SHIFT)], 1)[:, None]
    field = BEND * torch.randn(count, 2, KNOTS, KNOTS, dtype=x.dtype, device=x.device)
    where = at.expand(count, 1, *at.shape)
    moved += functional.grid_sample(field, where, align_corners=True)[:, :, 0].transpose(1, 2)
    seen = functional.grid_sample(x.view(count, 1, side, side), moved[:, None], align_corners=False)
    return seen.view(count, len(columns))
