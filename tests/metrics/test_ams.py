"""The AMS, its curve over the cuts, and the choice of the cut."""

import math
from decimal import Decimal, localcontext

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from skhep_nn.metrics import (
    ams_curve,
    ams_score,
    best_cut,
    rescale_weights,
)
from tests.metrics.reference import TOTALS, toy_sample


def ams_of_yields(s, b, b_reg=10.0):
    """The AMS of two yields, through the public function."""
    return ams_score(["s", "b"], [True, True], [s, b], b_reg)


def exact_ams(s, b, b_reg):
    """The formula in 80 decimal digits."""
    with localcontext() as context:
        context.prec = 80
        s, b = Decimal(s), Decimal(b) + Decimal(b_reg)
        return float((2 * ((s + b) * (1 + s / b).ln() - s)).sqrt())


class TestFormula:
    def test_no_signal_selected_gives_zero(self):
        assert ams_of_yields(0.0, 100.0) == 0.0
        assert ams_score([0, 1], [True, False]) == 0.0

    def test_nothing_selected_gives_zero_even_without_regularisation(self):
        assert ams_score([0, 1], [False, False], b_reg=0) == 0.0

    def test_no_background(self):
        expected = math.sqrt(2 * ((5 + 10) * math.log(1 + 5 / 10) - 5))
        assert ams_of_yields(5.0, 0.0) == pytest.approx(expected, rel=1e-14)

    def test_no_background_and_no_regularisation_is_infinite(self):
        assert ams_of_yields(5.0, 0.0, b_reg=0) == math.inf

    def test_value_by_hand(self):
        assert ams_of_yields(250.0, 5000.0, 10.0) == pytest.approx(3.5032234567509, rel=1e-12)

    @pytest.mark.parametrize("s", [1e-8, 1e-3, 1.0])
    def test_much_background_gives_s_over_root_b(self, s):
        assert ams_of_yields(s, 1e12) == pytest.approx(s / math.sqrt(1e12 + 10), rel=1e-11)

    @settings(max_examples=300, deadline=None)
    @given(
        s=st.floats(1e-12, 1e9), b=st.floats(0, 1e12), b_reg=st.sampled_from([0.1, 1.0, 10.0, 1e3])
    )
    def test_digits_are_kept_at_every_ratio(self, s, b, b_reg):
        assert ams_of_yields(s, b, b_reg) == pytest.approx(exact_ams(s, b, b_reg), rel=1e-13)

    @pytest.mark.parametrize("s", [0.0999999, 0.1, 0.1000001])
    def test_series_and_closed_form_meet(self, s):
        assert ams_of_yields(s, 0.0, 1.0) == pytest.approx(exact_ams(s, 0.0, 1.0), rel=1e-14)


class TestAmsScore:
    @pytest.mark.parametrize(
        ("signal", "background"), [("s", "b"), (1, 0), (1, -1), (True, False), ("tautau", "W")]
    )
    def test_labels(self, signal, background):
        y = np.array([signal, background, signal, background])
        pos_label = "tautau" if signal == "tautau" else None
        result = ams_score(y, [True, True, False, False], [3, 5, 7, 11], pos_label=pos_label)
        assert result == ams_of_yields(3.0, 5.0)

    def test_pandas_input(self):
        y = pd.Series(["s", "b", "b"], index=[7, 8, 9], dtype="string")
        chosen = pd.Series([True, False, True], dtype="boolean", index=[7, 8, 9])
        weight = pd.Series([3.0, 4.0, 5.0], index=[9, 8, 7])
        assert ams_score(y, chosen, weight) == ams_of_yields(3.0, 5.0)

    def test_pos_label_swaps_the_roles(self):
        swapped = ams_score(["s", "b"], [True, True], [3, 5], pos_label="b")
        assert swapped == ams_of_yields(5.0, 3.0) != ams_of_yields(3.0, 5.0)

    def test_one_class_known_by_its_label(self):
        assert ams_score(["b", "b"], [True, True]) == 0.0
        assert ams_score([1, 1], [True, False]) == ams_of_yields(1.0, 0.0)

    def test_invariances(self):
        y, score, weight = toy_sample()
        chosen = score > 0.5
        reference = ams_score(y, chosen, weight)
        order = np.random.default_rng(1).permutation(len(y))
        assert ams_score(y[order], chosen[order], weight[order]) == pytest.approx(reference)
        # An event split in two with half the weight each is the same event.
        halves = [np.concatenate([a, a]) for a in (y, chosen, weight / 2)]
        assert ams_score(*halves) == pytest.approx(reference)
        # AMS grows as the root of the luminosity.
        assert ams_score(y, chosen, 4 * weight, 40.0) == pytest.approx(2 * reference)

    @pytest.mark.parametrize(("s", "b"), [(-1.0, 5.0), (1.0, -5.0)])
    def test_negative_yields_are_an_error(self, s, b):
        with pytest.raises(ValueError, match=rf"s={s:g} and b={b:g}"):
            ams_of_yields(s, b)

    def test_negative_weights_are_fine_while_the_sums_are_not_negative(self):
        result = ams_score(["s", "b", "b"], [True] * 3, [2.0, 9.0, -1.0])
        assert result == ams_of_yields(2.0, 8.0)

    @pytest.mark.parametrize(
        ("arguments", "message"),
        [
            ({"y": ["s", "b", "x"]}, "3 classes"),
            ({"y": [["s"], ["b"], ["b"]]}, r"shape \(3, 1\)"),
            ({"y": []}, "shape"),
            ({"y": [0.0, 1.0, np.nan]}, r"y\[2\] is missing"),
            ({"y": np.array(["s", None, "b"], dtype=object)}, r"y\[1\] is missing"),
            ({"y": ["x", "x", "x"]}, "pos_label"),
            ({"pos_label": "signal"}, "pos_label='signal'"),
            ({"selected": [True, False]}, r"selected has shape \(2,\), expected \(3,\)"),
            ({"sample_weight": [1.0]}, r"sample_weight has shape \(1,\), expected \(3,\)"),
            ({"sample_weight": [1.0, np.inf, 1.0]}, r"sample_weight\[1\] is inf"),
            ({"b_reg": -1.0}, "b_reg=-1.0"),
            ({"b_reg": np.nan}, "b_reg=nan"),
            ({"b_reg": "10"}, "b_reg='10'"),
        ],
    )
    def test_bad_input(self, arguments, message):
        good = {"y": ["s", "b", "b"], "selected": [True] * 3, "sample_weight": [1.0] * 3}
        with pytest.raises(ValueError, match=message):
            ams_score(**(good | arguments))

    @pytest.mark.parametrize("selected", [[0, 2], [0.3, 0.7], np.array([True, None], dtype=object)])
    def test_selection_must_be_boolean(self, selected):
        with pytest.raises(TypeError, match="expected bool"):
            ams_score(["s", "b"], selected)


