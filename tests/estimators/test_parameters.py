"""Every pair of an estimator and an augmenter for another kind of data is refused before training."""

import numpy as np
import pandas as pd
import pytest
from sklearn.linear_model import LogisticRegression, Ridge
from sklearn.model_selection import GridSearchCV

from skhep_nn import (
    ArchitectureSearch,
    AugmentedClassifier,
    AugmentedRegressor,
    CaloCNNClassifier,
    CaloCNNRegressor,
    DenseNetClassifier,
    DenseNetRegressor,
    EventAugmenter,
    HyperEnsembleClassifier,
    ImageAugmenter,
    StackedPostRegressor,
    WaveformAugmenter,
    WaveformClassifier,
    WaveformRegressor,
)

AUGMENTERS = {"events": EventAugmenter, "images": ImageAugmenter, "traces": WaveformAugmenter}
NETWORKS = {
    DenseNetClassifier: "events",
    DenseNetRegressor: "events",
    CaloCNNClassifier: "images",
    CaloCNNRegressor: "images",
    WaveformClassifier: "traces",
    WaveformRegressor: "traces",
}
DATA = {"events": (40, 6), "images": (40, 8, 8), "traces": (40, 60)}


def data_of(kind):
    X = np.random.default_rng(0).normal(size=DATA[kind]).astype(np.float32)
    return X, np.arange(40) % 2


PAIRS = [
    (network, kind, other)
    for network, kind in NETWORKS.items()
    for other in AUGMENTERS
    if kind != other
]


@pytest.mark.parametrize(("network", "kind", "other"), PAIRS)
def test_augmenters_of_another_kind_are_refused(network, kind, other):
    augmenter = AUGMENTERS[other]
    names = rf"{augmenter.__name__}\(\) is for {other}, but {network.__name__} takes {kind}"
    with pytest.raises(TypeError, match=rf"{names}; use {AUGMENTERS[kind].__name__}\(\)"):
        network(augmentation=augmenter()).fit(*data_of(kind))


@pytest.mark.parametrize("network", NETWORKS)
def test_augmenters_of_the_same_kind_are_not(network):
    kind = NETWORKS[network]
    X, y = data_of(kind)
    if kind == "events":
        X = pd.DataFrame(X, columns=["a_px", "a_py", "a_pz", "b_px", "b_py", "m"])
    network(augmentation=AUGMENTERS[kind](), max_epochs=1, device="cpu").fit(X, y)


@pytest.mark.parametrize("wrap", [AugmentedClassifier, "search"])
def test_around_networks_too(wrap):
    X, y = data_of("events")
    inner = DenseNetClassifier(max_epochs=1)
    if wrap == "search":
        inner = GridSearchCV(inner, {"depth": [1]}, cv=2)
    with pytest.raises(
        TypeError, match=r"augmenter=ImageAugmenter\(\) is for images, but DenseNet"
    ):
        AugmentedClassifier(inner, augmenter=ImageAugmenter()).fit(X, y)
    images, _ = data_of("images")
    network = CaloCNNClassifier(max_epochs=1)
    with pytest.raises(TypeError, match=r"EventAugmenter\(\) is for events, but CaloCNNClassifier"):
        AugmentedClassifier(network).fit(images, y)


@pytest.mark.parametrize(
    "outer",
    [
        lambda network: HyperEnsembleClassifier(network, n_candidates=2),
        lambda network: ArchitectureSearch(
            network.set_params(n_members=2), {"depth": [1]}, n_iter=1
        ),
        lambda network: GridSearchCV(network, {"depth": [1]}, cv=2, error_score="raise"),
    ],
    ids=["hyper-ensemble", "architecture search", "grid search"],
)
def test_searches_refuse_them(outer):
    network = DenseNetClassifier(augmentation=WaveformAugmenter())
    with pytest.raises(TypeError, match="is for traces, but DenseNetClassifier takes events"):
        outer(network).fit(*data_of("events"))


def test_stacking_refuses_them():
    X, y = data_of("images")
    inner = CaloCNNRegressor(augmentation=EventAugmenter())
    with pytest.raises(TypeError, match="is for events, but CaloCNNRegressor takes images"):
        StackedPostRegressor(inner).fit(X, y.astype(float))


class TestAroundOtherEstimators:
    """Nothing is known of what they take: the data must fit the augmenter."""

    def test_columns_of_a_table_are_no_pixels(self):
        X, y = data_of("events")
        model = AugmentedClassifier(LogisticRegression(), augmenter=ImageAugmenter())
        for table in (X, pd.DataFrame(X).rename(columns=str)):
            with pytest.raises(TypeError, match=r"6 columns of X for the pixels.*image_shape="):
                model.fit(table, y)

    def test_rows_of_pixels_with_a_shape_are_images(self):
        X, y = data_of("events")
        augmenter = ImageAugmenter(image_shape=(2, 3))
        model = AugmentedRegressor(Ridge(), augmenter=augmenter, n_copies=1).fit(X, y)
        assert model.augmenter_.n_views_ == 4

    def test_momenta_are_no_points_in_time(self):
        X, y = data_of("events")
        table = pd.DataFrame(X, columns=["lep_px", "lep_py", "lep_pz", "met_px", "met_py", "m"])
        model = AugmentedClassifier(LogisticRegression(), augmenter=WaveformAugmenter())
        with pytest.raises(TypeError, match=r"momenta of events.*use EventAugmenter\(\)"):
            model.fit(table, y)
        model.fit(pd.DataFrame(X).rename(columns=str), y)

    @pytest.mark.parametrize("shape", [(40, 8, 8), (40, 8, 8, 2)])
    def test_images_are_no_events(self, shape):
        model = AugmentedClassifier(LogisticRegression())
        with pytest.raises(TypeError, match=r"EventAugmenter\(\) is for events, rows of a table"):
            model.fit(np.zeros(shape), np.arange(40) % 2)
