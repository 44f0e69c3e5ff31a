import math
import pickle

import numpy as np
import pandas as pd
import pytest
import torch
import vector
from sklearn.base import clone
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from sklearn.utils.estimator_checks import parametrize_with_checks

from skhep_nn.augmentation import EventAugmenter
from skhep_nn.kinematics import (
    cartesian_from_cylindrical,
    cylindrical_from_cartesian,
    delta_phi,
    delta_r,
    eta_centrality,
    invariant_mass,
    phi_centrality,
    transverse_mass,
)
from skhep_nn.preprocessing import CartesianMomenta, EventAligner


@pytest.fixture
def pairs():
    rng = np.random.default_rng(0)
    return {
        name: {
            "pt": rng.exponential(40.0, 1000),
            "eta": rng.normal(0.0, 2.0, 1000),
            "phi": rng.uniform(-math.pi, math.pi, 1000),
        }
        for name in ("a", "b")
    }


def as_vector(p):
    return vector.array({**p, "mass": np.zeros_like(p["pt"])})


def test_cartesian_agrees_with_vector(pairs):
    a = as_vector(pairs["a"])
    px, py, pz = cartesian_from_cylindrical(**pairs["a"])
    np.testing.assert_allclose(px, a.px, rtol=1e-12, atol=1e-12)
    np.testing.assert_allclose(py, a.py, rtol=1e-12, atol=1e-12)
    np.testing.assert_allclose(pz, a.pz, rtol=1e-12, atol=1e-12)
    back = cylindrical_from_cartesian(px, py, pz)
    for value, name in zip(back, ("pt", "eta", "phi"), strict=True):
        np.testing.assert_allclose(value, pairs["a"][name], rtol=1e-12, atol=1e-12)


def test_pair_quantities_agree_with_vector(pairs):
    a, b = as_vector(pairs["a"]), as_vector(pairs["b"])
    pa, pb = pairs["a"], pairs["b"]
    mass = invariant_mass(*pa.values(), *pb.values())
    np.testing.assert_allclose(mass, (a + b).mass, rtol=1e-6)
    np.testing.assert_allclose(delta_phi(pa["phi"], pb["phi"]), a.deltaphi(b), atol=1e-12)
    separation = delta_r(pa["eta"], pa["phi"], pb["eta"], pb["phi"])
    np.testing.assert_allclose(separation, a.deltaR(b), rtol=1e-12)
    # The transverse mass is the mass of the pair put into the transverse plane.
    flat_a, flat_b = (as_vector({**p, "eta": np.zeros(1000)}) for p in (pa, pb))
    mt = transverse_mass(pa["pt"], pa["phi"], pb["pt"], pb["phi"])
    np.testing.assert_allclose(mt, (flat_a + flat_b).mass, rtol=1e-5, atol=1e-4)


def test_collinear_mass_keeps_its_accuracy():
    angle = 1e-9
    assert invariant_mass(100.0, 1.0, 0.5, 100.0, 1.0, 0.5) == 0
    assert invariant_mass(100.0, 0.0, 0.0, 100.0, 0.0, angle) == pytest.approx(100 * angle)
    assert transverse_mass(100.0, 0.0, 100.0, angle) == pytest.approx(100 * angle)


def test_zero_and_beam_momenta():
    pt, eta, phi = cylindrical_from_cartesian([0.0, 0.0, 0.0, 1.0], 0.0, [0.0, 2.0, -2.0, 0.0])
    np.testing.assert_array_equal(pt, [0, 0, 0, 1])
    np.testing.assert_array_equal(eta, [0, math.inf, -math.inf, 0])
    np.testing.assert_array_equal(phi, [0, 0, 0, 0])


@pytest.mark.parametrize("convert", [np.asarray, torch.as_tensor])
def test_nan_stays_nan(convert):
    nan, zero = convert([math.nan]), convert([0.0])
    for values in [(nan, zero, zero), (zero, nan, zero), (zero, zero, nan)]:
        assert any(bool(np.isnan(np.asarray(v))[0]) for v in cartesian_from_cylindrical(*values))
        assert any(bool(np.isnan(np.asarray(v))[0]) for v in cylindrical_from_cartesian(*values))
        assert bool(np.isnan(np.asarray(phi_centrality(*values)))[0])
        assert bool(np.isnan(np.asarray(eta_centrality(*values)))[0])


