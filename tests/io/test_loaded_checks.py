"""Arrays in a file that would crash Python, or break a prediction, are found by `load`."""

import io
import json

import numpy as np
import pytest
from numpy.testing import assert_array_equal
from sklearn.base import is_classifier
from sklearn.cluster import KMeans
from sklearn.ensemble import (
    AdaBoostClassifier,
    BaggingRegressor,
    ExtraTreesRegressor,
    GradientBoostingClassifier,
    GradientBoostingRegressor,
    HistGradientBoostingClassifier,
    HistGradientBoostingRegressor,
    IsolationForest,
    RandomForestClassifier,
    VotingClassifier,
)
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import make_scorer, roc_auc_score
from sklearn.model_selection import GridSearchCV, StratifiedKFold
from sklearn.neighbors import KNeighborsClassifier
from sklearn.tree import DecisionTreeClassifier, ExtraTreeRegressor

from skhep_nn import (
    CaloCNNRegressor,
    DenseNetClassifier,
    Ensemble,
    EventAugmenter,
    HyperEnsembleClassifier,
    WaveformClassifier,
    load,
    save,
)
from skhep_nn.io.loaded_checks import parts
from tests.io.archives import changed
from tests.io.write_stored_models import make_inputs

skops_io = pytest.importorskip("skops.io")

RNG = np.random.RandomState(0)
X = RNG.normal(size=(60, 4))
Y = np.arange(60) % 3
FAST = {"max_epochs": 1, "device": "cpu", "random_state": 0}

TREES = [
    DecisionTreeClassifier(max_depth=3, random_state=0),
    ExtraTreeRegressor(max_depth=3, random_state=0),
    RandomForestClassifier(3, max_depth=3, random_state=0),
    ExtraTreesRegressor(3, max_depth=3, random_state=0),
    GradientBoostingClassifier(n_estimators=2, random_state=0),
    GradientBoostingRegressor(n_estimators=2, init="zero", random_state=0),
    HistGradientBoostingClassifier(max_iter=2, min_samples_leaf=5, random_state=0),
    HistGradientBoostingRegressor(max_iter=2, min_samples_leaf=5, random_state=0),
]
OTHERS = [
    AdaBoostClassifier(DecisionTreeClassifier(max_depth=1), n_estimators=2, random_state=0),
    BaggingRegressor(max_features=2, n_estimators=2, random_state=0),
    VotingClassifier(
        [("a", DecisionTreeClassifier(max_depth=2)), ("b", LogisticRegression())], voting="soft"
    ),
    GridSearchCV(
        LogisticRegression(),
        {"C": [0.1, 1.0]},
        cv=StratifiedKFold(3),
        scoring=make_scorer(
            roc_auc_score, response_method="predict_proba", multi_class="ovr", average="macro"
        ),
    ),
]


def name_of(model):
    return type(model).__name__


def array(content):
    return np.load(io.BytesIO(content))


def packed(values):
    buffer = io.BytesIO()
    np.save(buffer, values)
    return buffer.getvalue()


def change_nodes(path, change):
    """Apply a change to the nodes of the last tree in a file."""

    def of_entries(entries):
        name, nodes = [
            (name, array(content))
            for name, content in entries.items()
            if name.endswith(".npy") and (array(content).dtype.names or ())[:1] in LEFT
        ][-1]
        entries[name] = packed(change(nodes.copy()))

    changed(path, of_entries, checksum=False)


LEFT = (("left_child",), ("value",))


def field(nodes, name):
    other = {"left_child": "left", "right_child": "right", "feature": "feature_idx"}
    other["threshold"] = "num_threshold"
    return nodes[name if name in nodes.dtype.names else other[name]]


def put(name, where, value):
    def change(nodes):
        field(nodes, name)[where] = value
        return nodes

    return change


ATTACKS = {
    "child far away": put("left_child", 0, 10**6),
    "child that is its parent": put("right_child", 0, 0),
    "child of two parents": put("right_child", 0, 1),
    "feature out of range": put("feature", 0, 10**6),
    "feature one too high": put("feature", 0, 4),
    "negative feature": put("feature", 0, -3),
    "threshold that is no number": put("threshold", 0, np.nan),
    "fewer nodes": lambda nodes: nodes[:-1],
}


