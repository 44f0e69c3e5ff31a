"""Categories that come in another type at predict than at fit."""

import warnings

import numpy as np
import pandas as pd
import pytest

from skhep_nn.inputs.categories import category_codes
from tests.small_fits import quick

VALUES = np.arange(60) % 3 + 1
TEXT = [str(value) for value in VALUES]
# Ways to hold the same three categories; the last ones need pyarrow.
NUMPY = {
    "int64": VALUES,
    "int8": VALUES.astype("i1"),
    "uint64": VALUES.astype("u8"),
    "float64": VALUES.astype("f8"),
    "float32": VALUES.astype("f4"),
    "big-endian int": VALUES.astype(">i4"),
    "big-endian float": VALUES.astype(">f8"),
    "text": np.array(TEXT, dtype=object),
    "bytes": np.array([text.encode() for text in TEXT], dtype=object),
    "decimals": np.array([f"{value:.1f}" for value in VALUES], dtype=object),
}
PANDAS = {
    "categorical of int": lambda: pd.Series(VALUES).astype("category"),
    "categorical of text": lambda: pd.Series(TEXT).astype("category"),
    "string": lambda: pd.Series(TEXT, dtype="string"),
    "Int64": lambda: pd.Series(VALUES, dtype="Int64"),
    "Float32": lambda: pd.Series(VALUES, dtype="Float32"),
}
ARROW = {
    "arrow text": lambda pa: pd.Series(TEXT, dtype=pd.ArrowDtype(pa.string())),
    "arrow bytes": lambda pa: pd.Series(
        [t.encode() for t in TEXT], dtype=pd.ArrowDtype(pa.binary())
    ),
    "arrow int": lambda pa: pd.Series(VALUES, dtype="int64[pyarrow]"),
    "arrow dictionary": lambda pa: pd.Series(
        pd.arrays.ArrowExtensionArray(pa.array(TEXT).dictionary_encode())
    ),
}


def column_of(kind):
    if kind in ARROW:
        return ARROW[kind](pytest.importorskip("pyarrow"))
    return PANDAS[kind]() if kind in PANDAS else pd.Series(NUMPY[kind])


def table_of(column):
    return pd.DataFrame({"x": np.linspace(-1, 1, len(column)), "n_jets": column})


def fitted(X):
    return quick(categorical_features=[1], max_epochs=2).fit(X, np.arange(len(X)) % 2)


@pytest.mark.parametrize("kind", [*NUMPY, *PANDAS, *ARROW])
@pytest.mark.filterwarnings("ignore:X (has|does not have valid) feature names")
def test_the_same_categories_in_any_type_give_the_same_answer(kind):
    frame = table_of(column_of(kind))
    model = fitted(frame)
    expected = model.predict_proba(frame)
    for other in (*NUMPY, *PANDAS):
        asked = table_of(column_of(other))
        for X in (asked, asked.to_numpy()):
            np.testing.assert_array_equal(model.predict_proba(X), expected, err_msg=other)
    np.testing.assert_array_equal(fitted(frame.to_numpy()).predict_proba(frame), expected)


@pytest.mark.parametrize("dtype", ["U8", "S8", ">U8", ">f4", ">i2"])
def test_whole_arrays_of_text_or_in_big_endian_order(dtype):
    X = np.column_stack([np.arange(60), VALUES])
    asked = X.astype(str).astype(dtype) if dtype[-2] in "US" else X.astype(dtype)
    np.testing.assert_array_equal(fitted(asked).predict_proba(X), fitted(X).predict_proba(asked))
    np.testing.assert_array_equal(fitted(asked).predict_proba(X), fitted(X).predict_proba(X))


