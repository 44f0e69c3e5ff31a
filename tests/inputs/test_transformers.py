"""What is no array of images or traces is refused by a message that says what to pass."""

import numpy as np
import pandas as pd
import pytest

from skhep_nn import ImageScaler, WaveformScaler


def objects(shapes):
    rows = np.empty(len(shapes), object)
    rows[:] = [np.zeros(shape) for shape in shapes]
    return rows


@pytest.mark.parametrize(
    ("X", "message"),
    [
        (np.array([None] * 3), "3 objects, the first None"),
        (objects([(4, 4), (4, 5)]), r"2 objects, row 1 of shape \(4, 5\), row 0 of \(4, 4\): crop"),
        (objects([(4, 4)] * 2), r"each of shape \(4, 4\): np.stack\(X\) makes one array of"),
        (pd.Series([np.zeros(4), np.zeros(4)]), r"each of shape \(4,\): np.stack\(X\)"),
        ([np.zeros((4, 4)), np.zeros((4, 5))], "of one shape: crop or pad them to one"),
        (np.zeros(3), r"X must hold numbers in the shape .* got \(3,\) of float64"),
        (None, "in the shape .*, got None"),
        ("showers.h5", "in the shape .*, got 'showers.h5'"),
        (np.zeros((3, 4, 4), "M8[s]"), r"got \(3, 4, 4\) of datetime64"),
        (np.array([["a", "b"]]), r"got \(1, 2\) of <U1"),
        (np.zeros((3, 4, 4), [("t", "f4")]), r"X must hold numbers .*'t'"),
    ],
    ids=lambda value: value if isinstance(value, str) else type(value).__name__,
)
@pytest.mark.parametrize(
    ("scaler", "shapes"),
    [(ImageScaler(), "(n_samples, H, W)"), (WaveformScaler(), "(n_samples, n_points)")],
    ids=["images", "traces"],
)
def test_input_that_is_no_array_of_numbers(scaler, shapes, X, message):
    with pytest.raises(ValueError, match=message) as caught:
        scaler.fit(X)
    assert shapes in str(caught.value) or "of one shape" in str(caught.value)


def test_lists_of_rows_are_arrays():
    rows = [[[0.0, 1.0], [2.0, 3.0]]] * 3
    assert ImageScaler().fit(rows).image_shape_ == (2, 2)
    assert WaveformScaler().fit(rows).trace_shape_ == (2, 2)