@pytest.fixture
def path(tmp_path):
    return tmp_path / "model.skops"


@pytest.mark.parametrize("model", [*TREES, *OTHERS], ids=name_of)
def test_estimators_of_scikit_learn_need_no_trust(model, path):
    save(model.fit(X, Y), path)
    loaded = load(path)
    assert_array_equal(loaded.predict(X), model.predict(X))
    if is_classifier(model):
        assert_array_equal(loaded.predict_proba(X), model.predict_proba(X))


@pytest.mark.parametrize("attack", ATTACKS.values(), ids=ATTACKS)
@pytest.mark.parametrize("model", TREES, ids=name_of)
def test_forged_trees_are_refused(model, attack, path):
    save(model.fit(X, Y), path)
    change_nodes(path, attack)
    with pytest.raises(ValueError, match=r"model\.skops is damaged"):
        load(path)


def test_a_tree_deeper_than_it_says_is_refused(path):
    """`decision_path` reserves memory for the stated depth."""
    save(DecisionTreeClassifier(max_depth=4, random_state=0).fit(X, Y), path)
    replace_number(path, "max_depth", 1)
    with pytest.raises(ValueError, match="tree deeper than the stated 1"):
        load(path)


def test_trees_of_other_sizes_in_a_forest_are_refused(path):
    """A forest checks the columns of its input once for all of its trees."""
    wide = RandomForestClassifier(2, random_state=0).fit(np.c_[X, X], Y)
    wide.n_features_in_ = 4
    save(wide, path)
    with pytest.raises(ValueError, match="RandomForestClassifier with members that do not fit"):
        load(path)


def test_more_trees_than_outputs_are_refused(path):
    model = GradientBoostingClassifier(n_estimators=2).fit(X, Y)
    model.estimators_ = np.hstack([model.estimators_, model.estimators_])
    save(model, path)
    with pytest.raises(ValueError, match=r"with \(2, 6\) trees for 3 outputs"):
        load(path)
    model = GradientBoostingClassifier(n_estimators=2, init=LogisticRegression()).fit(X, Y)
    save(model, path)
    with pytest.raises(ValueError, match="that starts from LogisticRegression"):
        load(path)


def test_trees_elsewhere_and_categories_need_trust(path):
    tree = DecisionTreeClassifier().fit(X, Y).tree_
    model = LogisticRegression().fit(X, Y)
    model.tree_ = tree
    save(model, path)
    with pytest.raises(ValueError, match=r"trusted=\['sklearn\.tree\._tree\.Tree'\]"):
        load(path)
    load(path, trusted=["sklearn.tree._tree.Tree"])
    model = HistGradientBoostingClassifier(max_iter=2, categorical_features=[0])
    save(model.fit(np.c_[Y, X], Y), path)
    trusted = ["functools.partial", "sklearn.utils.validation.check_array"]
    predictor = "sklearn.ensemble._hist_gradient_boosting.predictor.TreePredictor"
    with pytest.raises(ValueError, match=rf"{predictor} outside .* trusted=\['{predictor}'\]"):
        load(path, trusted=trusted)
    loaded = load(path, trusted=[*trusted, predictor])
    assert_array_equal(loaded.predict(np.c_[Y, X]), model.predict(np.c_[Y, X]))


@pytest.mark.parametrize(
    "model", [KMeans(2, n_init=1), KNeighborsClassifier(algorithm="brute"), IsolationForest(n_estimators=2)],
    ids=name_of,
)  # fmt: skip
def test_estimators_whose_arrays_are_not_checked_need_trust(model, path):
    save(model.fit(X, Y), path)
    with pytest.raises(ValueError, match=rf"{name_of(model)}, which may run code or crash"):
        load(path)


@pytest.mark.parametrize("kind", ["MT19937", "Philox", "RandomState"])
def test_random_states_outside_of_their_words_are_refused(kind, path):
    state = (
        np.random.RandomState(0)
        if kind == "RandomState"
        else np.random.Generator(getattr(np.random, kind)(0))
    )
    save(EventAugmenter(random_state=state), path)
    load(path)
    replace_number(path, "buffer_pos" if kind == "Philox" else "pos", 700_000)
    with pytest.raises(ValueError, match="a random state at position 700000"):
        load(path)


