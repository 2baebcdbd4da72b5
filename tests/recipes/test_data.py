"""Data sets: what is read, and one clear line about each file that does not fit."""

from __future__ import annotations

import io
import re

import numpy as np
import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("sklearn")
from PIL import Image  # noqa: E402

from onnxdam.errors import InputError  # noqa: E402
from onnxdam.recipes.data import load_classes, load_graph, load_ratings  # noqa: E402

RNG = np.random.default_rng(0)


def images(**changes):
    arrays = dict(
        x_train=RNG.integers(0, 256, (24, 5, 4), dtype=np.uint8),
        y_train=np.arange(24) % 3,
        x_test=RNG.integers(0, 256, (6, 5, 4), dtype=np.uint8),
        y_test=np.arange(6) % 3,
    )
    return arrays | changes


def archive(pixels):
    files = []
    for image in pixels:
        buffer = io.BytesIO()
        Image.fromarray(image).save(buffer, "JPEG", quality=100, subsampling=0)
        files.append(buffer.getvalue())
    return np.frombuffer(b"".join(files), np.uint8), np.cumsum([0, *map(len, files)])


def smooth(count):
    """Images that JPEG hardly changes."""
    return np.broadcast_to(RNG.integers(0, 256, (count, 1, 1, 3)), (count, 8, 8, 3)).astype(np.uint8)


def graph(**changes):
    arrays = dict(
        feat_indptr=np.array([0, 2, 2, 3, 4]),
        feat_indices=np.array([0, 2, 1, 2]),
        edges=np.array([[0, 1], [1, 2]]),
        y=np.array([0, 1, 1, -1]),
        idx_train=np.array([0]),
        idx_val=np.array([1]),
        idx_test=np.array([2]),
    )
    return arrays | changes


def ratings(**changes):
    known = np.zeros((6, 5), np.int8)
    known[:4] = 1
    arrays = dict(M=RNG.integers(1, 6, (6, 5)), Otraining=known, Otest=1 - known)
    return arrays | changes


def saved(folder, arrays):
    np.savez(folder / "d.npz", **{k: v for k, v in arrays.items() if v is not None})
    return folder / "d.npz"


def test_images_flat_and_not(tmp_path):
    arrays = images()
    path = saved(tmp_path, arrays)
    flat, whole = load_classes(path), load_classes(path, image=True)
    assert flat.x_train.shape == (22, 20) and whole.x_train.shape == (22, 1, 5, 4)
    assert len(flat.x_valid) == 2 and len(flat.x_test) == 6 and flat.classes == 3
    np.testing.assert_allclose(whole.x_valid[:, 0].numpy(), arrays["x_train"][22:] / 255, rtol=1e-6)
    assert flat.y_valid.tolist() == [1, 2]


def test_colours_come_first_and_numbers_stay(tmp_path):
    x = RNG.random((24, 5, 4, 3))
    found = load_classes(saved(tmp_path, images(x_train=x, x_test=x[:6])), image=True)
    np.testing.assert_allclose(found.x_train[3, 2].numpy(), x[3, :, :, 2], rtol=1e-6)


def test_colours_may_come_first_already(tmp_path):
    x = RNG.integers(0, 256, (24, 3, 8, 9), dtype=np.uint8)
    found = load_classes(saved(tmp_path, images(x_train=x, x_test=x[:6])), image=True)
    np.testing.assert_allclose(found.x_train[5].numpy(), x[5] / 255, rtol=1e-6)


@pytest.mark.parametrize("kind", [np.int64, np.float32, np.uint16])
def test_pixels_that_are_no_bytes_are_told(kind, tmp_path):
    arrays = images()
    path = saved(tmp_path, arrays | {"x_train": arrays["x_train"].astype(kind)})
    with pytest.warns(UserWarning, match=r"d\.npz: x_train reaches from \d to 25\d and is taken as it is; only bytes"):
        assert load_classes(path).x_train.max() > 200