def test_delta_phi_wraps_to_the_half_open_turn():
    below, above = np.nextafter(math.pi, 0), np.nextafter(-math.pi, -4)
    angles = np.array([0.0, 1e-30, -1e-30, math.pi, -math.pi, below, above, 3 * math.pi, 40.0])
    wrapped = delta_phi(angles, 0.0)
    assert np.all(wrapped >= -math.pi)
    assert np.all(wrapped < math.pi)
    np.testing.assert_allclose(np.exp(1j * wrapped), np.exp(1j * angles), atol=1e-14)
    np.testing.assert_array_equal(wrapped[:3], angles[:3])
    assert wrapped[3] == -math.pi
    assert wrapped[4] == -math.pi


def test_phi_centrality_limits():
    root2 = math.sqrt(2)
    assert phi_centrality(0.5, 0.0, 1.0) == pytest.approx(root2)
    assert phi_centrality(0.5, 1.0, 0.0) == pytest.approx(root2)
    assert phi_centrality(0.0, 0.0, 1.0) == pytest.approx(1)
    assert phi_centrality(1.0, 0.0, 1.0) == pytest.approx(1)
    assert phi_centrality(0.5 + math.pi, 0.0, 1.0) == pytest.approx(-root2)
    assert phi_centrality(-3.14, 3.0, -3.0) == pytest.approx(root2, abs=0.01)
    assert phi_centrality(0.3, 1.0, 1.0) == 0


def test_eta_centrality_limits():
    assert eta_centrality(0.5, 0.0, 1.0) == 1
    assert eta_centrality(0.0, 0.0, 1.0) == pytest.approx(math.exp(-1))
    assert eta_centrality(50.0, 0.0, 1.0) == 0
    assert eta_centrality(1.0, 1.0, 1.0) == 1
    assert eta_centrality(2.0, 1.0, 1.0) == 0


def test_formulas_agree_on_tensors_and_keep_the_dtype(pairs):
    pa, pb = pairs["a"], pairs["b"]
    ta, tb = ({k: torch.as_tensor(v) for k, v in p.items()} for p in (pa, pb))
    cases = [
        (invariant_mass, [*pa.values(), *pb.values()], [*ta.values(), *tb.values()]),
        (transverse_mass, [pa["pt"], pa["phi"]] * 2, [ta["pt"], ta["phi"]] * 2),
        (delta_r, [pa["eta"], pa["phi"], pb["eta"], 0.1], [ta["eta"], ta["phi"], tb["eta"], 0.1]),
        (phi_centrality, [pa["phi"], pb["phi"], 0.2], [ta["phi"], tb["phi"], 0.2]),
        (eta_centrality, [pa["eta"], pb["eta"], 0.2], [ta["eta"], tb["eta"], 0.2]),
    ]
    for function, arrays, tensors in cases:
        out = function(*tensors)
        assert isinstance(out, torch.Tensor)
        np.testing.assert_allclose(out.numpy(), function(*arrays), rtol=1e-9, atol=1e-12)
        singles = [t.float() if isinstance(t, torch.Tensor) else t for t in tensors]
        assert function(*singles).dtype == torch.float32
    for values in (
        cartesian_from_cylindrical(**ta),
        cylindrical_from_cartesian(**ta_cartesian(ta)),
    ):
        assert all(isinstance(v, torch.Tensor) for v in values)


def ta_cartesian(p):
    px, py, pz = cartesian_from_cylindrical(**p)
    return {"px": px, "py": py, "pz": pz}


@pytest.mark.filterwarnings("ignore:.* found no momenta")
@parametrize_with_checks([CartesianMomenta(), CartesianMomenta(missing=None), EventAligner()])
def test_scikit_learn_conformance(estimator, check):
    check(estimator)


