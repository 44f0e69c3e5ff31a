"""Kinematics of collider events: pure formulas, then transformers of whole tables.

The formulas take and return numpy arrays (of numbers and lists, too) or torch tensors, broadcast
like them and keep type and device. NaN stands for an object that is not there and stays NaN.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from numbers import Real
from typing import Any, ClassVar

from skhep_nn import _momenta
from skhep_nn._events import EventTransformer, Names
from skhep_nn._momenta import Array, as_arrays, wrap_angle
from skhep_nn._public import public
from skhep_nn._stored_frames import PlainState, Rebuilds, each, one

__all__ = [
    "CartesianMomenta",
    "EventAligner",
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
    """Momentum in Cartesian components.

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
    """Momentum as transverse momentum, pseudorapidity and azimuth.

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
    slope = pz / xp.where(along_beam, 1.0, pt)
    # Infinity is reached without 0 * inf, which would warn and turn zero momenta into NaN.
    limit = xp.where(at_rest, 0.0, xp.where(at_rest, 1.0, pz) * math.inf)
    eta = xp.where(along_beam, limit, xp.arcsinh(slope))
    phi = xp.where(along_beam, 0.0, xp.arctan2(py, px))
    return pt, eta[()], wrap_angle(xp, phi)[()]


def delta_phi(phi1: Array, phi2: Array) -> Array:
    """Signed difference of two azimuths, ``phi1 - phi2``, in [-pi, pi).

    Parameters
    ----------
    phi1, phi2 : arrays
        Angles in radians, not necessarily in one turn.

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
        Transverse momentum, pseudorapidity and azimuth (radians) of either particle.

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
    """Transverse mass of two massless particles, or of one and missing momentum.

    Parameters
    ----------
    pt1, phi1, pt2, phi2 : arrays
        Transverse momentum and azimuth (radians) of either.

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
    r"""How well a direction lies between two others in azimuth.

    :math:`(A + B) / \sqrt{A^2 + B^2}` with :math:`A = \sin(\phi - \phi_a)\, s`,
    :math:`B = \sin(\phi_b - \phi)\, s`, :math:`s = \mathrm{sign} \sin(\phi_b - \phi_a)`:
    ``DER_met_phi_centrality`` of the ATLAS Higgs challenge (appendix B of its documentation,
    C. Adam-Bourdarios et al., 2014) for the missing momentum between lepton and tau.

    Parameters
    ----------
    phi, phi_a, phi_b : arrays
        Azimuths (radians) of the direction in question and of the two others, in any order.

    Returns
    -------
    array
        sqrt(2) on the bisector, 1 on either of the two, -sqrt(2) opposite to the bisector; 0 where
        the two are the same. Where they are opposite, the sign is a matter of rounding.

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
        Pseudorapidities of the direction in question and of the two others, in any order.

    Returns
    -------
    array
        1 in the middle, 1/e on either of the two; where these are the same, 1 there, else 0.

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


@public("skhep_nn")
class CartesianMomenta(PlainState, EventTransformer):
    """Turn momenta from (pt, eta, phi) to (px, py, pz), and fill in what is missing.

    Networks do better with Cartesian components, since azimuth is cyclic (section 2 of
    arXiv:2002.01427). Momenta are found by name: ``<object>_pt``, ``_eta``, ``_phi`` become
    ``<object>_px``, ``_py``, ``_pz`` where they stood. A transverse one (missing momentum), with
    modulus ``<object>`` or ``<object>_pt`` and ``<object>_phi`` but no ``_eta``, keeps the modulus
    and gets ``<object>_px``, ``_py`` in place of the azimuth. All other columns pass unchanged.

    Parameters
    ----------
    missing : float or None, default=0.0
        What takes the place of NaN, in every column. None leaves NaN.
    columns : sequence of str, default=None
        Names of the columns, where X is an array. A DataFrame has its own.

    Attributes
    ----------
    n_features_in_, feature_names_in_ : int, ndarray of str
        Number of the columns seen in `fit`, and their names where X had any.

    Examples
    --------
    >>> import pandas as pd
    >>> events = pd.DataFrame({"lep_pt": [50.0], "lep_eta": 0.0, "lep_phi": 0.0, "mass": None})
    >>> CartesianMomenta().fit_transform(events.astype(float))
       lep_px  lep_py  lep_pz  mass
    0    50.0     0.0     0.0   0.0
    """

    _rebuild: ClassVar[Rebuilds] = {"_layout": one(_momenta.CartesianLayout.rebuilt)}

    def __init__(
        self, *, missing: float | None = 0.0, columns: Sequence[str] | None = None
    ) -> None:
        self.missing = missing
        self.columns = columns

    def _prepare(self, names: list[str]) -> Sequence[_momenta.Momentum]:
        """Lay out the columns to come."""
        missing: Any = self.missing
        if missing is not None and (not isinstance(missing, Real) or math.isinf(missing)):
            raise ValueError(f"missing must be a finite number or None, got {missing!r}.")
        self._layout = _momenta.CartesianLayout.of(names, self.n_features_in_)
        return self._layout.momenta

    def transform(self, X: Any) -> Any:
        """Turn the momenta to Cartesian components.

        Parameters
        ----------
        X : DataFrame or array of shape (n_samples, n_features)
            Events. NaN is a quantity that is not there.

        Returns
        -------
        DataFrame or ndarray of shape (n_samples, n_features_out)
            In the container that came in; momenta in their unit.
            Negative or infinite ones, which -999 for "missing" makes, are a ValueError.
        """
        table, values = self.read(X)
        made = self._layout.forward(table, values, cartesian_from_cylindrical, self.missing)
        return self._layout.label(made, table, self.get_feature_names_out())

    def inverse_transform(self, X: Any) -> Any:
        """Turn the momenta back to (pt, eta, phi).

        Parameters
        ----------
        X : DataFrame or array of shape (n_samples, n_features_out)
            What `transform` gave.

        Returns
        -------
        DataFrame or ndarray of shape (n_samples, n_features)
            The columns seen in `fit`; what was filled in stays so.
        """
        table, values = self.read_output(X)
        made = self._layout.backward(table, values, cylindrical_from_cartesian)
        return self._layout.label(made, table, self._names_in())

    def _names_out(self, names_in: Names) -> Names:
        return self._layout.names(names_in)


