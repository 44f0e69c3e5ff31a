"""Estimators of images."""

import pickle
import tracemalloc
import warnings

import joblib
import numpy as np
import pytest
import torch
from sklearn import config_context
from sklearn.base import clone
from sklearn.exceptions import NotFittedError
from sklearn.model_selection import GridSearchCV
from sklearn.pipeline import make_pipeline
from sklearn.utils import estimator_checks
from sklearn.utils.estimator_checks import parametrize_with_checks

from skhep_nn import CaloCNNClassifier, CaloCNNRegressor, Constant, ImageAugmenter, ImageCropper
from skhep_nn.ensemble.prediction import apply_link
from skhep_nn.inputs import images as _images
from skhep_nn.networks.losses import LOSSES, with_classes
from skhep_nn.training.run import _placed

ROUNDING = "mini-batch training in float32 agrees to 1e-7, the check asks for 1e-9"
# A network that the many tiny fits of scikit-learn's suite can afford.
SMALL = {"channels": (8,), "kernels": 3, "pooling": 2, "dropout": 0.0, "dense": (8,)}
SMALL["dense_dropout"] = 0.0
CHECKED = {"network_params": SMALL, "precision": "float32", "max_epochs": 40}
# Targets of the suite depend on which feature is which, and means over a row do not tell that.
OF_PLACES = {"network_params": SMALL | {"head": "flatten"}, "batch_size": 32}


@pytest.mark.parametrize("check", ["check_classifiers_train", "check_decision_proba_consistency"])
def test_scores_conform_with_the_defaults(check):
    """The defaults learn the suite's blobs so well that probabilities are exactly 1."""
    getattr(estimator_checks, check)("CaloCNNClassifier", CaloCNNClassifier())


@parametrize_with_checks(
    [CaloCNNClassifier(**CHECKED), CaloCNNRegressor(**CHECKED | OF_PLACES)],
    expected_failed_checks=lambda _: {"check_sample_weight_equivalence_on_dense_data": ROUNDING},
)
def test_conforms_to_scikit_learn(estimator, check):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the suite warns of what it skips
        check(estimator)


@pytest.fixture(scope="module")
def blobs():
    """Images with a spot that is wide or narrow."""
    rng = np.random.default_rng(0)
    y = np.arange(240) % 2
    x = np.arange(12) - 5.5
    r2 = (x[:, None] - rng.normal(0, 1, (240, 1, 1))) ** 2 + (
        x - rng.normal(0, 1, (240, 1, 1))
    ) ** 2
    images = np.exp(-r2 / (2 * np.where(y, 1.0, 2.0)[:, None, None] ** 2))
    images = images + 0.05 * rng.normal(size=images.shape)
    return np.stack([images, images**2], axis=-1).astype(np.float32), y


def small(**params):
    defaults = {"network_params": SMALL, "max_epochs": 12, "batch_size": 40, "random_state": 0}
    return CaloCNNClassifier(**defaults | {"device": "cpu"} | params)


@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
def test_it_learns(blobs, precision):
    X, y = blobs
    model = small(precision=precision, n_members=2).fit(X, y)
    assert model.score(X, y) > 0.9
    assert set(model.history_.member) == {0, 1}


@pytest.mark.parametrize("preset", ["compact", "challenge", "resnet15", "attention"])
def test_presets(blobs, preset):
    X, y = blobs
    model = small(preset=preset, network_params=None, max_epochs=1).fit(X[:60], y[:60])
    assert np.isfinite(model.predict_proba(X)).all()


def test_classes_and_containers(blobs):
    """Several classes, images without channels, rows of pixels and bytes."""
    X, y = blobs
    three = np.array(["a", "b", "c"])[y + (np.arange(240) % 4 == 0)]
    model = small(max_epochs=1).fit(X[..., 0], three)
    assert set(model.predict(X[..., 0])) <= set(three)
    rows = X.reshape(240, -1)
    flat = small(image_shape=(12, 12, 2)).fit(rows, y).predict_proba(rows)
    np.testing.assert_array_equal(flat, small().fit(X, y).predict_proba(X))
    counts = np.clip(200 * X, 0, 255).astype(np.uint8)
    model = small().fit(counts, y)
    assert model.net_.get_split_datasets is not None
    assert model._encode_X(counts, reset=False).dtype == np.uint8
    np.testing.assert_array_equal(
        model.predict_proba(counts), model.predict_proba(counts.astype(np.float32))
    )


