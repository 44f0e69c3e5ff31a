"""Callbacks of scikit-learn see every epoch as a task."""

import numpy as np
import pytest

from skhep_nn import Constant
from tests.small_fits import quick, small_events


@pytest.fixture
def events():
    return small_events()


class Recorder:
    """Keeps every hook in the order it was called, with what it was told."""

    def __init__(self):
        self.calls = []

    def setup(self, estimator, context):
        self.calls.append(("setup", context.task_name, {}))

    def teardown(self, estimator, context):
        self.calls.append(("teardown", context.task_name, {}))

    def on_fit_task_begin(self, estimator, context, *, X, y, metadata):
        told = {"X": X, "y": y, "metadata": metadata}
        self.calls.append(("begin", context.task_name, told))

    def on_fit_task_end(self, estimator, context, *, X, y, metadata, fitted_estimator):
        told = {"X": X, "y": y, "metadata": metadata, "p": fitted_estimator.predict_proba(X)}
        self.calls.append(("end", context.task_name, told))


class TestScikitLearnCallbacks:
    def test_one_task_for_the_fit_and_one_for_every_pass(self, events):
        X, y, w = events
        recorder = Recorder()
        model = quick(max_epochs=3).set_callbacks(recorder)
        model.fit(X, y, sample_weight=w)
        assert [call[:2] for call in recorder.calls] == [
            ("setup", "fit"),
            ("begin", "fit"),
            *[("begin", "epoch"), ("end", "epoch")] * 3,
            ("end", "fit"),
            ("teardown", "fit"),
        ]
        told = [call[2] for call in recorder.calls[1:-1]]
        assert all(t["X"] is X and t["y"] is y for t in told)
        for t in told:
            assert list(t["metadata"]) == ["sample_weight"]
            np.testing.assert_array_equal(t["metadata"]["sample_weight"], w)

    def test_what_they_are_given_predicts_as_of_that_pass(self, events):
        X, y, _ = events
        recorder = Recorder()
        model = quick(max_epochs=3).set_callbacks(recorder).fit(X, y)
        *passes, last = [told["p"] for hook, _, told in recorder.calls if hook == "end"]
        np.testing.assert_array_equal(last, model.predict_proba(X))
        np.testing.assert_array_equal(passes[-1], last)
        assert not np.array_equal(passes[0], passes[1])

    def test_no_weights_no_metadata(self, events):
        X, y, _ = events
        recorder = Recorder()
        quick().set_callbacks(recorder).fit(X, y)
        assert all(not told.get("metadata") for *_, told in recorder.calls)

    def test_a_fit_that_stops_early_is_closed_too(self, events):
        X, y, _ = events
        recorder = Recorder()
        model = quick(
            schedule=Constant(1e-12), n_members=2, early_stopping=1, max_epochs=9
        ).set_callbacks(recorder)
        n_passes = model.fit(X, y).history_.epoch.nunique()
        assert n_passes < 9
        hooks = [call[:2] for call in recorder.calls]
        assert hooks.count(("end", "epoch")) == n_passes
        assert hooks[-2:] == [("end", "fit"), ("teardown", "fit")]
