"""Spellings of momenta: what is found, what is warned of, and that a turn keeps the physics of each."""

import itertools
import warnings

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from skhep_nn.augmentation import EventAugmenter
from skhep_nn.kinematics import delta_phi
from skhep_nn.kinematics.momenta import check_complete, columns_of, find_momenta
from skhep_nn.kinematics.momentum_names import find_directions, only_reading
from skhep_nn.preprocessing import CartesianMomenta, EventAligner

FORMS = [
    *("PRI_jet_leading_{}", "Jet_{}_0", "Muon_{}_1", "Jet_{}[0]", "Jet[1].{}", "jet.{}", "Jet.{}"),
    *("{}_jet", "{}1", "{}_2", "{}j1", "jet{}", "jet0_{}_lead", "lepton {}", "jet-{}", "{}(jet)"),
    *("lead{}", "j{}_1", "D_{}", "phi_{}", "e_{}", "truth_jet_{} [GeV]", "jet:{}", "{}"),
]
CASES = [str.lower, str.upper, str.capitalize]
CYLINDRICAL, CARTESIAN = ("pt", "eta", "phi"), ("px", "py", "pz")


def spelled(form, case, components):
    return [form.format(case(component)) for component in components]


def columns(momenta):
    return {tuple(momentum.components.items()) for momentum in momenta}


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("components", [CYLINDRICAL, CARTESIAN])
def test_common_spellings_are_found(form, case, components):
    names = ["mass", *spelled(form, case, components), "n_jets"]
    (momentum,) = find_momenta(names)
    assert momentum.components == {component: i + 1 for i, component in enumerate(components)}
    assert not find_directions(names, set(momentum.columns))


@pytest.mark.parametrize(
    ("names", "name", "components"),
    [
        (["PRI_met", "PRI_met_phi"], "PRI_met", {"pt": 0, "phi": 1}),
        (["met_met", "met_phi"], "met", {"pt": 0, "phi": 1}),
        (["met_et", "met_phi", "met_sumet"], "met", {"pt": 0, "phi": 1}),
        (["MET_pt", "MET_phi", "MET_sumEt"], "MET", {"pt": 0, "phi": 1}),
        (["PuppiMET_phi", "PuppiMET_pt"], "PuppiMET", {"pt": 1, "phi": 0}),
        (["MissingET.MET", "MissingET.Phi"], "MissingET", {"pt": 0, "phi": 1}),
        (["met", "metphi"], "met", {"pt": 0, "phi": 1}),
        (["pt_met", "phi_met"], "met", {"pt": 0, "phi": 1}),
        (
            ["missing energy magnitude", "missing energy phi"],
            "missing energy",
            {"pt": 0, "phi": 1},
        ),
        (["MET_0", "MET_phi_0"], "MET_0", {"pt": 0, "phi": 1}),
        (["MET_etx", "MET_ety"], "MET", {"px": 0, "py": 1}),
        (["met_ex", "met_ey"], "met", {"px": 0, "py": 1}),
        (["met_mpx", "met_mpy"], "met", {"px": 0, "py": 1}),
        (["METx", "METy"], "MET", {"px": 0, "py": 1}),
        (["MET_px", "MET_py"], "MET", {"px": 0, "py": 1}),
        (["jet_p_x", "jet_p_y", "jet_p_z"], "jet", {"px": 0, "py": 1, "pz": 2}),
        (["el_E", "el_eta", "el_phi"], "el", {"eta": 1, "phi": 2}),
        (["jet_et", "jet_eta", "jet_phi"], "jet", {"pt": 0, "eta": 1, "phi": 2}),
    ],
)
def test_objects_of_experiments(names, name, components):
    (momentum,) = find_momenta(names)
    assert (momentum.name, momentum.components) == (name, components)


