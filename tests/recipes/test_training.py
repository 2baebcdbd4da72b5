"""The loop: what a checkpoint holds is enough to go on bit for bit, and nothing else is accepted."""

from __future__ import annotations

import dataclasses
import os
from pathlib import Path

import numpy as np
import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("sklearn")

from torch import nn  # noqa: E402

from onnxdam.errors import InputError  # noqa: E402
from onnxdam.masks import Gates, Schedule  # noqa: E402
from onnxdam.masks.attach import METHODS  # noqa: E402
from onnxdam.recipes import find  # noqa: E402
from onnxdam.recipes.checkpoint import fingerprint  # noqa: E402
from onnxdam.recipes.classifier import Classifier  # noqa: E402
from onnxdam.recipes.data import Classes  # noqa: E402
from onnxdam.recipes.recipe import Metric, Settings, on_device  # noqa: E402
from onnxdam.recipes.training import Progress, Trained, train  # noqa: E402


@dataclasses.dataclass(frozen=True)
class Tiny(Classifier):
    """A perceptron with a gate placed by hand: nothing is exported, so that a run takes no time."""

    def network(self, data: Classes) -> nn.Module:
        return nn.Sequential(nn.Linear(data.features, 16), nn.ReLU(), nn.Linear(16, data.classes))

    def gates(self, network: nn.Module, data: Classes, settings: Settings, schedule: Schedule) -> Gates:
        network.insert(2, METHODS[settings.method](16))
        return Gates.of(network, weight=settings.weight, target=settings.target, schedule=schedule)


SHORT = Settings(epochs=8, batch=32, lr=1e-2, target={"channels": 0.5})
TINY = Tiny("tiny", "a perceptron", "digits", SHORT)
DIGITS = find("digits")


@pytest.fixture(scope="module")
def few() -> Classes:
    """A handful of digits: the loop is under test, not what it learns."""
    data = TINY.load(None)
    return Classes(**{f.name: getattr(data, f.name)[:100] for f in dataclasses.fields(data)})


@pytest.fixture(scope="module")
def images() -> Classes:
    """The same as images."""
    data = DIGITS.load(None)
    return Classes(**{f.name: getattr(data, f.name)[:100] for f in dataclasses.fields(data)})


