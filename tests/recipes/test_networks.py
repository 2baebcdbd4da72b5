"""The papers' networks: their size is the literature's, what they compute is what their files say, and they slim."""

from __future__ import annotations

import itertools
from dataclasses import replace

import numpy as np
import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("sklearn")
import onnx  # noqa: E402
import onnxruntime as ort  # noqa: E402
from torch import nn  # noqa: E402

import onnxdam  # noqa: E402
from onnxdam.masks import DAM, export  # noqa: E402
from onnxdam.recipes import autoencoder, convnets, find, recommender  # noqa: E402
from onnxdam.recipes.data import Ratings  # noqa: E402
from onnxdam.recipes.training import train  # noqa: E402


# -- sizes -------------------------------------------------------------------------------------------------------------
def macs(network, *shape):
    """Multiply-accumulates of convolutions and linear layers for one sample, counted while the network runs."""
    total = []

    def note(module, inputs, output):
        per_output = module.weight[0].numel()
        total.append(output[0].numel() * per_output)

    for module in network.modules():
        if isinstance(module, nn.Conv2d | nn.Linear):
            module.register_forward_hook(note)
    network(torch.zeros(1, *shape, device="meta"))
    return sum(total)


SIZES = [  # network, input, parameters, multiply-accumulates; to the digits that the literature gives
    (lambda: convnets.lenet_5(), (1, 28, 28), 431_080, 2.293e6),
    (lambda: convnets.preresnet(20), (3, 32, 32), 0.27e6, 40.8e6),
    (lambda: convnets.preresnet(56), (3, 32, 32), 0.85e6, 126e6),
    (lambda: convnets.preresnet(164), (3, 32, 32), 1.70e6, 250e6),
    (lambda: convnets.vgg(16), (3, 32, 32), 14.72e6, 313.2e6),
    (lambda: convnets.vgg(19), (3, 32, 32), 20.04e6, 398e6),
    (lambda: convnets.resnet_18(), (3, 32, 32), 11.17e6, 556e6),
    (lambda: autoencoder.Autoencoder(), (784,), 2 * (100352 + 8192 + 2048 + 1600) + 224 + 50 + 224 + 784, 224_384),
]


@pytest.mark.parametrize("make, shape, parameters, operations", SIZES)
def test_size_is_that_of_the_literature(make, shape, parameters, operations):
    with torch.device("meta"):
        network = make()
    assert sum(p.numel() for p in network.parameters()) == pytest.approx(parameters, rel=0.01)
    assert macs(network, *shape) == pytest.approx(operations, rel=0.015)


def test_there_is_no_preresnet_of_depth_21():
    with pytest.raises(ValueError, match="no PreResNet of depth 21"):
        convnets.preresnet(21)


# -- what they compute -------------------------------------------------------------------------------------------------
def test_adjacency_is_normalised_and_sparse_or_dense_is_the_same():
    recipe = find("gcn")
    data = recipe.load(None)
    nodes = len(data.graph.x)
    plain = np.eye(nodes)
    for a, b in data.graph.edges.tolist():
        plain[a, b] = plain[b, a] = 1
    root = np.diag(plain.sum(1) ** -0.5)
    np.testing.assert_allclose(data.adjacency.numpy(), root @ plain @ root, rtol=1e-5)
    network = recipe.network(data).eval()
    torch.testing.assert_close(network(data.graph.x, data.sparse), network(data.graph.x, data.adjacency))


@pytest.fixture(scope="module")
def ratings():
    return find("recommender").load(None)


def test_subgraph_holds_the_ratings_among_neighbours_and_hides_its_own():
    matrix = torch.tensor([[5.0, 3.0, 0.0, 1.0], [4.0, 0.0, 2.0, 0.0], [0.0, 1.0, 1.0, 3.0]])
    pairs = matrix.nonzero()
    data = recommender.neighbourhoods(
        Ratings(matrix, pairs, pairs[:0], pairs[:0], torch.tensor([1.0, 2.0, 3.0, 4.0, 5.0]))
    )
    found = recommender.subgraphs(data, torch.tensor([[0, 0]]), tight=True)
    # users: 0, then 1, who rated item 0 too; items: 0, then 1 and 3, which user 0 rated too; numbers are ratings here
    assert found.tolist() == [[[0, 3, 1], [4, 0, 0]]]
    found = recommender.subgraphs(data, torch.tensor([[1, 1]]))  # not rated: nothing to hide, all neighbours are there
    assert sorted(found[0, 1:, 1:].flatten().tolist()) == [0] * (found[0, 1:, 1:].numel() - 2) + [1, 5]
    assert sorted(found[0, 0].tolist())[-2:] == [2, 4] and sorted(found[0, :, 0].tolist())[-2:] == [1, 3]