@pytest.mark.parametrize(
    "names",
    [
        ["delta_pt", "delta_eta", "delta_phi"],
        ["deta", "dphi", "dpt"],
        ["jj_deta", "jj_dphi", "jj_dpt", "minDPhi", "absEta"],
        ["DER_deltaeta_jet_jet", "DER_prodeta_jet_jet", "DER_deltar_tau_lep", "DER_pt_h"],
        ["DER_met_phi_centrality", "DER_lep_eta_centrality", "DER_sum_pt", "DER_pt_ratio_lep_tau"],
        ["phi_mass", "phi_pt", "Jet.DeltaPhi", "Jet.DeltaEta", "etaWidth", "phiWidth"],
        ["entropy", "beta", "zeta", "costheta", "cos_theta_star", "phi_star", "opt", "kept"],
        ["PV_x", "PV_y", "PV_z", "u", "g", "r", "i", "z", "x", "y", "jet_phi_err", "jet_px_err"],
        ["PRI_jet_all_pt", "ht", "lep_isolation", "jet_charge", "d0_pos", "vertex_z", "met_sumet"],
    ],
)
def test_differences_and_scalars_do_not_look_like_directions(names):
    assert not find_momenta(names)
    assert not find_directions([*names, "lep_px", "lep_py"], {len(names), len(names) + 1})


@pytest.mark.parametrize(
    ("names", "left"),
    [
        (["met_phi"], ["met_phi"]),
        (["metphi"], ["metphi"]),
        (["jet_eta", "mass"], ["jet_eta"]),
        (["cl_eta", "cl_phi"], ["cl_eta", "cl_phi"]),
        (["jet_p", "jet_theta", "jet_phi"], ["jet_theta", "jet_phi"]),
        (["Jet_pt_nom", "Jet_eta_nom", "Jet_phi"], ["Jet_eta_nom", "Jet_phi"]),
        (["SV_x", "SV_y"], ["SV_x", "SV_y"]),
        (["MET_ex"], []),
        (["jet_azimuth", "jet_rapidity"], ["jet_azimuth", "jet_rapidity"]),
        (["thrust_phi", "phi_dijet"], ["thrust_phi", "phi_dijet"]),
        (["cloudpt", "cloudeta", "jjdpt", "jjdphi"], ["jjdphi"]),
    ],
)
def test_leftovers_that_look_like_directions(names, left):
    names = [*names, "lep_px", "lep_py"]
    found = find_directions(names, {len(names) - 2, len(names) - 1})
    assert [names[i] for i in found] == left


TABLES = {
    "NanoAOD": (
        (
            "nJet Jet_pt_0 Jet_eta_0 Jet_phi_0 Jet_mass_0 Jet_btagDeepFlavB_0 Muon_pt_0 Muon_eta_0 Muon_phi_0 Muon_dxy_0 "
            "Muon_dz_0 Electron_deltaEtaSC_0 Electron_sieie_0 MET_pt MET_phi MET_sumEt MET_covXX PV_x PV_y PV_z PV_npvs"
        ),
        ["Jet_0", "Muon_0", "MET"],
    ),
    "ATLAS": (
        (
            "lep_pt lep_eta lep_phi lep_E lep_z0 lep_charge lep_ptcone30 lep_etcone20 lep_trackd0pvunbiased met_et met_phi "
            "jet_n jet_pt jet_eta jet_phi jet_E jet_MV2c10 mcWeight met_et_syst ditau_m"
        ),
        ["lep", "met", "jet"],
    ),
    "Delphes": (
        "Jet.PT Jet.Eta Jet.Phi Jet.Mass Jet.DeltaEta Jet.DeltaPhi Jet.BTag MissingET.MET MissingET.Phi ScalarHT.HT",
        ["Jet", "MissingET"],
    ),
    "LHC olympics": ("pxj1 pyj1 pzj1 mj1 tau1j1 pxj2 pyj2 pzj2 mj2 tau1j2", ["j1", "j2"]),
    "uproot-HZZ": (
        "NJet Jet_Px[0] Jet_Py[0] Jet_Pz[0] Jet_E[0] Muon_Px_0 Muon_Py_0 Muon_Pz_0 Muon_Iso_0 MET_px MET_py EventWeight",
        ["Jet[0]", "Muon_0", "MET"],
    ),
    "tau pairs": (
        "pt_1 eta_1 phi_1 m_1 iso_1 pt_2 eta_2 phi_2 jpt_1 jeta_1 jphi_1 pt_met phi_met m_vis pt_vis jdeta deta dphi",
        ["1", "2", "j_1", "met"],
    ),
    "camel case": (
        "leadJetPt leadJetEta leadJetPhi metPt metPhi dijetDEta dijetDPhi l1pt l1eta l1phi etmiss etmiss_phi thrust",
        ["leadJet", "met", "l1", "etmiss"],
    ),
}