def test_wrong_shapes_are_named(blobs):
    X, y = blobs
    model = small(max_epochs=1).fit(X, y)
    with pytest.raises(ValueError, match=r"\(10, 12, 2\).*\(12, 12, 2\)"):
        model.predict(X[:, :10])
    with pytest.raises(ValueError, match="image_shape"):
        small(image_shape=(5, 5)).fit(X.reshape(240, -1), y)
    with pytest.raises(ValueError, match="preset"):
        small(preset="huge").fit(X, y)


def test_channels_are_standardised_by_weighted_moments(blobs):
    X, y = blobs
    w = np.random.default_rng(1).uniform(0, 2, 240)
    states = small(max_epochs=1).fit(X, y, sample_weight=w).ensemble_.states
    pixels = X.reshape(240, -1, 2).astype(float)
    weight = np.broadcast_to(w[:, None], pixels.shape[:2]).ravel()
    for channel in range(2):
        values = pixels[..., channel].ravel()
        mean = np.average(values, weights=weight)
        spread = np.sqrt(np.average((values - mean) ** 2, weights=weight))
        assert states["mean"][0, channel] == pytest.approx(mean, rel=1e-5)
        assert states["scale"][0, channel] == pytest.approx(spread, rel=1e-4)


def test_members_are_the_same_alone(blobs):
    """Members run one after the other, batch normalisation, dropout and augmentation each its own."""
    X, y = blobs
    params = {"network_params": SMALL | {"dropout": 0.2}, "augmentation": ImageAugmenter()}
    three = small(n_members=3, max_epochs=2, precision="float32", **params).fit(X, y)
    assert len({v.tobytes() for v in three.ensemble_.states["blocks.0.units.0.running_var"]}) == 3
    again = small(n_members=3, max_epochs=2, precision="float32", **params).fit(X, y)
    for name, value in three.ensemble_.states.items():
        np.testing.assert_array_equal(again.ensemble_.states[name], value)
    means = sum(
        weight * torch.sigmoid(three.ensemble_.member(k)(torch.from_numpy(X))).numpy()
        for k, weight in enumerate(three.ensemble_.weights)
    )
    three.set_params(tta=False)
    np.testing.assert_allclose(three.predict_proba(X)[:, 1:], means, atol=1e-6)


def test_views_are_averaged(blobs):
    X, y = blobs
    model = small(augmentation=ImageAugmenter(), precision="float32").fit(X, y)
    turned = np.ascontiguousarray(np.rot90(X, axes=(1, 2)))
    np.testing.assert_allclose(model.predict_proba(X), model.predict_proba(turned), atol=1e-5)


@pytest.mark.slow
def test_it_composes_and_is_stored(blobs, tmp_path):
    X, y = blobs
    pipeline = make_pipeline(ImageCropper(size=10), small(max_epochs=2, schedule=Constant()))
    grid = {"calocnnclassifier__schedule__lr": [1e-4, 1e-3]}
    search = GridSearchCV(pipeline, grid, cv=2, n_jobs=2).fit(X, y)
    path = tmp_path / "search.joblib"
    joblib.dump(search, path)
    np.testing.assert_array_equal(joblib.load(path).predict_proba(X), search.predict_proba(X))
    model = clone(search.best_estimator_[-1]).fit(X, y)
    assert len(pickle.dumps(model)) < 100_000


@pytest.mark.parametrize("dtype", [np.float32, np.uint8])
def test_images_are_not_copied(blobs, tmp_path, monkeypatch, dtype):
    """Neither from memory nor from a memory map that must not be written."""
    X, y = blobs
    monkeypatch.setattr(_images, "CHUNK", 2**14)  # steps in double precision take little memory
    images = np.tile((100 * X).astype(dtype), (20, 1, 1, 1))
    target = np.tile(y, 20)
    np.save(tmp_path / "images.npy", images)
    small(max_epochs=1).fit(X, y)  # the first fit of a process imports modules of torch
    for source in (images, np.load(tmp_path / "images.npy", mmap_mode="r")):
        model = small(max_epochs=1, batch_size=400)
        tracemalloc.start()
        try:
            model.fit(source, target)
            _, peak = tracemalloc.get_traced_memory()
        finally:
            tracemalloc.stop()
        # Of numpy; torch's memory is not traced, but its rows are the array itself:
        assert peak < 1.2e6 < images.nbytes
        encoded = model._encode_X(source, reset=False)
        rows = _placed(encoded, torch.device("cpu"))
        assert rows.data_ptr() == source.__array_interface__["data"][0]


