"""Columns that can hold missing values, of pandas and pyarrow."""

import numpy as np
import pandas as pd
import pytest

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
