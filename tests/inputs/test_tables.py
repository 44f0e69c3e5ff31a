"""Conversion of tables to arrays: columns by name or number, categories, refused values."""

import pickle
import warnings

import numpy as np
import pandas as pd
import pytest

from skhep_nn import DenseNetClassifier, DenseNetRegressor

TIMESTAMP = 1.6e9


def quick(**params):
    return DenseNetClassifier(**{"max_epochs": 1, "random_state": 0, "depth": 1} | params)


@pytest.fixture
def frame():
    rng = np.random.default_rng(0)
    return pd.DataFrame(
        {
            "pt": rng.exponential(40, 60),
            "eta": rng.normal(0, 1.5, 60),
            "jets": rng.integers(0, 4, 60),
        }
    )


@pytest.fixture
def y():
    return np.tile(["b", "s"], 30)


class TestCategoricalFeatures:
    @pytest.mark.parametrize(
        "given",
        [
            [False, False, True],
            np.array([False, False, True]),
            np.int64(2),
            [np.int64(2)],
            np.array([2]),
            2,
            "jets",
            ("jets",),
            pd.Index(["jets"]),
        ],
    )
    def test_ways_to_name_a_column(self, frame, y, given):
        model = quick(categorical_features=given).fit(frame, y)
        assert list(model.categories_) == [2]
        assert model.categories_[2].tolist() == [0, 1, 2, 3]

    @pytest.mark.parametrize("given", [[], [False] * 3, None])
    def test_none_at_all(self, frame, y, given):
        assert not hasattr(quick(categorical_features=given).fit(frame, y), "categories_")

    @pytest.mark.parametrize(
        ("given", "message"),
        [
            ([False, True], "boolean mask of length 2, but X has 3 columns"),
            ([False, 2, True], "holds False; give the name of a column or its number"),
            (True, "mask of length 1"),
            (["jets", 2], r"names 'jets' more than once: \['jets', 2\]"),
            ([1.5], "holds 1.5"),
            (1.5, "holds 1.5"),
            ([None], "holds None"),
            ([[2]], r"holds \[2\]"),
            (-1, "names column -1, but X has 3 columns"),
        ],
    )
    def test_refused(self, frame, y, given, message):
        with pytest.raises(ValueError, match=f"categorical_features.*{message}"):
            quick(categorical_features=given).fit(frame, y)

    def test_stratify_by_is_read_the_same_way(self, frame, y):
        quick(stratify_by=np.int64(2), n_members=2).fit(frame, y)
        with pytest.raises(ValueError, match=r"stratify_by holds 1\.5"):
            quick(stratify_by=1.5, n_members=2).fit(frame, y)


class TestEmbeddingSizes:
    @pytest.mark.parametrize("sizes", [np.int64(3), {"jets": np.int64(3)}, {2: 3}])
    def test_given(self, frame, y, sizes):
        model = quick(categorical_features="jets", embedding_sizes=sizes).fit(frame, y)
        assert model.ensemble_.states["input_stage.embeddings.0.weight"].shape == (1, 4, 3)

    def test_columns_that_are_left_out_are_auto(self, frame, y):
        model = quick(categorical_features="jets", embedding_sizes={}).fit(frame, y)
        assert model.ensemble_.states["input_stage.embeddings.0.weight"].shape == (1, 4, 2)

    @pytest.mark.parametrize(
        "sizes", [0, -1, 2.5, "large", None, True, [3], {"jets": 0}, {"jets": "auto"}]
    )
    @pytest.mark.parametrize("categorical", ["jets", None])
    def test_refused(self, frame, y, sizes, categorical):
        model = quick(categorical_features=categorical, embedding_sizes=sizes)
        with pytest.raises(ValueError, match=r"embedding_sizes=.* must be 'auto', an integer"):
            model.fit(frame, y)

    def test_columns_must_be_categorical(self, frame, y):
        with pytest.raises(
            ValueError, match=r"names \['pt'\], which categorical_features does not"
        ):
            quick(categorical_features="jets", embedding_sizes={"pt": 3}).fit(frame, y)
        with pytest.raises(ValueError, match="embedding_sizes names 'jets' more than once"):
            quick(categorical_features="jets", embedding_sizes={"jets": 3, 2: 4}).fit(frame, y)