TABLE_2 = [
    *("PRI_tau_px", "PRI_tau_py", "PRI_tau_pz", "PRI_lep_px", "PRI_lep_py", "PRI_lep_pz"),
    *("PRI_met", "PRI_met_px", "PRI_met_py", "PRI_met_sumet", "PRI_jet_num"),
    *("PRI_jet_leading_px", "PRI_jet_leading_py", "PRI_jet_leading_pz"),
    *("PRI_jet_subleading_px", "PRI_jet_subleading_py", "PRI_jet_subleading_pz"),
    "PRI_jet_all_pt",
]


@pytest.fixture
def challenge(higgsml_excerpt):
    return higgsml_excerpt.filter(regex="^(DER|PRI)_")


@pytest.fixture
def events():
    """Two events, the second without a jet; columns out of the usual order."""
    return pd.DataFrame(
        {
            "mass": np.array([91.0, 125.0], dtype=np.float32),
            "lep_phi": [math.pi / 2, 0.5],
            "lep_pt": [40.0, 30.0],
            "n_jets": [1, 0],
            "lep_eta": [0.0, -1.0],
            "MET_pt": [20.0, 25.0],
            "MET_phi": [math.pi, -0.5],
            "jet_pt": [50.0, math.nan],
            "jet_eta": [-2.0, math.nan],
            "jet_phi": [1.0, math.nan],
            "delta_phi": [0.1, 0.2],
        },
        index=[7, 9],
    )


def test_the_challenge_gets_the_columns_of_the_study(challenge):
    X = CartesianMomenta().fit_transform(challenge)
    scalars = [name for name in challenge if name.startswith("DER_")]
    assert list(X) == scalars + TABLE_2
    assert X.shape[1] == 31
    assert not X.isna().any(axis=None)
    assert X.index.equals(challenge.index)
    assert X["PRI_jet_num"].dtype == challenge["PRI_jet_num"].dtype == np.int64
    leading = vector.array(
        {name: challenge[f"PRI_jet_leading_{name}"] for name in ("pt", "eta", "phi")}
    )
    there = challenge["PRI_jet_num"] > 0
    for name in ("px", "py", "pz"):
        expected = np.where(there, getattr(leading, name), 0)
        np.testing.assert_allclose(X[f"PRI_jet_leading_{name}"], expected, rtol=1e-12, atol=1e-12)


def test_cartesian_momenta_of_a_small_table(events):
    X = CartesianMomenta().fit_transform(events)
    assert list(X) == [
        *("mass", "lep_px", "lep_py", "lep_pz", "n_jets", "MET_pt", "MET_px", "MET_py"),
        *("jet_px", "jet_py", "jet_pz", "delta_phi"),
    ]
    expected = [91, 0, 40, 0, 1, 20, -20, 0, 50 * math.cos(1), 50 * math.sin(1), None, 0.1]
    expected[10] = -50 * math.sinh(2)
    np.testing.assert_allclose(X.loc[7].to_numpy(float), expected, atol=1e-12)
    assert (X.loc[9, ["jet_px", "jet_py", "jet_pz"]] == 0).all()
    assert X.dtypes[["mass", "n_jets"]].tolist() == [np.float32, np.int64]


@pytest.mark.parametrize("missing", [0.0, -1, None])
def test_missing(events, missing):
    X = events.assign(mass=[math.nan, 1.0])
    out = CartesianMomenta(missing=missing).fit_transform(X)
    plain = CartesianMomenta(missing=missing, columns=list(X)).fit_transform(X.to_numpy(float))
    np.testing.assert_array_equal(out.to_numpy(float), plain)
    holes = out[["mass", "jet_px", "jet_py", "jet_pz"]].to_numpy()[[0, 1, 1, 1], range(4)]
    if missing is None:
        assert np.isnan(holes).all()
    else:
        assert (holes == missing).all()
        assert not out.isna().any(axis=None)


