import pickle

import numpy as np
import pytest
import torch
from torch import nn

from skhep_nn.ensemble import Ensemble, stack_networks
from skhep_nn.networks import CaloCNN, DenseNet
from skhep_nn.networks.stacks import stacked_state


class Small(nn.Module):
    """An ordinary module that knows nothing of members: one runs after the other."""

    def __init__(self, n_inputs=3, n_outputs=2):
        super().__init__()
        self.layers = nn.Sequential(nn.Linear(n_inputs, 5), nn.Tanh(), nn.Linear(5, n_outputs))

    def forward(self, x):
        return self.layers(x)


def ensemble(network=DenseNet, n_members=4, weights=(1, 2, 3, 4), **params):
    params = {"n_features": 3, "n_outputs": 2} | params if network is DenseNet else params
    members = []
    for seed in range(n_members):
        torch.manual_seed(seed)
        member = network(**params)
        if isinstance(member, DenseNet):
            member.reset_parameters(torch.Generator().manual_seed(seed))
        members.append(member)
    state = stacked_state(stack_networks(members))
    return Ensemble.from_stack(network, params, state, weights), members


@pytest.fixture
def rows():
    return np.random.default_rng(0).normal(size=(5000, 3)).astype(np.float32)


@pytest.mark.parametrize("network", [DenseNet, Small])
@pytest.mark.parametrize("link", ["identity", "sigmoid", "softmax"])
def test_predict_is_the_weighted_mean_of_the_members(network, link, rows):
    fitted, members = ensemble(network)
    apply = {"identity": lambda t: t, "sigmoid": torch.sigmoid, "softmax": lambda t: t.softmax(-1)}
    with torch.no_grad():
        outputs = [apply[link](m(torch.from_numpy(rows))).numpy() for m in members]
    expected = np.average(outputs, axis=0, weights=[1, 2, 3, 4])
    np.testing.assert_allclose(fitted.predict(rows, link=link), expected, rtol=1e-4, atol=1e-6)


def test_a_prediction_does_not_depend_on_chunk_place_or_stacking(rows):
    """Bitwise: lanes of whole vectors see to it."""
    fitted, _ = ensemble()
    whole = fitted.predict(rows)
    for chunk_size in (1, 7, 32, 1000, 5000):
        few = rows[: 40 * chunk_size]
        np.testing.assert_array_equal(fitted.predict(few, chunk_size=chunk_size), whole[: len(few)])
    np.testing.assert_array_equal(fitted.predict(rows[::-1])[::-1], whole)
    x = torch.from_numpy(rows[:100])
    with torch.inference_mode():
        stacked = fitted.predict_members(x, stacked=True)
        alone = fitted.predict_members(x, stacked=False)
    assert torch.equal(stacked, alone)


@pytest.mark.parametrize("width", [2, 7, 12, 13])
def test_narrow_networks_and_views_round_alike_too(width):
    """Where torch changes to other loops for small products and short sums."""

    class Mirror:
        n_views_ = 8

        def view_tensor(self, X, index):
            return X * (-1) ** index * (1 + index)

    fitted, _ = ensemble(n_features=width, n_outputs=1)
    rows = np.random.default_rng(0).normal(size=(300, width)).astype(np.float32)
    whole = fitted.predict(rows, link="sigmoid", views=Mirror())
    for start, stop in ((0, 1), (5, 6), (3, 20), (7, 39), (10, 43), (100, 299), (1, 300)):
        part = fitted.predict(rows[start:stop], link="sigmoid", views=Mirror())
        np.testing.assert_array_equal(part, whole[start:stop])