def test_samples_sorted_by_class_are_shuffled(tmp_path):
    arrays = images(y_train=np.arange(24) // 8)
    found = load_classes(saved(tmp_path, arrays))
    assert set(found.y_valid.tolist()) != {2}
    where = [(arrays["x_train"].reshape(24, -1) / np.float32(255) == x.numpy()).all(1).argmax() for x in found.x_train]
    assert found.y_train.tolist() == [i // 8 for i in where]


def test_archive_in_two_halves(tmp_path):
    train, test = smooth(24), smooth(6)
    halves = {"y_train": np.arange(24) % 3, "y_test": np.arange(6) % 3}
    for name, pixels in (("train", train), ("test", test)):
        halves[f"jpeg_{name}"], halves[f"off_{name}"] = archive(pixels)
    found = load_classes(saved(tmp_path, halves), image=True)
    assert found.x_train.shape == (22, 3, 8, 8)
    np.testing.assert_allclose(255 * found.x_test.numpy(), np.moveaxis(test, -1, 1), atol=3)


def test_archive_with_a_split(tmp_path):
    pixels = smooth(30)
    jpeg, off = archive(pixels)
    split = np.arange(30) % 5 == 0
    path = saved(tmp_path, dict(jpeg=jpeg, off=off, y=np.arange(30) % 3, split=split.astype(np.uint8)))
    found = load_classes(path, image=True)
    np.testing.assert_allclose(255 * found.x_test.numpy(), np.moveaxis(pixels[split], -1, 1), atol=3)
    assert found.y_test.tolist() == [0, 2, 1, 0, 2, 1]


def test_changed_archive_is_read_anew(tmp_path):
    for _ in range(2):
        pixels = smooth(30)
        jpeg, off = archive(pixels)
        path = saved(tmp_path, dict(jpeg=jpeg, off=off, y=np.arange(30) % 3, split=np.arange(30) % 2))
        np.testing.assert_allclose(
            255 * load_classes(path, image=True).x_test.numpy(), np.moveaxis(pixels[1::2], -1, 1), atol=3
        )


def test_graph(tmp_path):
    found = load_graph(saved(tmp_path, graph()))
    assert found.x.tolist() == [[0.5, 0, 0.5], [0, 0, 0], [0, 1, 0], [0, 0, 1]]
    assert found.edges.tolist() == [[0, 1], [1, 2]] and found.classes == 2
    assert (found.train.tolist(), found.valid.tolist(), found.test.tolist()) == ([0], [1], [2])


def test_ratings(tmp_path):
    arrays = ratings()
    found = load_ratings(saved(tmp_path, arrays))
    assert len(found.train) == 18 and len(found.valid) == 2 and len(found.test) == 10
    both = torch.cat([found.train, found.valid])
    assert sorted(map(tuple, both.tolist())) == [tuple(p) for p in np.argwhere(arrays["Otraining"]).tolist()]
    assert found.values.tolist() == sorted(set(found.matrix[tuple(found.train.T)].tolist()))


@pytest.mark.parametrize("load", [load_classes, load_graph, load_ratings])
def test_without_a_file_scikit_learn_serves(load):
    load()


WRONG_IMAGES = [
    (
        dict(x_test=None),
        r"d\.npz: not an \.npz with x_train, y_train, x_test and y_test, or jpeg_train.*it has x_train",
    ),
    (dict(x_train=np.array([{}])), "holds pickled objects, which are not loaded"),
    (dict(x_train=np.zeros((24, 5, 5))), "x_test has shape .6, 5, 4.; .* alike for training and testing"),
    (dict(x_train=np.zeros(24)), "x_train has shape .24,."),
    (dict(x_train=np.full((24, 5, 4), np.nan)), "x_train has values that are not finite"),
    (dict(y_train=np.arange(23)), "y_train has shape .23,. .* for each of the 24 samples"),
    (dict(y_train=np.full(24, -1)), "class number, 0 or more"),
    (dict(y_train=np.full(24, 0.5)), "y_train has shape .24,. and type float64"),
    (dict(x_train=np.zeros((3, 5, 4)), y_train=np.arange(3)), "3 training samples are too few to keep 1 in 12"),
    (dict(x_train=np.full((24, 5, 4), 1e300)), "not finite, or beyond what float32 can hold"),
    (dict(x_test=np.zeros((0, 5, 4)), y_test=np.zeros(0, int)), "x_test holds no samples"),
    (dict(x_train=np.zeros((24, 1, 1, 5, 4)), x_test=np.zeros((6, 1, 1, 5, 4))), "x_train has shape .24, 1, 1, 5, 4."),
    (dict(x_train=np.full((24, 5, 4), "a")), "x_train must hold numbers, not <U1"),
    (dict(y_train=np.zeros(24, int)), "y_train holds only the class 0; there is nothing to tell apart"),
    (dict(y_train=np.arange(24) % 3 * 1000), "y_train holds 3 classes with numbers up to 2000; number them from 0"),
    (dict(y_test=np.arange(6)), "y_test has the class 3, which y_train lacks"),
]


@pytest.mark.parametrize("changes, words", WRONG_IMAGES)
def test_wrong_images(changes, words, tmp_path):
    with pytest.raises(InputError, match=words) as caught:
        load_classes(saved(tmp_path, images(**changes)))
    assert "\n" not in str(caught.value)


def test_vectors_are_no_images(tmp_path):
    with pytest.raises(InputError, match="images are wanted, not feature vectors"):
        load_classes(saved(tmp_path, images(x_train=np.zeros((24, 4)), x_test=np.zeros((6, 4)))), image=True)


WRONG_ARCHIVES = [
    (dict(off=[0, 5]), r"off must rise from 0 to the length of jpeg"),
    (dict(jpeg=b"x" * 1000), "image 0 of jpeg cannot be decoded"),
    (dict(split=[3] * 30), "split and y want one entry per image .30., split 0 or 1"),
    (dict(y=[0] * 29), "split and y want one entry per image"),
]


@pytest.mark.parametrize("changes, words", WRONG_ARCHIVES)
def test_wrong_archives(changes, words, tmp_path):
    jpeg, off = archive(smooth(30))
    if "jpeg" in changes:
        jpeg = np.frombuffer((changes["jpeg"] * 100)[: len(jpeg)], np.uint8)
    arrays = dict(jpeg=jpeg, off=off, y=np.arange(30) % 3, split=np.arange(30) % 2)
    arrays |= {k: np.array(v) for k, v in changes.items() if k != "jpeg"}
    with pytest.raises(InputError, match=words):
        load_classes(saved(tmp_path, arrays))


def test_images_of_two_sizes(tmp_path):
    jpeg, off = archive([*smooth(3), np.zeros((4, 4, 3), np.uint8)])
    with pytest.raises(InputError, match=r"image 3 of jpeg is \(4, 4\), the first one \(8, 8\)"):
        load_classes(saved(tmp_path, dict(jpeg=jpeg, off=off, y=np.zeros(4, int), split=np.zeros(4, int))))


def test_missing_pillow_is_told(tmp_path, monkeypatch):
    jpeg, off = archive(smooth(4))
    path = saved(tmp_path, dict(jpeg=jpeg, off=off, y=np.zeros(4, int), split=np.zeros(4, int)))
    monkeypatch.setitem(__import__("sys").modules, "PIL", None)
    with pytest.raises(InputError, match="its images are JPEG files; to read them: pip install pillow"):
        load_classes(path)


WRONG_GRAPHS = [
    (dict(edges=None), "not an .npz with feat_indptr.*and idx_test .it has"),
    (dict(edges=np.array([[0, 9]])), "edges must hold node numbers from 0 to 3"),
    (dict(edges=np.array([0, 1])), "edges has shape .2,."),
    (dict(feat_indptr=np.array([0, 2])), "feat_indptr must rise from 0 to 4"),
    (dict(feat_indices=np.array([0, -2, 1, 2])), "feat_indices must lie between 0 and 2"),
    (dict(idx_val=np.array([3])), "y is unknown"),
    (dict(idx_test=np.array([], int)), "idx_test must hold node numbers"),
    (dict(y=np.array([0, 1, 100, 1])), "y goes up to 100 for 4 nodes"),
    (dict(y=np.array(3)), "y must be whole numbers with one axis, not int64 of shape .."),
    (dict(n_features=np.array([3, 3])), "n_features must be one whole number above 0"),
    (dict(n_features=np.array(2)), "feat_indices must lie between 0 and 1"),
    (dict(y=np.array([0.5, 1, 1, 1])), "y must be whole numbers with one axis, not float64 of shape"),
]


@pytest.mark.parametrize("changes, words", WRONG_GRAPHS)
def test_wrong_graphs(changes, words, tmp_path):
    with pytest.raises(InputError, match=words):
        load_graph(saved(tmp_path, graph(**changes)))


WRONG_RATINGS = [
    (dict(Otest=None), "not an .npz with M, Otraining and Otest"),
    (dict(Otest=np.ones((6, 5))), "20 ratings are in both Otraining and Otest"),
    (dict(Otest=np.zeros((6, 5))), "some must be in Otest"),
    (dict(M=np.zeros((6, 5))), "must be above 0"),
    (dict(M=np.zeros((5, 5))), "M, Otraining and Otest have shapes .5, 5., .6, 5. and .6, 5."),
]


@pytest.mark.parametrize("changes, words", WRONG_RATINGS)
def test_wrong_ratings(changes, words, tmp_path):
    with pytest.raises(InputError, match=words):
        load_ratings(saved(tmp_path, ratings(**changes)))


@pytest.mark.parametrize("load", [load_classes, load_graph, load_ratings])
@pytest.mark.parametrize("content", [None, b"", b"text", "truncated", "npy"])
def test_what_is_no_npz(load, content, tmp_path):
    path = tmp_path / "f.npz"
    if content == "truncated":
        path.write_bytes(saved(tmp_path, images()).read_bytes()[:-40])
    elif content == "npy":
        with path.open("wb") as file:
            np.save(file, np.zeros(3))
    elif content is not None:
        path.write_bytes(content)
    with pytest.raises(InputError, match=rf"^{re.escape(str(path))}: not an \.npz with "):
        load(path)


def test_damaged_content(tmp_path):
    path = saved(tmp_path, images())
    damaged = bytearray(path.read_bytes())
    damaged[200:210] = bytes(10)
    damaged[len(damaged) // 2] ^= 255
    path.write_bytes(damaged)
    with pytest.raises(InputError, match=r"not an \.npz with"):
        load_classes(path)