@pytest.mark.parametrize("table", TABLES)
def test_whole_tables_of_experiments(table):
    text, objects = TABLES[table]
    names = text.split()
    momenta = find_momenta(names)
    assert [momentum.name for momentum in momenta] == objects
    assert not find_directions(names, set(columns_of(momenta)))
    check_complete(names, momenta)


def test_components_of_single_names():
    assert only_reading("Jet.PT[0]") == "pt"
    assert only_reading("jetphi") == "phi"
    assert only_reading("met_phi") == "phi"
    assert only_reading("met_met") == "met"
    assert only_reading("mass") is None
    assert only_reading("phi_eta") is None


def test_columns_belong_to_one_object_each():
    names = ["phi_pt", "phi_eta", "phi_phi", "phi_mass", "pt", "eta", "phi"]
    found = columns(find_momenta(names))
    assert found == {
        (("pt", 0), ("eta", 1), ("phi", 2)),
        (("pt", 4), ("eta", 5), ("phi", 6)),
    }


def test_both_representations_of_one_object_turn():
    names = ["pt1", "eta1", "phi1", "px1", "py1", "pz1", "E1", "Q1", "M"]
    assert columns(find_momenta(names)) == {
        (("pt", 0), ("eta", 1), ("phi", 2)),
        (("px", 3), ("py", 4), ("pz", 5)),
    }


# -- properties -----------------------------------------------------------------------------------

OBJECTS = st.sampled_from(
    ["jet", "Jet", "lep", "Muon", "tau_had", "FatJet", "b", "PRI_jet_leading"]
)
SPELLINGS = st.tuples(
    OBJECTS,
    st.sampled_from(["_", ".", " ", ":", "-"]),
    st.sampled_from(["", "_0", "[0]", ".1", "_lead", "12"]),
    st.sampled_from(CASES),
    st.booleans(),
)


def named(spelling, components):
    """Return the names of components of one object."""
    stem, separator, index, case, is_prefix = spelling
    if is_prefix:
        return [f"{case(component)}{separator}{stem}{index}" for component in components]
    return [f"{stem}{separator}{case(component)}{index}" for component in components]


def four_momenta(rng, n):
    return rng.exponential(40, n) + 1, rng.normal(0, 1.5, n), rng.uniform(-np.pi, np.pi, n)


def mass(one, other):
    """Invariant mass of two massless objects, given as (pt, eta, phi)."""
    squared = 2 * one[0] * other[0] * (np.cosh(one[1] - other[1]) - np.cos(one[2] - other[2]))
    return np.sqrt(np.maximum(squared, 0))


@settings(deadline=None, max_examples=60)
@given(SPELLINGS, st.integers(0, 100))
def test_turns_keep_masses_moduli_and_distances_in_every_spelling(spelling, seed):
    rng = np.random.default_rng(seed)
    jet, lep, met = (four_momenta(rng, 30) for _ in range(3))
    lep_names = ["lepton9_pt", "lepton9_eta", "lepton9_phi"]
    jet_names = named(spelling, CYLINDRICAL)
    X = pd.DataFrame(
        dict(zip(jet_names, jet, strict=True))
        | dict(zip(lep_names, lep, strict=True))
        | {"met_met": met[0], "met_phi": met[2]}
    )
    augmenter = EventAugmenter(random_state=seed).fit(X)
    assert len(augmenter.objects_) == 3
    for turned in (augmenter.transform(X), *augmenter.views(X)):
        after = [turned[name].to_numpy() for name in jet_names]
        lep_after = [turned[name].to_numpy() for name in lep_names]
        np.testing.assert_allclose(mass(after, lep_after), mass(jet, lep), rtol=1e-6)
        np.testing.assert_array_equal(after[0], jet[0])
        for one, other in itertools.combinations([after[2], lep_after[2], turned["met_phi"]], 2):
            assert np.isfinite(one - other).all()
        np.testing.assert_allclose(
            np.abs(delta_phi(after[2], turned["met_phi"])),
            np.abs(delta_phi(jet[2], met[2])),
            atol=1e-9,
        )
    moved = augmenter.transform(X)
    assert not np.allclose(moved[jet_names[2]], jet[2])


