import numpy as np
import pandas as pd
import pytest

from skhep_nn.datasets.higgs_events import derive_features

# The file keeps three decimals: each input is off by up to half a unit of the last one, and so
# is the derived value itself (some are cut off instead of rounded, hence a whole unit).
HALF_UNIT = 0.5e-3
UNIT = 1e-3


@pytest.fixture(scope="module")
def recomputed(higgsml_excerpt):
    """Derived columns of the real events, and how far rounding of the inputs can move each."""
    primary = higgsml_excerpt.filter(like="PRI_")
    derived = derive_features(primary)
    reach = pd.DataFrame(0.0, index=derived.index, columns=derived.columns)
    for name in primary.columns.drop("PRI_jet_num"):
        shifts = []
        for sign in (-1, 1):
            moved = primary.assign(**{name: primary[name] + sign * HALF_UNIT})
            shifts.append((derive_features(moved) - derived).abs().fillna(0.0))
        reach += np.maximum(*shifts)
    return derived, reach


EXACT = (
    "DER_mass_transverse_met_lep DER_pt_h DER_deltaeta_jet_jet DER_prodeta_jet_jet "
    "DER_deltar_tau_lep DER_pt_tot DER_sum_pt DER_pt_ratio_lep_tau DER_met_phi_centrality "
    "DER_lep_eta_centrality"
).split()


@pytest.mark.parametrize("name", EXACT)
def test_derived_column_agrees_with_atlas_to_the_rounding_of_the_file(
    name, recomputed, higgsml_excerpt
):
    derived, reach = recomputed
    deviation = (derived[name] - higgsml_excerpt[name]).abs()
    # 5 %: the one-by-one shifts are the linear part of what rounding does.
    tolerance = 1.05 * reach[name] + UNIT
    beyond = deviation > tolerance
    assert not beyond.any(), pd.DataFrame({"off": deviation, "may": tolerance})[beyond]


def test_visible_mass_differs_from_atlas_by_no_more_than_the_mass_of_a_tau(
    recomputed, higgsml_excerpt
):
    derived, reach = recomputed
    tolerance = 1.05 * reach["DER_mass_vis"] + UNIT
    real, massless = higgsml_excerpt["DER_mass_vis"], derived["DER_mass_vis"]
    # A mass m adds to the energy at most m**2 / 2 p, to the squared mass twice the energy of both.
    tau = higgsml_excerpt["PRI_tau_pt"] * np.cosh(higgsml_excerpt["PRI_tau_eta"])
    lep = higgsml_excerpt["PRI_lep_pt"] * np.cosh(higgsml_excerpt["PRI_lep_eta"])
    heaviest = np.sqrt(massless**2 + 1.777**2 * (1 + lep / tau))
    assert (real >= massless - tolerance).all()
    assert (real <= heaviest + tolerance).all()
    assert ((real - massless) / real).median() < 5e-4


def test_dijet_mass_differs_from_atlas_by_no_more_than_the_mass_of_jets(
    recomputed, higgsml_excerpt
):
    derived, reach = recomputed
    two = higgsml_excerpt["PRI_jet_num"] >= 2
    tolerance = (1.05 * reach["DER_mass_jet_jet"] + UNIT)[two]
    real, massless = higgsml_excerpt["DER_mass_jet_jet"][two], derived["DER_mass_jet_jet"][two]
    first, second = (higgsml_excerpt[f"PRI_jet_{jet}_pt"][two] for jet in ("leading", "subleading"))
    gap = derived["DER_deltaeta_jet_jet"][two]
    # Both jets with m = f pt add f**2 times this to the squared mass, to first order.
    lever = first**2 + second**2 + 2 * first * second * np.cosh(gap)
    assert (real >= massless - tolerance).all()
    assert (real <= np.sqrt(massless**2 + 0.25**2 * lever) + tolerance).all()
    assert (real / massless - 1).median() < 0.01


def test_derived_columns_are_nan_where_atlas_has_none(recomputed, higgsml_excerpt):
    derived, _ = recomputed
    assert (derived.isna() == higgsml_excerpt[derived.columns].isna()).all(axis=None)


def test_derive_features_keeps_the_container_and_names_missing_columns(higgsml_excerpt):
    frame = higgsml_excerpt.filter(like="PRI_").iloc[5:9]
    derived = derive_features(frame)
    assert derived.index.equals(frame.index)
    arrays = derive_features({name: frame[name].to_numpy() for name in frame})
    assert list(arrays) == list(derived.columns)
    for name, values in arrays.items():
        np.testing.assert_array_equal(values, derived[name])
    with pytest.raises(ValueError, match="PRI_met_phi"):
        derive_features(frame.drop(columns="PRI_met_phi"))