def test_padding_of_subgraphs_changes_nothing(ratings):
    network = find("recommender").network(ratings).eval()
    pairs = ratings.ratings.train[:6]
    loose, tight = recommender.subgraphs(ratings, pairs), recommender.subgraphs(ratings, pairs, tight=True)
    assert loose.shape != tight.shape
    torch.testing.assert_close(network(loose), network(tight))


def test_convolution_is_the_sum_over_relations(ratings):
    layer = recommender.Relational(4, 3, 5)
    graphs = torch.randint(0, 6, (1, 4, 6))
    users, items = torch.randn(1, 4, 4), torch.randn(1, 6, 4)
    wanted = layer.root(users[0])
    for u, v in itertools.product(range(4), range(6)):
        number = int(graphs[0, u, v])
        if number:
            weight = sum(a * basis.weight for a, basis in zip(layer.mix.weight[number], layer.bases, strict=True))
            wanted[u] = wanted[u] + weight @ items[0, v] / (graphs[0, u] > 0).sum()
    torch.testing.assert_close(layer(users, items, graphs)[0][0], torch.tanh(wanted))


def test_augmentation_moves_and_mirrors():
    x = torch.rand(40, 2, 5, 6)
    moved = convnets.augmented(x, 1, True)
    padded = nn.functional.pad(x, [1] * 4)
    options = [
        view
        for dy, dx in itertools.product(range(3), range(3))
        for view in (padded[:, :, dy : dy + 5, dx : dx + 6], padded[:, :, dy : dy + 5, dx : dx + 6].flip(3))
    ]
    same = torch.stack([(moved == view).flatten(1).all(1) for view in options])
    assert same.any(0).all()
    assert same.any(1).sum() > 6  # not always the same one
    assert convnets.augmented(x, 0, False) is x


def test_l1_gate_closes_what_its_penalty_pushes_to_zero():
    gate = autoencoder.L1(4)
    assert gate.kept().all() and gate.penalty() == 1
    with torch.no_grad():
        gate.mu.copy_(torch.tensor([-0.1, 0.0, 0.5, 1.5]))
    assert gate.mask().tolist() == [0, 0, 0.5, 1.5]
    assert gate.kept().tolist() == [False, False, True, True]
    assert gate.penalty() == 0.5 and gate.expected() == 2


# -- gates, files, slim files ------------------------------------------------------------------------------------------
def prepared(name, **changes):
    """A recipe's network with its DAM gates, about a third of each closed."""
    torch.manual_seed(0)
    recipe = find(name)
    data = recipe.load(None)
    network = recipe.network(data)
    for module in network.modules():
        if isinstance(module, nn.BatchNorm2d):
            nn.init.uniform_(module.bias, -0.5, 0.5)
    settings = replace(recipe.settings, method="dam", **changes)
    gates = recipe.gates(network, data, settings, settings.schedule(100))
    with torch.no_grad():
        for gate in gates.all:
            assert isinstance(gate, DAM)
            gate.beta.fill_(-1.7)
    gates.harden()
    return network.eval(), gates, recipe.example(data)


def check(network, gates, example, path, *, dynamo=False):
    """Masked torch = masked ONNX = slim ONNX, at two batch sizes; returns the slim model, narrow to the last channel."""
    masked = onnx.load(export(network, gates, example, path, dynamo=dynamo))
    slim, _ = onnxdam.slim(masked, align="none")
    sessions = [ort.InferenceSession(model.SerializeToString()) for model in (masked, slim)]
    for args in (example, tuple(torch.cat([x, x[:1]]) for x in example)):
        with torch.no_grad():
            wanted = network(*args).numpy()
        for session in sessions:
            found = session.run(None, {i.name: x.numpy() for i, x in zip(session.get_inputs(), args, strict=True)})[0]
            np.testing.assert_allclose(found, wanted, rtol=1e-4, atol=1e-5 * max(1, np.abs(wanted).max()))
    return slim


