import copy
import pickle

import joblib
import numpy as np
import pandas as pd
import pytest
import torch
from sklearn.base import clone
from sklearn.utils.estimator_checks import parametrize_with_checks

from skhep_nn.augmentation import EventAugmenter
from skhep_nn.datasets.higgs_events import derive_features
from skhep_nn.kinematics import cylindrical_from_cartesian
from skhep_nn.preprocessing import CartesianMomenta, EventAligner

CYLINDRICAL = [
    *("tau_pt", "tau_eta", "tau_phi", "mass", "lep_pt", "lep_eta", "lep_phi"),
    *("met", "met_phi", "n_jets", "jet_pt", "jet_eta", "jet_phi"),
]


@pytest.fixture
def cylindrical():
    rng = np.random.default_rng(1)
    X = pd.DataFrame(rng.exponential(30.0, (200, len(CYLINDRICAL))), columns=CYLINDRICAL)
    for name in CYLINDRICAL:
        if name.endswith("_phi"):
            X[name] = rng.uniform(-np.pi, np.pi, len(X))
        elif name.endswith("_eta"):
            X[name] = rng.normal(0, 1.5, len(X))
    X["n_jets"] = rng.integers(0, 3, len(X))
    X.loc[X["n_jets"] == 0, ["jet_pt", "jet_eta", "jet_phi"]] = np.nan
    X.index = pd.Index(np.arange(len(X)) * 3, name="event")
    return X


@pytest.fixture
def cartesian(cylindrical):
    return CartesianMomenta(missing=None).fit_transform(cylindrical)


@pytest.fixture(params=["cylindrical", "cartesian"])
def events(request):
    return request.getfixturevalue(request.param)


@pytest.fixture
def challenge(higgsml_excerpt):
    """The 30 columns of the challenge, on real events."""
    return higgsml_excerpt.filter(regex="^(DER|PRI)_")


def draws(n_rows, *, seed=0):
    return np.random.default_rng(seed).uniform(size=(3, n_rows))


@pytest.mark.filterwarnings("ignore:EventAugmenter found no momenta")
@parametrize_with_checks([EventAugmenter()])
def test_scikit_learn_conformance(estimator, check):
    check(estimator)


def every_augmentation(augmenter, X):
    yield augmenter.transform(X)
    yield from augmenter.views(X)


def assert_same_physics(primary, expected):
    derived = derive_features(primary)
    # If lepton and tau have the same azimuth, or opposite ones, rounding determines the sign of the
    # centrality.
    clear = np.abs(np.sin(primary["PRI_tau_phi"] - primary["PRI_lep_phi"])) > 1e-6
    for name in expected:
        kept = clear if name == "DER_met_phi_centrality" else slice(None)
        np.testing.assert_allclose(
            derived[name][kept], expected[name][kept], rtol=1e-6, atol=1e-6, err_msg=name
        )


def test_derived_quantities_of_real_events_are_unchanged(challenge):
    expected = derive_features(challenge)
    assert expected.shape[1] == 12
    scalars = [name for name in challenge if name.startswith("DER_")]
    for turned in every_augmentation(EventAugmenter(random_state=0).fit(challenge), challenge):
        assert_same_physics(turned, expected)
        pd.testing.assert_frame_equal(turned[scalars], challenge[scalars])


def test_derived_quantities_in_cartesian_form_are_unchanged(challenge):
    expected = derive_features(challenge)
    to_cartesian = CartesianMomenta(missing=None).fit(challenge)
    X = to_cartesian.transform(challenge)
    for turned in every_augmentation(EventAugmenter(random_state=0).fit(X), X):
        assert_same_physics(to_cartesian.inverse_transform(turned), expected)


def test_aligned_real_events_do_not_depend_on_the_augmentation(challenge):
    cartesian = CartesianMomenta().fit_transform(challenge)
    for X in (challenge, cartesian):
        aligner = EventAligner().fit(X)
        expected = aligner.transform(X)
        # If the tau is in one plane with the lepton, rounding determines the sign.
        clear = np.abs(np.sin(challenge["PRI_tau_phi"] - challenge["PRI_lep_phi"])) > 1e-6
        for turned in every_augmentation(EventAugmenter(random_state=0).fit(X), X):
            aligned = aligner.transform(turned)
            for name in aligned:
                off = aligned[name] - expected[name]
                if name.endswith("_phi"):
                    off = np.sin(off / 2)
                assert np.nanmax(np.abs(off[clear])) < 1e-9, name


