"""Kinematics of collider events as pure functions.

The functions take and return numpy arrays (numbers and lists are converted) or torch tensors, broadcast
and keep type and device. NaN stands for a missing object and stays NaN.
"""

from __future__ import annotations

import math

from skhep_nn.kinematics.momenta import Array, as_arrays, wrap_angle

__all__ = [
    "cartesian_from_cylindrical",
    "cylindrical_from_cartesian",
    "delta_phi",
    "delta_r",
    "eta_centrality",
    "invariant_mass",
    "phi_centrality",
    "transverse_mass",
]


def cartesian_from_cylindrical(pt: Array, eta: Array, phi: Array) -> tuple[Array, Array, Array]:
    """Compute the Cartesian components of a momentum.

    Parameters
    ----------
    pt, eta, phi : arrays
        Transverse momentum (GeV by custom), pseudorapidity and azimuth (radians).

    Returns
    -------
    px, py, pz : arrays
        Components in the unit of `pt`; z is the beam axis.

    Examples
    --------
    >>> [round(float(p), 3) for p in cartesian_from_cylindrical(50.0, 0.0, 0.5)]
    [43.879, 23.971, 0.0]
    """
    xp, (pt, eta, phi) = as_arrays(pt, eta, phi)
    return pt * xp.cos(phi), pt * xp.sin(phi), pt * xp.sinh(eta)


def cylindrical_from_cartesian(px: Array, py: Array, pz: Array) -> tuple[Array, Array, Array]:
    """Compute the transverse momentum, pseudorapidity and azimuth of a momentum.

    Parameters
    ----------
    px, py, pz : arrays
        Components in any unit; z is the beam axis.

    Returns
    -------
    pt, eta, phi : arrays
        Azimuth is in [-pi, pi), eta infinite along the beam; a zero momentum is (0, 0, 0).

    Examples
    --------
    >>> [round(float(p), 3) for p in cylindrical_from_cartesian(3.0, 4.0, 0.0)]
    [5.0, 0.0, 0.927]
    """
    xp, (px, py, pz) = as_arrays(px, py, pz)
    pt = xp.hypot(px, py)
    along_beam = pt == 0
    at_rest = pz == 0
    ratio = pz / xp.where(along_beam, 1.0, pt)
    # Infinity is reached without 0 * inf, which would warn and turn zero momenta into NaN.
    limit = xp.where(at_rest, 0.0, xp.where(at_rest, 1.0, pz) * math.inf)
    eta = xp.where(along_beam, limit, xp.arcsinh(ratio))
    phi = xp.where(along_beam, 0.0, xp.arctan2(py, px))
    return pt, eta[()], wrap_angle(xp, phi)[()]


def delta_phi(phi1: Array, phi2: Array) -> Array:
    """Signed difference of two azimuths, ``phi1 - phi2``, in [-pi, pi).

    Parameters
    ----------
    phi1, phi2 : arrays
        Angles in radians, of any size.

    Returns
    -------
    array
        The difference in radians.

    Examples
    --------
    >>> round(float(delta_phi(3.0, -3.0)), 3)
    -0.283
    """
    xp, (phi1, phi2) = as_arrays(phi1, phi2)
    return wrap_angle(xp, phi1 - phi2)[()]


def delta_r(eta1: Array, phi1: Array, eta2: Array, phi2: Array) -> Array:
    """Distance of two directions in the plane of pseudorapidity and azimuth.

    Parameters
    ----------
    eta1, phi1, eta2, phi2 : arrays
        Pseudorapidities, and azimuths in radians.

    Returns
    -------
    array
        ``sqrt((eta1 - eta2)**2 + delta_phi(phi1, phi2)**2)``.

    Examples
    --------
    >>> round(float(delta_r(0.3, 0.1, 0.0, 0.5)), 3)
    0.5
    """
    xp, (eta1, phi1, eta2, phi2) = as_arrays(eta1, phi1, eta2, phi2)
    return xp.hypot(eta1 - eta2, wrap_angle(xp, phi1 - phi2))