def test_inverse_restores_the_events(challenge, events):
    for X in (challenge, events):
        transformer = CartesianMomenta(missing=None).fit(X)
        back = transformer.inverse_transform(transformer.transform(X))
        assert list(back) == list(X)
        for name in X:
            wanted = delta_phi(X[name], 0.0) if name.endswith("_phi") else X[name]
            np.testing.assert_allclose(back[name], wanted, rtol=1e-9, atol=1e-9, err_msg=name)
    array = CartesianMomenta(missing=None, columns=list(events)).fit(events.to_numpy(float))
    values = events.to_numpy(float)
    restored = array.inverse_transform(array.transform(values))
    np.testing.assert_allclose(np.delete(restored, 6, 1), np.delete(values, 6, 1), atol=1e-12)
    with pytest.raises(ValueError, match=r"X has 3 features, but CartesianMomenta.transform gives"):
        array.inverse_transform(values[:, :3])
    with pytest.raises(ValueError, match="should be those that transform gives"):
        transformer.inverse_transform(transformer.transform(events).rename(columns={"mass": "m"}))


def test_nothing_to_convert_passes_through(events):
    X = CartesianMomenta().fit_transform(events)
    with pytest.warns(UserWarning, match="CartesianMomenta found no momenta"):
        pd.testing.assert_frame_equal(CartesianMomenta().fit_transform(X), X)
    numbered = pd.DataFrame([[1.0, math.nan], [3.0, 4.0]])
    with pytest.warns(UserWarning, match=r"without column names.*columns=\[...\]"):
        out = CartesianMomenta().fit_transform(numbered)
    pd.testing.assert_frame_equal(out, numbered.fillna(0.0))


@pytest.mark.parametrize(
    "transformer", [CartesianMomenta(), EventAligner(reference="lep", orient="MET")]
)
def test_containers(transformer, events):
    table = clone(transformer).fit(events)
    array = clone(transformer).set_params(columns=list(events)).fit(events.to_numpy(float))
    names = list(table.get_feature_names_out())
    assert names == list(table.transform(events)) == list(array.get_feature_names_out())
    values = array.transform(events.to_numpy(float))
    assert isinstance(values, np.ndarray)
    np.testing.assert_allclose(values, table.transform(events).to_numpy(float))
    assert array.transform(events.to_numpy(np.float32)).dtype == np.float32
    wrapped = array.set_output(transform="pandas").transform(events.to_numpy(float))
    assert list(wrapped) == names
    assert list(table.set_output(transform="pandas").transform(events)) == names
    pipeline = make_pipeline(clone(transformer), StandardScaler().set_output(transform="pandas"))
    assert list(pipeline.fit_transform(events)) == names
    twin = pickle.loads(pickle.dumps(table))
    pd.testing.assert_frame_equal(twin.transform(events), table.transform(events))


def test_columns_not_written_in_place(events):
    before = events.copy(deep=True)
    CartesianMomenta().fit_transform(events)
    EventAligner(reference="lep", orient="jet").fit_transform(events)
    pd.testing.assert_frame_equal(events, before)


def test_bad_events_for_cartesian_momenta(events):
    raw = events.fillna(-999.0)
    transformer = CartesianMomenta().fit(raw)
    with pytest.raises(ValueError, match=r"'jet' has transverse momentum -999.0 .* in row 1.*NaN"):
        transformer.transform(raw)
    with pytest.raises(ValueError, match=r"'lep' .* pseudorapidity -999.0 in row 0"):
        transformer.transform(events.assign(lep_eta=-999.0))
    with pytest.raises(ValueError, match="infinity"):
        transformer.transform(events.assign(mass=math.inf))
    with pytest.raises(ValueError, match="feature names should match"):
        transformer.transform(events.drop(columns="mass"))
    with pytest.raises(ValueError, match=r"X has 4 features, but CartesianMomenta is expecting 11"):
        CartesianMomenta(columns=list(events)).fit(events.to_numpy(float)).transform(
            np.ones((1, 4))
        )
    with pytest.raises(ValueError, match=r"numeric columns, got 'mass' \(object\)"):
        transformer.fit(events.astype({"mass": object}))
    with pytest.raises(ValueError, match=r"already has \['lep_px'\]"):
        transformer.fit(events.assign(lep_px=1.0))


