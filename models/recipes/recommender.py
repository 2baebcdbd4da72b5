"""A recommender that looks at enclosing subgraphs (IGMC: Zhang and Chen, ICLR 2020, arXiv 1904.12058), with a gate.

To rate item v for user u, take all users who rated v and all items that u rated, and the ratings among them. Nodes
start as one of four labels: the user u, the item v, other users, other items. Four relational graph convolutions with
shared bases, in both directions of the bipartite graph, then the two target nodes' states, all layers':

    h_i' = tanh(W0 h_i + b + mean over neighbours j of  sum_k a_k(rating_ij) V_k h_j)
    z    = ReLU(L1 [h_u, h_v]),  rating = L2 (gate(z))                 2 * 4 * 32 -> 128 -> 1

The gate on the 128 units takes the place of dropout, as in the experiment of discriminative masking (arXiv
2110.00684): lambda 0.1, Adam 1e-3, batches of 50. Ours differs from the authors' in this: the mean is over all
neighbours, not over those of each rating; of more than 64 neighbours the first ones are taken; there are no random edge
deletions and no penalty on neighbouring ratings' weights; features of users and items are not used.

The network's input is a batch of subgraphs: matrices of rating numbers (0: none), u in row 0 and v in column 0.
"""

from __future__ import annotations

import itertools
import math
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn

from .data import Ratings, load_ratings
from .recipe import Metric, Recipe, Settings, Split

LAYERS, WIDTH, UNITS, BASES = 4, 32, 128, 4


@dataclass(frozen=True)
class Neighbourhoods:
    """Ratings, and who is next to whom in training.

    Attributes:
        ratings: the data.
        numbers: number of every rating known in training, 1 to len(ratings.values); 0: none; (users + 1, items + 1),
            the last row and column empty.
        of_user: items that a user rated, shape (users, most neighbours), padded with the number of items.
        of_item: users who rated an item, likewise.
    """

    ratings: Ratings
    numbers: Tensor
    of_user: Tensor
    of_item: Tensor


def neighbourhoods(ratings: Ratings, most: int = 64) -> Neighbourhoods:
    """Of the training ratings; of more than `most` neighbours the first ones."""
    users, items = ratings.matrix.shape
    numbers = torch.zeros(users + 1, items + 1, dtype=torch.int64)
    user, item = ratings.train.T
    numbers[user, item] = 1 + torch.searchsorted(ratings.values, ratings.matrix[user, item])
    known = numbers[:-1, :-1] > 0
    return Neighbourhoods(ratings, numbers, _padded(known, most), _padded(known.T, most))


def _padded(known: Tensor, most: int) -> Tensor:
    """For each row the numbers of its first true columns, then the number of columns."""
    width = min(int(known.sum(1).max()), most)
    order = known.to(torch.int8).argsort(dim=1, descending=True, stable=True)[:, :width]
    return torch.where(known.gather(1, order), order, known.shape[1])


def subgraphs(data: Neighbourhoods, pairs: Tensor, *, tight: bool = False) -> Tensor:
    """Rating numbers among the enclosing nodes of every pair; the rating of the pair itself is hidden.

    Args:
        data: what is known.
        pairs: (user, item), shape (batch, 2).
        tight: pad to the largest subgraph of the batch only; padding changes nothing but the time it takes.

    Returns:
        Shape (batch, 1 + users, 1 + items), int64, padded with zeros to the largest of all subgraphs.
    """
    user, item = pairs[:, :1], pairs[:, 1:]
    around_item, around_user = data.of_item[item[:, 0]], data.of_user[user[:, 0]]
    none_user, none_item = (n - 1 for n in data.numbers.shape)
    others = torch.where(around_item == user, none_user, around_item)  # u and v themselves come first
    things = torch.where(around_user == item, none_item, around_user)
    if tight:
        others, things = _tightened(others, none_user), _tightened(things, none_item)
    users, items = torch.cat([user, others], 1), torch.cat([item, things], 1)
    found = data.numbers[users[:, :, None], items[:, None, :]]
    found[:, 0, 0] = 0
    return found


def _tightened(numbers: Tensor, none: int) -> Tensor:
    """Without the columns that hold nothing in any row, but with one at least."""
    used = int((numbers != none).sum(1).max())
    return numbers.sort(1).values[:, : max(used, 1)]  # the padding is the largest number


class Relational(nn.Module):
    """One relational graph convolution with bases, on the bipartite graph of users and items.

    Args:
        inputs, outputs: widths of the nodes' states.
        ratings: how many different ratings there are.
    """

    def __init__(self, inputs: int, outputs: int, ratings: int) -> None:
        super().__init__()
        self.root = nn.Linear(inputs, outputs)
        self.bases = nn.ModuleList(nn.Linear(inputs, outputs, bias=False) for _ in range(BASES))
        self.mix = nn.Embedding(ratings + 1, BASES, padding_idx=0)  # a_k(rating); no edge weighs nothing

    def forward(self, users: Tensor, items: Tensor, graphs: Tensor) -> tuple[Tensor, Tensor]:
        """New states of users and items.

        Args:
            users, items: (batch, nodes, inputs).
            graphs: rating numbers, (batch, users, items).
        """
        edges = self.mix(graphs).permute(3, 0, 1, 2).contiguous()
        known = (graphs > 0).to(edges.dtype)
        per_user, per_item = (1 / known.sum(axis)[..., None].clamp(min=1) for axis in (2, 1))
        to_users = sum(a @ basis(items) for a, basis in zip(edges, self.bases, strict=False))
        to_items = sum(a.transpose(1, 2) @ basis(users) for a, basis in zip(edges, self.bases, strict=False))
        return torch.tanh(self.root(users) + per_user * to_users), torch.tanh(self.root(items) + per_item * to_items)