class TestOtherFrames:
    """Column names of data frames of other libraries are kept and compared."""

    @staticmethod
    def check(make, frame, y):
        model = quick(categorical_features="jets").fit(make(frame), y)
        assert model.feature_names_in_.tolist() == ["pt", "eta", "jets"]
        np.testing.assert_array_equal(
            model.predict_proba(make(frame)),
            quick(categorical_features="jets").fit(frame, y).predict_proba(frame),
        )
        with pytest.raises(ValueError, match="feature names"):
            model.predict(make(frame[["eta", "pt", "jets"]]))

    def test_pyarrow(self, frame, y):
        self.check(pytest.importorskip("pyarrow").Table.from_pandas, frame, y)

    def test_polars(self, frame, y):
        polars = pytest.importorskip("polars")
        self.check(lambda f: polars.DataFrame(f.to_dict("list")), frame, y)


class TestReadOnly:
    """Torch would warn of arrays that it cannot write to."""

    def test_memory_map(self, frame, y, tmp_path):
        X = np.ascontiguousarray(frame, dtype=np.float32)
        np.save(tmp_path / "X.npy", X)
        mapped = np.load(tmp_path / "X.npy", mmap_mode="r")
        model = quick().fit(mapped, y)
        p = model.predict_proba(mapped)
        # Torch warns only once in a process, so that a later test would not notice.
        assert model._encode_X(mapped, reset=False).flags.writeable
        np.testing.assert_array_equal(p, quick().fit(X, y).predict_proba(X))

    def test_one_column_of_a_frame(self, frame, y):
        one = frame[["pt"]].astype(np.float32)
        column = one.to_numpy()
        column.flags.writeable = False
        assert quick().fit(column, y).predict_proba(column).shape == (60, 2)
        assert quick().fit(one, y).predict_proba(one).shape == (60, 2)

    def test_nothing_is_copied_without_need(self, frame, y):
        X = np.ascontiguousarray(frame, dtype=np.float32)
        model = quick().fit(X, y)
        assert np.shares_memory(model._encode_X(X, reset=False), X)
        for other in (np.asfortranarray(X), X[::-1]):
            encoded = model._encode_X(other, reset=False)
            assert encoded.flags.c_contiguous
            assert encoded.flags.writeable
            np.testing.assert_array_equal(encoded, other)


class TestOffsets:
    """Single precision has seven digits; smaller differences are lost."""

    @pytest.mark.parametrize("width", [100.0, 1.0, 5000.0])
    def test_warned_of_by_name(self, frame, y, width):
        rng = np.random.default_rng(0)
        frame["time"] = TIMESTAMP + rng.uniform(0, width, 60)
        with pytest.warns(
            UserWarning, match=r"columns \['time'\] of X .* subtract an offset first"
        ):
            model = quick().fit(frame, y)
        with pytest.warns(UserWarning, match=r"columns \[3\] of X"):
            quick().fit(frame.to_numpy(), y)
        with pytest.warns(UserWarning, match=r"columns \['time'\] of X"):
            quick(categorical_features="jets").fit(frame, y)
        assert np.isfinite(model.predict_proba(frame)).all()

    def test_silent_where_all_is_well(self, frame, y):
        """No warning for constants of any kind, one computed in two ways, categories, or without an offset."""
        time = TIMESTAMP + np.arange(60) % 4
        frame = frame.assign(
            zero=0.0,
            mass=125.1,
            run=362_000,
            big=1e30,
            sum=np.where(np.arange(60) % 2, 0.3, 0.1 + 0.2),
            mean_one=1 + 1e-3 * frame.eta,
            single=np.float32(0.1),
            time=time - TIMESTAMP,
            label=time,
        )
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            model = quick(categorical_features="label").fit(frame, y)
            model.predict(frame)
            numbers = frame.drop(columns="label")
            quick().fit(numbers.to_numpy(), y)
            quick().fit(numbers.to_numpy(np.float32), y)

    def test_a_constant_that_moves_later_stays_tame(self, frame, y):
        frame["run"] = 3.6e5
        model = quick(max_epochs=20).fit(frame, y)
        assert model.ensemble_.states["input_stage.scale"][0, 3] == np.float32(3.6e5)
        moved = model.predict_proba(frame.assign(run=3.6e5 + 100))
        np.testing.assert_allclose(moved, model.predict_proba(frame), atol=1e-3)


