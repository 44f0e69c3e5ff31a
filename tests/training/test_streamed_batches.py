"""Training on rows that are read from a file while they are needed."""

import numpy as np
import pytest
import torch

from skhep_nn import CaloCNNClassifier, ImageAugmenter, load_calo_hdf5
from skhep_nn.training.batches import EventDataset
from skhep_nn.training.cuda_graphs import GraphPass
from skhep_nn.training.passes import EagerPass
from skhep_nn.training.streamed_batches import StreamTrainBatches, StreamValidBatches
from skhep_nn.utils.folds import Fold, make_folds

h5py = pytest.importorskip("h5py")
SMALL = {"channels": (8,), "kernels": 3, "dropout": 0.0, "dense": (8,), "dense_dropout": 0.0}
N = 5000  # more than validation reads at once


class Source:
    """Rows that know their number, and how often they were read."""

    shape, dtype = (N, 1), np.dtype(np.float32)

    def __init__(self):
        self.read_rows = np.zeros(N, int)

    @property
    def chunk_bounds(self):
        return np.append(np.arange(0, N, 100), N)

    def read(self, start, stop):
        self.read_rows[start:stop] += 1
        return np.arange(start, stop, dtype=np.float32)[:, None]

    def __len__(self):
        return N


def dataset():
    rng = np.random.default_rng(0)
    y, weight = torch.arange(N) % 7, torch.from_numpy(rng.uniform(0.5, 2, N)).float()
    return EventDataset(Source(), y, weight)


def folds(n_members):
    return make_folds(
        N, n_members, strata=None, classes=None, held_back=0.2 if n_members == 1 else None, seed=0
    )


class Negative:
    """Augmenter that says which rows it had."""

    def transform_tensor(self, X, generator):
        return -X


@pytest.mark.parametrize("n_members", [1, 3])
@pytest.mark.parametrize("augmenter", [None, Negative()])
def test_every_row_trains_its_members_once_a_pass(n_members, augmenter):
    data, some = dataset(), folds(n_members)
    rows = [fold.train for fold in some]
    batches = StreamTrainBatches(
        data,
        rows,
        256,
        np.random.default_rng(0),
        augmenter=augmenter,
        generators=[None] * n_members,
    )
    orders = []
    for _ in range(2):
        data.X.read_rows[:] = 0
        seen, sizes = [[] for _ in rows], []
        for batch in batches:
            used = batch.weight > 0
            sizes.append(used.sum(1).max().item())
            for k in range(n_members):
                numbers = batch.X[k, used[k], 0].abs().long()
                seen[k].extend(numbers.tolist())
                assert torch.equal(batch.y[k, used[k]], numbers % 7)
                expected = data.weight[numbers] / used[k].sum()
                torch.testing.assert_close(batch.weight[k, used[k]], expected)
                if augmenter is not None:
                    assert (batch.X <= 0).all()
        assert len(sizes) == len(batches)
        assert max(sizes) <= 256
        for k, own in enumerate(rows):
            assert sorted(seen[k]) == sorted(own.tolist())
            assert seen[k] != sorted(own.tolist())
        assert data.X.read_rows.max() == 1
        orders.append(seen)
    assert orders[0] != orders[1]


@pytest.mark.parametrize("n_members", [1, 3])
def test_validation_covers_the_folds_with_weights_that_sum_to_one(n_members):
    data, some = dataset(), folds(n_members)
    seen, total = [[] for _ in some], torch.zeros(n_members)
    for batch, used in StreamValidBatches(data, some):
        total += batch.weight.sum(1)
        assert torch.equal(batch.weight > 0, used)
        for k in range(n_members):
            seen[k].extend(batch.X[k, used[k], 0].long().tolist())
    torch.testing.assert_close(total, torch.ones(n_members))
    for k, fold in enumerate(some):
        assert seen[k] == sorted(fold.valid.tolist())


def test_validation_without_weight_is_an_error():
    data = dataset()
    data.weight[:10] = 0
    with pytest.raises(ValueError, match="total weight of 0"):
        StreamValidBatches(data, [Fold(np.arange(10, 99), np.arange(10))])