def stop_in(epoch: int):
    """A progress function that is Ctrl-C in the first step of an epoch (counted from 0)."""

    def progress(p: Progress) -> None:
        if p.epoch == epoch and p.step > epoch * (p.steps // p.epochs):
            raise KeyboardInterrupt

    return progress


def same(a: Trained, b: Trained) -> bool:
    left, right = a.network.state_dict(), b.network.state_dict()
    return (
        left.keys() == right.keys()
        and all(torch.equal(left[k], right[k]) for k in left)
        and (a.history, a.kept, a.test, a.best) == (b.history, b.kept, b.test, b.best)
    )


@pytest.mark.parametrize("method", ["dam", "diffprune", "hardconcrete", "none"])
@pytest.mark.parametrize("epoch", [0, 3, 7])
def test_a_resumed_run_is_the_uninterrupted_one(method, epoch, few, tmp_path, monkeypatch):
    """Stopped in the cold start, on the ramp, and after hardening."""
    goes_on(TINY, few, dataclasses.replace(SHORT, method=method), epoch, tmp_path, monkeypatch)


@pytest.mark.parametrize("method, amp", [("dam", False), ("dam", True), ("grouplasso", False), ("slimming", False)])
def test_so_it_is_with_gates_that_are_attached(method, amp, images, tmp_path, monkeypatch):
    settings = dataclasses.replace(SHORT, method=method, target={"macs": 0.5}, amp=amp)
    goes_on(DIGITS, images, settings, 3, tmp_path, monkeypatch)


def goes_on(recipe, data, settings, epoch, tmp_path, monkeypatch) -> None:
    monkeypatch.setattr("onnxdam.recipes.training.time.monotonic", iter(range(10**6)).__next__)  # told of every step
    whole = train(recipe, data, settings)
    file = tmp_path / "run.pt"
    with pytest.raises(KeyboardInterrupt):
        train(recipe, data, settings, checkpoint=file, progress=stop_in(epoch))
    assert os.listdir(tmp_path) == ["run.pt"]
    torch.manual_seed(99)
    assert same(whole, train(recipe, data, settings, checkpoint=file, resume=True))


def test_checkpoints_of_other_runs_are_refused(few, tmp_path):
    file = tmp_path / "run.pt"
    settings = dataclasses.replace(SHORT, epochs=1)
    train(TINY, few, settings, checkpoint=file)

    def refused(match: str, recipe=TINY, data=few, **changes) -> None:
        with pytest.raises(InputError, match=rf"run\.pt: belongs to another run: its {match}"):
            train(recipe, data, dataclasses.replace(settings, **changes), checkpoint=file, resume=True)

    before = file.read_bytes()
    refused("seed is 0, not 1", seed=1)
    refused("lr is 0.01, not 0.1", lr=0.1)
    refused(r"target is \{'channels': 0.5\}, not \{'channels': 0.4\}", target={"channels": 0.4})
    refused("method is dam, not hardconcrete", method="hardconcrete")
    refused("recipe is tiny, not lenet-300-100", recipe=find("lenet-300-100"))
    refused(r"include is \('\*',\), not \('2',\)", recipe=dataclasses.replace(TINY, include=("2",)))
    refused("inputs is False, not True", recipe=dataclasses.replace(TINY, inputs=True))
    refused("data is .*, not ", data=dataclasses.replace(few, x_train=few.x_train + 1))
    assert file.read_bytes() == before


def test_files_that_are_no_checkpoints_are_refused(few, tmp_path):
    file = tmp_path / "run.pt"
    settings = dataclasses.replace(SHORT, epochs=1)

    class Evil:
        def __reduce__(self):
            return os.mkdir, (str(tmp_path / "ran"),)

    train(TINY, few, settings, checkpoint=file)
    half = file.read_bytes()[:1000]
    for write in (
        lambda: file.write_text("nothing"),
        lambda: file.write_bytes(b""),
        lambda: file.write_bytes(half),
        lambda: torch.save({"weights": torch.ones(1)}, file),
        lambda: torch.save([1], file),
        lambda: torch.save(Evil(), file),
        lambda: np.savez(open(file, "wb"), x=np.ones(1)),  # noqa: SIM115
    ):
        write()
        with pytest.raises(InputError, match=r"run\.pt: is not a checkpoint of `onnxdam train`"):
            train(TINY, few, settings, checkpoint=file, resume=True)
    assert not (tmp_path / "ran").exists()


def test_where_a_checkpoint_cannot_be_written_is_told_before_the_work(few, tmp_path):
    with pytest.raises(InputError, match="there is no folder"):
        train(TINY, few, SHORT, checkpoint=tmp_path / "none" / "run.pt", progress=lambda p: pytest.fail("trained"))


def test_what_comes_out_is_chosen_on_the_validation_set(few):
    got = train(TINY, few, SHORT)
    after = [e for e in got.history if e.hardened]
    assert [e.epoch for e in got.history] == list(range(1, 9))
    assert [e.hardened for e in got.history] == [False] * 5 + [True] * 3
    assert got.valid == min(e.valid for e in after)
    assert got.epoch == max(e.epoch for e in after if e.valid == got.valid)
    assert got.test == next(e.test for e in after if e.epoch == got.epoch)
    assert (got.last, got.best) == (after[-1].test, min(e.test for e in after))
    with torch.no_grad():
        assert TINY.metric(got.network, few, "test") == got.test
    assert not got.network.training
    assert got.kept == {"2": (8, 16)}


def test_mixed_precision_is_for_training_only(few):
    seen = set()

    class Watched(Tiny):
        def network(self, data: Classes) -> nn.Module:
            network = super().network(data)
            network[0].register_forward_hook(lambda m, args, out: seen.add((m.training, out.dtype)))
            return network

    recipe = Watched("watched", "a perceptron", "digits", SHORT)
    trained = train(recipe, few, dataclasses.replace(SHORT, epochs=1, amp=True))
    assert seen == {(True, torch.bfloat16), (False, torch.float32)}
    assert all(p.dtype == torch.float32 for p in trained.network.parameters())


def test_runs_are_told_apart_by_their_seed(few):
    one = dataclasses.replace(SHORT, epochs=1)
    assert same(train(TINY, few, one), train(TINY, few, one))
    assert not same(train(TINY, few, one), train(TINY, few, dataclasses.replace(one, seed=1)))


def test_progress_is_told(few):
    seen: list[Progress] = []
    train(TINY, few, SHORT, progress=seen.append)
    assert [p.epoch for p in seen if p.last and p.last.epoch == p.epoch][-1] == 8
    assert seen[-1].step == seen[-1].steps == 8 * 4
    assert seen[0].kept == {"2": (16, 16)}


def test_divergence_is_told(few):
    with pytest.raises(InputError, match=r"training diverged: the loss is nan in epoch \d; try a smaller --lr"):
        train(TINY, few, dataclasses.replace(SHORT, lr=1e30))


def test_bad_devices_are_told(few):
    with pytest.raises(InputError, match="device: 'gpu' is none; cpu or cuda is wanted"):
        train(TINY, few, SHORT, device="gpu")
    if not torch.cuda.is_available():
        with pytest.raises(InputError, match="there is no CUDA device"):
            train(TINY, few, SHORT, device="cuda")


def test_bad_settings_are_told():
    nan, inf = float("nan"), float("inf")
    for bad in (dict(epochs=0), dict(batch=0), dict(lr=0.0), dict(lr=nan), dict(lr=inf), dict(weight=-1.0),
                dict(weight=nan), dict(seed=-1), dict(seed=2**63)):  # fmt: skip
        with pytest.raises(InputError, match="must"):
            Settings(**{"epochs": 1, "batch": 1, "lr": 1.0, **bad})


def test_networks_that_do_not_fit_the_data_are_told(few, images):
    with pytest.raises(InputError, match=r"digits: its network does not fit samples of shape \(64,\) \(Expected 3D"):
        train(DIGITS, few, SHORT)


@pytest.mark.parametrize(
    "batch, sizes", [(None, [100]), (40, [40, 40, 20]), (33, [33, 33, 33]), (99, [99]), (200, [100])]
)
def test_batches_hold_every_sample_but_a_single_one(batch, sizes, few):
    batches = list(TINY.batches(few, batch))
    assert [len(rows) for rows in batches] == sizes
    assert len(batches) == TINY.steps(few, batch)
    assert len(set(torch.cat(batches).tolist())) == sum(sizes)


def test_metrics_know_their_direction():
    assert Metric().better(1, 2) and not Metric().better(1, 1)
    assert Metric("accuracy", lower=False).better(2, 1)


def test_data_are_walked_through(few):
    data = {"a": [few, torch.ones(2)], "b": np.ones(3), "c": "text"}
    moved = on_device(data, torch.device("meta"))
    assert moved["a"][0].x_train.device.type == moved["a"][1].device.type == "meta"
    assert fingerprint(data) == fingerprint(data) != fingerprint({**data, "b": np.zeros(3)})


def test_the_package_is_found_where_it_is_installed():
    import onnxdam.recipes

    assert Path(onnxdam.recipes.__file__).parent.name == "recipes"