@pytest.fixture(scope="module")
def spots():
    """Images of a spot of one of three energies, bright or wide; wide ones give half the light."""
    rng = np.random.default_rng(1)
    wide = np.arange(240) % 2
    energy = np.array([2.0, 5.0, 10.0])[np.arange(240) % 3]
    r2 = np.square(np.arange(10) - 4.5)
    images = np.exp(-(r2[:, None] + r2) / np.where(wide, 16, 4)[:, None, None])
    images *= (energy / np.where(wide, 4, 2))[:, None, None]
    return (images + 0.03 * rng.normal(size=images.shape)).astype(np.float32), energy, wide


def regressor(**params):
    defaults = {"network_params": SMALL, "max_epochs": 40, "batch_size": 20, "random_state": 0}
    return CaloCNNRegressor(**defaults | {"device": "cpu", "precision": "float32"} | params)


@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
def test_it_measures_energies_and_classes(spots, precision):
    X, energy, wide = spots
    label = np.array(["narrow", "wide"])[wide]
    model = regressor(precision=precision, n_members=2, aux_weight=1.0)
    model.fit(X, energy, aux_target=label)
    assert model.score(X, energy) > 0.9
    probability = model.predict_aux_proba(X)
    assert list(model.aux_classes_) == ["narrow", "wide"]
    np.testing.assert_allclose(probability.sum(1), 1)
    assert (model.aux_classes_[probability.argmax(1)] == label).mean() > 0.9


def test_without_classes_it_is_a_regressor_alone(spots):
    X, energy, wide = spots
    model = regressor()
    with pytest.raises(NotFittedError):
        model.predict_aux_proba(X)
    model.fit(X, energy)
    assert model.ensemble_.states["output.bias"].shape == (1, 1)
    assert not hasattr(model, "predict_aux_proba")
    with pytest.raises(AttributeError) as caught:
        model.predict_aux_proba(X)
    assert "fitted without aux_target" in str(caught.value.__cause__)
    assert hasattr(model.fit(X, energy, aux_target=wide), "aux_classes_")
    assert not hasattr(model.fit(X, energy), "aux_classes_")


def test_several_targets_and_classes(spots):
    X, energy, wide = spots
    targets = np.column_stack([energy, 1000 - 100 * energy])
    classes = wide + (np.arange(240) % 5 == 0)
    model = regressor().fit(X, targets, aux_target=classes)
    predicted = model.predict(X)
    assert predicted.shape == (240, 2)
    assert np.corrcoef(predicted[:, 1], targets[:, 1])[0, 1] > 0.9
    assert 0 < predicted[:, 1].mean() < 1000
    probability = model.predict_aux_proba(X)
    assert probability.shape == (240, 3)
    np.testing.assert_allclose(probability.sum(1), 1, rtol=1e-12)


def test_means_are_of_probabilities_and_of_energies(spots):
    """Over members and over views: the link comes first, and for the classes alone."""
    X, energy, wide = spots
    three = wide + (np.arange(240) % 5 == 0)
    for classes in (wide, three):
        model = regressor(n_members=3, max_epochs=3, augmentation=ImageAugmenter())
        model.fit(X, energy, aux_target=classes)
        views = [
            model.augmenter_.view_tensor(torch.from_numpy(X)[..., None], v)
            for v in range(model.augmenter_.n_views_)
        ]
        outs = [torch.stack([model.ensemble_.member(k)(v) for v in views]) for k in range(3)]
        weights = model.ensemble_.weights
        energies = sum(
            w * out[..., 0].mean(0).numpy() for w, out in zip(weights, outs, strict=True)
        )
        expected = energies * energy.std() + energy.mean()
        np.testing.assert_allclose(model.predict(X), expected, rtol=1e-4)
        link = torch.sigmoid if classes is wide else (lambda out: out.softmax(-1))
        last = sum(
            w * link(out[..., 1:]).mean(0)[:, -1].numpy()
            for w, out in zip(weights, outs, strict=True)
        )
        np.testing.assert_allclose(model.predict_aux_proba(X)[:, -1], last, atol=1e-5)


def test_links_for_trailing_outputs():
    out = torch.randn(4, 5, generator=torch.Generator().manual_seed(0))
    for name, function in (("sigmoid", torch.sigmoid), ("softmax", lambda x: x.softmax(-1))):
        linked = apply_link(out, f"2+{name}")
        torch.testing.assert_close(linked[:, :2], out[:, :2])
        torch.testing.assert_close(linked[:, 2:], function(out[:, 2:]))
    for wrong in ("2+logit", "+softmax", "two+softmax"):
        with pytest.raises(ValueError, match="must be"):
            apply_link(out, wrong)


