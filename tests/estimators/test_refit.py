"""A second fit, seeds, and the state of torch around a fit."""

import pickle
import warnings

import joblib
import numpy as np
import pandas as pd
import pytest
import torch

from skhep_nn import DenseNetRegressor
from tests.small_fits import Spy, quick, small_events


@pytest.fixture
def events():
    return small_events()


class TestRefit:
    def table(self, n=200, seed=0):
        rng = np.random.default_rng(seed)
        frame = pd.DataFrame(rng.normal(size=(n, 3)), columns=["pt", "eta", "phi"])
        return frame.assign(lepton=rng.choice(["e", "mu"], n)), rng.choice(["b", "s"], n)

    def check(self, params, first, second, **changed):
        """A second fit gives what a new estimator gives and leaves nothing of the first."""
        model = quick(n_members=2, **params).fit(*first).set_params(**changed)
        model.fit(*second)
        fresh = quick(n_members=2, **params | changed).fit(*second)
        X = second[0]
        np.testing.assert_array_equal(model.predict_proba(X), fresh.predict_proba(X))
        np.testing.assert_array_equal(model.predict(X), fresh.predict(X))
        np.testing.assert_array_equal(model.classes_, fresh.classes_)
        assert set(vars(model)) == set(vars(fresh))
        columns = ["member", "epoch", "train_loss", "valid_loss"]
        pd.testing.assert_frame_equal(model.history_[columns], fresh.history_[columns])

    def test_other_columns(self):
        frame, y = self.table()
        other = frame[["lepton", "eta"]].assign(mass=frame.pt**2)
        self.check({"categorical_features": ["lepton"]}, (frame, y), (other, y))

    def test_an_array_after_a_frame(self):
        frame, y = self.table()
        self.check({}, (frame[["pt", "eta", "phi"]], y), (frame[["phi", "pt"]].to_numpy(), y))

    def test_other_categories(self):
        frame, y = self.table()
        other = frame.assign(lepton=np.array(["tau", "mu", "nu"])[np.arange(200) % 3])
        self.check({"categorical_features": ["lepton"]}, (frame, y), (other, y))

    def test_no_categories(self):
        frame, y = self.table()
        self.check(
            {"categorical_features": ["lepton"]},
            (frame, y),
            (frame.drop(columns="lepton"), y),
            categorical_features=None,
        )

    def test_other_labels(self):
        frame, y = self.table()
        frame = frame.drop(columns="lepton")
        self.check({}, (frame, y), (frame, np.arange(200) % 3))
        self.check({}, (frame, np.arange(200) % 3), (frame, y == "s"))

    def test_other_shape_of_targets(self):
        frame, _ = self.table()
        X = frame.drop(columns="lepton").to_numpy()
        model = quick(DenseNetRegressor, n_members=2).fit(X, X[:, :2])
        np.testing.assert_array_equal(
            model.fit(X, X[:, 0]).predict(X),
            quick(DenseNetRegressor, n_members=2).fit(X, X[:, 0]).predict(X),
        )

    def test_no_augmentation(self, events):
        X, y, _ = events
        self.check({"augmentation": Spy()}, (X, y), (X, y), augmentation=None)


class TestNoRandomState:
    @pytest.fixture(autouse=True)
    def _restored(self):
        state = np.random.get_state()  # noqa: NPY002 - the global state is what is tested
        yield
        np.random.set_state(state)  # noqa: NPY002

    def fit(self, events):
        X, y, _ = events
        model = quick(random_state=None, n_members=2, augmentation=Spy(), dropout=0.1)
        return model.fit(X, y).predict_proba(X)

    def test_two_fits_differ(self, events):
        assert not np.array_equal(self.fit(events), self.fit(events))

    def test_numpys_global_state_is_neither_read_nor_moved(self, events):
        np.random.seed(1)  # noqa: NPY002
        before = np.random.get_state()  # noqa: NPY002
        first = self.fit(events)
        after = np.random.get_state()  # noqa: NPY002
        np.testing.assert_array_equal(before[1], after[1])
        assert before[2:] == after[2:]
        assert not np.array_equal(first, self.fit(events))


@pytest.mark.parametrize("params", [{}, {"dropout": 0.2}, {"dense": False}])
def test_torch_no_grad_does_not_change_fit_or_predict(events, params):
    X, y, _ = events
    expected = quick(n_members=2, **params).fit(X, y).predict_proba(X)
    with torch.no_grad():
        model = quick(n_members=2, **params).fit(X, y)
        assert not torch.is_grad_enabled()
        inside = model.predict_proba(X)
        assert not torch.is_grad_enabled()
    np.testing.assert_array_equal(inside, expected)
    np.testing.assert_array_equal(model.predict_proba(X), expected)


@pytest.mark.parametrize("n_members", [1, 2])
def test_compiled_networks_give_the_eager_answer(events, monkeypatch, n_members):
    """All of the compiler but its code generation, which takes half a minute."""
    X, y, w = events
    compiled, runs = [], []
    compile_ = torch.compile

    def backend(graph, example_inputs):
        compiled.append(graph)

        def run(*args):
            runs.append(1)
            return graph.forward(*args)

        return run

    monkeypatch.setattr(
        torch, "compile", lambda module, **kw: compile_(module, **kw | {"backend": backend})
    )
    torch._dynamo.reset()
    params = {"n_members": n_members, "early_stopping": 5, "max_epochs": 3}
    try:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", module="torch")
            model = quick(compile=True, **params).fit(X, y, sample_weight=w)
    finally:
        torch._dynamo.reset()
    eager = quick(compile=False, **params).fit(X, y, sample_weight=w)
    assert compiled
    assert len(runs) >= 3 * (4 if n_members == 1 else 3)
    np.testing.assert_allclose(model.predict_proba(X), eager.predict_proba(X), atol=1e-5)
    assert set(model.ensemble_.states) == set(eager.ensemble_.states)
    np.testing.assert_allclose(model.ensemble_.weights, eager.ensemble_.weights, rtol=1e-4)


def test_predictions_do_not_change_pickles_and_hashes(events):
    X, y, _ = events
    model = quick().fit(X, y)
    before, size = joblib.hash(model), len(pickle.dumps(model))
    model.predict_proba(X)
    assert model.ensemble_.n_parameters > 0
    assert model.ensemble_.n_operations > 0
    assert (joblib.hash(model), len(pickle.dumps(model))) == (before, size)


def test_repeated_fits_have_one_hash_but_for_times(events):
    X, y, _ = events
    states = []
    for _ in range(2):
        model = quick(n_members=2).fit(X, y)
        model.predict_proba(X)
        history = model.history_.drop(columns="seconds").to_dict("list")
        states.append(model.__getstate__() | {"history_": history})
    assert joblib.hash(states[0]) == joblib.hash(states[1])


def test_read_only_states_and_rows_are_used_without_a_warning(events, tmp_path):
    """As memory maps of joblib and objects of ray are."""
    X, y, _ = events
    model = quick(n_members=2).fit(X, y)
    joblib.dump(model, tmp_path / "model")
    np.save(tmp_path / "rows.npy", X)
    mapped = joblib.load(tmp_path / "model", mmap_mode="r")
    rows = np.load(tmp_path / "rows.npy", mmap_mode="r")
    assert not any(value.flags.writeable for value in mapped.ensemble_.states.values())
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        found = mapped.predict_proba(rows)
        mapped.ensemble_.member(0)
        model.fit(rows, y)
    np.testing.assert_array_equal(found, model.predict_proba(X))