class IGMC(nn.Module):
    """Rates pairs by their enclosing subgraphs.

    Args:
        ratings: how many different ratings there are.
        mean, std: of the ratings; the last layer works in these units.
        dropout: before the last layer, in training; with a gate there: 0.
    """

    mean: Tensor
    std: Tensor

    def __init__(self, ratings: int, mean: float = 0.0, std: float = 1.0, dropout: float = 0.0) -> None:
        super().__init__()
        widths = [4] + [WIDTH] * LAYERS
        self.layers = nn.ModuleList(Relational(a, b, ratings) for a, b in itertools.pairwise(widths))
        self.first, self.second = nn.Linear(2 * LAYERS * WIDTH, UNITS), nn.Linear(UNITS, 1)
        self.dropout = nn.Dropout(dropout)
        self.register_buffer("mean", torch.tensor(mean))
        self.register_buffer("std", torch.tensor(std))

    def forward(self, graphs: Tensor) -> Tensor:
        """Ratings, shape (batch,).

        Args:
            graphs: rating numbers, (batch, users, items), the pair asked for in row 0 and column 0.
        """
        users, items = (_labels(graphs, axis) for axis in (1, 2))
        seen = []
        for layer in self.layers:
            users, items = layer(users, items, graphs)
            seen += [users[:, 0], items[:, 0]]
        hidden = torch.relu(self.first(torch.cat(seen, 1)))
        rating: Tensor = self.second(self.dropout(hidden))[:, 0] * self.std + self.mean
        return rating


def _labels(graphs: Tensor, axis: int) -> Tensor:
    """One of four labels for each node, as a vector: users (axis 1) or items (axis 2); the first one is the target."""
    batch, nodes = graphs.shape[0], graphs.shape[axis]
    eye = torch.eye(4, device=graphs.device)
    first, others = eye[axis - 1], eye[axis + 1]
    return torch.cat([first.expand(batch, 1, 4), others.expand(batch, nodes - 1, 4)], 1)


@dataclass(frozen=True)
class RecommenderRecipe(Recipe[Neighbourhoods]):
    """Learns the ratings; root mean squared error, clipped to the range of the ratings.

    Attributes:
        dropout: before the last layer, for runs without a gate.
        neighbours: of a user, and of an item, that are looked at.
    """

    dropout: float = 0.0
    neighbours: int = 64

    def load(self, path: str | Path | None, seed: int = 0) -> Neighbourhoods:
        return neighbourhoods(load_ratings(path), self.neighbours)

    def network(self, data: Neighbourhoods) -> nn.Module:
        user, item = data.ratings.train.T
        known = data.ratings.matrix[user, item]
        return IGMC(len(data.ratings.values), float(known.mean()), float(known.std().clamp(min=1e-3)), self.dropout)

    def example(self, data: Neighbourhoods) -> tuple[Tensor, ...]:
        return (subgraphs(data, data.ratings.train[:2]),)

    def samples(self, data: Neighbourhoods) -> int:
        return len(data.ratings.train)

    def loss(self, network: nn.Module, data: Neighbourhoods, rows: Tensor) -> Tensor:
        pairs = data.ratings.train[rows.to(data.ratings.train.device)]
        wanted = data.ratings.matrix[pairs[:, 0], pairs[:, 1]]
        assert isinstance(network, IGMC)
        return nn.functional.mse_loss(network(subgraphs(data, pairs, tight=True)) / network.std, wanted / network.std)

    def metric(self, network: nn.Module, data: Neighbourhoods, split: Split) -> float:
        pairs: Tensor = getattr(data.ratings, split)
        low, high = float(data.ratings.values[0]), float(data.ratings.values[-1])
        found = torch.cat([network(subgraphs(data, some)) for some in pairs.split(100)]).clamp(low, high)
        return math.sqrt(nn.functional.mse_loss(found, data.ratings.matrix[pairs[:, 0], pairs[:, 1]]))


RECIPES = (
    RecommenderRecipe(
        name="recommender",
        about="IGMC: relational graph convolutions over enclosing subgraphs, a gate on the 128 units of the head",
        data="ratings as Flixster, Douban, YahooMusic; else the brightness of digits' pixels",
        settings=Settings(epochs=100, batch=50, lr=1e-3, gate_lr=1.0, weight=0.1, cold=0.0, ramp=0.0, harden=0.8),
        metric_kind=Metric("RMSE"),
        include=("first",),
        options={"dam": {"floor": None}},
    ),
)