@pytest.mark.parametrize("name", ["absolute_error", "squared_error", "huber"])
@pytest.mark.parametrize("n_classes", [2, 3])
def test_the_loss_with_classes(name, n_classes):
    """It is the weighted sum of the two, and its slope the gradient of that."""
    generator = torch.Generator().manual_seed(0)
    out = torch.randn(3, 7, 2 + (1 if n_classes == 2 else n_classes), generator=generator)
    code = torch.randint(n_classes, (3, 7), generator=generator)
    target = torch.cat([torch.randn(3, 7, 2, generator=generator), code[..., None]], dim=-1)
    loss = with_classes(LOSSES[name], 2, n_classes, 0.7, 0.2)
    function = torch.nn.functional
    if n_classes == 2:
        of_class = function.binary_cross_entropy_with_logits(
            out[..., 2], code.float(), reduction="none"
        )
    else:
        rows = out[..., 2:].flatten(0, 1)
        of_class = function.cross_entropy(rows, code.flatten(), reduction="none").view(3, 7)
    expected = 0.7 * LOSSES[name].value(out[..., :2], target[..., :2]) + 0.2 * of_class
    torch.testing.assert_close(loss.value(out, target), expected)
    out.requires_grad_()
    (gradient,) = torch.autograd.grad(loss.value(out, target).sum(), out)
    torch.testing.assert_close(loss.gradient(out.detach(), target), gradient)


def test_weights_of_the_losses(spots):
    """With one at zero, its output learns nothing."""
    X, energy, wide = spots
    blind = regressor(aux_weight=0.0).fit(X, energy, aux_target=wide)
    assert (blind.ensemble_.states["output.bias"][0, 1] == 0).all()
    assert blind.score(X, energy) > 0.9
    blind = regressor(target_weight=0.0).fit(X, energy, aux_target=wide)
    assert (blind.ensemble_.states["output.bias"][0, 0] == 0).all()
    assert (blind.predict_aux_proba(X).argmax(1) == wide).mean() > 0.9


def test_energies_have_a_unit_and_training_has_none(spots):
    X, energy, wide = spots
    kev = regressor(max_epochs=3).fit(X, energy, aux_target=wide)
    ev = regressor(max_epochs=3).fit(X, 1000 * energy, aux_target=wide)
    np.testing.assert_allclose(ev.predict(X), 1000 * kev.predict(X), rtol=1e-3)
    np.testing.assert_allclose(ev.history_.train_loss, kev.history_.train_loss, rtol=1e-4)


def test_folds_share_out_the_classes(spots):
    X, energy, _ = spots
    rare = (np.arange(240) % 40 == 0).astype(int)
    model = regressor(n_members=3, max_epochs=1).fit(X, energy, aux_target=rare)
    assert [rare[fold.valid].sum() for fold in model.net_.folds] == [2, 2, 2]


def test_sample_weights_count_for_both(spots):
    """Rows of next to no weight teach neither energies nor classes."""
    X, energy, wide = spots
    spoilt, wrong = energy.copy(), wide.copy()
    spoilt[120:], wrong[120:] = -50, 1 - wide[120:]
    weight = np.where(np.arange(240) < 120, 1.0, 1e-6)
    model = regressor().fit(X, spoilt, sample_weight=weight, aux_target=wrong)
    assert np.abs(model.predict(X) - energy).mean() < 1
    assert (model.predict_aux_proba(X).argmax(1) == wide).mean() > 0.9


def test_regressors_are_stored_routed_and_alike_alone(spots, tmp_path):
    X, energy, wide = spots
    params = {"n_members": 3, "max_epochs": 2, "augmentation": ImageAugmenter()}
    model = regressor(**params).fit(X, energy, aux_target=wide)
    again = clone(model).fit(X, energy, aux_target=wide)
    for name, value in model.ensemble_.states.items():
        np.testing.assert_array_equal(again.ensemble_.states[name], value)
    rows = torch.from_numpy(X)
    stacked = model.ensemble_.predict_members(rows, link=model._link, stacked=True)
    alone = model.ensemble_.predict_members(rows, link=model._link, stacked=False)
    torch.testing.assert_close(stacked, alone, rtol=1e-5, atol=1e-6)
    joblib.dump(model, tmp_path / "model.joblib")
    loaded = joblib.load(tmp_path / "model.joblib")
    np.testing.assert_array_equal(loaded.predict(X), model.predict(X))
    np.testing.assert_array_equal(loaded.predict_aux_proba(X), model.predict_aux_proba(X))
    with config_context(enable_metadata_routing=True):
        inner = regressor(max_epochs=2).set_fit_request(aux_target=True)
        pipeline = make_pipeline(ImageCropper(size=8), inner).fit(X, energy, aux_target=wide)
    assert list(pipeline[-1].aux_classes_) == [0, 1]
    pipeline = make_pipeline(ImageCropper(size=8), regressor(max_epochs=2))
    pipeline.fit(X, energy, calocnnregressor__aux_target=wide)
    assert list(pipeline[-1].aux_classes_) == [0, 1]