def weights(model):
    """Entries of the weights of convolutions and linear layers."""
    used = {node.input[1] for node in model.graph.node if node.op_type in ("Conv", "Gemm", "MatMul")}
    return sum(int(np.prod(i.dims)) for i in model.graph.initializer if i.name in used)


def chain_weights(network, kept):
    """What the weights of a chain of layers come to at those widths, in the order of the layers."""
    layers = [(n, m) for n, m in network.named_modules() if isinstance(m, nn.Conv2d | nn.Linear)]
    total, before, width = 0, None, None
    for name, layer in layers:
        outs, ins, *window = layer.weight.shape
        left = ins if before is None else ins // before * width
        before, width = outs, kept.get(name, (outs, outs))[0]
        total += width * left * int(np.prod(window))
    return total


@pytest.mark.parametrize("name", ["autoencoder", "lenet-5", "vgg-16"])
def test_chain_slims_to_the_kept_widths(name, tmp_path):
    network, gates, example = prepared(name, target=None)
    slim = check(network, gates, example, tmp_path / "masked.onnx")
    kept = gates.kept()
    assert all(0 < k < n for k, n in kept.values())
    assert weights(slim) == chain_weights(network, kept)


@pytest.mark.parametrize("name", ["preresnet-20", "resnet-18"])
def test_residual_network_slims_to_the_kept_widths(name, tmp_path):
    network, gates, example = prepared(name, target=None)
    slim = check(network, gates, example, tmp_path / "masked.onnx")
    counts = [k for k, _ in gates.kept().values()]
    convolutions = [i for i in slim.graph.initializer if len(i.dims) == 4]
    assert len(convolutions) == sum(isinstance(m, nn.Conv2d) for m in network.modules())
    assert {i.dims[0] for i in convolutions} <= set(counts)
    assert weights(slim) < 0.6 * sum(p.numel() for p in network.parameters() if p.dim() > 1)


def test_preresnet_164_has_the_gates_of_its_authors(tmp_path):
    network, gates, example = prepared("preresnet-164")
    assert len(gates.all) == 163
    assert gates.weight == 0.2
    slim = check(network, gates, example, tmp_path / "masked.onnx")
    left = {gate.n: int(gate.kept().sum()) for gate in gates.all}
    wanted, stream = left[16] * 9, left[16]  # the stem reads one colour; its stream is as narrow as its gate
    carried = 0  # dead channels are constants that do not reach into the padding: one of them may have to stay
    for width in (16, 32, 64):
        inner, full = left[width], 4 * width  # later streams are whole: shortcuts have no gate
        wanted += stream * full  # the shortcut
        for _ in range(18):
            wanted += stream * inner + 9 * inner**2 + inner * full
            carried += stream + 9 * inner
            stream = full
    assert wanted + 256 * 10 <= weights(slim) <= wanted + 256 * 10 + carried


def test_graph_network_slims_its_hidden_units(tmp_path):
    network, gates, example = prepared("gcn")
    slim = check(network, gates, example, tmp_path / "masked.onnx", dynamo=True)
    ((hidden, _),) = gates.kept().values()
    assert {tuple(i.dims) for i in slim.graph.initializer if len(i.dims) == 2} == {(64, hidden), (hidden, 10)}


def test_recommender_slims_its_head(tmp_path):
    network, gates, example = prepared("recommender")
    slim = check(network, gates, example, tmp_path / "masked.onnx")
    ((hidden, whole),) = gates.kept().values()
    assert whole == 128 and 0 < hidden < 128
    shapes = [tuple(i.dims) for i in slim.graph.initializer]
    assert (hidden, 256) in shapes or (256, hidden) in shapes
    assert (1, hidden) in shapes or (hidden, 1) in shapes


def test_autoencoder_trains_with_l1():
    recipe = find("autoencoder")
    data = recipe.load(None)
    got = train(recipe, data, replace(recipe.settings, method="l1", epochs=10, weight=500.0, lr=0.1))
    assert got.kept["gate"][0] == 0  # so strong a penalty closes all
    assert got.last == pytest.approx(got.test)