class TestAmsCurve:
    @settings(max_examples=100, deadline=None)
    @given(st.data())
    def test_agrees_with_ams_score_at_every_cut(self, data):
        n = data.draw(st.integers(1, 40))

        def column(element):
            return np.array(data.draw(st.lists(element, min_size=n, max_size=n)))

        y = column(st.sampled_from(["s", "b"]))
        # Few distinct scores, so that ties are common.
        score = column(st.one_of(st.integers(-3, 3).map(float), st.floats(-1e6, 1e6)))
        weight = column(st.floats(0, 1e5))
        b_reg = data.draw(st.sampled_from([0.5, 10.0]))
        curve = ams_curve(y, score, weight, b_reg)
        np.testing.assert_array_equal(curve.cuts, np.unique(score))
        expected = [ams_score(y, score >= cut, weight, b_reg) for cut in curve.cuts]
        np.testing.assert_allclose(curve.ams, expected, rtol=1e-9, atol=1e-12)

    def test_yields_and_ties(self):
        curve = ams_curve(["b", "s", "b", "s"], [0.2, 0.5, 0.5, 0.9], [4.0, 1.0, 2.0, 0.5])
        np.testing.assert_array_equal(curve.cuts, [0.2, 0.5, 0.9])
        np.testing.assert_array_equal(curve.signal, [1.5, 1.5, 0.5])
        np.testing.assert_array_equal(curve.background, [6.0, 2.0, 0.0])

    def test_independent_of_the_order_of_events_and_of_monotone_changes_of_score(self):
        y, score, weight = toy_sample()
        order = np.random.default_rng(2).permutation(len(y))
        curve, shuffled = (
            ams_curve(y, score, weight),
            ams_curve(y[order], np.exp(score[order]), weight[order]),
        )
        np.testing.assert_allclose(shuffled.ams, curve.ams, rtol=1e-12)
        np.testing.assert_allclose(shuffled.cuts, np.exp(curve.cuts), rtol=1e-15)

    def test_negative_yield_is_nan_only_where_it_is(self):
        curve = ams_curve(["b", "s", "b"], [0.1, 0.5, 0.9], [8.0, 2.0, -1.0])
        np.testing.assert_array_equal(np.isnan(curve.ams), [False, True, True])
        assert curve.ams[0] == ams_of_yields(2.0, 7.0)

    def test_float32_scores(self):
        y, score, weight = toy_sample(decimals=6)
        single = score.astype(np.float32)
        curve = ams_curve(y, single, weight)
        np.testing.assert_array_equal(curve.cuts.astype(np.float32), np.unique(single))
        assert curve.cuts.dtype == np.float64

    @pytest.mark.parametrize(
        ("score", "message"),
        [
            ([0.1, np.nan], r"score\[1\] is nan"),
            ([0.1], r"score has shape \(1,\)"),
            ([[0.1, 0.9], [0.2, 0.8]], "column of the signal class"),
        ],
    )
    def test_bad_scores(self, score, message):
        with pytest.raises(ValueError, match=message):
            ams_curve(["s", "b"], score)


