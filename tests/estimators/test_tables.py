"""Columns that can hold missing values, of pandas and pyarrow."""

import numpy as np
import pandas as pd
import pytest
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from skhep_nn import EventAugmenter
from tests.small_fits import quick

DTYPES = ["Int64", "Int8", "Float64", "Float32", "boolean", "double[pyarrow]", "int64[pyarrow]"]


@pytest.mark.parametrize("dtype", [*DTYPES, "bool[pyarrow]"])
@pytest.mark.parametrize("categories", [False, True])
class TestNullableColumns:
    def tables(self, dtype, categories):
        if "pyarrow" in dtype:
            pytest.importorskip("pyarrow")
        rng = np.random.default_rng(0)
        frame = pd.DataFrame({"pt": rng.normal(size=200), "njets": rng.integers(0, 2, 200)})
        params = {}
        if categories:
            frame["lepton"] = rng.choice(["e", "mu"], 200)
            params["categorical_features"] = ["lepton"]
        y = (frame.pt + frame.njets > 0.5).astype(int)
        return quick(**params), frame, frame.astype({"njets": dtype}), y

    def test_they_are_numbers_like_any_other(self, dtype, categories):
        model, plain, frame, y = self.tables(dtype, categories)
        expected = model.fit(plain, y).predict_proba(plain)
        np.testing.assert_array_equal(model.predict_proba(frame), expected)
        np.testing.assert_array_equal(model.fit(frame, y).predict_proba(frame), expected)

    def test_a_missing_value_is_named_by_its_column(self, dtype, categories):
        model, plain, frame, y = self.tables(dtype, categories)
        frame.loc[3, "njets"] = pd.NA
        with pytest.raises(ValueError, match="NaN in 'njets'"):
            model.fit(frame, y)
        model.fit(plain, y)
        with pytest.raises(ValueError, match="NaN in 'njets'"):
            model.predict(frame)


class TestMomenta:
    """Networks with an augmenter know the momenta of their tables, or say that they do not."""

    def events(self):
        rng = np.random.default_rng(0)
        phi = rng.uniform(-np.pi, np.pi, (2, 400))
        X = pd.DataFrame(
            {"jet_pt": rng.exponential(40, 400), "jet_eta": rng.normal(size=400), "jet_phi": phi[0]}
        ).assign(lep_px=40 * np.cos(phi[1]), lep_py=40 * np.sin(phi[1]))
        return X, (np.cos(phi[0] - phi[1]) > 0).astype(int)

    @pytest.mark.parametrize("container", [np.asarray, lambda X: pd.DataFrame(X.to_numpy())])
    def test_without_names_is_an_error_unless_columns_or_objects_are_given(self, container):
        X, y = self.events()
        unnamed = container(X)
        with pytest.raises(ValueError, match=r"without column names.*EventAugmenter\(columns="):
            quick(augmentation=EventAugmenter()).fit(unnamed, y)
        expected = quick(augmentation=EventAugmenter()).fit(X, y).predict_proba(X)
        named = quick(augmentation=EventAugmenter(columns=list(X)))
        np.testing.assert_array_equal(named.fit(unnamed, y).predict_proba(unnamed), expected)
        objects = {"jet": {"pt": 0, "eta": 1, "phi": 2}, "lep": {"px": 3, "py": 4}}
        numbered = quick(augmentation=EventAugmenter(objects=objects))
        np.testing.assert_array_equal(numbered.fit(unnamed, y).predict_proba(unnamed), expected)

    def test_steps_that_make_arrays_are_an_error(self):
        X, y = self.events()
        with pytest.raises(ValueError, match="without column names"):
            make_pipeline(StandardScaler(), quick(augmentation=EventAugmenter())).fit(X, y)

    def test_a_scaler_before_the_network_is_noticed(self):
        X, y = self.events()
        scaler = StandardScaler().set_output(transform="pandas")
        network = quick(augmentation=EventAugmenter())
        with pytest.raises(ValueError, match=r"'jet_pt' has the transverse momentum .* scaler out"):
            make_pipeline(scaler, network).fit(X, y)
        with pytest.warns(UserWarning, match="look scaled"):
            make_pipeline(scaler, network).fit(X[["lep_px", "lep_py"]], y)

    @pytest.mark.parametrize(
        "bad", [{"jet_phi": -999.0}, {"jet_phi": 170.0}, {"lep_px": -999.0, "lep_py": -999.0}]
    )
    def test_placeholders_and_degrees_are_refused_at_fit_and_at_predict(self, bad):
        X, y = self.events()
        model = quick(augmentation=EventAugmenter()).fit(X, y)
        wrong = X.copy()
        wrong.loc[5, list(bad)] = list(bad.values())
        with pytest.raises(ValueError, match=f"{next(iter(bad))}.* in row 5"):
            model.predict(wrong)
        with pytest.raises(ValueError, match=f"{next(iter(bad))}.* in row 5"):
            model.fit(wrong, y)
        quick().fit(wrong, y)

    def test_columns_left_over_are_said(self):
        X, y = self.events()
        with pytest.warns(UserWarning, match=r"leaves other columns .*\['met_phi'\]"):
            quick(augmentation=EventAugmenter()).fit(X.assign(met_phi=X["jet_phi"]), y)

    @pytest.mark.parametrize("form", ["jet.{}", "{}_jet", "Jet_{}_0", "jet_{}"])
    def test_augmentation_never_costs_accuracy_in_any_spelling(self, form):
        X, y = self.events()
        X = X.rename(columns=lambda name: form.format(name[4:]) if name[:3] == "jet" else name)
        model = quick(augmentation=EventAugmenter(), max_epochs=60).fit(X, y)
        views = list(model.augmenter_.views(X))
        for view in views[1:]:
            np.testing.assert_allclose(model.predict_proba(view), model.predict_proba(X), atol=1e-5)
        assert model.score(X, y) > 0.8