def test_both_representations_turn_alike(cylindrical):
    to_cartesian = CartesianMomenta(missing=None).fit(cylindrical)
    X = to_cartesian.transform(cylindrical)
    one = EventAugmenter(random_state=3).fit(cylindrical).transform(cylindrical)
    other = EventAugmenter(random_state=3).fit(X).transform(X)
    pd.testing.assert_frame_equal(to_cartesian.transform(one), other, rtol=1e-9)


def test_phi_stays_in_range(cylindrical):
    turned = EventAugmenter(random_state=0).fit(cylindrical).transform(cylindrical)
    for name in ("tau_phi", "lep_phi", "met_phi", "jet_phi"):
        phi = turned[name].dropna()
        assert phi.between(-np.pi, np.pi, inclusive="left").all()
        assert np.ptp(phi) > 6


def test_scalars_moduli_and_missing_objects_stay(events):
    turned = EventAugmenter(random_state=0).fit(events).transform(events)
    moving = {"_px", "_py", "_pz", "phi", "eta"}
    untouched = [name for name in events if name[-3:] not in moving]
    assert "n_jets" in untouched
    pd.testing.assert_frame_equal(turned[untouched], events[untouched])
    pd.testing.assert_frame_equal(turned.isna(), events.isna())
    assert (turned.dtypes == events.dtypes).all()
    assert not np.allclose(turned["lep_phi" if "lep_phi" in events else "lep_px"], 0)


def test_zero_momentum_stays_zero(cylindrical):
    X = CartesianMomenta(missing=0.0).fit_transform(cylindrical)
    absent = cylindrical["jet_pt"].isna()
    for turned in every_augmentation(EventAugmenter(random_state=0).fit(X), X):
        assert (turned.loc[absent, ["jet_px", "jet_py", "jet_pz"]] == 0).all(axis=None)


def test_all_objects_of_an_event_turn_by_one_angle(cartesian):
    X = cartesian.drop(columns=["jet_px", "jet_py", "jet_pz"])
    turned = EventAugmenter(flip_y=False, flip_z=False, random_state=0).fit(X).transform(X)
    angles = {}
    for name in ("tau", "lep", "met"):
        before = X[f"{name}_px"] + 1j * X[f"{name}_py"]
        after = turned[f"{name}_px"] + 1j * turned[f"{name}_py"]
        angles[name] = np.angle(after / before)
    np.testing.assert_allclose(np.exp(1j * angles["tau"]), np.exp(1j * angles["lep"]))
    np.testing.assert_allclose(np.exp(1j * angles["tau"]), np.exp(1j * angles["met"]))
    assert len(np.unique(angles["tau"].round(6))) == len(X)


@pytest.mark.parametrize("kind", ["table", "tensor"])
def test_draws_are_uniform_and_independent(cartesian, kind):
    X = pd.concat([cartesian.iloc[:1]] * 20_000)
    augmenter = EventAugmenter(random_state=0).fit(X)
    if kind == "table":
        turned = augmenter.transform(X)
    else:
        tensor = torch.as_tensor(X.to_numpy(np.float32))
        turned = augmenter.transform_tensor(tensor, torch.Generator().manual_seed(0))
        turned = pd.DataFrame(turned.numpy().astype(float), columns=X.columns)
    _, eta, phi = cylindrical_from_cartesian(turned["lep_px"], turned["lep_py"], turned["lep_pz"])
    counts, _ = np.histogram(phi, bins=20, range=(-np.pi, np.pi))
    assert np.abs(counts - 1000).max() < 5 * np.sqrt(1000)
    # The y reflection shows in the sense of rotation from one object to another.
    cross = turned["lep_px"] * turned["tau_py"] - turned["lep_py"] * turned["tau_px"]
    np.testing.assert_allclose([np.mean(eta > 0), np.mean(cross > 0)], 0.5, atol=0.02)
    correlations = np.corrcoef([eta > 0, cross > 0, phi > 0, np.abs(phi) > np.pi / 2])
    np.testing.assert_allclose(correlations, np.eye(4), atol=0.04)