def test_targets_with_an_offset_are_resolved():
    """Targets are scaled in double precision, and a constant one is predicted to a fraction of 1."""
    X = np.random.default_rng(0).normal(size=(300, 2))
    model = DenseNetRegressor(max_epochs=60, random_state=0)
    y = TIMESTAMP + 30 * X[:, 0]
    assert model.fit(X, y).score(X, y) > 0.9
    constant = np.full(300, 1e6)
    np.testing.assert_allclose(model.fit(X, constant).predict(X), constant, atol=1.0)


class TestNotNumbers:
    def test_array_of_objects(self, frame, y):
        X = frame.assign(lepton=["e", "mu"] * 30, other="x").to_numpy(dtype=object)
        with pytest.raises(ValueError, match=r"columns \[3, 4\] of X do not hold numbers; .*: 'e'"):
            quick().fit(X, y)
        with pytest.raises(ValueError, match=r"columns \[3\] of X do not hold numbers"):
            quick(categorical_features=[4]).fit(X, y)
        model = quick().fit(X[:, :3], y)
        with pytest.raises(ValueError, match=r"columns \[1\] of X do not hold numbers"):
            model.predict(X[:, [0, 3, 1]])

    def test_unreadable_objects(self, frame, y):
        X = frame.to_numpy(dtype=object)
        X[3, 1] = {}
        with pytest.raises(TypeError, match=r"columns \[1\] of X do not hold numbers"):
            quick().fit(X, y)

    @pytest.mark.parametrize("dtype", ["string[pyarrow]", "arrow", "category"])
    def test_text_stored_in_any_way(self, frame, y, dtype):
        pyarrow = pytest.importorskip("pyarrow")
        dtype = pd.ArrowDtype(pyarrow.string()) if dtype == "arrow" else dtype
        frame["lepton"] = pd.Series(["e", "mu"] * 30, dtype=dtype)
        with pytest.raises(ValueError, match=r"columns \['lepton'\] of X do not hold numbers"):
            quick().fit(frame, y)
        with pytest.raises(ValueError, match=r"columns \['lepton'\] of X do not hold numbers"):
            quick(categorical_features="jets").fit(frame, y)
        model = quick(categorical_features="lepton").fit(frame, y)
        assert model.categories_[3].tolist() == ["e", "mu"]

    @pytest.mark.parametrize("kind", ["date", "duration", "zone", "arrow", "category"])
    def test_dates(self, frame, y, kind):
        time = pd.Series(pd.date_range("2012-04-04", periods=60))
        if kind == "duration":
            time = time - time[0]
        elif kind == "zone":
            time = time.dt.tz_localize("CET")
        elif kind == "arrow":
            pyarrow = pytest.importorskip("pyarrow")
            time = time.astype(pd.ArrowDtype(pyarrow.timestamp("us")))
        elif kind == "category":
            time = time.astype("category")
        message = r"columns \['time'\] of X hold dates or durations"
        for X in (time.to_frame("time"), frame.assign(time=time)):
            with pytest.raises(ValueError, match=message):
                quick().fit(X, y)
            with pytest.raises(ValueError, match=message):
                quick(categorical_features="time").fit(X, y)

    def test_dates_in_an_array(self, y):
        X = pd.date_range("2012-04-04", periods=60).to_numpy()[:, None]
        with pytest.raises(ValueError, match=r"columns \[0\] of X hold dates or durations"):
            quick().fit(X, y)

    def test_missing_among_objects(self, frame, y):
        """All missing values of pandas count as NaN."""
        for missing in (None, pd.NA, np.nan):
            bad = frame.astype(object)
            bad.iloc[3, 1] = missing
            with pytest.raises(ValueError, match="Input X contains NaN in 'eta'"):
                quick().fit(bad, y)