# -- whole fits ---------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    """Spots, wide ones in one file and narrow ones in another, as the public files come."""
    rng = np.random.default_rng(0)
    paths = []
    x = np.arange(12) - 5.5
    for label, width in ((0, 2.0), (1, 1.0)):
        r2 = (x[:, None] - rng.normal(0, 1, (400, 1, 1))) ** 2
        r2 = r2 + (x - rng.normal(0, 1, (400, 1, 1))) ** 2
        images = np.exp(-r2 / (2 * width**2)) + 0.05 * rng.normal(size=(400, 12, 12))
        paths.append(tmp_path_factory.mktemp("calo") / f"{label}.hdf5")
        with h5py.File(paths[-1], "w") as file:
            file.create_dataset(
                "X", data=np.stack([images, images**2], -1).astype("f4"), chunks=(50, 12, 12, 2)
            )
            file["y"] = np.full(400, float(label))
    return paths


def small(**params):
    defaults = {"network_params": SMALL, "max_epochs": 8, "batch_size": 40, "random_state": 0}
    return CaloCNNClassifier(**defaults | {"device": "cpu", "precision": "float32"} | params)


@pytest.mark.parametrize("params", [{}, {"n_members": 3}, {"early_stopping": True}])
def test_a_fit_from_the_file_is_as_good_as_from_memory(files, params):
    lazy, whole = load_calo_hdf5(files, lazy=True), load_calo_hdf5(files)
    augmenter = ImageAugmenter()
    model = small(augmentation=augmenter, **params).fit(lazy.images, lazy.target)
    assert model.score(whole.images, whole.target) > 0.9
    from_file = model.predict_proba(lazy.images)
    np.testing.assert_allclose(from_file, model.predict_proba(whole.images), atol=1e-6)
    again = small(augmentation=augmenter, **params).fit(lazy.images, lazy.target)
    np.testing.assert_array_equal(again.predict_proba(lazy.images), from_file)
    in_memory = small(augmentation=augmenter, **params).fit(whole.images, whole.target)
    for moment in ("mean", "scale"):
        np.testing.assert_allclose(
            model.ensemble_.states[moment], in_memory.ensemble_.states[moment], rtol=1e-6
        )


@pytest.mark.cuda
@pytest.mark.parametrize("params", [{}, {"n_members": 3}, {"batch_size": 47}])
def test_captured_steps_from_a_file_agree_with_eager_ones(files, params):
    lazy = load_calo_hdf5(files, lazy=True)
    settings = {"device": "cuda", "network_params": SMALL | {"norm": False}} | params
    captured = small(**settings).fit(lazy.images, lazy.target)
    eager = small(**settings, compile=False).fit(lazy.images, lazy.target)
    assert isinstance(captured.net_.pass_, GraphPass)
    assert isinstance(eager.net_.pass_, EagerPass)
    np.testing.assert_allclose(
        captured.history_.train_loss, eager.history_.train_loss, rtol=1e-3, atol=1e-4
    )
    np.testing.assert_allclose(
        captured.predict_proba(lazy.images), eager.predict_proba(lazy.images), atol=1e-2
    )


def test_wrong_images_in_a_file_are_refused(files, tmp_path):
    lazy = load_calo_hdf5(files, lazy=True)
    model = small(max_epochs=1).fit(lazy.images, lazy.target)
    with pytest.raises(ValueError, match=r"\(12, 12, 2\).*\(12, 12\)"):
        small().fit(np.zeros((8, 12, 12)), np.arange(8) % 2).predict(lazy.images)
    images = load_calo_hdf5(files).images
    images[307, 0, 0, 0] = np.nan
    with h5py.File(tmp_path / "broken.hdf5", "w") as file:
        file["X"], file["y"] = images, lazy.target
    broken = load_calo_hdf5(tmp_path / "broken.hdf5", lazy=True).images
    with pytest.raises(ValueError, match="NaN"):
        model.predict(broken)
    with pytest.raises(ValueError, match="NaN"):
        small().fit(broken, lazy.target)