def test_rotation_and_its_inverse_cancel(events):
    augmenter = EventAugmenter(flip_y=False, flip_z=False).fit(events)
    values = torch.as_tensor(events.to_numpy(float))
    uniform = draws(len(events))
    forth = augmenter._random_turn(np, uniform)
    back = augmenter._random_turn(np, -uniform)
    indices = augmenter._indices
    there = augmenter._columns.turn_array(values.numpy(), forth, indices)
    again = augmenter._columns.turn_array(there, back, indices)
    assert not np.allclose(there, values, equal_nan=True)
    np.testing.assert_allclose(again, values, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("index", range(8))
def test_views_are_involutions(events, index):
    """Half a turn and reflections in one axis are their own inverses, and commute."""
    augmenter = EventAugmenter().fit(events)
    X = torch.as_tensor(events.to_numpy(float))
    twice = augmenter.view_tensor(augmenter.view_tensor(X, index), index)
    torch.testing.assert_close(twice, X, equal_nan=True)


@pytest.mark.parametrize("params", [{}, {"rotate": False}, {"n_orientations": 3}])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_all_views_at_once_are_the_same_bits(events, params, dtype):
    augmenter = EventAugmenter(**params).fit(events)
    X = torch.as_tensor(events.to_numpy(float), dtype=dtype)
    before = X.clone()
    expected = torch.cat([augmenter.view_tensor(X, i) for i in range(augmenter.n_views_)])
    torch.testing.assert_close(augmenter.views_tensor(X), expected, equal_nan=True, rtol=0, atol=0)
    torch.testing.assert_close(X, before, equal_nan=True, rtol=0, atol=0)


def test_views_are_eight_distinct_ones_the_first_the_identity(events):
    augmenter = EventAugmenter().fit(events)
    views = list(augmenter.views(events))
    assert len(views) == augmenter.n_views_ == 8
    pd.testing.assert_frame_equal(views[0], events)
    for i, one in enumerate(views):
        for other in views[:i]:
            assert not np.allclose(one, other, equal_nan=True)


@pytest.mark.parametrize(
    ("params", "n_views"),
    [
        ({"rotate": False}, 4),
        ({"flip_y": False}, 4),
        ({"flip_z": False, "flip_y": False}, 2),
        ({"n_orientations": 3}, 12),
        ({"rotate": False, "flip_y": False, "flip_z": False}, 1),
    ],
)
def test_switches(events, params, n_views):
    augmenter = EventAugmenter(**params, random_state=0).fit(events)
    assert augmenter.n_views_ == n_views == len(list(augmenter.views(events)))
    turned = augmenter.transform(events)
    eta, phi = ("lep_eta", "lep_phi") if "lep_eta" in events else ("lep_pz", "lep_px")
    assert np.allclose(turned[eta], events[eta]) != augmenter.flip_z
    assert np.allclose(turned[phi].abs(), events[phi].abs()) != augmenter.rotate


def test_transform_is_seeded(events):
    augmenter = EventAugmenter(random_state=1).fit(events)
    pd.testing.assert_frame_equal(augmenter.transform(events), augmenter.transform(events))
    other = augmenter.set_params(random_state=2).transform(events)
    assert not np.allclose(
        other, EventAugmenter(random_state=1).fit(events).transform(events), equal_nan=True
    )
    rng = np.random.RandomState(0)
    first = augmenter.set_params(random_state=rng).transform(events)
    assert not np.allclose(first, augmenter.transform(events), equal_nan=True)


def test_global_random_states_do_not_change(events):
    augmenter = EventAugmenter().fit(events)
    numpy_state, torch_state = np.random.get_state()[1].copy(), torch.random.get_rng_state()  # noqa: NPY002
    one, other = augmenter.transform(events), augmenter.transform(events)
    augmenter.transform_tensor(torch.zeros(5, events.shape[1]), torch.Generator().manual_seed(0))
    assert np.array_equal(numpy_state, np.random.get_state()[1])  # noqa: NPY002
    assert torch.equal(torch_state, torch.random.get_rng_state())
    assert not np.allclose(one, other, equal_nan=True)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_tensors_and_tables_turn_alike(events, dtype):
    augmenter = EventAugmenter().fit(events)
    uniform = draws(len(events))
    values = events.to_numpy(float)
    expected = augmenter._columns.turn_table(events, values, augmenter._random_turn(np, uniform))
    X = torch.as_tensor(values, dtype=dtype)
    turn = augmenter._random_turn(torch, torch.as_tensor(uniform, dtype=dtype))
    got = augmenter._columns.turn_array(X, turn, augmenter._tensor_indices(X))
    tolerance = 2e-4 if dtype == torch.float32 else 1e-10
    assert_equal_up_to_turns(got.numpy(), expected, tolerance)
    for index, view in enumerate(augmenter.views(events)):
        assert_equal_up_to_turns(augmenter.view_tensor(X, index).numpy(), view, tolerance)


def assert_equal_up_to_turns(got, expected, tolerance):
    """Compare events, with -pi the same as pi."""
    off = got - expected.to_numpy()
    phi = [name.endswith("_phi") for name in expected]
    off[:, phi] = 2 * np.sin(off[:, phi] / 2)
    assert np.array_equal(np.isnan(got), np.isnan(expected.to_numpy()))
    assert np.nanmax(np.abs(off)) < tolerance


def test_tensor_batches_of_members(events):
    augmenter = EventAugmenter().fit(events)
    X = torch.as_tensor(events.to_numpy(np.float32)).reshape(4, 50, -1)
    before = X.clone()
    generator = torch.Generator().manual_seed(0)
    turned = augmenter.transform_tensor(X, generator)
    assert turned.shape == X.shape
    assert turned.dtype == torch.float32
    assert turned.data_ptr() != X.data_ptr()
    torch.testing.assert_close(X, before, equal_nan=True, rtol=0, atol=0)
    again = augmenter.transform_tensor(X, torch.Generator().manual_seed(0))
    torch.testing.assert_close(turned, again, equal_nan=True, rtol=0, atol=0)
    assert not torch.equal(
        turned.nan_to_num(), augmenter.transform_tensor(X, generator).nan_to_num()
    )
    # Rows of different members that hold the same event are turned differently.
    same = X[:1].expand(4, 50, -1)
    turned = augmenter.transform_tensor(same, generator).nan_to_num()
    assert not torch.allclose(turned[0], turned[1])


def test_view_zero_is_exact_and_half_a_turn_mirrors_exactly(cartesian):
    augmenter = EventAugmenter().fit(cartesian)
    X = torch.as_tensor(cartesian.to_numpy(np.float32))
    torch.testing.assert_close(augmenter.view_tensor(X, 0), X, equal_nan=True, rtol=0, atol=0)
    columns = [cartesian.columns.get_loc(name) for name in ("lep_px", "lep_py")]
    assert torch.equal(augmenter.view_tensor(X, 4)[:, columns], -X[:, columns])


def test_tensor_errors(events):
    augmenter = EventAugmenter().fit(events)
    with pytest.raises(ValueError, match="X has 3 features, but EventAugmenter is expecting"):
        augmenter.view_tensor(torch.zeros(5, 3), 0)
    with pytest.raises(IndexError, match="8 views"):
        augmenter.view_tensor(torch.zeros(5, events.shape[1]), 8)


@pytest.mark.cuda
def test_cuda_agrees_with_cpu_and_is_captured_in_a_graph(events):
    augmenter = EventAugmenter().fit(events)
    X = torch.as_tensor(events.to_numpy(np.float32))
    on_gpu = X.cuda()
    for index in range(augmenter.n_views_):
        view = augmenter.view_tensor(on_gpu, index).cpu()
        torch.testing.assert_close(view, augmenter.view_tensor(X, index), equal_nan=True)
    generator = torch.Generator("cuda").manual_seed(0)
    side = torch.cuda.Stream()
    with torch.cuda.stream(side):
        augmenter.transform_tensor(on_gpu, generator)
    torch.cuda.current_stream().wait_stream(side)
    graph = torch.cuda.CUDAGraph()
    graph.register_generator_state(generator)
    with torch.cuda.graph(graph):
        captured = augmenter.transform_tensor(on_gpu, generator)
    generator.manual_seed(5)
    graph.replay()
    eager = augmenter.transform_tensor(on_gpu, torch.Generator("cuda").manual_seed(5))
    torch.testing.assert_close(captured, eager, equal_nan=True, rtol=0, atol=0)
    graph.replay()
    assert not torch.equal(captured.nan_to_num(), eager.nan_to_num())
    assert pickle.loads(pickle.dumps(augmenter))._indices_on == {}


def test_can_be_compiled_without_graph_breaks(cartesian):
    augmenter = EventAugmenter().fit(cartesian)
    X = torch.as_tensor(cartesian.to_numpy(np.float32)).nan_to_num()
    augmenter.view_tensor(X, 0)
    compiled = torch.compile(lambda x: augmenter.view_tensor(x, 5), backend="eager", fullgraph=True)
    torch.testing.assert_close(compiled(X), augmenter.view_tensor(X, 5))


def test_arrays_with_given_names(events):
    values = events.to_numpy(float)
    augmenter = EventAugmenter(columns=list(events), random_state=0).fit(values)
    turned = augmenter.transform(values)
    assert isinstance(turned, np.ndarray)
    expected = EventAugmenter(random_state=0).fit(events).transform(events)
    np.testing.assert_allclose(turned, expected)
    assert list(augmenter.get_feature_names_out()) == list(events)
    single = values.astype(np.float32)
    assert augmenter.fit(single).transform(single).dtype == np.float32
    out = augmenter.set_output(transform="pandas").fit_transform(values)
    assert list(out) == list(events)


def test_copies(events, tmp_path):
    augmenter = EventAugmenter(n_orientations=4, random_state=0).fit(events)
    augmenter.view_tensor(torch.zeros(2, events.shape[1]), 0)
    assert augmenter._indices_on
    joblib.dump(augmenter, tmp_path / "augmenter")
    stored = joblib.load(tmp_path / "augmenter")
    for twin in (pickle.loads(pickle.dumps(augmenter)), copy.deepcopy(augmenter), stored):
        assert twin._indices_on == {}
        pd.testing.assert_frame_equal(twin.transform(events), augmenter.transform(events))
        assert twin.view_tensor(torch.zeros(2, events.shape[1]), 1).shape == (2, events.shape[1])
    assert clone(augmenter).get_params() == augmenter.get_params()


def test_no_momenta_warns():
    X = np.ones((3, 2))
    with pytest.warns(UserWarning, match=r"found no momenta.*give them as columns"):
        augmenter = EventAugmenter().fit(X)
    np.testing.assert_array_equal(augmenter.transform(X), X)
    with pytest.warns(UserWarning, match="found no momenta"):
        EventAugmenter().fit(pd.DataFrame(X, columns=["mass", "delta_phi"]))


@pytest.mark.parametrize(
    ("names", "named"),
    [
        (["lep_px", "lep_pz", "tau_px", "tau_py"], "'lep_px' has no 'lep_py'"),
        (["lep_py", "tau_px", "tau_py", "mass"], "'lep_py' has no 'lep_px'"),
        (["lep_pt", "lep_eta", "met", "met_phi"], "'lep_pt' has no 'lep_phi'"),
    ],
)
def test_an_incomplete_momentum_is_an_error(names, named):
    with pytest.raises(ValueError, match=named):
        EventAugmenter().fit(pd.DataFrame(np.ones((2, 4)), columns=names))


def test_aligned_events_cannot_be_augmented(events):
    aligned = EventAligner(reference="lep", orient="tau").fit_transform(events)
    with pytest.raises(ValueError, match="after EventAligner"):
        EventAugmenter().fit(aligned)


@pytest.mark.parametrize("bad", [0, 1.5, "two", None])
def test_bad_number_of_orientations(events, bad):
    with pytest.raises(ValueError, match="n_orientations must be an integer of at least 1"):
        EventAugmenter(n_orientations=bad).fit(events)


def test_bad_input(events):
    augmenter = EventAugmenter().fit(events)
    with pytest.raises(ValueError, match="feature names should match"):
        augmenter.transform(events.rename(columns={"mass": "weight"}))
    with pytest.raises(ValueError, match="infinity"):
        augmenter.transform(events.replace({"mass": {events["mass"].iloc[0]: np.inf}}))
    with pytest.raises(ValueError, match=r"numeric columns, got 'kind' \((object|str)\)"):
        EventAugmenter().fit(events.assign(kind="s"))
    with pytest.raises(ValueError, match="feature names should match"):
        next(augmenter.views(events.iloc[:, :3]))
    with pytest.raises(ValueError, match=r"columns has 2 names, but X has"):
        EventAugmenter(columns=["a", "b"]).fit(events.to_numpy(float))
    with pytest.raises(ValueError, match="columns differs from the names that X has itself"):
        EventAugmenter(columns=[f"c{i}" for i in range(events.shape[1])]).fit(events)
    with pytest.raises(ValueError, match=r"must be unique, these repeat: \['e_px'\]"):
        EventAugmenter(columns=["e_px", "e_px"]).fit(np.ones((2, 2)))


def test_labels_stay_as_categories(events):
    X = events.assign(channel=pd.Categorical(["e", "mu"] * 100))
    turned = EventAugmenter(random_state=0).fit_transform(X)
    pd.testing.assert_series_equal(turned["channel"], X["channel"])
    plain = EventAugmenter(random_state=0).fit_transform(events)
    pd.testing.assert_frame_equal(turned.drop(columns="channel"), plain)