def invariant_mass(
    pt1: Array, eta1: Array, phi1: Array, pt2: Array, eta2: Array, phi2: Array
) -> Array:
    """Invariant mass of two massless particles.

    Written as ``2 sqrt(pt1 pt2 (sinh(d_eta / 2)**2 + sin(d_phi / 2)**2))``, which stays accurate
    for nearly collinear particles, where the usual ``cosh(d_eta) - cos(d_phi)`` cancels.

    Parameters
    ----------
    pt1, eta1, phi1, pt2, eta2, phi2 : arrays
        Transverse momentum, pseudorapidity and azimuth (radians) of each particle.

    Returns
    -------
    array
        Mass, in the unit of the transverse momenta.

    Examples
    --------
    >>> round(float(invariant_mass(45.0, 0.0, 0.0, 45.0, 0.0, 3.14159)), 3)
    90.0
    """
    xp, (pt1, eta1, phi1, pt2, eta2, phi2) = as_arrays(pt1, eta1, phi1, pt2, eta2, phi2)
    opening = xp.hypot(xp.sinh((eta1 - eta2) / 2), xp.sin((phi1 - phi2) / 2))
    return 2 * xp.sqrt(pt1) * xp.sqrt(pt2) * opening


def transverse_mass(pt1: Array, phi1: Array, pt2: Array, phi2: Array) -> Array:
    """Transverse mass of two massless particles, or of one particle and the missing momentum.

    Parameters
    ----------
    pt1, phi1, pt2, phi2 : arrays
        Transverse momentum and azimuth (radians) of each particle.

    Returns
    -------
    array
        ``sqrt(2 pt1 pt2 (1 - cos(phi1 - phi2)))``, in the unit of the momenta.

    Examples
    --------
    >>> round(float(transverse_mass(40.0, 0.0, 40.0, 3.14159)), 3)
    80.0
    """
    xp, (pt1, phi1, pt2, phi2) = as_arrays(pt1, phi1, pt2, phi2)
    return 2 * xp.sqrt(pt1) * xp.sqrt(pt2) * xp.abs(xp.sin((phi1 - phi2) / 2))


def phi_centrality(phi: Array, phi_a: Array, phi_b: Array) -> Array:
    r"""How central a direction lies between two others in azimuth.

    :math:`(A + B) / \sqrt{A^2 + B^2}` with :math:`A = \sin(\phi - \phi_a)\, s`,
    :math:`B = \sin(\phi_b - \phi)\, s`, :math:`s = \mathrm{sign} \sin(\phi_b - \phi_a)`:
    ``DER_met_phi_centrality`` of the ATLAS Higgs challenge (appendix B of its documentation,
    C. Adam-Bourdarios et al., 2014) for the missing momentum between lepton and tau.

    Parameters
    ----------
    phi, phi_a, phi_b : arrays
        Azimuths (radians) of the direction and of the two others, in any order.

    Returns
    -------
    array
        sqrt(2) on the bisector, 1 on either of the two directions, -sqrt(2) opposite to the bisector; 0
        if the two are the same. If they are opposite, the sign is determined by rounding.

    Examples
    --------
    >>> round(float(phi_centrality(0.5, 0.0, 1.0)), 3)
    1.414
    """
    xp, (phi, phi_a, phi_b) = as_arrays(phi, phi_a, phi_b)
    side = xp.sign(xp.sin(phi_b - phi_a))
    from_a = xp.sin(phi - phi_a) * side
    to_b = xp.sin(phi_b - phi) * side
    norm = xp.hypot(from_a, to_b)
    return (from_a + to_b) / xp.where(norm == 0, 1.0, norm)


def eta_centrality(eta: Array, eta_a: Array, eta_b: Array) -> Array:
    r"""How central a direction lies between two others in pseudorapidity.

    :math:`\exp[-4 (\eta - \bar\eta)^2 / (\eta_a - \eta_b)^2]` with :math:`\bar\eta` the mean of
    :math:`\eta_a` and :math:`\eta_b`: ``DER_lep_eta_centrality`` of the ATLAS Higgs challenge
    (source as for `phi_centrality`) for the lepton between the two leading jets.

    Parameters
    ----------
    eta, eta_a, eta_b : arrays
        Pseudorapidities of the direction and of the two others, in any order.

    Returns
    -------
    array
        1 in the middle, 1/e on either of the two directions. If these are the same, 1 there and 0
        elsewhere.

    Examples
    --------
    >>> round(float(eta_centrality(1.0, 0.0, 1.0)), 3)
    0.368
    """
    xp, (eta, eta_a, eta_b) = as_arrays(eta, eta_a, eta_b)
    gap = eta_a - eta_b
    offset = 2 * eta - eta_a - eta_b
    same = gap == 0
    inside = xp.exp(-((offset / xp.where(same, 1.0, gap)) ** 2))
    # NaN compares unequal to zero but must come out as NaN: the product keeps it.
    apart = xp.where(offset == 0, 1.0, 0.0 * offset)
    return xp.where(same, apart, inside)[()]
