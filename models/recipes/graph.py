"""A graph convolutional network on a citation graph, with a gate on its hidden units, and on the features if asked for.

    A' = D^-1/2 (A + I) D^-1/2
    y  = A' ReLU(A' x W1 + b1) W2 + b2                               (Kipf and Welling, ICLR 2017, arXiv 1609.02907)

Adam 0.01, 200 epochs of the whole graph, weight decay 5e-4, dropout 0.5 before both products, as theirs; 64 hidden
units where they have 16, so that there is something to find out. Features and adjacency are inputs of the exported
network, (graphs, nodes, features) and (graphs, nodes, nodes): it serves other graphs too, and hidden units that leave
take columns of W1 and rows of W2 along.
"""

from __future__ import annotations

import functools
import warnings
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn

from .data import Graph, load_graph
from .recipe import Recipe, Settings, Split


@dataclass(frozen=True)
class Citations:
    """A graph and its normalised adjacency A', shape (nodes, nodes)."""

    graph: Graph
    adjacency: Tensor

    @functools.cached_property
    def sparse(self) -> Tensor:
        """The adjacency in CSR form, to train with: of Cora's entries one in 550 is not zero."""
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", UserWarning)  # torch calls the format a beta version
            return self.adjacency.to_sparse_csr()


def normalised_adjacency(graph: Graph) -> Tensor:
    """A' of the graph, dense, shape (nodes, nodes)."""
    nodes = len(graph.x)
    adjacency = torch.eye(nodes)
    first, second = graph.edges.T
    adjacency[first, second] = adjacency[second, first] = 1.0
    scale = adjacency.sum(1).rsqrt()
    return adjacency * scale[:, None] * scale


class GCN(nn.Module):
    """Two layers of graph convolution.

    Args:
        features, hidden, classes: widths.
        dropout: share that is dropped before each layer, in training.
    """

    def __init__(self, features: int, hidden: int, classes: int, dropout: float = 0.5) -> None:
        super().__init__()
        self.first, self.second = nn.Linear(features, hidden), nn.Linear(hidden, classes)
        self.dropout = nn.Dropout(dropout)
        for layer in (self.first, self.second):
            nn.init.xavier_uniform_(layer.weight)
            nn.init.zeros_(layer.bias)

    def forward(self, x: Tensor, adjacency: Tensor) -> Tensor:
        """Scores of every node.

        Args:
            x: (graphs, nodes, features), or without the first axis.
            adjacency: normalised, (graphs, nodes, nodes), likewise; without it may be sparse.
        """
        # the bias after the product with the adjacency: rows of A' do not sum to 1
        hidden = torch.relu(adjacency @ (self.dropout(x) @ self.first.weight.T) + self.first.bias)
        scores: Tensor = adjacency @ (self.dropout(hidden) @ self.second.weight.T) + self.second.bias
        return scores


@dataclass(frozen=True)
class GraphRecipe(Recipe[Citations]):
    """Classifies the nodes of one graph; every step is over the whole of it.

    Attributes:
        hidden: units.
    """

    hidden: int = 64

    def load(self, path: str | Path | None, seed: int = 0) -> Citations:
        graph = load_graph(path)
        return Citations(graph, normalised_adjacency(graph))

    def network(self, data: Citations) -> nn.Module:
        return GCN(data.graph.x.shape[1], self.hidden, data.graph.classes)

    def example(self, data: Citations) -> tuple[Tensor, ...]:
        return data.graph.x.expand(2, -1, -1), data.adjacency.expand(2, -1, -1)

    def samples(self, data: Citations) -> int:
        return len(data.graph.train)

    def loss(self, network: nn.Module, data: Citations, rows: Tensor) -> Tensor:
        nodes = data.graph.train[rows.to(data.graph.train.device)]
        return nn.functional.cross_entropy(network(data.graph.x, data.sparse)[nodes], data.graph.y[nodes])

    def metric(self, network: nn.Module, data: Citations, split: Split) -> float:
        nodes: Tensor = getattr(data.graph, split)
        found = network(data.graph.x, data.sparse)[nodes].argmax(1)
        return 100 * float((found != data.graph.y[nodes]).float().mean())


RECIPES = (
    GraphRecipe(
        name="gcn",
        about="graph convolution in two layers, 64 hidden units, a gate on them",
        data="a citation graph as Cora; else the digits of scikit-learn, joined to their nearest neighbours",
        settings=Settings(epochs=200, batch=None, lr=0.01, gate_lr=1.0, weight=0.1, decay=5e-4, harden=0.8),
        every=5,
        include=("first",),
    ),
)