class TestCategories:
    def test_numbers_and_text(self, frame, y):
        frame["channel"] = np.array(["mu", 2, 10, "e"] * 15, dtype=object)
        model = quick(categorical_features="channel", max_epochs=20).fit(frame, y)
        assert model.categories_[3].tolist() == [2, 10, "e", "mu"]
        again = pickle.loads(pickle.dumps(model))
        np.testing.assert_array_equal(again.predict_proba(frame), model.predict_proba(frame))
        codes = model._encode_X(frame, reset=False)[:, 3]
        assert codes[:4].tolist() == [3, 0, 1, 2]
        # The text "2" can only mean the number 2 here.
        assert (model._encode_X(frame.assign(channel="2"), reset=False)[:, 3] == 0).all()

    def test_a_number_and_its_text_are_two_categories_if_fit_saw_both(self, frame, y):
        frame["channel"] = np.array(["2", 2, 3, "e"] * 15, dtype=object)
        model = quick(categorical_features="channel").fit(frame, y)
        assert model.categories_[3].tolist() == [2, 3, "2", "e"]
        assert model._encode_X(frame, reset=False)[:4, 3].tolist() == [2, 0, 1, 3]
        # Bytes could be either.
        asked = frame.assign(channel=np.array([b"2", b"3", b"e", b"f"] * 15, dtype=object))
        assert model._encode_X(asked, reset=False)[:4, 3].tolist() == [-1, 1, 3, -1]

    def test_nan_of_pyarrow(self, frame, y):
        """Pandas treats it as a value of such a column, not as missing."""
        pyarrow = pytest.importorskip("pyarrow")
        values = pyarrow.array([1.0, float("nan")] * 30)
        frame["region"] = pd.Series(values, dtype=pd.ArrowDtype(pyarrow.float64()))
        with pytest.raises(ValueError, match="NaN in the categorical 'region'"):
            quick(categorical_features="region").fit(frame, y)

    def test_no_category_at_all(self, frame, y):
        frame["region"] = pd.Series([[1], [2]] * 30)
        with pytest.raises(ValueError, match="categorical 'region' of X must hold numbers or text"):
            quick(categorical_features="region").fit(frame, y)

    @pytest.mark.parametrize("as_array", [False, True])
    def test_no_rows(self, frame, y, as_array):
        only = frame[["jets"]]
        none = only[:0].to_numpy() if as_array else only[:0]
        message = r"0 sample\(s\) \(shape=\(0, 1\)\) while a minimum of 1 is required"
        with pytest.raises(ValueError, match=message):
            quick(categorical_features=[0]).fit(none, y[:0])
        X = only.to_numpy() if as_array else only
        model = quick(categorical_features=[0]).fit(X, y)
        with pytest.raises(ValueError, match=message):
            model.predict(none)


@pytest.mark.parametrize("estimator", [DenseNetClassifier, DenseNetRegressor])
def test_fitted_attributes_are_documented(estimator):
    attributes = estimator.__doc__.split("Attributes\n")[1].split("See Also")[0]
    for name in ("augmenter_", "categories_", "ensemble_", "history_", "net_"):
        assert f"\n    {name} : " in attributes


def test_numpy_columns_are_read_like_other_columns():
    """Frames of numpy columns are copied in blocks of rows; the table has more rows than a block."""
    rng = np.random.default_rng(0)
    n = 9000
    frame = pd.DataFrame(
        {
            "a": rng.normal(size=n),
            "b": rng.integers(-5, 5, n),
            "jets": rng.integers(0, 4, n),
            "c": rng.normal(size=n).astype(np.float32),
        }
    )
    y = np.arange(n) % 2
    expected = np.column_stack([np.asarray(frame[c], dtype=np.float32) for c in frame])
    plain = DenseNetClassifier(max_epochs=1, random_state=0).fit(frame, y)
    np.testing.assert_array_equal(plain._encode_X(frame, reset=False), expected)
    model = DenseNetClassifier(max_epochs=1, categorical_features="jets", random_state=0)
    model.fit(frame, y)
    np.testing.assert_array_equal(model._encode_X(frame, reset=False), expected)
    others = frame.assign(jets=np.where(np.arange(n) % 3 == 0, 9, np.where(frame.jets == 1, -7, 2)))
    codes = model._encode_X(others, reset=False)[:, 2]
    as_text = model._encode_X(others.astype({"jets": object}), reset=False)[:, 2]
    np.testing.assert_array_equal(codes, as_text)
    assert set(codes) == {-1.0, 2.0}


def test_columns_that_vanish_in_single_precision():
    """Columns that are constant in double precision, too, do not warn."""
    X = np.random.default_rng(0).normal(size=(60, 3))
    y = X[:, 0] > 0
    X[:, 1] = 0
    network = DenseNetClassifier(max_epochs=1, depth=1, width=4, random_state=0)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        network.fit(X, y)
    X[:, 2] *= 1e-50
    with pytest.warns(UserWarning, match=r"columns \[2\] of X .* too small altogether"):
        network.fit(X, y)