@public("skhep_nn")
class EventAligner(PlainState, EventTransformer):
    """Turn all events to one orientation.

    Rotates every event in azimuth and reflects it in z, so that the reference has phi = 0 and
    eta >= 0, then reflects it in y, so that a second object has positive phi (section 3.4.2 of
    arXiv:2002.01427). The column now constant, ``<reference>_py`` or ``<reference>_phi``, is
    dropped. Momenta are found by name in either form, as in `EventAugmenter`, the alternative.

    Parameters
    ----------
    reference : str, default="PRI_lep"
        Object turned to phi = 0. An event without it (NaN) is not rotated.
    orient : str, default="PRI_tau"
        Object that decides the reflection in y, and in z where the reference has eta = 0.
    columns : sequence of str, default=None
        Names of the columns, where X is an array. A DataFrame has its own.

    Attributes
    ----------
    n_features_in_, feature_names_in_ : int, ndarray of str
        Number of the columns seen in `fit`, and their names where X had any.

    Examples
    --------
    >>> import pandas as pd
    >>> events = pd.DataFrame({"e_px": [0.0], "e_py": 5.0, "e_pz": -1.0, "t_px": 2.0, "t_py": 1.0})
    >>> EventAligner(reference="e", orient="t").fit_transform(events).round(3)
       e_px  e_pz  t_px  t_py
    0   5.0   1.0   1.0   2.0
    """

    _rebuild: ClassVar[Rebuilds] = {
        "_columns": one(_momenta.MomentumColumns),
        "_objects": each(_momenta.Momentum),
    }

    def __init__(
        self,
        *,
        reference: str = "PRI_lep",
        orient: str = "PRI_tau",
        columns: Sequence[str] | None = None,
    ) -> None:
        self.reference = reference
        self.orient = orient
        self.columns = columns

    def _prepare(self, names: list[str]) -> Sequence[_momenta.Momentum]:
        """Find the columns to turn, the two objects and the column to drop."""
        momenta = _momenta.find_complete(names)
        self._columns = _momenta.MomentumColumns.of(momenta)
        roles = {"reference": self.reference, "orient": self.orient} if momenta else {}
        self._objects = [_momenta.find_object(momenta, *role) for role in roles.items()]
        constant = [momentum.y for momentum in self._objects[:1]]
        self._kept = [i for i in range(self.n_features_in_) if i not in constant]
        return momenta

    def transform(self, X: Any) -> Any:
        """Turn every event to the common orientation.

        Parameters
        ----------
        X : DataFrame or array of shape (n_samples, n_features)
            Events. NaN is an object that is not there.

        Returns
        -------
        DataFrame or ndarray of shape (n_samples, n_features - 1)
            In the container that came in.
        """
        table, values = self.read(X)
        if not self._objects:
            return (values if table is None else table).copy()
        turned = self._columns.turn_table(
            table, values, _momenta.Turn.aligning(values, *self._objects)
        )
        return turned[:, self._kept] if table is None else turned.iloc[:, self._kept]

    def _names_out(self, names_in: Names) -> Names:
        return names_in[self._kept]