def test_seeds_that_take_hours_are_refused(path):
    save(EventAugmenter(random_state=np.random.default_rng(0)), path)
    replace_number(path, "pool_size", 700_000)
    with pytest.raises(ValueError, match="a seed with a pool of the size 700000"):
        load(path)


def replace_number(path, name, value):
    """Replace the number under a name in the description of a file."""

    def change(entries):
        description = json.loads(entries["schema.json"])
        waiting, found = [description], []
        while waiting:
            part = waiting.pop()
            if isinstance(part, dict):
                found += [part[name]] if name in part else []
                waiting += part.values()
            elif isinstance(part, list):
                waiting += part
        assert found
        for node in found:
            node["content"] = json.dumps(value)
        entries["schema.json"] = json.dumps(description).encode()

    changed(path, change, checksum=False)


@pytest.fixture(scope="module")
def fitted():
    inputs = make_inputs()
    return {
        "table": DenseNetClassifier(n_members=2, **FAST).fit(X, Y),
        "images": CaloCNNRegressor(
            network_params={"channels": (4, 4), "kernels": 3, "dense": (8,)}, **FAST
        ).fit(inputs["images"], inputs["energy"]),
        "traces": WaveformClassifier(channels=4, **FAST).fit(inputs["traces"], inputs["classes"]),
        "candidates": HyperEnsembleClassifier(
            DenseNetClassifier(**FAST), {"depth": [1, 2]}, n_candidates=2, random_state=0
        ).fit(X, Y),
    }


def damage(where):
    def first(ensemble, change):
        name, state = next(iter(ensemble.states.items()))
        ensemble.states[name] = change(state)

    return {
        "shape": lambda e: first(e, lambda s: s[..., :-1]),
        "members": lambda e: first(e, lambda s: np.concatenate([s, s])),
        "dtype": lambda e: first(e, lambda s: s.astype("U8")),
        "complex": lambda e: first(e, lambda s: s.astype(complex)),
        "missing state": lambda e: e.states.pop(next(iter(e.states))),
        "weights": lambda e: setattr(e, "weights", np.full(len(e.weights), np.nan)),
        "more weights": lambda e: setattr(e, "weights", np.ones(7)),
        "weights of text": lambda e: setattr(e, "weights", np.array(["a"] * len(e.weights))),
        "no weights": lambda e: setattr(e, "weights", None),
        "another size": lambda e: e.network_params.update(n_outputs=9),
        "unknown parameter": lambda e: e.network_params.update(colour="red"),
        "states as a list": lambda e: setattr(e, "states", []),
    }[where]


@pytest.mark.parametrize("kind", ["table", "images", "traces", "candidates"])
@pytest.mark.parametrize(
    "where",
    [
        "shape",
        "members",
        "dtype",
        "complex",
        "missing state",
        "weights",
        "more weights",
        "weights of text",
        "no weights",
        "another size",
        "unknown parameter",
        "states as a list",
    ],
)
def test_damaged_ensembles_are_refused(fitted, kind, where, path):
    save(fitted[kind], path)
    model = load(path)
    damage(where)(next(part for part in parts(model) if isinstance(part, Ensemble)))
    save(model, path)
    with pytest.raises(ValueError, match=r"model\.skops is damaged, .*Ensemble"):
        load(path)


def test_a_network_too_large_for_memory_is_not_built(fitted, path):
    for params in ({"depth": 10**6}, {"n_features": 10**15}, {"width": 10**6}):
        save(fitted["table"], path)
        model = load(path)
        model.ensemble_.network_params.update(params)
        save(model, path)
        with pytest.raises(ValueError, match=r"model\.skops is damaged, .*Ensemble"):
            load(path)


def test_attributes_do_not_replace_methods(path):
    model = DenseNetClassifier()
    model.predict = 3
    save(model, path)
    with pytest.raises(ValueError, match="attribute in place of its method predict"):
        load(path)


def test_parameters_that_an_older_version_did_not_know_get_their_defaults(path):
    model = DenseNetClassifier(width=7)
    del model.depth
    vars(model)["n_members"] = 3
    state = vars(model)
    assert "depth" not in state
    save_without_check(model, path)
    loaded = load(path)
    assert loaded.get_params() == DenseNetClassifier(width=7, n_members=3).get_params()


def save_without_check(model, path):
    path.write_bytes(skops_io.dumps(model))
