import math

import numpy as np
import pytest
import torch
import vector

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
    # The transverse mass is the mass of the pair projected to the transverse plane.
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