@settings(deadline=None, max_examples=60)
@given(SPELLINGS)
def test_cartesian_columns_keep_the_spelling_and_are_found_again(spelling):
    names = named(spelling, CYLINDRICAL)
    X = pd.DataFrame([[40.0, 0.5, 1.0], [30.0, -0.5, 2.0]], columns=names)
    transformer = CartesianMomenta().fit(X)
    out = transformer.transform(X)
    assert list(out) == named(spelling, CARTESIAN)
    np.testing.assert_allclose(out.iloc[:, 0], X.iloc[:, 0] * np.cos(X.iloc[:, 2]))
    again = EventAugmenter().fit(out)
    assert again.objects_ == {
        name: dict(zip(CARTESIAN, out, strict=True)) for name in transformer.objects_
    }
    pd.testing.assert_frame_equal(transformer.inverse_transform(out), X)


@settings(deadline=None, max_examples=60)
@given(st.lists(st.text(st.characters(codec="utf-8"), max_size=12), unique=True, max_size=8))
def test_any_names_are_read_without_an_error(names):
    momenta = find_momenta(names)
    taken = [i for momentum in momenta for i in momentum.columns]
    assert len(taken) == len(set(taken))
    assert not set(find_directions(names, set(taken))) & set(taken)


@settings(deadline=None, max_examples=40)
@given(SPELLINGS, st.permutations(range(5)))
def test_the_order_of_columns_does_not_matter(spelling, order):
    names = [*named(spelling, CYLINDRICAL), "met_met", "met_phi"]
    shuffled = [names[i] for i in order]
    by_name = {
        (m.name, tuple(shuffled[i] for i in m.components.values())) for m in find_momenta(shuffled)
    }
    expected = {
        (m.name, tuple(names[i] for i in m.components.values())) for m in find_momenta(names)
    }
    assert by_name == expected


# -- objects= -------------------------------------------------------------------------------------


@pytest.fixture
def odd():
    """An object that no name tells, beside one that is found."""
    rng = np.random.default_rng(0)
    pt, eta, phi = four_momenta(rng, 200)
    other = four_momenta(rng, 200)
    X = {"a": pt, "b": eta, "c": phi}
    return pd.DataFrame(X | dict(zip(["lep_pt", "lep_eta", "lep_phi"], other, strict=True)))


GIVEN = {"jet": {"pt": "a", "eta": "b", "phi": "c"}}


@pytest.mark.parametrize(
    "step",
    [
        EventAugmenter(objects=GIVEN, random_state=0),
        EventAligner(objects=GIVEN, reference="jet", orient="lep"),
        CartesianMomenta(objects=GIVEN),
    ],
)
def test_given_objects_change_like_found_ones(odd, step):
    out = step.fit_transform(odd)
    renamed = odd.rename(columns={"a": "jet_pt", "b": "jet_eta", "c": "jet_phi"})
    expected = type(step)(**step.get_params() | {"objects": None}).fit_transform(renamed)
    np.testing.assert_array_equal(out.to_numpy(), expected.to_numpy())
    assert step.objects_ == GIVEN | {
        "lep": {"pt": "lep_pt", "eta": "lep_eta", "phi": "lep_phi"},
    }


def test_given_objects_in_other_forms(odd):
    X = odd.rename(columns={"a": "one.PT", "b": "two_eta", "c": "phi(3)"})
    by_names = EventAugmenter(objects={"jet": ("one.PT", "two_eta", "phi(3)")}).fit(X)
    assert by_names.objects_["jet"] == {"pt": "one.PT", "eta": "two_eta", "phi": "phi(3)"}
    by_numbers = EventAugmenter(objects={"jet": {"pt": 0, "eta": 1, "phi": 2}})
    by_numbers.fit(odd.to_numpy())
    assert by_numbers.objects_ == {"jet": {"pt": 0, "eta": 1, "phi": 2}}
    direction = EventAugmenter(objects={"jet": {"eta": "b", "phi": "c"}}).fit(odd)
    assert direction.objects_["jet"] == {"eta": "b", "phi": "c"}
    assert not np.allclose(direction.transform(odd)["c"], odd["c"])


