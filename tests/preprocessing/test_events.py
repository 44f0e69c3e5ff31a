import math
import pickle

import numpy as np
import pandas as pd
import pytest
import vector
from sklearn.base import clone
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import (
    MaxAbsScaler,
    MinMaxScaler,
    PowerTransformer,
    QuantileTransformer,
    RobustScaler,
    StandardScaler,
)
from sklearn.utils.estimator_checks import parametrize_with_checks

from skhep_nn.augmentation import EventAugmenter
from skhep_nn.kinematics import delta_phi
from skhep_nn.preprocessing import CartesianMomenta, EventAligner


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
    with pytest.raises(ValueError, match="should be the columns that transform gives"):
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


STEPS = [EventAligner(reference="e", orient="t"), EventAugmenter(), CartesianMomenta()]


@pytest.mark.parametrize("step", STEPS)
@pytest.mark.parametrize("degrees", [[170.0, -120.0], [0.1, 7.0]])
def test_degrees_are_refused(step, degrees):
    events = pd.DataFrame({"e_pt": [40.0, 30.0], "e_eta": 0.5, "e_phi": degrees})
    events = events.assign(t_pt=1.0, t_eta=1.0, t_phi=[0.1, 0.2])
    with pytest.raises(ValueError, match=r"'e_phi' has the azimuth .* Angles are in radians"):
        step.fit(events).transform(events)


@pytest.mark.parametrize("step", STEPS)
def test_azimuths_may_begin_at_zero(step):
    events = pd.DataFrame({"e_pt": [40.0, 30.0], "e_eta": 0.5, "e_phi": [0.1, 6.28]})
    events = events.assign(t_pt=1.0, t_eta=1.0, t_phi=[0.1, 0.2])
    step.fit(events).transform(events)


@pytest.mark.parametrize("step", STEPS)
@pytest.mark.parametrize(
    ("values", "refused"),
    [
        ({"e_px": -999.0, "e_py": -999.0, "e_pz": -999.0}, True),
        ({"e_px": -99.0, "e_py": -99.0}, True),
        ({"e_px": -9999.0}, True),
        ({"e_pz": -999.0}, True),
        ({"e_px": -998.9, "e_py": -99.0}, False),
        ({"e_px": 50.0, "e_py": 50.0}, False),
    ],
)
def test_placeholders_among_cartesian_components(step, values, refused):
    events = pd.DataFrame({"e_px": [40.0, 2.0], "e_py": [0.5, 3.0], "e_pz": [3.0, 4.0]})
    events = events.assign(t_px=1.0, t_py=[0.1, 0.2], t_pz=0.5, m_pt=1.0, m_phi=1.0)
    step.fit(events).transform(events)
    for name, value in values.items():
        events.loc[1, name] = value
    if not refused:
        step.fit(events).transform(events)
        return
    with pytest.raises(ValueError, match=r"'e_p[xz]' has the component -9+.0 in row 1, and 1 rows"):
        step.fit(events).transform(events)


@pytest.mark.parametrize("step", STEPS)
def test_one_real_component_of_minus_999_is_no_placeholder(step):
    rng = np.random.default_rng(0)
    names = ["e_px", "e_py", "e_pz", "t_px", "t_py", "t_pz", "m_pt", "m_phi"]
    events = pd.DataFrame(rng.normal(0, 500, (3000, 8)), columns=names)
    events = events.assign(m_pt=1.0, m_phi=rng.uniform(-np.pi, np.pi, 3000))
    events.loc[7, "e_px"] = -999.0
    step.fit(events).transform(events)


@pytest.mark.parametrize("step", STEPS[:2])
@pytest.mark.parametrize("bad", [{"e_pt": -1.0}, {"e_eta": -999.0}, {"e_eta": 99.0}])
def test_impossible_moduli_and_pseudorapidities(step, bad):
    events = pd.DataFrame({"e_pt": [40.0, 30.0], "e_eta": [0.5, 0.1], "e_phi": [0.1, 2.0]})
    events = events.assign(t_pt=1.0, t_eta=1.0, t_phi=[0.1, 0.2])
    for name, value in bad.items():
        events.loc[1, name] = value
    with pytest.raises(ValueError, match=r"in row 1, and 1 rows .* scaler out"):
        step.fit(events).transform(events)


@pytest.mark.parametrize("step", STEPS)
@pytest.mark.parametrize(
    "scaler",
    [
        *(StandardScaler(), RobustScaler(), MinMaxScaler(), MaxAbsScaler(), PowerTransformer()),
        QuantileTransformer(n_quantiles=50),
        QuantileTransformer(n_quantiles=50, output_distribution="normal"),
    ],
    ids=str,
)
def test_scaled_momenta_are_noticed(step, scaler):
    rng = np.random.default_rng(0)
    events = pd.DataFrame({f"{name}_pt": rng.exponential(40, 500) for name in "et"})
    events = events.assign(**{f"{name}_eta": rng.normal(0, 1, 500) for name in "et"})
    events = events.assign(**{f"{name}_phi": rng.uniform(-np.pi, np.pi, 500) for name in "et"})
    step.fit(events).transform(events)
    scaled = scaler.set_output(transform="pandas").fit_transform(events)
    with pytest.raises((ValueError, UserWarning), match="scaled"):
        step.fit(scaled).transform(scaled)


@pytest.mark.parametrize("scaler", [StandardScaler(), MinMaxScaler(), MaxAbsScaler()], ids=str)
def test_scaled_cartesian_momenta_are_noticed(scaler):
    names = ["e_px", "e_py", "e_pz", "t_px", "t_py"]
    events = pd.DataFrame(np.random.default_rng(0).normal(0, 40, (300, 5)), columns=names)
    EventAugmenter().fit(events)
    scaled = scaler.set_output(transform="pandas").fit_transform(events).astype(np.float32)
    with pytest.warns(UserWarning, match="look scaled: all columns of momenta have"):
        EventAugmenter().fit(scaled)


def test_azimuths_scaled_elsewhere_are_noticed():
    rng = np.random.default_rng(0)
    events = pd.DataFrame({"e_pt": 2.0, "e_phi": rng.uniform(-np.sqrt(3), np.sqrt(3), 500)})
    with pytest.warns(UserWarning, match=r"\['e_phi'\] do not fill a full turn of 2 pi"):
        EventAugmenter().fit(events)
    # Half a turn is what folded azimuths fill.
    EventAugmenter().fit(events.assign(e_phi=rng.uniform(0, np.pi, 500)))


def test_missing_fills_what_was_marked_as_missing():
    events = pd.DataFrame(
        {"jet_pt": [40.0, -999.0], "jet_eta": [1, -999.0], "jet_phi": [1, -999.0]}
    )
    marked = events.replace(-999.0, np.nan)
    out = CartesianMomenta(missing=-5.0).fit_transform(marked)
    assert (out.iloc[1] == -5.0).all()
    with pytest.raises(ValueError, match=r"transverse momentum -999\.0"):
        CartesianMomenta(missing=-5.0).fit_transform(events)