@pytest.mark.parametrize(
    ("n_rows", "n_calls"), [(1, 1), (128, 1), (129, 8)], ids=["one", "few", "many"]
)
def test_few_rows_are_predicted_with_all_their_views_at_once(n_rows, n_calls, monkeypatch):
    """Counted work: a call costs as much for one row as for thirty."""

    class Shifted:
        n_views_ = 8

        def view_tensor(self, X, index):
            return X + index

    fitted, _ = ensemble(n_features=3, n_outputs=1)
    plain, sizes = fitted.predict_members, []

    def counted(X, **kwargs):
        sizes.append(len(X))
        return plain(X, **kwargs)

    monkeypatch.setattr(fitted, "predict_members", counted)
    fitted.predict(np.zeros((n_rows, 3), dtype=np.float32), views=Shifted())
    assert sizes == [8 * n_rows // n_calls] * n_calls


def test_views_are_averaged_after_the_link(rows):
    class Mirror:
        n_views_ = 2

        def view_tensor(self, X, index):
            return X if index == 0 else -X

    fitted, _ = ensemble()
    both = (fitted.predict(rows, link="sigmoid") + fitted.predict(-rows, link="sigmoid")) / 2
    np.testing.assert_allclose(
        fitted.predict(rows, link="sigmoid", views=Mirror()), both, rtol=1e-6, atol=1e-7
    )


class Scaled:
    """Views that differ much."""

    n_views_ = 3

    def view_tensor(self, X, index):
        return X * (1 + index)


@pytest.mark.parametrize("network", [DenseNet, Small])
@pytest.mark.parametrize("views", [None, Scaled()], ids=["no views", "views"])
@pytest.mark.parametrize("link", ["sigmoid", "softmax"])
def test_logarithms_are_of_the_mean_probability(network, views, link, rows):
    """On every path: in one chunk and in many, stacked and one after the other, few rows and many."""
    n_outputs = 1 if link == "sigmoid" else 3
    fitted, _ = ensemble(network, weights=(1, 2, 0, 4), n_outputs=n_outputs)
    mean = fitted.predict(rows, link=link, views=views)
    if link == "sigmoid":
        mean = np.hstack([1 - mean, mean])
    logs = fitted.predict(rows, link=f"log_{link}", views=views)
    assert logs.dtype == np.float64
    np.testing.assert_allclose(np.exp(logs), mean, rtol=1e-5, atol=1e-7)
    np.testing.assert_allclose(np.exp(logs).sum(1), 1, rtol=1e-14)
    for n_rows, chunk_size in ((3, None), (700, 64)):
        again = fitted.predict(
            rows[:n_rows], link=f"log_{link}", views=views, chunk_size=chunk_size
        )
        np.testing.assert_allclose(again, logs[:n_rows], atol=2e-6)


@pytest.mark.parametrize("link", ["sigmoid", "softmax"])
def test_logarithms_do_not_saturate(link, rows):
    fitted, members = ensemble(Small, weights=(1, 2, 3, 4), n_outputs=1 if link == "sigmoid" else 2)
    some = torch.from_numpy(rows[:50])
    fitted.states["layers.2.bias"][:, -1] += 40
    with torch.no_grad():
        outputs = torch.stack([member(some) for member in members]).double()
    outputs[..., -1] += 40
    if link == "sigmoid":
        outputs = torch.cat([torch.zeros_like(outputs), outputs], dim=-1)
    shares = torch.tensor([0.1, 0.2, 0.3, 0.4], dtype=torch.float64).log()[:, None, None]
    expected = (outputs.log_softmax(-1) + shares).logsumexp(0)
    logs = fitted.predict(some, link=f"log_{link}")
    np.testing.assert_allclose(logs, expected, rtol=1e-6, atol=1e-15)
    assert (np.exp(logs)[:, 1] == 1).all()
    assert len(np.unique(logs[:, 0])) > 40


def test_a_diverged_member_is_left_out_of_logarithms(rows):
    fitted, _ = ensemble(weights=(1, 0, 1, 1))
    fitted.states["output.weight"][1] = np.nan
    assert np.isfinite(fitted.predict(rows, link="log_softmax")).all()


def test_logarithms_in_half_precision_are_summed_in_double(rows):
    fitted, _ = ensemble(Small)
    logs = fitted.predict(rows[:100], link="log_softmax", autocast=torch.bfloat16)
    assert logs.dtype == np.float64
    np.testing.assert_allclose(np.exp(logs).sum(1), 1, rtol=1e-14)


def test_ordinary_modules_train_each_by_its_own_gradient():
    _, members = ensemble(Small)
    stack = stack_networks(members)
    x = torch.randn(4, 6, 3)
    stack(x).square().sum().backward()
    for k, member in enumerate(members):
        member(x[k]).square().sum().backward()
        own = dict(stack.members[k].named_parameters())
        for name, parameter in member.named_parameters():
            torch.testing.assert_close(own[name].grad, parameter.grad)
            assert torch.equal(stacked_state(stack)[name][k], parameter)


def test_pickle_holds_numpy_only_and_predicts_the_same(rows):
    fitted, _ = ensemble()
    before = fitted.predict(rows)
    data = pickle.dumps(fitted)
    assert b"torch._utils" not in data
    assert b"torch.storage" not in data
    np.testing.assert_array_equal(pickle.loads(data).predict(rows), before)


def test_members_are_ordinary_modules(rows):
    fitted, members = ensemble()
    x = torch.from_numpy(rows[:64])
    assert torch.equal(fitted.member(2)(x), members[2].eval()(x))
    assert fitted.n_parameters == sum(p.numel() for p in members[0].parameters())
    assert len(fitted) == 4
    assert repr(fitted).startswith("Ensemble(4 x DenseNet")


@pytest.mark.parametrize("weights", [[1, 2], [0, 0, 0, 0], [1, 1, 1, np.nan], [-1, 1, 1, 1]])
def test_bad_weights(weights):
    with pytest.raises(ValueError, match="weights"):
        ensemble(weights=weights)


def test_states_of_different_ensembles_are_refused():
    with pytest.raises(ValueError, match="do not belong together"):
        Ensemble(nn.Linear, {}, {"weight": np.zeros((2, 1, 3)), "bias": np.zeros((3, 1))})


def test_members_that_run_one_after_the_other_are_held_once():
    """A convolutional network is large: stack and single members share its parameters."""
    params = {"image_shape": (8, 8, 1), "n_outputs": 1}
    network = CaloCNN(**params)
    states = {k: np.stack([v.numpy()] * 2) for k, v in network.state_dict().items()}
    ensemble = Ensemble(CaloCNN, params, states)
    before = ensemble.predict(np.ones((3, 8, 8, 1), dtype=np.float32))
    runtime = ensemble._ready(torch.device("cpu"))
    for alone, stacked in zip(runtime.members, runtime.stack.members, strict=True):
        assert alone is stacked
    np.testing.assert_array_equal(ensemble.predict(np.ones((3, 8, 8, 1), dtype=np.float32)), before)