@pytest.mark.parametrize(
    ("objects", "error", "message"),
    [
        (["a", "b"], TypeError, "objects must be a dict"),
        ({1: ("a", "b")}, ValueError, "the name of each object, got 1"),
        ({"jet": "a"}, TypeError, r"objects\['jet'\] must be a dict from components"),
        ({"jet": ("a", "b", "c")}, ValueError, "do not tell which component each is"),
        ({"jet": {"pt": "a", "phi": "nowhere"}}, ValueError, "names the column 'nowhere', but X"),
        (
            {"jet": {"pt": "a", "phi": 17}},
            ValueError,
            "has the column 17; give a name, or a number",
        ),
        ({"jet": {"pt": "a", "mass": "b"}}, ValueError, r"components \['mass'\], but components"),
        ({"jet": {"pt": "a", "eta": "b"}}, ValueError, "is no momentum that can be turned"),
        ({"jet": {"px": "a", "phi": "b"}}, ValueError, "px, phi, which is no momentum"),
        ({"jet": {}}, ValueError, "no component, which is no momentum"),
        ({"jet": {"px": "a", "py": "a"}}, ValueError, "one column for two components"),
        ({"jet": {"px": "a", "PX": "b", "py": "c"}}, ValueError, "a component of 'jet' twice"),
        (
            {"jet": {"px": "a", "py": "b"}, "tau": {"px": "b", "py": "c"}},
            ValueError,
            "names the column 'b' twice, in 'jet' and in 'tau'",
        ),
    ],
)
def test_bad_objects(odd, objects, error, message):
    for step in (EventAugmenter(), CartesianMomenta(), EventAligner(reference="lep", orient="lep")):
        with pytest.raises(error, match=message):
            step.set_params(objects=objects).fit(odd)


# -- warnings -------------------------------------------------------------------------------------


@pytest.mark.parametrize("left", [["met_phi"], ["cl_eta", "cl_phi"], ["tau_eta"], ["tau_theta"]])
@pytest.mark.parametrize(
    "step",
    [EventAugmenter(), EventAligner(reference="lep", orient="lep"), CartesianMomenta()],
)
def test_columns_left_over_are_named(odd, left, step):
    X = odd.assign(**dict.fromkeys(left, 0.5))
    if isinstance(step, CartesianMomenta) and not left[-1].endswith("phi"):
        # Only azimuths have to be converted, as they are cyclic.
        step.fit(X)
        return
    with pytest.warns(UserWarning, match=r"by objects=, .* or drop these columns") as caught:
        step.fit(X)
    assert str(left) in str(caught[0].message)
    assert "'lep'" in str(caught[0].message)


def test_real_events_raise_no_false_alarm(higgsml_excerpt):
    X = higgsml_excerpt.filter(regex="^(DER|PRI)_")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        cartesian = CartesianMomenta().fit_transform(X)
        for events in (X, cartesian):
            assert len(EventAugmenter().fit(events).objects_) == 5
            EventAligner().fit(events)


@pytest.mark.parametrize("table", ["leptonjets", "jetenergy"])
def test_tables_of_the_suite_raise_no_false_alarm(data_dir, table):
    file = data_dir / "suite" / f"{table}.parquet"
    if not file.is_file():
        pytest.skip(f"no real data: {file} is absent")
    X = pd.read_parquet(file).select_dtypes("number")
    assert EventAugmenter().fit(X).objects_
    assert CartesianMomenta().fit(X).objects_


def test_standardised_azimuths_of_the_suite_are_said(data_dir):
    file = data_dir / "suite" / "higgs_uci.parquet"
    if not file.is_file():
        pytest.skip(f"no real data: {file} is absent")
    X = pd.read_parquet(file).select_dtypes("number")
    # The largest azimuth is 1.74, the square root of 3: the standard deviation is 1.
    with pytest.warns(UserWarning, match=r"'lep_phi', .* do not fill a full turn"):
        EventAugmenter().fit(X)