@pytest.mark.parametrize(
    ("values", "categories", "codes"),
    [
        ([True, False], [0, 1], [1, 0]),
        ([1, 0, 2], [False, True], [1, 0, -1]),
        (["True", "false", "1", "yes"], [False, True], [1, 0, 1, -1]),
        ([True, False], ["False", "True"], [1, 0]),
        ([b"mu", b"\xff"], ["e", "mu"], [1, -1]),
        (["mu", "tau"], [b"e", b"mu"], [1, -1]),
        (["3.0", "3", "-2", "1e1", "0.50"], [-2, 0.5, 3, 10], [2, 2, 0, 3, 1]),
        # Texts that are no plain numbers, or that could mean two categories, stay unknown.
        (["07", "+3", " 3", "1_0", "inf", "nan", ""], [3, 7, 10], [-1] * 7),
        ([7, 3], ["07", "3", "3.0"], [-1, -1]),
        (["e"], ["E", "mu"], [-1]),
    ],
)
def test_which_values_are_equal(values, categories, codes):
    found = category_codes(np.array(values, dtype=object), np.array(categories, dtype=object))
    assert found.tolist() == codes


@pytest.mark.parametrize("narrow", [np.float16, np.float32])
def test_single_and_double_precision(narrow):
    third = np.array([0.1, 1 / 3, 2.5])
    for values, categories in ((third.astype(narrow), third), (third, third.astype(narrow))):
        assert category_codes(values, categories).tolist() == [0, 1, 2]
        assert category_codes(values + narrow(0.01), categories).tolist() == [-1, -1, -1]
    assert category_codes(np.array(["0.1", "2.5"]), third.astype(narrow)).tolist() == [0, 2]
    # In double precision close numbers are different categories.
    assert category_codes(third + 1e-9, third).tolist() == [-1, -1, -1]


def test_large_integers_are_compared_exactly():
    run = 2**60
    known = np.array([run + 1, run + 3])
    asked = np.array([run, run + 1, run + 3, 2**63 + 1], dtype=np.uint64)
    assert category_codes(asked, known).tolist() == [-1, 0, 1, -1]
    assert category_codes(known, asked).tolist() == [1, 2]
    # A float cannot hold them, so that it could be several.
    assert category_codes(known.astype(float), known).tolist() == [-1, -1]
    assert category_codes(np.array([2**24], dtype=np.float32), np.array([2**24 + 1])).tolist() == [
        -1
    ]


def test_columns_without_a_known_row_are_named_with_examples():
    frame = table_of(pd.Series(VALUES)).assign(lepton=["e", "mu"] * 30, year=2018)
    model = quick(categorical_features=[1, 2, 3], max_epochs=1).fit(frame, VALUES)
    asked = frame.assign(n_jets="three", lepton=[11, 13] * 30)
    with pytest.warns(UserWarning, match="No row of X has a known category") as caught:
        model.predict(asked)
    (warning,) = caught
    text = str(warning.message)
    assert "in 2 of 3 categorical columns" in text
    assert "'n_jets' holds 'three' (str), but fit saw 1, 2, 3 (int)" in text
    assert "'lepton' holds 11, 13 (int), but fit saw 'e', 'mu' (str)" in text
    assert "year" not in text
    with pytest.warns(UserWarning, match="column 1 holds 9"):
        fitted(frame[["x", "n_jets"]].to_numpy()).predict(np.array([[0.0, 9.0]]))


def test_many_such_columns_are_counted():
    X = np.repeat(VALUES[:, None], 6, axis=1)
    model = quick(categorical_features=list(range(6)), max_epochs=1).fit(X, VALUES)
    with pytest.warns(
        UserWarning, match="column 2 holds .*; 3 more columns are like that"
    ) as caught:
        model.predict(X + 10)
    assert len(caught) == 1


@pytest.mark.parametrize("n_new", [1, 59])
def test_an_ordinary_new_category_says_nothing(n_new):
    frame = table_of(pd.Series(VALUES))
    model = fitted(frame)
    asked = frame.copy()
    asked.iloc[:n_new, 1] = 7
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        codes = model._encode_X(asked, reset=False)[:, 1]
    assert (codes[:n_new] == -1).all()
    assert (codes[n_new:] == VALUES[n_new:] - 1).all()