class TestBestCut:
    @staticmethod
    def by_the_book(y, score, weight, fraction):
        """Section 2.1.2 word for word: every event's score as a cut, one after another."""
        ams = np.array([ams_score(y, score >= cut, weight) for cut in score])
        ranked = np.lexsort((-score, -ams))
        return score[ranked[: max(1, round(fraction * len(score)))]].mean()

    @pytest.mark.parametrize("fraction", [0.001, 0.05, 0.1, 1.0])
    @pytest.mark.parametrize("decimals", [1, 2, 12])
    def test_is_the_mean_score_of_the_events_that_rank_highest(self, fraction, decimals):
        y, score, weight = toy_sample(300, seed=decimals, decimals=decimals)
        best = best_cut(y, score, weight, fraction)
        assert best.cut == pytest.approx(self.by_the_book(y, score, weight, fraction), rel=1e-12)
        assert best.ams == pytest.approx(ams_score(y, score >= best.cut, weight), rel=1e-12)

    def test_maximum(self):
        y, score, weight = toy_sample()
        curve, best = ams_curve(y, score, weight), best_cut(y, score, weight)
        assert best.max_ams == curve.ams.max() >= best.ams
        assert best.max_cut == curve.cuts[curve.ams.argmax()]

    def test_of_equal_ams_the_higher_cut_wins(self):
        best = best_cut(["s", "b", "b"], [0.5, 0.4, 0.3], [1.0, 0.0, 0.0], fraction=0.3)
        assert best.max_cut == best.cut == 0.5

    def test_mean_of_equal_scores_still_selects_them(self):
        # The weighted mean of eleven times this score rounds to a number above it.
        assert np.average([0.059], weights=[11]) > 0.059
        best = best_cut(["s"] * 11 + ["b"] * 11, [0.059] * 11 + [0.02] * 11, fraction=0.5)
        assert best.cut == 0.059
        assert best.ams == ams_of_yields(11.0, 0.0)

    def test_rounding_does_not_lose_an_event(self):
        assert int(0.29 * 100) == 28
        y, score, weight = toy_sample(100, decimals=12)
        ams = [ams_score(y, score >= cut, weight) for cut in score]
        expected = score[np.argsort(ams)[::-1][:29]].mean()
        assert best_cut(y, score, weight, fraction=0.29).cut == pytest.approx(expected, rel=1e-12)

    def test_undefined_cuts_rank_last(self):
        best = best_cut(["s", "s", "b", "b"], [0.9, 0.8, 0.2, 0.1], [-1.0, 3.0, 1.0, 1.0], 0.25)
        assert best.max_cut == best.cut == 0.8

    def test_no_defined_cut_is_an_error(self):
        with pytest.raises(ValueError, match="every cut"):
            best_cut(["s", "b"], [0.1, 0.9], [1.0, -1.0])

    @pytest.mark.parametrize("fraction", [0.0, 1.5, -0.1, np.nan, "0.1", True])
    def test_bad_fraction(self, fraction):
        with pytest.raises(ValueError, match="fraction="):
            best_cut(["s", "b"], [0.1, 0.9], fraction=fraction)


@pytest.fixture(scope="module")
def sample(higgsml_excerpt):
    """Labels, weights that stand for the whole training set, and the columns of real events."""
    y = higgsml_excerpt["Label"].to_numpy(dtype=str)
    return y, rescale_weights(y, higgsml_excerpt["KaggleWeight"], TOTALS), higgsml_excerpt


class TestRealEvents:
    def test_all_events_selected(self, sample):
        y, weight, _ = sample
        s, b = TOTALS["s"], TOTALS["b"] + 10
        expected = math.sqrt(2 * ((s + b) * math.log1p(s / b) - s))
        result = ams_score(y, np.full(len(y), fill_value=True), weight)
        assert result == pytest.approx(expected, rel=1e-9)
        assert result == pytest.approx(1.0791, abs=1e-4)

    def test_mass_window_by_hand(self, sample):
        y, weight, frame = sample
        window = frame["DER_mass_MMC"].between(100, 150).to_numpy()
        s = weight[window & (y == "s")].sum()
        b = weight[window & (y == "b")].sum() + 10
        expected = math.sqrt(2 * ((s + b) * math.log(1 + s / b) - s))
        result = ams_score(y, window, weight)
        assert result == pytest.approx(expected, rel=1e-9)
        # A window around the Higgs mass is worth more than no selection, less than the challenge.
        assert 1.2 < result < 3.8

    def test_curve_of_a_real_column(self, sample):
        y, weight, frame = sample
        score = -(frame["DER_mass_MMC"].fillna(0.0) - 125.0).abs().to_numpy()
        curve = ams_curve(y, score, weight)
        for i in range(0, len(curve.cuts), 997):
            expected = ams_score(y, score >= curve.cuts[i], weight)
            assert curve.ams[i] == pytest.approx(expected, rel=1e-9)
        best = best_cut(y, score, weight)
        assert best.max_ams >= best.ams > curve.ams[0]