def test_early_stopping_restores_the_best_pass(spots):
    X, energy, wide = spots
    model = regressor(early_stopping=3, max_epochs=30, schedule=Constant(lr=0.02))
    history = model.fit(X, energy, aux_target=wide).history_
    assert len(history) < 30
    fold = model.net_.folds[0]
    codes = wide[fold.valid]
    p = model.predict_aux_proba(X[fold.valid])[np.arange(len(codes)), codes]
    error = np.abs(model.predict(X[fold.valid]) - energy[fold.valid]).mean() / energy.std()
    assert history.valid_loss.min() == pytest.approx(error - 0.1 * np.log(p).mean(), rel=1e-3)


@pytest.mark.parametrize("n_classes", [2, 3])
def test_the_best_pass_can_be_that_of_the_best_accuracy(blobs, n_classes):
    X, _ = blobs
    # Labels that are partly chance: accuracy and loss have different best epochs.
    rng = np.random.default_rng(1)
    y = np.where(rng.random(240) < 0.6, blobs[1], rng.integers(0, n_classes, 240))
    w = rng.uniform(0.5, 2, 240)
    fits = {}
    for monitor in ("loss", "accuracy"):
        model = small(monitor=monitor, n_members=2, schedule=Constant(lr=0.02), max_epochs=20)
        fits[monitor] = model.fit(X, y, sample_weight=w).net_.best_
    history = model.history_.set_index(["epoch", "member"]).valid_accuracy.unstack()
    np.testing.assert_array_equal(fits["accuracy"].epoch, history.to_numpy().argmax(axis=0))
    assert (fits["accuracy"].epoch != fits["loss"].epoch).any()
    losses = model.history_.set_index(["epoch", "member"]).valid_loss
    for member, fold in enumerate(model.net_.folds):
        best = fits["accuracy"].epoch[member]
        assert fits["accuracy"].loss[member] == losses[best, member]
        out = model.ensemble_.predict_members(torch.from_numpy(X[fold.valid]))[member].numpy()
        code = out[:, 0] > 0 if n_classes == 2 else out.argmax(1)
        right = np.average(code == y[fold.valid], weights=w[fold.valid])
        assert history.loc[best, member] == pytest.approx(right, abs=1e-6)


@pytest.mark.parametrize(
    ("params", "aux", "message"),
    [
        ({"loss": "cubic"}, None, "loss='cubic'"),
        ({"aux_weight": -1}, None, "aux_weight=-1"),
        ({"target_weight": "1"}, None, "target_weight='1'"),
        ({}, np.zeros(240), "at least two classes"),
        ({}, np.zeros(239), "inconsistent numbers"),
        ({}, np.linspace(0, 1, 240), "continuous"),
        ({}, np.where(np.arange(240) < 3, np.nan, 1), "aux_target contains NaN"),
    ],
)
def test_wrong_arguments_of_the_regressor_are_named(spots, params, aux, message):
    X, energy, _ = spots
    with pytest.raises(ValueError, match=message):
        regressor(**params).fit(X, energy, aux_target=aux)


@pytest.mark.cuda
def test_energies_and_classes_on_cuda(spots):
    """Captured or not, and as on the CPU to rounding."""
    X, energy, wide = spots
    three = wide + (np.arange(240) % 5 == 0)
    for classes in (wide, three):
        models = [
            regressor(max_epochs=2, n_members=2, device=device, compile=graph)
            for device, graph in (("cpu", "auto"), ("cuda", "auto"), ("cuda", False))
        ]
        cpu, *others = [model.fit(X, energy, aux_target=classes) for model in models]
        for model in others:
            assert np.abs(model.predict(X) - cpu.predict(X)).mean() < 0.1 * energy.std()
            difference = model.predict_aux_proba(X) - cpu.predict_aux_proba(X)
            assert np.abs(difference).mean() < 0.05