@pytest.mark.parametrize("missing", ["zero", math.inf])
def test_bad_missing(events, missing):
    with pytest.raises(ValueError, match="missing must be a finite number or None"):
        CartesianMomenta(missing=missing).fit(events)


def test_aligned_challenge(challenge):
    aligned = EventAligner().fit_transform(challenge)
    assert list(aligned) == [name for name in challenge if name != "PRI_lep_phi"]
    assert (aligned["PRI_lep_eta"] >= 0).all()
    assert aligned["PRI_tau_phi"].between(0, math.pi).all()
    azimuth = delta_phi(challenge["PRI_tau_phi"], challenge["PRI_lep_phi"])
    np.testing.assert_allclose(aligned["PRI_tau_phi"], np.abs(azimuth), atol=1e-12)
    cartesian = CartesianMomenta().fit_transform(challenge)
    aligned = EventAligner().fit_transform(cartesian)
    assert list(aligned) == [name for name in cartesian if name != "PRI_lep_py"]
    np.testing.assert_allclose(aligned["PRI_lep_px"], challenge["PRI_lep_pt"], rtol=1e-12)
    assert (aligned["PRI_lep_pz"] >= 0).all()
    assert (aligned["PRI_tau_py"] >= -1e-9).all()


def test_aligning_both_representations_is_the_same(challenge):
    to_cartesian = CartesianMomenta(missing=None)
    one = EventAligner().fit_transform(to_cartesian.fit_transform(challenge))
    aligned = EventAligner().fit_transform(challenge)
    other = to_cartesian.fit_transform(aligned.assign(PRI_lep_phi=0.0))
    ties = np.abs(np.sin(challenge["PRI_tau_phi"] - challenge["PRI_lep_phi"])) < 1e-6
    pd.testing.assert_frame_equal(one[~ties], other[list(one)][~ties], atol=1e-9)


def test_aligning_twice_changes_nothing(events):
    aligner = EventAligner(reference="lep", orient="jet")
    once = aligner.fit_transform(events)
    twice = aligner.fit_transform(once.assign(lep_phi=0.0)[list(events)])
    pd.testing.assert_frame_equal(twice, once)


def test_event_without_reference_is_not_rotated(events):
    aligned = EventAligner(reference="jet", orient="lep").fit_transform(events)
    expected = events.loc[9, ["lep_pt", "lep_phi", "MET_phi"]]
    np.testing.assert_allclose(aligned.loc[9, expected.index], expected)
    assert aligned.loc[9, "lep_eta"] == 1.0


def test_bad_alignment(events):
    with pytest.raises(
        ValueError, match=r"reference='PRI_lep' is not among .*\['MET', 'jet', 'lep'\]"
    ):
        EventAligner().fit(events)
    with pytest.raises(ValueError, match="orient='tau' is not among"):
        EventAligner(reference="lep", orient="tau").fit(events)
    with pytest.raises(ValueError, match="'lep_pt' has no 'lep_phi'"):
        EventAligner(reference="jet", orient="MET").fit(events.drop(columns="lep_phi"))


@pytest.mark.parametrize("step", [EventAligner(reference="e", orient="t"), EventAugmenter()])
def test_numbers_for_missing_quantities_are_not_turned(step):
    events = pd.DataFrame({"e_pt": [40.0, -999.0], "e_eta": [0.5, -999.0], "e_phi": [3.0, -999.0]})
    events = events.assign(t_pt=1.0, t_eta=1.0, t_phi=[0.1, 0.2])
    with pytest.raises(ValueError, match=r"'e_phi' has the azimuth -999.0 in row 1, and 1 rows"):
        step.fit(events).transform(events)
    missing = events.replace(-999.0, np.nan)
    assert np.isnan(np.asarray(step.fit(missing).transform(missing), dtype=float)[1]).sum() >= 2
